//! What policies and experiments have to do with the zone map. Pure.

use std::collections::HashSet;

use prost::Message;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sockpilot_policy::fault::Collector;
use sockpilot_proto::{convert::zone_map_from_proto, v1};

use crate::change::{document::Document, json};

/// The map's resource name.
pub const NAME: &str = "zoneMap";

/// Where addresses are, for the whole fleet.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ZoneMap {
    /// Grows with every change; 0 if nobody has written a map yet.
    pub version: u64,
    /// As somebody wrote them.
    pub zones: Vec<v1::Zone>,
}

impl ZoneMap {
    /// Of version and content, so that a map of a restored database is not taken for the one that was read.
    #[must_use]
    pub fn etag(&self) -> String {
        let hash = Sha256::digest(encoded(&self.zones));
        format!("{:02x}{:02x}{:02x}{:02x}-{}", hash[0], hash[1], hash[2], hash[3], self.version)
    }

    /// For people to see.
    #[must_use]
    pub fn shown(&self) -> Value {
        json::shown("ZoneMap", &v1::ZoneMap { zones: self.zones.clone(), ..v1::ZoneMap::default() })
    }

    /// Whether both mean the same, however they are written.
    #[must_use]
    pub fn means_the_same(&self, other: &Self) -> bool {
        let read = |map: &Self| {
            zone_map_from_proto(&v1::ZoneMap { zones: map.zones.clone(), ..v1::ZoneMap::default() }, "").ok()
        };
        let (this, other) = (read(self), read(other));
        this.is_some() && this == other
    }

    /// Which of the zones that a document names are not in the map.
    #[must_use]
    pub fn lacks(&self, document: &Document) -> Vec<String> {
        let known = self.names();
        let named = named(document).into_iter().map(|(_, zone)| zone).filter(|zone| !known.contains(zone));
        let mut lacking: Vec<_> = named.map(str::to_owned).collect();
        lacking.sort();
        lacking.dedup();
        lacking
    }

    /// Notes every place of a document that names a zone which is not in the map.
    pub fn check(&self, document: &Document, faults: &mut Collector) {
        let known = self.names();
        for (field, zone) in named(document).into_iter().filter(|(_, zone)| !known.contains(zone)) {
            faults.add_at(&field, format!("there is no zone {zone}; add it to the zone map first"));
        }
    }

    fn names(&self) -> HashSet<&str> {
        self.zones.iter().map(|zone| zone.name.as_str()).collect()
    }
}

/// The zones, for the database.
#[must_use]
pub fn encoded(zones: &[v1::Zone]) -> Vec<u8> {
    v1::ZoneMap { zones: zones.to_vec(), ..v1::ZoneMap::default() }.encode_to_vec()
}

/// Whether a zone of one map is not in the next.
#[must_use]
pub fn loses(before: &ZoneMap, after: &ZoneMap) -> bool {
    let names = after.names();
    before.zones.iter().any(|zone| !names.contains(zone.name.as_str()))
}

/// Whether what a document means depends on the zone map.
#[must_use]
pub fn refers(document: &Document) -> bool {
    matches(document).into_iter().any(|(_, v1::Match { local_zones, remote_zones, zone_relation, .. })| {
        !local_zones.is_empty() || !remote_zones.is_empty() || *zone_relation != 0
    })
}

/// Whether a document names a zone.
#[must_use]
pub fn names_some(document: &Document) -> bool {
    !named(document).is_empty()
}

/// Every zone that a document names, with the path of the place.
fn named(document: &Document) -> Vec<(String, &str)> {
    let mut named = vec![];
    for (path, v1::Match { local_zones, remote_zones, .. }) in matches(document) {
        for (list, zones) in [("local_zones", local_zones), ("remote_zones", remote_zones)] {
            let places = zones.iter().enumerate();
            named.extend(places.map(|(index, zone)| (format!("{path}.{list}[{index}]"), zone.as_str())));
        }
    }
    named
}

fn matches(document: &Document) -> Vec<(String, &v1::Match)> {
    match document {
        Document::Policy(policy) => {
            let rules = policy.rules.iter().enumerate();
            rules
                .filter_map(|(index, rule)| Some((format!("policy.rules[{index}].match"), rule.r#match.as_ref()?)))
                .collect()
        }
        Document::Experiment(experiment) => {
            experiment.r#match.iter().map(|condition| ("experiment.match".to_owned(), condition)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(condition: v1::Match) -> Document {
        let rules = vec![v1::Rule::default(), v1::Rule { r#match: Some(condition), ..v1::Rule::default() }];
        Document::Policy(v1::Policy { rules, ..v1::Policy::default() })
    }

    #[test]
    fn a_relation_refers_and_names_nothing() {
        let relation = v1::ZoneRelation::SameZone.into();
        let document = policy(v1::Match { zone_relation: relation, ..v1::Match::default() });
        assert!(refers(&document) && ZoneMap::default().lacks(&document).is_empty());
        assert!(!refers(&policy(v1::Match { local_ports: vec!["1".to_owned()], ..v1::Match::default() })));
    }

    #[test]
    fn every_unknown_zone_is_named_with_its_place() {
        let zones = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let map = ZoneMap { version: 1, zones: vec![v1::Zone { name: "a".to_owned(), ..v1::Zone::default() }] };
        let condition =
            v1::Match { local_zones: zones(&["a", "b"]), remote_zones: zones(&["b", "c"]), ..v1::Match::default() };
        assert_eq!(map.lacks(&policy(condition.clone())), ["b", "c"]);
        let mut faults = Collector::at("");
        map.check(&policy(condition.clone()), &mut faults);
        let faults = faults.finish(()).expect_err("faults");
        let fields: Vec<_> = faults.as_slice().iter().map(|fault| fault.field.as_str()).collect();
        let expected = ["local_zones[1]", "remote_zones[0]", "remote_zones[1]"];
        assert_eq!(fields, expected.map(|field| format!("policy.rules[1].match.{field}")));
        let experiment = v1::Experiment { r#match: Some(condition), ..v1::Experiment::default() };
        assert_eq!(map.lacks(&Document::Experiment(experiment)), ["b", "c"]);
    }
}
