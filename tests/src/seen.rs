//! What can be seen of a connection from outside and is the same for equal connections, so that two can be compared.

use crate::{
    packet::{Segment, flag},
    traffic::Facts,
};

/// What a connection got, as far as it is the same every time.
#[derive(Debug, PartialEq, Eq)]
pub struct Got {
    /// The end that opened.
    pub client: Settings,
    /// The end that accepted.
    pub server: Settings,
    /// In the SYN.
    pub syn: Offer,
    /// In the SYN-ACK.
    pub syn_ack: Offer,
}

/// What one end's socket says.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// Congestion window, packets.
    pub cwnd: u32,
    /// Slow-start threshold, packets.
    pub ssthresh: u32,
    /// Both ends speak ECN.
    pub ecn: bool,
    /// Congestion control.
    pub congestion: String,
    /// As `SO_SNDBUF` says.
    pub send_buffer: u32,
    /// As `SO_RCVBUF` says.
    pub receive_buffer: u32,
    /// Of the packets sent.
    pub traffic_class: u32,
}

/// What is offered in the handshake.
#[derive(Debug, PartialEq, Eq)]
pub struct Offer {
    /// As it stands in the header.
    pub window: u16,
    /// As it stands in the options.
    pub window_scale: Option<u8>,
    /// ECE and CWR.
    pub ecn_flags: u8,
}

impl From<Facts> for Settings {
    fn from(facts: Facts) -> Self {
        let Facts {
            cwnd,
            ssthresh,
            rto_us: _,
            rtt_us: _,
            retransmits: _,
            ecn,
            congestion,
            send_buffer,
            receive_buffer,
            traffic_class,
        } = facts;
        Self { cwnd, ssthresh, ecn, congestion, send_buffer, receive_buffer, traffic_class }
    }
}

impl From<&Segment> for Offer {
    fn from(segment: &Segment) -> Self {
        let ecn_flags = segment.flags & (flag::ECE | flag::CWR);
        Self { window: segment.window, window_scale: segment.window_scale, ecn_flags }
    }
}
