//! The maps: what the daemon writes, and what it reads.

use core::arch::asm;

#[expect(deprecated, reason = "the newer cgroup storage needs the socket's cgroup, which sock_ops cannot name")]
use aya_ebpf::btf_maps::CgroupStorage;
use aya_ebpf::{
    Global,
    bindings::bpf_sock_ops,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage},
    helpers::bpf_get_netns_cookie,
    macros::btf_map,
};
use sockpilot_policy::layout::{
    ATTACHED_MAX, Active, Attachment, BREAKERS_MAX, Breaker, COUNTED_MAX, COUNTERS, Changes, ChoiceTable, Counter,
    EARLIER_MAX, FlowKey, FlowRecord, Generation, Handover, Hits, KernelOffsets, MaskTable, NAMESPACE_PLACES,
    NAMESPACES_MAX, NameTable, Namespace, NamespaceTable, OWNER_OFFSETS, PENDING_MAX, PREFIXES_MAX, PendingKey,
    PortTable, PrefixKey, REFUSALS_MAX, RING_BYTES, RuleTable, SLOTS, SOCKET_OFFSETS, Stamp, StampHead, TrialRun,
    refusal_key,
};

use crate::memory::{get, hide};

/// A connection that is looked at. Not on the stack, where beside a decision there is no room for it.
#[repr(C)]
pub struct Look {
    /// Who talks to whom.
    pub flow: FlowKey,
    /// The choices.
    pub hits: Hits,
    /// What they give.
    pub decided: Stamp,
}

/// What is in force.
#[btf_map]
pub static ACTIVE: Array<Active, 1> = Array::new();
/// The heads of both generations.
#[btf_map]
pub static GENERATIONS: Array<Generation, SLOTS> = Array::new();
/// Rule masks, by slot.
#[btf_map]
pub static MASKS: Array<MaskTable, SLOTS> = Array::new();
/// Rules, by slot.
#[btf_map]
pub static RULES: Array<RuleTable, SLOTS> = Array::new();
/// Choices, by slot.
#[btf_map]
pub static CHOICES: Array<ChoiceTable, SLOTS> = Array::new();
/// Names, for all generations.
#[btf_map]
pub static NAMES: Array<NameTable, 1> = Array::new();
/// Masks by local port, by slot.
#[btf_map]
pub static LOCAL_PORTS: Array<PortTable, SLOTS> = Array::new();
/// Masks by remote port, by slot.
#[btf_map]
pub static REMOTE_PORTS: Array<PortTable, SLOTS> = Array::new();
/// Masks by local prefix; the slot is part of the key.
#[btf_map]
pub static LOCAL_NETS: LpmTrie<PrefixKey, u32, { PREFIXES_MAX * SLOTS }> = LpmTrie::new();
/// Masks by remote prefix; the slot is part of the key.
#[btf_map]
pub static REMOTE_NETS: LpmTrie<PrefixKey, u32, { PREFIXES_MAX * SLOTS }> = LpmTrie::new();
/// Decisions of connection requests.
#[btf_map]
pub static PENDING: LruHashMap<PendingKey, Stamp, PENDING_MAX> = LruHashMap::new();
/// A stamp of zeros, to begin a pending decision with.
#[btf_map]
pub static BLANK: Array<Stamp, 1> = Array::new();
/// The stamps of sockets.
#[btf_map]
pub static STAMPS: SkStorage<Stamp> = SkStorage::new();
/// Who decides, while there is more than one side.
#[btf_map]
pub static HANDOVER: Array<Handover, 1> = Array::new();
/// The stamps and requests of earlier sides. The loader puts theirs in the place of these, as far as there are any.
#[btf_map]
pub static EARLIER_STAMPS_0: SkStorage<StampHead> = SkStorage::new();
/// See above.
#[btf_map]
pub static EARLIER_STAMPS_1: SkStorage<StampHead> = SkStorage::new();
/// See above.
#[btf_map]
pub static EARLIER_STAMPS_2: SkStorage<StampHead> = SkStorage::new();
/// See above.
#[btf_map]
pub static EARLIER_PENDING_0: HashMap<PendingKey, StampHead, 1> = HashMap::new();
/// See above.
#[btf_map]
pub static EARLIER_PENDING_1: HashMap<PendingKey, StampHead, 1> = HashMap::new();
/// See above.
#[btf_map]
pub static EARLIER_PENDING_2: HashMap<PendingKey, StampHead, 1> = HashMap::new();
/// Flow records.
#[btf_map]
pub static RECORDS: RingBuf<FlowRecord, RING_BYTES> = RingBuf::new();
/// See [`Counter`].
#[btf_map]
pub static COUNTS: PerCpuArray<[u64; COUNTERS], 1> = PerCpuArray::new();
/// Refusals of `bpf_setsockopt`, by [`sockpilot_policy::layout::refusal_key`].
#[btf_map]
pub static REFUSALS: HashMap<u64, u64, REFUSALS_MAX> = HashMap::new();
/// What was changed on sockets for rules that are for open connections too.
#[btf_map]
pub static CHANGES: SkStorage<Changes> = SkStorage::new();
/// The connection that is looked at.
#[btf_map]
pub static LOOK: PerCpuArray<Look, 1> = PerCpuArray::new();
/// As [`ATTACHMENTS`], by the cgroup's id, for programs that see but the socket.
#[btf_map]
pub static ATTACHED: HashMap<u64, Attachment, ATTACHED_MAX> = HashMap::new();
/// What each attachment knows.
#[expect(deprecated, reason = "the newer cgroup storage needs the socket's cgroup, which sock_ops cannot name")]
#[btf_map]
pub static ATTACHMENTS: CgroupStorage<Attachment> = CgroupStorage::new();
/// Connections that are stamped and have not ended, by their network namespace.
#[btf_map]
pub static NAMESPACES: Array<NamespaceTable, 1> = Array::new();
/// What [`crate::try_values`] is to try, and what came of it.
#[btf_map]
pub static TRIALS: Array<TrialRun, 1> = Array::new();
/// What the circuit breakers have counted.
#[btf_map]
pub static BREAKERS: Array<Breaker, BREAKERS_MAX> = Array::new();
/// When each of them has ended its canary: CLOCK_MONOTONIC, nanoseconds; 0: it has not. Beside what is counted, so that the daemon can
/// write it without losing a count.
#[btf_map]
pub static TRIPS: Array<u64, BREAKERS_MAX> = Array::new();
/// Connections that were counted, by a hash of breaker and addresses.
#[btf_map]
pub static COUNTED: LruHashMap<u64, u32, COUNTED_MAX> = LruHashMap::new();
/// The result of [`crate::probe`].
#[btf_map]
pub static PROBED: Array<Stamp, 1> = Array::new();

/// Set by the loader from the kernel's BTF; `u32::MAX` where the kernel lacks the field.
#[unsafe(no_mangle)]
pub static KERNEL_OFFSETS: Global<KernelOffsets> = Global::new(KernelOffsets {
    sk_err: u32::MAX,
    total_rto: u32::MAX,
    delivered: u32::MAX,
    delivered_ce: u32::MAX,
    dsack_dups: u32::MAX,
    rate_app_limited: u32::MAX,
    rate_app_limited_mask: 0,
});

/// [`sockpilot_policy::layout::SocketOffsets`], in that order; set by the loader.
#[unsafe(no_mangle)]
pub static SOCKET_FIELDS: Global<[u32; SOCKET_OFFSETS]> = Global::new([0; SOCKET_OFFSETS]);

/// [`sockpilot_policy::layout::OwnerOffsets`], in that order; set by the loader.
#[unsafe(no_mangle)]
pub static OWNER_FIELDS: Global<[u32; OWNER_OFFSETS]> = Global::new([0; OWNER_OFFSETS]);

/// Connections younger than this are not reported while open; set by the loader.
#[unsafe(no_mangle)]
pub static LONG_FLOW_NS: Global<u64> = Global::new(0);

/// The number of this side; set by the loader.
#[unsafe(no_mangle)]
pub static SIDE: Global<u32> = Global::new(0);

/// The numbers of the earlier sides whose maps stand in the place of `EARLIER_*`, then zeros; set by the loader.
#[unsafe(no_mangle)]
pub static EARLIER: Global<[u32; EARLIER_MAX]> = Global::new([0; EARLIER_MAX]);

/// The stamps of an earlier side, as helpers take a map.
macro_rules! EARLIER_STAMPS {
    (0) => {
        (&raw const maps::EARLIER_STAMPS_0).cast_mut().cast()
    };
    (1) => {
        (&raw const maps::EARLIER_STAMPS_1).cast_mut().cast()
    };
    (2) => {
        (&raw const maps::EARLIER_STAMPS_2).cast_mut().cast()
    };
}
pub(crate) use EARLIER_STAMPS;

/// The requests of an earlier side, as helpers take a map.
macro_rules! EARLIER_PENDING {
    (0) => {
        (&raw const maps::EARLIER_PENDING_0).cast_mut().cast()
    };
    (1) => {
        (&raw const maps::EARLIER_PENDING_1).cast_mut().cast()
    };
    (2) => {
        (&raw const maps::EARLIER_PENDING_2).cast_mut().cast()
    };
}
pub(crate) use EARLIER_PENDING;

/// Counts.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(counts) = COUNTS.get_ptr_mut(0) {
        // SAFETY: the element has a cell for every counter.
        unsafe { add(counts.cast::<u64>().add(counter as usize), 1) };
    }
}

/// Counts every bit of a mask.
#[inline(always)]
pub fn count_all(counter: Counter, mask: u64) {
    if let Some(counts) = COUNTS.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { add(counts.cast::<u64>().add(counter as usize), u64::from(mask.count_ones())) };
    }
}

/// Counts a refusal of `bpf_setsockopt`.
#[inline(never)]
pub fn count_refusal(slot: usize, result: i64) {
    count(Counter::SetRefused);
    let key = refusal_key(slot as u32, result.wrapping_neg() as u32);
    if REFUSALS.get_ptr_mut(key).is_none() {
        // Another CPU may be faster: then it is there. Full: only the sum above counts it.
        let _ = REFUSALS.insert(key, 0, 1);
    }
    if let Some(cell) = REFUSALS.get_ptr_mut(key) {
        // SAFETY: an element of the map.
        unsafe { add(cell, 1) };
    }
}

/// Counts a connection that begins (1) or ends (-1) among those of its network namespace. Where there is no room for another
/// namespace, it is not counted.
#[inline(always)]
pub fn count_open(ctx: *mut bpf_sock_ops, change: i64) {
    // SAFETY: a valid context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.cast()) };
    let Some(table) = NAMESPACES.get_ptr_mut(0) else { return };
    let place = namespace(table, cookie);
    // SAFETY: an element of the table.
    unsafe {
        if get!(place, cookie) == cookie {
            add(&raw mut (*place).open, change as u64);
        } else {
            count_open_elsewhere(cookie, change);
        }
    }
}

/// The same for a namespace that does not stand in its first place.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_open_elsewhere(cookie: u64, change: i64) -> i32 {
    let Some(table) = NAMESPACES.get_ptr_mut(0) else { return 0 };
    let mut at = 0;
    while at < 3 * NAMESPACE_PLACES as u64 {
        let round = at / NAMESPACE_PLACES as u64;
        let place = namespace(table, cookie + (at & (NAMESPACE_PLACES as u64 - 1)));
        // SAFETY: an element of the table.
        unsafe {
            let mut holder = get!(place, cookie);
            // First all places are looked at. Then, for a connection that begins, one is taken that is empty; else one that is idle.
            let is_free = round == 1 && holder == 0 || round == 2 && get!(place, open) == 0;
            if holder != cookie && change > 0 && is_free {
                holder = exchange(&raw mut (*place).cookie, holder, cookie);
            }
            if holder == cookie {
                add(&raw mut (*place).open, change as u64);
                return 1;
            }
        }
        at += 1;
    }
    0
}

#[inline(always)]
fn namespace(table: *mut NamespaceTable, number: u64) -> *mut Namespace {
    // SAFETY: within the table.
    unsafe { table.cast::<Namespace>().add((hide(number) & (NAMESPACES_MAX as u64 - 1)) as usize) }
}

/// Puts `new` in the place of `old`. Returns what is there then: another CPU may have been faster.
///
/// # Safety
/// The cell must be in a map.
#[inline(always)]
unsafe fn exchange(cell: *mut u64, old: u64, new: u64) -> u64 {
    let mut found = old;
    unsafe {
        asm!("r0 = cmpxchg_64({cell} + 0, r0, {new})", cell = in(reg) cell, new = in(reg) new, inout("r0") found);
    }
    if found == old { new } else { found }
}

/// Atomic, because a run of the program in process context can be interrupted by another one on the same CPU. Rust has no such
/// operation for this target.
///
/// # Safety
/// The cell must be in a map.
#[inline(always)]
pub unsafe fn add(cell: *mut u64, number: u64) {
    unsafe { asm!("lock *(u64 *)({cell} + 0) += {number}", cell = in(reg) cell, number = in(reg) number) };
}
