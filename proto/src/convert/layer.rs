//! What a node gets of a document.

use sockpilot_policy::model::LayerName;

use crate::v1::{self, layer::Body};

/// A policy as a node gets it; without a lease.
#[must_use]
pub fn layer_of_policy(policy: v1::Policy, name: &LayerName, revision: u64) -> v1::Layer {
    let v1::Policy { priority, rules, .. } = policy;
    layer(name, revision, priority, Body::Policy(v1::PolicyLayer { rules }))
}

/// An experiment as a node gets it; without a lease, and without an end.
#[must_use]
pub fn layer_of_experiment(experiment: v1::Experiment, name: &LayerName, revision: u64) -> v1::Layer {
    let v1::Experiment { r#match, unit, salt, arms, if_unsupported, measures, horizon_s, .. } = experiment;
    let v1::Experiment { priority, peer_prefix, time_slot, saturation_pair, withholds, .. } = experiment;
    let design = v1::ExperimentLayer {
        r#match,
        unit: if unit == 0 { v1::Unit::Flow.into() } else { unit },
        salt: if salt.is_empty() { name.id.to_string() } else { salt },
        arms,
        if_unsupported,
        measures,
        horizon_s,
        peer_prefix,
        time_slot,
        saturation_pair,
        withholds,
    };
    layer(name, revision, priority, Body::Experiment(design))
}

fn layer(name: &LayerName, revision: u64, priority: u32, body: Body) -> v1::Layer {
    let (name, body) = (name.to_string(), Some(body));
    v1::Layer { name, revision, priority, lease_ms: 0, standby: false, ends_s: 0, rollout: None, body }
}
