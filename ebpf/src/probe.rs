//! A second entry to the same decision, for tests on the host: a flow in, what it would get out.

use aya_ebpf::{helpers::bpf_skb_load_bytes, macros::classifier, programs::TcContext};
use core::mem::MaybeUninit;
use sockpilot_policy::layout::{Hits, ProbeInput};

use crate::{
    decide::{decide, in_force, merge},
    maps,
};

/// Reads a [`ProbeInput`] from the packet and leaves the result in [`maps::PROBED`]. Returns the number of choices.
#[classifier]
pub fn probe(context: TcContext) -> i32 {
    run(&context).unwrap_or(-1)
}

#[inline(always)]
fn run(context: &TcContext) -> Option<i32> {
    let mut input = MaybeUninit::<ProbeInput>::uninit();
    let mut hits = MaybeUninit::<Hits>::uninit();
    // SAFETY: the length is the input's.
    unsafe {
        let size = size_of::<ProbeInput>() as u32;
        if bpf_skb_load_bytes(context.skb.skb.cast(), 0, input.as_mut_ptr().cast(), size) != 0 {
            return None;
        }
        let (slot, _) = in_force()?;
        let input = input.as_ptr();
        let count =
            decide(&raw const (*input).flow, (*input).service, slot, (*input).handshake_rtt_us, hits.as_mut_ptr());
        let stamp = maps::PROBED.get_ptr_mut(0)?;
        merge(hits.as_ptr(), stamp);
        Some(count)
    }
}
