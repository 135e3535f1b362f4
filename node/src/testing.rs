//! What several tests need.

use std::sync::Arc;

use sockpilot_policy::{
    facts::KernelFacts,
    layout::{FlowKey, FlowRecord, LAYERS_MAX, Told},
};

use crate::cells::Choice;

/// An active flow, established after 1 ms, ended in order after 3 ms, of install 1 and choice 1.
pub fn record() -> FlowRecord {
    let mut choices = [0; LAYERS_MAX];
    choices[0] = 1;
    FlowRecord {
        flow: FlowKey { local: [1; 16], remote: [2; 16], local_port: 40_000, remote_port: 443, ..FlowKey::default() },
        install: 1,
        start_ns: 1_000_000,
        established_ns: 2_000_000,
        end_ns: 4_000_000,
        parameters: 0,
        refused: 0,
        bytes_sent: 1_000,
        bytes_received: 2_000,
        old_state: 4,
        error: 0,
        segments_out: 5,
        segments_in: 4,
        retransmits: 1,
        syn_retransmits: 0,
        rtos: 0,
        srtt_us: 900,
        min_rtt_us: 800,
        final_cwnd: 12,
        established_cwnd: 10,
        choice_count: 1,
        rate_delivered: 0,
        rate_interval_us: 0,
        mss_bytes: 1_448,
        still_open: 0,
        delivered_packets: 6,
        ce_marked_packets: 0,
        spurious_retransmits: 0,
        reserved: 0,
        choices,
        told: Told::default(),
    }
}

/// A choice of a policy.
pub fn choice(name: &str, revision: u64) -> Arc<Choice> {
    Arc::new(Choice { layer: "policies/web".into(), revision, name: name.into() })
}

/// A kernel with 250 ticks a second, cubic and reno.
pub fn facts() -> KernelFacts {
    KernelFacts {
        release: "6.18.0".into(),
        hz: 250,
        congestion_controls: vec!["cubic".into(), "reno".into()],
        wmem_max: 4_194_304,
        rmem_max: 4_194_304,
        sysctls: std::collections::BTreeMap::new(),
    }
}
