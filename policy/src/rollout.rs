//! What a rollout makes of the layers of its policy on a node: whose each bucket is, and which connections take part.

use crate::{
    bucket::BUCKETS,
    model::{Group, Layer, LayerBody, Part, Portion, Rule, Term},
};

/// Fills in the part of each layer of a policy in a rollout.
pub(crate) fn resolve(layers: &mut [Layer]) {
    let parts: Vec<Part> = (0..layers.len()).map(|index| part(layers, index)).collect();
    for (layer, part) in layers.iter_mut().zip(parts) {
        if let Some(rollout) = &mut layer.rollout {
            rollout.part = part;
        }
    }
}

fn part(layers: &[Layer], index: usize) -> Part {
    let (layer, name) = (&layers[index], &layers[index].name);
    let other = layers.iter().enumerate().find(|(at, other)| *at != index && other.name == *name);
    let other = other.map(|(_, other)| other);
    let portions = portions(layer, other.is_none());
    let shared = portions.iter().any(|portion| !portion.is_whole());
    let mut others = vec![];
    for Rule { name, matches, .. } in other.filter(|_| shared).map_or(&[][..], rules) {
        let known = rules(layer).iter().map(|rule| &rule.matches).chain(others.iter().map(|(_, matches)| matches));
        if known.into_iter().all(|known| known != matches) {
            others.push((name.clone(), matches.clone()));
        }
    }
    Part { portions, others }
}

fn rules(layer: &Layer) -> &[Rule] {
    match &layer.body {
        LayerBody::Policy(rules) => rules,
        LayerBody::Experiment(_) => &[],
    }
}

/// `alone`: no other revision of the policy is on the node.
fn portions(layer: &Layer, alone: bool) -> Vec<Portion> {
    let Some(rollout) = &layer.rollout else { return vec![] };
    let share = rollout.share_bp.min(BUCKETS);
    let portion = |first_bucket, weight_bp, group, sets| Portion { first_bucket, weight_bp, group, sets };
    let whole = |group| vec![portion(0, BUCKETS, group, true)];
    let canary = portion(0, share, Some(Group::Canary), true);
    let beside = |sets| {
        let rest = share.saturating_mul(2).min(BUCKETS);
        [
            portion(share, rest - share, Some(Group::Control), sets),
            portion(rest, BUCKETS - rest, Some(Group::Rest), sets),
        ]
    };
    match (layer.term, share) {
        (Term::WhileInContact { .. }, BUCKETS) => whole(Some(Group::All)),
        // Without another revision, the control is connections on which nothing is set.
        (Term::WhileInContact { .. }, _) if alone => [canary].into_iter().chain(beside(false)).collect(),
        (Term::WhileInContact { .. }, _) => vec![canary],
        (Term::AfterSilence { .. }, BUCKETS) => whole(None),
        (Term::AfterSilence { .. }, _) => [Portion { group: None, ..canary }].into_iter().chain(beside(true)).collect(),
        (Term::Always, 0) => whole(Some(Group::Before)),
        (Term::Always, BUCKETS) if rollout.unchanged => whole(Some(Group::All)),
        (Term::Always, _) if rollout.unchanged => [canary].into_iter().chain(beside(true)).collect(),
        // The node has no canary, though the rollout has reached it: it cannot honour it.
        (Term::Always, _) => whole(None),
    }
}
