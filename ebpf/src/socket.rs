//! A socket as the kernel shows it to a program that walks over the sockets of a network namespace (`iter/tcp`): locked, so that
//! no callback of the same socket can come in between.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{seq_file, tcp_sock},
    helpers::{bpf_probe_read_kernel, bpf_seq_write, bpf_skc_to_tcp_sock},
};
use sockpilot_policy::layout::{ACTIVE, Attachment, CGROUP_DEPTH_MAX, FlowKey, OwnerOffsets, PASSIVE};

use crate::{
    flow::{self, AF_INET, MAPPED},
    maps,
};

/// `struct bpf_iter__tcp`.
#[repr(C)]
pub struct Context {
    /// `struct bpf_iter_meta`, which begins with the file that the daemon reads.
    meta: *const c_void,
    sk: *mut c_void,
    uid: u32,
}

impl Context {
    /// The socket; null for what is not a full one (a request, or one in TIME_WAIT) and at the end of the walk.
    ///
    /// # Safety
    /// A context that the kernel gave.
    #[inline(always)]
    pub unsafe fn socket(this: *const Self) -> *mut tcp_sock {
        unsafe {
            let sk = (&raw const (*this).sk).read_volatile();
            if sk.is_null() { sk.cast() } else { bpf_skc_to_tcp_sock(sk) }
        }
    }

    /// Ends the walk with this socket, for a daemon that reads byte by byte: the kernel goes on only when asked for more.
    ///
    /// # Safety
    /// A context that the kernel gave.
    #[inline(always)]
    pub unsafe fn end_walk(this: *const Self) {
        unsafe {
            let meta = (&raw const (*this).meta).read_volatile();
            let sequence = meta.cast::<*mut seq_file>().read_volatile();
            let byte = 1_u8;
            bpf_seq_write(sequence, (&raw const byte).cast(), 1);
        }
    }
}

/// The offset of a field: a constant for the verifier, because the loader freezes it.
macro_rules! offset {
    ($name:ident) => {
        (&raw const (*(&raw const $crate::maps::SOCKET_FIELDS).cast::<sockpilot_policy::layout::SocketOffsets>()).$name)
            .read_volatile() as usize
    };
}
pub(crate) use offset;

/// Reads a field of [`SocketOffsets`].
macro_rules! read {
    ($tcp:expr, $type:ty, $name:ident $(+ $more:expr)?) => {
        $tcp.cast::<u8>().add($crate::socket::offset!($name) $(+ $more)?).cast::<$type>().read_volatile()
    };
}
pub(crate) use read;

macro_rules! owner_offset {
    ($name:ident) => {
        (&raw const (*(&raw const maps::OWNER_FIELDS).cast::<OwnerOffsets>()).$name).read_volatile() as u64
    };
}

/// Whether the socket's own family is IPv4; an IPv6 socket may speak IPv4 too.
///
/// # Safety
/// A pointer that the kernel gave.
#[inline(always)]
pub unsafe fn is_ipv4(tcp: *mut tcp_sock) -> bool {
    unsafe { u32::from(read!(tcp, u16, family)) == AF_INET }
}

/// As [`crate::flow::read`], from the socket.
///
/// # Safety
/// Both pointers must be valid, the key for writing.
#[inline(always)]
pub unsafe fn read_flow(tcp: *mut tcp_sock, direction: u8, key: *mut FlowKey) {
    unsafe {
        let mut local = [0, 0, MAPPED, 0];
        let mut remote = [0, 0, MAPPED, 0];
        if is_ipv4(tcp) {
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

/// Who opened the connection. The kernel keeps for an accepted socket, in a place meant for multicast, by which interface its
/// handshake came in (`tcp_v4_syn_recv_sock`, `tcp_v6_syn_recv_sock`); a socket that connected has 0 there, and TCP does not
/// let applications set it.
///
/// # Safety
/// A pointer that the kernel gave.
#[inline(always)]
pub unsafe fn direction(tcp: *mut tcp_sock) -> u8 {
    unsafe {
        let (from, at) = if is_ipv4(tcp) {
            (tcp as u64, owner_offset!(accepted_ipv4))
        } else {
            (follow(tcp as u64 + owner_offset!(ipv6)), owner_offset!(accepted_ipv6))
        };
        let interface = bpf_probe_read_kernel((from + at) as *const u32).unwrap_or(0);
        if interface == 0 { ACTIVE } else { PASSIVE }
    }
}

/// What the innermost attachment around the socket's cgroup knows; null if there is none.
///
/// # Safety
/// A pointer that the kernel gave.
#[inline(never)]
pub unsafe fn attachment(tcp: *mut tcp_sock) -> *const Attachment {
    unsafe {
        let mut cgroup = follow(tcp as u64 + owner_offset!(cgroup));
        let mut depth = 0;
        while depth < CGROUP_DEPTH_MAX && cgroup != 0 {
            let id = follow(follow(cgroup + owner_offset!(directory)) + owner_offset!(id));
            if let Some(attachment) = maps::ATTACHED.get_ptr(id) {
                return attachment;
            }
            let parent = follow(cgroup + owner_offset!(parent));
            cgroup = if parent == 0 { 0 } else { follow(parent + owner_offset!(parent_cgroup)) };
            depth += 1;
        }
        core::ptr::null()
    }
}

/// What stands at an address of the kernel; 0 if it cannot be read.
#[inline(always)]
unsafe fn follow(address: u64) -> u64 {
    unsafe { bpf_probe_read_kernel(address as *const u64).unwrap_or(0) }
}
