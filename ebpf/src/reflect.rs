//! Reflecting the traffic class: an accepted connection answers with what its SYN came with.

use aya_ebpf::{
    bindings::bpf_sock_ops,
    helpers::{bpf_getsockopt, bpf_setsockopt},
};
use sockpilot_policy::{layout::Stamp, parameter::reflect_slot};

use crate::{
    decide::in_force,
    flow::{AF_INET, field},
    maps,
};

const SOL_IP: i32 = 0;
const SOL_TCP: i32 = 6;
const SOL_IPV6: i32 = 41;
const IP_TOS: i32 = 1;
const IPV6_TCLASS: i32 = 67;
const TCP_SAVE_SYN: i32 = 27;
/// The SYN from its IP header on; cut off, with an error, where the buffer ends.
const TCP_BPF_SYN_IP: i32 = 1006;
const ENOSPC: i64 = -28;

/// Has the SYNs of a new listener kept, if any rule reflects.
#[inline(never)]
pub fn listening(ctx: *mut bpf_sock_ops) {
    let Some((_, head)) = in_force() else { return };
    if head.parameters & (1 << const { reflect_slot() }) != 0 {
        let mut on = 1_u32;
        // SAFETY: a buffer of the length said.
        let result = unsafe { bpf_setsockopt(ctx.cast(), SOL_TCP, TCP_SAVE_SYN, (&raw mut on).cast(), 4) };
        if result != 0 {
            maps::count_refusal(const { reflect_slot() }, result);
        }
    }
}

/// Reflects, if the stamp says so and the SYN was kept.
#[inline(never)]
pub fn accepted(ctx: *mut bpf_sock_ops, stamp: *const Stamp) {
    // SAFETY: an element of the storage, and buffers of the lengths said.
    unsafe {
        if (&raw const (*stamp).parameters).read_volatile() & (1 << const { reflect_slot() }) == 0 {
            return;
        }
        let mut header = 0_u64;
        let result = bpf_getsockopt(ctx.cast(), SOL_TCP, TCP_BPF_SYN_IP, (&raw mut header).cast(), 8);
        if result < 0 && result != ENOSPC {
            return;
        }
        let [first, second, ..] = (&raw const header).read_volatile().to_le_bytes();
        let (level, name, class) = if field!(ctx, family) == AF_INET {
            (SOL_IP, IP_TOS, u32::from(second))
        } else {
            (SOL_IPV6, IPV6_TCLASS, u32::from(first & 0xf) << 4 | u32::from(second >> 4))
        };
        // Without the two bits of ECN, which belong to each packet.
        let mut class = class & 0xfc;
        if class != 0 {
            let result = bpf_setsockopt(ctx.cast(), level, name, (&raw mut class).cast(), 4);
            if result != 0 {
                maps::count_refusal(const { reflect_slot() }, result);
            }
        }
    }
}
