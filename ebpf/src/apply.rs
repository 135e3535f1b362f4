//! Setting what was decided.

use core::ptr;

use aya_ebpf::bindings::bpf_sock_ops;
use sockpilot_policy::{
    layout::{PARAMETER_SLOTS, Stamp},
    parameter::{Phase, STICKING_MASK, phase_mask},
};

use crate::{
    again, changes,
    flow::{AF_INET, field},
    maps,
    memory::hide,
    option::SocketOption,
};

/// Sets the options of one phase, if any were decided.
#[inline(always)]
pub fn options(ctx: *mut bpf_sock_ops, stamp: *mut Stamp, phase: u64) {
    // SAFETY: an element of the storage.
    if unsafe { (&raw const (*stamp).parameters).read_volatile() } & phase != 0 {
        set(ctx, stamp, phase);
    }
}

/// In the order of the table.
#[inline(never)]
fn set(ctx: *mut bpf_sock_ops, stamp: *mut Stamp, phase: u64) {
    // SAFETY: an element of the storage.
    let (mut left, live) = unsafe {
        ((&raw const (*stamp).parameters).read_volatile() & phase, (&raw const (*stamp).live).read_volatile())
    };
    let ipv4 = field!(ctx, family) == AF_INET;
    let live = live & left;
    // What was accepted hardly ever connects.
    if phase != const { phase_mask(Phase::PassiveEstablished) } && left & !live & STICKING_MASK != 0 {
        again::note_before(ctx, stamp, left & !live & STICKING_MASK);
    }
    let changes = if live == 0 { ptr::null_mut() } else { changes::before(ctx, ipv4, live) };
    let mut refused = 0_u64;
    let mut step = 0;
    while step < phase.count_ones() {
        step += 1;
        if left == 0 {
            break;
        }
        let slot = (hide(u64::from(left.trailing_zeros())) & (PARAMETER_SLOTS as u64 - 1)) as usize;
        left &= left - 1;
        // SAFETY: an element of the storage, and a bounded position.
        let value = unsafe { (&raw const (*stamp).values).cast::<u32>().add(slot).read_volatile() };
        let result = SocketOption::of(ctx.cast(), ipv4, slot).set(value);
        if result != 0 {
            refused |= 1 << slot;
            maps::count_refusal(slot, result);
        }
    }
    if refused != 0 {
        // SAFETY: as above.
        unsafe {
            let field = &raw mut (*stamp).refused;
            field.write_volatile(field.read_volatile() | refused);
            let noted = &raw mut (*stamp).noted;
            noted.write_volatile(noted.read_volatile() & !refused);
        }
    }
    if !changes.is_null() {
        // SAFETY: elements of storages.
        unsafe { changes::after(ctx, ipv4, stamp, changes, live) };
    }
}
