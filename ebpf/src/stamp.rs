//! The stamp: what was decided, kept on the socket.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_ops},
    helpers::bpf_sk_storage_get,
};
use sockpilot_policy::layout::{Attachment, Counter, PARAMETER_SLOTS, Stamp};

use crate::{maps, memory::hide};

/// The stamp of a socket, whoever serves it; null if it has none.
#[inline(always)]
pub fn of(ctx: *mut bpf_sock_ops) -> *mut Stamp {
    stored(ctx, ptr::null_mut(), 0)
}

/// The stamp of a socket that this attachment serves.
#[inline(always)]
pub fn own(ctx: *mut bpf_sock_ops) -> Option<*mut Stamp> {
    let attachment = attachment()?;
    let stamp = of(ctx);
    // SAFETY: checked for null, and an element of the storage.
    unsafe {
        if stamp.is_null() || (&raw const (*stamp).attachment).read_volatile() != (*attachment).id {
            return None;
        }
    }
    Some(stamp)
}

/// What was decided since the tables were made: a union of `USED_*`.
#[inline(always)]
pub fn used() -> u32 {
    let Some(active) = maps::ACTIVE.get_ptr(0) else { return 0 };
    // SAFETY: an element of the map.
    unsafe { (&raw const (*active).used).read_volatile() }
}

/// What was decided for a parameter.
#[inline(always)]
pub fn value(stamp: *const Stamp, slot: usize) -> Option<u32> {
    let at = (hide(slot as u64) & (PARAMETER_SLOTS as u64 - 1)) as usize;
    // SAFETY: an element of a map, and a bounded position.
    unsafe {
        if (&raw const (*stamp).parameters).read_volatile() & (1 << at) == 0 {
            return None;
        }
        Some((&raw const (*stamp).values).cast::<u32>().add(at).read_volatile())
    }
}

/// This attachment, if the daemon has made it known.
#[inline(always)]
pub fn attachment() -> Option<*const Attachment> {
    let attachment = maps::ATTACHMENTS.get_ptr_mut();
    // SAFETY: the helper never returns null.
    if unsafe { (&raw const (*attachment).id).read_volatile() } == 0 { None } else { Some(attachment) }
}

/// A stamp for a socket, made from `from`, or from zeros; counted if there is no memory for it.
#[inline(always)]
pub fn create(ctx: *mut bpf_sock_ops, from: *mut Stamp) -> Option<*mut Stamp> {
    let stamp = stored(ctx, from, u64::from(BPF_SK_STORAGE_GET_F_CREATE));
    if stamp.is_null() {
        maps::count(Counter::StampFailed);
        return None;
    }
    Some(stamp)
}

/// The socket's storage; with `BPF_SK_STORAGE_GET_F_CREATE` made from `from`, or from zeros.
#[inline(always)]
fn stored(ctx: *mut bpf_sock_ops, from: *mut Stamp, flags: u64) -> *mut Stamp {
    // SAFETY: the context holds a pointer to a full socket, or null.
    unsafe {
        let sk = (&raw const (*ctx).__bindgen_anon_2.sk).read_volatile();
        if sk.is_null() {
            return ptr::null_mut();
        }
        bpf_sk_storage_get((&raw const maps::STAMPS).cast_mut().cast(), sk.cast(), from.cast(), flags).cast()
    }
}
