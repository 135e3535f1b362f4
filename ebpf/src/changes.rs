//! What was changed on a socket for rules that are for open connections too ([`Changes`]): noted before and after it is set, so
//! that it can be restored when no rule asks for it any more.
//!
//! The application has the last word: a value that is no longer what was set is its own.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_ops},
    helpers::bpf_sk_storage_get,
};
use sockpilot_policy::layout::{Changes, Counter, Name, Stamp};

use crate::{
    maps,
    memory::{get, put},
    option::{SocketOption, those},
};

/// Places of [`read_all`].
pub const BEFORE: usize = 0;

/// See [`BEFORE`].
pub const AFTER: usize = 1;

/// Notes what is there before options of a connection that begins are set; null if they cannot be restored.
#[inline(never)]
pub fn before(ctx: *mut bpf_sock_ops, ipv4: bool, options: u64) -> *mut Changes {
    // SAFETY: the context holds a pointer to a full socket, or null.
    unsafe {
        let sk = (&raw const (*ctx).__bindgen_anon_2.sk).read_volatile();
        if sk.is_null() {
            return ptr::null_mut();
        }
        let changes = create(sk.cast());
        if changes.is_null() {
            return changes;
        }
        // Some are set at two moments; what was there before is what was there before the first.
        let asked = get!(changes, asked);
        let noted = read_all(ctx.cast(), ipv4, changes, options & !asked, BEFORE);
        put!(changes, set, get!(changes, set) | noted);
        changes
    }
}

/// Notes what the kernel made of options that were set after [`before`].
///
/// # Safety
/// The changes must be valid for writing, the stamp for reading.
#[inline(never)]
pub unsafe fn after(ctx: *mut bpf_sock_ops, ipv4: bool, stamp: *const Stamp, changes: *mut Changes, options: u64) {
    unsafe {
        note(changes, stamp, options);
        put!(changes, asked, get!(changes, asked) | options);
        let set = get!(changes, set) & !get!(stamp, refused);
        put!(changes, set, set & !options | read_all(ctx.cast(), ipv4, changes, set & options, AFTER));
    }
}

/// The socket's storage; with `BPF_SK_STORAGE_GET_F_CREATE` made of zeros.
#[inline(always)]
pub unsafe fn stored(socket: *mut c_void, flags: u64) -> *mut Changes {
    unsafe {
        let changes = (&raw const maps::CHANGES).cast_mut().cast();
        bpf_sk_storage_get(changes, socket, ptr::null_mut(), flags).cast()
    }
}

/// The socket's storage, made if it is not there; null, and counted, if there is no memory for it.
#[inline(always)]
pub unsafe fn create(socket: *mut c_void) -> *mut Changes {
    let changes = unsafe { stored(socket, u64::from(BPF_SK_STORAGE_GET_F_CREATE)) };
    if changes.is_null() {
        maps::count(Counter::StampFailed);
    }
    changes
}

/// Notes the values that are wanted, and returns the parameters for which they are new.
///
/// # Safety
/// Both pointers must be valid, the changes for writing.
#[inline(never)]
pub unsafe fn note(changes: *mut Changes, decided: *const Stamp, wanted: u64) -> u64 {
    unsafe {
        let asked = get!(changes, asked);
        those(wanted, |slot| {
            let value = (&raw const (*decided).values).cast::<u32>().add(slot).read_volatile();
            let noted = (&raw mut (*changes).values).cast::<u32>().add(slot);
            let fresh = asked >> slot & 1 == 0 || noted.read_volatile() != value;
            if fresh {
                noted.write_volatile(value);
            }
            fresh
        })
    }
}

/// Reads options into the place of what was there before, or of what the kernel made of it. Returns those that can be restored.
///
/// # Safety
/// The socket must be one that helpers take, the changes valid for writing.
#[inline(never)]
pub unsafe fn read_all(socket: *mut c_void, ipv4: bool, changes: *mut Changes, options: u64, when: usize) -> u64 {
    unsafe {
        those(options, |slot| {
            let option = SocketOption::of(socket, ipv4, slot);
            let place = if when == BEFORE { &raw mut (*changes).before } else { &raw mut (*changes).after };
            let place = place.cast::<u32>().add(slot);
            let result = if option.named {
                option.read_name(if when == BEFORE {
                    &raw mut (*changes).name_before
                } else {
                    &raw mut (*changes).name_after
                })
            } else {
                option.number().map_or_else(
                    |error| error,
                    |number| {
                        // A bound that is not there yet.
                        let none = when == BEFORE && number == 0;
                        place.write_volatile(if none { option.none } else { number });
                        0
                    },
                )
            };
            if result != 0 && option.none == 0 {
                maps::count_refusal(slot, result);
                return false;
            }
            if result != 0 {
                place.write_volatile(option.none);
            }
            true
        })
    }
}

/// Sets options to what is wanted, and others back to what was there before. Returns those that the kernel refused.
///
/// # Safety
/// The socket must be one that helpers take, the changes valid.
#[inline(never)]
pub unsafe fn write_all(socket: *mut c_void, ipv4: bool, changes: *const Changes, set: u64, back: u64) -> u64 {
    unsafe {
        those(set | back, |slot| {
            let option = SocketOption::of(socket, ipv4, slot);
            let result = if back >> slot & 1 == 0 {
                option.set((&raw const (*changes).values).cast::<u32>().add(slot).read_volatile())
            } else if option.named {
                option.set_name(&raw const (*changes).name_before)
            } else {
                option.set_number((&raw const (*changes).before).cast::<u32>().add(slot).read_volatile())
            };
            if result != 0 {
                maps::count_refusal(slot, result);
            }
            result != 0
        })
    }
}

/// Of some options, those that still are as they were read after they had been set.
///
/// # Safety
/// The socket must be one that helpers take, the changes valid.
#[inline(never)]
pub unsafe fn untouched(socket: *mut c_void, ipv4: bool, changes: *const Changes, options: u64) -> u64 {
    unsafe {
        those(options, |slot| {
            let option = SocketOption::of(socket, ipv4, slot);
            if option.named {
                return has_name(option, &raw const (*changes).name_after);
            }
            let then = (&raw const (*changes).after).cast::<u32>().add(slot).read_volatile();
            // What nobody can read only programs like this one can set.
            option.number().map_or(option.none != 0, |now| (now ^ then) & option.bits == 0)
        })
    }
}

#[inline(always)]
unsafe fn has_name(option: SocketOption, name: *const Name) -> bool {
    unsafe {
        let mut now = MaybeUninit::<[u64; 2]>::uninit();
        let (now, then) = (now.as_mut_ptr().cast::<u64>(), name.cast::<u64>());
        option.read_name(now.cast()) == 0
            && now.read_volatile() == then.read_volatile()
            && now.add(1).read_volatile() == then.add(1).read_volatile()
    }
}
