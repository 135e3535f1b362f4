//! The circuit breaker: ends a canary of which more connections end badly than of its control, whoever else is there to see it.
//!
//! Counts are of all CPUs together, and exact; there is something to do for few connections only. Canary's are read before
//! control's, so what another CPU counts meanwhile can but delay the trip.

use core::{arch::asm, mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::{BPF_NOEXIST, bpf_sock_ops},
    helpers::{bpf_ktime_get_ns, bpf_map_update_elem, bpf_skc_to_tcp_sock},
};
use sockpilot_policy::{
    breaker::{End, trips},
    bucket::{WHOLE_FLOW, unit_hash},
    layout::{BREAKERS_MAX, BREAKERS_OF_ONE, FlowKey, Stamp},
};

use crate::{
    flow::{self, field},
    maps,
    memory::{get, hide},
    record,
};

/// Counts the end of a connection that is of a canary or of its control, if it is a bad one.
#[inline(always)]
pub fn ended(ctx: *mut bpf_sock_ops, stamp: *mut Stamp) {
    // SAFETY: an element of the storage.
    if unsafe { (&raw const (*stamp).breakers).cast::<u32>().read_volatile() } != 0 {
        judge(ctx, stamp);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge(ctx: *mut bpf_sock_ops, stamp: *mut Stamp) -> i32 {
    if stamp.is_null() {
        return 0;
    }
    // SAFETY: an element of the storage, and a valid context.
    unsafe {
        let sk = (&raw const (*ctx).__bindgen_anon_2.sk).read_volatile();
        let tcp = if sk.is_null() { ptr::null_mut() } else { bpf_skc_to_tcp_sock(sk.cast()) };
        let end = End {
            established: get!(stamp, established_ns) != 0,
            old_state: field!(ctx, state),
            error: record::error(tcp),
            segments_out: field!(ctx, segs_out),
            rtos: record::rtos(tcp),
        };
        if !end.is_bad() {
            return 0;
        }
        let mut flow = MaybeUninit::<FlowKey>::uninit();
        flow::read(ctx, get!(stamp, direction) as u8, flow.as_mut_ptr());
        let mut at = 0;
        while at < BREAKERS_OF_ONE {
            let mark = (&raw const (*stamp).breakers).cast::<u32>().add(at).read_volatile();
            if mark == 0 {
                break;
            }
            count(mark, flow.as_ptr());
            at += 1;
        }
    }
    1
}

/// Counts a bad end for one breaker, and has it act if that is enough.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count(mark: u32, flow: *const FlowKey) -> i32 {
    if flow.is_null() {
        return 0;
    }
    let (ticket, position) = (mark >> 8, hide(u64::from(mark >> 1)) as u32 & (BREAKERS_MAX as u32 - 1));
    let (Some(breaker), Some(trip)) = (maps::BREAKERS.get_ptr_mut(position), maps::TRIPS.get_ptr_mut(position)) else {
        return 0;
    };
    // SAFETY: elements of maps, and the flow is not null.
    unsafe {
        let threshold = get!(breaker, threshold);
        // Another canary's by now, or the breaker has acted: what it said then stays.
        if get!(breaker, ticket) != ticket || threshold == 0 || trip.read_volatile() != 0 {
            return 0;
        }
        // The coin is one for each pair of addresses and ports, at both ends and when they are used again.
        let (key, seen) = (unit_hash(u64::from(mark >> 1), &*flow, &WHOLE_FLOW), 0_u32);
        let counted = (&raw const maps::COUNTED).cast_mut().cast();
        if bpf_map_update_elem(counted, (&raw const key).cast(), (&raw const seen).cast(), u64::from(BPF_NOEXIST)) != 0
        {
            return 0;
        }
        if mark & 1 != 0 {
            maps::add(&raw mut (*breaker).control_bad_ends, 1);
            return 1;
        }
        let canary = fetch_add(&raw mut (*breaker).canary_bad_ends) + 1;
        if trips(canary, get!(breaker, control_bad_ends), threshold) {
            trip.write_volatile(bpf_ktime_get_ns());
        }
    }
    1
}

/// Adds one, and returns what was there before. Also keeps what is read later from being read earlier.
///
/// # Safety
/// The cell must be in a map.
#[inline(always)]
unsafe fn fetch_add(cell: *mut u64) -> u64 {
    let mut number = 1_u64;
    unsafe {
        asm!("{number} = atomic_fetch_add((u64 *)({cell} + 0), {number})", cell = in(reg) cell, number = inout(reg) number);
    }
    number
}
