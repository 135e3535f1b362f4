//! Addresses, prefixes and port ranges, as matches use them.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

use crate::layout::{FlowKey, IPV4, IPV6};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4, also when seen through an IPv6 socket.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// As in [`FlowKey::family`].
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ipv4 => IPV4,
            Self::Ipv6 => IPV6,
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Ipv4 => Self::Ipv6,
            Self::Ipv6 => Self::Ipv4,
        }
    }

    /// The prefix that holds for every address of the family.
    #[must_use]
    pub fn whole(self) -> &'static str {
        match self {
            Self::Ipv4 => "0.0.0.0/0",
            Self::Ipv6 => "::/0",
        }
    }

    /// Bits of an address.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// An address as the kernel tables hold it: 16 bytes, IPv4 as `::ffff:a.b.c.d`.
#[must_use]
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address that [`address_bytes`] wrote; a mapped one is IPv4.
#[must_use]
pub fn bytes_address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

/// Number of leading bits that the two addresses of a flow share, in the flow's own family.
#[must_use]
pub fn common_prefix(flow: &FlowKey) -> u8 {
    let difference = u128::from_be_bytes(flow.local) ^ u128::from_be_bytes(flow.remote);
    let equal = difference.leading_zeros() as u8;
    if flow.family == IPV4 { equal.saturating_sub(96) } else { equal }
}

/// A network prefix with no bits set beyond its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(IpNet);

impl Prefix {
    /// The family of its addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        match self.0 {
            IpNet::V4(_) => Family::Ipv4,
            IpNet::V6(_) => Family::Ipv6,
        }
    }

    /// First address and length in the 128-bit space of [`address_bytes`].
    #[must_use]
    pub fn mapped(&self) -> ([u8; 16], u8) {
        let offset = if self.family() == Family::Ipv4 { 96 } else { 0 };
        (address_bytes(self.0.addr()), self.0.prefix_len() + offset)
    }

    /// Whether it holds for every address of its family.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.0.prefix_len() == 0
    }

    /// Whether the address lies in the prefix.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether the two have an address in common, which for prefixes means that one contains the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let net = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_| format!("\"{text}\" is no prefix; write 10.0.0.0/8, 2001:db8::/32 or an address"))?;
        if let IpNet::V6(v6) = net
            && v6.addr().to_ipv4_mapped().is_some()
        {
            return Err(format!("{text} is IPv4 seen through an IPv6 socket; write it as an IPv4 prefix"));
        }
        if net.trunc() != net {
            return Err(format!("{text} has bits beyond its length; write {}", net.trunc()));
        }
        Ok(Self(net))
    }
}

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports.
    #[must_use]
    pub fn ports(&self) -> std::ops::RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|&port| port > 0);
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            (Some(_), Some(_)) => Err(format!("\"{text}\" runs backwards; write the lower port first")),
            _ => Err(format!("\"{text}\" is no port range; write 443 or 8000-8999, between 1 and 65535")),
        }
    }
}

/// A control group path below the node's own, beginning with `/` and not ending with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePath(String);

impl ServicePath {
    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `path` is this cgroup or lies beneath it.
    #[must_use]
    pub fn holds_for(&self, path: &str) -> bool {
        path.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for ServicePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ServicePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sound = text.len() <= 1024
            && text.strip_prefix('/').is_some_and(|rest| {
                rest.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains('\0'))
            });
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("\"{text}\" is no cgroup path; write it like /system.slice/nginx.service"))
        }
    }
}
