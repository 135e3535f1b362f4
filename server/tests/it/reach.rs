//! Whom a change is for, and that nothing which nobody has tried reaches everyone unnoticed.

use sockpilot_proto::v1;
use tonic::Code;

use crate::world::{
    TestNode, World, everyone, experiment, fields, hello, labels, layers, nobody, policy, share, until,
};

async fn edge(world: &World, id: &str) -> TestNode {
    world.connect(v1::Hello { labels: [("role".to_owned(), "edge".to_owned())].into(), ..hello(id) }).await
}

fn promote(force: bool, reason: &str) -> v1::PromoteRevisionRequest {
    let (name, reason) = ("policies/p".to_owned(), reason.to_owned());
    v1::PromoteRevisionRequest { name, force, reason, ..v1::PromoteRevisionRequest::default() }
}

fn assign(target: Option<v1::Target>, force: bool) -> v1::AssignRevisionRequest {
    let (name, reason) = ("policies/p".to_owned(), if force { "in a hurry" } else { "by a test" }.to_owned());
    v1::AssignRevisionRequest { name, revision: 2, target, force, reason, ..v1::AssignRevisionRequest::default() }
}

fn reach(notes: Option<&v1::ChangeNotes>) -> (u32, u32, u32) {
    let reach = notes.and_then(|notes| notes.reach).expect("a reach");
    (reach.nodes, reach.connected_nodes, reach.total_nodes)
}

fn warnings(notes: Option<&v1::ChangeNotes>) -> Vec<(String, String)> {
    let warnings = notes.map(|notes| notes.warnings.clone()).unwrap_or_default();
    warnings.into_iter().map(|warning| (warning.field, warning.description)).collect()
}

#[tokio::test]
async fn a_canary_for_nobody_is_said_at_once_with_what_is_near() {
    let mut world = World::new().await;
    let (_a, _b) = (edge(&world, "a").await, edge(&world, "b").await);
    world.create("p").await;
    let egde = labels("role", "egde");
    for validate_only in [true, false] {
        let (policy, target) = (Some(policy("p", 2_000)), egde.clone());
        let update = v1::UpdatePolicyRequest {
            reason: "by a test".to_owned(),
            policy,
            target,
            validate_only,
            ..v1::UpdatePolicyRequest::default()
        };
        let answer = world.policies.update_policy(update).await.expect("accepted").into_inner();
        assert_eq!(reach(answer.notes.as_ref()), (0, 0, 2));
        let why = "role=egde holds for 0 of 2 nodes: no node has role=egde; did you mean role=edge (2 nodes)?";
        assert_eq!(warnings(answer.notes.as_ref()), [("target.node_labels".to_owned(), why.to_owned())]);
    }
    let small = world.assignments.assign_revision(assign(share(1), false)).await.expect("accepted").into_inner();
    assert_eq!(reach(small.notes.as_ref()), (0, 0, 2));
    let (field, why) = warnings(small.notes.as_ref()).remove(0);
    assert!(field == "target.share_bp" && why.contains("0 of 2 nodes now; the smallest share with a node is"), "{why}");
    let sound =
        world.assignments.assign_revision(assign(labels("role", "edge"), false)).await.expect("ok").into_inner();
    assert_eq!(reach(sound.notes.as_ref()), (2, 2, 2));
    assert_eq!(warnings(sound.notes.as_ref()), []);
    assert_eq!(world.status("policies/p").await.notes, None, "only changes have notes");
    let stored = world.policies.get_policy(v1::GetPolicyRequest { name: "policies/p@2".to_owned() }).await;
    assert_eq!(stored.expect("read").into_inner().notes, None, "and no revision keeps them");
}

#[tokio::test]
async fn what_no_node_has_confirmed_is_promoted_by_force_only() {
    let mut world = World::new().await;
    let mut node = edge(&world, "a").await;
    world.create("p").await;
    while layers(&node.take().await) != ["policies/p@1"] {}
    world.confirmed("policies/p", 1).await;
    world.update("p", 2_000, labels("role", "egde")).await;
    let refused = world.assignments.promote_revision(promote(false, "it works")).await.expect_err("untried");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("did you mean role=edge (1 node)?"), "{}", refused.message());
    let by_another_name = world.assignments.assign_revision(assign(everyone(), false)).await.expect_err("untried");
    assert_eq!(by_another_name.code(), Code::FailedPrecondition);
    let generations = world.audit().await.len();

    world.assignments.assign_revision(assign(labels("role", "edge"), false)).await.expect("a canary");
    let refused = world.assignments.promote_revision(promote(false, "it works")).await.expect_err("not yet");
    assert!(refused.message().contains("1 node not answered yet"), "{}", refused.message());
    let snapshot = node.snapshot().await;
    node.nack(&snapshot, "policies/p").await;
    let fleet = world.fleet.clone();
    let request = v1::GetLayerStatusRequest { name: "policies/p".to_owned() };
    until(
        "the refusal is in the status",
        || {
            let (mut fleet, request) = (fleet.clone(), request.clone());
            async move { fleet.get_layer_status(request).await.expect("a status").into_inner() }
        },
        |status| !status.rejections.is_empty(),
    )
    .await;
    let refused =
        world.assignments.promote_revision(promote(false, "it works")).await.expect_err("refused by its node");
    let why = "1 of 1 node of its canary refused it and none has it in force (nodes/a: \
               rules[0].set.congestion_control: this kernel has no such congestion control)";
    assert!(refused.message().contains(why), "{}", refused.message());
    assert_eq!(world.audit().await.len(), generations + 1, "refusals are no changes");

    let ask = v1::PromoteRevisionRequest {
        reason: "by a test".to_owned(),
        validate_only: true,
        ..promote(true, "it must be")
    };
    world.assignments.promote_revision(ask).await.expect("it would be");
    let forced = world.assignments.promote_revision(promote(true, "it must be")).await.expect("forced").into_inner();
    assert_eq!(forced.assignments.len(), 1);
    let said = warnings(forced.notes.as_ref());
    assert!(said[0].1.contains("no node has ever confirmed revision 2"), "{said:?}");
    assert!(said[1].1.contains("1 node of the canary refused it"), "{said:?}");
    let entry = world.audit().await.remove(0);
    assert_eq!((entry.method.as_str(), entry.reason.as_str()), ("PromoteRevision", "it must be"));
    assert!(entry.request_json.contains("\"force\":true"), "{}", entry.request_json);
}

#[tokio::test]
async fn what_nodes_confirmed_that_are_gone_now_is_known_to_work() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut node = edge(&world, "a").await;
    world.update("p", 2_000, labels("role", "edge")).await;
    while layers(&node.take().await) != ["policies/p@2"] {}
    world.confirmed("policies/p", 2).await;
    drop(node);
    let fleet = world.fleet.clone();
    let request = v1::GetLayerStatusRequest { name: "policies/p".to_owned() };
    until(
        "the node is gone",
        || {
            let (mut fleet, request) = (fleet.clone(), request.clone());
            async move { fleet.get_layer_status(request).await.expect("a status").into_inner() }
        },
        |status| status.counts.iter().all(|count| count.state() == v1::LayerState::Unavailable),
    )
    .await;
    let promoted =
        world.assignments.promote_revision(promote(false, "it works")).await.expect("it is known").into_inner();
    assert_eq!(reach(promoted.notes.as_ref()), (1, 0, 1));
    let said = warnings(promoted.notes.as_ref());
    assert!(said.len() == 1 && said[0].1.contains("not connected now"), "{said:?}");
}

#[tokio::test]
async fn the_way_back_is_open_and_warned_of() {
    let mut world = World::new().await;
    world.create("p").await;
    world.update("p", 2_000, None).await;
    let name = "policies/p".to_owned();
    let back = v1::RollbackRevisionRequest { name, ..v1::RollbackRevisionRequest::default() };
    let status = world.assignments.rollback_revision(back).await.expect("always").into_inner();
    let said = warnings(status.notes.as_ref());
    assert!(said.len() == 1 && said[0].1.contains("no node has ever confirmed revision 1"), "{said:?}");
    world.update("p", 3_000, nobody()).await;
    let staged = v1::AssignRevisionRequest { revision: 3, ..assign(everyone(), false) };
    let refused = world.assignments.assign_revision(staged.clone()).await.expect_err("nobody has tried it");
    assert!(refused.message().contains("assign it to some nodes first"), "{}", refused.message());
    let forced = v1::AssignRevisionRequest { force: true, reason: "no time".to_owned(), ..staged };
    world.assignments.assign_revision(forced).await.expect("forced");
}

#[tokio::test]
async fn a_group_is_kept_apart_and_half_of_all_addresses_are_warned_of() {
    let mut world = World::new().await;
    let salted = |id: &str, prefix: &str| {
        let matches = v1::Match { remote_prefixes: vec![prefix.to_owned()], ..v1::Match::default() };
        let experiment = Some(v1::Experiment { salt: "common".to_owned(), r#match: Some(matches), ..experiment(id) });
        v1::UpdateExperimentRequest { experiment, allow_missing: true, ..v1::UpdateExperimentRequest::default() }
    };
    let first = world.experiments.update_experiment(salted("a", "10.0.0.0/8")).await.expect("a").into_inner();
    assert_eq!(warnings(first.notes.as_ref()), []);
    let ask = v1::UpdateExperimentRequest { validate_only: true, ..salted("b", "10.1.0.0/16") };
    for request in [ask, salted("b", "10.1.0.0/16")] {
        let refused = world.experiments.update_experiment(request).await.expect_err("both own all buckets");
        let said = fields(&refused);
        assert!(!said.is_empty() && said.iter().all(|field| field.starts_with("experiment.arms[")), "{refused:?}");
        assert!(refused.message().contains("experiments/a runs"), "{}", refused.message());
    }
    // As a draft it may be; it cannot be started beside the other, and can when that has stopped.
    let draft = v1::UpdateExperimentRequest { target: nobody(), ..salted("b", "10.1.0.0/16") };
    world.experiments.update_experiment(draft).await.expect("a draft");
    let start =
        v1::StartExperimentRequest { name: "experiments/b".to_owned(), ..v1::StartExperimentRequest::default() };
    let refused = world.experiments.start_experiment(start.clone()).await.expect_err("both own all buckets");
    assert!(fields(&refused).iter().all(|field| field == "revision"), "{refused:?}");
    let stop = v1::StopExperimentRequest { name: "experiments/a".to_owned(), ..v1::StopExperimentRequest::default() };
    world.experiments.stop_experiment(stop).await.expect("stopped");
    world.experiments.start_experiment(start).await.expect("alone");
    let apart = world.experiments.update_experiment(salted("c", "11.0.0.0/8")).await.expect("c").into_inner();
    assert_eq!(warnings(apart.notes.as_ref()), [], "no connection is in both");
    let coming = salted("d", "12.0.0.0/8").experiment.into_iter().collect();
    let beside = Some(v1::Beside { zone_map: None, experiments: coming });
    let ask = v1::UpdateExperimentRequest { validate_only: true, beside, ..salted("e", "::/0") };
    let fifth = world.experiments.update_experiment(ask).await.expect("e").into_inner();
    let said = warnings(fifth.notes.as_ref());
    assert!(said.len() == 1 && said[0].0 == "experiment.match.remote_prefixes", "{said:?}");
    assert!(said[0].1.starts_with("::/0 holds for no IPv4 address; add 0.0.0.0/0"), "{said:?}");
}

#[tokio::test]
async fn names_that_never_were_are_not_like_nothing_going_on() {
    let mut world = World::new().await;
    let _node = edge(&world, "a").await;
    world.create("p").await;
    let said = |warnings: Vec<v1::Warning>| warnings.into_iter().map(|warning| warning.description).collect::<Vec<_>>();
    let never = |name: &str| vec![format!("there never was {name}; look at the name")];
    for (revision, expected) in [(0, vec![]), (1, vec![]), (2, never("policies/p@2"))] {
        let name = "policies/p".to_owned();
        let query = v1::QueryOutcomesRequest { name, revision, ..v1::QueryOutcomesRequest::default() };
        let answer = world.fleet.query_outcomes(query).await.expect("an answer").into_inner();
        assert_eq!((answer.rows.len(), said(answer.warnings)), (0, expected));
    }
    let samples = v1::ListFlowSamplesRequest { node: "nodes/b".to_owned(), ..v1::ListFlowSamplesRequest::default() };
    let samples = world.fleet.list_flow_samples(samples).await.expect("an answer").into_inner();
    assert_eq!(said(samples.warnings), never("nodes/b"));
    let audit = v1::ListAuditEntriesRequest { name: "policies/q".to_owned(), ..v1::ListAuditEntriesRequest::default() };
    let audit = world.fleet.list_audit_entries(audit).await.expect("an answer").into_inner();
    assert_eq!(said(audit.warnings), never("policies/q"));
    let labels = [("role".to_owned(), "egde".to_owned())].into();
    let list = v1::ListNodesRequest { labels, ..v1::ListNodesRequest::default() };
    let none = world.fleet.list_nodes(list).await.expect("none").into_inner();
    assert_eq!(none.nodes, []);
    assert!(none.warnings[0].description.contains("did you mean role=edge"), "{:?}", none.warnings);
}
