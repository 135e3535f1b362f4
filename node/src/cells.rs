//! What a flow record means, and what it adds to a cell. Pure.

use std::sync::Arc;

use sockpilot_policy::layout::{FlowRecord, PASSIVE};
use sockpilot_proto::v1;
use sockpilot_stats::{Distribution, DistributionError, Moments};

/// A choice of a layer, as outcomes name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Choice {
    /// `policies/{policy}` or `experiments/{experiment}`.
    pub layer: String,
    /// Revision or epoch.
    pub revision: u64,
    /// The rule's or the arm's name.
    pub name: String,
}

/// A stretch of wall-clock time, aligned to its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interval {
    /// Seconds since 1970.
    pub start_s: u64,
    /// Seconds.
    pub length_s: u32,
}

impl Interval {
    /// The interval that a moment lies in.
    #[must_use]
    pub fn at(moment_s: u64, length_s: u32) -> Self {
        let length_s = length_s.max(1);
        Self { start_s: moment_s - moment_s % u64::from(length_s), length_s }
    }

    /// The first second after it.
    #[must_use]
    pub fn end_s(self) -> u64 {
        self.start_s.saturating_add(u64::from(self.length_s))
    }
}

/// What tells cells apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CellKey {
    /// When the flows ended.
    pub interval: Interval,
    /// What they had.
    pub choice: Arc<Choice>,
    /// Who opened them.
    pub direction: v1::Direction,
    /// How much they sent.
    pub size_class: v1::SizeClass,
}

/// What a cell holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sums {
    /// Exact sums.
    pub counts: v1::FlowCounts,
    /// From SYN to established, active flows only.
    pub connect_time_us: Distribution,
    /// Smoothed round-trip time at the end.
    pub srtt_us: Distribution,
    /// From the beginning to the end, established flows only.
    pub duration_us: Distribution,
    /// Congestion window when established.
    pub established_cwnd: Distribution,
}

/// A flow record, understood: every quantity is there exactly if the flow has one.
#[derive(Debug, Clone, Copy)]
pub struct Flow<'a> {
    /// As the kernel wrote it.
    pub record: &'a FlowRecord,
    /// What came of it.
    pub outcome: v1::Outcome,
    /// Who opened it.
    pub direction: v1::Direction,
    /// How much it sent.
    pub size_class: v1::SizeClass,
    /// Of active flows only: the record of a passive one begins when it is established.
    pub connect_time_us: Option<u64>,
    /// Of established flows.
    pub duration_us: Option<u64>,
}

impl<'a> Flow<'a> {
    /// Understands a record.
    #[must_use]
    pub fn of(record: &'a FlowRecord) -> Self {
        let direction = if record.flow.direction == PASSIVE { v1::Direction::Passive } else { v1::Direction::Active };
        let established = record.established_ns > 0;
        let since_start = |end_ns: u64| end_ns.saturating_sub(record.start_ns) / 1_000;
        Self {
            record,
            outcome: outcome(record),
            direction,
            size_class: size_class(record.bytes_sent),
            connect_time_us: (established && direction == v1::Direction::Active)
                .then(|| since_start(record.established_ns)),
            duration_us: established.then(|| since_start(record.end_ns)),
        }
    }
}

/// States, as in the kernel's `TCP_*`.
const TCP_ESTABLISHED: u32 = 1;
const TCP_CLOSE_WAIT: u32 = 8;

fn outcome(record: &FlowRecord) -> v1::Outcome {
    if record.still_open != 0 {
        return v1::Outcome::StillOpen;
    }
    if record.established_ns == 0 {
        // The program's own doing leaves no error. Neither does a SYN that could not be sent, but then nothing was.
        let abandoned = record.error == 0 && record.segments_out > 0;
        return if abandoned { v1::Outcome::Abandoned } else { v1::Outcome::Failed };
    }
    match i32::try_from(record.error) {
        Ok(libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED) => v1::Outcome::Reset,
        // A connection that is given up has the last word of the network as its error, if there was one.
        Ok(libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN) => v1::Outcome::TimedOut,
        // Who goes with data unread, or does not want to linger, sends a reset instead of the FIN, and has no error.
        _ if matches!(record.old_state, TCP_ESTABLISHED | TCP_CLOSE_WAIT) => v1::Outcome::Reset,
        _ => v1::Outcome::Established,
    }
}

fn size_class(bytes_sent: u64) -> v1::SizeClass {
    match bytes_sent {
        0..=14_600 => v1::SizeClass::Small,
        14_601..=146_000 => v1::SizeClass::Medium,
        146_001..=1_000_000 => v1::SizeClass::Large,
        _ => v1::SizeClass::Huge,
    }
}

impl Sums {
    /// Adds one record: of a flow that has ended all, but what earlier records told; of one that is still open only what is new.
    pub fn add(&mut self, flow: &Flow<'_>) {
        let (record, told) = (flow.record, &flow.record.told);
        let one_if = |holds: bool| u64::from(holds);
        let ended = flow.outcome != v1::Outcome::StillOpen;
        // The kernel's counters wrap around; differences do not mind.
        let since = |now: u32, told: u32| u64::from(now.wrapping_sub(told));
        self.counts = plus(
            &self.counts,
            &v1::FlowCounts {
                flows: one_if(ended),
                still_open: one_if(!ended),
                established: one_if(flow.outcome == v1::Outcome::Established),
                failed: one_if(flow.outcome == v1::Outcome::Failed),
                reset: one_if(flow.outcome == v1::Outcome::Reset),
                timed_out: one_if(flow.outcome == v1::Outcome::TimedOut),
                abandoned: one_if(flow.outcome == v1::Outcome::Abandoned),
                bytes_sent: record.bytes_sent.wrapping_sub(told.bytes_sent),
                bytes_received: record.bytes_received.wrapping_sub(told.bytes_received),
                segments_out: since(record.segments_out, told.segments_out),
                segments_in: since(record.segments_in, told.segments_in),
                retransmits: since(record.retransmits, told.retransmits),
                syn_retransmits: since(record.syn_retransmits, told.syn_retransmits),
                // Counted in 16 bits by the kernel.
                rtos: since(record.rtos, told.rtos) & 0xffff,
                set_failures: one_if(ended && record.refused != 0),
                delivered_packets: since(record.delivered_packets, told.delivered_packets),
                ce_marked_packets: since(record.ce_marked_packets, told.ce_marked_packets),
                spurious_retransmits: since(record.spurious_retransmits, told.spurious_retransmits),
            },
        );
        if !ended {
            return;
        }
        let established = record.established_ns > 0;
        let measured = |value: u32| (established && value > 0).then_some(u64::from(value));
        for (distribution, value) in [
            (&mut self.connect_time_us, flow.connect_time_us),
            (&mut self.srtt_us, measured(record.srtt_us)),
            (&mut self.duration_us, flow.duration_us),
            (&mut self.established_cwnd, measured(record.established_cwnd)),
        ] {
            if let Some(value) = value {
                distribution.add(value as f64);
            }
        }
    }

    /// Bins of all sketches: what the cell costs in memory, at 16 bytes each.
    #[must_use]
    pub fn bins(&self) -> usize {
        let Self { counts: _, connect_time_us, srtt_us, duration_us, established_cwnd } = self;
        [connect_time_us, srtt_us, duration_us, established_cwnd].iter().map(|one| one.sketch.bins()).sum()
    }

    /// Adds all flows of another.
    pub fn merge(&mut self, other: &Self) {
        let Self { counts, connect_time_us, srtt_us, duration_us, established_cwnd } = other;
        self.counts = plus(&self.counts, counts);
        self.connect_time_us.merge(connect_time_us);
        self.srtt_us.merge(srtt_us);
        self.duration_us.merge(duration_us);
        self.established_cwnd.merge(established_cwnd);
    }
}

/// With every field named, so that a new one cannot be forgotten.
fn plus(a: &v1::FlowCounts, b: &v1::FlowCounts) -> v1::FlowCounts {
    v1::FlowCounts {
        flows: a.flows.saturating_add(b.flows),
        established: a.established.saturating_add(b.established),
        failed: a.failed.saturating_add(b.failed),
        reset: a.reset.saturating_add(b.reset),
        timed_out: a.timed_out.saturating_add(b.timed_out),
        abandoned: a.abandoned.saturating_add(b.abandoned),
        bytes_sent: a.bytes_sent.saturating_add(b.bytes_sent),
        bytes_received: a.bytes_received.saturating_add(b.bytes_received),
        segments_out: a.segments_out.saturating_add(b.segments_out),
        segments_in: a.segments_in.saturating_add(b.segments_in),
        retransmits: a.retransmits.saturating_add(b.retransmits),
        syn_retransmits: a.syn_retransmits.saturating_add(b.syn_retransmits),
        rtos: a.rtos.saturating_add(b.rtos),
        set_failures: a.set_failures.saturating_add(b.set_failures),
        still_open: a.still_open.saturating_add(b.still_open),
        delivered_packets: a.delivered_packets.saturating_add(b.delivered_packets),
        ce_marked_packets: a.ce_marked_packets.saturating_add(b.ce_marked_packets),
        spurious_retransmits: a.spurious_retransmits.saturating_add(b.spurious_retransmits),
    }
}

/// A cell as it stands on the wire and in the journal.
#[must_use]
pub fn cell_to_proto(key: &CellKey, sums: &Sums) -> v1::FlowCell {
    let CellKey { interval, choice, direction, size_class } = key;
    let Sums { counts, connect_time_us, srtt_us, duration_us, established_cwnd } = sums;
    v1::FlowCell {
        interval_start_s: interval.start_s,
        interval_length_s: interval.length_s,
        layer: choice.layer.clone(),
        revision: choice.revision,
        choice: choice.name.clone(),
        direction: (*direction).into(),
        size_class: (*size_class).into(),
        counts: Some(*counts),
        connect_time_us: distribution_to_proto(connect_time_us),
        srtt_us: distribution_to_proto(srtt_us),
        duration_us: distribution_to_proto(duration_us),
        established_cwnd: distribution_to_proto(established_cwnd),
    }
}

/// The cell that [`cell_to_proto`] wrote.
///
/// # Errors
/// If it did not write this one.
pub fn cell_from_proto(cell: v1::FlowCell) -> Result<(CellKey, Sums), DistributionError> {
    let (direction, size_class) = (cell.direction(), cell.size_class());
    let v1::FlowCell {
        interval_start_s,
        interval_length_s,
        layer,
        revision,
        choice,
        direction: _,
        size_class: _,
        counts,
        connect_time_us,
        srtt_us,
        duration_us,
        established_cwnd,
    } = cell;
    let key = CellKey {
        interval: Interval { start_s: interval_start_s, length_s: interval_length_s },
        choice: Arc::new(Choice { layer, revision, name: choice }),
        direction,
        size_class,
    };
    let sums = Sums {
        counts: counts.unwrap_or_default(),
        connect_time_us: distribution_from_proto(connect_time_us)?,
        srtt_us: distribution_from_proto(srtt_us)?,
        duration_us: distribution_from_proto(duration_us)?,
        established_cwnd: distribution_from_proto(established_cwnd)?,
    };
    Ok((key, sums))
}

fn distribution_to_proto(distribution: &Distribution) -> Option<v1::Distribution> {
    let Distribution { moments: Moments { count, mean, m2, min, max }, sketch } = distribution;
    (*count > 0).then(|| v1::Distribution {
        count: *count,
        mean: *mean,
        m2: *m2,
        min: *min,
        max: *max,
        sketch: sketch.to_bytes().into(),
    })
}

fn distribution_from_proto(distribution: Option<v1::Distribution>) -> Result<Distribution, DistributionError> {
    let Some(v1::Distribution { count, mean, m2, min, max, sketch }) = distribution else {
        return Ok(Distribution::default());
    };
    Distribution::from_parts(Moments { count, mean, m2, min, max }, &sketch)
}

#[cfg(test)]
mod tests {
    use sockpilot_policy::layout::Told;

    use super::*;
    use crate::testing::record;

    #[test]
    fn outcome_follows_from_the_handshake_and_the_error() {
        let with = |established_ns, error: i32| FlowRecord { established_ns, error: error as u32, ..record() };
        let cases = [
            (0, 0, v1::Outcome::Abandoned),
            (0, libc::ECONNREFUSED, v1::Outcome::Failed),
            (0, libc::ETIMEDOUT, v1::Outcome::Failed),
            (0, libc::ECONNRESET, v1::Outcome::Failed),
            (1, 0, v1::Outcome::Established),
            (1, libc::ECONNRESET, v1::Outcome::Reset),
            (1, libc::EPIPE, v1::Outcome::Reset),
            (1, libc::ETIMEDOUT, v1::Outcome::TimedOut),
            (1, i32::MAX, v1::Outcome::Established),
        ];
        for (established_ns, error, expected) in cases {
            assert_eq!(Flow::of(&with(established_ns, error)).outcome, expected, "{established_ns} {error}");
        }
        let unsent = FlowRecord { segments_out: 0, ..with(0, 0) };
        assert_eq!(Flow::of(&unsent).outcome, v1::Outcome::Failed, "no SYN was sent");
    }

    #[test]
    fn who_ends_without_a_fin_resets() {
        let with = |old_state| Flow::of(&FlowRecord { old_state, ..record() }).outcome;
        assert_eq!([TCP_ESTABLISHED, TCP_CLOSE_WAIT].map(with), [v1::Outcome::Reset; 2]);
        // FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING.
        assert_eq!([4, 5, 9, 11].map(with), [v1::Outcome::Established; 4]);
    }

    #[test]
    fn records_of_an_open_flow_add_up_to_its_end() {
        let at_once = FlowRecord {
            bytes_sent: 900,
            segments_out: 9,
            retransmits: 3,
            rtos: 2,
            delivered_packets: 8,
            ce_marked_packets: 4,
            spurious_retransmits: 2,
            ..record()
        };
        let first = FlowRecord {
            bytes_sent: 500,
            segments_out: 4,
            retransmits: 0,
            rtos: 0,
            delivered_packets: 3,
            ce_marked_packets: 1,
            spurious_retransmits: 0,
            still_open: 1,
            ..at_once
        };
        let told = |record: &FlowRecord| Told {
            bytes_sent: record.bytes_sent,
            bytes_received: record.bytes_received,
            segments_out: record.segments_out,
            segments_in: record.segments_in,
            retransmits: record.retransmits,
            syn_retransmits: record.syn_retransmits,
            rtos: record.rtos,
            delivered_packets: record.delivered_packets,
            ce_marked_packets: record.ce_marked_packets,
            spurious_retransmits: record.spurious_retransmits,
        };
        let second = FlowRecord { bytes_sent: 700, retransmits: 3, told: told(&first), ..first };
        let end = FlowRecord { told: told(&second), ..at_once };
        let (mut whole, mut parts) = (Sums::default(), Sums::default());
        whole.add(&Flow::of(&at_once));
        [first, second, end].iter().for_each(|record| parts.add(&Flow::of(record)));
        assert_eq!(parts.counts.still_open, 2);
        parts.counts.still_open = 0;
        assert_eq!(parts, whole, "counts and distributions");
        let v1::FlowCounts { delivered_packets, ce_marked_packets, spurious_retransmits, .. } = whole.counts;
        assert_eq!([delivered_packets, ce_marked_packets, spurious_retransmits], [8, 4, 2]);
        // Around the end of a counter.
        let (mut sums, before) = (Sums::default(), FlowRecord { segments_out: u32::MAX, rtos: 0xffff, ..record() });
        sums.add(&Flow::of(&FlowRecord { segments_out: 1, rtos: 1, told: told(&before), ..record() }));
        assert_eq!((sums.counts.segments_out, sums.counts.rtos), (2, 2));
    }

    #[test]
    fn size_class_counts_what_was_sent() {
        let class = |bytes_sent| Flow::of(&FlowRecord { bytes_sent, bytes_received: 1 << 40, ..record() }).size_class;
        assert_eq!([0, 14_600].map(class), [v1::SizeClass::Small; 2]);
        assert_eq!([14_601, 146_000].map(class), [v1::SizeClass::Medium; 2]);
        assert_eq!([146_001, 1_000_000].map(class), [v1::SizeClass::Large; 2]);
        assert_eq!([1_000_001, u64::MAX].map(class), [v1::SizeClass::Huge; 2]);
    }

    #[test]
    fn quantities_are_there_only_if_known() {
        let mut sums = Sums::default();
        let mut passive = record();
        passive.flow.direction = PASSIVE;
        let failed = FlowRecord { established_ns: 0, srtt_us: 0, established_cwnd: 0, ..record() };
        for record in [record(), passive, failed] {
            sums.add(&Flow::of(&record));
        }
        assert_eq!(sums.counts.flows, 3);
        assert_eq!(sums.counts.established + sums.counts.abandoned, 3);
        assert_eq!(sums.connect_time_us.moments.count, 1);
        assert_eq!(sums.duration_us.moments.count, 2);
        assert_eq!(sums.srtt_us.moments.count, 2);
        assert_eq!(sums.established_cwnd.moments.max, f64::from(record().established_cwnd));
    }

    #[test]
    fn a_cell_survives_the_wire() {
        let mut sums = Sums::default();
        (0..100)
            .for_each(|n| sums.add(&Flow::of(&FlowRecord { bytes_sent: n * 1_000, srtt_us: n as u32, ..record() })));
        let key = CellKey {
            interval: Interval::at(1_234, 60),
            choice: Arc::new(Choice { layer: "policies/web".into(), revision: 7, name: "far".into() }),
            direction: v1::Direction::Active,
            size_class: v1::SizeClass::Small,
        };
        let cell = cell_to_proto(&key, &sums);
        assert_eq!(cell.interval_start_s, 1_200);
        assert_eq!(cell_from_proto(cell), Ok((key, sums)));
    }
}
