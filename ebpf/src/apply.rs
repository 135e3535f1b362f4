//! Setting what was decided.

use aya_ebpf::{bindings::bpf_sock_ops, helpers::bpf_setsockopt};
use sockpilot_policy::{
    layout::{NAME_BYTES, NAMES_MAX, PARAMETER_SLOTS, Stamp},
    parameter::{Action, Kind, PARAMETERS},
};

use crate::{
    decide::hide,
    flow::{AF_INET, field},
    maps,
};

/// Numbers for each slot in [`OPTIONS`].
const COLUMNS: usize = 5;

/// How a parameter is set, by slot: whether its value is the position of a name; level and name on IPv4 sockets; level and
/// name on IPv6 sockets.
static OPTIONS: [[i32; COLUMNS]; PARAMETER_SLOTS] = {
    let mut options = [[0; COLUMNS]; PARAMETER_SLOTS];
    let mut slot = 0;
    while slot < PARAMETERS.len() {
        if let Action::Option { level, name, ipv6, .. } = PARAMETERS[slot].action {
            let (level6, name6) = match ipv6 {
                Some(other) => other,
                None => (level, name),
            };
            options[slot] = [matches!(PARAMETERS[slot].kind, Kind::Name) as i32, level, name, level6, name6];
        }
        slot += 1;
    }
    options
};

/// Sets the options of one phase, in the order of the table.
#[inline(never)]
pub fn options(ctx: *mut bpf_sock_ops, stamp: *mut Stamp, phase: u64) {
    // SAFETY: an element of the storage.
    let mut left = unsafe { (&raw const (*stamp).parameters).read_volatile() } & phase;
    let mut refused = 0_u64;
    let mut step = 0;
    while step < phase.count_ones() {
        step += 1;
        if left == 0 {
            break;
        }
        let slot = (hide(u64::from(left.trailing_zeros())) & (PARAMETER_SLOTS as u64 - 1)) as usize;
        left &= left - 1;
        let result = set(ctx, stamp, slot);
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
        }
    }
}

#[inline(always)]
fn set(ctx: *mut bpf_sock_ops, stamp: *const Stamp, slot: usize) -> i64 {
    // SAFETY: positions are bounded by masks; the kernel checks the rest.
    unsafe {
        let option = (&raw const OPTIONS).cast::<i32>().add(slot * COLUMNS);
        let named = option.read_volatile();
        let side = if field!(ctx, family) == AF_INET { option.add(1) } else { option.add(3) };
        let (level, name) = (side.read_volatile(), side.add(1).read_volatile());
        let mut value = (&raw const (*stamp).values).cast::<u32>().add(slot).read_volatile();
        if named != 0 {
            let Some(names) = maps::NAMES.get_ptr(0) else { return -1 };
            let at = (hide(u64::from(value)) & (NAMES_MAX as u64 - 1)) as usize * NAME_BYTES;
            let text = names.cast::<u8>().add(at);
            return bpf_setsockopt(ctx.cast(), level, name, text.cast_mut().cast(), NAME_BYTES as i32);
        }
        bpf_setsockopt(ctx.cast(), level, name, (&raw mut value).cast(), 4)
    }
}
