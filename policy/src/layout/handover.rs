//! What stays as it is in every layout, so that two kernel sides of different layouts can work side by side: the handover contract.
//!
//! A **side** is a program with its links and maps, in a directory of pins `layout-L-N`: its layout, and its number, counted from 1 on each
//! node. The side that [`Handover::in_charge`] names decides new connections; earlier ones serve what they have stamped, to its end. So a
//! version with other tables puts its own beside those at work, fills them, and takes over by one store. Nothing else is
//! shared between layouts, so from layout 7 on these never change their meaning, place or size:
//!
//! - the pin `open_flow`, an iterator over sockets that writes a record of each open connection that its side serves, if it is there;
//! - the names of the pins `HANDOVER`, `STAMPS`, `PENDING`, `RECORDS`, `COUNTS` and of those that begin with `link` or `service-`;
//! - [`Handover`], and that a program decides a connection only while it is in charge, or if it has a decision waiting in `PENDING`;
//! - how [`super::Stamp`] begins, as [`StampHead`] says; `STAMPS` has one for each socket that its side has stamped, and `PENDING` one for each
//!   request that it has decided, by [`super::PendingKey`];
//! - every field of [`super::FlowRecord`] and every [`super::Counter`] that there was in layout 7. New ones come after them, and are zero where an
//!   earlier layout lacks them; a later layout's are passed over;
//! - the maps that sides have in common ([`COMMON`]), whole. A layout that cannot do with one of them makes another, under another name.

/// Maps that all sides of a node have in common: each pins the same ones.
pub const COMMON: [&str; 6] = ["HANDOVER", "NAMES", "CHANGES", "BREAKERS", "TRIPS", "COUNTED"];

/// The first layout whose sides hand over. Those before know nothing of it.
pub const HANDOVER_SINCE: u32 = 7;
/// Earlier sides that a program looks at for who serves a connection. Of still earlier ones nothing is served any more.
pub const EARLIER_MAX: usize = 3;
/// Entries of [`Handover::relieved_ns`].
pub const RELIEVED: usize = 8;

/// Who decides. One element, which only the daemon writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct Handover {
    /// The number of the side that decides new connections; 0: there is none yet.
    pub in_charge: u32,
    /// The first side that still serves connections. Those before decide nothing, and nobody heeds what they have stamped.
    pub oldest: u32,
    /// The greatest [`super::Generation::install`] that any side has had: no two have the same.
    pub installs: u64,
    /// When each side was relieved by the next one, by its number modulo [`RELIEVED`]: CLOCK_MONOTONIC, nanoseconds; 0: it was not.
    pub relieved_ns: [u64; RELIEVED],
    /// Zero.
    pub reserved: [u64; 6],
}

/// How the stamp of every layout begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct StampHead {
    /// As in [`super::Stamp`].
    pub start_ns: u64,
    /// As in [`super::Stamp`].
    pub attachment: u32,
    /// As in [`super::Stamp`].
    pub attempt: u32,
}

#[cfg(test)]
mod tests;
