//! What a cell holds.

use crate::{Counts, Distributions, Flow};

/// All quantities of some flows. Merging is associative and loses nothing that matters: counts and sketches merge exactly, moments but
/// for rounding.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sums {
    /// What adds up.
    pub counts: Counts,
    /// What is distributed.
    pub distributions: Distributions,
}

/// Why sums cannot be those of any flows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumsError {
    /// The quantity that is wrong.
    pub quantity: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Sums {
    /// Adds one record: of a flow that has ended all, but what earlier records reported; of one that is still open only what is new.
    pub fn add(&mut self, flow: &Flow<'_>) {
        self.counts.add(flow);
        if flow.ended() {
            self.distributions.add(flow);
        }
    }

    /// Adds all flows of another.
    pub fn merge(&mut self, other: &Self) {
        let Self { counts, distributions } = other;
        self.counts.merge(counts);
        self.distributions.merge(distributions);
    }

    /// Bins of all sketches: what the cell costs in memory, at 16 bytes each.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.distributions.each().map(|(_, one)| one.sketch.bins()).sum()
    }

    /// Everything that speaks against these being sums of any flows. The distributions are sound each for itself.
    #[must_use]
    pub fn contradictions(&self) -> Vec<SumsError> {
        let mut errors = vec![];
        let mut wrong = |quantity, problem| errors.push(SumsError { quantity, problem });
        let Counts { flows, established, failed, reset, timed_out, abandoned, still_open, .. } = self.counts;
        if flows == 0 && still_open == 0 {
            wrong("flows", "is 0; send no cell without a record".to_owned());
        }
        let outcomes = [established, failed, reset, timed_out, abandoned].into_iter().try_fold(0_u64, u64::checked_add);
        if outcomes != Some(flows) {
            wrong("flows", format!("is {flows}, but the outcomes do not add up to it"));
        }
        for (name, value) in self.counts.each() {
            if i64::try_from(value).is_err() {
                wrong(name, format!("is {value}; the greatest is {}", i64::MAX));
            }
        }
        for (name, distribution) in self.distributions.each() {
            let count = distribution.moments.count;
            if count > flows {
                wrong(name, format!("is of {count} flows, but the cell has {flows}"));
            }
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sockpilot_policy::layout::{FlowRecord, PASSIVE, Reported};

    use super::*;
    use crate::testing::record;

    fn reported(record: &FlowRecord) -> Reported {
        Reported {
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
            end_ns: record.end_ns,
        }
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
        let second = FlowRecord { bytes_sent: 700, retransmits: 3, reported: reported(&first), ..first };
        let end = FlowRecord { reported: reported(&second), ..at_once };
        let (mut whole, mut parts) = (Sums::default(), Sums::default());
        whole.add(&Flow::of(&at_once));
        [first, second, end].iter().for_each(|record| parts.add(&Flow::of(record)));
        assert_eq!(parts.counts.still_open, 2);
        parts.counts.still_open = 0;
        assert_eq!(parts, whole, "counts and distributions");
        let Counts { delivered_packets, ce_marked_packets, spurious_retransmits, .. } = whole.counts;
        assert_eq!([delivered_packets, ce_marked_packets, spurious_retransmits], [8, 4, 2]);
        // Around the end of a counter.
        let (mut sums, before) = (Sums::default(), FlowRecord { segments_out: u32::MAX, rtos: 0xffff, ..record() });
        sums.add(&Flow::of(&FlowRecord { segments_out: 1, rtos: 1, reported: reported(&before), ..record() }));
        assert_eq!((sums.counts.segments_out, sums.counts.rtos), (2, 2));
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
        let Distributions { connect_time_us, srtt_us, duration_us, established_cwnd } = &sums.distributions;
        assert_eq!(connect_time_us.moments.count, 1);
        assert_eq!(duration_us.moments.count, 2);
        assert_eq!(srtt_us.moments.count, 2);
        assert_eq!(established_cwnd.moments.max, f64::from(record().established_cwnd));
        assert_eq!(sums.contradictions(), []);
    }

    #[test]
    fn contradictions_name_the_quantity() {
        let mut sums = Sums::default();
        let names = |sums: &Sums| sums.contradictions().into_iter().map(|error| error.quantity).collect::<Vec<_>>();
        assert_eq!(names(&sums), ["flows"], "no record");
        sums.counts = Counts { flows: 1, bytes_sent: u64::MAX, ..Counts::default() };
        sums.distributions.srtt_us.add(1.0);
        sums.distributions.srtt_us.add(2.0);
        assert_eq!(names(&sums), ["flows", "bytes_sent", "srtt_us"]);
    }

    proptest! {
        #[test]
        fn merged_in_any_grouping_they_are_the_sums_of_all(values in prop::collection::vec((0_u64..1 << 40, 1_u32..1 << 30), 0..40), cut in 0_usize..40) {
            let records: Vec<_> = values.iter().map(|(bytes_sent, srtt_us)| FlowRecord { bytes_sent: *bytes_sent, srtt_us: *srtt_us, ..record() }).collect();
            let of = |records: &[FlowRecord]| {
                let mut sums = Sums::default();
                records.iter().for_each(|record| sums.add(&Flow::of(record)));
                sums
            };
            let (left, right) = records.split_at(cut.min(records.len()));
            let (mut forth, mut back) = (of(left), of(right));
            forth.merge(&of(right));
            back.merge(&of(left));
            let all = of(&records);
            for merged in [forth, back] {
                prop_assert_eq!(merged.counts, all.counts);
                for ((_, merged), (_, all)) in merged.distributions.each().zip(all.distributions.each()) {
                    prop_assert_eq!(&merged.sketch, &all.sketch);
                    prop_assert!((merged.moments.mean - all.moments.mean).abs() <= 1e-9 * all.moments.mean.abs());
                }
            }
        }
    }
}
