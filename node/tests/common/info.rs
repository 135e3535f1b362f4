//! What a socket's owner can ask about it, beside what a record says of the same socket.

use std::{net::TcpStream, os::fd::AsRawFd};

use sockpilot_policy::layout::FlowRecord;

/// `struct tcp_info` (include/uapi/linux/tcp.h), of which the C library knows only the beginning.
#[derive(Debug, Clone, Copy)]
pub struct Info([u8; 256]);

impl Info {
    /// Asks the kernel.
    pub fn of(stream: &TcpStream) -> Self {
        let mut info = Self([0; 256]);
        let mut length = 256;
        // SAFETY: a buffer of the length said.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info.0).cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0);
        info
    }

    fn number<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().unwrap()
    }

    /// As in the kernel's `TCP_*`.
    pub fn state(&self) -> u8 {
        self.0[0]
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.number(at))
    }

    fn long(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.number(at))
    }

    /// Congestion window, in packets.
    pub fn window(&self) -> u32 {
        self.word(80)
    }

    /// Segments under way.
    pub fn unacknowledged(&self) -> u32 {
        self.word(24)
    }

    /// What adds up.
    pub fn counts(&self) -> Counts {
        Counts {
            bytes_sent: self.long(120),
            bytes_received: self.long(128),
            segments_out: self.word(136),
            segments_in: self.word(140),
            retransmits: self.word(100),
            rtos: u16::from_ne_bytes(self.number(240)),
            delivered: self.word(192),
            delivered_ce: self.word(196),
            dsack_dups: self.word(216),
        }
    }

    /// What does not.
    pub fn measures(&self) -> Measures {
        Measures { srtt_us: self.word(68), min_rtt_us: self.word(148), cwnd: self.window(), rate: self.long(160) }
    }
}

/// What adds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub segments_out: u32,
    pub segments_in: u32,
    /// With SYNs.
    pub retransmits: u32,
    pub rtos: u16,
    pub delivered: u32,
    pub delivered_ce: u32,
    pub dsack_dups: u32,
}

impl Counts {
    /// As a record tells it.
    pub fn of(record: &FlowRecord) -> Self {
        Self {
            bytes_sent: record.bytes_sent,
            bytes_received: record.bytes_received,
            segments_out: record.segments_out,
            segments_in: record.segments_in,
            retransmits: record.retransmits + record.syn_retransmits,
            rtos: record.rtos as u16,
            delivered: record.delivered_packets,
            delivered_ce: record.ce_marked_packets,
            dsack_dups: record.spurious_retransmits,
        }
    }
}

/// What does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measures {
    pub srtt_us: u32,
    pub min_rtt_us: u32,
    pub cwnd: u32,
    /// Bytes per second.
    pub rate: u64,
}

impl Measures {
    /// As a record tells it.
    pub fn of(record: &FlowRecord) -> Self {
        let delivered = u64::from(record.rate_delivered) * u64::from(record.mss_bytes) * 1_000_000;
        Self {
            srtt_us: record.srtt_us,
            min_rtt_us: record.min_rtt_us,
            cwnd: record.final_cwnd,
            rate: delivered.checked_div(record.rate_interval_us.into()).unwrap_or(0),
        }
    }
}
