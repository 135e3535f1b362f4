//! Trying out values: the daemon names a socket of its own and a list of values, and the program sets one after the other on it
//! and reads each back, with the same helpers that set them on connections.

use aya_ebpf::{bindings::tcp_sock, helpers::bpf_get_socket_cookie};
use sockpilot_policy::{
    layout::{TRIALS_MAX, TrialEntry, TrialRun},
    parameter::{TCP_BPF_IW, TCP_BPF_SNDCWND_CLAMP, option_slot},
};

use crate::{
    maps,
    memory::{get, hide, put},
    option::SocketOption,
    socket::{Context, is_ipv4, read},
};

/// Options that the kernel gives back only in the socket itself.
const INITIAL_CWND: u32 = option_slot(TCP_BPF_IW) as u32;
const CWND_CLAMP: u32 = option_slot(TCP_BPF_SNDCWND_CLAMP) as u32;

/// Always 0: on to the next socket, if the walk has not ended.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn try_values(ctx: *const Context) -> i32 {
    // SAFETY: the kernel gives a valid context.
    unsafe {
        let tcp = Context::socket(ctx);
        if tcp.is_null() {
            return 0;
        }
        let Some(run) = maps::TRIALS.get_ptr_mut(0) else { return 0 };
        if bpf_get_socket_cookie(tcp.cast()) == get!(run, cookie) {
            try_all(tcp, run);
            Context::end_walk(ctx);
        }
    }
    0
}

/// # Safety
/// Both pointers must be valid.
#[inline(always)]
unsafe fn try_all(tcp: *mut tcp_sock, run: *mut TrialRun) {
    unsafe {
        let (ipv4, count) = (is_ipv4(tcp), get!(run, count));
        let entries = (&raw mut (*run).entries).cast::<TrialEntry>();
        let mut step = 0;
        while step < TRIALS_MAX && step < count as usize {
            let at = (hide(step as u64) & (TRIALS_MAX as u64 - 1)) as usize;
            try_one(tcp, ipv4, entries.add(at));
            step += 1;
        }
        put!(run, done, step as u32);
    }
}

/// # Safety
/// Both pointers must be valid.
#[inline(always)]
unsafe fn try_one(tcp: *mut tcp_sock, ipv4: bool, entry: *mut TrialEntry) {
    unsafe {
        let slot = get!(entry, slot);
        let option = SocketOption::of(tcp.cast(), ipv4, slot as usize);
        let (name, name_read) = (&raw const (*entry).name, &raw mut (*entry).name_read);
        let set = if option.named { option.set_name(name) } else { option.set_number(get!(entry, value)) };
        put!(entry, set_errno, set.wrapping_neg() as u32);
        let (error, value) = match slot {
            INITIAL_CWND => (0, read!(tcp, u32, cwnd)),
            CWND_CLAMP => (0, read!(tcp, u32, cwnd_clamp)),
            _ if option.named => (option.read_name(name_read), 0),
            _ => match option.number() {
                Ok(value) => (0, value),
                Err(error) => (error, 0),
            },
        };
        put!(entry, read_errno, error.wrapping_neg() as u32);
        put!(entry, read, value);
    }
}
