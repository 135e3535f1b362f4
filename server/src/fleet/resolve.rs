//! What a node must enforce: from the state of the fleet to the layers of one node, and to frames that nodes with equal
//! layers share. Pure; the view `node_assignment` says the same in SQL, and a test holds the two together.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use sockpilot_policy::model::{Labels, LayerKind, LayerName};
use sockpilot_proto::v1;
use uuid::Uuid;

use crate::change::{
    target::carries,
    wave::{ALL_FLOWS_BP, Canary, Candidate},
    zones::ZoneMap,
};

/// A revision, as far as nodes are concerned. Never changes within a database epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    /// Of which policy or experiment.
    pub name: LayerName,
    pub revision: u64,
    /// The nodes it is for.
    pub node_labels: Labels,
    /// As a node gets it; without a lease.
    pub layer: v1::Layer,
    /// Whether what it means depends on the zone map.
    pub refers_to_zones: bool,
}

/// What is assigned of one policy or experiment.
#[derive(Debug, Clone, Default)]
pub struct Assigned {
    /// To everyone.
    pub everyone: Option<Arc<Revision>>,
    /// To some, beside it.
    pub canary: Option<(Canary, Arc<Revision>)>,
    /// What a rollout asks of the nodes, if one is on its way.
    pub rollout: Option<Arc<RolloutTerms>>,
}

/// What a rollout asks of the nodes of its policy.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutTerms {
    /// As on nodes that it has not reached.
    pub layer: v1::LayerRollout,
    /// An A/A: nodes that compare what everyone has with itself. They have no canary.
    pub unchanged: Option<Canary>,
}

/// What of a rollout concerns one node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OnNode<'a> {
    pub terms: &'a RolloutTerms,
    /// Of the node's connections, in basis points.
    pub flow_share_bp: u32,
    pub unchanged: bool,
}

/// Everything assigned at one generation.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// The database's.
    pub epoch: Uuid,
    pub generation: u64,
    /// Lease of canary and experiment layers.
    pub lease_ms: u32,
    /// One for each policy and experiment that is assigned to anybody.
    pub assigned: Vec<Assigned>,
    /// Where addresses are.
    pub zones: Arc<ZoneMap>,
    /// When experiments end by themselves, in seconds since 1970.
    pub ends_s: HashMap<LayerName, u64>,
}

/// What makes two contents equal: revisions never change within a database epoch. The version of the zone map only if a layer
/// refers to it, so that another map does not touch the other nodes.
type Key = (Vec<(LayerName, u64, Term)>, Option<u64>);

/// The lease of a layer, whether it stands by for another one's end, when it ends by itself; and of a rollout its name, which is never used
/// again, the share of connections, and whether it is an A/A.
type Term = (u32, bool, u64, Option<(String, u32, bool)>);

/// The layers of a node, encoded once for all nodes that have the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    /// SHA-256 of `layers`.
    pub hash: [u8; 32],
    /// An encoded `sockpilot.v1.Layers`.
    pub layers: Bytes,
    /// Name and revision of each layer that does not just stand by.
    pub revisions: Vec<(String, u64)>,
}

/// One layer for one node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResolvedLayer<'a> {
    pub revision: &'a Revision,
    /// By which decision.
    pub origin: Origin,
    /// If its policy is in a rollout.
    pub rollout: Option<OnNode<'a>>,
}

/// By which decision a node has a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Everyone has it.
    Everyone,
    /// As a canary.
    Canary,
    /// Everyone has it; this node only when its canary has ended because the last contact with a server is too long ago.
    Standby,
    /// Nobody's: somebody asks what would be.
    Override,
}

impl Assigned {
    /// What a node has of it. Beside the canary stands what everyone has, for when the canary's lease runs out.
    fn given(&self, node: &Candidate<'_>) -> impl Iterator<Item = ResolvedLayer<'_>> {
        let for_node = |revision: &Revision| carries(node.labels, &revision.node_labels);
        let canary = self.canary.as_ref().filter(|(_, revision)| for_node(revision));
        let canary =
            canary.and_then(|(canary, revision)| Some((canary.flow_share_of(canary.wave_of(node)?), revision)));
        let everyone = self.everyone.as_deref().filter(|revision| for_node(revision));
        let rollout = self.rollout_on(node, canary.map(|(flow_share_bp, _)| flow_share_bp));
        let canary = canary.map(|(_, revision)| ResolvedLayer { revision, origin: Origin::Canary, rollout });
        let origin = if canary.is_some() { Origin::Standby } else { Origin::Everyone };
        canary.into_iter().chain(everyone.map(|revision| ResolvedLayer { revision, origin, rollout }))
    }

    /// What of the rollout concerns a node that has the canary for a share of its connections, or does not have it.
    fn rollout_on(&self, node: &Candidate<'_>, of_canary_bp: Option<u32>) -> Option<OnNode<'_>> {
        let terms = self.rollout.as_deref()?;
        let compared = terms.unchanged.as_ref().filter(|canary| canary.wave_of(node).is_some());
        let flow_share_bp = of_canary_bp.or(compared.map(|canary| canary.flow_share_bp)).unwrap_or_default();
        let nothing = terms.layer.measures.is_empty() && (flow_share_bp == 0 || flow_share_bp == ALL_FLOWS_BP);
        let unchanged = of_canary_bp.is_none() && compared.is_some();
        (!nothing).then_some(OnNode { terms, flow_share_bp, unchanged })
    }
}

impl Fleet {
    /// The layers of a node, in the order in which they are asked.
    #[must_use]
    pub fn layers_of(&self, node: &Candidate<'_>) -> Vec<ResolvedLayer<'_>> {
        self.layers_with(node, &[])
    }

    /// The layers of a node as they would be with these revisions in the place of what it has.
    #[must_use]
    pub fn layers_with<'a>(&'a self, node: &Candidate<'_>, overrides: &'a [Arc<Revision>]) -> Vec<ResolvedLayer<'a>> {
        let mut layers: Vec<_> = self.assigned.iter().flat_map(|assigned| assigned.given(node)).collect();
        for revision in overrides {
            let same = |given: &ResolvedLayer<'_>| given.revision.name == revision.name;
            let has = |given: &ResolvedLayer<'_>| same(given) && given.origin != Origin::Standby;
            if !layers.iter().any(|given| has(given) && given.revision.revision == revision.revision) {
                layers.retain(|given| !same(given));
                layers.push(ResolvedLayer { revision, origin: Origin::Override, rollout: None });
            }
        }
        layers.sort_by(|a, b| {
            let (a, b) = (a.revision, b.revision);
            b.layer.priority.cmp(&a.layer.priority).then_with(|| a.name.cmp(&b.name))
        });
        layers
    }

    /// The layers as they stand on the wire, with the zones if one refers to them.
    #[must_use]
    pub fn message(&self, layers: &[ResolvedLayer<'_>]) -> v1::Layers {
        let zones = zones(self, layers).map(|map| map.zones.clone()).unwrap_or_default();
        let layer = |given| {
            let (lease_ms, standby, ends_s) = self.lease(given);
            let rollout = given.rollout.map(|OnNode { terms, flow_share_bp, unchanged }| v1::LayerRollout {
                flow_share_bp,
                unchanged,
                ..terms.layer.clone()
            });
            v1::Layer { lease_ms, standby, ends_s, rollout, ..given.revision.layer.clone() }
        };
        v1::Layers { layers: layers.iter().map(layer).collect(), zones }
    }

    fn term(&self, given: &ResolvedLayer<'_>) -> Term {
        let (lease_ms, standby, ends_s) = self.lease(given);
        let rollout = given.rollout.as_ref();
        let rollout = rollout.map(|on| (on.terms.layer.name.clone(), on.flow_share_bp, on.unchanged));
        (lease_ms, standby, ends_s, rollout)
    }

    fn lease(&self, given: &ResolvedLayer<'_>) -> (u32, bool, u64) {
        match (given.origin, given.revision.name.kind) {
            (Origin::Standby, _) => (self.lease_ms, true, 0),
            (_, LayerKind::Experiment) => {
                (self.lease_ms, false, self.ends_s.get(&given.revision.name).copied().unwrap_or_default())
            }
            (Origin::Canary, LayerKind::Policy) => (self.lease_ms, false, 0),
            (Origin::Everyone | Origin::Override, LayerKind::Policy) => (0, false, 0),
        }
    }
}

/// The contents in use, so that each is encoded once.
#[derive(Debug, Default)]
pub struct Contents {
    epoch: Uuid,
    now: HashMap<Key, Arc<Content>>,
    before: HashMap<Key, Arc<Content>>,
}

impl Contents {
    /// Begins with another state of the fleet. Contents that were not asked for since the last call are evicted.
    pub fn begin(&mut self, fleet: &Fleet) {
        let now = std::mem::take(&mut self.now);
        // A database made anew may say something else under the same revision.
        self.before = if self.epoch == fleet.epoch { now } else { HashMap::new() };
        self.epoch = fleet.epoch;
    }

    /// What a node must enforce.
    pub fn of(&mut self, fleet: &Fleet, node: &Candidate<'_>) -> Arc<Content> {
        let layers = fleet.layers_of(node);
        let zones = zones(fleet, &layers);
        let revisions = layers
            .iter()
            .map(|given| (given.revision.name.clone(), given.revision.revision, fleet.term(given)))
            .collect();
        let key: Key = (revisions, zones.map(|zones| zones.version));
        if let Some(content) = self.now.get(&key) {
            return content.clone();
        }
        let content = self.before.remove(&key).unwrap_or_else(|| Arc::new(encode(fleet, &layers)));
        self.now.insert(key, content.clone());
        content
    }
}

/// The zone map, if a layer refers to it.
fn zones<'a>(fleet: &'a Fleet, layers: &[ResolvedLayer<'_>]) -> Option<&'a ZoneMap> {
    layers.iter().any(|given| given.revision.refers_to_zones).then_some(&*fleet.zones)
}

fn encode(fleet: &Fleet, layers: &[ResolvedLayer<'_>]) -> Content {
    let message = fleet.message(layers);
    let acting = message.layers.iter().filter(|layer| !layer.standby);
    let revisions = acting.map(|layer| (layer.name.clone(), layer.revision)).collect();
    let layers = Bytes::from(message.encode_to_vec());
    Content { hash: Sha256::digest(&layers).into(), layers, revisions }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::change::wave::Selector;

    fn revision(name: &str, revision: u64, priority: u32, node_labels: &[(&str, &str)]) -> Arc<Revision> {
        let name: LayerName = name.parse().expect("a name");
        let layer = v1::Layer { name: name.to_string(), revision, priority, ..v1::Layer::default() };
        Arc::new(Revision { name, revision, node_labels: labels(node_labels), layer, refers_to_zones: false })
    }

    fn labels(labels: &[(&str, &str)]) -> Labels {
        labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn fleet(assigned: Vec<Assigned>) -> Fleet {
        Fleet {
            epoch: Uuid::nil(),
            generation: 1,
            lease_ms: 600_000,
            assigned,
            zones: Arc::default(),
            ends_s: HashMap::new(),
        }
    }

    /// A node at a position, without a name.
    fn at(share_position: u32, labels: &Labels) -> Candidate<'_> {
        Candidate { id: "", share_position, labels }
    }

    fn part(share_bp: u32) -> Canary {
        Canary::by_hand(Selector::Share(share_bp))
    }

    fn names(fleet: &Fleet, position: u32, node: &[(&str, &str)]) -> Vec<String> {
        let labels = labels(node);
        let layers = fleet.layers_of(&at(position, &labels));
        let name = |given: &ResolvedLayer<'_>| {
            let standby = if given.origin == Origin::Standby { " stands by" } else { "" };
            format!("{}@{}{standby}", given.revision.name, given.revision.revision)
        };
        layers.iter().map(name).collect()
    }

    #[test]
    fn the_canary_goes_to_those_it_is_for() {
        let assigned = Assigned {
            everyone: Some(revision("policies/p", 1, 5, &[])),
            canary: Some((part(1_000), revision("policies/p", 2, 5, &[("zone", "a")]))),
            rollout: None,
        };
        let fleet = fleet(vec![assigned]);
        assert_eq!(names(&fleet, 999, &[("zone", "a")]), ["policies/p@2", "policies/p@1 stands by"]);
        assert_eq!(
            names(&fleet, 999, &[("zone", "b")]),
            ["policies/p@1"],
            "the canary's document is not for this node"
        );
        assert_eq!(names(&fleet, 1_000, &[("zone", "a")]), ["policies/p@1"]);
    }

    #[test]
    fn order_is_priority_then_experiments_then_name() {
        let everyone =
            |name, priority| Assigned { everyone: Some(revision(name, 1, priority, &[])), canary: None, rollout: None };
        let all = vec![
            everyone("policies/b", 5),
            everyone("policies/a", 5),
            everyone("experiments/z", 5),
            everyone("policies/c", 9),
        ];
        assert_eq!(names(&fleet(all), 0, &[]), ["policies/c@1", "experiments/z@1", "policies/a@1", "policies/b@1"]);
    }

    #[test]
    fn without_word_from_a_server_a_canary_gives_way_to_what_everyone_has() {
        let canary = |name| Some((part(9_999), revision(name, 2, 7, &[])));
        let fleet = fleet(vec![
            Assigned { everyone: Some(revision("policies/p", 1, 5, &[])), canary: canary("policies/p"), rollout: None },
            Assigned { everyone: Some(revision("experiments/e", 1, 8, &[])), canary: None, rollout: None },
        ]);
        let content = Contents::default().of(&fleet, &at(0, &Labels::new()));
        let layers = v1::Layers::decode(content.layers.clone()).expect("as encoded").layers;
        let terms: Vec<_> = layers.iter().map(|l| (l.name.as_str(), l.revision, l.lease_ms, l.standby)).collect();
        let acting = [("experiments/e", 1, 600_000, false), ("policies/p", 2, 600_000, false)];
        assert_eq!(terms, [acting[0], acting[1], ("policies/p", 1, 600_000, true)]);
        let confirmed = [("experiments/e".to_owned(), 1), ("policies/p".to_owned(), 2)];
        assert_eq!(content.revisions, confirmed, "what stands by is not what the node runs");
    }

    #[test]
    fn only_canaries_and_experiments_have_a_lease() {
        let fleet = fleet(vec![
            Assigned { everyone: Some(revision("policies/a", 1, 3, &[])), canary: None, rollout: None },
            Assigned { everyone: None, canary: Some((part(9_999), revision("policies/b", 1, 2, &[]))), rollout: None },
            Assigned { everyone: Some(revision("experiments/c", 1, 1, &[])), canary: None, rollout: None },
        ]);
        let content = Contents::default().of(&fleet, &at(0, &Labels::new()));
        let layers = v1::Layers::decode(content.layers.clone()).expect("as encoded").layers;
        assert_eq!(layers.iter().map(|layer| layer.lease_ms).collect::<Vec<_>>(), [0, 600_000, 600_000]);
    }

    #[test]
    fn equal_layers_share_a_frame_until_nobody_has_them() {
        let first =
            fleet(vec![Assigned { everyone: Some(revision("policies/a", 1, 3, &[])), canary: None, rollout: None }]);
        let mut contents = Contents::default();
        contents.begin(&first);
        let a = contents.of(&first, &at(0, &Labels::new()));
        assert!(Arc::ptr_eq(&a, &contents.of(&first, &at(9_999, &labels(&[("zone", "a")])))));
        contents.begin(&first);
        assert!(Arc::ptr_eq(&a, &contents.of(&first, &at(0, &Labels::new()))), "over generations");
        contents.begin(&first);
        contents.begin(&first);
        assert!(contents.before.is_empty(), "not asked for in a whole generation");
        let restored = Fleet { epoch: Uuid::max(), ..first };
        contents.begin(&restored);
        assert!(!Arc::ptr_eq(&a, &contents.of(&restored, &at(0, &Labels::new()))));
    }

    #[test]
    fn zones_go_to_those_whose_layers_refer_to_them() {
        let referring = |name| {
            let revision = Revision { refers_to_zones: true, ..(*revision(name, 1, 3, &[("zone", "a")])).clone() };
            Assigned { everyone: Some(Arc::new(revision)), canary: None, rollout: None }
        };
        let everyone = Assigned { everyone: Some(revision("policies/b", 1, 3, &[])), canary: None, rollout: None };
        let first = Fleet {
            zones: Arc::new(ZoneMap { version: 1, zones: vec![v1::Zone::default()] }),
            ..fleet(vec![referring("policies/a"), everyone])
        };
        let second = Fleet { zones: Arc::new(ZoneMap { version: 2, zones: vec![] }), ..first.clone() };
        let mut contents = Contents::default();
        let (mut with, mut without) = (vec![], vec![]);
        for fleet in [&first, &second] {
            contents.begin(fleet);
            with.push(contents.of(fleet, &at(0, &labels(&[("zone", "a")]))));
            without.push(contents.of(fleet, &at(0, &Labels::new())));
        }
        assert!(Arc::ptr_eq(&without[0], &without[1]), "another map does not touch who does not refer to it");
        let zones = |content: &Content| v1::Layers::decode(content.layers.clone()).expect("as encoded").zones.len();
        assert_eq!((zones(&without[0]), zones(&with[0]), zones(&with[1])), (0, 1, 0));
        assert_ne!(with[0].hash, with[1].hash);
    }

    proptest! {
        #[test]
        fn whoever_is_in_a_share_stays_when_it_grows(position in 0_u32..10_000, a in 1_u32..10_000, b in 1_u32..10_000) {
            let with = |share| fleet(vec![Assigned {
                everyone: Some(revision("policies/p", 1, 0, &[])),
                canary: Some((part(share), revision("policies/p", 2, 0, &[]))),
                rollout: None,
            }]);
            let canary = |share| names(&with(share), position, &[]) == ["policies/p@2"];
            prop_assert!(!canary(a.min(b)) || canary(a.max(b)));
        }

        #[test]
        fn the_order_of_loading_does_not_matter(
            mut assigned in prop::collection::vec((0_u8..6, 0_u32..3), 0..6), position in 0_u32..10_000,
        ) {
            assigned.sort();
            assigned.dedup_by_key(|(name, _)| *name);
            let build = |list: &[(u8, u32)]| fleet(list.iter().map(|(name, priority)| Assigned {
                everyone: Some(revision(&format!("policies/p{name}"), 1, *priority, &[])), canary: None, rollout: None,
            }).collect());
            let forward = Contents::default().of(&build(&assigned), &at(position, &Labels::new()));
            assigned.reverse();
            let backward = Contents::default().of(&build(&assigned), &at(position, &Labels::new()));
            prop_assert_eq!(forward.hash, backward.hash);
        }
    }
}
