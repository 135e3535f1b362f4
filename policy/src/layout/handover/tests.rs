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
    assert_eq!((offset_of!(FlowKey, local), offset_of!(FlowKey, remote), offset_of!(FlowKey, local_port)), (0, 16, 32));
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
    assert_eq!((Counter::FlowsStamped as u32, Counter::FlowsClosed as u32, Counter::RecordsDropped as u32), (0, 1, 2));
}
