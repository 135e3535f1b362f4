//! A database that has lost what it had acknowledged, without a word: servers see it, and its history goes on under another epoch.

use std::time::Duration;

use sockpilot_proto::v1;
use sockpilot_server::{
    Config,
    store::{Error, Settled, Store},
    test_support,
};

use crate::world::{TestNode, World, everyone, generation, hello, layers, until};

/// The newest change of `policies/p` was never made.
const LOSE: &str = "
    ALTER TABLE audit DISABLE TRIGGER USER;
    DELETE FROM audit WHERE sequence = (SELECT max(sequence) FROM audit);
    ALTER TABLE audit ENABLE TRIGGER USER;
    DELETE FROM assignment WHERE ended_at IS NULL;
    UPDATE assignment SET ended_at = NULL WHERE assignment_id = (SELECT max(assignment_id) FROM assignment);
    DELETE FROM rollout_transition;
    DELETE FROM rollout;
    DELETE FROM confirmed_revision WHERE revision = (SELECT max(revision) FROM revision);
    DELETE FROM revision WHERE revision = (SELECT max(revision) FROM revision);
    UPDATE layer_object SET latest_revision = latest_revision - 1;
    UPDATE control SET generation = generation - 1;
    NOTIFY sockpilot_generation";
/// And others were made in its place, so that no number is lower.
const OVERTAKE: &str = "
    INSERT INTO audit (actor, proof, role, method, name, revision, generation, reason, request_id, request_json, difference_json)
        SELECT 'another', 'nothing', '', 'UpdatePolicy', 'policies/q', 1, generation, '', '', '{}', '[]' FROM control;
    UPDATE control SET generation = generation + 5;
    NOTIFY sockpilot_generation";

async fn execute(owner: &Store, statements: [&'static str; 2]) {
    let done = owner.transact("lose", move |conn| {
        Box::pin(async move {
            for sql in statements {
                let failed = |source| Error::Database { operation: "test", source };
                sqlx::raw_sql(sql).execute(&mut *conn).await.map_err(failed)?;
            }
            Ok(Settled::Commit(()))
        })
    });
    done.await.expect("lost");
}

fn epoch(snapshot: &v1::Snapshot) -> String {
    snapshot.version.clone().expect("a version").database_epoch
}

/// Two servers with a node each, at the third revision of a policy.
async fn fleet(config: &Config) -> ([World; 2], [TestNode; 2], v1::Snapshot) {
    let mut worlds = [World::of(config.clone()).await, World::of(config.clone()).await];
    worlds[0].create("p").await;
    worlds[1].update("p", 2_000, everyone()).await;
    worlds[0].update("p", 3_000, everyone()).await;
    let mut nodes = [worlds[0].connect(hello("a")).await, worlds[1].connect(hello("b")).await];
    let mut last = v1::Snapshot::default();
    for (world, node) in worlds.iter_mut().zip(&mut nodes) {
        last = node.take().await;
        assert_eq!(layers(&last), ["policies/p@3"]);
        world.confirmed("policies/p", 3).await;
    }
    (worlds, nodes, last)
}

async fn lost(statements: [&'static str; 2], said: &str) {
    let config = Config { poll: Duration::from_millis(300), ..test_support::config().await };
    let owner = test_support::owner_store(&config).await;
    let (mut worlds, mut nodes, before) = fleet(&config).await;
    assert!(worlds[0].audit().await.iter().all(|entry| entry.method != "ChangeEpoch"), "two servers are no loss");

    execute(&owner, statements).await;
    let mut epochs = vec![];
    for node in &mut nodes {
        let now = loop {
            let now = node.take().await;
            if epoch(&now) != epoch(&before) {
                break now;
            }
        };
        assert_eq!(layers(&now), ["policies/p@2"], "nodes follow it down");
        epochs.push((epoch(&now), generation(&now)));
    }
    assert_eq!(epochs[0], epochs[1], "the servers agree");
    let entries = async || worlds[1].fleet.clone().list_audit_entries(v1::ListAuditEntriesRequest::default()).await;
    let entries = entries().await.expect("entries").into_inner().entries;
    let changes: Vec<_> = entries.iter().filter(|entry| entry.method == "ChangeEpoch").collect();
    let [change] = changes.as_slice() else { panic!("one: {changes:?}") };
    assert_eq!((change.actor.as_str(), change.name.as_str()), ("controllers/refresh", "database"));
    assert!(change.reason.contains(said), "{}", change.reason);
    assert!(change.difference_json.contains(&epochs[0].0) && change.difference_json.contains(&epoch(&before)));

    worlds[0].update("p", 4_000, everyone()).await;
    for node in &mut nodes {
        assert_eq!(layers(&node.take().await), ["policies/p@3"], "and up again");
    }
    let up = worlds[0].server.metrics().database_up.clone();
    until("nobody is away", async || up.get(), |up| *up == 1).await;
    for world in worlds {
        world.server.stop().await;
    }
}

#[tokio::test]
async fn generations_that_are_gone_make_a_new_epoch() {
    lost([LOSE, "SELECT"], "the audit log is not the one that was seen").await;
}

#[tokio::test]
async fn what_was_lost_and_overtaken_is_noticed_by_the_audit_log() {
    lost([LOSE, OVERTAKE], "the audit log is not the one that was seen").await;
}

#[tokio::test]
async fn a_generation_that_is_lower_is_enough() {
    let config = Config { poll: Duration::from_millis(300), ..test_support::config().await };
    let owner = test_support::owner_store(&config).await;
    let (worlds, mut nodes, before) = fleet(&config).await;
    execute(&owner, ["UPDATE control SET generation = 2", "NOTIFY sockpilot_generation"]).await;
    for node in &mut nodes {
        let now = node.take().await;
        assert_ne!(epoch(&now), epoch(&before));
    }
    for world in worlds {
        world.server.stop().await;
    }
}
