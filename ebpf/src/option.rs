//! Options of sockets: how each parameter is set and read.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_getsockopt, bpf_setsockopt};
use sockpilot_policy::{
    layout::{NAME_BYTES, NAMES_MAX, Name, PARAMETER_SLOTS},
    parameter::{Action, Encoding, Kind, LIVE_MASK, PARAMETERS},
};

use crate::{maps, memory::hide};

/// Numbers for each slot in [`OPTIONS`].
const COLUMNS: usize = 7;

/// How a parameter is set, by slot: whether its value is the position of a name; level and name on IPv4 sockets; level and
/// name on IPv6 sockets; the bits that are the policy's; the value that is as good as none.
static OPTIONS: [[i32; COLUMNS]; PARAMETER_SLOTS] = {
    let mut options = [[0; COLUMNS]; PARAMETER_SLOTS];
    let mut slot = 0;
    while slot < PARAMETERS.len() {
        if let Action::Option { level, name, ipv6, none, .. } = PARAMETERS[slot].action {
            let (level6, name6) = match ipv6 {
                Some(other) => other,
                None => (level, name),
            };
            let bits = if matches!(PARAMETERS[slot].encoding, Encoding::CodePoint) { !3 } else { !0 };
            let named = matches!(PARAMETERS[slot].kind, Kind::Name) as i32;
            options[slot] = [named, level, name, level6, name6, bits, none as i32];
        }
        slot += 1;
    }
    options
};

/// An option of a socket. The socket is named by the context of its callback or by itself, as the kernel's helpers take it.
#[derive(Clone, Copy)]
pub struct SocketOption {
    socket: *mut c_void,
    level: i32,
    name: i32,
    /// Whether its value is a name.
    pub named: bool,
    /// The bits of its value that are the policy's; the others may change by themselves.
    pub bits: u32,
    /// The value that is as good as none, if what is there cannot be read or restored; else 0.
    pub none: u32,
}

impl SocketOption {
    /// The option behind a parameter.
    #[inline(always)]
    pub fn of(socket: *mut c_void, ipv4: bool, slot: usize) -> Self {
        // SAFETY: the position is bounded.
        unsafe {
            let at = (hide(slot as u64) & (PARAMETER_SLOTS as u64 - 1)) as usize;
            let option = (&raw const OPTIONS).cast::<i32>().add(at * COLUMNS);
            let side = if ipv4 { option.add(1) } else { option.add(3) };
            Self {
                socket,
                level: side.read_volatile(),
                name: side.add(1).read_volatile(),
                named: option.read_volatile() != 0,
                bits: option.add(5).read_volatile() as u32,
                none: option.add(6).read_volatile() as u32,
            }
        }
    }

    /// Sets it to a value as tables and stamps hold it.
    #[inline(always)]
    pub fn set(self, value: u32) -> i64 {
        if !self.named {
            return self.set_number(value);
        }
        let Some(names) = maps::NAMES.get_ptr(0) else { return -1 };
        let at = (hide(u64::from(value)) & (NAMES_MAX as u64 - 1)) as usize * NAME_BYTES;
        // SAFETY: within the table.
        unsafe { self.set_name(names.cast::<u8>().add(at).cast()) }
    }

    /// Sets it to a number.
    #[inline(always)]
    pub fn set_number(self, mut value: u32) -> i64 {
        // SAFETY: a buffer of the length said; the kernel checks the rest.
        unsafe { bpf_setsockopt(self.socket, self.level, self.name, (&raw mut value).cast(), 4) }
    }

    /// Sets it to a name.
    ///
    /// # Safety
    /// The name must be valid.
    #[inline(always)]
    pub unsafe fn set_name(self, name: *const Name) -> i64 {
        unsafe { bpf_setsockopt(self.socket, self.level, self.name, name.cast_mut().cast(), NAME_BYTES as i32) }
    }

    /// Reads it, if it is a number.
    #[inline(always)]
    pub fn number(self) -> Result<u32, i64> {
        let mut value = 0_u32;
        // SAFETY: a buffer of the length said.
        match unsafe { bpf_getsockopt(self.socket, self.level, self.name, (&raw mut value).cast(), 4) } {
            // SAFETY: a variable. Volatile, because the compiler does not see the kernel write.
            0 => Ok(unsafe { (&raw const value).read_volatile() }),
            error => Err(error),
        }
    }

    /// Reads it, if it is a name.
    ///
    /// # Safety
    /// The name must be valid for writing.
    #[inline(always)]
    pub unsafe fn read_name(self, name: *mut Name) -> i64 {
        unsafe { bpf_getsockopt(self.socket, self.level, self.name, name.cast(), NAME_BYTES as i32) }
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
