//! Which arm of a rule a flow gets: by its bucket, and by what has ended.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use sockpilot_policy::{
    bucket::{bucket, slot_bucket, unit_hash},
    layout::{ARMS_MAX, FlowKey, RuleEntry, STANDBY},
};

use crate::{maps, memory::hide};

/// The arm of a layer with a lease or an end as it is now, counted from 1: none where it does not act. What stands by for a canary
/// does in its place what the first arm says, on all buckets. A global function, because it has branches.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn turn(entry: *const RuleEntry, nth: u32) -> u32 {
    if entry.is_null() {
        return 0;
    }
    // SAFETY: not null.
    let (lease_ns, ends_ns, breaker) = unsafe {
        (
            (&raw const (*entry).lease_ns).read_volatile(),
            (&raw const (*entry).ends_ns).read_volatile(),
            (&raw const (*entry).breaker).read_volatile(),
        )
    };
    // With the time not known, nothing with an end acts.
    if ends_ns != 0 && fleet_ns().is_none_or(|now_ns| now_ns >= ends_ns) {
        return 0;
    }
    let in_lease = lease_ns == 0 || in_contact_within(lease_ns & !STANDBY);
    let acts = in_lease && (breaker == 0 || !tripped(u32::from(breaker) - 1));
    match (lease_ns & STANDBY != 0, acts) {
        (false, true) => nth,
        (false, false) => 0,
        (true, true) if nth == 1 => 0,
        (true, true) => nth,
        (true, false) => 1,
    }
}

/// Whether a circuit breaker has acted.
#[inline(always)]
fn tripped(breaker: u32) -> bool {
    let Some(trip) = maps::TRIPS.get_ptr(breaker) else { return false };
    // SAFETY: an element of the map.
    unsafe { trip.read_volatile() != 0 }
}

/// The fleet's time, in nanoseconds since 1970, if a server has said it.
#[inline(always)]
fn fleet_ns() -> Option<u64> {
    let active = maps::ACTIVE.get_ptr(0)?;
    // SAFETY: an element of the map.
    let ahead_ns = unsafe { (&raw const (*active).clock_ahead_ns).read_volatile() };
    // SAFETY: a helper without arguments.
    (ahead_ns != 0).then(|| unsafe { bpf_ktime_get_ns() }.wrapping_add(ahead_ns))
}

/// Whether the last contact with a server is within a lease.
#[inline(always)]
fn in_contact_within(lease_ns: u64) -> bool {
    let Some(active) = maps::ACTIVE.get_ptr(0) else { return false };
    // SAFETY: an element of the map.
    let last_contact_ns = unsafe { (&raw const (*active).last_contact_ns).read_volatile() };
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // 0: no contact since these tables were made.
    last_contact_ns != 0 && now_ns.saturating_sub(last_contact_ns) <= lease_ns
}

/// The arm that owns the flow's bucket, counted from 1; 0 if none does.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn arm(entry: *const RuleEntry, flow: *const FlowKey) -> u32 {
    if entry.is_null() || flow.is_null() {
        return 0;
    }
    // SAFETY: not null.
    unsafe {
        let salt = (&raw const (*entry).salt).read_volatile();
        let slot_ns = (&raw const (*entry).slot_ns).read_volatile();
        let bucket = if slot_ns == 0 {
            u64::from(bucket(unit_hash(salt, &*flow, &(*entry).key)))
        } else {
            let Some(now_ns) = fleet_ns() else { return 0 };
            u64::from(slot_bucket(salt, now_ns / slot_ns))
        };
        let starts = (&raw const (*entry).arm_starts).cast::<u16>();
        let ends = (&raw const (*entry).arm_ends).cast::<u16>();
        let (mut begun, mut ended, mut at) = (0_u64, 0_u64, 0);
        while at < ARMS_MAX {
            // The sign of the difference, without a branch: the bucket lies at or after the start, and the end, of this arm.
            begun += 1 - (hide(bucket.wrapping_sub(u64::from(starts.add(at).read_volatile()))) >> 63);
            ended += 1 - (hide(bucket.wrapping_sub(u64::from(ends.add(at).read_volatile()))) >> 63);
            at += 1;
        }
        // Arms do not overlap, so the two differ by one within an arm, and not at all between two.
        (begun * (begun - ended)) as u32
    }
}
