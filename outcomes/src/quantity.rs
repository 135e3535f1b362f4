//! The one table of quantities: what is counted or measured of a flow.

use sockpilot_stats::Distribution;

use crate::{Flow, Outcome};

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    /// On the wire, in JSON and in documents.
    pub name: &'static str,
    /// Its number on the wire.
    pub number: u32,
    /// What a value of 1 is.
    pub unit: Unit,
    /// Field of the kernel's record that it comes from.
    pub source: &'static str,
    /// Which flows have one.
    pub of: &'static str,
    /// What it says.
    pub summary: &'static str,
    /// The least Linux version (major, minor) that tells it; `None`: all that sockpilot runs on.
    pub since: Option<(u32, u32)>,
    /// What becomes of the values of many flows.
    pub aggregate: Aggregate,
}

/// What a value of 1 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A flow.
    Flows,
    /// A record.
    Records,
    /// A byte.
    Bytes,
    /// A segment.
    Segments,
    /// A packet.
    Packets,
    /// A timer that expired.
    Timeouts,
    /// A microsecond.
    Microseconds,
}

impl Unit {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Records => "records",
            Self::Bytes => "bytes",
            Self::Segments => "segments",
            Self::Packets => "packets",
            Self::Timeouts => "timeouts",
            Self::Microseconds => "µs",
        }
    }
}

/// What becomes of the values of many flows.
#[derive(Debug, Clone, Copy)]
pub enum Aggregate {
    /// They add up. A record of an open flow adds what is new since the last one.
    Sum(fn(&Flow<'_>) -> u64),
    /// Their distribution is kept; flows have one value each, at their end, or none.
    Distribution(fn(&Flow<'_>) -> Option<u64>),
}

macro_rules! quantities {
    (
        sums { $(
            $(#[doc = $sum_doc:literal])+
            $sum:ident = $sum_number:literal, $sum_unit:ident, from $sum_source:literal, of $sum_of:literal, since $sum_since:expr, $sum_value:expr;
        )+ }
        distributions { $(
            $(#[doc = $dist_doc:literal])+
            $dist:ident = $dist_number:literal, $dist_unit:ident, from $dist_source:literal, of $dist_of:literal, since $dist_since:expr, $dist_value:expr;
        )+ }
    ) => {
        /// All of them: first what adds up, then what is distributed.
        pub const QUANTITIES: &[Quantity] = &[
            $(Quantity {
                name: stringify!($sum),
                number: $sum_number,
                unit: Unit::$sum_unit,
                source: $sum_source,
                of: $sum_of,
                summary: concat!($($sum_doc),+),
                since: $sum_since,
                aggregate: Aggregate::Sum($sum_value),
            },)+
            $(Quantity {
                name: stringify!($dist),
                number: $dist_number,
                unit: Unit::$dist_unit,
                source: $dist_source,
                of: $dist_of,
                summary: concat!($($dist_doc),+),
                since: $dist_since,
                aggregate: Aggregate::Distribution($dist_value),
            },)+
        ];

        /// What adds up, of many flows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Counts { $($(#[doc = $sum_doc])+ pub $sum: u64,)+ }

        impl Counts {
            /// Adds a record.
            pub(crate) fn add(&mut self, flow: &Flow<'_>) {
                $({
                    let value: fn(&Flow<'_>) -> u64 = $sum_value;
                    self.$sum = self.$sum.saturating_add(value(flow));
                })+
            }

            /// Adds those of others. Saturates: no fleet has 2^64 of anything, and a wrong sum must not look like a small one.
            pub fn merge(&mut self, other: &Self) {
                $(self.$sum = self.$sum.saturating_add(other.$sum);)+
            }

            /// Each with its name.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($sum), self.$sum)),+].into_iter()
            }
        }

        /// What is distributed, of many flows.
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct Distributions { $($(#[doc = $dist_doc])+ pub $dist: Distribution,)+ }

        impl Distributions {
            /// Adds a record.
            pub(crate) fn add(&mut self, flow: &Flow<'_>) {
                $({
                    let value: fn(&Flow<'_>) -> Option<u64> = $dist_value;
                    if let Some(value) = value(flow) {
                        self.$dist.add(value as f64);
                    }
                })+
            }

            /// Adds those of others.
            pub fn merge(&mut self, other: &Self) {
                $(self.$dist.merge(&other.$dist);)+
            }

            /// Each with its name.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &Distribution)> {
                [$((stringify!($dist), &self.$dist)),+].into_iter()
            }
        }
    };
}

/// What a record says that no earlier one of its flow has said. The kernel's counters wrap around; differences do not mind.
macro_rules! since_last {
    ($field:ident) => {
        |flow| u64::from(flow.record.$field.wrapping_sub(flow.record.reported.$field))
    };
}

/// Whether a flow has ended like this.
macro_rules! ended {
    ($outcome:ident) => {
        |flow| u64::from(flow.outcome == Outcome::$outcome)
    };
}

quantities! {
    sums {
        /// All flows that have ended; the outcomes add up to it.
        flows = 1, Flows, from "still_open", of "all", since None, |flow| u64::from(flow.ended());
        /// Closed after having been established, in order: both ends have said that they are done.
        established = 2, Flows, from "error", of "all", since None, ended!(Established);
        /// Never established: refused, unreachable, or given up by the kernel.
        failed = 3, Flows, from "error", of "all", since None, ended!(Failed);
        /// Established, then ended by a reset of either end.
        reset = 4, Flows, from "error", of "all", since None, ended!(Reset);
        /// Established, then given up by a timeout.
        timed_out = 5, Flows, from "error", of "all", since None, ended!(TimedOut);
        /// Acknowledged by the peer. As `TCP_INFO` counts: with SYN (active end) and FIN as a byte each.
        bytes_sent = 6, Bytes, from "bytes_sent", of "all", since None, since_last!(bytes_sent);
        /// Received in order; as `TCP_INFO` counts, with the FIN as a byte.
        bytes_received = 7, Bytes, from "bytes_received", of "all", since None, since_last!(bytes_received);
        /// All segments sent, retransmissions too.
        segments_out = 8, Segments, from "segments_out", of "all", since None, since_last!(segments_out);
        /// All segments received.
        segments_in = 9, Segments, from "segments_in", of "all", since None, since_last!(segments_in);
        /// Of data; SYNs are counted apart.
        retransmits = 10, Segments, from "retransmits", of "all", since None, since_last!(retransmits);
        /// SYNs and SYN-ACKs that were sent again.
        syn_retransmits = 11, Segments, from "syn_retransmits", of "all", since None, since_last!(syn_retransmits);
        /// Expired retransmission timers.
        // The kernel counts them in 16 bits.
        rtos = 12, Timeouts, from "rtos", of "all", since Some((6, 7)),
            |flow| u64::from(flow.record.rtos.wrapping_sub(flow.record.reported.rtos) & 0xffff);
        /// Flows on which the kernel refused to set a parameter.
        set_failures = 13, Flows, from "refused", of "all", since None, |flow| u64::from(flow.ended() && flow.record.refused != 0);
        /// Records of flows that were still open. A node tells about each long flow at intervals; bytes, segments, retransmits, timeouts
        /// and packets since the last record are in the sums; everything else comes with the end.
        still_open = 14, Records, from "still_open", of "long", since None, |flow| u64::from(!flow.ended());
        /// Packets that the peer is known to have, also out of order; like `TCP_INFO`, with the SYN or SYN-ACK and the FIN.
        delivered_packets = 15, Packets, from "delivered_packets", of "all", since None, since_last!(delivered_packets);
        /// Of these, packets acknowledged with the echo of a congestion mark (ECN). With classic ECN the peer echoes a mark until it
        /// hears that the window was reduced, so this counts somewhat more than was marked.
        ce_marked_packets = 16, Packets, from "ce_marked_packets", of "all", since None, since_last!(ce_marked_packets);
        /// Packets that the peer says it got twice (duplicate SACKs). Most were sent again without need: a timer was too short, or
        /// packets overtook each other. Against `retransmits` it says how much of that was waste.
        spurious_retransmits = 17, Packets, from "spurious_retransmits", of "all", since None, since_last!(spurious_retransmits);
        /// Never established, because the program itself closed or disconnected the socket while nobody had answered yet: it waits no
        /// longer, or another address answered first (happy eyeballs). Nodes that do not tell them apart count them as failed.
        abandoned = 18, Flows, from "error", of "all", since None, ended!(Abandoned);
    }
    distributions {
        /// The handshake's time. Active end: from sending the first SYN to the SYN-ACK's arrival, so a round trip and the waits for SYNs
        /// that were sent again. (Of a flow that only a rule on the handshake's time matched: the kernel's measure of the round trip,
        /// without waits, because nobody looked earlier.) Passive end: absent, because the kernel shows no request while its
        /// handshake is under way and keeps no time of the SYN; there the round trip of SYN-ACK and ACK is the first sample of `srtt_us`.
        connect_time_us = 9, Microseconds, from "established_ns", of "established, active", since None, |flow| flow.connect_time_us;
        /// Smoothed round-trip time at the end.
        srtt_us = 10, Microseconds, from "srtt_us", of "established", since None, |flow| flow.measured(flow.record.srtt_us);
        /// From the beginning to the end.
        duration_us = 11, Microseconds, from "end_ns", of "established", since None, |flow| flow.duration_us;
        /// Congestion window when the connection was established: what an initial window really was.
        established_cwnd = 12, Packets, from "established_cwnd", of "established", since None,
            |flow| flow.measured(flow.record.established_cwnd);
    }
}
