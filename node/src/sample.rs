//! A bounded random sample of single flow records. Pure: randomness is handed in.

use std::sync::Arc;

use sockpilot_policy::address::bytes_address;
use sockpilot_proto::v1;

use crate::cells::{Choice, Flow};

/// Records in the sample of one report.
pub const SAMPLES_MAX: usize = 32;

/// Every record offered is in the sample with the same probability.
#[derive(Debug, Default)]
pub struct Reservoir {
    offered: u64,
    samples: Vec<v1::FlowSample>,
}

impl Reservoir {
    /// Offers a record, which is made into a sample only if it is taken.
    pub fn offer(&mut self, random: u64, sample: impl FnOnce() -> v1::FlowSample) {
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

    /// Takes the sample and begins another.
    pub fn take(&mut self) -> Vec<v1::FlowSample> {
        std::mem::take(self).samples
    }
}

/// A flow record as a sample. `ended_ns` is wall-clock time.
#[must_use]
pub fn sample(flow: &Flow<'_>, choices: &[Arc<Choice>], ended_ns: u64) -> v1::FlowSample {
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
        direction: flow.direction.into(),
        outcome: flow.outcome.into(),
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{choice, record};

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
        let samples = reservoir.take();
        assert_eq!((samples.len(), samples[3].bytes_sent), (SAMPLES_MAX, 99));
        assert!(reservoir.take().is_empty());
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
            reservoir.take().iter().for_each(|sample| taken[sample.bytes_sent as usize] += 1);
        }
        // 200 expected, standard deviation 13.4: six of them.
        assert!(taken.iter().all(|count| (120..=280).contains(count)), "{taken:?}");
    }

    #[test]
    fn a_sample_says_who_what_and_why() {
        let mut record = record();
        record.flow.remote = std::net::Ipv4Addr::new(10, 0, 0, 7).to_ipv6_mapped().octets();
        let sample = sample(&Flow::of(&record), &[choice("far", 3)], 5_000_000_007);
        assert_eq!((sample.remote_address.as_str(), sample.remote_port), ("10.0.0.7", 443));
        assert_eq!((sample.connect_time_us, sample.duration_us), (1_000, 3_000));
        assert_eq!(sample.close_time, Some(prost_types::Timestamp { seconds: 5, nanos: 7 }));
        assert_eq!(sample.attributions[0].choice, "far");
    }
}
