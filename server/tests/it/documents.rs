//! Policies and experiments: revisions, etags, request ids, pages.

use sockpilot_proto::v1;
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::world::{World, everyone, experiment, fields, nobody, policy};

fn create(policy: v1::Policy) -> v1::CreatePolicyRequest {
    v1::CreatePolicyRequest { policy: Some(policy), ..v1::CreatePolicyRequest::default() }
}

fn update(policy: v1::Policy) -> v1::UpdatePolicyRequest {
    v1::UpdatePolicyRequest { policy: Some(policy), ..v1::UpdatePolicyRequest::default() }
}

async fn get(world: &mut World, name: &str) -> Result<v1::Policy, tonic::Status> {
    world.policies.get_policy(v1::GetPolicyRequest { name: name.to_owned() }).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn revisions_are_immutable_and_readable() {
    let mut world = World::new().await;
    let mut request = Request::new(create(policy("p", 1_000)));
    request.metadata_mut().insert("x-sockpilot-actor", "alice".parse().expect("ascii"));
    let first = world.policies.create_policy(request).await.expect("created").into_inner();
    assert_eq!((first.revision, first.creator.as_str()), (1, "alice"));
    assert!(first.create_time.is_some() && !first.uid.is_empty() && !first.etag.is_empty());

    let second = world.update("p", 2_000, None).await;
    assert_eq!((second.revision, &second.uid, second.creator.as_str()), (2, &first.uid, "unknown"));
    assert_ne!(second.etag, first.etag);
    let old = get(&mut world, "policies/p@1").await.expect("still there");
    assert_eq!(old.rules, first.rules);
    assert_eq!(old.etag, second.etag, "the etag is the policy's, not the revision's");
    assert_eq!(get(&mut world, "policies/p").await.expect("newest").revision, 2);
    let missing = get(&mut world, "policies/p@3").await.expect_err("never made");
    assert_eq!(missing.code(), Code::NotFound);
    let info = missing.get_error_details().resource_info().cloned().expect("which");
    assert_eq!(info.resource_name, "policies/p@3");
}

#[tokio::test]
async fn an_unchanged_document_makes_no_revision() {
    let mut world = World::new().await;
    let first = world.create("p").await;
    let same = world.update("p", 1_000, None).await;
    let plain = |policy: &v1::Policy| v1::Policy { notes: None, ..policy.clone() };
    assert_eq!(plain(&same), plain(&first), "nothing has changed, not even the etag");
    assert_eq!(world.audit().await.len(), 1);
    let mut written_otherwise = policy("p", 1_000);
    written_otherwise.rules[0].r#match = Some(v1::Match::default());
    let same = world.policies.update_policy(update(written_otherwise)).await.expect("accepted").into_inner();
    assert_eq!(same.revision, 1, "it means the same");
}

#[tokio::test]
async fn etags_tell_who_was_faster() {
    let mut world = World::new().await;
    let first = world.create("p").await;
    world.update("p", 2_000, None).await;
    let stale = v1::Policy { etag: first.etag.clone(), ..policy("p", 3_000) };
    let status = world.policies.update_policy(update(stale)).await.expect_err("too slow");
    assert_eq!(status.code(), Code::Aborted);
    let delete = v1::DeletePolicyRequest { name: first.name, etag: first.etag, ..v1::DeletePolicyRequest::default() };
    assert_eq!(world.policies.delete_policy(delete).await.expect_err("too slow").code(), Code::Aborted);
    let now = get(&mut world, "policies/p").await.expect("there").etag;
    let fresh = v1::Policy { etag: now, ..policy("p", 3_000) };
    assert_eq!(world.policies.update_policy(update(fresh)).await.expect("in time").into_inner().revision, 3);
}

#[tokio::test]
async fn concurrent_updates_make_one_revision_each() {
    let mut world = World::new().await;
    world.create("p").await;
    let updates =
        (0..8).map(|step| {
            let mut client = world.policies.clone();
            async move {
                client.update_policy(update(policy("p", 2_000 + step))).await.expect("updated").into_inner().revision
            }
        });
    let mut revisions = futures::future::join_all(updates).await;
    revisions.sort_unstable();
    assert_eq!(revisions, (2..=9).collect::<Vec<_>>());
    let entries = world.audit().await;
    assert!(entries.windows(2).all(|pair| pair[0].sequence == pair[1].sequence + 1), "no gaps");
    assert!(entries.windows(2).all(|pair| pair[0].generation > pair[1].generation), "in the order of the commits");
}

#[tokio::test]
async fn a_request_id_is_answered_once() {
    let mut world = World::new().await;
    let request_id = uuid::Uuid::new_v4().to_string();
    let request = v1::CreatePolicyRequest { request_id: request_id.clone(), ..create(policy("p", 1_000)) };
    let first = world.policies.create_policy(request.clone()).await.expect("created").into_inner();
    world.update("p", 2_000, None).await;
    let again = world.policies.create_policy(request.clone()).await.expect("answered again").into_inner();
    assert_eq!(again, first, "the first answer");
    let other = v1::CreatePolicyRequest { policy: Some(policy("q", 1_000)), ..request };
    assert_eq!(fields(&world.policies.create_policy(other).await.expect_err("another request")), ["request_id"]);
    let elsewhere = v1::UpdatePolicyRequest { request_id, ..update(policy("p", 1_000)) };
    assert_eq!(fields(&world.policies.update_policy(elsewhere).await.expect_err("another call")), ["request_id"]);
    assert_eq!(world.audit().await.len(), 2);
}

#[tokio::test]
async fn validate_only_stores_nothing() {
    let mut world = World::new().await;
    let ask = v1::CreatePolicyRequest { validate_only: true, ..create(policy("p", 1_000)) };
    let answer = world.policies.create_policy(ask).await.expect("it would be fine").into_inner();
    assert_eq!((answer.revision, answer.name.as_str()), (1, "policies/p"));
    assert_eq!(get(&mut world, "policies/p").await.expect_err("not stored").code(), Code::NotFound);
    world.create("p").await;
    let ask = v1::UpdatePolicyRequest { validate_only: true, ..update(policy("p", 2_000)) };
    assert_eq!(world.policies.update_policy(ask).await.expect("fine").into_inner().revision, 2);
    assert_eq!(get(&mut world, "policies/p").await.expect("there").revision, 1);
    let ask = v1::CreatePolicyRequest { validate_only: true, ..create(policy("p", 1_000)) };
    assert_eq!(world.policies.create_policy(ask).await.expect_err("it would fail").code(), Code::AlreadyExists);
    assert_eq!(world.audit().await.len(), 1);
}

#[tokio::test]
async fn what_is_deleted_stays_readable_and_its_name_goes_on_counting() {
    let mut world = World::new().await;
    let first = world.create("p").await;
    let delete = v1::DeletePolicyRequest { name: "policies/p".to_owned(), ..v1::DeletePolicyRequest::default() };
    world.policies.delete_policy(delete.clone()).await.expect("deleted");
    assert_eq!(get(&mut world, "policies/p").await.expect_err("gone").code(), Code::NotFound);
    assert_eq!(get(&mut world, "policies/p@1").await.expect("readable").rules, first.rules);
    assert_eq!(world.policies.delete_policy(delete).await.expect_err("gone").code(), Code::NotFound);
    let update_gone = world.policies.update_policy(update(policy("p", 9))).await.expect_err("gone");
    assert_eq!(update_gone.code(), Code::NotFound);
    let back = v1::UpdatePolicyRequest { allow_missing: true, ..update(policy("p", 3_000)) };
    let back = world.policies.update_policy(back).await.expect("made again").into_inner();
    assert_eq!(back.revision, 2);
    assert_ne!(back.uid, first.uid);
    assert_eq!(get(&mut world, "policies/p@1").await.expect("readable").uid, first.uid);
}

#[tokio::test]
async fn lists_go_by_pages() {
    let mut world = World::new().await;
    for id in ["c", "a", "b"] {
        world.create(id).await;
    }
    for syn_rto_ms in [2_000, 3_000] {
        world.update("b", syn_rto_ms, None).await;
    }
    let mut seen = vec![];
    let mut page_token = String::new();
    loop {
        let request = v1::ListPoliciesRequest { page_size: 2, page_token };
        let page = world.policies.list_policies(request).await.expect("a page").into_inner();
        seen.extend(page.policies.into_iter().map(|policy| (policy.name, policy.revision)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let expected = [("policies/a", 1), ("policies/b", 3), ("policies/c", 1)];
    assert_eq!(seen, expected.map(|(name, revision)| (name.to_owned(), revision)));

    let request =
        v1::ListPolicyRevisionsRequest { name: "policies/b".to_owned(), page_size: 2, page_token: String::new() };
    let page = world.policies.list_policy_revisions(request.clone()).await.expect("a page").into_inner();
    assert_eq!(page.policies.iter().map(|policy| policy.revision).collect::<Vec<_>>(), [3, 2]);
    let request = v1::ListPolicyRevisionsRequest { page_token: page.next_page_token.clone(), ..request };
    let last = world.policies.list_policy_revisions(request.clone()).await.expect("a page").into_inner();
    assert_eq!(last.policies.iter().map(|policy| policy.revision).collect::<Vec<_>>(), [1]);
    assert_eq!(last.next_page_token, "");
    let elsewhere = v1::ListPolicyRevisionsRequest { name: "policies/a".to_owned(), ..request };
    let status = world.policies.list_policy_revisions(elsewhere).await.expect_err("another list's token");
    assert_eq!(fields(&status), ["page_token"]);
}

#[tokio::test]
async fn experiments_are_served_alike() {
    let mut world = World::new().await;
    let request = v1::CreateExperimentRequest {
        experiment: Some(v1::Experiment { name: String::new(), ..experiment("e") }),
        experiment_id: "e".to_owned(),
        ..v1::CreateExperimentRequest::default()
    };
    let made = world.experiments.create_experiment(request).await.expect("created").into_inner();
    assert_eq!((made.name.as_str(), made.revision), ("experiments/e", 1));
    let mut changed = experiment("e");
    changed.arms[0].weight_bp = 2_000;
    changed.arms[1].weight_bp = 8_000;
    let request = v1::UpdateExperimentRequest {
        experiment: Some(changed),
        target: everyone(),
        ..v1::UpdateExperimentRequest::default()
    };
    assert_eq!(world.experiments.update_experiment(request).await.expect("updated").into_inner().revision, 2);
    let list = world.experiments.list_experiments(v1::ListExperimentsRequest::default()).await.expect("a list");
    assert_eq!(list.into_inner().experiments.len(), 1);
    let revisions =
        v1::ListExperimentRevisionsRequest { name: made.name.clone(), ..v1::ListExperimentRevisionsRequest::default() };
    let revisions = world.experiments.list_experiment_revisions(revisions).await.expect("a list").into_inner();
    assert_eq!(revisions.experiments.len(), 2);
    let delete = v1::DeleteExperimentRequest { name: made.name.clone(), ..v1::DeleteExperimentRequest::default() };
    world.experiments.delete_experiment(delete).await.expect("deleted");
    let get = v1::GetExperimentRequest { name: format!("{}@2", made.name) };
    assert_eq!(world.experiments.get_experiment(get).await.expect("readable").into_inner().arms[0].weight_bp, 2_000);
}

#[tokio::test]
async fn audit_says_who_did_what_and_why() {
    let mut world = World::new().await;
    let request = v1::CreatePolicyRequest {
        target: nobody(),
        reason: "long paths are slow".to_owned(),
        ..create(policy("p", 1_000))
    };
    let mut request = Request::new(request);
    request.metadata_mut().insert("x-sockpilot-actor", "alice".parse().expect("ascii"));
    world.policies.create_policy(request).await.expect("created");
    world.update("p", 2_000, None).await;
    let entries = world.audit().await;
    let [newest, oldest] = entries.as_slice() else { panic!("two changes, {entries:?}") };
    assert_eq!((oldest.actor.as_str(), oldest.method.as_str(), oldest.revision), ("alice", "CreatePolicy", 1));
    assert_eq!(oldest.reason, "long paths are slow");
    assert_eq!((newest.method.as_str(), newest.name.as_str(), newest.revision), ("UpdatePolicy", "policies/p", 2));
    let json: serde_json::Value = serde_json::from_str(&newest.request_json).expect("JSON");
    assert_eq!(json["policy"]["rules"][0]["set"]["synRtoMs"], 2_000);
    let request =
        v1::ListAuditEntriesRequest { name: "policies/other".to_owned(), ..v1::ListAuditEntriesRequest::default() };
    assert!(world.fleet.list_audit_entries(request).await.expect("entries").into_inner().entries.is_empty());
}
