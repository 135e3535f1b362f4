//! The record of a connection: when it closes, and while it is open for long.

use core::ptr;

use aya_ebpf::{
    bindings::{bpf_sock_ops, tcp_sock},
    helpers::{bpf_ktime_get_ns, bpf_ringbuf_reserve, bpf_ringbuf_submit, bpf_skc_to_tcp_sock},
};
use sockpilot_policy::layout::{Counter, FlowRecord, KernelOffsets, LAYERS_MAX, Reported, Stamp};

use crate::{
    flow::{self, field},
    maps,
    memory::{get, put},
};

/// Sentinel: this kernel lacks the field.
const MISSING: u32 = u32::MAX;

/// Writes the record of a connection that this attachment serves.
#[inline(always)]
pub fn closed(ctx: *mut bpf_sock_ops, stamp: *mut Stamp) {
    maps::count(Counter::FlowsClosed);
    maps::count_open(ctx, -1);
    // SAFETY: a ring buffer, and a size that fits; checked for null.
    unsafe {
        let record = reserve();
        if record.is_null() {
            maps::count(Counter::RecordsDropped);
        } else {
            write(ctx, stamp, record);
            bpf_ringbuf_submit(record.cast(), 0);
        }
        // The connection has ended, whatever becomes of the socket.
        (&raw mut (*stamp).attachment).write_volatile(0);
    }
}

/// Room for a record in the ring buffer, or null.
#[inline(always)]
pub fn reserve() -> *mut FlowRecord {
    let size = size_of::<FlowRecord>() as u64;
    // SAFETY: a ring buffer, and a size that fits.
    unsafe { bpf_ringbuf_reserve((&raw const maps::RECORDS).cast_mut().cast(), size, 0).cast() }
}

/// # Safety
/// Both pointers must be valid, the record for writing.
#[inline(always)]
unsafe fn write(ctx: *mut bpf_sock_ops, stamp: *const Stamp, record: *mut FlowRecord) {
    unsafe {
        flow::read(ctx, get!(stamp, direction) as u8, &raw mut (*record).flow);
        put!(record, bytes_sent, field!(ctx, bytes_acked));
        put!(record, bytes_received, field!(ctx, bytes_received));
        // Not from the first argument, which another program's answer overwrites. The change is still to come.
        put!(record, old_state, field!(ctx, state));
        put!(record, segments_out, field!(ctx, segs_out));
        put!(record, segments_in, field!(ctx, segs_in));
        retransmits(stamp, record, field!(ctx, total_retrans));
        // The kernel keeps eight times the value.
        put!(record, srtt_us, field!(ctx, srtt_us) >> 3);
        min_rtt(stamp, record, field!(ctx, rtt_min));
        put!(record, final_cwnd, field!(ctx, snd_cwnd));
        put!(record, rate_delivered, field!(ctx, rate_delivered));
        put!(record, rate_interval_us, field!(ctx, rate_interval_us));
        put!(record, mss_bytes, field!(ctx, mss_cache));
        put!(record, still_open, 0);
        let sk = (&raw const (*ctx).__bindgen_anon_2.sk).read_volatile();
        let tcp = if sk.is_null() { ptr::null_mut() } else { bpf_skc_to_tcp_sock(sk.cast()) };
        hidden(tcp, record);
        decided(stamp, record);
    }
}

/// What the stamp knows of the connection.
///
/// # Safety
/// Both pointers must be valid, the record for writing.
#[inline(always)]
pub unsafe fn decided(stamp: *const Stamp, record: *mut FlowRecord) {
    unsafe {
        put!(record, install, get!(stamp, install));
        put!(record, start_ns, get!(stamp, start_ns));
        put!(record, established_ns, get!(stamp, established_ns));
        put!(record, end_ns, bpf_ktime_get_ns());
        put!(record, parameters, get!(stamp, parameters));
        put!(record, refused, get!(stamp, refused));
        put!(record, established_cwnd, get!(stamp, established_cwnd));
        put!(record, choice_count, get!(stamp, choice_count));
        put!(record, attachment, get!(stamp, attachment));
        put!(record, handshake_rtt_us, get!(stamp, handshake_rtt_us));
        #[cfg(feature = "layout-next")]
        put!(record, next, u64::MAX);
        let (from, to) = ((&raw const (*stamp).choices).cast::<u64>(), (&raw mut (*record).choices).cast::<u64>());
        let mut at = 0;
        while at < LAYERS_MAX / 4 {
            to.add(at).write_volatile(from.add(at).read_volatile());
            at += 1;
        }
        let (from, to) = ((&raw const (*stamp).reported).cast::<u64>(), (&raw mut (*record).reported).cast::<u64>());
        let mut at = 0;
        while at < size_of::<Reported>() / 8 {
            to.add(at).write_volatile(from.add(at).read_volatile());
            at += 1;
        }
    }
}

/// What was sent again, of SYNs and of the rest.
///
/// # Safety
/// Both pointers must be valid, the record for writing.
#[inline(always)]
pub unsafe fn retransmits(stamp: *const Stamp, record: *mut FlowRecord, total: u32) {
    unsafe {
        // Until established, everything that was sent again was a SYN.
        let syns = if get!(stamp, established_ns) == 0 { total } else { get!(stamp, syn_retransmits) };
        put!(record, syn_retransmits, syns);
        put!(record, retransmits, total.wrapping_sub(syns));
    }
}

/// The least round-trip time, unless it still is that of the socket's earlier connection.
///
/// # Safety
/// Both pointers must be valid, the record for writing.
#[inline(always)]
pub unsafe fn min_rtt(stamp: *const Stamp, record: *mut FlowRecord, socket_us: u32) {
    unsafe { put!(record, min_rtt_us, if socket_us == get!(stamp, stale_min_rtt_us) { 0 } else { socket_us }) };
}

/// The offset of a field: a constant for the verifier, because the loader freezes it.
macro_rules! offset {
    ($name:ident) => {
        (&raw const (*(&raw const maps::KERNEL_OFFSETS).cast::<KernelOffsets>()).$name).read_volatile()
    };
}

/// What no context field has: read from the kernel's own structure, at offsets from its BTF.
///
/// # Safety
/// A pointer that the kernel gave, or null, and a valid record.
#[inline(always)]
pub unsafe fn hidden(tcp: *mut tcp_sock, record: *mut FlowRecord) {
    unsafe {
        let tcp = tcp.cast::<u8>();
        put!(record, error, error(tcp.cast()));
        put!(record, rtos, rtos(tcp.cast()));
        put!(record, delivered_packets, word(tcp, offset!(delivered)));
        put!(record, ce_marked_packets, word(tcp, offset!(delivered_ce)));
        put!(record, spurious_retransmits, word(tcp, offset!(dsack_dups)));
        let (mut limited, offset) = (0, offset!(rate_app_limited));
        if !tcp.is_null() && offset != MISSING {
            limited = u32::from(tcp.add(offset as usize).read_volatile()) & offset!(rate_app_limited_mask);
        }
        // 1 if any bit is left, without a branch.
        put!(record, rate_app_limited, (u64::from(limited).wrapping_neg() >> 63) as u32);
    }
}

/// The error of the socket.
///
/// # Safety
/// A pointer that the kernel gave, or null.
#[inline(always)]
pub unsafe fn error(tcp: *mut tcp_sock) -> u32 {
    unsafe { word(tcp.cast(), offset!(sk_err)) }
}

/// Expired retransmission timers.
///
/// # Safety
/// A pointer that the kernel gave, or null.
#[inline(always)]
pub unsafe fn rtos(tcp: *mut tcp_sock) -> u32 {
    let offset = unsafe { offset!(total_rto) };
    if tcp.is_null() || offset == MISSING {
        return 0;
    }
    u32::from(unsafe { tcp.cast::<u8>().add(offset as usize).cast::<u16>().read_volatile() })
}

/// A field of 32 bits, or 0 if there is no socket or this kernel lacks the field.
///
/// # Safety
/// A pointer that the kernel gave, or null.
#[inline(always)]
unsafe fn word(tcp: *mut u8, offset: u32) -> u32 {
    if tcp.is_null() || offset == MISSING {
        return 0;
    }
    unsafe { tcp.add(offset as usize).cast::<u32>().read_volatile() }
}
