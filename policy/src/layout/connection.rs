//! What is kept on a connection's socket, and what is recorded of it.

#[cfg(doc)]
use super::{ACTIVE, Attachment, ChoiceEntry, Generation, PASSIVE};
use super::{BREAKERS_OF_ONE, FlowKey, LAYERS_MAX, Name, PARAMETER_SLOTS};

/// A decision, stamped on the socket when the connection begins. Its first fields stay in every layout ([`super::StampHead`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Stamp {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub start_ns: u64,
    /// [`Attachment::id`] of the attachment that decided and goes on to serve this connection; 0: the connection has ended.
    pub attachment: u32,
    /// Tells this connection from others of the same socket: the hash that the kernel draws for each (`sk_txhash`).
    pub attempt: u32,
    /// For tests of handovers between layouts that differ.
    #[cfg(feature = "layout-next")]
    pub next: u64,
    /// [`Generation::install`] of the tables that decided.
    pub install: u64,
    /// CLOCK_MONOTONIC, nanoseconds; 0: not established.
    pub established_ns: u64,
    /// Which parameters were decided, as a mask over the slots.
    pub parameters: u64,
    /// Which of them a rule decided that is for connections that are open already too.
    pub live: u64,
    /// Which of them the kernel refused to set.
    pub refused: u64,
    /// Of which of them `before` holds what was there before.
    pub noted: u64,
    /// Entries of `choices` in use.
    pub choice_count: u32,
    /// Retransmitted SYNs or SYN-ACKs.
    pub syn_retransmits: u32,
    /// Congestion window when established, after all was set.
    pub established_cwnd: u32,
    /// [`ACTIVE`] or [`PASSIVE`].
    pub direction: u32,
    /// Least round-trip time of the socket when it began to connect, which the kernel keeps from an earlier connection; 0: not
    /// looked at.
    pub stale_min_rtt_us: u32,
    /// The handshake's round-trip time, as the kernel measured it; 0: not established.
    pub handshake_rtt_us: u32,
    /// As in [`ChoiceEntry`].
    pub values: [u32; PARAMETER_SLOTS],
    /// What was there before, to be restored when the socket begins another connection.
    pub before: [u32; PARAMETER_SLOTS],
    /// Of the parameter that is a name: what was there before.
    pub name_before: Name,
    /// Which breakers count a bad end of this connection: marks of its choices, then zeros.
    pub breakers: [u32; BREAKERS_OF_ONE],
    /// The choice of each layer that matched, in the order of priority.
    pub choices: [u16; LAYERS_MAX],
    /// What records about the connection, still open then, have reported already.
    pub reported: Reported,
}

/// What earlier records of a connection have reported: what is new is the difference. All counted as in [`FlowRecord`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct Reported {
    /// As in [`FlowRecord`].
    pub bytes_sent: u64,
    /// As in [`FlowRecord`].
    pub bytes_received: u64,
    /// As in [`FlowRecord`].
    pub segments_out: u32,
    /// As in [`FlowRecord`].
    pub segments_in: u32,
    /// As in [`FlowRecord`].
    pub retransmits: u32,
    /// As in [`FlowRecord`].
    pub syn_retransmits: u32,
    /// As in [`FlowRecord`].
    pub rtos: u32,
    /// As in [`FlowRecord`].
    pub delivered_packets: u32,
    /// As in [`FlowRecord`].
    pub ce_marked_packets: u32,
    /// As in [`FlowRecord`].
    pub spurious_retransmits: u32,
    /// [`FlowRecord::end_ns`] of the last record; 0: there was none.
    pub end_ns: u64,
}

/// What was changed on a socket for a rule that is for open connections too, so that it can be restored. Beside the stamp,
/// because few sockets have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Changes {
    /// The parameters that rules ask for, as a mask over the slots. Each is set once for every new value, so that the
    /// application has the last word.
    pub asked: u64,
    /// Those of them that were set.
    pub set: u64,
    /// Those of them that the application has changed since: they are left alone.
    pub left: u64,
    /// What was asked for, as in [`ChoiceEntry`].
    pub values: [u32; PARAMETER_SLOTS],
    /// What was there before.
    pub before: [u32; PARAMETER_SLOTS],
    /// What the kernel made of it, read back.
    pub after: [u32; PARAMETER_SLOTS],
    /// Of the parameter that is a name: what was there before.
    pub name_before: Name,
    /// Of the parameter that is a name: what the kernel made of it.
    pub name_after: Name,
}

/// Key of a decision that waits for the handshake's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C, align(8))]
pub struct PendingKey {
    /// The flow, passive.
    pub flow: FlowKey,
    /// The network namespace: two may have connections with equal addresses.
    pub netns_cookie: u64,
}

/// The outcome of one end of one connection, written when it closes, and at intervals while it is open. Everything is counted
/// from the connection's beginning; `reported` says how much of that was in earlier records. Daemons of other layouts read it, too: fields
/// are only added, at the end ([`super::Handover`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct FlowRecord {
    /// Which end of which connection.
    pub flow: FlowKey,
    /// As in [`Stamp`].
    pub install: u64,
    /// As in [`Stamp`].
    pub start_ns: u64,
    /// As in [`Stamp`].
    pub established_ns: u64,
    /// When the record was written: the end, or a moment while still open. CLOCK_MONOTONIC, nanoseconds.
    pub end_ns: u64,
    /// As in [`Stamp`].
    pub parameters: u64,
    /// As in [`Stamp`].
    pub refused: u64,
    /// Acknowledged by the peer; like `TCP_INFO`, counting SYN (active end) and FIN as a byte each.
    pub bytes_sent: u64,
    /// Received in order; like `TCP_INFO`, counting the FIN as a byte.
    pub bytes_received: u64,
    /// State before CLOSE, or while still open, as in the kernel's `TCP_*`.
    pub old_state: u32,
    /// `sk_err` at the end: 0, ECONNRESET, ETIMEDOUT …
    pub error: u32,
    /// All segments sent, retransmissions too.
    pub segments_out: u32,
    /// All segments received.
    pub segments_in: u32,
    /// Retransmitted segments without SYNs.
    pub retransmits: u32,
    /// As in [`Stamp`].
    pub syn_retransmits: u32,
    /// Expired retransmission timers.
    pub rtos: u32,
    /// Smoothed round-trip time.
    pub srtt_us: u32,
    /// Least round-trip time in the kernel's window (about 300 s); 0: not known.
    pub min_rtt_us: u32,
    /// Congestion window at the end.
    pub final_cwnd: u32,
    /// As in [`Stamp`].
    pub established_cwnd: u32,
    /// Entries of `choices` in use. 0: no layer matched; it is one of the few of these that are recorded.
    pub choice_count: u32,
    /// Packets delivered in the last rate sample; with the interval it is the delivery rate.
    pub rate_delivered: u32,
    /// Length of the last rate sample.
    pub rate_interval_us: u32,
    /// Bytes of a full segment at the end.
    pub mss_bytes: u32,
    /// 1 if the connection was still open, else 0.
    pub still_open: u32,
    /// Packets that the peer is known to have, out of order too; like `TCP_INFO`, with SYN or SYN-ACK and FIN.
    pub delivered_packets: u32,
    /// Of the delivered packets, those acknowledged with the echo of a congestion mark (ECN).
    pub ce_marked_packets: u32,
    /// Packets that the peer says it got twice (duplicate SACKs): most of them were sent again without need.
    pub spurious_retransmits: u32,
    /// As in [`Stamp`].
    pub attachment: u32,
    /// As in [`Stamp`].
    pub handshake_rtt_us: u32,
    /// Whether the last rate sample was limited by what the application had to send: 1 or 0.
    pub rate_app_limited: u32,
    /// As in [`Stamp`].
    pub choices: [u16; LAYERS_MAX],
    /// As in [`Stamp`].
    pub reported: Reported,
    /// For tests of handovers between layouts that differ.
    #[cfg(feature = "layout-next")]
    pub next: u64,
}
