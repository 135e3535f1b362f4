//! Decisions of connection requests, which have no socket yet to keep them on.

use core::ptr;

use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_map_delete_elem, bpf_map_lookup_elem, bpf_map_update_elem};
use sockpilot_policy::layout::{Counter, PENDING_NS_MAX, PendingKey, Stamp};

use crate::maps;

#[inline(always)]
fn lookup(key: *const PendingKey) -> *mut Stamp {
    // SAFETY: a map and a key of its type.
    unsafe { bpf_map_lookup_elem((&raw const maps::PENDING).cast_mut().cast(), key.cast()).cast() }
}

/// The decision of a request that may still be on its way.
#[inline(always)]
pub fn fresh(key: *const PendingKey) -> *mut Stamp {
    let pending = lookup(key);
    if pending.is_null() {
        return pending;
    }
    // SAFETY: just looked up.
    let age_ns = unsafe { bpf_ktime_get_ns().wrapping_sub((&raw const (*pending).start_ns).read_volatile()) };
    if age_ns > PENDING_NS_MAX { ptr::null_mut() } else { pending }
}

#[inline(always)]
pub fn forget(key: *const PendingKey) {
    // SAFETY: a map and a key of its type. Whether it was there still does not matter.
    unsafe { bpf_map_delete_elem((&raw const maps::PENDING).cast_mut().cast(), key.cast()) };
}

/// A blank stamp for a connection request.
#[inline(always)]
pub fn keep(key: *const PendingKey) -> Option<*mut Stamp> {
    let blank = maps::BLANK.get_ptr(0)?;
    // SAFETY: a map, and a key and a value of its types.
    unsafe { bpf_map_update_elem((&raw const maps::PENDING).cast_mut().cast(), key.cast(), blank.cast(), 0) };
    let pending = lookup(key);
    if pending.is_null() {
        maps::count(Counter::PendingFailed);
        return None;
    }
    // SAFETY: just looked up.
    unsafe { (&raw mut (*pending).start_ns).write_volatile(bpf_ktime_get_ns()) };
    Some(pending)
}
