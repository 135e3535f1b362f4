//! As much of a packet as the emulated link has to know: is it TCP, whose, and with which flags.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TCP flag bits.
pub mod flag {
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Acknowledges.
    pub const ACK: u8 = 0x10;
    /// With CWR on a SYN: the opener offers ECN.
    pub const ECE: u8 = 0x40;
    /// See [`ECE`].
    pub const CWR: u8 = 0x80;
}

const PROTOCOL_TCP: u8 = 6;
const OPTION_WINDOW_SCALE: u8 = 3;

/// What is known of a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// See [`flag`].
    pub flags: u8,
    /// The window as it stands in the header; on a SYN it is not scaled yet.
    pub window: u16,
    /// The window-scale option of a SYN.
    pub window_scale: Option<u8>,
}

impl Segment {
    /// The opener's first segment, or a repetition of it.
    #[must_use]
    pub fn is_syn(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK) == flag::SYN
    }

    /// The answer to it.
    #[must_use]
    pub fn is_syn_ack(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK
    }
}

/// Reads a bare IP packet; `None` if it is not TCP.
#[must_use]
pub fn parse(packet: &[u8]) -> Option<Segment> {
    let (source, destination, tcp) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            if *packet.get(9)? != PROTOCOL_TCP {
                return None;
            }
            let address =
                |at: usize| Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?)));
            (address(12)?, address(16)?, packet.get(header..)?)
        }
        6 => {
            if *packet.get(6)? != PROTOCOL_TCP {
                return None;
            }
            let address =
                |at: usize| Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?)));
            (address(8)?, address(24)?, packet.get(40..)?)
        }
        _ => return None,
    };
    let number = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let flags = *tcp.get(13)?;
    let end = (usize::from(*tcp.get(12)? >> 4) * 4).min(tcp.len());
    Some(Segment {
        source: SocketAddr::new(source, number(0)?),
        destination: SocketAddr::new(destination, number(2)?),
        flags,
        window: number(14)?,
        window_scale: if flags & flag::SYN == 0 { None } else { window_scale(tcp.get(20..end)?) },
    })
}

fn window_scale(mut options: &[u8]) -> Option<u8> {
    loop {
        options = match *options {
            [] | [0, ..] => return None,
            [1, ref rest @ ..] => rest,
            [OPTION_WINDOW_SCALE, 3, scale, ..] => return Some(scale),
            [_, length, ..] => options.get(usize::from(length).max(2)..)?,
            [_] => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn_v4() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 52, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([0x30, 0x39, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x80, 0xc2, 0xfa, 0xf0, 0, 0, 0, 0]);
        packet.extend([2, 4, 5, 0xb4, 1, 3, 3, 7, 0, 0, 0, 0]);
        packet
    }

    #[test]
    fn a_syn_is_read_with_its_window_scale() {
        let segment = parse(&syn_v4()).expect("TCP");
        assert_eq!(segment.source, "10.0.0.1:12345".parse().expect("address"));
        assert_eq!(segment.destination, "10.0.0.2:443".parse().expect("address"));
        assert!(segment.is_syn() && !segment.is_syn_ack());
        assert_eq!(segment.flags & (flag::ECE | flag::CWR), flag::ECE | flag::CWR);
        assert_eq!((segment.window, segment.window_scale), (0xfaf0, Some(7)));
    }

    #[test]
    fn cut_short_anywhere_it_is_no_panic() {
        let packet = syn_v4();
        for length in 0..packet.len() {
            let _ = parse(&packet[..length]);
        }
        let _ = parse(&[0x60; 60]);
        let _ = parse(&[0x4f; 20]);
    }
}
