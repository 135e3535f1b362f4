//! The first condition of a match that does not hold.

use std::{fmt::Display, net::IpAddr};

use crate::{
    address::{Family, Prefix, bytes_address, common_prefix},
    decide::{Flow, relates},
    layout::{ACTIVE, IPV4},
    model::{Id, Match, Zone, ZoneRelation, zone_of},
};

/// Entries of a list that are named.
const NAMED_MAX: usize = 5;

/// A condition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// Its field in the match.
    pub condition: &'static str,
    /// Why it does not hold, in a few words.
    pub why: String,
}

/// The first condition, in the order of the wire's fields, that does not hold for a flow. `None` exactly if
/// [`crate::decide::matches`] holds.
#[must_use]
pub fn first_unmet(condition: &Match, flow: &Flow<'_>, zones: &[Zone]) -> Option<Unmet> {
    let Match {
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
    } = condition;
    let key = &flow.key;
    let (local, remote) = (bytes_address(key.local), bytes_address(key.remote));
    let (local_zone, remote_zone) = (zone_of(zones, local), zone_of(zones, remote));
    let direction = direction.filter(|direction| direction.code() != key.direction);
    let family = family.filter(|family| family.code() != key.family);
    let opened = if key.direction == ACTIVE { "active" } else { "passive" };
    let version = if key.family == IPV4 { "IPv4" } else { "IPv6" };
    let unmet = |condition, why: Option<String>| why.map(|why| Unmet { condition, why });
    unmet("direction", direction.map(|_| format!("the connection is {opened}")))
        .or_else(|| unmet("family", family.map(|_| format!("the connection is {version}"))))
        .or_else(|| unmet("local_prefixes", outside(local, local_prefixes)))
        .or_else(|| unmet("remote_prefixes", outside(remote, remote_prefixes)))
        .or_else(|| unmet("same_prefix", same_prefix.and_then(|length| not_in_common(flow, length, true))))
        .or_else(|| unmet("not_same_prefix", not_same_prefix.and_then(|length| not_in_common(flow, length, false))))
        .or_else(|| {
            let port = key.local_port;
            unmet("local_ports", none_of(format!("port {port}"), local_ports, |range| range.ports().contains(&port)))
        })
        .or_else(|| {
            let port = key.remote_port;
            unmet("remote_ports", none_of(format!("port {port}"), remote_ports, |range| range.ports().contains(&port)))
        })
        .or_else(|| {
            let why = match flow.service {
                None => (!services.is_empty()).then(|| "the connection's service is not known".to_owned()),
                Some(path) => none_of(path, services, |service| service.holds_for(path)),
            };
            unmet("services", why)
        })
        .or_else(|| unmet("local_zones", other_zone(local, local_zone, local_zones)))
        .or_else(|| unmet("remote_zones", other_zone(remote, remote_zone, remote_zones)))
        .or_else(|| {
            let relation = zone_relation.and_then(|relation| match (local_zone, remote_zone) {
                (None, _) => Some(format!("{local} is in no zone")),
                (_, None) => Some(format!("{remote} is in no zone")),
                (Some(local), Some(remote)) => unrelated(relation, local, remote),
            });
            unmet("zone_relation", relation)
        })
        .or_else(|| {
            let least = min_handshake_rtt_us.map(|min| (min, flow.handshake_rtt_us.is_some_and(|rtt| rtt >= min)));
            unmet("min_handshake_rtt_us", handshake(least, flow, "less than"))
        })
        .or_else(|| {
            let most = max_handshake_rtt_us.map(|max| (max, flow.handshake_rtt_us.is_some_and(|rtt| rtt < max)));
            unmet("max_handshake_rtt_us", handshake(most, flow, "not less than"))
        })
}

/// Why no entry holds, if there are any.
fn none_of<T: Display>(what: impl Display, list: &[T], holds: impl Fn(&T) -> bool) -> Option<String> {
    if list.is_empty() || list.iter().any(holds) {
        return None;
    }
    Some(format!("{what} is not in {}", named(list)))
}

fn outside(address: IpAddr, prefixes: &[Prefix]) -> Option<String> {
    let why = none_of(address, prefixes, |prefix: &Prefix| prefix.contains(address))?;
    // All of the other family looks like all addresses.
    let family = if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    if !prefixes.iter().any(Prefix::is_whole) {
        return Some(why);
    }
    let (other, other_whole) = (family.other(), family.other().whole());
    Some(format!("{why}; {other_whole} holds for {other} only, write {} for {family}", family.whole()))
}

fn named<T: Display>(list: &[T]) -> String {
    let mut text: Vec<_> = list.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    if list.len() > NAMED_MAX {
        text.push(format!("{} more", list.len() - NAMED_MAX));
    }
    text.join(", ")
}

fn not_in_common(flow: &Flow<'_>, length: u8, wanted: bool) -> Option<String> {
    let bits = if flow.key.family == IPV4 { Family::Ipv4.bits() } else { Family::Ipv6.bits() };
    let common = common_prefix(&flow.key);
    if length > bits {
        return Some(format!("IPv4 addresses have no {length} bits"));
    }
    ((common >= length) != wanted).then(|| format!("the addresses have their first {common} bits in common"))
}

fn other_zone(address: impl Display, zone: Option<&Zone>, wanted: &[Id]) -> Option<String> {
    match zone {
        _ if wanted.is_empty() => None,
        None => Some(format!("{address} is in no zone")),
        Some(zone) if wanted.contains(&zone.name) => None,
        Some(zone) => Some(format!("{address} is in zone {}, not in {}", zone.name, named(wanted))),
    }
}

fn unrelated(relation: ZoneRelation, local: &Zone, remote: &Zone) -> Option<String> {
    if relates(relation, local, remote) {
        return None;
    }
    Some(match relation {
        ZoneRelation::SameZone => format!("the zones are {} and {}", local.name, remote.name),
        ZoneRelation::OtherZone => format!("both are in zone {}", local.name),
        ZoneRelation::SameRegion => format!("the regions are {} and {}", local.region, remote.region),
        ZoneRelation::OtherRegion => format!("both are in region {}", local.region),
    })
}

fn handshake(bound: Option<(u32, bool)>, flow: &Flow<'_>, than: &str) -> Option<String> {
    match (bound, flow.handshake_rtt_us) {
        (None | Some((_, true)), _) => None,
        (Some(_), None) => Some("the handshake's time is not known".to_owned()),
        (Some((bound, false)), Some(rtt)) => Some(format!("the handshake took {rtt} us, {than} {bound}")),
    }
}
