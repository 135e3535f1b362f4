//! What a change would do to recorded flows: of the right nodes, against what they have, and the same as without a server.

use prost::Message;
use prost_types::{Duration, Timestamp};
use sockpilot_proto::{
    convert::layer_of_policy,
    v1::{self, simulate_change_request::Change},
};
use sockpilot_server::fleet::preview;
use sockpilot_simulate::simulate_alone;
use tonic::{Code, Status};

use crate::world::{World, everyone, experiment, fields, hello, labels, nobody, now_s, policy, share, zone_map};

/// A flow that ended just now; what no layer matched stands for a hundred.
pub fn flow(local_port: u32, remote_port: u32, weight: f64) -> v1::FlowSample {
    let attribution = v1::Attribution { layer: "policies/p".to_owned(), revision: 1, choice: "all".to_owned() };
    v1::FlowSample {
        close_time: Some(Timestamp { seconds: now_s() - 10, nanos: 5 }),
        local_address: "10.1.0.1".to_owned(),
        local_port,
        remote_address: "10.2.0.1".to_owned(),
        remote_port,
        direction: v1::Direction::Active.into(),
        outcome: v1::Outcome::Established.into(),
        duration_us: 1_000_000,
        service: "/".to_owned(),
        handshake_rtt_us: 900,
        weight,
        attributions: if weight < 100.0 { vec![attribution] } else { vec![] },
        ..v1::FlowSample::default()
    }
}

pub async fn report(world: &World, node_id: &str, sequence: u64, samples: Vec<v1::FlowSample>) {
    let (node_id, boot_id) = (node_id.to_owned(), format!("boot-{node_id}"));
    let report = v1::FlowReport { node_id, boot_id, sequence, samples, ..v1::FlowReport::default() };
    world.nodes.clone().report_flows(report).await.expect("committed");
}

/// A node that was there, with 8 flows to port 443, and 2 to port 80 of which one stands for ten.
async fn node(world: &World, id: &str, zone: &str) {
    let labels = [("zone".to_owned(), zone.to_owned())].into();
    drop(world.connect(v1::Hello { labels, ..hello(id) }).await.take().await);
    let mut flows: Vec<_> = (0..8).map(|n| flow(40_000 + n, 443, 1.0)).collect();
    flows.extend([flow(50_000, 80, 1.0), flow(50_001, 80, 10.0)]);
    report(world, id, 1, flows).await;
}

fn to_port(id: &str, port: &str, syn_rto_ms: u32) -> v1::Policy {
    let mut policy = v1::Policy { priority: 9, ..policy(id, syn_rto_ms) };
    policy.rules[0].r#match = Some(v1::Match { remote_ports: vec![port.to_owned()], ..v1::Match::default() });
    policy
}

fn asked(policy: v1::Policy) -> v1::SimulateChangeRequest {
    v1::SimulateChangeRequest { change: Some(Change::Policy(policy)), ..v1::SimulateChangeRequest::default() }
}

async fn ask(world: &World, request: v1::SimulateChangeRequest) -> Result<v1::SimulateChangeResponse, Status> {
    world.fleet.clone().simulate_change(request).await.map(tonic::Response::into_inner)
}

fn total(answer: &v1::SimulateChangeResponse) -> v1::TouchedShare {
    answer.simulation.as_ref().and_then(|simulation| simulation.total).expect("a total")
}

/// Recorded flows, connections, and how many of them are touched.
fn counts(answer: &v1::SimulateChangeResponse) -> (u64, f64, f64) {
    let v1::TouchedShare { recorded, connections, touched, .. } = total(answer);
    (recorded, connections, touched)
}

/// `syn_rto_ms: 1000 -> 50: 8`
fn changes(answer: &v1::SimulateChangeResponse) -> Vec<String> {
    let line = |change: &v1::ParameterChange| {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let touched = change.share.expect("a share").touched;
        format!("{}: {} -> {}: {touched}", change.parameter, value(&change.before), value(&change.after))
    };
    answer.simulation.iter().flat_map(|simulation| &simulation.changes).map(line).collect()
}

#[tokio::test]
async fn a_policy_is_compared_with_what_nodes_have() {
    let mut world = World::new().await;
    world.create("p").await;
    node(&world, "a", "x").await;
    node(&world, "b", "y").await;
    let answer = ask(&world, asked(to_port("new", "443", 50))).await.expect("an answer");
    assert_eq!(counts(&answer), (20, 38.0, 16.0));
    assert_eq!(changes(&answer), ["syn_rto_ms: 1000 -> 50: 16"]);
    assert!(!answer.cut && answer.warnings.is_empty() && answer.generation > 0, "{answer:?}");
    let v1::TouchedShare { share, standard_error, lower, upper, .. } = total(&answer);
    assert!(lower < share && share < upper && standard_error > 0.0 && upper < 0.8, "one flow stands for ten");

    // A new revision of what there is; nothing is stored by asking.
    let answer = ask(&world, asked(policy("p", 700))).await.expect("an answer");
    assert_eq!(changes(&answer), ["syn_rto_ms: 1000 -> 700: 38"]);
    let answer = ask(&world, asked(policy("p", 1_000))).await.expect("an answer");
    assert_eq!((counts(&answer), changes(&answer)), ((20, 38.0, 0.0), vec![]), "the same document");
    assert_eq!(world.status("policies/p").await.latest_revision, 1);

    let only = |label: &str| [("zone".to_owned(), label.to_owned())].into();
    let of_x = v1::SimulateChangeRequest { node_labels: only("x"), ..asked(to_port("new", "80", 50)) };
    assert_eq!(counts(&ask(&world, of_x).await.expect("an answer")), (10, 19.0, 11.0));
    let of_none = v1::SimulateChangeRequest { node_labels: only("z"), ..asked(to_port("new", "80", 50)) };
    let answer = ask(&world, of_none).await.expect("an answer");
    assert_eq!(counts(&answer).0, 0);
    assert_eq!(answer.warnings[0].description, "no node has zone=z; zone is x, y");
}

#[tokio::test]
async fn only_the_nodes_that_it_would_be_for_are_touched() {
    let mut world = World::new().await;
    world.create("p").await;
    node(&world, "a", "x").await;
    node(&world, "b", "y").await;
    let with = |target, policy| v1::SimulateChangeRequest { target, ..asked(policy) };
    let answer = ask(&world, with(labels("zone", "x"), policy("p", 700))).await.expect("an answer");
    assert_eq!(counts(&answer), (20, 38.0, 19.0), "a canary beside what everyone has");
    let (a, b) = (world.node("a").await.share_position, world.node("b").await.share_position);
    let answer = ask(&world, with(share(a.max(b)), policy("p", 700))).await.expect("an answer");
    assert_eq!(counts(&answer).2, if a == b { 0.0 } else { 19.0 });
    let labelled = v1::Policy { node_labels: [("zone".to_owned(), "y".to_owned())].into(), ..policy("p", 700) };
    let answer = ask(&world, with(None, labelled.clone())).await.expect("an answer");
    // Of the nodes that it is not for, it takes what they have.
    assert_eq!(changes(&answer), ["syn_rto_ms: 1000 -> -: 19", "syn_rto_ms: 1000 -> 700: 19"]);
    let answer = ask(&world, with(labels("zone", "x"), labelled)).await.expect("an answer");
    assert_eq!(counts(&answer).2, 0.0);
    assert_eq!(answer.warnings[0].field, "policy.node_labels", "{answer:?}");

    // A canary ends where everyone gets it.
    world.update("p", 700, labels("zone", "x")).await;
    let stored = v1::SimulateChangeRequest {
        change: Some(Change::Revision("policies/p@2".to_owned())),
        ..v1::SimulateChangeRequest::default()
    };
    let answer = ask(&world, stored).await.expect("an answer");
    assert_eq!(changes(&answer), ["syn_rto_ms: 1000 -> 700: 19"]);
    let missing = v1::SimulateChangeRequest {
        change: Some(Change::Revision("policies/p@9".to_owned())),
        ..v1::SimulateChangeRequest::default()
    };
    assert_eq!(ask(&world, missing).await.expect_err("none").code(), Code::NotFound);
}

#[tokio::test]
async fn an_experiment_touches_the_share_of_its_arms() {
    let mut world = World::new().await;
    world.create("p").await;
    drop(world.connect(hello("n")).await.take().await);
    let flows = (0..90).map(|n| flow(40_000 + n, 443, 1.0)).collect();
    report(&world, "n", 1, flows).await;
    let mut halves = v1::Experiment { priority: 8, ..experiment("e") };
    (halves.arms[0].weight_bp, halves.arms[1].weight_bp) = (5_000, 5_000);
    let change = Some(Change::Experiment(halves));
    let answer = ask(&world, v1::SimulateChangeRequest { change, ..Default::default() }).await.expect("an answer");
    let (recorded, _, touched) = counts(&answer);
    // 45 expected, of a standard deviation of 5.
    assert!(recorded == 90 && (20.0..70.0).contains(&touched), "{touched}");
    assert_eq!(changes(&answer), [format!("syn_rto_ms: 1000 -> 200: {touched}")]);
}

#[tokio::test]
async fn flows_are_those_of_the_time_and_no_more_than_wanted() {
    let mut world = World::new().await;
    world.create("p").await;
    drop(world.connect(hello("n")).await.take().await);
    let ended = |ago_s: i64, port| {
        let close_time = Some(Timestamp { seconds: now_s() - ago_s, nanos: 0 });
        v1::FlowSample { close_time, ..flow(port, 443, 1.0) }
    };
    report(&world, "n", 1, vec![ended(7_200, 1), ended(5_400, 2), ended(600, 3), ended(60, 4)]).await;
    let count = async |request: v1::SimulateChangeRequest| {
        let answer = ask(&world, request).await.expect("an answer");
        (counts(&answer).0, answer.cut)
    };
    let plain = || asked(policy("p", 700));
    assert_eq!(count(plain()).await, (2, false), "of the last hour");
    let since = Some(Duration { seconds: 6_000, nanos: 0 });
    assert_eq!(count(v1::SimulateChangeRequest { since, ..plain() }).await, (3, false));
    let ago = |ago_s: i64| Some(Timestamp { seconds: now_s() - ago_s, nanos: 0 });
    let between = v1::SimulateChangeRequest { start_time: ago(8_000), end_time: ago(1_000), ..plain() };
    assert_eq!(count(between.clone()).await, (2, false));
    let answer = ask(&world, v1::SimulateChangeRequest { max_flows: 1, ..between.clone() }).await.expect("an answer");
    assert_eq!((counts(&answer).0, answer.cut, answer.start_time), (1, true, between.start_time));
    let answer = ask(&world, v1::SimulateChangeRequest { start_time: ago(9), ..plain() }).await.expect("an answer");
    assert_eq!((counts(&answer).0, total(&answer).upper), (0, 1.0));
    assert!(answer.warnings[0].description.contains("no recorded flow"), "{answer:?}");
}

#[tokio::test]
async fn nodes_that_are_gone_and_what_is_not_recorded_are_said() {
    let mut world = World::new().await;
    world.create("p").await;
    report(&world, "gone", 1, vec![flow(1, 443, 3.0)]).await;
    node(&world, "a", "x").await;
    let mut new = to_port("new", "443", 50);
    new.rules[0].r#match.as_mut().expect("a match").services = vec!["/web".to_owned()];
    let answer = ask(&world, asked(new)).await.expect("an answer");
    assert_eq!(counts(&answer), (10, 19.0, 0.0));
    let notes = &answer.simulation.as_ref().expect("one").notes;
    let said: Vec<_> = notes.iter().map(|note| (note.recorded, note.connections)).collect();
    assert_eq!(said, [(1, 3.0), (10, 19.0)], "{notes:?}");
    assert!(notes[0].description.contains("not known any more") && notes[1].description.contains("only the change"));
    let mut far = to_port("new", "443", 50);
    far.rules[0].r#match.as_mut().expect("a match").remote_zones = vec!["mars".to_owned()];
    let answer = ask(&world, asked(far)).await.expect("an answer");
    assert!(answer.warnings[0].description.contains("there is no zone mars"), "{answer:?}");
}

/// What `sockpilot simulate --flows` does: layers from documents, flows from a list.
#[tokio::test]
async fn without_a_server_the_answer_is_the_same_to_the_byte() {
    let mut world = World::new().await;
    let map = zone_map(&[("fra-1", "10.1.0.0/16"), ("sin-1", "10.2.0.0/16")]);
    let request = v1::UpdateZoneMapRequest { zone_map: Some(map.clone()), ..v1::UpdateZoneMapRequest::default() };
    world.zones.update_zone_map(request).await.expect("updated");
    let old = world.create("p").await;
    node(&world, "a", "x").await;
    node(&world, "b", "y").await;
    report(&world, "a", 2, vec![flow(7, 9, 100.0), flow(8, 443, 100.0), flow(9, 8_443, 33.3)]).await;
    let mut new = to_port("new", "443", 50);
    new.rules[0].r#match.as_mut().expect("a match").zone_relation = v1::ZoneRelation::OtherRegion.into();
    let answer = ask(&world, asked(new.clone())).await.expect("an answer");
    assert!(counts(&answer).2 > 0.0);

    let request = v1::ListFlowSamplesRequest { page_size: 200, ..v1::ListFlowSamplesRequest::default() };
    let flows = world.fleet.list_flow_samples(request).await.expect("samples").into_inner().samples;
    let layer = |policy: &v1::Policy| layer_of_policy(policy.clone(), &policy.name.parse().expect("a name"), 0);
    let alone = simulate_alone(&flows, vec![layer(&old)], vec![layer(&old), layer(&new)], &map).expect("sound");
    assert_eq!(alone.encode_to_vec(), answer.simulation.expect("one").encode_to_vec());
}

/// What a rollout asks before it begins.
#[tokio::test]
async fn whoever_makes_changes_can_ask_in_its_transaction() {
    let mut world = World::new().await;
    world.create("p").await;
    node(&world, "a", "x").await;
    node(&world, "b", "y").await;
    world.update("p", 700, nobody()).await;
    let ask = async |revision, good| {
        let read = world.server.store().read("preview", move |conn| {
            let name = "policies/p".parse().expect("a name");
            Box::pin(async move { preview::recent(conn, &name, revision, good).await })
        });
        let found = read.await.expect("an answer");
        found.into_iter().map(|(node, tally)| (node, tally.touched(), tally.connections())).collect::<Vec<_>>()
    };
    let of = |touched| [("a".to_owned(), touched, 19.0), ("b".to_owned(), touched, 19.0)];
    assert_eq!(ask(2, Some(1)).await, of(19.0), "by node");
    assert_eq!(ask(1, Some(1)).await, of(0.0), "what everyone has");
    assert_eq!(ask(1, None).await, of(19.0), "what would come where nothing was");
}

#[tokio::test]
async fn bad_questions_are_refused_with_every_fault() {
    let world = World::new().await;
    let refused = async |request| fields(&ask(&world, request).await.expect_err("refused"));
    assert_eq!(refused(v1::SimulateChangeRequest::default()).await, ["policy"]);
    let mut bad = to_port("Bad", "x", 50);
    bad.priority = 2_000_000;
    let request = v1::SimulateChangeRequest {
        target: nobody(),
        start_time: Some(Timestamp { seconds: 9, nanos: 0 }),
        end_time: Some(Timestamp { seconds: 8, nanos: 0 }),
        since: Some(Duration { seconds: -1, nanos: 0 }),
        node_labels: [("zone".to_owned(), "x".repeat(64))].into(),
        max_flows: 100_001,
        ..asked(bad)
    };
    let expected = [
        "end_time",
        "max_flows",
        "node_labels",
        "policy.name",
        "policy.priority",
        "policy.rules[0].match.remote_ports[0]",
        "since",
        "since",
        "target",
    ];
    assert_eq!(refused(request).await, expected);
    let part = v1::SimulateChangeRequest {
        change: Some(Change::Experiment(experiment("e"))),
        target: share(100),
        ..v1::SimulateChangeRequest::default()
    };
    assert_eq!(refused(part).await, ["target"]);
    for revision in ["policies/p", "p@1", "policies/p@0"] {
        let change = Some(Change::Revision(revision.to_owned()));
        let request = v1::SimulateChangeRequest { change, target: everyone(), ..Default::default() };
        assert_eq!(refused(request).await, ["revision"]);
    }
}
