//! Rules for connections that are open already.
//!
//! When the daemon asks for it, a program sees every socket of a network namespace ([`crate::socket`]), decides for those of
//! attached cgroups as if they were new, and sets what the winning rules want on open connections too. What was there before
//! is kept on the socket ([`Changes`]) and put back when no rule wants anything else any more.
//!
//! A connection that begins under such a rule gets its values from [`crate::apply`]; it remembers here what was there before, so
//! that it follows the rule's end like all others. The application has the last word: a value that is no longer what was
//! set is its own.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_ops, tcp_sock},
    helpers::{bpf_get_socket_cookie, bpf_sk_storage_delete, bpf_sk_storage_get},
};
use sockpilot_policy::{
    layout::{Changes, Counter, FlowKey, Hits, Name, PARAMETER_SLOTS, SLOTS, Stamp},
    parameter::LIVE_MASK,
};

use crate::{
    apply::SocketOption,
    decide::{decide, hide, in_force, merge},
    maps,
    record::{put, stamped},
    socket::{self, Context, is_ipv4, read, read_flow},
};

/// A connection that is looked at. Not on the stack, where beside a decision there is no room for it.
#[repr(C)]
pub struct Look {
    flow: FlowKey,
    hits: Hits,
    decided: Stamp,
}

const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE_WAIT: u8 = 8;
/// Places of [`read_all`].
const BEFORE: usize = 0;
/// See [`BEFORE`].
pub const AFTER: usize = 1;

/// Notes what is there before options of a connection that begins are set; null if they cannot be put back.
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
        let asked = stamped!(changes, asked);
        let noted = read_all(ctx.cast(), ipv4, changes, options & !asked, BEFORE);
        put!(changes, set, stamped!(changes, set) | noted);
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
        put!(changes, asked, stamped!(changes, asked) | options);
        let set = stamped!(changes, set) & !stamped!(stamp, refused);
        put!(changes, set, set & !options | read_all(ctx.cast(), ipv4, changes, set & options, AFTER));
    }
}

/// Always 0: on to the next socket.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn adjust_open(ctx: *const Context) -> i32 {
    // SAFETY: the kernel gives a valid context.
    unsafe {
        let tcp = Context::socket(ctx);
        if !tcp.is_null() && matches!(read!(tcp, u8, state), TCP_ESTABLISHED | TCP_CLOSE_WAIT) {
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
        let stale = stamped!(changes, asked) & !wanted;
        if fresh | stale != 0 {
            change(tcp, changes, wanted, fresh, stale);
            put!(changes, asked, wanted);
            if wanted == 0 {
                bpf_sk_storage_delete((&raw const maps::CHANGES).cast_mut().cast(), tcp.cast());
            }
        }
    }
}

/// Sets what is fresh and puts back what is stale. First everything is read, then everything written, in the order of the table:
/// one option may change another (the traffic class the priority).
///
/// # Safety
/// Both pointers must be valid, the changes for writing.
#[inline(never)]
unsafe fn change(tcp: *mut tcp_sock, changes: *mut Changes, wanted: u64, fresh: u64, stale: u64) {
    unsafe {
        let ipv4 = is_ipv4(tcp);
        let (ours, left) = (stamped!(changes, set), stamped!(changes, left));
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
        maps::count_all(Counter::LivePutBack, ours & !taken & stale & !failed);
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
        stamped!(decided, live) & LIVE_MASK
    }
}

/// Who opened the connection: as stamped, else as the socket shows.
#[inline(always)]
unsafe fn direction(tcp: *mut tcp_sock) -> u8 {
    unsafe {
        let storage = (&raw const maps::STAMPS).cast_mut().cast();
        let stamp: *const Stamp = bpf_sk_storage_get(storage, tcp.cast(), ptr::null_mut(), 0).cast();
        if stamp.is_null() { socket::direction(tcp) } else { stamped!(stamp, direction) as u8 }
    }
}

/// Whether this is the daemon's own connection to its server.
#[inline(always)]
unsafe fn exempt(tcp: *mut tcp_sock) -> bool {
    let Some(active) = maps::ACTIVE.get_ptr(0) else { return false };
    // SAFETY: an element of the map, and the caller's socket.
    unsafe { stamped!(active, exempt_cookie) == bpf_get_socket_cookie(tcp.cast()) }
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
unsafe fn note(changes: *mut Changes, decided: *const Stamp, wanted: u64) -> u64 {
    unsafe {
        let asked = stamped!(changes, asked);
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

/// Reads options into the place of what was there before, or of what the kernel made of it. Returns those that can be put back.
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

/// Of some options, in the order of the table, those for which something holds.
#[inline(always)]
pub fn those(options: u64, mut holds: impl FnMut(usize) -> bool) -> u64 {
    let (mut left, mut found, mut step) = (options & LIVE_MASK, 0, 0);
    while step < LIVE_MASK.count_ones() && left != 0 {
        step += 1;
        let slot = (hide(u64::from(left.trailing_zeros())) & (PARAMETER_SLOTS as u64 - 1)) as usize;
        left &= left - 1;
        found |= u64::from(holds(slot)) << slot;
    }
    found
}
