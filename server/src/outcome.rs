//! Outcomes of connections, merged over nodes and intervals.

use sockpilot_proto::v1;
use sockpilot_stats::{Distribution, DistributionError, Moments, Summary};

/// What a row of outcomes is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Which revision.
    pub revision: u64,
    /// Which rule or arm.
    pub choice: String,
    /// Number of a `sockpilot.v1.Direction`.
    pub direction: i32,
    /// Number of a `sockpilot.v1.SizeClass`; 0: all together.
    pub size_class: i32,
}

/// Sums over cells.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    counts: v1::FlowCounts,
    /// Connect time, smoothed round-trip time, duration, congestion window.
    pub distributions: [Distribution; 4],
}

/// Reads a distribution; an empty message is that of no flow.
///
/// # Errors
/// If it is none.
pub fn distribution(message: &v1::Distribution) -> Result<Distribution, DistributionError> {
    let v1::Distribution { count, mean, m2, min, max, sketch } = message;
    if *message == v1::Distribution::default() {
        return Ok(Distribution::default());
    }
    Distribution::from_parts(Moments { count: *count, mean: *mean, m2: *m2, min: *min, max: *max }, sketch)
}

impl Totals {
    /// Adds the counts of a cell. Saturates: no fleet has 2^64 of anything, and a wrong sum must not look like a small one.
    pub fn add_counts(&mut self, counts: &v1::FlowCounts) {
        let pairs = fields_mut(&mut self.counts).into_iter().zip(fields(counts));
        for (total, part) in pairs {
            *total = total.saturating_add(part);
        }
    }

    /// A row for people.
    #[must_use]
    pub fn into_proto(self, key: Key) -> v1::OutcomeRow {
        let Self { counts, distributions } = self;
        let [connect_time_us, srtt_us, duration_us, established_cwnd] = distributions.map(|d| quantiles(d.summary()));
        let retransmit_ratio =
            if counts.segments_out == 0 { 0.0 } else { counts.retransmits as f64 / counts.segments_out as f64 };
        let Key { revision, choice, direction, size_class } = key;
        v1::OutcomeRow {
            revision,
            choice,
            direction,
            size_class,
            counts: Some(counts),
            connect_time_us: Some(connect_time_us),
            srtt_us: Some(srtt_us),
            duration_us: Some(duration_us),
            established_cwnd: Some(established_cwnd),
            retransmit_ratio,
        }
    }
}

fn quantiles(summary: Summary) -> v1::Quantiles {
    let Summary { count, mean, standard_deviation, min, p50, p90, p99, max } = summary;
    v1::Quantiles { count, mean, standard_deviation, min, p50, p90, p99, max }
}

/// Fields of [`v1::FlowCounts`].
pub const COUNTS: usize = 18;

/// The counts in the order of the columns of `flow_cell`.
#[must_use]
pub fn fields(counts: &v1::FlowCounts) -> [u64; COUNTS] {
    let mut counts = *counts;
    fields_mut(&mut counts).map(|field| *field)
}

fn fields_mut(counts: &mut v1::FlowCounts) -> [&mut u64; COUNTS] {
    let v1::FlowCounts {
        flows,
        established,
        failed,
        reset,
        timed_out,
        abandoned,
        bytes_sent,
        bytes_received,
        segments_out,
        segments_in,
        retransmits,
        syn_retransmits,
        rtos,
        set_failures,
        still_open,
        delivered_packets,
        ce_marked_packets,
        spurious_retransmits,
    } = counts;
    [
        flows,
        established,
        failed,
        reset,
        timed_out,
        abandoned,
        bytes_sent,
        bytes_received,
        segments_out,
        segments_in,
        retransmits,
        syn_retransmits,
        rtos,
        set_failures,
        still_open,
        delivered_packets,
        ce_marked_packets,
        spurious_retransmits,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_counts_and_distributions() {
        let mut totals = Totals::default();
        for part in 0..2 {
            totals.add_counts(&v1::FlowCounts {
                flows: 2,
                segments_out: 50,
                retransmits: 1,
                ..v1::FlowCounts::default()
            });
            totals.distributions[0].add(f64::from(100 + part));
        }
        let key = Key { revision: 3, choice: "a".to_owned(), direction: 1, size_class: 0 };
        let row = totals.into_proto(key);
        assert_eq!(row.counts.map(|counts| counts.flows), Some(4));
        assert!((row.retransmit_ratio - 0.02).abs() < 1e-12);
        let connect = row.connect_time_us.expect("always there");
        assert_eq!((connect.count, connect.mean, connect.max), (2, 100.5, 101.0));
    }

    #[test]
    fn no_flow_is_no_distribution() {
        assert_eq!(distribution(&v1::Distribution::default()), Ok(Distribution::default()));
        assert!(distribution(&v1::Distribution { count: 1, ..v1::Distribution::default() }).is_err());
    }
}
