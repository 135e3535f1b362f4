//! Whether two matches may hold for one end of a connection. Errs to the side of yes: no is said only where no connection can fulfil both.

use crate::{
    address::{Family, PortRange, Prefix, ServicePath},
    model::{Id, Match, ZoneRelation},
};

/// Whether two matches may hold for the same end of a connection.
#[must_use]
pub fn overlap(a: &Match, b: &Match) -> bool {
    agree(a.direction, b.direction)
        && families_agree(a, b)
        && prefixes(&a.local_prefixes, &b.local_prefixes)
        && prefixes(&a.remote_prefixes, &b.remote_prefixes)
        && lengths(a, b)
        && lengths(b, a)
        && ports(&a.local_ports, &b.local_ports)
        && ports(&a.remote_ports, &b.remote_ports)
        && services(&a.services, &b.services)
        && zones(&a.local_zones, &b.local_zones)
        && zones(&a.remote_zones, &b.remote_zones)
        && relations(a.zone_relation, b.zone_relation)
        && times(a, b)
        && times(b, a)
}

fn agree<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
    a.is_none() || b.is_none() || a == b
}

fn families_agree(a: &Match, b: &Match) -> bool {
    [Family::Ipv4, Family::Ipv6].into_iter().any(|family| allows(a, family) && allows(b, family))
}

fn allows(matches: &Match, family: Family) -> bool {
    let of_family = |list: &[Prefix]| list.is_empty() || list.iter().any(|prefix| prefix.family() == family);
    agree(matches.family, Some(family)) && of_family(&matches.local_prefixes) && of_family(&matches.remote_prefixes)
}

fn prefixes(a: &[Prefix], b: &[Prefix]) -> bool {
    meet(a, b, |prefix| {
        let (first, length) = prefix.mapped();
        let first = u128::from_be_bytes(first);
        (first, first | u128::MAX.checked_shr(length.into()).unwrap_or(0))
    })
}

fn ports(a: &[PortRange], b: &[PortRange]) -> bool {
    meet(a, b, |range| (u128::from(*range.ports().start()), u128::from(*range.ports().end())))
}

/// Whether two lists of ranges have anything in common; in one pass, because lists of prefixes are long. An empty list holds for everything.
fn meet<T>(a: &[T], b: &[T], range: impl Fn(&T) -> (u128, u128)) -> bool {
    if a.is_empty() || b.is_empty() {
        return true;
    }
    let (a, b) = (a.iter().map(|item| (range(item), false)), b.iter().map(|item| (range(item), true)));
    let mut ranges: Vec<_> = a.chain(b).collect();
    ranges.sort_unstable();
    // Of the ranges that began before, only the one of the other list that reaches farthest matters.
    let mut last = [None::<u128>; 2];
    ranges.into_iter().any(|((first, end), of_b)| {
        let (own, other) = (usize::from(of_b), usize::from(!of_b));
        last[own] = last[own].max(Some(end));
        last[other].is_some_and(|last| last >= first)
    })
}

/// Whether the common prefix that one wants may be as short as the other wants it.
fn lengths(a: &Match, b: &Match) -> bool {
    !matches!((a.same_prefix, b.not_same_prefix), (Some(same), Some(differ)) if differ <= same)
}

fn services(a: &[ServicePath], b: &[ServicePath]) -> bool {
    let nested = |a: &ServicePath, b: &ServicePath| a.holds_for(b.as_str()) || b.holds_for(a.as_str());
    a.is_empty() || b.is_empty() || a.iter().any(|a| b.iter().any(|b| nested(a, b)))
}

fn zones(a: &[Id], b: &[Id]) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|zone| b.contains(zone))
}

fn relations(a: Option<ZoneRelation>, b: Option<ZoneRelation>) -> bool {
    use ZoneRelation::{OtherRegion, OtherZone, SameRegion, SameZone};
    // Two zones may lie in one region, one zone never in two.
    !matches!(
        (a, b),
        (Some(SameZone), Some(OtherZone | OtherRegion))
            | (Some(OtherZone | OtherRegion), Some(SameZone))
            | (Some(SameRegion), Some(OtherRegion))
            | (Some(OtherRegion), Some(SameRegion))
    )
}

fn times(a: &Match, b: &Match) -> bool {
    !matches!((a.min_handshake_rtt_us, b.max_handshake_rtt_us), (Some(min), Some(max)) if max <= min)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(texts: &[&str]) -> Vec<T> {
        texts.iter().map(|text| text.parse().expect("sound")).collect()
    }

    fn remote(texts: &[&str]) -> Match {
        Match { remote_prefixes: parsed(texts), ..Match::default() }
    }

    #[track_caller]
    fn disjoint(a: &Match, b: &Match) {
        assert!(!overlap(a, b) && !overlap(b, a), "{a:?} and {b:?}");
        assert!(overlap(a, &Match::default()) && overlap(a, a), "{a:?}");
    }

    #[test]
    fn what_cannot_hold_together_is_disjoint() {
        let with = |change: fn(&mut Match)| {
            let mut matches = Match::default();
            change(&mut matches);
            matches
        };
        disjoint(&remote(&["10.0.0.0/8", "fd00::/8"]), &remote(&["11.0.0.0/8", "9.0.0.0/8", "2001:db8::/32"]));
        disjoint(&remote(&["10.0.0.0/8"]), &with(|m| m.family = Some(Family::Ipv6)));
        disjoint(&remote(&["::/0"]), &remote(&["0.0.0.0/0"]));
        disjoint(&with(|m| m.remote_ports = parsed(&["1-79", "81"])), &with(|m| m.remote_ports = parsed(&["80"])));
        disjoint(&with(|m| m.services = parsed(&["/web"])), &with(|m| m.services = parsed(&["/website", "/db"])));
        disjoint(&with(|m| m.local_zones = parsed(&["a"])), &with(|m| m.local_zones = parsed(&["b"])));
        disjoint(&with(|m| m.same_prefix = Some(24)), &with(|m| m.not_same_prefix = Some(16)));
        disjoint(&with(|m| m.min_handshake_rtt_us = Some(1_000)), &with(|m| m.max_handshake_rtt_us = Some(1_000)));
        disjoint(
            &with(|m| m.zone_relation = Some(ZoneRelation::SameZone)),
            &with(|m| m.zone_relation = Some(ZoneRelation::OtherRegion)),
        );
    }

    #[test]
    fn whatever_may_hold_together_overlaps() {
        assert!(overlap(&remote(&["10.0.0.0/8"]), &remote(&["9.0.0.0/8", "10.1.2.3"])));
        let services = |texts| Match { services: parsed(texts), ..Match::default() };
        assert!(overlap(&services(&["/a/b"]), &services(&["/a"])));
        let other_zone = Match { zone_relation: Some(ZoneRelation::OtherZone), ..Match::default() };
        let same_region = Match { zone_relation: Some(ZoneRelation::SameRegion), ..Match::default() };
        assert!(overlap(&other_zone, &same_region), "two zones of one region");
    }

    proptest! {
        #[test]
        fn ranges_meet_as_they_do_one_by_one(
            a in prop::collection::vec((0_u8..60, 0_u8..6), 1..5), b in prop::collection::vec((0_u8..60, 0_u8..6), 1..5),
        ) {
            let range = |&(first, more): &(u8, u8)| (u128::from(first), u128::from(first + more));
            let one_by_one = a.iter().any(|a| b.iter().any(|b| range(a).0 <= range(b).1 && range(b).0 <= range(a).1));
            prop_assert_eq!(meet(&a, &b, range), one_by_one);
        }
    }
}
