//! Flows and layers for tests.

use std::{convert::Infallible, sync::Arc};

use proptest::prelude::*;
use prost_types::Timestamp;
use sockpilot_policy::model::{Snapshot, Zone};
use sockpilot_proto::{
    convert::{layer_of_experiment, layer_of_policy, snapshot_from_proto, zone_map_from_proto},
    v1,
};
use sockpilot_simulate::{Layers, simulate};

/// A recorded flow that a layer matched, of a connection to port 443.
pub fn flow(port: u32, weight: f64) -> v1::FlowSample {
    v1::FlowSample {
        node: "nodes/n".to_owned(),
        close_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        local_address: "10.1.0.7".to_owned(),
        local_port: port,
        remote_address: "10.2.0.9".to_owned(),
        remote_port: 443,
        direction: v1::Direction::Active.into(),
        outcome: v1::Outcome::Established.into(),
        duration_us: 1_000_000,
        service: "/".to_owned(),
        handshake_rtt_us: 700,
        weight,
        attributions: vec![v1::Attribution { layer: "policies/p".to_owned(), revision: 1, choice: "all".to_owned() }],
        ..v1::FlowSample::default()
    }
}

/// One that none matched.
pub fn unmatched(port: u32, weight: f64) -> v1::FlowSample {
    v1::FlowSample { attributions: vec![], ..flow(port, weight) }
}

pub fn cwnd(packets: u32) -> v1::Parameters {
    v1::Parameters { initial_cwnd_packets: Some(packets), ..v1::Parameters::default() }
}

pub fn rule(name: &str, matches: v1::Match, set: v1::Parameters) -> v1::Rule {
    v1::Rule { name: name.to_owned(), r#match: Some(matches), set: Some(set), ..v1::Rule::default() }
}

pub fn policy(name: &str, priority: u32, rules: Vec<v1::Rule>) -> v1::Layer {
    let name = format!("policies/{name}").parse().expect("a name");
    layer_of_policy(v1::Policy { priority, rules, ..v1::Policy::default() }, &name, 1)
}

pub fn experiment(name: &str, experiment: v1::Experiment) -> v1::Layer {
    layer_of_experiment(experiment, &format!("experiments/{name}").parse().expect("a name"), 1)
}

pub fn zones() -> Vec<v1::Zone> {
    let zone = |name: &str, prefix: &str| v1::Zone {
        name: name.to_owned(),
        region: name.split('-').next().unwrap_or_default().to_owned(),
        prefixes: vec![prefix.to_owned()],
    };
    vec![zone("fra-1", "10.1.0.0/16"), zone("sin-1", "10.2.0.0/16")]
}

pub fn map() -> Vec<Zone> {
    zone_map_from_proto(&v1::ZoneMap { zones: zones(), ..v1::ZoneMap::default() }, "").expect("sound")
}

pub fn snapshot(layers: Vec<v1::Layer>) -> Arc<Snapshot> {
    let mut snapshot = snapshot_from_proto(&v1::Layers { layers, zones: zones() }).expect("sound");
    sockpilot_policy::model::sort_layers(&mut snapshot.layers);
    Arc::new(snapshot)
}

pub fn run(flows: &[v1::FlowSample], before: &Arc<Snapshot>, after: &Arc<Snapshot>) -> v1::Simulation {
    let layers = Layers { before: before.clone(), after: after.clone() };
    simulate(flows, &map(), |_| Ok::<_, Infallible>(Some(layers.clone()))).unwrap_or_else(|never| match never {})
}

/// Parameters of all sorts: set before and when established, for one direction and for both.
fn any_set() -> impl Strategy<Value = v1::Parameters> {
    let maybe = || prop::option::weighted(0.4, 10_u32..13);
    (maybe(), maybe(), maybe(), maybe()).prop_map(|(syn_rto_ms, synack_rto_ms, initial_cwnd_packets, clamp)| {
        let cwnd_clamp_packets = clamp;
        v1::Parameters { syn_rto_ms, synack_rto_ms, initial_cwnd_packets, cwnd_clamp_packets, ..Default::default() }
    })
}

fn any_match() -> impl Strategy<Value = v1::Match> {
    let ports = prop::sample::subsequence(vec!["443", "80", "8000-9000"], 0..2);
    let services = prop::sample::subsequence(vec!["/web", "/web/a", "/db"], 0..2);
    let texts = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect::<Vec<_>>();
    (ports, services, 0..3_i32).prop_map(move |(ports, services, zone_relation)| v1::Match {
        remote_ports: texts(ports),
        services: texts(services),
        zone_relation,
        ..v1::Match::default()
    })
}

pub fn any_layers() -> impl Strategy<Value = Vec<v1::Layer>> {
    let rules = prop::collection::vec((any_match(), any_set()), 1..4);
    let policies = prop::collection::vec((0_u32..9, rules), 0..4);
    let arms = prop::option::of((0_u32..9, any_set(), any_match(), 0_i32..2));
    (policies, arms).prop_map(|(policies, arms)| {
        let policies = policies.into_iter().enumerate().map(|(index, (priority, rules))| {
            let rules = rules.into_iter().enumerate().map(|(n, (matches, set))| rule(&format!("r{n}"), matches, set));
            policy(&format!("p{index}"), priority, rules.collect())
        });
        let experiments = arms.into_iter().map(|(priority, set, matches, by_node)| {
            let arm = |name: &str, set| v1::Arm { name: name.to_owned(), weight_bp: 4_000, set, ..v1::Arm::default() };
            let arms = vec![arm("control", None), arm("other", Some(set))];
            let unit = if by_node == 1 { v1::Unit::Node } else { v1::Unit::Flow }.into();
            experiment("e", v1::Experiment { priority, arms, unit, r#match: Some(matches), ..Default::default() })
        });
        policies.chain(experiments).collect()
    })
}

prop_compose! {
    pub fn any_flow()(
        (node, local_port, remote_port) in ("nodes/[a-c]", 1_u32..60_000, prop::sample::select(vec![80_u32, 443, 8_443, 9_999])),
        (remote, service) in (
            prop::sample::select(vec!["10.2.0.9", "10.1.0.8", "192.0.2.1"]),
            prop::sample::select(vec!["/", "", "/web", "/web/a", "/db"]),
        ),
        (active, matched, weight, handshake_rtt_us) in (any::<bool>(), any::<bool>(), 1.0_f64..200.0, 0_u32..2_000_000),
    ) -> v1::FlowSample {
        let direction = if active { v1::Direction::Active } else { v1::Direction::Passive }.into();
        let (remote_address, service) = (remote.to_owned(), service.to_owned());
        let of = if matched { flow(local_port, weight) } else { unmatched(local_port, weight) };
        v1::FlowSample { node, remote_port, direction, remote_address, service, handshake_rtt_us, ..of }
    }
}
