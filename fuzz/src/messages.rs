//! Real messages, from which corpora are made: each says as much as it can.

use prost_types::{Duration, Timestamp};
use sockpilot_proto::v1;

/// A moment of which all messages speak.
pub const NOW: Timestamp = Timestamp { seconds: 1_800_000_000, nanos: 500_000_000 };

/// A match with every condition that can stand beside the others.
#[must_use]
pub fn matching() -> v1::Match {
    v1::Match {
        direction: v1::Direction::Active.into(),
        family: v1::Family::Ipv4.into(),
        remote_prefixes: texts(&["10.0.0.0/8", "192.0.2.0/24"]),
        local_prefixes: texts(&["10.1.0.0/16"]),
        remote_ports: texts(&["443", "8000-8999"]),
        services: texts(&["/system.slice/web.service"]),
        local_zones: texts(&["a"]),
        zone_relation: v1::ZoneRelation::OtherZone.into(),
        same_prefix: Some(8),
        not_same_prefix: Some(16),
        ..v1::Match::default()
    }
}

/// A policy of two rules.
#[must_use]
pub fn policy() -> v1::Policy {
    let set = v1::Parameters {
        syn_rto_ms: Some(200),
        initial_cwnd_packets: Some(20),
        congestion_control: Some("cubic".to_owned()),
        ..v1::Parameters::default()
    };
    let far = v1::Match { min_handshake_rtt_us: Some(80_000), ..v1::Match::default() };
    let wide = v1::Parameters { initial_cwnd_packets: Some(32), ..v1::Parameters::default() };
    v1::Policy {
        name: "policies/web".to_owned(),
        description: "As far as the corpus goes.".to_owned(),
        priority: 120,
        node_labels: [("role".to_owned(), "edge".to_owned())].into(),
        rules: vec![
            v1::Rule { name: "near".to_owned(), r#match: Some(matching()), set: Some(set), ..v1::Rule::default() },
            v1::Rule {
                name: "far".to_owned(),
                r#match: Some(far),
                set: Some(wide),
                if_unsupported: v1::IfUnsupported::Skip.into(),
                ..v1::Rule::default()
            },
        ],
        ..v1::Policy::default()
    }
}

/// What an experiment compares: one connection in ten, with another SYN timeout.
#[must_use]
pub fn design() -> v1::ExperimentLayer {
    let arm = |name: &str, first_bucket, weight_bp, syn_rto_ms| v1::Arm {
        name: name.to_owned(),
        weight_bp,
        first_bucket: Some(first_bucket),
        set: Some(v1::Parameters { syn_rto_ms, ..v1::Parameters::default() }),
        withholds: false,
    };
    let measure = |quantity: &str, per: &str, role: v1::MeasureRole, margin_bp| v1::Measure {
        quantity: quantity.to_owned(),
        per: per.to_owned(),
        role: role.into(),
        margin_bp,
        transform: None,
    };
    v1::ExperimentLayer {
        r#match: Some(v1::Match { zone_relation: 0, local_zones: vec![], ..matching() }),
        unit: v1::Unit::Flow.into(),
        salt: "corpus".to_owned(),
        arms: vec![arm("control", 0, 9_000, None), arm("quick", 9_000, 1_000, Some(200))],
        measures: vec![
            measure("connected", "", v1::MeasureRole::Guardrail, 100),
            measure("srtt_us", "", v1::MeasureRole::Success, 0),
            measure("retransmits", "segments_out", v1::MeasureRole::Diagnostic, 0),
        ],
        horizon_s: 60,
        ..v1::ExperimentLayer::default()
    }
}

/// The same as a document.
#[must_use]
pub fn experiment() -> v1::Experiment {
    let v1::ExperimentLayer { r#match, unit, salt, arms, measures, horizon_s, .. } = design();
    v1::Experiment {
        name: "experiments/syn".to_owned(),
        description: "A question.".to_owned(),
        owner: "ann".to_owned(),
        priority: 1_000,
        r#match,
        unit,
        salt,
        arms,
        measures,
        horizon_s,
        duration_s: 86_400,
        ..v1::Experiment::default()
    }
}

/// Two zones of one region.
#[must_use]
pub fn zones() -> Vec<v1::Zone> {
    let zone = |name: &str, prefix: &str| v1::Zone {
        name: name.to_owned(),
        region: "eu".to_owned(),
        prefixes: texts(&[prefix]),
    };
    vec![zone("a", "10.1.0.0/16"), zone("b", "10.2.0.0/16")]
}

/// What a node gets: an experiment, a canary in a rollout with what stands by for it, and zones.
#[must_use]
pub fn layers() -> v1::Layers {
    let rollout = v1::LayerRollout {
        name: "rollouts/web-2".to_owned(),
        salt: "wave".to_owned(),
        revision: 2,
        flow_share_bp: 500,
        measures: design().measures,
        horizon_s: 3,
        breaker_ppm: 1_000,
        unchanged: false,
    };
    let v1::Policy { priority, rules, .. } = policy();
    let policy = v1::Layer {
        name: "policies/web".to_owned(),
        revision: 2,
        priority,
        lease_ms: 600_000,
        rollout: Some(rollout),
        body: Some(v1::layer::Body::Policy(v1::PolicyLayer { rules })),
        ..v1::Layer::default()
    };
    let standby = v1::Layer { revision: 1, standby: true, ..policy.clone() };
    let experiment = v1::Layer {
        name: "experiments/syn".to_owned(),
        revision: 3,
        priority: 1_000,
        lease_ms: 600_000,
        ends_s: 1_900_000_000,
        body: Some(v1::layer::Body::Experiment(design())),
        ..v1::Layer::default()
    };
    v1::Layers { layers: vec![experiment, policy, standby], zones: zones() }
}

/// What came of a connection.
#[must_use]
pub fn sample() -> v1::FlowSample {
    v1::FlowSample {
        node: "nodes/web-1".to_owned(),
        close_time: Some(NOW),
        local_address: "10.1.0.7".to_owned(),
        local_port: 40_000,
        remote_address: "192.0.2.1".to_owned(),
        remote_port: 443,
        direction: v1::Direction::Active.into(),
        outcome: v1::Outcome::Established.into(),
        duration_us: 1_500_000,
        srtt_us: 900,
        attributions: vec![v1::Attribution {
            layer: "policies/web".to_owned(),
            revision: 2,
            choice: "near".to_owned(),
        }],
        weight: 3.0,
        service: "/system.slice/web.service".to_owned(),
        handshake_rtt_us: 800,
        ..v1::FlowSample::default()
    }
}

/// Some connections of an interval, without distributions.
#[must_use]
pub fn cell() -> v1::FlowCell {
    v1::FlowCell {
        interval_start_s: 1_800_000_000,
        interval_length_s: 60,
        layer: "policies/web".to_owned(),
        revision: 2,
        choice: "near".to_owned(),
        direction: v1::Direction::Active.into(),
        size_class: v1::SizeClass::Small.into(),
        counts: Some(v1::FlowCounts { flows: 5, established: 5, ..v1::FlowCounts::default() }),
        ..v1::FlowCell::default()
    }
}

/// The version of a snapshot.
#[must_use]
pub fn version() -> v1::SnapshotVersion {
    v1::SnapshotVersion {
        database_epoch: "6b6f6e74-726f-4c6c-8000-000000000001".to_owned(),
        generation: 7,
        content_hash: vec![3; 32].into(),
    }
}

/// A span of time.
#[must_use]
pub fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

/// Texts of a list.
#[must_use]
pub fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|text| (*text).to_owned()).collect()
}
