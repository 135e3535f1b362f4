//! Everything that people have decided goes to another server and back, as a whole or not at all.

use prost_types::Timestamp;
use sockpilot_proto::v1::{
    self, backup_item::Item, backup_service_client::BackupServiceClient, restore_backup_request::Part,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::world::{World, channel, experiment, hello, labels, layers, nobody, policy, zone_map};

pub async fn export(world: &World) -> Vec<v1::BackupItem> {
    let mut client = BackupServiceClient::new(channel(&world.server).await);
    let mut stream = client.export_backup(v1::ExportBackupRequest {}).await.expect("exported").into_inner();
    let mut items = vec![];
    while let Some(item) = stream.message().await.expect("an item") {
        items.push(item);
    }
    items
}

/// Names, revisions and results.
async fn restore(
    world: &World,
    items: &[v1::BackupItem],
    validate_only: bool,
) -> Result<Vec<(String, u64, v1::RestoreResult)>, Status> {
    let restored = restored(world, items, validate_only).await?;
    Ok(restored.into_iter().map(|one| (one.name.clone(), one.revision, one.result())).collect())
}

pub async fn restored(
    world: &World,
    items: &[v1::BackupItem],
    validate_only: bool,
) -> Result<Vec<v1::Restored>, Status> {
    let header = Part::Header(v1::RestoreHeader { reason: "the old one burned".to_owned(), validate_only });
    let parts: Vec<_> = std::iter::once(header).chain(items.iter().cloned().map(Part::Item)).collect();
    let parts = parts.into_iter().map(|part| v1::RestoreBackupRequest { part: Some(part) });
    let mut client = BackupServiceClient::new(channel(&world.server).await);
    Ok(client.restore_backup(tokio_stream::iter(parts)).await?.into_inner().restored)
}

/// A policy with four revisions, of which everyone has the second and some the third; one that was deleted and made anew; an
/// experiment that was deleted; and zones that one of them names.
async fn fill(world: &mut World) {
    let update = v1::UpdateZoneMapRequest {
        zone_map: Some(zone_map(&[("fra-1", "10.1.0.0/16")])),
        ..v1::UpdateZoneMapRequest::default()
    };
    world.zones.update_zone_map(update).await.expect("zones");
    world.create("p").await;
    world.update("p", 2_000, None).await;
    world.update("p", 3_000, labels("zone", "a")).await;
    world.update("p", 4_000, nobody()).await;
    world.create("q").await;
    delete(world, "q").await;
    let matches = v1::Match { local_zones: vec!["fra-1".to_owned()], ..v1::Match::default() };
    let mut zoned = policy("q", 5_000);
    zoned.rules[0].r#match = Some(matches);
    let create = v1::CreatePolicyRequest { policy: Some(zoned), ..v1::CreatePolicyRequest::default() };
    world.policies.create_policy(create).await.expect("made anew");
    let create =
        v1::CreateExperimentRequest { experiment: Some(experiment("e")), ..v1::CreateExperimentRequest::default() };
    world.experiments.create_experiment(create).await.expect("created");
    let name = "experiments/e".to_owned();
    let delete = v1::DeleteExperimentRequest { name, ..v1::DeleteExperimentRequest::default() };
    world.experiments.delete_experiment(delete).await.expect("deleted");
}

async fn delete(world: &mut World, id: &str) {
    let delete = v1::DeletePolicyRequest { name: format!("policies/{id}"), ..v1::DeletePolicyRequest::default() };
    world.policies.delete_policy(delete).await.expect("deleted");
}

/// What two servers must agree about: all but uids and the moments of storing.
fn essence(items: Vec<v1::BackupItem>) -> Vec<Item> {
    let essence = |item: v1::BackupItem| match item.item.expect("something") {
        Item::Policy(policy) => Item::Policy(v1::Policy { uid: String::new(), ..policy }),
        Item::Experiment(experiment) => Item::Experiment(v1::Experiment { uid: String::new(), ..experiment }),
        other => other,
    };
    items.into_iter().map(essence).collect()
}

#[tokio::test]
async fn a_backup_goes_back_on_an_empty_server_and_its_nodes_get_what_they_had() {
    let (mut old, mut new) = (World::new().await, World::new().await);
    fill(&mut old).await;
    let items = export(&old).await;
    assert_eq!(items.len(), 1 + 2 + 5 + 3, "the map, the experiment, p and q, each with a history");
    let created = [("zoneMap", 0), ("experiments/e", 1), ("policies/p", 4), ("policies/q", 2)]
        .map(|(name, revision)| (name.to_owned(), revision, v1::RestoreResult::Created));
    assert_eq!(restore(&new, &items, true).await.expect("it would be"), created);
    assert_eq!(export(&new).await, [], "nothing is stored by asking");
    assert_eq!(restore(&new, &items, false).await.expect("restored"), created);
    assert_eq!(essence(export(&new).await), essence(items.clone()), "everything is there, to the moment");

    let mut canary = new.connect(hello("canary")).await;
    let mut other = new.connect(v1::Hello { labels: [].into(), ..hello("other") }).await;
    assert_eq!(layers(&canary.take().await), ["policies/p@3", "policies/q@2"]);
    assert_eq!(layers(&other.take().await), ["policies/p@2", "policies/q@2"]);

    let unchanged = restore(&new, &items, false).await.expect("again");
    assert!(unchanged.iter().all(|(.., result)| *result == v1::RestoreResult::Unchanged), "{unchanged:?}");
    let audit = new.audit().await;
    assert_eq!(audit.len(), 4, "one entry for each thing, and none for the second time");
    assert!(audit.iter().all(|entry| entry.method == "RestoreBackup" && entry.reason == "the old one burned"));
    assert_eq!(audit[0].generation, audit[3].generation, "it came in force at once");

    let name = "policies/p".to_owned();
    let back = v1::RollbackRevisionRequest { name, ..v1::RollbackRevisionRequest::default() };
    for expected in [2, 1] {
        let status = new.assignments.rollback_revision(back.clone()).await.expect("back").into_inner();
        assert_eq!(status.assignments[0].revision, expected, "the way back was in the backup");
    }
    let (before, after) = (old.status("policies/p").await.etag, new.status("policies/p").await.etag);
    assert_ne!(before.split('-').next(), after.split('-').next(), "no etag of the old server is one of the new");
}

#[tokio::test]
async fn waves_keep_their_salt_and_experiments_their_words() {
    let (mut old, new) = (World::new().await, World::new().await);
    old.create("p").await;
    let share = v1::Selector { kind: Some(v1::selector::Kind::ShareBp(2_000)) };
    let named = v1::selector::Nodes { nodes: vec!["nodes/n1".to_owned(), "nodes/n2".to_owned()] };
    let selectors = vec![share, v1::Selector { kind: Some(v1::selector::Kind::Nodes(named)) }];
    let waves = v1::target::Waves { selectors, salt: String::new(), flow_share_bp: 0 };
    old.update("p", 2_000, Some(v1::Target { kind: Some(v1::target::Kind::Waves(waves)) })).await;
    for description in ["tpyo", "typo"] {
        let described = v1::Experiment { description: description.to_owned(), ..experiment("e") };
        let request = v1::UpdateExperimentRequest {
            experiment: Some(described),
            allow_missing: true,
            ..v1::UpdateExperimentRequest::default()
        };
        assert_eq!(old.experiments.update_experiment(request).await.expect("stored").into_inner().revision, 1);
    }
    let items = export(&old).await;
    restore(&new, &items, false).await.expect("restored");
    assert_eq!(essence(export(&new).await), essence(items.clone()), "salt, waves and words");
    let again = restore(&new, &items, false).await.expect("again");
    assert!(again.iter().all(|(.., result)| *result == v1::RestoreResult::Unchanged), "{again:?}");

    // Of a server that still had canaries of experiments.
    let mut items = items;
    for item in &mut items {
        if let Some(Item::History(history)) = &mut item.item
            && history.name == "experiments/e"
        {
            history.assignments[0].target = crate::world::share(500);
        }
    }
    let refused = restore(&World::new().await, &items, false).await.expect_err("it has none");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("give that assignment an end_time"), "{refused:?}");
}

#[tokio::test]
async fn what_was_deleted_comes_back_on_the_same_server() {
    let mut world = World::new().await;
    fill(&mut world).await;
    let items = export(&world).await;
    delete(&mut world, "p").await;
    let restored = restore(&world, &items, false).await.expect("restored");
    let revived: Vec<_> =
        restored.iter().filter(|(.., result)| *result == v1::RestoreResult::Revived).map(|(name, ..)| name).collect();
    assert_eq!(revived, ["policies/p"]);
    let status = world.status("policies/p").await;
    let held: Vec<_> = status.assignments.iter().map(|one| (one.revision, one.reason.as_str())).collect();
    assert_eq!(held, [(2, "the old one burned"), (3, "the old one burned")]);
    let name = "policies/p".to_owned();
    let back = v1::RollbackRevisionRequest { name, ..v1::RollbackRevisionRequest::default() };
    world.assignments.rollback_revision(back.clone()).await.expect("the canary ends");
    let status = world.assignments.rollback_revision(back).await.expect("back").into_inner();
    assert_eq!(status.assignments[0].revision, 1);
}

#[tokio::test]
async fn what_is_otherwise_here_is_never_overwritten_and_nothing_is_half_restored() {
    let (mut old, mut new) = (World::new().await, World::new().await);
    fill(&mut old).await;
    let items = export(&old).await;
    new.create("q").await;
    new.update("q", 7, None).await;
    let update = v1::UpdateZoneMapRequest {
        zone_map: Some(zone_map(&[("ham-1", "10.2.0.0/16")])),
        ..v1::UpdateZoneMapRequest::default()
    };
    new.zones.update_zone_map(update).await.expect("zones");
    let before = export(&new).await;
    let refused = restore(&new, &items, false).await.expect_err("otherwise");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let failure = refused.get_error_details().precondition_failure().cloned().expect("each is named");
    let subjects: Vec<_> = failure.violations.iter().map(|violation| violation.subject.as_str()).collect();
    assert_eq!(subjects, ["zoneMap", "policies/q", "policies/q"], "{failure:?}");
    assert_eq!(export(&new).await, before);
}

#[tokio::test]
async fn a_faulty_backup_is_refused_with_every_fault() {
    let world = World::new().await;
    let moment = Some(Timestamp { seconds: 1, nanos: 0 });
    let sound = v1::Policy {
        revision: 1,
        uid: "3e3a1b1c-0000-4000-8000-0123456789ab".to_owned(),
        create_time: moment,
        ..policy("p", 1_000)
    };
    let item = |item| v1::BackupItem { item: Some(item) };
    let history = |revision, end_time| {
        let target = Some(v1::Target { kind: Some(v1::target::Kind::ShareBp(5)) });
        let one = v1::Assignment { revision, target, start_time: moment, end_time, ..v1::Assignment::default() };
        item(Item::History(v1::History {
            name: "policies/p".to_owned(),
            deleted: false,
            assignments: vec![one.clone(), one],
            rollout: String::new(),
        }))
    };
    let plan = v1::RolloutPlan { name: "rolloutPlans/mine".to_owned(), ..v1::RolloutPlan::default() };
    let settings = v1::RolloutSettings { max_flows_bp: 10_001, ..v1::RolloutSettings::default() };
    let cases: [(Vec<v1::BackupItem>, &[&str]); 8] = [
        (
            vec![item(Item::RolloutPlan(plan))],
            &["items[0].rollout_plan.create_time", "items[0].rollout_plan.revision", "items[0].rollout_plan.waves"],
        ),
        (vec![item(Item::RolloutSettings(settings))], &["items[0].rollout_settings.max_flows_bp"]),
        (vec![v1::BackupItem::default()], &["items[0]"]),
        (vec![item(Item::Policy(sound.clone()))], &["items[0]"]),
        (vec![history(1, moment)], &["items[0]"]),
        (vec![item(Item::Policy(sound.clone())), history(2, moment)], &["items[0]"]),
        (vec![item(Item::Policy(sound.clone())), history(1, None)], &["items[0]"]),
        (
            vec![
                item(Item::Policy(v1::Policy {
                    revision: 0,
                    uid: "u".to_owned(),
                    create_time: None,
                    ..policy("p", 0)
                })),
                history(1, moment),
            ],
            &[
                "items[0]",
                "items[0].policy.create_time",
                "items[0].policy.revision",
                "items[0].policy.rules[0].set.syn_rto_ms",
                "items[0].policy.uid",
            ],
        ),
    ];
    for (items, expected) in cases {
        let refused = restore(&world, &items, false).await.expect_err("faulty");
        assert_eq!(crate::world::fields(&refused), expected, "{refused:?}");
    }
    let sound = vec![item(Item::Policy(sound)), history(1, moment)];
    assert_eq!(restore(&world, &sound, true).await.expect("sound").len(), 1);
    assert_eq!(export(&world).await, [], "nothing is stored");
}
