//! The kernel program of sockpilot.
//!
//! One `sock_ops` program. It decides once per connection ([`decide`]), stamps the decision on the socket ([`begin`], [`stamp`]), sets
//! what was decided at the right moments ([`apply`]), and when the connection closes writes a record ([`record`]) and looks whether a canary
//! does harm ([`breaker`]). A passive
//! connection that needs something in the handshake is decided when its SYN comes, where there is no socket yet; the
//! decision waits in [`pending`].
//!
//! A socket may carry several connections, one after the other: each is decided, stamped and recorded for itself ([`again`]).
//!
//! Two programs walk over the sockets of a network namespace when the daemon asks for it ([`socket`]): one writes records of
//! connections that are open for long ([`open`]), one applies rules to connections that are open already ([`live`]). A third one
//! looks for one socket, of the daemon's own, to try values out on it ([`try_values`]).
//!
//! The program may be attached to several cgroups on the path of a socket, and the kernel then runs it once for each, the
//! innermost first. The first attachment that stamps a socket serves it to the end.
//!
//! While a version with another layout takes over, the programs of both are attached, and each connection is of one of them ([`handover`]).
//!
//! The files are layers, without a circle: [`memory`], [`flow`], [`maps`]; [`handover`]; [`arm`], then [`decide`]; [`option`], [`socket`], [`stamp`], [`pending`];
//! [`changes`], then [`again`], then [`begin`] and [`apply`]; [`record`], then [`breaker`]; and what is entered from outside.
//!
//! Of the 512 bytes of stack that all functions of a call chain share, a decision takes the most: what stands beside it is kept
//! out of its caller's frame (`#[inline(never)]`).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
// `field!`, `get!` and `put!` stand in unsafe blocks and outside.
#![allow(unused_unsafe)]

mod again;
mod apply;
mod arm;
mod begin;
mod breaker;
mod changes;
mod decide;
mod flow;
mod handover;
mod live;
mod maps;
mod memory;
mod open;
mod option;
mod pending;
mod probe;
mod record;
mod reflect;
mod socket;
mod stamp;
mod try_values;

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_BASE_RTT, BPF_SOCK_OPS_NEEDS_ECN,
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RWND_INIT, BPF_SOCK_OPS_STATE_CB,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_SOCK_OPS_TIMEOUT_INIT, bpf_sock_ops,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};
use sockpilot_policy::{
    layout::{USED_REPLIES, USED_REQUESTS},
    parameter::{Phase, Question, phase_mask, reply_slot},
};

const TCP_CLOSE: u32 = 7;

/// Always 1: with 0 the kernel would take the reply for an error.
#[sock_ops]
pub fn sockpilot(context: SockOpsContext) -> u32 {
    let ctx = context.ops;
    match flow::field!(ctx, op) {
        BPF_SOCK_OPS_STATE_CB => {
            if flow::argument(ctx, 1) == TCP_CLOSE {
                closed(ctx);
            }
        }
        BPF_SOCK_OPS_TCP_CONNECT_CB => connect(ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => established(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(ctx),
        BPF_SOCK_OPS_TIMEOUT_INIT => timeout(ctx),
        BPF_SOCK_OPS_RWND_INIT => answer(ctx, reply_slot(Question::ReceiveWindow)),
        BPF_SOCK_OPS_NEEDS_ECN => answer(ctx, reply_slot(Question::Ecn)),
        BPF_SOCK_OPS_BASE_RTT => answer(ctx, reply_slot(Question::BaseRtt)),
        BPF_SOCK_OPS_TCP_LISTEN_CB => {
            again::listening(ctx);
            reflect::listening(ctx);
        }
        _ => {}
    }
    1
}

#[inline(always)]
fn closed(ctx: *mut bpf_sock_ops) {
    let Some(stamp) = stamp::own(ctx) else { return };
    breaker::ended(ctx, stamp);
    record::closed(ctx, stamp);
}

#[inline(always)]
fn connect(ctx: *mut bpf_sock_ops) {
    if let Some(stamp) = begin::connecting(ctx) {
        apply::options(ctx, stamp, const { phase_mask(Phase::Connect) });
        flow::follow_states(ctx);
    }
}

#[inline(always)]
fn established(ctx: *mut bpf_sock_ops) {
    if let Some(stamp) = begin::connected(ctx) {
        apply::options(ctx, stamp, const { phase_mask(Phase::ActiveEstablished) });
        begin::established(ctx, stamp);
        // Again, as in `answer`.
        flow::follow_states(ctx);
    }
}

#[inline(always)]
fn accepted(ctx: *mut bpf_sock_ops) {
    let stamped = stamp::of(ctx);
    if begin::crossed(ctx, stamped) {
        established(ctx);
    } else if stamped.is_null()
        && let Some(stamp) = begin::accepted(ctx)
    {
        apply::options(ctx, stamp, const { phase_mask(Phase::PassiveEstablished) });
        reflect::accepted(ctx, stamp);
        begin::established(ctx, stamp);
        flow::follow_states(ctx);
    }
}

#[inline(always)]
fn timeout(ctx: *mut bpf_sock_ops) {
    let syn = const { reply_slot(Question::SynTimeout) };
    let synack = const { reply_slot(Question::SynAckTimeout) };
    answer(ctx, if flow::field!(ctx, is_fullsock) != 0 { syn } else { synack });
}

/// Answers a question of the kernel. Answers that are there already, from another program or from an inner attachment,
/// stand; -1 is none, though many programs give it.
#[inline(always)]
fn answer(ctx: *mut bpf_sock_ops, slot: usize) {
    let socket = flow::field!(ctx, is_fullsock) != 0;
    let used = stamp::used() & if socket { USED_REPLIES } else { USED_REQUESTS } != 0;
    if !used && (!socket || flow::follows_states(ctx)) {
        return;
    }
    let decided = if socket { stamp::own(ctx) } else { begin::requested(ctx) };
    if let Some(stamp) = decided {
        if socket {
            // Again: the questions come after the callback in which another program may have set its flags without keeping ours.
            flow::follow_states(ctx);
        }
        if !matches!(flow::reply(ctx), 0 | u32::MAX) {
            return;
        }
        // Outer attachments find the same decision, on the socket or beside it.
        flow::set_reply(ctx, stamp::value(stamp, slot).unwrap_or(u32::MAX));
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked in: the verifier would refuse an endless loop.
    loop {}
}

/// The helpers that this program calls are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
