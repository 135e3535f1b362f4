//! Short ways to write policies, experiments and snapshots.

use prost::Message;
use sha2::{Digest, Sha256};
use sockpilot_proto::v1;

/// A rule.
#[must_use]
pub fn rule(name: &str, matches: v1::Match, set: v1::Parameters) -> v1::Rule {
    v1::Rule { name: name.to_owned(), r#match: Some(matches), set: Some(set), ..v1::Rule::default() }
}

/// No more than so many packets on their way.
#[must_use]
pub fn clamp(packets: u32) -> v1::Parameters {
    v1::Parameters { cwnd_clamp_packets: Some(packets), ..v1::Parameters::default() }
}

/// As messages have them.
#[must_use]
pub fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A policy document; `name` is the last part of its name.
#[must_use]
pub fn policy(name: &str, priority: u32, rules: Vec<v1::Rule>) -> v1::Policy {
    v1::Policy { name: format!("policies/{name}"), priority, rules, ..v1::Policy::default() }
}

/// An arm with its share in basis points.
#[must_use]
pub fn arm(name: &str, weight_bp: u32, set: v1::Parameters) -> v1::Arm {
    v1::Arm { name: name.to_owned(), weight_bp, set: Some(set), ..v1::Arm::default() }
}

/// An experiment document; `name` is the last part of its name.
#[must_use]
pub fn experiment(name: &str, priority: u32, matches: v1::Match, arms: Vec<v1::Arm>) -> v1::Experiment {
    v1::Experiment {
        name: format!("experiments/{name}"),
        priority,
        r#match: Some(matches),
        arms,
        ..v1::Experiment::default()
    }
}

/// A policy as a layer of a snapshot.
#[must_use]
pub fn policy_layer(name: &str, revision: u64, priority: u32, rules: Vec<v1::Rule>) -> v1::Layer {
    v1::Layer {
        name: format!("policies/{name}"),
        revision,
        priority,
        lease_ms: 0,
        standby: false,
        ends_s: 0,
        rollout: None,
        body: Some(v1::layer::Body::Policy(v1::PolicyLayer { rules })),
    }
}

/// An experiment as a layer of a snapshot; every arm must say its first bucket.
#[must_use]
pub fn experiment_layer(name: &str, revision: u64, priority: u32, matches: v1::Match, arms: Vec<v1::Arm>) -> v1::Layer {
    let mut first = 0;
    let arms = arms
        .into_iter()
        .map(|arm| {
            let first_bucket = Some(arm.first_bucket.unwrap_or(first));
            first += arm.weight_bp;
            v1::Arm { first_bucket, ..arm }
        })
        .collect();
    v1::Layer {
        name: format!("experiments/{name}"),
        revision,
        priority,
        lease_ms: 600_000,
        standby: false,
        ends_s: 0,
        rollout: None,
        body: Some(v1::layer::Body::Experiment(v1::ExperimentLayer {
            r#match: Some(matches),
            unit: v1::Unit::Flow.into(),
            salt: name.to_owned(),
            arms,
            horizon_s: 60,
            ..v1::ExperimentLayer::default()
        })),
    }
}

/// A snapshot of layers, which must stand in order.
#[must_use]
pub fn snapshot(database_epoch: &str, generation: u64, layers: Vec<v1::Layer>) -> v1::Snapshot {
    let layers = v1::Layers { layers, zones: vec![] }.encode_to_vec();
    let version = v1::SnapshotVersion {
        database_epoch: database_epoch.to_owned(),
        generation,
        content_hash: Sha256::digest(&layers).to_vec().into(),
    };
    v1::Snapshot { version: Some(version), layers: layers.into(), answer_within_ms: 0 }
}

/// `policies/web`: every connection gets a window of so many packets.
#[must_use]
pub fn clamped(packets: u32) -> v1::Policy {
    policy("web", 1, vec![rule("all", v1::Match::default(), clamp(packets))])
}
