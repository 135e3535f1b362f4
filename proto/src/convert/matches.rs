//! Which connections a rule or an experiment is for.

use sockpilot_policy::{
    address::{Family, PortRange, Prefix, ServicePath},
    fault::Collector,
    model::{Direction, Id, Match, ZoneRelation},
};

use super::{known, parsed};
use crate::v1;

pub(super) fn match_from_proto(message: Option<&v1::Match>, faults: &mut Collector) -> Match {
    let Some(message) = message else { return Match::default() };
    let v1::Match {
        direction,
        family,
        local_prefixes,
        remote_prefixes,
        same_prefix,
        not_same_prefix,
        local_ports,
        remote_ports,
        services,
        local_zones,
        remote_zones,
        zone_relation,
        min_handshake_rtt_us,
        max_handshake_rtt_us,
    } = message;
    faults.field("match", |faults| Match {
        direction: direction_from_proto(*direction, faults),
        family: family_from_proto(*family, faults),
        local_prefixes: parsed::<Prefix>("local_prefixes", local_prefixes, faults),
        remote_prefixes: parsed::<Prefix>("remote_prefixes", remote_prefixes, faults),
        same_prefix: same_prefix.map(prefix_length),
        not_same_prefix: not_same_prefix.map(prefix_length),
        local_ports: parsed::<PortRange>("local_ports", local_ports, faults),
        remote_ports: parsed::<PortRange>("remote_ports", remote_ports, faults),
        services: parsed::<ServicePath>("services", services, faults),
        local_zones: parsed::<Id>("local_zones", local_zones, faults),
        remote_zones: parsed::<Id>("remote_zones", remote_zones, faults),
        zone_relation: zone_relation_from_proto(*zone_relation, faults),
        min_handshake_rtt_us: *min_handshake_rtt_us,
        max_handshake_rtt_us: *max_handshake_rtt_us,
    })
}

/// Values beyond a byte stay beyond the greatest length, so that validation reports them.
fn prefix_length(length: u32) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

fn zone_relation_from_proto(number: i32, faults: &mut Collector) -> Option<ZoneRelation> {
    match known("zone_relation", number, "ZONE_RELATION_SAME_ZONE or another", faults) {
        v1::ZoneRelation::Unspecified => None,
        v1::ZoneRelation::SameZone => Some(ZoneRelation::SameZone),
        v1::ZoneRelation::OtherZone => Some(ZoneRelation::OtherZone),
        v1::ZoneRelation::SameRegion => Some(ZoneRelation::SameRegion),
        v1::ZoneRelation::OtherRegion => Some(ZoneRelation::OtherRegion),
    }
}

fn direction_from_proto(number: i32, faults: &mut Collector) -> Option<Direction> {
    match known("direction", number, "DIRECTION_ACTIVE or DIRECTION_PASSIVE", faults) {
        v1::Direction::Unspecified => None,
        v1::Direction::Active => Some(Direction::Active),
        v1::Direction::Passive => Some(Direction::Passive),
    }
}

fn family_from_proto(number: i32, faults: &mut Collector) -> Option<Family> {
    match known("family", number, "FAMILY_IPV4 or FAMILY_IPV6", faults) {
        v1::Family::Unspecified => None,
        v1::Family::Ipv4 => Some(Family::Ipv4),
        v1::Family::Ipv6 => Some(Family::Ipv6),
    }
}

/// A direction as it stands on the wire.
#[must_use]
pub fn direction_to_proto(direction: Direction) -> v1::Direction {
    match direction {
        Direction::Active => v1::Direction::Active,
        Direction::Passive => v1::Direction::Passive,
    }
}
