//! Reading the context: who talks to whom.

use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_STATE_CB_FLAG, bpf_sock_ops},
    helpers::{bpf_get_netns_cookie, bpf_sock_ops_cb_flags_set},
};
use sockpilot_policy::layout::{FlowKey, IPV4, IPV6, PendingKey};

/// Family of IPv4 sockets in the context.
pub const AF_INET: u32 = 2;
/// The third word of an IPv4 address mapped into IPv6, in network order.
pub const MAPPED: u32 = 0xffff_u32.to_be();

/// Reads a field of the context. Volatile, so that the compiler does not merge or move loads: the verifier lets a program
/// read the context only at offsets that are constants of the load itself.
macro_rules! field {
    ($ctx:expr, $name:ident $([$index:expr])?) => {
        // SAFETY: the kernel gives the program a valid context.
        unsafe { (&raw const (*$ctx).$name $([$index])?).read_volatile() }
    };
}
pub(crate) use field;

/// An argument of a callback.
#[inline(always)]
pub fn argument(ctx: *const bpf_sock_ops, index: usize) -> u32 {
    // SAFETY: as in `field`; the union is but four numbers.
    unsafe { (&raw const (*ctx).__bindgen_anon_1.args[index]).read_volatile() }
}

/// What this or another program has answered so far.
#[inline(always)]
pub fn reply(ctx: *const bpf_sock_ops) -> u32 {
    // SAFETY: as in `argument`.
    unsafe { (&raw const (*ctx).__bindgen_anon_1.reply).read_volatile() }
}

/// Answers.
#[inline(always)]
pub fn set_reply(ctx: *mut bpf_sock_ops, value: u32) {
    // SAFETY: as in `argument`.
    unsafe { (&raw mut (*ctx).__bindgen_anon_1.reply).write_volatile(value) }
}

/// Whether somebody asked for a callback when the state changes.
#[inline(always)]
pub fn follows_states(ctx: *mut bpf_sock_ops) -> bool {
    field!(ctx, bpf_sock_ops_cb_flags) & BPF_SOCK_OPS_STATE_CB_FLAG != 0
}

/// Asks for a callback when the state changes, keeping what other programs asked for. Not all of them do the same, so it is asked
/// at more than one moment.
#[inline(always)]
pub fn follow_states(ctx: *mut bpf_sock_ops) {
    let flags = field!(ctx, bpf_sock_ops_cb_flags);
    if flags & BPF_SOCK_OPS_STATE_CB_FLAG == 0 {
        // SAFETY: a valid context. It fails for unknown flags only.
        unsafe { bpf_sock_ops_cb_flags_set(ctx, (flags | BPF_SOCK_OPS_STATE_CB_FLAG) as i32) };
    }
}

/// The flow in the context. Written in place: a value would be copied through a call of `memcpy`.
#[inline(always)]
pub fn read(ctx: *mut bpf_sock_ops, direction: u8, key: *mut FlowKey) {
    let mut local = [0, 0, MAPPED, field!(ctx, local_ip4)];
    let mut remote = [0, 0, MAPPED, field!(ctx, remote_ip4)];
    if field!(ctx, family) != AF_INET {
        local = [
            field!(ctx, local_ip6[0]),
            field!(ctx, local_ip6[1]),
            field!(ctx, local_ip6[2]),
            field!(ctx, local_ip6[3]),
        ];
        remote = [
            field!(ctx, remote_ip6[0]),
            field!(ctx, remote_ip6[1]),
            field!(ctx, remote_ip6[2]),
            field!(ctx, remote_ip6[3]),
        ];
    }
    let ports = (field!(ctx, local_port) as u16, u32::from_be(field!(ctx, remote_port)) as u16);
    // SAFETY: the caller's key.
    unsafe { put(key, local, remote, ports, direction) };
}

/// Writes a flow: addresses in network order, IPv4 mapped; ports in host order, the local one first. Whether it is IPv4 shows in the
/// remote address, whatever the socket's family.
///
/// # Safety
/// The key must be valid for writing.
#[inline(always)]
pub unsafe fn put(key: *mut FlowKey, local: [u32; 4], remote: [u32; 4], ports: (u16, u16), direction: u8) {
    let mapped = (remote[0] | remote[1]) == 0 && remote[2] == MAPPED;
    // SAFETY: both addresses are as large as these writes, and aligned to 8 bytes.
    unsafe {
        let (to_local, to_remote) = ((&raw mut (*key).local).cast::<u32>(), (&raw mut (*key).remote).cast::<u32>());
        to_local.write_volatile(local[0]);
        to_local.add(1).write_volatile(local[1]);
        to_local.add(2).write_volatile(local[2]);
        to_local.add(3).write_volatile(local[3]);
        to_remote.write_volatile(remote[0]);
        to_remote.add(1).write_volatile(remote[1]);
        to_remote.add(2).write_volatile(remote[2]);
        to_remote.add(3).write_volatile(remote[3]);
        (&raw mut (*key).local_port).write_volatile(ports.0);
        (&raw mut (*key).remote_port).write_volatile(ports.1);
        (&raw mut (*key).family).write_volatile(if mapped { IPV4 } else { IPV6 });
        (&raw mut (*key).direction).write_volatile(direction);
        (&raw mut (*key).reserved).write_volatile(0);
    }
}

/// Completes the key of a connection request whose flow has been read.
#[inline(always)]
pub fn read_netns(ctx: *mut bpf_sock_ops, key: *mut PendingKey) {
    // SAFETY: the caller's key, and a valid context.
    unsafe { (&raw mut (*key).netns_cookie).write_volatile(bpf_get_netns_cookie(ctx.cast())) };
}
