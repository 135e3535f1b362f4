//! What a node must enforce: from the state of the fleet to the layers of one node, and to frames that nodes with equal
//! layers share. Pure; the view `node_assignment` says the same in SQL, and a test holds the two together.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use sockpilot_policy::model::{Labels, LayerKind, LayerName};
use sockpilot_proto::v1;
use sockpilot_rollout::plan::ALL_FLOWS_BP;
use uuid::Uuid;

use super::node::Version;
use crate::change::{
    document::Document,
    target::{Target, carries},
    wave::{Canary, Candidate},
    zones::{self, ZoneMap},
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
    pub off: Off,
}

/// What is switched off, whatever is assigned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Off {
    pub everything: bool,
    /// Resource names.
    pub names: BTreeSet<String>,
}

impl Off {
    #[must_use]
    pub fn contains(&self, name: &LayerName) -> bool {
        self.everything || self.names.contains(&name.to_string())
    }
}

/// The newest entry of the audit log: by its hash, all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditHead {
    pub sequence: i64,
    pub hash: Vec<u8>,
}

/// How far a database's history was carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    pub epoch: Uuid,
    pub generation: u64,
    pub audit: AuditHead,
}

/// The next generation, where it differs in what everyone has of one policy: there is no canary and no rollout of that any more.
#[derive(Debug, Clone)]
pub struct Step {
    /// Of the database.
    pub reached: Reached,
    pub name: LayerName,
    pub everyone: Option<Arc<Revision>>,
}

/// What makes two contents equal: revisions never change within a database epoch. The version of the zone map only if a layer
/// refers to it, so that another map does not touch the other nodes.
pub(super) type Key = (Vec<(LayerName, u64, Term)>, Option<u64>);

/// The lease of a layer, whether it stands by for another one's end, when it ends by itself; and of a rollout its name, which is never used
/// again, the share of connections, and whether it is an A/A.
pub(super) type Term = (u32, bool, u64, Option<(String, u32, bool)>);

/// The layers of a node, encoded once for all nodes that have the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    /// SHA-256 of `layers`.
    pub hash: [u8; 32],
    /// An encoded `sockpilot.v1.Layers`.
    pub layers: Bytes,
    /// Name and revision of each layer that does not just stand by.
    pub revisions: Arc<[(String, u64)]>,
    /// How it was sent first, under which version: a change goes out as one message, made once.
    pub sent: OnceLock<(Version, Bytes)>,
}

impl Content {
    /// As it is encoded; nobody has been sent it.
    #[must_use]
    pub fn new(hash: [u8; 32], layers: Bytes, revisions: Arc<[(String, u64)]>) -> Self {
        Self { hash, layers, revisions, sent: OnceLock::new() }
    }
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

impl Revision {
    /// As a document says. Number 0 is that of one which is not stored.
    #[must_use]
    pub fn of(name: LayerName, revision: u64, document: Document) -> Self {
        let (node_labels, refers_to_zones) = (document.node_labels(), zones::refers(&document));
        let layer = document.into_layer(&name, revision);
        Self { name, revision, node_labels, layer, refers_to_zones }
    }
}

impl Assigned {
    fn name(&self) -> Option<&LayerName> {
        let canary = self.canary.as_ref().map(|(_, revision)| revision);
        self.everyone.as_ref().or(canary).map(|revision| &revision.name)
    }

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

    /// The fleet as it would be if a revision were given to a target.
    #[must_use]
    pub fn assigning(&self, revision: Arc<Revision>, target: &Target) -> Self {
        let mut fleet = self.clone();
        let at = fleet.assigned.iter().position(|assigned| assigned.name() == Some(&revision.name));
        let before = at.map(|at| fleet.assigned.swap_remove(at)).unwrap_or_default();
        // A new epoch has an end of its own, which is not known before it starts.
        fleet.ends_s.remove(&revision.name);
        fleet.assigned.push(match target {
            Target::Everyone => Assigned { everyone: Some(revision), canary: None, rollout: None },
            Target::Canary(canary) => Assigned { canary: Some((canary.clone(), revision)), rollout: None, ..before },
            Target::Nobody => before,
        });
        fleet
    }

    /// The fleet after a step, if that follows upon it and nothing else is between. What is switched off stays so.
    #[must_use]
    pub fn after(&self, step: &Step) -> Option<Self> {
        let Step { reached: Reached { epoch, generation, audit: _ }, name, everyone } = step;
        if (*epoch, *generation) != (self.epoch, self.generation + 1) {
            return None;
        }
        let mut fleet = self.without(name);
        fleet.generation = *generation;
        if let Some(everyone) = everyone.clone().filter(|_| !self.off.contains(name)) {
            fleet.assigned.push(Assigned { everyone: Some(everyone), canary: None, rollout: None });
        }
        Some(fleet)
    }

    /// The fleet as it would be if nobody had anything of a policy or experiment.
    #[must_use]
    pub fn without(&self, name: &LayerName) -> Self {
        let mut fleet = self.clone();
        fleet.assigned.retain(|assigned| assigned.name() != Some(name));
        fleet
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
        let zones = map_for(self, layers).map(|map| map.zones.clone()).unwrap_or_default();
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

    /// All that tells nodes with equal labels apart: of each canary the wave that admits the node. Empty while there is no canary.
    fn waves_of(&self, node: &Candidate<'_>) -> Vec<Option<usize>> {
        let canaries = self.assigned.iter().flat_map(|Assigned { everyone: _, canary, rollout }| {
            let unchanged = rollout.as_ref().and_then(|terms| terms.unchanged.as_ref());
            canary.as_ref().map(|(canary, _)| canary).into_iter().chain(unchanged)
        });
        canaries.map(|canary| canary.wave_of(node)).collect()
    }

    /// What tells contents apart.
    pub(super) fn key(&self, layers: &[ResolvedLayer<'_>]) -> Key {
        let revision =
            |given: &ResolvedLayer<'_>| (given.revision.name.clone(), given.revision.revision, self.term(given));
        (layers.iter().map(revision).collect(), map_for(self, layers).map(|zones| zones.version))
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
    /// Of nodes with the same labels (which a number stands for) in the same waves, at this state of the fleet.
    cohorts: HashMap<(u64, Vec<Option<usize>>), Arc<Content>>,
}

impl Contents {
    /// Begins with another state of the fleet. Contents that were not asked for since the last call are evicted.
    pub fn begin(&mut self, fleet: &Fleet) {
        self.cohorts.clear();
        let now = std::mem::take(&mut self.now);
        // A database made anew may say something else under the same revision.
        self.before = if self.epoch == fleet.epoch { now } else { HashMap::new() };
        self.epoch = fleet.epoch;
    }

    /// What a node must enforce, found out once for all that are like it. `labels_id` stands for its labels.
    pub fn of_cohort(&mut self, fleet: &Fleet, labels_id: u64, node: &Candidate<'_>) -> Arc<Content> {
        let cohort = (labels_id, fleet.waves_of(node));
        if let Some(content) = self.cohorts.get(&cohort) {
            return content.clone();
        }
        let content = self.of(fleet, node);
        self.cohorts.insert(cohort, content.clone());
        content
    }

    /// What a node must enforce.
    pub fn of(&mut self, fleet: &Fleet, node: &Candidate<'_>) -> Arc<Content> {
        let layers = fleet.layers_of(node);
        let key = fleet.key(&layers);
        if let Some(content) = self.now.get(&key) {
            return content.clone();
        }
        let content = self.before.remove(&key).unwrap_or_else(|| Arc::new(encode(fleet, &layers)));
        self.now.insert(key, content.clone());
        content
    }
}

/// The zone map, if a layer refers to it.
fn map_for<'a>(fleet: &'a Fleet, layers: &[ResolvedLayer<'_>]) -> Option<&'a ZoneMap> {
    layers.iter().any(|given| given.revision.refers_to_zones).then_some(&*fleet.zones)
}

fn encode(fleet: &Fleet, layers: &[ResolvedLayer<'_>]) -> Content {
    let message = fleet.message(layers);
    let acting = message.layers.iter().filter(|layer| !layer.standby);
    let revisions = acting.map(|layer| (layer.name.clone(), layer.revision)).collect();
    let layers = Bytes::from(message.encode_to_vec());
    Content::new(Sha256::digest(&layers).into(), layers, revisions)
}

#[cfg(test)]
mod tests;
