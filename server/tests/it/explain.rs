//! Explanations: the same as what nodes are sent and decide, and what would be.

use prost::Message;
use sockpilot_policy::{
    address::address_bytes,
    decide::{Flow, decide},
    layout::{ACTIVE, FlowKey, IPV4, PASSIVE},
    model::Snapshot,
    parameter::PARAMETERS,
};
use sockpilot_proto::{convert::snapshot_from_proto, v1};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

use crate::world::{World, experiment, fields, generation, hello, labels, nobody, policy, zone_map};

fn question(node: &str) -> v1::ExplainFlowRequest {
    v1::ExplainFlowRequest {
        node: node.to_owned(),
        local_address: "10.1.0.1".to_owned(),
        local_port: 40_000,
        remote_address: "10.2.0.1".to_owned(),
        remote_port: 443,
        direction: v1::Direction::Active.into(),
        ..v1::ExplainFlowRequest::default()
    }
}

async fn ask(world: &mut World, request: v1::ExplainFlowRequest) -> Result<v1::ExplainFlowResponse, Status> {
    world.fleet.explain_flow(request).await.map(Response::into_inner)
}

async fn apply(world: &mut World, policy: v1::Policy, target: Option<v1::Target>) -> v1::Policy {
    let request = v1::UpdatePolicyRequest {
        reason: "by a test".to_owned(),
        policy: Some(policy),
        allow_missing: true,
        target,
        ..v1::UpdatePolicyRequest::default()
    };
    world.policies.update_policy(request).await.expect("stored").into_inner()
}

/// A policy with one rule for a port that sets the SYN timeout, and one for everything that only stops.
fn by_port(id: &str, priority: u32, port: &str, syn_rto_ms: u32) -> v1::Policy {
    let mut policy = policy(id, syn_rto_ms);
    policy.priority = priority;
    let remote_ports = vec![port.to_owned()];
    policy.rules[0].name = "port".to_owned();
    policy.rules[0].r#match = Some(v1::Match { remote_ports, ..v1::Match::default() });
    policy.rules.push(v1::Rule { name: "rest".to_owned(), ..v1::Rule::default() });
    policy
}

fn with_set(mut policy: v1::Policy, set: v1::Parameters) -> v1::Policy {
    policy.rules[0].set = Some(set);
    policy
}

async fn create_experiment(world: &mut World, experiment: v1::Experiment) {
    let request =
        v1::CreateExperimentRequest { experiment: Some(experiment), ..v1::CreateExperimentRequest::default() };
    world.experiments.create_experiment(request).await.expect("created");
}

/// `policies/p@1:rule`, for each layer that matched.
fn choices(answer: &v1::ExplainFlowResponse) -> Vec<String> {
    let matched = answer.layers.iter().filter(|layer| layer.matched);
    matched.map(|layer| format!("{}@{}:{}", layer.layer, layer.revision, layer.choice)).collect()
}

fn parameter<'a>(answer: &'a v1::ExplainFlowResponse, name: &str) -> &'a v1::ExplainedParameter {
    answer.parameters.iter().find(|explained| explained.parameter == name).expect("it is explained")
}

#[tokio::test]
async fn says_who_wins_and_what_speaks_against_the_others() {
    let mut world = World::new().await;
    apply(&mut world, by_port("high", 9, "8000-8999", 100), None).await;
    apply(&mut world, by_port("middle", 5, "443", 10), None).await;
    apply(&mut world, policy("low", 1_000), None).await;
    let mut node = world.connect(hello("n")).await;
    let snapshot = node.take().await;
    let answer = ask(&mut world, question("nodes/n")).await.expect("an answer");
    assert_eq!(answer.generation, generation(&snapshot));
    assert_eq!(choices(&answer), ["policies/high@1:rest", "policies/middle@1:port", "policies/low@1:all"]);
    let high = &answer.layers[0];
    assert_eq!((high.priority, high.origin(), high.lease_ms), (9, v1::LayerOrigin::Everyone, 0));
    let [port, rest] = high.rules.as_slice() else { panic!("two rules, {high:?}") };
    assert_eq!((port.name.as_str(), port.matched), ("port", false));
    assert_eq!(port.field, "rules[0].match.remote_ports");
    assert_eq!(port.description, "port 443 is not in 8000-8999");
    assert_eq!((rest.name.as_str(), rest.matched, rest.field.as_str()), ("rest", true, ""));

    let [explained] = answer.parameters.as_slice() else { panic!("one parameter, {answer:?}") };
    let winner = explained.winner.as_ref().expect("one wins");
    assert_eq!(
        (winner.layer.as_str(), winner.choice.as_str(), winner.requested.as_str()),
        ("policies/middle", "port", "10")
    );
    assert_eq!(winner.field, "rules[0].set.syn_rto_ms");
    assert_eq!(explained.effective, "12", "in timer ticks of a node with 250 a second");
    assert!(explained.note.contains("timer ticks"), "{}", explained.note);
    let [loser] = explained.losers.as_slice() else { panic!("one loses, {explained:?}") };
    assert_eq!((loser.layer.as_str(), loser.requested.as_str()), ("policies/low", "1000"));
    assert!(answer.refusals.is_empty());
}

/// The node's snapshot, decided by the domain core, is what the server explains.
#[tokio::test]
async fn agrees_with_the_decision_about_what_the_node_was_sent() {
    let mut world = World::new().await;
    let map = v1::UpdateZoneMapRequest {
        zone_map: Some(zone_map(&[("fra-1", "10.1.0.0/16"), ("fra-2", "10.2.0.0/17"), ("sin-1", "10.2.128.0/17")])),
        ..v1::UpdateZoneMapRequest::default()
    };
    world.zones.update_zone_map(map).await.expect("updated");
    apply(&mut world, by_port("high", 9, "1-400", 100), None).await;
    apply(&mut world, policy("low", 1_000), None).await;
    let mut zones =
        with_set(policy("zones", 1), v1::Parameters { initial_cwnd_packets: Some(20), ..Default::default() });
    let zone_relation = v1::ZoneRelation::OtherRegion.into();
    zones.rules[0].r#match = Some(v1::Match { zone_relation, ..v1::Match::default() });
    apply(&mut world, v1::Policy { priority: 7, ..zones }, None).await;
    let mut halves = v1::Experiment { priority: 8, ..experiment("e") };
    (halves.arms[0].weight_bp, halves.arms[1].weight_bp) = (3_000, 3_000);
    create_experiment(&mut world, halves).await;
    let mut node = world.connect(hello("n")).await;
    let sent = v1::Layers::decode(node.take().await.layers).expect("layers");
    let snapshot: Snapshot = snapshot_from_proto(&sent).expect("a sound snapshot");

    let mut arms = vec![];
    for index in 0..64_u16 {
        let (remote, direction) = (format!("10.2.{}.1", index * 4), if index % 3 == 0 { PASSIVE } else { ACTIVE });
        let (local_port, remote_port) = (40_000 + index, 380 + index);
        let request = v1::ExplainFlowRequest {
            local_port: local_port.into(),
            remote_address: remote.clone(),
            remote_port: remote_port.into(),
            direction: if direction == ACTIVE { v1::Direction::Active } else { v1::Direction::Passive }.into(),
            ..question("nodes/n")
        };
        let answer = ask(&mut world, request).await.expect("an answer");
        let bytes = |text: &str| address_bytes(text.parse().expect("an address"));
        let (local, remote) = (bytes("10.1.0.1"), bytes(&remote));
        let key = FlowKey { local, remote, local_port, remote_port, family: IPV4, direction, reserved: 0 };
        let flow = Flow { key, service: None, handshake_rtt_us: None, begin_s: None };
        let decision = decide(&snapshot, &flow, 0);
        let decided = decision.choices.iter().map(|choice| {
            let layer = &snapshot.layers[choice.layer];
            (layer.name.to_string(), layer.revision, choice.name.to_string(), choice.bucket)
        });
        let explained = answer
            .layers
            .iter()
            .filter(|layer| layer.matched)
            .map(|layer| (layer.layer.clone(), layer.revision, layer.choice.clone(), layer.bucket));
        assert_eq!(explained.collect::<Vec<_>>(), decided.collect::<Vec<_>>());
        let decided = decision.values.iter().enumerate().filter_map(|(slot, value)| {
            let (value, position) = (*value)?;
            let layer = &snapshot.layers[decision.choices[position].layer];
            Some((PARAMETERS[slot].name.to_owned(), value.to_string(), layer.name.to_string()))
        });
        let explained = answer.parameters.iter().map(|explained| {
            let winner = explained.winner.clone().expect("one wins");
            (explained.parameter.clone(), winner.requested, winner.layer)
        });
        assert_eq!(explained.collect::<Vec<_>>(), decided.collect::<Vec<_>>());
        for layer in answer.layers.iter().filter(|layer| layer.bucket.is_some()) {
            assert_eq!(layer.note.contains("no arm owns"), !layer.matched, "{layer:?}");
            arms.push(layer.choice.clone());
        }
    }
    arms.sort();
    arms.dedup();
    assert_eq!(arms, ["", "control", "treatment"], "the flows fall into both arms, and beside them");
}

#[tokio::test]
async fn tells_what_a_revision_would_do() {
    let mut world = World::new().await;
    apply(&mut world, policy("p", 1_000), None).await;
    apply(&mut world, policy("p", 50), nobody()).await;
    let elsewhere = v1::Policy { node_labels: labels_of("zone", "b"), priority: 9, ..policy("q", 70) };
    apply(&mut world, elsewhere, nobody()).await;
    let _node = world.connect(hello("n")).await;
    let with = |overrides: &[&str]| v1::ExplainFlowRequest {
        overrides: overrides.iter().map(ToString::to_string).collect(),
        ..question("nodes/n")
    };
    assert_eq!(choices(&ask(&mut world, with(&[])).await.expect("an answer")), ["policies/p@1:all"]);
    let answer = ask(&mut world, with(&["policies/p@1"])).await.expect("an answer");
    assert_eq!(answer.layers[0].origin(), v1::LayerOrigin::Everyone, "it has this one anyway");
    let answer = ask(&mut world, with(&["policies/p@2", "policies/q@1"])).await.expect("an answer");
    assert_eq!(choices(&answer), ["policies/q@1:all", "policies/p@2:all"]);
    assert_eq!(answer.layers[1].origin(), v1::LayerOrigin::Override);
    assert_eq!(
        (answer.layers[0].note.as_str(), answer.layers[1].note.as_str()),
        ("its node_labels do not admit this node", "")
    );
    assert_eq!(parameter(&answer, "syn_rto_ms").winner.as_ref().expect("one wins").requested, "70");
    assert_eq!(world.status("policies/p").await.assignments[0].revision, 1, "asking changes nothing");
}

fn labels_of(key: &str, value: &str) -> std::collections::HashMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

#[tokio::test]
async fn canaries_and_leases_are_those_of_the_node() {
    let mut world = World::new().await;
    apply(&mut world, policy("p", 1_000), None).await;
    apply(&mut world, policy("p", 50), labels("zone", "a")).await;
    let _node = world.connect(hello("n")).await;
    let answer = ask(&mut world, question("nodes/n")).await.expect("an answer");
    assert_eq!(choices(&answer), ["policies/p@2:all"]);
    assert_eq!((answer.layers[0].origin(), answer.layers[0].lease_ms), (v1::LayerOrigin::Canary, 600_000));
    let silent = v1::ExplainFlowRequest { silence_ms: 600_001, ..question("nodes/n") };
    let answer = ask(&mut world, silent).await.expect("an answer");
    assert_eq!(choices(&answer), ["policies/p@1:all"], "what everyone has, in the place of the canary");
    assert_eq!(answer.layers[1].origin(), v1::LayerOrigin::Standby);
    assert!(answer.layers[0].note.contains("lease") && answer.layers[0].rules.is_empty(), "{answer:?}");
    // In the place of the canary, and of what stands by for its end.
    let back = v1::ExplainFlowRequest { overrides: vec!["policies/p@1".to_owned()], ..question("nodes/n") };
    let answer = ask(&mut world, back).await.expect("an answer");
    assert_eq!((choices(&answer), answer.layers.len()), (vec!["policies/p@1:all".to_owned()], 1));
    assert_eq!(answer.layers[0].origin(), v1::LayerOrigin::Override);
    let nowhere = ask(&mut world, question("")).await.expect("an answer");
    assert_eq!(choices(&nowhere), ["policies/p@1:all"]);
    assert_eq!(parameter(&nowhere, "syn_rto_ms").effective, "", "no kernel is known");
}

#[tokio::test]
async fn what_a_kernel_cannot_do_is_skipped_or_refused() {
    let mut world = World::new().await;
    let control = |name: &str| v1::Parameters { congestion_control: Some(name.to_owned()), ..Default::default() };
    let mut bbr = v1::Policy { priority: 9, ..with_set(policy("bbr", 1), control("bbr")) };
    bbr.rules[0].if_unsupported = v1::IfUnsupported::Skip.into();
    apply(&mut world, bbr.clone(), None).await;
    apply(&mut world, with_set(policy("cubic", 1), control("cubic")), None).await;
    let _node = world.connect(hello("n")).await;
    let answer = ask(&mut world, question("nodes/n")).await.expect("an answer");
    let explained = parameter(&answer, "congestion_control");
    assert_eq!(explained.winner.as_ref().expect("one wins").layer, "policies/cubic");
    assert_eq!(explained.effective, "cubic");
    assert!(explained.losers[0].note.starts_with("skipped: "), "{explained:?}");

    bbr.rules[0].if_unsupported = v1::IfUnsupported::Reject.into();
    apply(&mut world, bbr, None).await;
    let answer = ask(&mut world, question("nodes/n")).await.expect("an answer");
    let [refusal] = answer.refusals.as_slice() else { panic!("one refusal, {answer:?}") };
    assert_eq!((refusal.layer.as_str(), refusal.field.as_str()), ("policies/bbr", "rules[0].set.congestion_control"));
    assert_eq!(parameter(&answer, "congestion_control").effective, "");
    let nowhere = ask(&mut world, question("")).await.expect("an answer");
    assert!(nowhere.refusals.is_empty());
}

#[tokio::test]
async fn the_service_and_the_handshakes_time_count() {
    let mut world = World::new().await;
    let mut far = with_set(policy("p", 1), v1::Parameters { initial_cwnd_packets: Some(40), ..Default::default() });
    far.rules[0].r#match = Some(v1::Match {
        services: vec!["/web".to_owned()],
        min_handshake_rtt_us: Some(1_000),
        ..v1::Match::default()
    });
    far.rules.push(v1::Rule { name: "near".to_owned(), ..v1::Rule::default() });
    apply(&mut world, far, None).await;
    let asked = |service: &str, handshake_rtt_us| v1::ExplainFlowRequest {
        service: service.to_owned(),
        handshake_rtt_us,
        ..question("")
    };
    let answer = ask(&mut world, asked("/web/api", Some(5_000))).await.expect("an answer");
    assert_eq!(choices(&answer), ["policies/p@1:all"]);
    assert_eq!(answer.layers[0].choice_before.as_deref(), Some("near"));
    for (service, rtt, field) in [
        ("/db", Some(5_000), "services"),
        ("", Some(5_000), "services"),
        ("/web", Some(500), "min_handshake_rtt_us"),
        ("/web", None, "min_handshake_rtt_us"),
    ] {
        let answer = ask(&mut world, asked(service, rtt)).await.expect("an answer");
        assert_eq!(choices(&answer), ["policies/p@1:near"], "{service} {rtt:?}");
        assert_eq!(answer.layers[0].rules[0].field, format!("rules[0].match.{field}"));
        assert_eq!(answer.layers[0].choice_before, None);
    }
}

#[tokio::test]
async fn bad_questions_are_refused_with_all_their_faults() {
    let mut world = World::new().await;
    let empty = ask(&mut world, v1::ExplainFlowRequest::default()).await.expect_err("refused");
    let expected = ["direction", "local_address", "local_port", "remote_address", "remote_port"];
    assert_eq!(fields(&empty), expected);
    let bad = v1::ExplainFlowRequest {
        node: "n".to_owned(),
        local_address: "::1".to_owned(),
        local_port: 65_536,
        direction: 7,
        service: "web".to_owned(),
        handshake_rtt_us: Some(0),
        overrides: ["policies/p", "policies/q@1", "policies/q@2", "nodes/n@1"].map(str::to_owned).into(),
        ..question("")
    };
    let expected = [
        "direction",
        "handshake_rtt_us",
        "local_port",
        "node",
        "overrides[0]",
        "overrides[2]",
        "overrides[3]",
        "remote_address",
        "service",
    ];
    assert_eq!(fields(&ask(&mut world, bad).await.expect_err("refused")), expected);
    let many = v1::ExplainFlowRequest { overrides: vec!["policies/p@1".to_owned(); 65], ..question("") };
    assert_eq!(fields(&ask(&mut world, many).await.expect_err("refused")), ["overrides"]);
    world.create("p").await;
    let revision = v1::ExplainFlowRequest { overrides: vec!["policies/p@2".to_owned()], ..question("") };
    for (request, name) in [(question("nodes/gone"), "nodes/gone"), (revision, "policies/p@2")] {
        let missing = ask(&mut world, request).await.expect_err("never was");
        assert_eq!(missing.code(), Code::NotFound);
        let info = missing.get_error_details().resource_info().cloned().expect("which");
        assert_eq!(info.resource_name, name);
    }
}
