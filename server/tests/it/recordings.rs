//! Nodes that record their flows one by one, because somebody asked for it.

use sockpilot_proto::v1::{self, server_event};
use sockpilot_server::{Config, test_support};
use tokio::time::timeout;
use tonic::Code;

use crate::{
    reports::{report, sample},
    world::{DEADLINE, TestNode, World, fields, hello, until},
};

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn request(node: &str, duration_s: i64) -> v1::RecordFlowsRequest {
    v1::RecordFlowsRequest {
        node: format!("nodes/{node}"),
        duration: seconds(duration_s),
        flows_per_s: 50,
        reason: "resets".to_owned(),
        ..v1::RecordFlowsRequest::default()
    }
}

async fn ask(world: &World, request: v1::RecordFlowsRequest) -> v1::Recording {
    world.fleet.clone().record_flows(request).await.expect("asked").into_inner()
}

/// Waits until a node's heartbeats say what it is to record, or that it is nothing.
async fn told(node: &mut TestNode, something: bool) -> Option<v1::RecordingWanted> {
    let next = async {
        loop {
            let event = node.stream.message().await.expect("the stream is open").expect("the stream is open").event;
            if let Some(server_event::Event::Heartbeat(heartbeat)) = event
                && heartbeat.recording.is_some() == something
            {
                return heartbeat.recording;
            }
        }
    };
    timeout(DEADLINE, next).await.expect("it is told in time")
}

async fn recorded(world: &World, recorded: bool) -> usize {
    let request = v1::ListFlowSamplesRequest { recorded, ..v1::ListFlowSamplesRequest::default() };
    world.fleet.clone().list_flow_samples(request).await.expect("flows").into_inner().samples.len()
}

fn with_recorded(sequence: u64, flows: std::ops::Range<u32>) -> v1::FlowReport {
    v1::FlowReport { recorded: flows.map(sample).collect(), recorded_left_out: 7, ..report(sequence, vec![]) }
}

#[tokio::test]
async fn a_node_is_told_until_it_ends() {
    let config = test_support::config().await;
    let mut world = World::of(config.clone()).await;
    let mut node = world.connect(hello("n")).await;
    assert_eq!(told(&mut node, false).await, None);
    let asked = ask(&world, request("n", 3_600)).await;
    let end_s = asked.end_time.expect("it ends").seconds;
    assert_eq!((asked.flows_per_s, end_s - asked.start_time.expect("it begins").seconds), (50, 3_600));
    let wanted = told(&mut node, true).await.expect("something");
    assert_eq!(wanted.flows_per_s, 50);
    assert!((3_500_000..=3_600_000).contains(&wanted.left_ms), "{wanted:?}");
    assert_eq!(world.node("n").await.recording, Some(asked.clone()));

    // A node that was away is told at once, by a server that was, too.
    drop(node);
    world.server.stop().await;
    let mut world = World::of(config).await;
    let mut node = world.connect(hello("n")).await;
    assert!(told(&mut node, true).await.is_some());
    assert_eq!(world.node("n").await.recording, Some(asked));

    let ended = ask(&world, v1::RecordFlowsRequest { reason: String::new(), ..request("n", 0) }).await;
    assert_eq!(ended, v1::Recording { node: "nodes/n".to_owned(), ..v1::Recording::default() });
    assert_eq!(told(&mut node, false).await, None);
    assert_eq!(world.node("n").await.recording, None);
    let said: Vec<_> = world.audit().await.into_iter().map(|entry| (entry.method, entry.name, entry.reason)).collect();
    let entry = |reason: &str| ("RecordFlows".to_owned(), "nodes/n".to_owned(), reason.to_owned());
    assert_eq!(said, [entry(""), entry("resets")]);
}

#[tokio::test]
async fn it_ends_by_itself() {
    let mut world = World::new().await;
    let mut node = world.connect(hello("n")).await;
    ask(&world, request("n", 3)).await;
    assert!(told(&mut node, true).await.is_some());
    assert_eq!(told(&mut node, false).await, None);
    assert_eq!(world.node("n").await.recording, None);
    assert_eq!(world.audit().await.len(), 1);
}

#[tokio::test]
async fn requests_are_checked_tried_and_repeated() {
    let mut world = World::new().await;
    let _node = world.connect(hello("n")).await;
    let refused = async |request| world.fleet.clone().record_flows(request).await.expect_err("refused");
    let wrong = v1::RecordFlowsRequest { flows_per_s: 1_001, reason: String::new(), ..request("N!", 24 * 3_600 + 1) };
    assert_eq!(fields(&refused(wrong).await), ["duration", "flows_per_s", "node"]);
    assert_eq!(fields(&refused(request("n", -1)).await), ["duration"]);
    assert_eq!(
        fields(&refused(v1::RecordFlowsRequest { reason: String::new(), ..request("n", 60) }).await),
        ["reason"]
    );
    assert_eq!(refused(request("m", 60)).await.code(), Code::NotFound);

    let tried = ask(&world, v1::RecordFlowsRequest { validate_only: true, ..request("n", 60) }).await;
    assert!(tried.end_time.is_some());
    assert_eq!((world.node("n").await.recording, world.audit().await), (None, vec![]));
    let request_id = uuid::Uuid::new_v4().to_string();
    let once = v1::RecordFlowsRequest { request_id, ..request("n", 60) };
    let answers = [ask(&world, once.clone()).await, ask(&world, once).await];
    assert_eq!((&answers[0], world.audit().await.len()), (&answers[1], 1));
}

#[tokio::test]
async fn what_is_recorded_is_kept_apart_and_bounded() {
    let world = World::of(Config { recorded_max: 3, ..test_support::config().await }).await;
    let _node = world.connect(hello("n")).await;
    let send = async |report| world.nodes.clone().report_flows(report).await.expect("committed").into_inner();
    send(with_recorded(1, 0..2)).await;
    assert_eq!(recorded(&world, true).await, 0, "nobody has asked");
    assert_eq!(world.server.metrics().recorded_left_out.get(), 9, "of the node, and these");

    ask(&world, request("n", 60)).await;
    for _ in 0..2 {
        assert_eq!(send(with_recorded(2, 0..2)).await.next_report_after_ms, 0);
    }
    assert_eq!((recorded(&world, true).await, recorded(&world, false).await), (2, 0), "once, and apart");
    assert_eq!(world.server.metrics().recorded.get(), 2);
    // What a node could not report before the end is taken afterwards.
    ask(&world, request("n", 0)).await;
    send(with_recorded(3, 2..9)).await;
    until("the newest are left", async || recorded(&world, true).await, |left| *left == 3).await;
    let metrics = world.server.metrics();
    until("what was deleted is counted", async || metrics.recorded_pruned.get(), |pruned| *pruned > 0).await;
}
