//! The rules of the stream between server and nodes.

use sockpilot_proto::v1::{self, node_event::Event, node_service_client::NodeServiceClient};
use sockpilot_server::test_support;
use tonic::{Code, transport::Channel};

use crate::world::{TestNode, World, eventually, fields, generation, hello, layers, policy, share, until};

/// A policy whose document is a few hundred kilobytes.
pub fn large(id: &str, syn_rto_ms: u32) -> v1::Policy {
    let rule = |number: u32| v1::Rule {
        name: format!("rule-{number}"),
        r#match: Some(v1::Match {
            remote_prefixes: (0..16).map(|octet| format!("10.{}.{}.{octet}", number / 256, number % 256)).collect(),
            ..v1::Match::default()
        }),
        set: Some(v1::Parameters { syn_rto_ms: Some(syn_rto_ms), ..v1::Parameters::default() }),
        ..v1::Rule::default()
    };
    v1::Policy { rules: (0..1_000).map(rule).collect(), ..policy(id, syn_rto_ms) }
}

#[tokio::test]
async fn a_slow_node_gets_the_newest_only() {
    let mut world = World::new().await;
    let create = v1::CreatePolicyRequest { policy: Some(large("p", 1_000)), ..v1::CreatePolicyRequest::default() };
    world.policies.create_policy(create).await.expect("created");
    // A small window, so that the connection itself holds little.
    let endpoint = Channel::from_shared(format!("http://{}", world.server.address())).expect("a URL");
    let channel = endpoint.initial_stream_window_size(64 << 10).connect().await.expect("connected");
    let mut node = TestNode::open(NodeServiceClient::new(channel), hello("slow")).await.expect("open");
    node.take().await;
    let mut newest = 0;
    for step in 1..=20 {
        let policy = Some(large("p", 1_000 + step));
        let update = v1::UpdatePolicyRequest { policy, ..v1::UpdatePolicyRequest::default() };
        newest = world.policies.update_policy(update).await.expect("updated").into_inner().revision;
        // It is slow, not gone.
        node.say(Event::Alive(v1::Alive::default())).await;
    }
    let mut received = vec![];
    loop {
        let snapshot = node.take().await;
        received.push(generation(&snapshot));
        if layers(&snapshot) == [format!("policies/p@{newest}")] {
            break;
        }
    }
    assert!(received.len() <= 5, "{received:?}: what the connection held, then the newest");
    assert!(received.windows(2).all(|pair| pair[0] < pair[1]), "{received:?}");
}

#[tokio::test]
async fn generations_never_go_back() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    let mut last = generation(&node.take().await);
    let mut writers = vec![];
    for writer in 0..4_u32 {
        let mut client = world.policies.clone();
        writers.push(tokio::spawn(async move {
            for step in 0..10 {
                let policy = Some(policy("p", 2_000 + writer * 100 + step));
                let update = v1::UpdatePolicyRequest { policy, ..v1::UpdatePolicyRequest::default() };
                client.update_policy(update).await.expect("updated");
            }
        }));
    }
    loop {
        let snapshot = node.take().await;
        assert!(generation(&snapshot) > last);
        last = generation(&snapshot);
        if layers(&snapshot) == ["policies/p@41"] {
            break;
        }
    }
    for writer in writers {
        writer.await.expect("wrote");
    }
}

#[tokio::test]
async fn equal_content_is_not_sent_again() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    let snapshot = node.take().await;
    world.update("p", 2_000, crate::world::nobody()).await;
    node.quiet().await;
    drop(node);
    let mut back = world.connect(v1::Hello { in_force: snapshot.version.clone(), ..hello("n") }).await;
    back.quiet().await;
    let in_force = world.node("n").await.in_force.expect("known");
    assert_eq!(Some(in_force), snapshot.version, "what the node said, though the generation is newer now");
}

#[tokio::test]
async fn what_is_in_force_at_hello_is_confirmed() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut first = world.connect(hello("a")).await;
    let version = first.take().await.version;
    let other = world.connect(v1::Hello { in_force: version, ..hello("b") }).await;
    let fleet = world.fleet.clone();
    let name = "policies/p".to_owned();
    eventually("both nodes have it in force", || {
        let (mut fleet, name) = (fleet.clone(), name.clone());
        async move {
            let status =
                fleet.get_layer_status(v1::GetLayerStatusRequest { name }).await.expect("a status").into_inner();
            let in_force = v1::RevisionCount { revision: 1, state: v1::LayerState::InForce.into(), nodes: 2 };
            status.counts == [in_force]
        }
    })
    .await;
    drop(other);
}

#[tokio::test]
async fn a_refused_content_is_not_sent_again_even_by_another_server() {
    let config = test_support::config().await;
    let mut world = World::of(config.clone()).await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    let good = node.take().await;
    world.update("p", 2_000, None).await;
    let bad = node.snapshot().await;
    node.nack(&bad, "policies/p").await;
    let rejected = until("the rejection", || rejections(&world), |rejections| rejections.len() == 1).await;
    assert_eq!((rejected[0].node.as_str(), rejected[0].revision), ("nodes/n", 2));
    assert_eq!(rejected[0].violations[0].field, "rules[0].set.congestion_control");
    let state = world.node("n").await;
    assert_eq!((state.layers[0].confirmed_revision, state.layers[0].state()), (1, v1::LayerState::Rejected));
    assert_eq!(state.in_force, good.version);

    // Back to the last good, then the refused content again under a newer generation.
    let rollback = v1::RollbackRevisionRequest { name: "policies/p".to_owned(), ..Default::default() };
    world.assignments.rollback_revision(rollback).await.expect("back");
    node.quiet().await;
    world.update("p", 2_000, None).await;
    node.quiet().await;
    drop(node);

    world.server.stop().await;
    let mut world = World::of(config).await;
    let again = v1::Hello { in_force: good.version.clone(), ..hello("n") };
    let mut node = world.connect(again.clone()).await;
    node.quiet().await;
    assert_eq!(world.status("policies/p").await.rejections.len(), 1, "still known");
    world.update("p", 3_000, None).await;
    assert_eq!(layers(&node.take().await), ["policies/p@3"], "other content is sent");
    world
        .assignments
        .assign_revision(v1::AssignRevisionRequest {
            reason: "by a test".to_owned(),
            name: "policies/p".to_owned(),
            revision: 2,
            target: crate::world::everyone(),
            ..Default::default()
        })
        .await
        .expect("assigned");
    node.quiet().await;
    until("it is rejected again, unsent", || rejections(&world), |rejections| rejections.len() == 1).await;
    drop(node);

    let mut newer = again;
    newer.kernel.as_mut().expect("facts").release = "6.19.0".to_owned();
    let mut node = world.connect(newer).await;
    assert_eq!(layers(&node.take().await), ["policies/p@2"], "another kernel gets another chance");
}

#[tokio::test]
async fn what_a_node_tried_again_by_itself_is_in_force() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    let snapshot = node.snapshot().await;
    let violation = v1::RuleViolation { description: "the kernel is out of memory".to_owned(), ..Default::default() };
    let nack = v1::Nack { version: snapshot.version.clone(), violations: vec![violation] };
    node.say(Event::Nack(nack)).await;
    let rejected = until("the rejection", || rejections(&world), |rejections| rejections.len() == 1).await;
    assert_eq!(rejected[0].violations[0].description, "the kernel is out of memory");
    node.ack(&snapshot).await;
    until("it is no rejection any more", || rejections(&world), |rejections| rejections.is_empty()).await;
    let state = world.node("n").await;
    assert_eq!((state.layers[0].state(), state.in_force), (v1::LayerState::InForce, snapshot.version));
    node.quiet().await;
}

async fn rejections(world: &World) -> Vec<v1::Rejection> {
    let request = v1::GetLayerStatusRequest { name: "policies/p".to_owned() };
    world.fleet.clone().get_layer_status(request).await.expect("a status").into_inner().rejections
}

#[tokio::test]
async fn a_second_stream_ends_the_first() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut first = world.connect(hello("n")).await;
    first.take().await;
    let mut second = world.connect(hello("n")).await;
    assert_eq!(first.next().await.expect_err("ended").code(), Code::Aborted);
    assert_eq!(layers(&second.take().await), ["policies/p@1"]);
    drop(first);
    second.quiet().await;
    assert!(world.node("n").await.connected, "the end of the first does not disconnect the node");
}

#[tokio::test]
async fn a_stream_to_another_server_ends_the_first_too() {
    let config = test_support::config().await;
    let world = World::of(config.clone()).await;
    let mut other = World::of(config).await;
    let mut first = world.connect(hello("n")).await;
    first.take().await;
    let _second = other.connect(hello("n")).await;
    first.say(Event::Alive(v1::Alive::default())).await;
    assert_eq!(first.next().await.expect_err("ended").code(), Code::Aborted);
    assert!(other.node("n").await.connected);
}

#[tokio::test]
async fn a_change_through_one_server_reaches_the_nodes_of_another() {
    let config = test_support::config().await;
    let world = World::of(config.clone()).await;
    let mut other = World::of(config).await;
    other.create("p").await;
    let mut node = world.connect(hello("n")).await;
    assert_eq!(layers(&node.take().await), ["policies/p@1"]);
    other.update("p", 2_000, None).await;
    assert_eq!(layers(&node.take().await), ["policies/p@2"]);
}

#[tokio::test]
async fn disconnected_nodes_are_unavailable() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    node.take().await;
    assert!(world.node("n").await.connected);
    drop(node);
    let state = async || {
        let request = v1::ListNodesRequest::default();
        let nodes = world.fleet.clone().list_nodes(request).await.expect("nodes").into_inner().nodes;
        (nodes[0].connected, nodes[0].layers[0].state())
    };
    until("it is noticed", state, |state| *state == (false, v1::LayerState::Unavailable)).await;
}

#[tokio::test]
async fn a_drained_server_ends_streams_with_unavailable() {
    let config = test_support::config().await;
    let mut world = World::of(config.clone()).await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    let snapshot = node.take().await;
    until("it is acknowledged", async || world.server.metrics().acks.get(), |acks| *acks == 1).await;
    world.server.stop().await;
    assert_eq!(node.next().await.expect_err("ended").code(), Code::Unavailable);
    let mut later = World::of(config).await;
    let state = later.node("n").await;
    assert!(!state.connected, "written before the end");
    assert_eq!(state.in_force, snapshot.version, "the last acknowledgement too");
}

#[tokio::test]
async fn effective_values_are_kept() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    let snapshot = node.snapshot().await;
    let value = v1::EffectiveValue {
        layer: "policies/p".to_owned(),
        field: "rules[0].set.syn_rto_ms".to_owned(),
        requested: "1000".to_owned(),
        effective: "1004".to_owned(),
        note: "rounded up to ticks".to_owned(),
        caveats: vec!["an unanswered SYN is sent again 10 times".to_owned()],
    };
    let ack = v1::Ack {
        version: snapshot.version.clone(),
        effective: vec![value.clone()],
        apply_us: 9,
        held_back: vec![],
        stages: None,
        put_off_us: 0,
    };
    node.say(Event::Ack(ack)).await;
    let get = async || {
        let nodes = world.fleet.clone().list_nodes(v1::ListNodesRequest::default()).await.expect("nodes").into_inner();
        nodes.nodes[0].layers.first().cloned().unwrap_or_default()
    };
    let layer = until("it is in force", get, |layer| layer.state() == v1::LayerState::InForce).await;
    assert_eq!(layer.effective, std::slice::from_ref(&value));
    assert!(layer.confirm_time.is_some());
    drop(node);
    let _again = world.connect(v1::Hello { in_force: snapshot.version, ..hello("n") }).await;
    let layer = until("it is in force again", get, |layer| layer.state() == v1::LayerState::InForce).await;
    assert_eq!(layer.effective, std::slice::from_ref(&value), "not forgotten by a reconnection");
    let request = v1::GetLayerStatusRequest { name: "policies/p".to_owned() };
    let status = world.fleet.clone().get_layer_status(request).await.expect("status").into_inner();
    let on_nodes = |value, nodes| v1::EffectiveOnNodes { revision: 1, value: Some(value), nodes };
    assert_eq!(status.effective, [on_nodes(value, 1)], "in the policy's status too");
}

#[tokio::test]
async fn unsound_events_end_the_stream_with_all_faults() {
    let world = World::new().await;
    let open = async |hello: v1::Hello| match TestNode::open(world.nodes.clone(), hello).await {
        Ok(mut node) => node.next().await.expect_err("refused"),
        Err(status) => status,
    };
    let empty = v1::Hello::default();
    assert_eq!(fields(&open(empty).await), ["hello.kernel", "hello.node_id"]);
    let mut bad = hello("Bad Name");
    bad.labels = [("k".repeat(64), "v".to_owned())].into();
    bad.daemon_version = "v".repeat(65);
    bad.kernel.as_mut().expect("facts").hz = 0;
    bad.in_force = Some(v1::SnapshotVersion {
        database_epoch: "x".to_owned(),
        generation: u64::MAX,
        content_hash: vec![1].into(),
    });
    let expected = [
        "hello.daemon_version",
        "hello.in_force.content_hash",
        "hello.in_force.database_epoch",
        "hello.in_force.generation",
        "hello.kernel.hz",
        "hello.labels",
        "hello.node_id",
    ];
    assert_eq!(fields(&open(bad).await), expected);
    let nodes =
        world.fleet.clone().list_nodes(v1::ListNodesRequest::default()).await.expect("nodes").into_inner().nodes;
    assert!(nodes.is_empty(), "nothing is stored");

    let answer = async |event: Option<Event>| {
        let mut node = world.connect(hello("n")).await;
        node.take().await;
        node.events.send(v1::NodeEvent { event }).await.expect("open");
        fields(&node.next().await.expect_err("refused"))
    };
    assert_eq!(answer(None).await, ["event"]);
    assert_eq!(answer(Some(Event::Hello(hello("n")))).await, ["hello"]);
    assert_eq!(answer(Some(Event::Ack(v1::Ack::default()))).await, ["ack.version"]);
    let version = v1::SnapshotVersion { content_hash: vec![0; 32].into(), ..v1::SnapshotVersion::default() };
    let nack = v1::Nack { version: Some(version), violations: vec![v1::RuleViolation::default(); 10_001] };
    assert_eq!(answer(Some(Event::Nack(nack))).await, ["nack.version.database_epoch", "nack.violations"]);
}

#[tokio::test]
async fn the_first_event_must_be_hello() {
    let world = World::new().await;
    let events = tokio_stream::iter([v1::NodeEvent { event: Some(Event::Alive(v1::Alive::default())) }]);
    let status = world.nodes.clone().connect(events).await.expect_err("refused");
    assert_eq!(fields(&status), ["hello"]);
}

#[tokio::test]
async fn what_nodes_get_is_what_the_database_says() {
    let mut world = World::new().await;
    for (id, zone) in [("everyone", None), ("only-b", Some("b"))] {
        let mut policy = policy(id, 1_000);
        policy.node_labels = zone.map(|zone| ("zone".to_owned(), zone.to_owned())).into_iter().collect();
        let create = v1::CreatePolicyRequest { policy: Some(policy), ..v1::CreatePolicyRequest::default() };
        world.policies.create_policy(create).await.expect("created");
    }
    world.update("everyone", 2_000, share(5_000)).await;
    world.update("only-b", 3_000, crate::world::labels("zone", "a")).await;
    for number in 0..24 {
        let zone = if number % 2 == 0 { "a" } else { "b" };
        let id = format!("node-{number}");
        let mut node =
            world.connect(v1::Hello { labels: [("zone".to_owned(), zone.to_owned())].into(), ..hello(&id) }).await;
        let mut sent = layers(&node.take().await);
        sent.sort();
        let name = id.clone();
        let view = world
            .server
            .store()
            .read("test", |conn| Box::pin(async move { sockpilot_server::store::fleet::of_node(conn, &name).await }));
        let view: Vec<_> =
            view.await.expect("rows").into_iter().map(|(layer, revision, _)| format!("{layer}@{revision}")).collect();
        assert_eq!(sent, view, "{id}");
    }
}
