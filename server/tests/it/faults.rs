//! Bad input to every call: all faults at once, each with its path, and nothing stored.

use prost_types::Timestamp;
use sockpilot_proto::v1;
use tonic::Request;

use crate::world::{World, experiment, fields, policy, share};

/// A policy that is wrong in several places.
fn bad_policy() -> v1::Policy {
    let mut bad = policy("p", 0);
    bad.priority = 1_000_001;
    bad.rules[0].r#match = Some(v1::Match { remote_prefixes: vec!["10.0.0.1/8".to_owned()], ..v1::Match::default() });
    bad
}

const BAD_POLICY: [&str; 3] =
    ["policy.priority", "policy.rules[0].match.remote_prefixes[0]", "policy.rules[0].set.syn_rto_ms"];

/// An experiment whose weights do not add up, with one arm twice.
fn bad_experiment() -> v1::Experiment {
    let mut bad = experiment("e");
    bad.arms[1].name = "treatment".to_owned();
    bad.arms[1].weight_bp = 9_001;
    bad
}

fn with(base: &[&str], more: &[&str]) -> Vec<String> {
    let mut all: Vec<_> = base.iter().chain(more).map(ToString::to_string).collect();
    all.sort();
    all
}

/// Nothing but what the test made itself.
async fn nothing_stored(world: &mut World) {
    assert_eq!(world.audit().await, []);
    let policies = world.policies.list_policies(v1::ListPoliciesRequest::default()).await.expect("a list").into_inner();
    assert_eq!(policies.policies, []);
    let experiments = v1::ListExperimentsRequest::default();
    let experiments = world.experiments.list_experiments(experiments).await.expect("a list").into_inner();
    assert_eq!(experiments.experiments, []);
}

#[tokio::test]
async fn create_policy() {
    let mut world = World::new().await;
    let mut request = Request::new(v1::CreatePolicyRequest {
        policy: Some(v1::Policy { name: "policies/P".to_owned(), ..bad_policy() }),
        policy_id: "-".to_owned(),
        target: share(10_000),
        reason: "r".repeat(1_001),
        request_id: "x".to_owned(),
        rollout: None,
        validate_only: false,
    });
    request.metadata_mut().insert("x-sockpilot-actor", "a".repeat(201).parse().expect("ascii"));
    let status = world.policies.create_policy(request).await.expect_err("refused");
    let more = ["policy.name", "policy_id", "reason", "request_id", "target.share_bp", "x-sockpilot-actor"];
    assert_eq!(fields(&status), with(&BAD_POLICY, &more));
    let empty = world.policies.create_policy(v1::CreatePolicyRequest::default()).await.expect_err("refused");
    assert_eq!(fields(&empty), ["policy", "policy_id"]);
    let two_names =
        v1::CreatePolicyRequest { policy: Some(policy("p", 9)), policy_id: "q".to_owned(), ..Default::default() };
    assert_eq!(fields(&world.policies.create_policy(two_names).await.expect_err("refused")), ["policy_id"]);
    let huge = v1::Policy { description: "d".repeat(5 << 20), ..policy("p", 9) };
    let huge = v1::CreatePolicyRequest { policy: Some(huge), ..Default::default() };
    assert_eq!(fields(&world.policies.create_policy(huge).await.expect_err("over 4 MiB")), [""]);
    let kindless = v1::CreatePolicyRequest {
        reason: "by a test".to_owned(),
        policy: Some(policy("p", 9)),
        target: Some(v1::Target { kind: None }),
        ..Default::default()
    };
    assert_eq!(fields(&world.policies.create_policy(kindless).await.expect_err("refused")), ["target"]);
    nothing_stored(&mut world).await;
}

#[tokio::test]
async fn update_policy() {
    let mut world = World::new().await;
    let request = v1::UpdatePolicyRequest {
        policy: Some(v1::Policy { name: "policies/p@2".to_owned(), etag: "e".repeat(65), ..bad_policy() }),
        allow_missing: true,
        target: crate::world::labels("k", &"v".repeat(64)),
        reason: "\u{7}".to_owned(),
        request_id: "00000000-0000-0000-0000-000000000000".to_owned(),
        rollout: None,
        validate_only: false,
        beside: Some(v1::Beside {
            zone_map: Some(crate::world::zone_map(&[("a-1", "10.0.0.1/8")])),
            experiments: vec![],
        }),
    };
    let status = world.policies.update_policy(request).await.expect_err("refused");
    let more = [
        "beside",
        "beside.zone_map.zones[0].prefixes[0]",
        "etag",
        "policy.name",
        "reason",
        "request_id",
        "target.node_labels.labels",
    ];
    assert_eq!(fields(&status), with(&BAD_POLICY, &more));
    let empty = world.policies.update_policy(v1::UpdatePolicyRequest::default()).await.expect_err("refused");
    assert_eq!(fields(&empty), ["policy"]);
    nothing_stored(&mut world).await;
}

#[tokio::test]
async fn experiments() {
    let mut world = World::new().await;
    let bad = ["experiment.arms", "experiment.arms[1].name"];
    let request = v1::CreateExperimentRequest {
        experiment: Some(bad_experiment()),
        target: share(0),
        request_id: "x".to_owned(),
        ..Default::default()
    };
    let status = world.experiments.create_experiment(request).await.expect_err("refused");
    assert_eq!(fields(&status), with(&bad, &["request_id", "target", "target.share_bp"]));
    let request = v1::UpdateExperimentRequest {
        experiment: Some(v1::Experiment { name: "policies/e".to_owned(), ..bad_experiment() }),
        allow_missing: true,
        ..Default::default()
    };
    let status = world.experiments.update_experiment(request).await.expect_err("refused");
    assert_eq!(fields(&status), with(&bad, &["experiment.name"]));
    let get = v1::GetExperimentRequest { name: "experiments/e@x".to_owned() };
    assert_eq!(fields(&world.experiments.get_experiment(get).await.expect_err("refused")), ["name"]);
    let list = v1::ListExperimentsRequest { page_size: 201, page_token: "0".to_owned() };
    let status = world.experiments.list_experiments(list).await.expect_err("refused");
    assert_eq!(fields(&status), ["page_size", "page_token"]);
    let list = v1::ListExperimentRevisionsRequest { name: "e".to_owned(), page_size: 201, page_token: "zz".to_owned() };
    let status = world.experiments.list_experiment_revisions(list).await.expect_err("refused");
    assert_eq!(fields(&status), ["name", "page_size", "page_token"]);
    let delete =
        v1::DeleteExperimentRequest { name: "policies/e".to_owned(), request_id: "x".to_owned(), ..Default::default() };
    let status = world.experiments.delete_experiment(delete).await.expect_err("refused");
    assert_eq!(fields(&status), ["name", "request_id"]);
    nothing_stored(&mut world).await;
}

#[tokio::test]
async fn reading_and_deleting_policies() {
    let mut world = World::new().await;
    for name in ["", "p", "policies/", "policies/p@0", "policies/p@1@2", "experiments/e"] {
        let get = v1::GetPolicyRequest { name: name.to_owned() };
        assert_eq!(fields(&world.policies.get_policy(get).await.expect_err("refused")), ["name"], "{name}");
    }
    for page_token in ["a", "zz", "00", "Ä", &"0".repeat(5_000)] {
        let list = v1::ListPoliciesRequest { page_size: 1, page_token: page_token.to_owned() };
        assert_eq!(fields(&world.policies.list_policies(list).await.expect_err("refused")), ["page_token"]);
    }
    let list = v1::ListPolicyRevisionsRequest { name: "x".to_owned(), page_size: 201, page_token: "x".to_owned() };
    let status = world.policies.list_policy_revisions(list).await.expect_err("refused");
    assert_eq!(fields(&status), ["name", "page_size", "page_token"]);
    let delete = v1::DeletePolicyRequest {
        name: "policies/p@1".to_owned(),
        etag: "e".repeat(65),
        reason: "r".repeat(1_001),
        request_id: "x".to_owned(),
        validate_only: false,
    };
    let status = world.policies.delete_policy(delete).await.expect_err("refused");
    assert_eq!(fields(&status), ["etag", "name", "reason", "request_id"]);
}

#[tokio::test]
async fn assignments() {
    let mut world = World::new().await;
    let before = world.create("p").await;
    let bad = |name: &str| v1::AssignRevisionRequest {
        name: name.to_owned(),
        etag: "e".repeat(65),
        reason: "r".repeat(1_001),
        request_id: "x".to_owned(),
        ..v1::AssignRevisionRequest::default()
    };
    let status = world.assignments.assign_revision(bad("p")).await.expect_err("refused");
    assert_eq!(fields(&status), ["etag", "name", "reason", "request_id", "revision", "target"]);
    for (target, field) in [
        (share(10_000), "target.share_bp"),
        (crate::world::nobody(), "target.nobody"),
        (crate::world::labels("", "v"), "target.node_labels.labels"),
    ] {
        let request = v1::AssignRevisionRequest {
            reason: "by a test".to_owned(),
            name: "policies/p".to_owned(),
            revision: 1,
            target,
            ..Default::default()
        };
        assert_eq!(fields(&world.assignments.assign_revision(request).await.expect_err("refused")), [field]);
    }
    let v1::AssignRevisionRequest { name, etag, reason, request_id, .. } = bad("");
    let promote = v1::PromoteRevisionRequest {
        name: name.clone(),
        etag: etag.clone(),
        reason: reason.clone(),
        request_id: request_id.clone(),
        validate_only: false,
        force: false,
    };
    let status = world.assignments.promote_revision(promote).await.expect_err("refused");
    assert_eq!(fields(&status), ["etag", "name", "reason", "request_id"]);
    let named = "policies/p".to_owned();
    let forced =
        v1::PromoteRevisionRequest { name: named.clone(), force: true, reason: " ".to_owned(), ..Default::default() };
    assert_eq!(fields(&world.assignments.promote_revision(forced).await.expect_err("refused")), ["reason"]);
    let target = crate::world::everyone();
    let forced = v1::AssignRevisionRequest {
        reason: " ".to_owned(),
        name: named,
        revision: 1,
        target,
        force: true,
        ..Default::default()
    };
    assert_eq!(fields(&world.assignments.assign_revision(forced).await.expect_err("refused")), ["reason"]);
    let rollback = v1::RollbackRevisionRequest { name, revision: 0, etag, reason, request_id, validate_only: false };
    let status = world.assignments.rollback_revision(rollback).await.expect_err("refused");
    assert_eq!(fields(&status), ["etag", "name", "reason", "request_id"]);
    assert_eq!(world.status("policies/p").await.etag, before.etag, "nothing is stored");
}

#[tokio::test]
async fn the_fleet() {
    let mut world = World::new().await;
    let list = v1::ListNodesRequest {
        page_size: 201,
        page_token: "x".to_owned(),
        labels: [(String::new(), String::new())].into(),
    };
    assert_eq!(
        fields(&world.fleet.list_nodes(list).await.expect_err("refused")),
        ["labels", "page_size", "page_token"]
    );
    let status = v1::GetLayerStatusRequest { name: "policies/p@1".to_owned() };
    assert_eq!(fields(&world.fleet.get_layer_status(status).await.expect_err("refused")), ["name"]);
    let query = v1::QueryOutcomesRequest {
        name: "nodes/n".to_owned(),
        start_time: Some(Timestamp { seconds: i64::MAX, nanos: 0 }),
        end_time: Some(Timestamp { seconds: 0, nanos: -1 }),
        direction: 7,
        node: "n".to_owned(),
        ..v1::QueryOutcomesRequest::default()
    };
    let status = world.fleet.query_outcomes(query).await.expect_err("refused");
    assert_eq!(fields(&status), ["direction", "end_time", "name", "node", "start_time"]);
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let backwards = v1::QueryOutcomesRequest {
        name: "policies/p".to_owned(),
        start_time: time(20),
        end_time: time(10),
        ..v1::QueryOutcomesRequest::default()
    };
    assert_eq!(fields(&world.fleet.query_outcomes(backwards).await.expect_err("refused")), ["end_time"]);
    let samples = v1::ListFlowSamplesRequest {
        name: "p".to_owned(),
        node: "nodes/N".to_owned(),
        page_size: 201,
        page_token: "x".to_owned(),
        recorded: true,
    };
    let status = world.fleet.list_flow_samples(samples).await.expect_err("refused");
    assert_eq!(fields(&status), ["name", "node", "page_size", "page_token"]);
    let audit = v1::ListAuditEntriesRequest {
        name: "p".to_owned(),
        page_size: 201,
        page_token: "x".to_owned(),
        oldest_first: false,
    };
    let status = world.fleet.list_audit_entries(audit).await.expect_err("refused");
    assert_eq!(fields(&status), ["name", "page_size", "page_token"]);
    let servers = v1::ListServersRequest { page_size: 201, page_token: "x".to_owned() };
    let status = world.fleet.list_servers(servers).await.expect_err("refused");
    assert_eq!(fields(&status), ["page_size", "page_token"]);
    for name in ["", "n", "nodes/N"] {
        let (reason, request_id) = ("r".repeat(1_001), "x".to_owned());
        let delete = v1::DeleteNodeRequest { name: name.to_owned(), reason, validate_only: false, request_id };
        let status = world.fleet.delete_node(delete).await.expect_err("refused");
        assert_eq!(fields(&status), ["name", "reason", "request_id"], "{name}");
    }
}

#[tokio::test]
async fn an_actor_stands_in_the_audit_as_it_is() {
    let mut world = World::new().await;
    let ask = |ascii: Option<&[u8]>, binary: Option<&[u8]>| {
        let request =
            v1::CreatePolicyRequest { policy: Some(policy("p", 1_000)), validate_only: false, ..Default::default() };
        let mut request = Request::new(request);
        let headers = request.metadata_mut();
        if let Some(ascii) = ascii {
            let mut raw = std::mem::take(headers).into_headers();
            raw.insert("x-sockpilot-actor", http::HeaderValue::from_bytes(ascii).expect("a header"));
            *headers = tonic::metadata::MetadataMap::from_headers(raw);
        }
        if let Some(binary) = binary {
            headers.insert_bin("x-sockpilot-actor-bin", tonic::metadata::MetadataValue::from_bytes(binary));
        }
        request
    };
    let long = "ü".repeat(201);
    for (ascii, binary, field) in [
        (None, Some(&b"ann\n"[..]), "x-sockpilot-actor-bin"),
        (Some(&b"ann"[..]), Some(&b"\xff"[..]), "x-sockpilot-actor-bin"),
        (None, Some(long.as_bytes()), "x-sockpilot-actor-bin"),
        (None, Some(&b""[..]), "x-sockpilot-actor-bin"),
        (Some(&b"\xff"[..]), None, "x-sockpilot-actor"),
        (Some(&b""[..]), None, "x-sockpilot-actor"),
    ] {
        let status = world.policies.create_policy(ask(ascii, binary)).await.expect_err("refused");
        assert_eq!(crate::world::fields(&status), [field]);
    }
    for (ascii, binary, expected) in [
        (Some("j?rgen"), Some("jürgen"), "jürgen"),
        (Some("jürgen"), None, "jürgen"),
        (None, Some("山田"), "山田"),
        (None, None, "unknown"),
    ] {
        world.policies.create_policy(ask(ascii.map(str::as_bytes), binary.map(str::as_bytes))).await.expect("created");
        assert_eq!(world.audit().await[0].actor, expected);
        let delete = v1::DeletePolicyRequest { name: "policies/p".to_owned(), ..Default::default() };
        world.policies.delete_policy(delete).await.expect("deleted");
    }
    world.server.stop().await;
}
