//! A connection begins: it is decided, and what was decided is stamped on its socket, or kept beside it while there is but a
//! connection request.

use core::{mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::bpf_sock_ops,
    helpers::{bpf_get_socket_cookie, bpf_ktime_get_ns},
};
use sockpilot_policy::{
    layout::{
        ACTIVE, Attachment, Counter, FlowKey, Generation, Hits, PASSIVE, PendingKey, SKIP_HANDSHAKE, SLOTS, Stamp,
        USED_LIVE, USED_REQUESTS,
    },
    parameter::{ESTABLISHED_MASK, REQUEST_MASK},
};

use crate::{
    again,
    decide::{decide, in_force, merge},
    flow::{self, field},
    handover, maps,
    memory::{get, hide, put},
    pending, stamp,
};

/// Flags of a TCP header.
const SYN_ACK: u32 = 0x12;

/// Stamps a socket that begins to connect. `None` if nothing matches and it is not to be recorded all the same, or if an inner
/// attachment has done it.
#[inline(always)]
pub fn connecting(ctx: *mut bpf_sock_ops) -> Option<*mut Stamp> {
    let attachment = stamp::attachment()?;
    let stamp = stamp::of(ctx);
    // SAFETY: checked for null, and an element of the storage.
    if !stamp.is_null() && unsafe { get!(stamp, attempt) } == field!(ctx, sk_txhash) {
        return None;
    }
    let in_charge = handover::in_charge();
    // Without being in charge it may be another side's connection that begins, and its changes.
    if !stamp.is_null() || in_charge && stamp::used() & USED_LIVE != 0 {
        again::forget(ctx);
    }
    let (slot, _) = in_force()?;
    if !in_charge || handover::begun_earlier(ctx) || exempt(ctx) {
        return None;
    }
    let mut flow = MaybeUninit::<FlowKey>::uninit();
    flow::read(ctx, ACTIVE, flow.as_mut_ptr());
    let stamp = match fresh(ctx, flow.as_ptr(), ACTIVE, slot, attachment, 0) {
        Some(stamp) => stamp,
        None => unmatched(ctx, ACTIVE, slot, attachment, 0)?,
    };
    // SAFETY: an element of the storage.
    unsafe { put!(stamp, stale_min_rtt_us, field!(ctx, rtt_min)) };
    Some(stamp)
}

/// The stamp of a socket that has just connected. Rules on the handshake's time are asked only now, so the stamp may change or
/// only come to be.
#[inline(always)]
pub fn connected(ctx: *mut bpf_sock_ops) -> Option<*mut Stamp> {
    let attachment = stamp::attachment()?;
    let (slot, head) = in_force()?;
    let stamp = stamp::of(ctx);
    let mut flow = MaybeUninit::<FlowKey>::uninit();
    if stamp.is_null() {
        if head.skip & SKIP_HANDSHAKE != 0 || !handover::in_charge() || handover::served_earlier(ctx) || exempt(ctx) {
            return None;
        }
        flow::read(ctx, ACTIVE, flow.as_mut_ptr());
        return fresh(ctx, flow.as_ptr(), ACTIVE, slot, attachment, handshake_us(ctx));
    }
    // SAFETY: an element of the storage, and one of the map of attachments.
    if unsafe { (&raw const (*stamp).attachment).read_volatile() != (*attachment).id } {
        return None;
    }
    if head.skip & SKIP_HANDSHAKE == 0 {
        flow::read(ctx, ACTIVE, flow.as_mut_ptr());
        refine(ctx, flow.as_ptr(), stamp, attachment, slot, head);
    }
    Some(stamp)
}

/// Whether this socket has connected, and its SYN crossed that of the other end: the kernel then has the callback of accepted
/// sockets. None of those has a stamp before, and what ends their handshake is no SYN-ACK.
#[inline(always)]
pub fn crossed(ctx: *mut bpf_sock_ops, stamp: *const Stamp) -> bool {
    if stamp.is_null() {
        return field!(ctx, skb_tcp_flags) & SYN_ACK == SYN_ACK;
    }
    // SAFETY: an element of the storage.
    unsafe { get!(stamp, direction) == u32::from(ACTIVE) && get!(stamp, established_ns) == 0 }
}

/// Stamps a socket that has just been accepted: with what was decided when its SYN came, else with a decision now.
#[inline(always)]
pub fn accepted(ctx: *mut bpf_sock_ops) -> Option<*mut Stamp> {
    let attachment = stamp::attachment()?;
    let (slot, head) = in_force()?;
    let mut key = MaybeUninit::<PendingKey>::uninit();
    // SAFETY: the first field of the key.
    let flow = unsafe { &raw mut (*key.as_mut_ptr()).flow };
    flow::read(ctx, PASSIVE, flow);
    let asks = stamp::used() & USED_REQUESTS != 0;
    if asks || handover::has_earlier() {
        flow::read_netns(ctx, key.as_mut_ptr());
    }
    let mut requested = false;
    if asks {
        let pending = pending::fresh(key.as_ptr());
        if !pending.is_null() {
            requested = true;
            // SAFETY: just looked up.
            let count = unsafe { (&raw const (*pending).choice_count).read_volatile() };
            let stamp = if count > 0 { stamp::create(ctx, pending) } else { None };
            pending::forget(key.as_ptr());
            if let Some(stamp) = stamp {
                initialise(ctx, stamp, attachment, PASSIVE, 0);
                if head.skip & SKIP_HANDSHAKE == 0 {
                    refine(ctx, flow, stamp, attachment, slot, head);
                }
                return Some(stamp);
            }
            if count > 0 {
                return None;
            }
            if head.skip & SKIP_HANDSHAKE != 0 {
                return unmatched(ctx, PASSIVE, slot, attachment, handshake_us(ctx));
            }
        }
    }
    // What it has decided at the SYN is its own, whoever is in charge by now.
    let earlier = || handover::served_earlier(ctx) || handover::requested_earlier(key.as_ptr());
    if !requested && (!handover::in_charge() || earlier()) {
        return None;
    }
    match fresh(ctx, flow, PASSIVE, slot, attachment, handshake_us(ctx)) {
        Some(stamp) => Some(stamp),
        None => unmatched(ctx, PASSIVE, slot, attachment, handshake_us(ctx)),
    }
}

/// Notes that the connection is established, and with what.
#[inline(always)]
pub fn established(ctx: *mut bpf_sock_ops, stamp: *mut Stamp) {
    // SAFETY: an element of the storage.
    unsafe {
        // For us a passive one has begun now.
        let is_passive = get!(stamp, direction) == u32::from(PASSIVE);
        put!(stamp, established_ns, if is_passive { get!(stamp, start_ns) } else { bpf_ktime_get_ns() });
        (&raw mut (*stamp).established_cwnd).write_volatile(field!(ctx, snd_cwnd));
        put!(stamp, handshake_rtt_us, handshake_us(ctx));
        (&raw mut (*stamp).syn_retransmits).write_volatile(field!(ctx, total_retrans));
    }
}

/// The decision of a connection request, made when first asked for and kept until the connection is established.
#[inline(always)]
pub fn requested(ctx: *mut bpf_sock_ops) -> Option<*mut Stamp> {
    let attachment = stamp::attachment()?;
    let (slot, head) = in_force()?;
    let mut key = MaybeUninit::<PendingKey>::uninit();
    // SAFETY: the first field of the key.
    let flow = unsafe { &raw mut (*key.as_mut_ptr()).flow };
    flow::read(ctx, PASSIVE, flow);
    flow::read_netns(ctx, key.as_mut_ptr());
    let pending = pending::fresh(key.as_ptr());
    if !pending.is_null() {
        return Some(pending);
    }
    if head.parameters & REQUEST_MASK == 0 || !handover::in_charge() || handover::requested_earlier(key.as_ptr()) {
        return None;
    }
    let pending = pending::keep(key.as_ptr())?;
    let mut hits = MaybeUninit::<Hits>::uninit();
    if decide(flow, service(attachment, slot), slot, 0, hits.as_mut_ptr()) > 0 {
        merge(hits.as_ptr(), pending);
    }
    Some(pending)
}

/// Stamps a connection that no layer matches if it is one of the few of these that are recorded. The kernel draws the hash for each
/// connection; it may draw another one later, so only the first decision asks.
#[inline(always)]
fn unmatched(
    ctx: *mut bpf_sock_ops,
    direction: u8,
    slot: u32,
    attachment: *const Attachment,
    rtt_us: u32,
) -> Option<*mut Stamp> {
    let active = maps::ACTIVE.get_ptr(0)?;
    // SAFETY: an element of the map.
    if field!(ctx, sk_txhash) >= unsafe { (&raw const (*active).record_below).read_volatile() } {
        return None;
    }
    // Not what could not be stamped for want of memory.
    if !stamp::of(ctx).is_null() {
        return None;
    }
    let head = maps::GENERATIONS.get(slot)?;
    let stamp = stamp::create(ctx, ptr::null_mut())?;
    // SAFETY: an element of the storage.
    unsafe { put!(stamp, install, head.install) };
    initialise(ctx, stamp, attachment, direction, rtt_us);
    Some(stamp)
}

/// Decides, and stamps if anything matches.
#[inline(always)]
fn fresh(
    ctx: *mut bpf_sock_ops,
    flow: *const FlowKey,
    direction: u8,
    slot: u32,
    attachment: *const Attachment,
    rtt_us: u32,
) -> Option<*mut Stamp> {
    let mut hits = MaybeUninit::<Hits>::uninit();
    if decide(flow, service(attachment, slot), slot, rtt_us, hits.as_mut_ptr()) <= 0 {
        return None;
    }
    let stamp = stamp::create(ctx, ptr::null_mut())?;
    merge(hits.as_ptr(), stamp);
    initialise(ctx, stamp, attachment, direction, rtt_us);
    Some(stamp)
}

/// Asks the rules on the handshake's time, over the same tables as before. What was set before it was known stays in the stamp.
#[inline(always)]
fn refine(
    ctx: *mut bpf_sock_ops,
    flow: *const FlowKey,
    stamp: *mut Stamp,
    attachment: *const Attachment,
    slot: u32,
    head: &Generation,
) {
    // SAFETY: an element of the storage.
    unsafe {
        if (&raw const (*stamp).install).read_volatile() != head.install {
            maps::count(Counter::HandshakeMissed);
            return;
        }
        let mut hits = MaybeUninit::<Hits>::uninit();
        if decide(flow, service(attachment, slot), slot, handshake_us(ctx), hits.as_mut_ptr()) > 0 {
            let before = (&raw const (*stamp).parameters).read_volatile();
            merge(hits.as_ptr(), stamp);
            let after = &raw mut (*stamp).parameters;
            after.write_volatile(after.read_volatile() | before & !ESTABLISHED_MASK);
        }
    }
}

#[inline(always)]
fn initialise(ctx: *mut bpf_sock_ops, stamp: *mut Stamp, attachment: *const Attachment, direction: u8, rtt_us: u32) {
    // SAFETY: an element of the storage.
    unsafe {
        // An active connection that is stamped late began a round trip ago; a passive one begins for us now.
        let late_ns = if direction == ACTIVE { u64::from(rtt_us) * 1000 } else { 0 };
        (&raw mut (*stamp).start_ns).write_volatile(bpf_ktime_get_ns() - late_ns);
        (&raw mut (*stamp).attachment).write_volatile((*attachment).id);
        (&raw mut (*stamp).direction).write_volatile(u32::from(direction));
        (&raw mut (*stamp).attempt).write_volatile(field!(ctx, sk_txhash));
    }
    maps::count(Counter::FlowsStamped);
    maps::count_open(ctx, 1);
}

/// The handshake's round-trip time: at this moment the smoothed one has but this sample. Never 0, which means unknown.
#[inline(always)]
fn handshake_us(ctx: *mut bpf_sock_ops) -> u32 {
    (field!(ctx, srtt_us) >> 3) | 1
}

/// Whether this is the daemon's own connection to its server.
#[inline(always)]
fn exempt(ctx: *mut bpf_sock_ops) -> bool {
    let Some(active) = maps::ACTIVE.get_ptr(0) else { return false };
    // SAFETY: an element of the map, and a valid context.
    unsafe {
        let cookie = (&raw const (*active).exempt_cookie).read_volatile();
        cookie != 0 && cookie == bpf_get_socket_cookie(ctx.cast())
    }
}

#[inline(always)]
fn service(attachment: *const Attachment, slot: u32) -> u32 {
    let at = (hide(u64::from(slot)) & (SLOTS as u64 - 1)) as usize;
    // SAFETY: an element of the storage, and a bounded position.
    u32::from(unsafe { (&raw const (*attachment).service).cast::<u16>().add(at).read_volatile() })
}
