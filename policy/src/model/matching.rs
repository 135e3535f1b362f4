//! What a rule or an experiment asks of a connection.

use std::net::IpAddr;

use super::Id;
use crate::{
    address::{Family, PortRange, Prefix, ServicePath},
    layout::{ACTIVE, PASSIVE},
};

/// Conditions on a connection; those present must all hold, of a list one entry suffices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// Who opened it.
    pub direction: Option<Direction>,
    /// Address family.
    pub family: Option<Family>,
    /// The local address is in one of these.
    pub local_prefixes: Vec<Prefix>,
    /// The remote address is in one of these.
    pub remote_prefixes: Vec<Prefix>,
    /// The first n bits of both addresses are equal; n ≤ 128, and of 32 bits none has more than 32.
    pub same_prefix: Option<u8>,
    /// The first n bits of both addresses are not all equal; as above.
    pub not_same_prefix: Option<u8>,
    /// The local port is in one of these.
    pub local_ports: Vec<PortRange>,
    /// The remote port is in one of these.
    pub remote_ports: Vec<PortRange>,
    /// The socket's cgroup is in one of these.
    pub services: Vec<ServicePath>,
    /// The local address is in one of these zones.
    pub local_zones: Vec<Id>,
    /// The remote address is in one of these zones.
    pub remote_zones: Vec<Id>,
    /// How both zones relate.
    pub zone_relation: Option<ZoneRelation>,
    /// The handshake took at least so long.
    pub min_handshake_rtt_us: Option<u32>,
    /// The handshake took less.
    pub max_handshake_rtt_us: Option<u32>,
}

impl Match {
    /// Whether it can be judged only once the connection is established.
    #[must_use]
    pub fn asks_handshake(&self) -> bool {
        self.min_handshake_rtt_us.is_some() || self.max_handshake_rtt_us.is_some()
    }
}

/// How the zones of the local and the remote address relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneRelation {
    /// Both are in the same zone.
    SameZone,
    /// They are in two zones.
    OtherZone,
    /// Both are in the same region.
    SameRegion,
    /// They are in two regions.
    OtherRegion,
}

/// Where addresses are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Unique.
    pub name: Id,
    /// Several zones may lie in one region.
    pub region: Id,
    /// Addresses in it, if no longer prefix puts them into another zone.
    pub prefixes: Vec<Prefix>,
}

/// The zone of an address: that of its longest prefix.
#[must_use]
pub fn zone_of(zones: &[Zone], address: IpAddr) -> Option<&Zone> {
    let holding = zones.iter().flat_map(|zone| {
        zone.prefixes.iter().filter(|prefix| prefix.contains(address)).map(move |prefix| (prefix.mapped().1, zone))
    });
    holding.max_by_key(|(length, _)| *length).map(|(_, zone)| zone)
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// This end.
    Active,
    /// The other end.
    Passive,
}

impl Direction {
    /// As in [`crate::layout::FlowKey::direction`].
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Active => ACTIVE,
            Self::Passive => PASSIVE,
        }
    }
}
