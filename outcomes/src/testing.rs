//! What tests of several crates need.

use sockpilot_policy::layout::{FlowKey, FlowRecord, LAYERS_MAX, Reported};

/// An active flow, established after 1 ms, ended in order after 3 ms, of install 1 and choice 1.
#[must_use]
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
        attachment: 0,
        handshake_rtt_us: 1_000,
        rate_app_limited: 0,
        choices,
        reported: Reported::default(),
        #[cfg(feature = "layout-next")]
        next: 0,
    }
}
