//! The record of a connection that closes.

use aya_ebpf::{
    bindings::bpf_sock_ops,
    helpers::{bpf_ktime_get_ns, bpf_ringbuf_reserve, bpf_ringbuf_submit, bpf_skc_to_tcp_sock},
};
use sockpilot_policy::layout::{Counter, FlowRecord, LAYERS_MAX, Stamp};

use crate::{
    flow::{self, field},
    maps, stamp,
};

const MISSING: u32 = u32::MAX;

/// Writes the record, if this attachment serves the connection.
#[inline(always)]
pub fn closed(ctx: *mut bpf_sock_ops) {
    let Some(stamp) = stamp::own(ctx) else { return };
    maps::count(Counter::FlowsClosed);
    // SAFETY: a ring buffer, and a size that fits; checked for null.
    unsafe {
        let size = size_of::<FlowRecord>() as u64;
        let record: *mut FlowRecord = bpf_ringbuf_reserve((&raw const maps::RECORDS).cast_mut().cast(), size, 0).cast();
        if record.is_null() {
            maps::count(Counter::RecordsDropped);
            return;
        }
        write(ctx, stamp, record);
        // A second close of the same socket must not be recorded again.
        (&raw mut (*stamp).attachment).write_volatile(0);
        bpf_ringbuf_submit(record.cast(), 0);
    }
}

macro_rules! put {
    ($record:expr, $name:ident, $value:expr) => {
        (&raw mut (*$record).$name).write_volatile($value)
    };
}

macro_rules! stamped {
    ($stamp:expr, $name:ident) => {
        (&raw const (*$stamp).$name).read_volatile()
    };
}

/// # Safety
/// Both pointers must be valid, the record for writing.
#[inline(always)]
unsafe fn write(ctx: *mut bpf_sock_ops, stamp: *const Stamp, record: *mut FlowRecord) {
    unsafe {
        flow::read(ctx, stamped!(stamp, direction) as u8, &raw mut (*record).flow);
        put!(record, install, stamped!(stamp, install));
        put!(record, start_ns, stamped!(stamp, start_ns));
        put!(record, established_ns, stamped!(stamp, established_ns));
        put!(record, end_ns, bpf_ktime_get_ns());
        put!(record, parameters, stamped!(stamp, parameters));
        put!(record, refused, stamped!(stamp, refused));
        put!(record, bytes_sent, field!(ctx, bytes_acked));
        put!(record, bytes_received, field!(ctx, bytes_received));
        put!(record, old_state, flow::argument(ctx, 0));
        put!(record, segments_out, field!(ctx, segs_out));
        put!(record, segments_in, field!(ctx, segs_in));
        let retransmits = field!(ctx, total_retrans);
        // Until established, everything that was sent again was a SYN.
        let syns = if stamped!(stamp, established_ns) == 0 { retransmits } else { stamped!(stamp, syn_retransmits) };
        put!(record, syn_retransmits, syns);
        put!(record, retransmits, retransmits.wrapping_sub(syns));
        // The kernel keeps eight times the value.
        put!(record, srtt_us, field!(ctx, srtt_us) >> 3);
        put!(record, min_rtt_us, field!(ctx, rtt_min));
        put!(record, final_cwnd, field!(ctx, snd_cwnd));
        put!(record, established_cwnd, stamped!(stamp, established_cwnd));
        put!(record, rate_delivered, field!(ctx, rate_delivered));
        put!(record, rate_interval_us, field!(ctx, rate_interval_us));
        put!(record, choice_count, stamped!(stamp, choice_count));
        let (error, rtos) = hidden(ctx);
        put!(record, error, error);
        put!(record, rtos, rtos);
        let (from, to) = ((&raw const (*stamp).choices).cast::<u64>(), (&raw mut (*record).choices).cast::<u64>());
        let mut at = 0;
        while at < LAYERS_MAX / 4 {
            to.add(at).write_volatile(from.add(at).read_volatile());
            at += 1;
        }
    }
}

/// `sk_err` and `total_rto`, which no context field has: read from the kernel's own structure, at offsets from its BTF.
///
/// # Safety
/// A valid context.
#[inline(always)]
unsafe fn hidden(ctx: *mut bpf_sock_ops) -> (u32, u32) {
    unsafe {
        let sk = (&raw const (*ctx).__bindgen_anon_2.sk).read_volatile();
        if sk.is_null() {
            return (0, 0);
        }
        let tcp = bpf_skc_to_tcp_sock(sk.cast()).cast::<u8>();
        if tcp.is_null() {
            return (0, 0);
        }
        let offsets = maps::KERNEL_OFFSETS.load();
        let mut error = 0;
        if offsets.sk_err != MISSING {
            error = tcp.add(offsets.sk_err as usize).cast::<u32>().read_volatile();
        }
        let mut rtos = 0;
        if offsets.total_rto != MISSING {
            rtos = u32::from(tcp.add(offsets.total_rto as usize).cast::<u16>().read_volatile());
        }
        (error, rtos)
    }
}
