//! A layer that a node cannot honour holds only itself back.

use sockpilot_proto::v1::{self, node_event::Event};
use sockpilot_server::store::confirmation;
use tonic::Code;

use crate::world::{TestNode, World, fields, held, hello, layers, share, until};

async fn layer(world: &World, layer: &str) -> v1::NodeLayer {
    let nodes =
        world.fleet.clone().list_nodes(v1::ListNodesRequest::default()).await.expect("nodes").into_inner().nodes;
    let found = nodes.into_iter().flat_map(|node| node.layers).find(|known| known.layer == layer);
    found.unwrap_or_default()
}

async fn state_is(world: &World, name: &str, state: v1::LayerState, confirmed: u64) -> v1::NodeLayer {
    let is = |layer: &v1::NodeLayer| (layer.state(), layer.confirmed_revision) == (state, confirmed);
    until(&format!("{name} is {state:?} with {confirmed}"), || layer(world, name), is).await
}

/// Everyone's first revision of two policies, and a second one of the first that the node holds back.
async fn with_one_held_back(world: &mut World) -> (TestNode, v1::Snapshot) {
    world.create("a").await;
    world.create("b").await;
    let mut node = world.connect(hello("n")).await;
    node.take().await;
    world.update("a", 2_000, None).await;
    let snapshot = node.snapshot().await;
    node.hold_back(&snapshot, held("policies/a", 2, 1)).await;
    state_is(world, "policies/a", v1::LayerState::Rejected, 1).await;
    (node, snapshot)
}

#[tokio::test]
async fn the_others_are_in_force_and_the_status_says_what_is_not() {
    let mut world = World::new().await;
    let (mut node, snapshot) = with_one_held_back(&mut world).await;
    state_is(&world, "policies/b", v1::LayerState::InForce, 1).await;
    assert_eq!(world.node("n").await.in_force, snapshot.version);
    let status = world.status("policies/a").await;
    let [rejection] = status.rejections.as_slice() else { panic!("{status:?}") };
    assert_eq!((rejection.node.as_str(), rejection.revision, rejection.revision_in_force), ("nodes/n", 2, 1));
    assert_eq!(rejection.violations, held("policies/a", 2, 1).violations);
    let rejected = v1::RevisionCount { revision: 2, state: v1::LayerState::Rejected.into(), nodes: 1 };
    assert_eq!(status.counts, [rejected]);
    assert_eq!(world.status("policies/b").await.rejections, []);
    node.quiet().await;

    world.update("b", 2_000, None).await;
    let next = node.snapshot().await;
    assert_eq!(layers(&next), ["policies/a@2", "policies/b@2"]);
    node.hold_back(&next, held("policies/a", 2, 1)).await;
    state_is(&world, "policies/b", v1::LayerState::InForce, 2).await;
    let again = state_is(&world, "policies/a", v1::LayerState::Rejected, 1).await;
    assert_eq!(world.status("policies/a").await.rejections[0].time, rejection.time, "since when");
    assert!(again.confirm_time.is_some());

    world.update("a", 3_000, None).await;
    node.take().await;
    state_is(&world, "policies/a", v1::LayerState::InForce, 3).await;
    assert_eq!(world.status("policies/a").await.rejections, []);
}

#[tokio::test]
async fn what_was_never_in_force_is_confirmed_by_nobody() {
    let mut world = World::new().await;
    world.create("a").await;
    let mut node = world.connect(hello("n")).await;
    let snapshot = node.snapshot().await;
    node.hold_back(&snapshot, held("policies/a", 1, 0)).await;
    let layer = state_is(&world, "policies/a", v1::LayerState::Rejected, 0).await;
    assert_eq!(layer.confirm_time, None);

    // A canary that its node refuses, where everyone's revision acts in its place.
    world.update("a", 2_000, share(9_999)).await;
    let snapshot = node.snapshot().await;
    assert_eq!(layers(&snapshot), ["policies/a@2"]);
    node.hold_back(&snapshot, held("policies/a", 2, 1)).await;
    state_is(&world, "policies/a", v1::LayerState::Rejected, 1).await;
    let promote = v1::PromoteRevisionRequest {
        reason: "by a test".to_owned(),
        name: "policies/a".to_owned(),
        ..v1::PromoteRevisionRequest::default()
    };
    let refused = world.assignments.promote_revision(promote).await.expect_err("no node has it in force");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let name = "policies/a".parse().expect("a name");
    let confirmed =
        world.server.store().read("test", |conn| Box::pin(async move { confirmation::confirmed(conn, &name).await }));
    assert_eq!(confirmed.await.expect("rows"), [0_u64; 0]);
}

#[tokio::test]
async fn what_is_held_back_is_known_after_a_reconnection_until_the_node_can_honour_it() {
    let mut world = World::new().await;
    let (node, snapshot) = with_one_held_back(&mut world).await;
    drop(node);
    let held_back = vec![held("policies/a", 2, 1)];
    let again = v1::Hello { in_force: snapshot.version.clone(), held_back, ..hello("n") };
    let mut node = world.connect(again.clone()).await;
    node.quiet().await;
    state_is(&world, "policies/a", v1::LayerState::Rejected, 1).await;
    // A module was loaded: the node has tried again by itself.
    node.ack(&snapshot).await;
    state_is(&world, "policies/a", v1::LayerState::InForce, 2).await;
    drop(node);

    // Another daemon or kernel has tried before its hello.
    let mut node = world.connect(again).await;
    state_is(&world, "policies/a", v1::LayerState::Rejected, 1).await;
    node.quiet().await;
    drop(node);
    let mut newer = v1::Hello { in_force: snapshot.version, ..hello("n") };
    newer.kernel.as_mut().expect("facts").congestion_controls.push("nv".to_owned());
    let mut node = world.connect(newer).await;
    state_is(&world, "policies/a", v1::LayerState::InForce, 2).await;
    node.quiet().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_field() {
    let mut world = World::new().await;
    world.create("a").await;
    let answer = async |held_back: Vec<v1::HeldBack>| {
        let mut node = world.connect(hello("n")).await;
        let version = node.take().await.version;
        node.say(Event::Ack(v1::Ack { version, held_back, ..v1::Ack::default() })).await;
        fields(&node.next().await.expect_err("refused"))
    };
    let sound = held("policies/a", 1, 0);
    assert_eq!(answer(vec![held("policies/b", 1, 0)]).await, ["ack.held_back[0].layer"]);
    assert_eq!(answer(vec![held("policies/a", 2, 0)]).await, ["ack.held_back[0].revision"]);
    assert_eq!(answer(vec![sound.clone(), sound.clone()]).await, ["ack.held_back[1].layer"]);
    assert_eq!(answer(vec![held("policies/a", 1, u64::MAX)]).await, ["ack.held_back[0].revision_in_force"]);
    let silent = v1::HeldBack { violations: vec![], ..sound.clone() };
    assert_eq!(answer(vec![silent]).await, ["ack.held_back[0].violations"]);
    let of_another = v1::HeldBack { violations: held("policies/b", 1, 0).violations, ..sound.clone() };
    assert_eq!(answer(vec![of_another]).await, ["ack.held_back[0].violations"]);
    let mut long = sound.clone();
    long.violations[0].description = "x".repeat(1_025);
    assert_eq!(answer(vec![long]).await, ["ack.held_back[0]"]);
    assert_eq!(answer(vec![sound.clone(); 10_001]).await, ["ack.held_back"]);

    let without = v1::Hello { held_back: vec![sound], ..hello("other") };
    let refused = match TestNode::open(world.nodes.clone(), without).await {
        Ok(mut node) => node.next().await.expect_err("refused"),
        Err(status) => status,
    };
    assert_eq!(fields(&refused), ["hello.held_back"]);
}
