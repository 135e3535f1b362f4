//! Records of connections that are open for long: the daemon has the kernel walk over the sockets of a network namespace, and
//! this program sees each of them, locked, so that no callback of the same socket can come in between.
//!
//! The stamp remembers what was told, so that the sums over all records of a connection are exact. A record that finds
//! no room is put off: the next one tells it all.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, tcp_sock},
    helpers::{bpf_ktime_get_ns, bpf_ringbuf_query, bpf_ringbuf_submit, bpf_sk_storage_get, bpf_skc_to_tcp_sock},
};
use sockpilot_policy::layout::{Counter, FlowKey, FlowRecord, RING_BYTES, SocketOffsets, Stamp};

use crate::{
    flow::{self, AF_INET, MAPPED},
    maps,
    record::{self, put, stamped},
};

/// `struct bpf_iter__tcp`.
#[repr(C)]
pub struct Context {
    meta: *const c_void,
    sk: *mut c_void,
    uid: u32,
}

/// Always 0: on to the next socket.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn open_flow(ctx: *const Context) -> i32 {
    // SAFETY: the kernel gives a valid context; the socket is null at the end of the walk.
    unsafe {
        let sk = (&raw const (*ctx).sk).read_volatile();
        if !sk.is_null() {
            // Null for what is not a full socket: a request, or one in TIME_WAIT.
            let tcp = bpf_skc_to_tcp_sock(sk);
            if !tcp.is_null() {
                tell(tcp);
            }
        }
    }
    0
}

/// The offset of a field: a constant for the verifier, because the loader freezes it.
macro_rules! offset {
    ($name:ident) => {
        (&raw const (*(&raw const maps::SOCKET_FIELDS).cast::<SocketOffsets>()).$name).read_volatile() as usize
    };
}

macro_rules! read {
    ($tcp:expr, $type:ty, $name:ident $(+ $more:expr)?) => {
        $tcp.cast::<u8>().add(offset!($name) $(+ $more)?).cast::<$type>().read_volatile()
    };
}

/// # Safety
/// A pointer that the kernel gave.
#[inline(always)]
unsafe fn tell(tcp: *mut tcp_sock) {
    unsafe {
        let storage = (&raw const maps::STAMPS).cast_mut().cast();
        let stamp: *mut Stamp = bpf_sk_storage_get(storage, tcp.cast(), ptr::null_mut(), 0).cast();
        if stamp.is_null() || stamped!(stamp, attachment) == 0 || stamped!(stamp, established_ns) == 0 {
            return;
        }
        let age_ns = bpf_ktime_get_ns().wrapping_sub(stamped!(stamp, start_ns));
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
        read_flow(tcp, stamped!(stamp, direction) as u8, &raw mut (*record).flow);
        put!(record, bytes_sent, read!(tcp, u64, bytes_acked));
        put!(record, bytes_received, read!(tcp, u64, bytes_received));
        put!(record, old_state, u32::from(read!(tcp, u8, state)));
        put!(record, segments_out, read!(tcp, u32, segments_out));
        put!(record, segments_in, read!(tcp, u32, segments_in));
        record::retransmits(stamp, record, read!(tcp, u32, total_retrans));
        put!(record, srtt_us, read!(tcp, u32, srtt_us) >> 3);
        put!(record, min_rtt_us, read!(tcp, u32, min_rtt_us));
        put!(record, final_cwnd, read!(tcp, u32, cwnd));
        put!(record, rate_delivered, read!(tcp, u32, rate_delivered));
        put!(record, rate_interval_us, read!(tcp, u32, rate_interval_us));
        put!(record, mss_bytes, read!(tcp, u32, mss_bytes));
        put!(record, still_open, 1);
        record::hidden(tcp, record);
        record::decided(stamp, record);
    }
}

/// Notes in the stamp what the record tells.
///
/// # Safety
/// Both pointers must be valid, the stamp for writing.
#[inline(always)]
unsafe fn remember(record: *const FlowRecord, stamp: *mut Stamp) {
    unsafe {
        let told = &raw mut (*stamp).told;
        put!(told, bytes_sent, stamped!(record, bytes_sent));
        put!(told, bytes_received, stamped!(record, bytes_received));
        put!(told, segments_out, stamped!(record, segments_out));
        put!(told, segments_in, stamped!(record, segments_in));
        put!(told, retransmits, stamped!(record, retransmits));
        put!(told, syn_retransmits, stamped!(record, syn_retransmits));
        put!(told, rtos, stamped!(record, rtos));
        put!(told, delivered_packets, stamped!(record, delivered_packets));
        put!(told, ce_marked_packets, stamped!(record, ce_marked_packets));
        put!(told, spurious_retransmits, stamped!(record, spurious_retransmits));
    }
}

/// As [`crate::flow::read`], from the socket.
///
/// # Safety
/// Both pointers must be valid, the key for writing.
#[inline(always)]
unsafe fn read_flow(tcp: *mut tcp_sock, direction: u8, key: *mut FlowKey) {
    unsafe {
        let mut local = [0, 0, MAPPED, 0];
        let mut remote = [0, 0, MAPPED, 0];
        if u32::from(read!(tcp, u16, family)) == AF_INET {
            local[3] = read!(tcp, u32, local_ipv4);
            remote[3] = read!(tcp, u32, remote_ipv4);
        } else {
            local[0] = read!(tcp, u32, local_ipv6);
            local[1] = read!(tcp, u32, local_ipv6 + 4);
            local[2] = read!(tcp, u32, local_ipv6 + 8);
            local[3] = read!(tcp, u32, local_ipv6 + 12);
            remote[0] = read!(tcp, u32, remote_ipv6);
            remote[1] = read!(tcp, u32, remote_ipv6 + 4);
            remote[2] = read!(tcp, u32, remote_ipv6 + 8);
            remote[3] = read!(tcp, u32, remote_ipv6 + 12);
        }
        let ports = (read!(tcp, u16, local_port), u16::from_be(read!(tcp, u16, remote_port)));
        flow::put(key, local, remote, ports, direction);
    }
}
