//! Nodes that have the revision for all connections, against nodes not reached yet: difference in differences.
//!
//! There is no control on the node any more, so nodes are the units: what its connections have in common must not pass for many of them.

use std::collections::BTreeMap;

use sockpilot_outcomes::measured::GroupSums;
use sockpilot_policy::measure::{Estimator, Stage};
use sockpilot_stats::{
    Estimate, NoAnswer,
    cluster::Cluster,
    differences::{BeforeAfter, difference_in_differences},
};

use super::{
    Found, NODES_MIN,
    evidence::Node,
    metric::{Form, Gate},
};

/// How many nodes of either kind could tell, had they connections after: those that had some before.
#[must_use]
pub fn comparable(nodes: &BTreeMap<String, Node>) -> (usize, usize) {
    let of = |reached| nodes.values().filter(|node| node.reached == reached && node.before.attempts > 0).count();
    (of(false), of(true))
}

/// Whether there are nodes enough to tell.
#[must_use]
pub fn are_enough(nodes: &BTreeMap<String, Node>) -> bool {
    let (others, reached) = comparable(nodes);
    others.min(reached) >= NODES_MIN
}

/// What a gate finds.
pub fn compare(gate: &Gate, estimator: Estimator, nodes: &BTreeMap<String, Node>) -> Result<Found, NoAnswer> {
    let of = |reached| -> Vec<BeforeAfter> {
        let nodes = nodes.values().filter(|node| node.reached == reached);
        let each = |node: &Node| BeforeAfter {
            before: weighed(gate, estimator, &node.before),
            after: weighed(gate, estimator, &node.after),
        };
        nodes.map(each).collect()
    };
    let (others, reached) = (of(false), of(true));
    let found = difference_in_differences(&others, &reached)?;
    let Estimate { n_control, n_treatment, variance, .. } = found.estimate;
    for found in [n_control, n_treatment] {
        if found < NODES_MIN as u64 {
            return Err(NoAnswer::TooFew { found, needed: NODES_MIN as u64 });
        }
    }
    // Where events are few or none, nodes are alike by chance; as sure as that many independent ones it is not at all.
    let least = if gate.metric.form == Form::Time { 0.0 } else { least_variance(&others) + least_variance(&reached) };
    let estimate = Estimate { variance: variance.max(least), ..found.estimate };
    Ok(Found { control: found.expected, canary: found.treated, n: (n_control, n_treatment), estimate })
}

/// What a node brings: events of all that were begun, a sum of another, or logarithms of those that have them.
fn weighed(gate: &Gate, estimator: Estimator, sums: &GroupSums) -> Cluster {
    let (Estimator::Mean { stage, .. } | Estimator::Ratio { stage, .. }) = estimator;
    let (count, columns) = match stage {
        Stage::Attempts => (sums.attempts, &sums.attempt_sums),
        Stage::Established => (sums.established, &sums.established_sums),
    };
    let at = |column: usize| columns.get(column).copied().unwrap_or_default();
    match (gate.metric.form, estimator) {
        (Form::Share, Estimator::Mean { column, .. } | Estimator::Ratio { numerator: column, .. }) => {
            Cluster { sum: at(column), weight: sums.attempts as f64 }
        }
        (Form::Per(_) | Form::Time, Estimator::Mean { column, .. }) => {
            Cluster { sum: at(column), weight: count as f64 }
        }
        (Form::Per(_) | Form::Time, Estimator::Ratio { numerator, denominator, .. }) => {
            Cluster { sum: at(numerator), weight: at(denominator) }
        }
    }
}

/// The variance of the change of a side, were all events independent, with one more before and after.
fn least_variance(nodes: &[BeforeAfter]) -> f64 {
    let of = |of: fn(&BeforeAfter) -> Cluster| {
        let nodes = nodes.iter().map(of);
        let (sum, weight) = nodes.fold((0.0, 0.0), |(sum, weight), node| (sum + node.sum, weight + node.weight));
        if weight > 0.0 { (sum.max(0.0) + 1.0) / (weight * weight) } else { 0.0 }
    };
    of(|node| node.before) + of(|node| node.after)
}
