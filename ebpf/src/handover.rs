//! Which side decides, while those of two layouts are at work: see the contract in `policy/src/layout/handover.rs`.
//!
//! A side that takes over is attached after the earlier ones, so the kernel runs it after them on the same cgroup: whoever is relieved
//! in the middle of a callback has either decided, which shows in what it has stamped, or leaves it to the later side, which sees itself in
//! charge.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::bpf_sock_ops,
    helpers::{bpf_ktime_get_ns, bpf_map_lookup_elem, bpf_sk_storage_get},
};
use sockpilot_policy::layout::{Handover, PENDING_NS_MAX, PendingKey, StampHead};

use crate::{
    flow::field,
    maps::{self, EARLIER_PENDING, EARLIER_STAMPS},
    memory::get,
};

/// Whether this side decides new connections.
#[inline(always)]
pub fn in_charge() -> bool {
    let Some(handover) = handover() else { return false };
    // SAFETY: an element of the map.
    unsafe { get!(handover, in_charge) == maps::SIDE.load() }
}

#[inline(always)]
fn handover() -> Option<*const Handover> {
    maps::HANDOVER.get_ptr(0)
}

/// The number of an earlier side that still serves connections: a constant for the verifier, 0 where there is none.
macro_rules! serving {
    ($at:expr, $oldest:expr) => {{
        let number = unsafe { (&raw const maps::EARLIER).cast::<u32>().add($at).read_volatile() };
        number != 0 && number >= $oldest
    }};
}

/// Whether there were earlier sides when the program was loaded: a constant, so that where there were none nothing is looked for.
#[inline(always)]
pub fn has_earlier() -> bool {
    // SAFETY: an element of the array.
    unsafe { (&raw const maps::EARLIER).cast::<u32>().read_volatile() != 0 }
}

/// Whether an earlier side has begun this very connection of a socket that is about to connect.
#[inline(always)]
pub fn begun_earlier(ctx: *mut bpf_sock_ops) -> bool {
    has_earlier() && stamped(ctx, field!(ctx, sk_txhash)) != 0
}

/// Whether an earlier side serves the connection of this socket. The hash of a connection may have changed since it began.
#[inline(always)]
pub fn served_earlier(ctx: *mut bpf_sock_ops) -> bool {
    has_earlier() && stamped(ctx, 0) != 0
}

/// `attempt`: whatever the connection, if 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn stamped(ctx: *mut bpf_sock_ops, attempt: u32) -> u32 {
    let Some(handover) = handover() else { return 0 };
    // SAFETY: the context holds a pointer to a full socket, or null.
    unsafe {
        let oldest = get!(handover, oldest);
        let sk: *mut c_void = (&raw const (*ctx).__bindgen_anon_2.sk).read_volatile().cast();
        if sk.is_null() {
            return 0;
        }
        let here = |stamps: *mut c_void| {
            let head: *const StampHead = bpf_sk_storage_get(stamps, sk, ptr::null_mut(), 0).cast();
            !head.is_null() && get!(head, attachment) != 0 && (attempt == 0 || get!(head, attempt) == attempt)
        };
        let found = serving!(0, oldest) && here(EARLIER_STAMPS!(0))
            || serving!(1, oldest) && here(EARLIER_STAMPS!(1))
            || serving!(2, oldest) && here(EARLIER_STAMPS!(2));
        u32::from(found)
    }
}

/// Whether an earlier side has decided a connection request, and serves the connection that comes of it.
#[inline(always)]
pub fn requested_earlier(key: *const PendingKey) -> bool {
    has_earlier() && pending(key) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pending(key: *const PendingKey) -> u32 {
    let (false, Some(handover)) = (key.is_null(), handover()) else { return 0 };
    // SAFETY: not null, and maps with keys of this type.
    unsafe {
        let oldest = get!(handover, oldest);
        let here = |requests: *mut c_void| {
            let head: *const StampHead = bpf_map_lookup_elem(requests, key.cast()).cast();
            !head.is_null() && bpf_ktime_get_ns().wrapping_sub(get!(head, start_ns)) <= PENDING_NS_MAX
        };
        let found = serving!(0, oldest) && here(EARLIER_PENDING!(0))
            || serving!(1, oldest) && here(EARLIER_PENDING!(1))
            || serving!(2, oldest) && here(EARLIER_PENDING!(2));
        u32::from(found)
    }
}
