//! Zones as numbers, and what rules say of how two of them relate.

use crate::{
    address::Prefix,
    layout::{REGION_SHIFT, ZONE_SHIFT},
    model::{Id, Match, Zone, ZoneRelation},
};

/// The zones that rules may refer to, numbered from 1; empty if no rule does.
pub(super) struct ZoneTable<'a> {
    zones: &'a [Zone],
    /// By zone's position, the number of its region.
    regions: Vec<u32>,
}

impl<'a> ZoneTable<'a> {
    pub(super) fn new(zones: &'a [Zone], matches: &[&Match]) -> Self {
        let asks = |condition: &&Match| {
            condition.zone_relation.is_some() || !condition.local_zones.is_empty() || !condition.remote_zones.is_empty()
        };
        let zones = if matches.iter().any(asks) { zones } else { &[] };
        let mut names: Vec<&Id> = Vec::new();
        let regions = zones
            .iter()
            .map(|zone| {
                let known = names.iter().position(|name| *name == &zone.region);
                let position = known.unwrap_or_else(|| {
                    names.push(&zone.region);
                    names.len() - 1
                });
                position as u32 + 1
            })
            .collect();
        Self { zones, regions }
    }

    pub(super) fn len(&self) -> usize {
        self.zones.len()
    }

    /// Every prefix with the number of its zone.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = (&Prefix, usize)> {
        self.zones.iter().enumerate().flat_map(|(at, zone)| zone.prefixes.iter().map(move |prefix| (prefix, at + 1)))
    }

    /// Whether a list of zones admits an address in the zone with this number.
    pub(super) fn admits(&self, list: &[Id], zone: usize) -> bool {
        list.is_empty() || zone.checked_sub(1).is_some_and(|at| list.contains(&self.zones[at].name))
    }

    /// A prefix table's value.
    pub(super) fn value(&self, mask: u16, zone: usize) -> u32 {
        let region = zone.checked_sub(1).map_or(0, |at| self.regions[at]);
        u32::from(mask) | (zone as u32) << ZONE_SHIFT | region << REGION_SHIFT
    }
}

/// Whether a match admits two zones that relate so, as [`crate::layout::ZONE_RELATIONS`] numbers relations.
pub(super) fn admits_relation(condition: &Match, relation: usize) -> bool {
    let holding: &[ZoneRelation] = match relation {
        1 => &[ZoneRelation::SameZone, ZoneRelation::SameRegion],
        2 => &[ZoneRelation::OtherZone, ZoneRelation::SameRegion],
        3 => &[ZoneRelation::OtherZone, ZoneRelation::OtherRegion],
        _ => &[],
    };
    condition.zone_relation.is_none_or(|asked| holding.contains(&asked))
}
