//! Who runs what: canaries, promotion, rollback, and their history.

use sockpilot_policy::bucket::share_position;
use sockpilot_proto::v1;
use tonic::Code;
use tonic_types::StatusExt;

use crate::world::{World, everyone, experiment, hello, labels, layers, nobody, share};

fn assign(revision: u64, target: Option<v1::Target>) -> v1::AssignRevisionRequest {
    v1::AssignRevisionRequest {
        reason: "by a test".to_owned(),
        name: "policies/p".to_owned(),
        revision,
        target,
        ..v1::AssignRevisionRequest::default()
    }
}

fn promote() -> v1::PromoteRevisionRequest {
    v1::PromoteRevisionRequest {
        reason: "by a test".to_owned(),
        name: "policies/p".to_owned(),
        ..v1::PromoteRevisionRequest::default()
    }
}

fn rollback(revision: u64) -> v1::RollbackRevisionRequest {
    v1::RollbackRevisionRequest { name: "policies/p".to_owned(), revision, ..v1::RollbackRevisionRequest::default() }
}

/// In force, as (revision, share).
fn in_force(status: &v1::LayerStatus) -> Vec<(u64, Option<u32>)> {
    let share = |assignment: &v1::Assignment| match assignment.target.as_ref().and_then(|target| target.kind.as_ref()) {
        Some(v1::target::Kind::ShareBp(share_bp)) => Some(*share_bp),
        _ => None,
    };
    status.assignments.iter().map(|assignment| (assignment.revision, share(assignment))).collect()
}

/// A node id whose position among the shares is in a range.
fn node_in(range: std::ops::Range<u32>) -> String {
    let ids = (0..100_000).map(|number| format!("node-{number}"));
    ids.into_iter().find(|id| range.contains(&share_position(id))).expect("one of many")
}

#[tokio::test]
async fn ten_percent_stay_inside_twenty() {
    let mut world = World::new().await;
    world.create("p").await;
    let (early, late, rest) = (node_in(0..1_000), node_in(1_000..2_000), node_in(2_000..10_000));
    let mut nodes = vec![];
    for id in [&early, &late, &rest] {
        let mut node = world.connect(hello(id)).await;
        assert_eq!(layers(&node.take().await), ["policies/p@1"]);
        nodes.push(node);
    }
    world.update("p", 2_000, share(1_000)).await;
    assert_eq!(layers(&nodes[0].take().await), ["policies/p@2"]);
    let status = world.assignments.assign_revision(assign(2, share(2_000))).await.expect("wider").into_inner();
    assert_eq!(in_force(&status), [(1, None), (2, Some(2_000))]);
    assert_eq!(layers(&nodes[1].take().await), ["policies/p@2"]);
    nodes[0].quiet().await;
    nodes[2].quiet().await;
    world.confirmed("policies/p", 2).await;
    world.assignments.promote_revision(promote()).await.expect("promoted");
    for node in &mut nodes {
        assert_eq!(
            layers(&node.take().await),
            ["policies/p@2"],
            "the canary's nodes lose the lease, the rest gets the revision"
        );
    }
}

#[tokio::test]
async fn a_canary_is_promoted_once() {
    let mut world = World::new().await;
    world.create("p").await;
    let none = world.assignments.promote_revision(promote()).await.expect_err("no canary");
    assert_eq!(none.code(), Code::FailedPrecondition);
    let failure = none.get_error_details().precondition_failure().cloned().expect("which");
    assert_eq!(failure.violations[0].subject, "policies/p");

    let mut node = world.connect(hello(&node_in(0..1_000))).await;
    world.update("p", 2_000, share(1_000)).await;
    while layers(&node.take().await) != ["policies/p@2"] {}
    world.confirmed("policies/p", 2).await;
    let status = world.assignments.promote_revision(promote()).await.expect("promoted").into_inner();
    assert_eq!(in_force(&status), [(2, None)]);
    assert_eq!(
        world.assignments.promote_revision(promote()).await.expect_err("again").code(),
        Code::FailedPrecondition
    );
    let entries = world.audit().await;
    let methods: Vec<_> = entries.iter().map(|entry| (entry.method.as_str(), entry.revision)).collect();
    assert_eq!(methods, [("PromoteRevision", 2), ("UpdatePolicy", 2), ("CreatePolicy", 1)]);
}

#[tokio::test]
async fn rollback_ends_the_canary_then_goes_back_and_never_forward() {
    let mut world = World::new().await;
    world.create("p").await;
    world.update("p", 2_000, None).await;
    world.update("p", 3_000, share(500)).await;
    let mut back = async |revision| {
        let answer = world.assignments.rollback_revision(rollback(revision)).await;
        answer.map(|status| in_force(&status.into_inner())).map_err(|status| status.code())
    };
    assert_eq!(back(0).await, Ok(vec![(2, None)]), "the canary first");
    assert_eq!(back(0).await, Ok(vec![(1, None)]));
    assert_eq!(back(0).await, Err(Code::FailedPrecondition), "not forward to 2");
    assert_eq!(back(2).await, Err(Code::FailedPrecondition), "neither by name");
    assert_eq!(back(7).await, Err(Code::NotFound));
    assert_eq!(back(1).await, Ok(vec![(1, None)]), "sent again, nothing changes");
    let audit = world.audit().await;
    assert_eq!((audit[0].method.as_str(), audit[0].revision), ("RollbackRevision", 1));
    assert_eq!(audit.len(), 5, "refusals and repetitions are no changes");
}

#[tokio::test]
async fn an_assignment_replaces_what_its_target_had() {
    let mut world = World::new().await;
    world.create("p").await;
    world.update("p", 2_000, nobody()).await;
    assert_eq!(in_force(&world.status("policies/p").await), [(1, None)], "stored only");
    world.assignments.assign_revision(assign(2, labels("zone", "b"))).await.expect("a canary by labels");
    let mut inside =
        world.connect(v1::Hello { labels: [("zone".to_owned(), "b".to_owned())].into(), ..hello("b") }).await;
    let mut outside = world.connect(hello("a")).await;
    assert_eq!(layers(&inside.take().await), ["policies/p@2"]);
    assert_eq!(layers(&outside.take().await), ["policies/p@1"]);
    world.confirmed("policies/p", 2).await;
    let status = world.assignments.assign_revision(assign(2, everyone())).await.expect("for all").into_inner();
    assert_eq!(in_force(&status), [(2, None)], "everyone ends the canary");
    assert_eq!(layers(&outside.take().await), ["policies/p@2"]);
    let missing = world.assignments.assign_revision(assign(3, everyone())).await.expect_err("never made");
    assert_eq!(missing.code(), Code::NotFound);
    let stale = v1::AssignRevisionRequest { etag: "stale".to_owned(), ..assign(1, everyone()) };
    assert_eq!(world.assignments.assign_revision(stale).await.expect_err("stale").code(), Code::Aborted);
}

#[tokio::test]
async fn node_labels_of_a_document_limit_every_target() {
    let mut world = World::new().await;
    let mut only_b = crate::world::policy("p", 1_000);
    only_b.node_labels = [("zone".to_owned(), "b".to_owned())].into();
    let request = v1::CreatePolicyRequest { policy: Some(only_b), ..v1::CreatePolicyRequest::default() };
    world.policies.create_policy(request).await.expect("created");
    let mut node = world.connect(hello("n")).await;
    assert_eq!(layers(&node.take().await), Vec::<String>::new());
    let moved = v1::Hello { labels: [("zone".to_owned(), "b".to_owned())].into(), ..hello("n") };
    let mut node = world.connect(moved).await;
    assert_eq!(layers(&node.take().await), ["policies/p@1"], "with other labels it is for the node");
}

#[tokio::test]
async fn canaries_and_experiments_have_a_lease() {
    let mut world = World::new().await;
    world.create("p").await;
    let request =
        v1::CreateExperimentRequest { experiment: Some(experiment("e")), ..v1::CreateExperimentRequest::default() };
    world.experiments.create_experiment(request).await.expect("created");
    let mut node = world.connect(hello("n")).await;
    let snapshot = node.take().await;
    let read = |snapshot: &v1::Snapshot| {
        let layers: v1::Layers = prost::Message::decode(snapshot.layers.clone()).expect("layers");
        layers.layers.into_iter().map(|layer| (layer.name, layer.lease_ms)).collect::<Vec<_>>()
    };
    let expected = [("experiments/e".to_owned(), 600_000), ("policies/p".to_owned(), 0)];
    assert_eq!(read(&snapshot), expected);
    world.update("p", 2_000, share(9_999)).await;
    assert_eq!(read(&node.take().await)[1], ("policies/p".to_owned(), 600_000));
}

#[tokio::test]
async fn a_deleted_policy_leaves_the_nodes() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    node.take().await;
    let delete = v1::DeletePolicyRequest { name: "policies/p".to_owned(), ..v1::DeletePolicyRequest::default() };
    world.policies.delete_policy(delete).await.expect("deleted");
    assert_eq!(layers(&node.take().await), Vec::<String>::new());
    let fleet = world.fleet.clone();
    crate::world::eventually("the node has no layer any more", || {
        let mut fleet = fleet.clone();
        async move {
            let nodes = fleet.list_nodes(v1::ListNodesRequest::default()).await.expect("nodes").into_inner().nodes;
            nodes[0].layers.is_empty()
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_can_assign_more_than_a_message_holds() {
    let mut world = World::new().await;
    let mut refused = None;
    for number in 0..200 {
        let policy = Some(crate::streams::large(&format!("p{number}"), 1_000));
        let create = v1::CreatePolicyRequest { policy, ..v1::CreatePolicyRequest::default() };
        if let Err(status) = world.policies.create_policy(create).await {
            refused = Some((number, status));
            break;
        }
    }
    let (number, status) = refused.expect("not without end");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let mut node = world.connect(hello("n")).await;
    assert_eq!(layers(&node.take().await).len(), number, "what was accepted can be sent");
}
