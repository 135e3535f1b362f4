//! Where the kernel keeps what no stable interface shows.

#[cfg(doc)]
use super::FlowRecord;

/// Offsets of kernel fields that have no stable name, read from the kernel's BTF by the loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct KernelOffsets {
    /// `tcp_sock` to `sk_err`.
    pub sk_err: u32,
    /// `tcp_sock.total_rto`.
    pub total_rto: u32,
    /// `tcp_sock.delivered`.
    pub delivered: u32,
    /// `tcp_sock.delivered_ce`.
    pub delivered_ce: u32,
    /// `tcp_sock.dsack_dups`.
    pub dsack_dups: u32,
    /// The byte with the bit `tcp_sock.rate_app_limited`.
    pub rate_app_limited: u32,
    /// That bit in the byte, as a mask.
    pub rate_app_limited_mask: u32,
}

/// Where the kernel keeps what the context of `sock_ops` shows, for a program that sees but the socket; from the start of
/// `tcp_sock`, read from the kernel's BTF by the loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct SocketOffsets {
    /// Address family.
    pub family: u32,
    /// State.
    pub state: u32,
    /// IPv4 addresses.
    pub local_ipv4: u32,
    /// See above.
    pub remote_ipv4: u32,
    /// IPv6 addresses.
    pub local_ipv6: u32,
    /// See above.
    pub remote_ipv6: u32,
    /// In host order.
    pub local_port: u32,
    /// In network order.
    pub remote_port: u32,
    /// As in [`FlowRecord::bytes_sent`].
    pub bytes_acked: u32,
    /// As in [`FlowRecord`].
    pub bytes_received: u32,
    /// As in [`FlowRecord`].
    pub segments_out: u32,
    /// As in [`FlowRecord`].
    pub segments_in: u32,
    /// With SYNs.
    pub total_retrans: u32,
    /// Eight times the value.
    pub srtt_us: u32,
    /// As in [`FlowRecord`].
    pub min_rtt_us: u32,
    /// As in [`FlowRecord::final_cwnd`].
    pub cwnd: u32,
    /// Upper bound of the congestion window.
    pub cwnd_clamp: u32,
    /// As in [`FlowRecord`].
    pub rate_delivered: u32,
    /// As in [`FlowRecord`].
    pub rate_interval_us: u32,
    /// As in [`FlowRecord`].
    pub mss_bytes: u32,
}

/// Where the kernel keeps who opened a connection and in which cgroup its socket is; read from the kernel's BTF by the loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct OwnerOffsets {
    /// From `tcp_sock`: the interface that the handshake of an accepted IPv4 socket came in by; 0 where this end connected.
    pub accepted_ipv4: u32,
    /// From `tcp_sock`: a pointer to what is IPv6's own.
    pub ipv6: u32,
    /// From there: as `accepted_ipv4`, of any socket of the IPv6 family.
    pub accepted_ipv6: u32,
    /// From `tcp_sock`: a pointer to the socket's cgroup.
    pub cgroup: u32,
    /// From a cgroup: a pointer to its directory.
    pub directory: u32,
    /// From a directory: the inode's number, which is the cgroup's id.
    pub id: u32,
    /// From a cgroup: a pointer to the parent's state, null at the root.
    pub parent: u32,
    /// From a state: a pointer to its cgroup.
    pub parent_cgroup: u32,
}

/// Words of [`OwnerOffsets`].
pub const OWNER_OFFSETS: usize = size_of::<OwnerOffsets>() / size_of::<u32>();

/// Words of [`SocketOffsets`].
pub const SOCKET_OFFSETS: usize = size_of::<SocketOffsets>() / size_of::<u32>();
