//! Recorded flows: a bounded random sample of single flows, with its weights. Pure: randomness is handed in.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use sockpilot_outcomes::{Choice, Flow};
use sockpilot_policy::address::bytes_address;
use sockpilot_proto::{cell::outcome_to_proto, convert::direction_to_proto, v1};

use super::on_request::OnRequest;

/// Flows of each kind in one report.
pub const SAMPLES_MAX: usize = 32;

/// Times in which the kernel showed all flows that are remembered; of flows that began in an earlier one, it is not known any more.
const SHOWN_TIMES_MAX: usize = 16;

/// Everything offered is in the sample with the same probability.
#[derive(Debug, Default)]
struct Reservoir {
    offered: u64,
    samples: Vec<v1::FlowSample>,
}

impl Reservoir {
    /// Offers a flow, which is made into a sample only if it is taken.
    fn offer(&mut self, random: u64, sample: impl FnOnce() -> v1::FlowSample) {
        self.offered += 1;
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(sample());
            return;
        }
        // The remainder is not quite even, by a part in 2^64 / offered.
        if let Some(place) = usize::try_from(random % self.offered).ok().and_then(|at| self.samples.get_mut(at)) {
            *place = sample();
        }
    }

    /// Takes the sample and begins another. The weights of all together are `each` for each flow offered.
    fn take(&mut self, each: f64) -> Vec<v1::FlowSample> {
        let Self { offered, mut samples } = std::mem::take(self);
        let weight = each * offered as f64 / samples.len().max(1) as f64;
        samples.iter_mut().for_each(|sample| sample.weight = weight);
        samples
    }
}

/// What is recorded of single flows: a sample of those that a layer matched, one of those that none did, and one of records of flows
/// that are still open. The last weigh nothing: each flow is counted when it ends, and shown again and again until then.
#[derive(Debug)]
pub struct Recorded {
    matched: Reservoir,
    unmatched: Reservoir,
    open: Reservoir,
    /// In basis points: of the flows that no layer matches, the kernel shows this share, if nothing else is asked for.
    unmatched_share_bp: u32,
    /// When it showed all of them, by the monotonic clock.
    all_shown: VecDeque<Range<u64>>,
    /// What is recorded beside the samples.
    pub on_request: OnRequest,
}

impl Recorded {
    /// Nothing yet.
    #[must_use]
    pub fn new(unmatched_share_bp: u32) -> Self {
        let (matched, unmatched, open) = Default::default();
        let (all_shown, on_request) = Default::default();
        Self { matched, unmatched, open, unmatched_share_bp, all_shown, on_request }
    }

    /// Which share of the flows that no layer matches the kernel has to show now.
    #[must_use]
    pub fn share_bp(&self, now_ns: u64) -> u32 {
        if self.on_request.asks(now_ns) { 10_000 } else { self.unmatched_share_bp }
    }

    /// Whether the kernel shows all flows.
    #[must_use]
    pub fn all_shown(&self) -> bool {
        self.all_shown.back().is_some_and(|time| time.end == u64::MAX)
    }

    /// The kernel shows all flows that begin from now on.
    pub fn begin_all_shown(&mut self, now_ns: u64) {
        if self.all_shown.len() == SHOWN_TIMES_MAX {
            self.all_shown.pop_front();
        }
        self.all_shown.push_back(now_ns..u64::MAX);
    }

    /// It shows the usual share of those that begin from now on.
    pub fn end_all_shown(&mut self, now_ns: u64) {
        if let Some(time) = self.all_shown.back_mut() {
            time.end = time.end.min(now_ns);
        }
    }

    /// Whether a flow would have been shown if only the usual share were: as many are passed over as the kernel would have.
    fn is_of_usual_share(&self, flow: &Flow<'_>, random: u64) -> bool {
        let all_shown = self.all_shown.iter().any(|time| time.contains(&flow.record.start_ns));
        !all_shown || (random >> 32) % 10_000 < self.unmatched_share_bp.into()
    }

    /// Offers a record.
    pub fn offer(&mut self, flow: &Flow<'_>, random: u64, sample: impl Fn() -> v1::FlowSample) {
        if flow.ended() {
            self.on_request.offer(flow.record.end_ns, &sample);
        }
        if flow.record.choice_count == 0 && !self.is_of_usual_share(flow, random) {
            return;
        }
        let reservoir = match (flow.ended(), flow.record.choice_count) {
            (false, _) => &mut self.open,
            (true, 0) => &mut self.unmatched,
            (true, _) => &mut self.matched,
        };
        reservoir.offer(random, sample);
    }

    /// Takes what is recorded, with its weights, and begins anew.
    pub fn take(&mut self) -> Vec<v1::FlowSample> {
        let shown = f64::from(self.unmatched_share_bp.clamp(1, 10_000)) / 10_000.0;
        let mut samples = self.matched.take(1.0);
        samples.append(&mut self.unmatched.take(1.0 / shown));
        samples.append(&mut self.open.take(0.0));
        samples
    }
}

/// A flow record as a sample, without its weight. `ended_ns` is wall-clock time; `service` is the path of the cgroup whose attachment
/// decided.
#[must_use]
pub fn sample(flow: &Flow<'_>, choices: &[Arc<Choice>], service: &str, ended_ns: u64) -> v1::FlowSample {
    let record = flow.record;
    let attribution = |choice: &Arc<Choice>| v1::Attribution {
        layer: choice.layer.clone(),
        revision: choice.revision,
        choice: choice.name.clone(),
    };
    v1::FlowSample {
        node: String::new(),
        close_time: Some(prost_types::Timestamp {
            seconds: (ended_ns / 1_000_000_000) as i64,
            nanos: (ended_ns % 1_000_000_000) as i32,
        }),
        local_address: bytes_address(record.flow.local).to_string(),
        local_port: record.flow.local_port.into(),
        remote_address: bytes_address(record.flow.remote).to_string(),
        remote_port: record.flow.remote_port.into(),
        direction: direction_to_proto(flow.direction).into(),
        outcome: outcome_to_proto(flow.outcome).into(),
        connect_time_us: flow.connect_time_us.unwrap_or_default(),
        duration_us: flow.duration_us.unwrap_or_default(),
        bytes_sent: record.bytes_sent,
        bytes_received: record.bytes_received,
        segments_out: record.segments_out,
        retransmits: record.retransmits,
        syn_retransmits: record.syn_retransmits,
        rtos: record.rtos,
        srtt_us: record.srtt_us,
        min_rtt_us: record.min_rtt_us,
        established_cwnd: record.established_cwnd,
        final_cwnd: record.final_cwnd,
        delivered_packets: record.delivered_packets,
        ce_marked_packets: record.ce_marked_packets,
        spurious_retransmits: record.spurious_retransmits,
        attributions: choices.iter().map(attribution).collect(),
        weight: 0.0,
        service: service.to_owned(),
        handshake_rtt_us: record.handshake_rtt_us,
    }
}

#[cfg(test)]
mod tests {
    use sockpilot_outcomes::testing::record;
    use sockpilot_policy::layout::FlowRecord;

    use super::*;
    use crate::testing::choice;

    fn numbered(bytes_sent: u64) -> v1::FlowSample {
        v1::FlowSample { bytes_sent, ..Default::default() }
    }

    #[test]
    fn takes_all_while_there_is_room_then_replaces() {
        let mut reservoir = Reservoir::default();
        (0..SAMPLES_MAX as u64).for_each(|n| reservoir.offer(u64::MAX, || numbered(n)));
        // 33 were offered: 32 is no place, 3 is one.
        reservoir.offer(32, || panic!("not taken"));
        reservoir.offer(34 + 3, || numbered(99));
        let samples = reservoir.take(1.0);
        assert_eq!((samples.len(), samples[3].bytes_sent), (SAMPLES_MAX, 99));
        assert!(reservoir.take(1.0).is_empty());
    }

    #[test]
    fn is_even() {
        const OFFERED: u64 = 320;
        const ROUNDS: u32 = 2_000;
        let mut random = 1_u64;
        let mut taken = [0_u32; OFFERED as usize];
        for _ in 0..ROUNDS {
            let mut reservoir = Reservoir::default();
            for n in 0..OFFERED {
                // Knuth's MMIX generator; its high bits are good.
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                reservoir.offer(random >> 20, || numbered(n));
            }
            reservoir.take(1.0).iter().for_each(|sample| taken[sample.bytes_sent as usize] += 1);
        }
        // 200 expected, standard deviation 13.4: six of them.
        assert!(taken.iter().all(|count| (120..=280).contains(count)), "{taken:?}");
    }

    #[test]
    fn weights_add_up_to_all_flows() {
        let mut recorded = Recorded::new(100);
        let unmatched = FlowRecord { choice_count: 0, ..record() };
        let open = FlowRecord { still_open: 1, ..record() };
        for random in 0..1_000 {
            for record in [record(), open] {
                recorded.offer(&Flow::of(&record), random, || numbered(1 + u64::from(record.still_open)));
            }
        }
        (0..50).for_each(|random| recorded.offer(&Flow::of(&unmatched), random, || numbered(0)));
        let samples = recorded.take();
        assert_eq!(samples.len(), 3 * SAMPLES_MAX);
        let weights =
            |of: u64| samples.iter().filter(|sample| sample.bytes_sent == of).map(|sample| sample.weight).sum::<f64>();
        assert!((weights(1) - 1_000.0).abs() < 1e-6, "each of those that ended");
        assert_eq!(weights(2), 0.0, "those that are open count when they end");
        // Each that the kernel shows stands for a hundred.
        assert!((weights(0) - 5_000.0).abs() < 1e-6);
        assert!(recorded.take().is_empty());
    }

    #[test]
    fn what_is_shown_on_request_weighs_no_more_than_it_is() {
        let mut recorded = Recorded::new(100);
        recorded.begin_all_shown(1_000);
        assert!(recorded.all_shown());
        recorded.end_all_shown(2_000);
        assert!(!recorded.all_shown());
        let begun = |start_ns| FlowRecord { choice_count: 0, start_ns, ..record() };
        // One in a hundred of these would have been shown.
        (0..20_000_u64).for_each(|n| recorded.offer(&Flow::of(&begun(1_500)), n << 32, || numbered(0)));
        let weights = |recorded: &mut Recorded| recorded.take().iter().map(|sample| sample.weight).sum::<f64>();
        assert!((weights(&mut recorded) - 20_000.0).abs() < 1e-6);
        recorded.offer(&Flow::of(&begun(2_000)), 9_999 << 32, || numbered(0));
        assert_eq!(weights(&mut recorded), 100.0, "of the usual share again");
        (0..99).for_each(|at| recorded.begin_all_shown(at));
        assert_eq!(recorded.all_shown.len(), SHOWN_TIMES_MAX);
    }

    #[test]
    fn what_is_asked_for_is_recorded_beside_the_sample() {
        let mut recorded = Recorded::new(100);
        let wanted = crate::records::on_request::Wanted { flows_per_s: 1_000, until_ns: u64::MAX };
        recorded.on_request.ask(Some(wanted));
        assert_eq!(recorded.share_bp(0), 10_000);
        for record in [record(), FlowRecord { still_open: 1, ..record() }] {
            recorded.offer(&Flow::of(&record), 0, || numbered(1));
        }
        assert_eq!((recorded.on_request.take().flows.len(), recorded.take().len()), (1, 2), "those that ended");
        recorded.on_request.ask(None);
        assert_eq!(recorded.share_bp(0), 100);
    }

    #[test]
    fn a_sample_says_who_what_and_why() {
        let mut record = record();
        record.flow.remote = std::net::Ipv4Addr::new(10, 0, 0, 7).to_ipv6_mapped().octets();
        let sample = sample(&Flow::of(&record), &[choice("far", 3)], "/web", 5_000_000_007);
        assert_eq!((sample.remote_address.as_str(), sample.remote_port), ("10.0.0.7", 443));
        assert_eq!((sample.connect_time_us, sample.duration_us), (1_000, 3_000));
        assert_eq!(sample.close_time, Some(prost_types::Timestamp { seconds: 5, nanos: 7 }));
        assert_eq!(sample.attributions[0].choice, "far");
    }
}
