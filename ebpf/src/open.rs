//! Records of connections that are open for long: the daemon has the kernel walk over the sockets of a network namespace, and
//! this program sees each of them ([`crate::socket`]).
//!
//! The stamp remembers what was reported, so that the sums over all records of a connection are exact. A record that finds
//! no room is put off: the next one reports it all.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, tcp_sock},
    helpers::{bpf_ktime_get_ns, bpf_ringbuf_query, bpf_ringbuf_submit, bpf_sk_storage_get},
};
use sockpilot_policy::layout::{Counter, FlowRecord, RING_BYTES, Stamp};

use crate::{
    maps,
    memory::{get, put},
    record,
    socket::{Context, read, read_flow},
};

/// Always 0: on to the next socket.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn open_flow(ctx: *const Context) -> i32 {
    // SAFETY: the kernel gives a valid context.
    unsafe {
        let tcp = Context::socket(ctx);
        if !tcp.is_null() {
            report(tcp);
        }
    }
    0
}

/// # Safety
/// A pointer that the kernel gave.
#[inline(always)]
unsafe fn report(tcp: *mut tcp_sock) {
    unsafe {
        let storage = (&raw const maps::STAMPS).cast_mut().cast();
        let stamp: *mut Stamp = bpf_sk_storage_get(storage, tcp.cast(), ptr::null_mut(), 0).cast();
        if stamp.is_null() || get!(stamp, attachment) == 0 {
            return;
        }
        maps::count(Counter::StampSeen);
        let age_ns = bpf_ktime_get_ns().wrapping_sub(get!(stamp, start_ns));
        if age_ns < maps::LONG_FLOW_NS.load() {
            return;
        }
        let ring = (&raw const maps::RECORDS).cast_mut().cast();
        if bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA)) > RING_BYTES as u64 / 2 {
            maps::count(Counter::OpenDeferred);
            return;
        }
        let record = record::reserve();
        if record.is_null() {
            maps::count(Counter::OpenDeferred);
            return;
        }
        write(tcp, stamp, record);
        remember(record, stamp);
        bpf_ringbuf_submit(record.cast(), 0);
        maps::count(Counter::OpenRecorded);
    }
}

/// # Safety
/// All pointers must be valid, the record for writing.
#[inline(always)]
unsafe fn write(tcp: *mut tcp_sock, stamp: *const Stamp, record: *mut FlowRecord) {
    unsafe {
        read_flow(tcp, get!(stamp, direction) as u8, &raw mut (*record).flow);
        put!(record, bytes_sent, read!(tcp, u64, bytes_acked));
        put!(record, bytes_received, read!(tcp, u64, bytes_received));
        put!(record, old_state, u32::from(read!(tcp, u8, state)));
        put!(record, segments_out, read!(tcp, u32, segments_out));
        put!(record, segments_in, read!(tcp, u32, segments_in));
        record::retransmits(stamp, record, read!(tcp, u32, total_retrans));
        put!(record, srtt_us, read!(tcp, u32, srtt_us) >> 3);
        record::min_rtt(stamp, record, read!(tcp, u32, min_rtt_us));
        put!(record, final_cwnd, read!(tcp, u32, cwnd));
        put!(record, rate_delivered, read!(tcp, u32, rate_delivered));
        put!(record, rate_interval_us, read!(tcp, u32, rate_interval_us));
        put!(record, mss_bytes, read!(tcp, u32, mss_bytes));
        put!(record, still_open, 1);
        record::hidden(tcp, record);
        record::decided(stamp, record);
    }
}

/// Notes in the stamp what the record reports.
///
/// # Safety
/// Both pointers must be valid, the stamp for writing.
#[inline(always)]
unsafe fn remember(record: *const FlowRecord, stamp: *mut Stamp) {
    unsafe {
        let reported = &raw mut (*stamp).reported;
        put!(reported, bytes_sent, get!(record, bytes_sent));
        put!(reported, bytes_received, get!(record, bytes_received));
        put!(reported, segments_out, get!(record, segments_out));
        put!(reported, segments_in, get!(record, segments_in));
        put!(reported, retransmits, get!(record, retransmits));
        put!(reported, syn_retransmits, get!(record, syn_retransmits));
        put!(reported, rtos, get!(record, rtos));
        put!(reported, delivered_packets, get!(record, delivered_packets));
        put!(reported, ce_marked_packets, get!(record, ce_marked_packets));
        put!(reported, spurious_retransmits, get!(record, spurious_retransmits));
        put!(reported, end_ns, get!(record, end_ns));
    }
}
