//! The decision: one look-up for each dimension, the conjunction of the masks, the first bit left in each layer.
//!
//! The shape of the code follows the verifier. A global function is verified once, whatever calls it. One flat loop, in
//! which every step takes either the next word of the masks or the next layer, has few enough states; nested loops do not. Values
//! that the compiler knows too much about are hidden from it ([`hide`]), else it drops the bounds that the verifier wants to see.

use aya_ebpf::btf_maps::lpm_trie::Key;
use sockpilot_policy::layout::{
    BREAKERS_OF_ONE, CHOICES_MAX, COMMON_PREFIXES, CONTEXTS, ChoiceEntry, FlowKey, Generation, HANDSHAKE_BOUNDS_MAX,
    HANDSHAKE_PIECES, Hits, IPV6, LAYERS_MAX, MASK_WORDS, MASKS_MAX, PARAMETER_SLOTS, PrefixKey, REGION_SHIFT,
    RULES_MAX, RuleEntry, SKIP_HANDSHAKE, SKIP_LOCAL_PREFIX, SKIP_REMOTE_PREFIX, SLOTS, Stamp, ZONE_RELATIONS,
    ZONE_SHIFT,
};

use crate::{
    arm::{arm, turn},
    maps,
    memory::hide,
};

/// Words, and at most one choice in each layer.
const STEPS: u32 = (MASK_WORDS + LAYERS_MAX) as u32;
/// Choices, and at most one win for each parameter.
const MERGE_STEPS: u32 = (LAYERS_MAX + PARAMETER_SLOTS) as u32;
/// Look-ups of a decision: what has few values together, two prefixes, common prefix, two ports, service.
const DIMENSIONS: usize = 7;
/// Masks that keep the verifier's idea of a position as wide as it ever becomes, so that the states of all steps are equal.
const WORD_RANGE: u64 = 2 * MASK_WORDS as u64 - 1;
const BREAKER_RANGE: u64 = 2 * BREAKERS_OF_ONE as u64 - 1;
/// Places for marks are so many powers of two.
const BREAKER_BITS: u32 = BREAKERS_OF_ONE.trailing_zeros();
const COUNT_RANGE: u64 = 2 * LAYERS_MAX as u64 - 1;

/// The slot in force and the head of its generation.
#[inline(always)]
pub fn in_force() -> Option<(u32, &'static Generation)> {
    let active = maps::ACTIVE.get_ptr(0)?;
    // SAFETY: an element of the map. One load, so that the slot does not change under way.
    let slot = unsafe { (&raw const (*active).slot_plus_one).read_volatile() }.checked_sub(1)?;
    Some((slot, maps::GENERATIONS.get(slot)?))
}

/// Decides over the generation in a slot. `rtt_us` is the handshake's time, 0 while it is not known. Returns the number of
/// choices.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn decide(flow: *const FlowKey, service: u32, slot: u32, rtt_us: u32, hits: *mut Hits) -> i32 {
    if flow.is_null() || hits.is_null() || slot as usize >= SLOTS {
        return 0;
    }
    // SAFETY: checked above, and by the verifier at every access.
    unsafe { search(&*flow, service, slot, rtt_us, hits) }.unwrap_or(0)
}

/// # Safety
/// `hits` must be valid for writing.
#[inline(always)]
unsafe fn search(flow: &FlowKey, service: u32, slot: u32, rtt_us: u32, hits: *mut Hits) -> Option<i32> {
    let head = maps::GENERATIONS.get(slot)?;
    let table = maps::MASKS.get_ptr(slot)?.cast::<u8>();
    let rules = maps::RULES.get_ptr(slot)?.cast::<RuleEntry>();
    let masks = dimensions(flow, service, slot, rtt_us, head, table)?;

    let words = u64::from(head.words);
    // SAFETY: an element of the map. Each is loaded by itself, so that the verifier does not take them for the same number.
    let zero = || unsafe { (&raw const head.zero).read_volatile() };
    let (mut word, mut bits, mut floor, mut count) = (zero() & WORD_RANGE, zero(), zero(), zero() & COUNT_RANGE);
    // Layers that an arm withholds.
    let mut withheld = zero();
    let mut step = 0;
    while step < STEPS {
        step += 1;
        if bits == 0 {
            if word >= words {
                break;
            }
            let at = (hide(word) & (MASK_WORDS as u64 - 1)) as usize;
            bits = u64::MAX;
            let mut dimension = 0;
            while dimension < DIMENSIONS {
                bits &= unsafe { masks[dimension].add(at).read_volatile() };
                dimension += 1;
            }
            let base = word * 64;
            if floor > base {
                bits &= u64::MAX << ((floor - base) & 63);
            }
            word = (hide(word) + 1) & WORD_RANGE;
            continue;
        }
        let rule = (word - 1) * 64 + u64::from(bits.trailing_zeros());
        let entry = unsafe { rules.add((hide(rule) & (RULES_MAX as u64 - 1)) as usize) };
        let out = withheld & unsafe { (&raw const (*entry).layer).read_volatile() };
        if out == 0 {
            // One more than the position of the arm; 0: the bucket is nobody's, or the layer does not act.
            let mut nth = 1;
            if unsafe { (&raw const (*entry).by_bucket).read_volatile() } != 0 {
                nth = hide(u64::from(arm(entry, flow)));
            }
            let lease_ns = unsafe { (&raw const (*entry).lease_ns).read_volatile() };
            let ends_ns = unsafe { (&raw const (*entry).ends_ns).read_volatile() };
            if lease_ns | ends_ns != 0 {
                nth = hide(u64::from(turn(entry, nth as u32)));
            }
            let choice = unsafe { (&raw const (*entry).first_choice).read_volatile() } as u64 + nth.wrapping_sub(1);
            let at = (hide(count) & (LAYERS_MAX as u64 - 1)) as usize;
            unsafe { (&raw mut (*hits).choices).cast::<u16>().add(at).write_volatile(choice as u16) };
            // Without a branch: what was written for nobody is not counted, so the next choice takes its place.
            count = (hide(count) + (nth.wrapping_neg() >> 63)) & COUNT_RANGE;
            // All ones if this arm withholds; without a branch, too.
            let withholding = unsafe { (&raw const (*entry).withholding).read_volatile() } >> (nth & 63) & 1;
            withheld |= unsafe { (&raw const (*entry).withholds).read_volatile() } & withholding.wrapping_neg();
        }
        floor = u64::from(unsafe { (&raw const (*entry).layer_end).read_volatile() });
        if floor >= word * 64 {
            bits = zero();
            word = hide(floor / 64) & WORD_RANGE;
        } else {
            bits &= u64::MAX << (floor & 63);
        }
    }
    unsafe {
        (&raw mut (*hits).install).write_volatile(head.install);
        (&raw mut (*hits).slot).write_volatile(slot);
        (&raw mut (*hits).count).write_volatile(count as u32);
    }
    Some(count as i32)
}

/// The mask of each dimension.
#[inline(always)]
fn dimensions(
    flow: &FlowKey,
    service: u32,
    slot: u32,
    rtt_us: u32,
    head: &Generation,
    table: *const u8,
) -> Option<[*const u64; DIMENSIONS]> {
    let mask = |id: u64| {
        let at = (hide(id) & (MASKS_MAX as u64 - 1)) as usize * (MASK_WORDS * 8);
        // SAFETY: within the table, whatever the id.
        unsafe { table.add(at).cast::<u64>() }
    };
    let local_port = port(maps::LOCAL_PORTS.get_ptr(slot)?.cast(), flow.local_port);
    let remote_port = port(maps::REMOTE_PORTS.get_ptr(slot)?.cast(), flow.remote_port);
    let (local, remote) = (local_net(flow, slot), remote_net(flow, slot));
    let side = u64::from(flow.family & 1) * 2 + u64::from(flow.direction & 1);
    let context = (side * ZONE_RELATIONS as u64 + zone_relation(local, remote)) * HANDSHAKE_PIECES as u64;
    let (context, common) = (hide(context + u64::from(handshake_piece(slot, rtt_us))), hide(common_prefix(flow)));
    if context >= CONTEXTS as u64 || common >= COMMON_PREFIXES as u64 {
        return None;
    }
    // SAFETY: both positions are bounded right before.
    let (context, common) = unsafe {
        (
            (&raw const head.context).cast::<u16>().add(context as usize).read_volatile(),
            (&raw const head.common_prefix).cast::<u16>().add(common as usize).read_volatile(),
        )
    };
    Some([
        mask(u64::from(context)),
        mask(u64::from(common)),
        mask(u64::from(local_port)),
        mask(u64::from(remote_port)),
        mask(u64::from(local & 0xffff)),
        mask(u64::from(remote & 0xffff)),
        mask(u64::from(service)),
    ])
}

/// What the local address's longest prefix says. A global function, like the others below: the verifier follows it once, and for
/// the caller its result is but a number, however many ways lead to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn local_net(flow: *const FlowKey, slot: u32) -> u32 {
    let (false, Some(head)) = (flow.is_null(), maps::GENERATIONS.get(slot)) else { return 0 };
    if head.skip & SKIP_LOCAL_PREFIX == 0
        // SAFETY: not null.
        && let Some(found) = maps::LOCAL_NETS.get(&prefix_key(slot, unsafe { &(*flow).local }))
    {
        return *found;
    }
    u32::from(head.no_local)
}

/// What the remote address's longest prefix says.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn remote_net(flow: *const FlowKey, slot: u32) -> u32 {
    let (false, Some(head)) = (flow.is_null(), maps::GENERATIONS.get(slot)) else { return 0 };
    if head.skip & SKIP_REMOTE_PREFIX == 0
        // SAFETY: not null.
        && let Some(found) = maps::REMOTE_NETS.get(&prefix_key(slot, unsafe { &(*flow).remote }))
    {
        return *found;
    }
    u32::from(head.no_remote)
}

/// How two zones relate, by arithmetic: branches would multiply the verifier's work.
#[inline(always)]
fn zone_relation(local: u32, remote: u32) -> u64 {
    let part = |value: u32, shift: u32| u64::from(value >> shift & 0xff);
    let not_zero = |value: u64| value.wrapping_neg() >> 63;
    let (near, far) = (part(local, ZONE_SHIFT), part(remote, ZONE_SHIFT));
    let other_zone = not_zero(near ^ far);
    let other_region = not_zero(part(local, REGION_SHIFT) ^ part(remote, REGION_SHIFT));
    (not_zero(near) & not_zero(far)) * (1 + other_zone + other_region)
}

/// The piece of a handshake's time: 0 if unknown, else one more than the number of bounds it reaches.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn handshake_piece(slot: u32, rtt_us: u32) -> u32 {
    let Some(head) = maps::GENERATIONS.get(slot) else { return 0 };
    if rtt_us == 0 || head.skip & SKIP_HANDSHAKE != 0 {
        return 0;
    }
    let bounds = (&raw const head.handshake_bounds).cast::<u32>();
    let (mut piece, mut at) = (1_u64, 0);
    while at < HANDSHAKE_BOUNDS_MAX {
        // SAFETY: within the array. The sign of the difference tells, without a branch, whether the bound is reached.
        let bound = u64::from(unsafe { bounds.add(at).read_volatile() });
        piece += 1 - (hide(u64::from(rtt_us).wrapping_sub(bound)) >> 63);
        at += 1;
    }
    piece as u32
}

#[inline(always)]
fn port(table: *const u16, port: u16) -> u16 {
    // SAFETY: the table has an entry for each port.
    unsafe { table.add((hide(u64::from(port)) & 0xffff) as usize).read_volatile() }
}

#[inline(always)]
fn prefix_key(slot: u32, address: &[u8; 16]) -> Key<PrefixKey> {
    Key::new(32 + 128, PrefixKey { slot, address: *address })
}

/// Position of the common prefix in [`Generation::common_prefix`].
#[inline(always)]
fn common_prefix(flow: &FlowKey) -> u64 {
    let half = |address: &[u8; 16], at: usize| {
        // SAFETY: `at` is 0 or 8, and the addresses are aligned to 8 bytes.
        u64::from_be(unsafe { address.as_ptr().add(at).cast::<u64>().read_volatile() })
    };
    let high = u64::from((half(&flow.local, 0) ^ half(&flow.remote, 0)).leading_zeros());
    let low = u64::from((half(&flow.local, 8) ^ half(&flow.remote, 8)).leading_zeros());
    // Without branches, which the verifier would follow with a constant for every length: the second half counts if the
    // first is equal, and IPv4 begins after 96 bits.
    let equal = high + (low & (high >> 6).wrapping_neg());
    let ipv6 = u64::from(flow.family & IPV6);
    equal.wrapping_sub(96 * (1 - ipv6)).wrapping_add(33 * ipv6)
}

/// Writes the choices and the values that win into a stamp of zeros.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn merge(hits: *const Hits, stamp: *mut Stamp) -> i32 {
    if hits.is_null() || stamp.is_null() {
        return 0;
    }
    // SAFETY: checked above, and by the verifier at every access.
    unsafe { win(hits, stamp) }.unwrap_or(0)
}

/// # Safety
/// `hits` must be valid for reading and `stamp` for writing.
#[inline(always)]
unsafe fn win(hits: *const Hits, stamp: *mut Stamp) -> Option<i32> {
    unsafe {
        let slot = (&raw const (*hits).slot).read_volatile();
        let choices = maps::CHOICES.get_ptr(slot)?.cast::<ChoiceEntry>();
        let head = maps::GENERATIONS.get_ptr(slot)?;
        let count = u64::from((&raw const (*hits).count).read_volatile());
        let zero = || (&raw const (*head).zero).read_volatile();
        let (mut next, mut have, mut live, mut fresh) = (zero() & COUNT_RANGE, zero(), zero(), zero());
        let mut counting = zero() & BREAKER_RANGE;
        let breakers = (&raw mut (*stamp).breakers).cast::<u32>();
        let mut at = 0;
        while at < BREAKERS_OF_ONE {
            breakers.add(at).write_volatile(0);
            at += 1;
        }
        let mut entry = choices;
        let mut step = 0;
        while step < MERGE_STEPS {
            step += 1;
            if fresh == 0 {
                if next >= count {
                    break;
                }
                let at = (hide(next) & (LAYERS_MAX as u64 - 1)) as usize;
                let choice = (&raw const (*hits).choices).cast::<u16>().add(at).read_volatile();
                (&raw mut (*stamp).choices).cast::<u16>().add(at).write_volatile(choice);
                entry = choices.add((hide(u64::from(choice)) & (CHOICES_MAX as u64 - 1)) as usize);
                fresh = (&raw const (*entry).parameters).read_volatile() & !have;
                live |= fresh & u64::from((&raw const (*entry).live).read_volatile());
                // Without a branch: into the first free place, if there is one; it stays free if there is nothing to write.
                let mark = u64::from((&raw const (*entry).breaker).read_volatile());
                let full = (hide(counting) >> BREAKER_BITS).wrapping_neg();
                let place = breakers.add((hide(counting) & (BREAKERS_OF_ONE as u64 - 1)) as usize);
                place.write_volatile((u64::from(place.read_volatile()) & full | mark & !full) as u32);
                counting = (hide(counting) + (mark.wrapping_neg() >> 63 & !full)) & BREAKER_RANGE;
                have |= fresh;
                next = (hide(next) + 1) & COUNT_RANGE;
                continue;
            }
            let slot = (hide(u64::from(fresh.trailing_zeros())) & (PARAMETER_SLOTS as u64 - 1)) as usize;
            let value = (&raw const (*entry).values).cast::<u32>().add(slot).read_volatile();
            (&raw mut (*stamp).values).cast::<u32>().add(slot).write_volatile(value);
            fresh &= fresh - 1;
        }
        (&raw mut (*stamp).install).write_volatile((&raw const (*hits).install).read_volatile());
        (&raw mut (*stamp).parameters).write_volatile(have);
        (&raw mut (*stamp).live).write_volatile(live);
        (&raw mut (*stamp).choice_count).write_volatile(count as u32);
        Some(count as i32)
    }
}
