//! What nodes say of themselves every few seconds: how far off their clock is, what they could not write. And time as the database
//! has it.

use std::time::Duration;

use prost_types::Timestamp;
use sockpilot_proto::v1::{self, node_event::Event, server_event};

use crate::world::{World, fields, hello, now_s, until};

const HOUR_S: i64 = 3_600;

/// A sign of life of a node whose clock is so far ahead.
fn sign(ahead_s: i64) -> v1::Alive {
    v1::Alive { node_time: Some(Timestamp { seconds: now_s() + ahead_s, nanos: 0 }), ..v1::Alive::default() }
}

async fn listed(world: &World) -> v1::Node {
    let request = v1::ListNodesRequest::default();
    world.fleet.clone().list_nodes(request).await.expect("nodes").into_inner().nodes.swap_remove(0)
}

async fn offset_s(world: &World) -> Option<i64> {
    // The network of a test takes well less than a second, whole seconds were sent, and the database is on this machine.
    listed(world).await.clock_offset_ms.map(|offset_ms| (offset_ms as f64 / 1_000.0).round() as i64)
}

#[tokio::test]
async fn clocks_that_are_off_are_measured_at_hello_and_after() {
    let world = World::new().await;
    let clocks_off = async || world.server.metrics().node_clocks_off.get();
    let about = |expected: i64| move |offset: &Option<i64>| offset.is_some_and(|s| (s - expected).abs() <= 1);
    let silent = world.connect(hello("n")).await;
    assert_eq!(offset_s(&world).await, None, "it does not say");
    drop(silent);
    let mut node = world.connect(v1::Hello { alive: Some(sign(-3 * HOUR_S)), ..hello("n") }).await;
    assert!(about(-3 * HOUR_S)(&offset_s(&world).await), "{:?}", offset_s(&world).await);
    assert_eq!(clocks_off().await, 1);
    // The first event tells the server's time, before anything else.
    let first = node.stream.message().await.expect("open").and_then(|event| event.event);
    let Some(server_event::Event::Heartbeat(v1::Heartbeat { server_time, .. })) = first else { panic!("{first:?}") };
    assert!((server_time.expect("a time").seconds - now_s()).abs() <= 2);
    for ahead_s in [5 * HOUR_S, 0, -HOUR_S] {
        node.say(Event::Alive(sign(ahead_s))).await;
        until("the newest is known", async || offset_s(&world).await, about(ahead_s)).await;
        assert_eq!(clocks_off().await, i64::from(ahead_s != 0));
    }
    drop(node);
    until("a node that is gone is not counted", clocks_off, |off| *off == 0).await;
}

#[tokio::test]
async fn what_a_node_could_not_write_is_shown_until_it_is_written() {
    let world = World::new().await;
    let node = world.connect(hello("n")).await;
    assert_eq!(listed(&world).await.state_not_written, None);
    let not_written = v1::NotWritten {
        what: vec!["snapshot".to_owned(), "choices".to_owned()],
        reason: "No space left on device (os error 28)".to_owned(),
        for_ms: 600_000,
    };
    let full = v1::Alive { not_written: Some(not_written), ..v1::Alive::default() };
    node.say(Event::Alive(full.clone())).await;
    let get = async || listed(&world).await.state_not_written;
    let shown = until("it is shown", get, Option::is_some).await.expect("shown");
    assert_eq!(shown.what, ["snapshot", "choices"]);
    assert_eq!(shown.reason, "No space left on device (os error 28)");
    let since_s = now_s() - shown.since_time.expect("a time").seconds;
    assert!((598..=610).contains(&since_s), "{since_s} s");
    node.say(Event::Alive(v1::Alive::default())).await;
    until("it is no more", get, Option::is_none).await;
    drop(node);
    // A node may begin so.
    let node = world.connect(v1::Hello { alive: Some(full), ..hello("n") }).await;
    assert!(listed(&world).await.state_not_written.is_some());
    let nonsense = v1::NotWritten { what: vec!["a b".to_owned()], reason: "\0".to_owned(), for_ms: u64::MAX };
    node.say(Event::Alive(v1::Alive { not_written: Some(nonsense), ..v1::Alive::default() })).await;
    let mut node = node;
    let status = loop {
        match node.next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(fields(&status), ["alive.not_written.reason", "alive.not_written.what"]);
}

#[tokio::test]
async fn since_counts_back_from_the_databases_now() {
    let mut world = World::new().await;
    world.create("p").await;
    let cell = |ago_s: i64, flows| v1::FlowCell {
        interval_start_s: ((now_s() - ago_s) / 60 * 60).cast_unsigned(),
        interval_length_s: 60,
        layer: "policies/p".to_owned(),
        revision: 1,
        choice: "all".to_owned(),
        direction: v1::Direction::Active.into(),
        size_class: v1::SizeClass::Small.into(),
        counts: Some(v1::FlowCounts { flows, established: flows, ..v1::FlowCounts::default() }),
        ..v1::FlowCell::default()
    };
    let report = v1::FlowReport {
        node_id: "n".to_owned(),
        boot_id: "boot".to_owned(),
        sequence: 1,
        cells: vec![cell(0, 1), cell(1_000, 10), cell(9_000, 100)],
        ..v1::FlowReport::default()
    };
    world.nodes.report_flows(report).await.expect("taken");
    let flows = async |since: Duration| {
        let since = Some(since.try_into().expect("a span"));
        let request = v1::QueryOutcomesRequest { name: "policies/p".to_owned(), since, ..Default::default() };
        let rows = world.fleet.clone().query_outcomes(request).await.expect("outcomes").into_inner().rows;
        rows.iter().filter_map(|row| row.counts).map(|counts| counts.flows).sum::<u64>()
    };
    // A minute that has begun reaches into the last second.
    assert_eq!(flows(Duration::from_secs(1)).await, 1);
    assert_eq!(flows(Duration::from_secs(600)).await, 1);
    assert_eq!(flows(Duration::from_secs(1_100)).await, 11);
    assert_eq!(flows(Duration::from_secs(100_000)).await, 111);
    let both = v1::QueryOutcomesRequest {
        name: "policies/p".to_owned(),
        since: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        start_time: Some(Timestamp { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    assert_eq!(fields(&world.fleet.query_outcomes(both).await.expect_err("refused")), ["since"]);
}

#[tokio::test]
async fn calls_are_counted_by_method_and_result() {
    let world = World::new().await;
    let node = world.connect(hello("n")).await;
    listed(&world).await;
    let missing = v1::GetPolicyRequest { name: "policies/none".to_owned() };
    world.policies.clone().get_policy(missing).await.expect_err("there is none");
    let text = async || world.server.metrics().text();
    let has = |lines: &'static [&'static str]| move |text: &String| lines.iter().all(|line| text.contains(line));
    let ended = has(&[
        "calls_total{method=\"sockpilot.v1.FleetService/ListNodes\",code=\"OK\"} 1",
        "calls_total{method=\"sockpilot.v1.PolicyService/GetPolicy\",code=\"NOT_FOUND\"} 1",
        "call_seconds_count{method=\"sockpilot.v1.FleetService/ListNodes\"} 1",
    ]);
    until("both are counted", text, ended).await;
    assert!(!text().await.contains("NodeService/Connect"), "it has not ended");
    drop(node);
    until("its end is counted", text, has(&["calls_total{method=\"sockpilot.v1.NodeService/Connect\",code="])).await;
    assert!(!text().await.contains("call_seconds_count{method=\"sockpilot.v1.NodeService/Connect\""));
}
