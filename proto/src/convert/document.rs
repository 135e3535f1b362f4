//! Policies and experiments.

use sockpilot_policy::{
    bucket::BUCKETS,
    fault::{Collector, Faults},
    model::{ApplyTo, Arm, Design, Experiment, IfUnsupported, Policy, Rule, Words},
    validate,
};

use super::{comparison_from_proto, id, known, labels, matches::match_from_proto, parameters::parameters_from_proto};
use crate::v1;

/// Reads and validates a policy document. Output-only fields, name and etag are not looked at.
///
/// # Errors
/// All faults, with paths that begin at `root`.
pub fn policy_from_proto(message: &v1::Policy, root: &str) -> Result<Policy, Faults> {
    let v1::Policy {
        name: _,
        uid: _,
        revision: _,
        etag: _,
        description,
        priority,
        node_labels,
        rules,
        create_time: _,
        creator: _,
        notes: _,
    } = message;
    let mut faults = Collector::at(root);
    let rules = rules_from_proto(rules, &mut faults);
    let policy =
        Policy { description: description.clone(), priority: *priority, node_labels: labels(node_labels), rules };
    validate::policy(&policy, &mut faults);
    faults.finish(policy)
}

/// Reads and validates an experiment document. Output-only fields, name and etag are not looked at; an empty salt becomes the
/// last part of the name.
///
/// # Errors
/// All faults, with paths that begin at `root`.
pub fn experiment_from_proto(message: &v1::Experiment, root: &str) -> Result<Experiment, Faults> {
    let v1::Experiment {
        name,
        uid: _,
        revision: _,
        etag: _,
        description,
        priority,
        node_labels,
        r#match,
        unit,
        salt,
        arms,
        create_time: _,
        creator: _,
        if_unsupported,
        notes: _,
        owner,
        state: _,
        measures,
        horizon_s,
        peer_prefix,
        time_slot,
        saturation_pair,
        withholds,
        duration_s,
        start_time: _,
        end_time: _,
        shipped_arm: _,
    } = message;
    let mut faults = Collector::at(root);
    let id = name.rsplit('/').next().unwrap_or_default();
    let words = Words { description: description.clone(), owner: owner.clone(), duration_s: *duration_s };
    let parts = v1::ExperimentLayer {
        r#match: r#match.clone(),
        unit: *unit,
        salt: if salt.is_empty() { id.to_owned() } else { salt.clone() },
        arms: arms.clone(),
        if_unsupported: *if_unsupported,
        measures: measures.clone(),
        horizon_s: *horizon_s,
        peer_prefix: *peer_prefix,
        time_slot: *time_slot,
        saturation_pair: *saturation_pair,
        withholds: withholds.clone(),
    };
    let comparison = comparison_from_proto(&parts, &mut faults);
    let design = Design { priority: *priority, node_labels: labels(node_labels), comparison };
    let experiment = Experiment { words, design };
    validate::experiment(&experiment, &mut faults);
    faults.finish(experiment)
}

pub(super) fn rules_from_proto(rules: &[v1::Rule], faults: &mut Collector) -> Vec<Rule> {
    faults.each("rules", rules, |faults, v1::Rule { name, r#match, set, if_unsupported, apply_to }| Rule {
        name: id(name, faults),
        matches: match_from_proto(r#match.as_ref(), faults),
        set: set.as_ref().map(parameters_from_proto).unwrap_or_default(),
        if_unsupported: if_unsupported_from_proto(*if_unsupported, faults),
        apply_to: apply_to_from_proto(*apply_to, faults),
    })
}

/// Arms by first bucket. Their positions in `arms` are in the fault paths, so the order is restored only after validation.
pub(super) fn arms_from_proto(arms: &[v1::Arm], faults: &mut Collector) -> Vec<Arm> {
    let placed = arms.iter().filter(|arm| arm.first_bucket.is_some()).count();
    let mut next = 0_u32;
    let mut read = faults.each("arms", arms, |faults, v1::Arm { name, weight_bp, first_bucket, set, withholds }| {
        if first_bucket.is_none() && placed > 0 {
            faults.add_at("first_bucket", "is missing here but said for other arms; say it for all or for none");
        }
        if first_bucket.is_some_and(|first| first >= BUCKETS) {
            faults.add_at("first_bucket", format!("is beyond the last bucket; write 0 to {}", BUCKETS - 1));
        }
        let first_bucket = first_bucket.unwrap_or(next);
        next = first_bucket.saturating_add(*weight_bp);
        Arm {
            name: id(name, faults),
            first_bucket,
            weight_bp: *weight_bp,
            set: set.as_ref().map(parameters_from_proto).unwrap_or_default(),
            withholds: *withholds,
        }
    });
    if placed == arms.len() && are_apart(&read) {
        read.sort_by_key(|arm| arm.first_bucket);
    }
    read
}

/// Whether sorting cannot hide a fault whose path names a position.
fn are_apart(arms: &[Arm]) -> bool {
    let mut order: Vec<_> = arms.iter().collect();
    order.sort_by_key(|arm| arm.first_bucket);
    let mut free = 0;
    order.iter().all(|arm| {
        let fits = arm.first_bucket >= free && arm.weight_bp > 0;
        free = arm.first_bucket.saturating_add(arm.weight_bp);
        fits
    }) && free <= BUCKETS
}

pub(super) fn if_unsupported_from_proto(number: i32, faults: &mut Collector) -> IfUnsupported {
    match known("if_unsupported", number, "REJECT or SKIP", faults) {
        v1::IfUnsupported::Unspecified | v1::IfUnsupported::Reject => IfUnsupported::Reject,
        v1::IfUnsupported::Skip => IfUnsupported::Skip,
    }
}

fn apply_to_from_proto(number: i32, faults: &mut Collector) -> ApplyTo {
    match known("apply_to", number, "NEW or NEW_AND_ESTABLISHED", faults) {
        v1::ApplyTo::Unspecified | v1::ApplyTo::New => ApplyTo::New,
        v1::ApplyTo::NewAndEstablished => ApplyTo::NewAndEstablished,
    }
}
