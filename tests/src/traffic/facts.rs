//! What the kernel says about a socket.

use std::{io, mem, os::fd::AsRawFd};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket};

/// `TCP_INFO` and socket options, as any program could read them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Congestion window, packets.
    pub cwnd: u32,
    /// Slow-start threshold, packets; very great: none yet.
    pub ssthresh: u32,
    /// Retransmission timeout, microseconds.
    pub rto_us: u32,
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
    /// Segments sent again so far, SYNs too.
    pub retransmits: u32,
    /// Both ends speak ECN.
    pub ecn: bool,
    /// Congestion control.
    pub congestion: String,
    /// As `SO_SNDBUF` says: the kernel doubles what was set.
    pub send_buffer: u32,
    /// As `SO_RCVBUF` says.
    pub receive_buffer: u32,
    /// Traffic class (type of service) of the packets sent.
    pub traffic_class: u32,
}

const TCPI_OPT_ECN: u8 = 8;

impl Facts {
    /// Reads them.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn of(socket: &Socket) -> io::Result<Self> {
        let info = tcp_info(socket)?;
        let buffer = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let congestion = String::from_utf8_lossy(&socket.tcp_congestion()?).trim_end_matches('\0').to_owned();
        Ok(Self {
            cwnd: info.tcpi_snd_cwnd,
            ssthresh: info.tcpi_snd_ssthresh,
            rto_us: info.tcpi_rto,
            rtt_us: info.tcpi_rtt,
            retransmits: info.tcpi_total_retrans,
            ecn: info.tcpi_options & TCPI_OPT_ECN != 0,
            congestion,
            send_buffer: buffer(socket.send_buffer_size()?),
            receive_buffer: buffer(socket.recv_buffer_size()?),
            traffic_class: traffic_class(socket)?,
        })
    }
}

fn traffic_class(socket: &Socket) -> io::Result<u32> {
    if socket.domain()? == Domain::IPV4 { socket.tos_v4() } else { socket.tclass_v6() }
}

fn tcp_info(socket: &Socket) -> io::Result<libc::tcp_info> {
    // SAFETY: tcp_info is made of integers; all zeros is valid.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).expect("a small struct");
    // SAFETY: the kernel writes at most `length` bytes into `info`, which lives during the call.
    let status = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    if status == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}
