//! What of a snapshot comes into force where not all of it can: a layer that the node cannot honour holds only itself back. In its
//! place stays what has been in force under its name, or nothing. Pure.

use std::collections::{BTreeMap, BTreeSet};

use sockpilot_policy::{compile::Violation, fault::Fault};
use sockpilot_proto::v1;

use super::answer::violations;

/// What of a snapshot is to be in force.
#[derive(Debug)]
pub struct Settled<P> {
    /// The layers.
    pub layers: v1::Layers,
    /// How.
    pub plan: P,
    /// What is not among them.
    pub held_back: Vec<v1::HeldBack>,
    /// What does not stand by for canaries, though it should: reported beside the effective values.
    pub standbys: Vec<v1::EffectiveValue>,
}

/// Finds what of a snapshot this node can honour: everything, or everything but what is refused and `before` in the place of that.
/// `refused` stands against it from the start, `before` is what has been in force so far, `attempt` plans.
///
/// # Errors
/// What stands against the snapshot as a whole.
pub fn settle<P>(
    offered: v1::Layers,
    refused: Vec<Violation>,
    before: impl FnOnce() -> v1::Layers,
    mut attempt: impl FnMut(&v1::Layers) -> Result<P, Vec<Violation>>,
) -> Result<Settled<P>, Vec<v1::RuleViolation>> {
    let mut against = refused;
    if against.is_empty() {
        match attempt(&offered) {
            Ok(plan) => return Ok(Settled { layers: offered, plan, held_back: vec![], standbys: vec![] }),
            Err(refusals) => against = refusals,
        }
    }
    let mut origins: Vec<_> = (0..offered.layers.len()).map(Origin::Offered).collect();
    let mut choice = Choice { offered, before: before(), refused: BTreeMap::new(), dropped: BTreeSet::new() };
    // Each round refuses a layer that was not refused before, so there is a last one.
    while choice.note(&against, &origins) {
        let layers;
        (layers, origins) = choice.compose();
        match attempt(&layers) {
            Ok(plan) => return Ok(choice.settled(layers, plan)),
            Err(refusals) => against = refusals,
        }
    }
    Err(choice.why_nothing(against))
}

/// Where a layer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It is offered, at this position.
    Offered(usize),
    /// It has been in force, at this position.
    Before(usize),
}

/// What was found out so far.
#[derive(Debug)]
struct Choice {
    offered: v1::Layers,
    before: v1::Layers,
    /// Layers that are offered, by position.
    refused: BTreeMap<usize, Vec<Fault>>,
    /// Names of which not even what was in force before can be, be it for want of room.
    dropped: BTreeSet<String>,
}

impl Choice {
    /// Notes what stands against layers of these origins. Says whether there is anything else to try.
    fn note(&mut self, against: &[Violation], origins: &[Origin]) -> bool {
        let known = (self.refused.len(), self.dropped.len());
        for Violation { layer, fault } in against {
            match layer.and_then(|layer| origins.get(layer)) {
                Some(Origin::Offered(position)) => self.refused.entry(*position).or_default().push(fault.clone()),
                Some(Origin::Before(position)) => self.drop_before(*position),
                None => {}
            }
        }
        if known == (self.refused.len(), self.dropped.len()) {
            // Only all together is too much: what stayed from before is not offered, so it goes first.
            for origin in origins {
                if let Origin::Before(position) = origin {
                    self.drop_before(*position);
                }
            }
        }
        known != (self.refused.len(), self.dropped.len())
    }

    fn drop_before(&mut self, position: usize) {
        self.dropped.extend(self.before.layers.get(position).map(|layer| layer.name.clone()));
    }

    /// The best that is not known to be refused, in the order of decision.
    fn compose(&self) -> (v1::Layers, Vec<Origin>) {
        let mut names = BTreeSet::new();
        let new = self.offered.layers.iter().map(|layer| layer.name.as_str()).filter(|name| names.insert(*name));
        let mut composed: Vec<_> = new.flat_map(|name| self.of_name(name)).collect();
        // Experiments before policies, as their names say. A canary stays before what stands by for it.
        let order = |layer: &v1::Layer| (std::cmp::Reverse(layer.priority), layer.name.clone());
        composed.sort_by_cached_key(|(_, layer)| order(layer));
        let zones_of_before = |(origin, layer): &(Origin, v1::Layer)| {
            refers_to_zones(layer).then_some(matches!(origin, Origin::Before(_)))
        };
        // A server sends zones only where a layer refers to them.
        let referring: Vec<bool> = composed.iter().filter_map(zones_of_before).collect();
        let stale = !referring.is_empty() && referring.iter().all(|before| *before) && self.offered.zones.is_empty();
        let zones = if stale { self.before.zones.clone() } else { self.offered.zones.clone() };
        let (origins, layers) = composed.into_iter().unzip();
        (v1::Layers { layers, zones }, origins)
    }

    /// What there is to be of one policy or experiment.
    fn of_name(&self, name: &str) -> Vec<(Origin, v1::Layer)> {
        let offered = self.offered.layers.iter().enumerate().filter(|(_, layer)| layer.name == name);
        let (good, bad): (Vec<_>, Vec<_>) = offered.partition(|(position, _)| !self.refused.contains_key(position));
        let good: Vec<_> =
            good.into_iter().map(|(position, layer)| (Origin::Offered(position), layer.clone())).collect();
        let acts = good.iter().any(|(_, layer)| !layer.standby);
        match (bad.first(), good.is_empty()) {
            (None, _) => good,
            (Some(_), true) => self.of_before(name).collect(),
            // The canary is refused: the node does what everyone does.
            (Some(_), false) if !acts => {
                let promoted = |layer| v1::Layer { lease_ms: 0, standby: false, ..layer };
                good.into_iter().map(|(origin, layer)| (origin, promoted(layer))).collect()
            }
            (Some((_, standby)), false) => good.into_iter().chain(self.standby_of_before(name, standby)).collect(),
        }
    }

    fn of_before(&self, name: &str) -> impl Iterator<Item = (Origin, v1::Layer)> {
        let layers = self.before.layers.iter().enumerate();
        let kept = layers.filter(move |(_, layer)| layer.name == name && !self.dropped.contains(name));
        kept.map(|(position, layer)| (Origin::Before(position), layer.clone()))
    }

    /// What everyone had before stands by in the place of what everyone has now.
    fn standby_of_before(&self, name: &str, refused: &v1::Layer) -> Option<(Origin, v1::Layer)> {
        let mut of_everyone = self.of_before(name).filter(|(_, layer)| layer.standby || layer.lease_ms == 0);
        let (lease_ms, rollout) = (refused.lease_ms, &refused.rollout);
        let stands_by = |layer| v1::Layer { lease_ms, standby: true, rollout: rollout.clone(), ..layer };
        of_everyone.next().map(|(origin, layer)| (origin, stands_by(layer)))
    }

    fn settled<P>(&self, layers: v1::Layers, plan: P) -> Settled<P> {
        let revision = |name: &str, standby: bool| {
            let mut there = layers.layers.iter().filter(|layer| layer.name == name && layer.standby == standby);
            there.next().map_or(0, |layer| layer.revision)
        };
        let (mut held_back, mut standbys) = (vec![], vec![]);
        for (layer, faults) in
            self.refused.iter().filter_map(|(at, faults)| Some((self.offered.layers.get(*at)?, faults)))
        {
            let name = layer.name.as_str();
            if layer.standby {
                standbys.push(standby_missing(layer, revision(name, true), faults));
            } else {
                held_back.push(v1::HeldBack {
                    layer: name.to_owned(),
                    revision: layer.revision,
                    revision_in_force: revision(name, false),
                    violations: violations(name, faults),
                });
            }
        }
        Settled { layers, plan, held_back, standbys }
    }

    fn why_nothing(&self, against: Vec<Violation>) -> Vec<v1::RuleViolation> {
        let whole: Vec<_> =
            against.into_iter().filter(|refusal| refusal.layer.is_none()).map(|refusal| refusal.fault).collect();
        let of_layers = self.refused.iter().filter_map(|(at, faults)| Some((self.offered.layers.get(*at)?, faults)));
        let of_layers = of_layers.flat_map(|(layer, faults)| violations(&layer.name, faults));
        violations("", &whole).into_iter().chain(of_layers).collect()
    }
}

/// Beside a canary there is room for a note on what stands by for it, but not for a state of its own.
fn standby_missing(layer: &v1::Layer, instead: u64, faults: &[Fault]) -> v1::EffectiveValue {
    let effective = if instead == 0 { "nothing".to_owned() } else { format!("revision {instead}") };
    let why = faults.first().map(ToString::to_string).unwrap_or_default();
    v1::EffectiveValue {
        layer: layer.name.clone(),
        field: "standby".to_owned(),
        requested: format!("revision {}", layer.revision),
        effective,
        note: format!("this node cannot honour what should stand by for the canary: {why}"),
        caveats: vec![],
    }
}

fn refers_to_zones(layer: &v1::Layer) -> bool {
    let refers = |condition: &v1::Match| {
        !condition.local_zones.is_empty() || !condition.remote_zones.is_empty() || condition.zone_relation != 0
    };
    match &layer.body {
        Some(v1::layer::Body::Policy(policy)) => {
            policy.rules.iter().filter_map(|rule| rule.r#match.as_ref()).any(refers)
        }
        Some(v1::layer::Body::Experiment(experiment)) => experiment.r#match.as_ref().is_some_and(refers),
        None => false,
    }
}

#[cfg(test)]
mod tests;
