//! Matches: bounds of lists and numbers, and conditions that nothing can fulfil.

use super::{HANDSHAKE_RTT_US_MAX, LIST_PORTS_MAX, LIST_PREFIXES_MAX, LIST_SERVICES_MAX, ZONES_MAX};
use crate::{
    address::{Family, Prefix},
    fault::Collector,
    model::Match,
};

/// Checks a match; the collector stands at it.
pub(super) fn check(matches: &Match, faults: &mut Collector) {
    let Match {
        direction: _,
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
        zone_relation: _,
        min_handshake_rtt_us,
        max_handshake_rtt_us,
    } = matches;
    let lists = [
        ("local_zones", local_zones.len(), ZONES_MAX),
        ("remote_zones", remote_zones.len(), ZONES_MAX),
        ("local_prefixes", local_prefixes.len(), LIST_PREFIXES_MAX),
        ("remote_prefixes", remote_prefixes.len(), LIST_PREFIXES_MAX),
        ("local_ports", local_ports.len(), LIST_PORTS_MAX),
        ("remote_ports", remote_ports.len(), LIST_PORTS_MAX),
        ("services", services.len(), LIST_SERVICES_MAX),
    ];
    for (name, length, max) in lists {
        if length > max {
            faults.add_at(name, format!("has {length} entries; write at most {max}"));
        }
    }
    for (name, bits) in [("same_prefix", same_prefix), ("not_same_prefix", not_same_prefix)] {
        if let Some(bits) = *bits {
            prefix_length(name, bits, *family, faults);
        }
    }
    if let (Some(same), Some(differ)) = (same_prefix, not_same_prefix)
        && differ <= same
    {
        faults.add_at("not_same_prefix", format!("contradicts same_prefix {same}; make it greater than {same}"));
    }
    for (name, bound) in
        [("min_handshake_rtt_us", min_handshake_rtt_us), ("max_handshake_rtt_us", max_handshake_rtt_us)]
    {
        if bound.is_some_and(|bound| !(1..=HANDSHAKE_RTT_US_MAX).contains(&bound)) {
            faults.add_at(name, format!("must be 1 to {HANDSHAKE_RTT_US_MAX} microseconds"));
        }
    }
    if let (Some(min), Some(max)) = (min_handshake_rtt_us, max_handshake_rtt_us)
        && min >= max
    {
        faults.add_at(
            "max_handshake_rtt_us",
            format!("is not above min_handshake_rtt_us {min}; no connection can match"),
        );
    }
    if let Some(family) = *family {
        for (name, prefixes) in [("local_prefixes", local_prefixes), ("remote_prefixes", remote_prefixes)] {
            for (index, prefix) in prefixes.iter().enumerate().filter(|(_, prefix)| prefix.family() != family) {
                faults.add_at(
                    &format!("{name}[{index}]"),
                    format!("{prefix} is not of the family that `family` asks for; remove one of the two"),
                );
            }
        }
    }
    addresses(matches, faults);
}

fn prefix_length(name: &str, bits: u8, family: Option<Family>, faults: &mut Collector) {
    if !(1..=128).contains(&bits) {
        faults.add_at(name, format!("is {bits}; write 1 to 128"));
    } else if family == Some(Family::Ipv4) && bits > 32 {
        faults.add_at(name, format!("is {bits}, which no IPv4 address has; write at most 32 or ask for IPv6"));
    }
}

/// Finds address conditions that no pair of addresses fulfils.
fn addresses(matches: &Match, faults: &mut Collector) {
    let (local, remote) = (&matches.local_prefixes, &matches.remote_prefixes);
    if local.is_empty() || remote.is_empty() {
        return;
    }
    if !local.iter().any(|l| remote.iter().any(|r| l.family() == r.family())) {
        faults.add_at("remote_prefixes", "share no address family with local_prefixes; no connection can match");
        return;
    }
    // Quadratic, so only for lists that a person writes; a contradiction in longer ones is harmless: the rule never matches.
    if local.len() * remote.len() > 10_000 {
        return;
    }
    let pairs =
        || local.iter().flat_map(|l| remote.iter().map(move |r| (l, r))).filter(|(l, r)| l.family() == r.family());
    if let Some(bits) = matches.same_prefix
        && !pairs().any(|(l, r)| can_share(l, r, bits))
    {
        faults.add_at(
            "same_prefix",
            format!("no local and remote prefix can agree in {bits} bits; no connection can match"),
        );
    }
    if let Some(bits) = matches.not_same_prefix
        && !pairs().any(|(l, r)| can_differ(l, r, bits))
    {
        faults.add_at(
            "not_same_prefix",
            format!("all local and remote prefixes agree in {bits} bits; no connection can match"),
        );
    }
}

fn equal_bits(a: &Prefix, b: &Prefix) -> u8 {
    let ((a, _), (b, _)) = (a.mapped(), b.mapped());
    (u128::from_be_bytes(a) ^ u128::from_be_bytes(b)).leading_zeros() as u8
}

fn can_share(a: &Prefix, b: &Prefix, bits: u8) -> bool {
    let offset = 128 - a.family().bits();
    bits <= a.family().bits() && equal_bits(a, b) >= (bits + offset).min(a.mapped().1).min(b.mapped().1)
}

fn can_differ(a: &Prefix, b: &Prefix, bits: u8) -> bool {
    let offset = 128 - a.family().bits();
    let fixed = a.mapped().1.min(b.mapped().1);
    bits <= a.family().bits() && (fixed < bits + offset || equal_bits(a, b) < bits + offset)
}
