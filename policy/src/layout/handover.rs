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
mod tests {
    use core::mem::offset_of;

    use super::*;
    use crate::layout::{COUNTERS, Counter, FlowKey, FlowRecord, LAYOUT_VERSION, PendingKey, Reported, Stamp};

    /// Whoever has to change a number here breaks the contract with versions that are at work already.
    #[test]
    fn the_contract_stands() {
        const { assert!(LAYOUT_VERSION >= HANDOVER_SINCE) };
        assert_eq!(size_of::<Handover>(), 128);
        assert_eq!((offset_of!(Handover, in_charge), offset_of!(Handover, oldest)), (0, 4));
        assert_eq!((offset_of!(Handover, installs), offset_of!(Handover, relieved_ns)), (8, 16));
        assert_eq!((offset_of!(Stamp, start_ns), offset_of!(StampHead, start_ns)), (0, 0));
        assert_eq!((offset_of!(Stamp, attachment), offset_of!(StampHead, attachment)), (8, 8));
        assert_eq!((offset_of!(Stamp, attempt), offset_of!(StampHead, attempt)), (12, 12));
        assert_eq!((size_of::<PendingKey>(), size_of::<FlowKey>()), (48, 40));
        assert_eq!((offset_of!(PendingKey, flow), offset_of!(PendingKey, netns_cookie)), (0, 40));
        assert_eq!(
            (offset_of!(FlowKey, local), offset_of!(FlowKey, remote), offset_of!(FlowKey, local_port)),
            (0, 16, 32)
        );
        let ends = (offset_of!(FlowKey, remote_port), offset_of!(FlowKey, family), offset_of!(FlowKey, direction));
        assert_eq!(ends, (34, 36, 37));
    }

    #[test]
    fn records_and_counters_only_grow() {
        macro_rules! offsets {
            ($of:ident: $($field:ident),*) => { [$(offset_of!($of, $field)),*] };
        }
        let wide = offsets!(FlowRecord: flow, install, start_ns, established_ns, end_ns, parameters, refused, bytes_sent, bytes_received);
        assert_eq!(wide, [0, 40, 48, 56, 64, 72, 80, 88, 96]);
        let narrow = offsets!(FlowRecord: old_state, error, segments_out, segments_in, retransmits, syn_retransmits, rtos, srtt_us,
            min_rtt_us, final_cwnd, established_cwnd, choice_count, rate_delivered, rate_interval_us, mss_bytes, still_open,
            delivered_packets, ce_marked_packets, spurious_retransmits, attachment, handshake_rtt_us, rate_app_limited);
        assert_eq!(narrow, core::array::from_fn(|at| 104 + 4 * at));
        assert_eq!(offsets!(FlowRecord: choices, reported), [192, 320]);
        let reported = offsets!(Reported: bytes_sent, bytes_received, segments_out, segments_in, retransmits, syn_retransmits, rtos,
            delivered_packets, ce_marked_packets, spurious_retransmits, end_ns);
        assert_eq!(reported, [0, 8, 16, 20, 24, 28, 32, 36, 40, 44, 48]);
        const { assert!(size_of::<FlowRecord>() >= 376 && COUNTERS >= 14) };
        assert_eq!(
            (Counter::FlowsStamped as u32, Counter::FlowsClosed as u32, Counter::RecordsDropped as u32),
            (0, 1, 2)
        );
    }
}
