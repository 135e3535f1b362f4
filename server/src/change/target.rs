//! The nodes that a decision is for.

use std::fmt;

use sockpilot_policy::{fault::Collector, model::Labels};

use super::wave::Canary;

/// The nodes that a revision is given to, among those its own node labels admit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Everyone,
    /// Some, beside what everyone has.
    Canary(Canary),
    Nobody,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("everyone"),
            Self::Canary(canary) => canary.fmt(f),
            Self::Nobody => f.write_str("nobody"),
        }
    }
}

/// Basis points as percent, as short as they go.
#[must_use]
pub fn percent(basis_points: u32) -> f64 {
    f64::from(basis_points) / 100.0
}

/// `role=edge,zone=a`.
#[must_use]
pub fn pairs(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Whether a node's labels have all those that are wanted.
#[must_use]
pub fn carries(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether a node may have the labels of both.
#[must_use]
pub fn one_node(a: &Labels, b: &Labels) -> bool {
    a.iter().all(|(key, value)| b.get(key).is_none_or(|other| other == value))
}

impl Target {
    /// Notes what an experiment cannot be for. The walk stands at the target's field.
    pub fn of_experiment(&self, faults: &mut Collector) {
        if matches!(self, Self::Canary(_)) {
            faults.add(
                "is a part of the nodes, and an experiment has no canary: its arms are compared on each node. Target everyone or \
                 nobody; say node_labels in the experiment for some nodes only, or leave buckets to nobody for fewer connections",
            );
        }
    }
}
