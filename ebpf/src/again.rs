//! A socket that has carried a connection and begins anew: it connects again after having been refused or disconnected, or it
//! listens. What is kept on it belongs to the connection that has ended; so do the options that were set, which stay on the
//! socket. They are restored first, so that the next connection is decided and set as that of a fresh socket.
//!
//! The application has the last word here too: a value that is no longer what was set is its own.

use core::ffi::c_void;

use aya_ebpf::{bindings::bpf_sock_ops, helpers::bpf_sk_storage_delete};
use sockpilot_policy::layout::{Changes, Counter, NAME_BYTES, Name, PARAMETER_SLOTS, Stamp};

use crate::{
    changes::{self, AFTER},
    flow::{AF_INET, field},
    maps,
    memory::{get, put},
    option::{SocketOption, those},
    stamp,
};

/// Notes what is there before options are set that stay on the socket.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn note_before(ctx: *mut bpf_sock_ops, stamp: *mut Stamp, options: u64) -> i32 {
    if stamp.is_null() {
        return 0;
    }
    let ipv4 = field!(ctx, family) == AF_INET;
    // SAFETY: not null, and an element of the storage.
    unsafe {
        // Some are set at two moments; what was there before is what was there before the first.
        let noted = get!(stamp, noted);
        let fresh = those(options & !noted, |slot| {
            let option = SocketOption::of(ctx.cast(), ipv4, slot);
            if option.named {
                return option.read_name(&raw mut (*stamp).name_before) == 0;
            }
            let before = if option.none == 0 { option.number() } else { Ok(option.none) };
            before.is_ok_and(|number| {
                (&raw mut (*stamp).before).cast::<u32>().add(slot).write_volatile(number);
                true
            })
        });
        put!(stamp, noted, noted | fresh);
    }
    0
}

/// A socket that listens hands its options on to what it accepts.
#[inline(always)]
pub fn listening(ctx: *mut bpf_sock_ops) {
    forget(ctx);
}

/// Forgets the connection that has ended: restores what was there before, and takes its stamp off the socket.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn forget(ctx: *mut bpf_sock_ops) -> i32 {
    let stamp = stamp::of(ctx);
    let ipv4 = field!(ctx, family) == AF_INET;
    // SAFETY: the context holds a pointer to a full socket, or null; the rest are elements of its storages.
    unsafe {
        let sk: *mut c_void = (&raw const (*ctx).__bindgen_anon_2.sk).read_volatile().cast();
        if sk.is_null() {
            return 0;
        }
        let mut changes = changes::stored(sk, 0);
        if !changes.is_null() {
            let ours = changes::untouched(ctx.cast(), ipv4, changes, get!(changes, set));
            let failed = changes::write_all(ctx.cast(), ipv4, changes, 0, ours);
            maps::count_all(Counter::LiveRestored, ours & !failed);
        }
        if !stamp.is_null() {
            if get!(stamp, attachment) != 0 {
                // Another program kept its end from us.
                maps::count(Counter::FlowsClosed);
                maps::count_open(ctx, -1);
                maps::count(Counter::RecordsDropped);
            }
            if get!(stamp, noted) != 0 {
                if changes.is_null() {
                    changes = changes::create(sk);
                }
                if !changes.is_null() {
                    restore(ctx, ipv4, stamp, changes);
                }
            }
            bpf_sk_storage_delete((&raw const maps::STAMPS).cast_mut().cast(), sk);
        }
        if !changes.is_null() {
            bpf_sk_storage_delete((&raw const maps::CHANGES).cast_mut().cast(), sk);
        }
    }
    0
}

/// Restores what the stamp notes. What the kernel had made of it then was not read, so as to cost the connection nothing: it
/// is made again now, and what comes out as it was is ours. `changes` is but room to do it in.
///
/// # Safety
/// All pointers must be valid, the changes for writing.
#[inline(never)]
unsafe fn restore(ctx: *mut bpf_sock_ops, ipv4: bool, stamp: *const Stamp, changes: *mut Changes) {
    unsafe {
        let noted = changes::read_all(ctx.cast(), ipv4, changes, get!(stamp, noted), AFTER);
        copy(&raw const (*stamp).values, &raw mut (*changes).values);
        changes::write_all(ctx.cast(), ipv4, changes, noted, 0);
        let ours = changes::untouched(ctx.cast(), ipv4, changes, noted);
        copy(&raw const (*stamp).before, &raw mut (*changes).before);
        copy_name(&raw const (*stamp).name_before, &raw mut (*changes).name_before);
        those(noted & !ours, |slot| {
            let now = (&raw const (*changes).after).cast::<u32>().add(slot).read_volatile();
            (&raw mut (*changes).before).cast::<u32>().add(slot).write_volatile(now);
            if SocketOption::of(ctx.cast(), ipv4, slot).named {
                copy_name(&raw const (*changes).name_after, &raw mut (*changes).name_before);
            }
            true
        });
        changes::write_all(ctx.cast(), ipv4, changes, 0, noted);
    }
}

#[inline(always)]
unsafe fn copy(from: *const [u32; PARAMETER_SLOTS], to: *mut [u32; PARAMETER_SLOTS]) {
    unsafe { copy_words(from.cast(), to.cast(), PARAMETER_SLOTS / 2) };
}

#[inline(always)]
unsafe fn copy_name(from: *const Name, to: *mut Name) {
    unsafe { copy_words(from.cast(), to.cast(), NAME_BYTES / 8) };
}

#[inline(always)]
unsafe fn copy_words(from: *const u64, to: *mut u64, words: usize) {
    let mut at = 0;
    while at < words {
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
        at += 1;
    }
}
