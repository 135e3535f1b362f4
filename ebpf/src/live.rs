//! Rules for connections that are open already.
//!
//! When the daemon asks for it, a program sees every socket of a network namespace ([`crate::socket`]), decides for those of
//! attached cgroups as if they were new, and sets what the winning rules want on open connections too. What was there before
//! is kept on the socket ([`crate::changes`]) and restored when no rule wants anything else any more.
//!
//! A connection that begins under such a rule gets its values from [`crate::apply`], which notes there what was there before, so that
//! it follows the rule's end like all others.

use core::ptr;

use aya_ebpf::{
    bindings::tcp_sock,
    helpers::{bpf_get_socket_cookie, bpf_sk_storage_delete, bpf_sk_storage_get},
};
use sockpilot_policy::{
    layout::{Changes, Counter, SLOTS, Stamp},
    parameter::LIVE_MASK,
};

use crate::{
    changes::{AFTER, BEFORE, create, note, read_all, stored, untouched, write_all},
    decide::{decide, in_force, merge},
    handover,
    maps::{self, Look},
    memory::{get, hide, put},
    socket::{self, Context, is_ipv4, read, read_flow},
};

const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE_WAIT: u8 = 8;

/// Always 0: on to the next socket.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn adjust_open(ctx: *const Context) -> i32 {
    // SAFETY: the kernel gives a valid context.
    unsafe {
        let tcp = Context::socket(ctx);
        // The changes on sockets are common to all sides.
        if handover::in_charge() && !tcp.is_null() && matches!(read!(tcp, u8, state), TCP_ESTABLISHED | TCP_CLOSE_WAIT)
        {
            adjust(tcp);
        }
    }
    0
}

/// # Safety
/// A pointer that the kernel gave.
#[inline(always)]
unsafe fn adjust(tcp: *mut tcp_sock) {
    unsafe {
        let Some(look) = maps::LOOK.get_ptr_mut(0) else { return };
        let wanted = wanted(tcp, look);
        let mut changes = stored(tcp.cast(), 0);
        if changes.is_null() && wanted != 0 {
            changes = create(tcp.cast());
        }
        if changes.is_null() {
            return;
        }
        maps::count(Counter::ChangesSeen);
        let fresh = note(changes, &raw const (*look).decided, wanted);
        let stale = get!(changes, asked) & !wanted;
        if fresh | stale != 0 {
            change(tcp, changes, wanted, fresh, stale);
            put!(changes, asked, wanted);
            if wanted == 0 {
                bpf_sk_storage_delete((&raw const maps::CHANGES).cast_mut().cast(), tcp.cast());
            }
        }
    }
}

/// Sets what is fresh and restores what is stale. First everything is read, then everything written, in the order of the table:
/// one option may change another (the traffic class the priority).
///
/// # Safety
/// Both pointers must be valid, the changes for writing.
#[inline(never)]
unsafe fn change(tcp: *mut tcp_sock, changes: *mut Changes, wanted: u64, fresh: u64, stale: u64) {
    unsafe {
        let ipv4 = is_ipv4(tcp);
        let (ours, left) = (get!(changes, set), get!(changes, left));
        let set = untouched(tcp.cast(), ipv4, changes, ours);
        let taken = ours & !set;
        let left = (left | taken) & wanted;
        let noted = read_all(tcp.cast(), ipv4, changes, fresh & !set & !left, BEFORE);
        // What stays is written again, because another option may change it.
        let write = (set | noted) & wanted;
        let failed = write_all(tcp.cast(), ipv4, changes, write, set & stale);
        let set = write & !failed;
        put!(changes, set, read_all(tcp.cast(), ipv4, changes, set, AFTER));
        put!(changes, left, left);
        maps::count_all(Counter::LiveSet, fresh & set);
        maps::count_all(Counter::LiveRestored, ours & !taken & stale & !failed);
        maps::count_all(Counter::LiveLeft, taken);
    }
}

/// What rules want on this socket if it is open already: the parameters, and in `look` their values.
///
/// # Safety
/// Both pointers must be valid, `look` for writing.
#[inline(never)]
unsafe fn wanted(tcp: *mut tcp_sock, look: *mut Look) -> u64 {
    unsafe {
        let Some((slot, head)) = in_force() else { return 0 };
        if head.live == 0 {
            return 0;
        }
        let attachment = socket::attachment(tcp);
        if attachment.is_null() || exempt(tcp) {
            return 0;
        }
        let at = (hide(u64::from(slot)) & (SLOTS as u64 - 1)) as usize;
        let service = u32::from((&raw const (*attachment).service).cast::<u16>().add(at).read_volatile());
        let (flow, hits) = (&raw mut (*look).flow, &raw mut (*look).hits);
        read_flow(tcp, direction(tcp), flow);
        // How long the handshake took is not known any more; rules that ask for it are for new connections only.
        if decide(flow, service, slot, 0, hits) <= 0 {
            return 0;
        }
        let decided = &raw mut (*look).decided;
        merge(hits, decided);
        get!(decided, live) & LIVE_MASK
    }
}

/// Who opened the connection: as stamped, else as the socket shows.
#[inline(always)]
unsafe fn direction(tcp: *mut tcp_sock) -> u8 {
    unsafe {
        let storage = (&raw const maps::STAMPS).cast_mut().cast();
        let stamp: *const Stamp = bpf_sk_storage_get(storage, tcp.cast(), ptr::null_mut(), 0).cast();
        if stamp.is_null() { socket::direction(tcp) } else { get!(stamp, direction) as u8 }
    }
}

/// Whether this is the daemon's own connection to its server.
#[inline(always)]
unsafe fn exempt(tcp: *mut tcp_sock) -> bool {
    let Some(active) = maps::ACTIVE.get_ptr(0) else { return false };
    // SAFETY: an element of the map, and the caller's socket.
    unsafe { get!(active, exempt_cookie) == bpf_get_socket_cookie(tcp.cast()) }
}
