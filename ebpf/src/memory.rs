//! Access to memory that the kernel, other runs of the program, or the daemon share with this one: volatile, field by field, so that
//! the compiler neither merges nor moves it, nor makes it a call of `memcpy`.

use core::arch::asm;

/// Reads a field behind a pointer.
macro_rules! get {
    ($from:expr, $name:ident) => {
        (&raw const (*$from).$name).read_volatile()
    };
}
pub(crate) use get;

/// Writes a field behind a pointer.
macro_rules! put {
    ($to:expr, $name:ident, $value:expr) => {
        (&raw mut (*$to).$name).write_volatile($value)
    };
}
pub(crate) use put;

/// Makes a value unknown to the compiler.
#[inline(always)]
pub fn hide(mut value: u64) -> u64 {
    // SAFETY: a move. An empty text would break the line information of the BTF.
    unsafe { asm!("{0} = {0}", inout(reg) value) };
    value
}
