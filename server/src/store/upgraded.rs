//! A database with data of an earlier version, brought up to date.

use std::borrow::Cow;

use sockpilot_policy::{bucket::share_position, model::Labels};
use sockpilot_proto::v1;
use sqlx::{AssertSqlSafe, Connection, PgConnection, migrate::Migrator};

use super::{Store, audit, connection, control, fleet, layer};
use crate::{
    change::{document::Document, wave::Candidate},
    metrics::Metrics,
    test_support,
};

/// The last migration before a canary had waves and an experiment words.
const BEFORE: i64 = 9;

/// The migrations up to a version.
fn up_to(version: i64) -> Migrator {
    let all = super::schema::migrations();
    let migrations = all.migrations.iter().filter(|migration| migration.version <= version).cloned().collect();
    Migrator { migrations: Cow::Owned(migrations), ..all }
}

/// Fifty nodes, every other one in zone b; a policy with each kind of canary, and an experiment with one and one without.
async fn fill(connection: &mut PgConnection) {
    for number in 0..50 {
        let id = format!("node-{number}");
        let zone = if number % 2 == 0 { "a" } else { "b" };
        sqlx::query(
            "INSERT INTO node (node_id, labels, share_position, daemon_version, kernel) VALUES ($1, $2::jsonb, $3, '', '')",
        )
        .bind(&id)
        .bind(format!("{{\"zone\": \"{zone}\"}}"))
        .bind(share_position(&id).cast_signed())
        .execute(&mut *connection)
        .await
        .expect("a node");
    }
    for (name, canary) in [
        ("policies/share", Some("'share', 2500, NULL")),
        ("policies/labels", Some("'labels', NULL, '{\"zone\": \"b\"}'")),
        ("experiments/canary", Some("'share', 5000, NULL")),
        ("experiments/running", None),
    ] {
        let document = v1::Experiment { description: "as it was".to_owned(), ..v1::Experiment::default() };
        let document = if name.starts_with("experiments") { prost::Message::encode_to_vec(&document) } else { vec![] };
        sqlx::query("INSERT INTO layer_object (name, latest_revision) VALUES ($1, 2)")
            .bind(name)
            .execute(&mut *connection)
            .await
            .expect("an object");
        sqlx::query(
            "INSERT INTO revision (name, revision, uid, document, node_labels, creator)
             SELECT name, number, uid, $2, '{}', 'ann' FROM layer_object, generate_series(1, 2) AS number WHERE name = $1",
        )
        .bind(name)
        .bind(document)
        .execute(&mut *connection)
        .await
        .expect("revisions");
        let assign = |revision: u8, target: &str| {
            format!(
                "INSERT INTO assignment (name, revision, target, share_bp, labels, reason, actor)
                 VALUES ('{name}', {revision}, {target}, 'why', 'ann')"
            )
        };
        let everyone = assign(1, "'everyone', NULL, NULL");
        for sql in std::iter::once(everyone).chain(canary.map(|canary| assign(2, canary))) {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await.expect("an assignment");
        }
    }
}

/// Every node with the revision that it has of every layer.
async fn assigned(connection: &mut PgConnection) -> Vec<(String, String, i64)> {
    sqlx::query_as("SELECT node_id, layer, revision FROM node_assignment ORDER BY node_id, layer")
        .fetch_all(connection)
        .await
        .expect("rows")
}

#[tokio::test]
async fn canaries_keep_their_members_and_those_of_experiments_end() {
    let address = test_support::empty_database().await;
    let candidates = address.candidates().expect("an address");
    let mut connection = PgConnection::connect_with(candidates.first()).await.expect("connected");
    up_to(BEFORE).run(&mut connection).await.expect("as it was");
    fill(&mut connection).await;
    let before = assigned(&mut connection).await;
    super::schema::migrations().run(&mut connection).await.expect("up to date");

    let after = assigned(&mut connection).await;
    let of = |rows: &[(String, String, i64)], layer: &str| {
        let of: Vec<_> = rows.iter().filter(|row| row.1 == layer).map(|row| (row.0.clone(), row.2)).collect();
        assert_eq!(of.len(), 50, "{layer}");
        of
    };
    for layer in ["policies/share", "policies/labels", "experiments/running"] {
        assert_eq!(of(&before, layer), of(&after, layer), "{layer}");
    }
    let with = |layer| of(&before, layer).iter().filter(|(_, revision)| *revision == 2).count();
    assert_eq!((with("policies/labels"), with("policies/share") > 0), (25, true), "the canaries had members");
    assert!(with("experiments/canary") > 0);
    assert!(of(&after, "experiments/canary").iter().all(|(_, revision)| *revision == 1), "it has none any more");
    connection.close().await.expect("closed");
    let store = Store::new(candidates, Metrics::new());
    let read = store.read("test", |conn| {
        Box::pin(async move {
            agrees(conn, &after).await;
            Ok(())
        })
    });
    read.await.expect("read");
}

/// The server reads what the database says: members, words and why a canary was ended.
async fn agrees(conn: &mut connection::PgConnection, after: &[(String, String, i64)]) {
    let loaded = fleet::load(&mut *conn, fleet::Revisions::default()).await.expect("loaded").fleet;
    for number in 0..50 {
        let id = format!("node-{number}");
        let rows: Vec<_> = after.iter().filter(|row| row.0 == id).map(|row| (row.1.clone(), row.2)).collect();
        let zone = if number % 2 == 0 { "a" } else { "b" };
        let labels = Labels::from([("zone".to_owned(), zone.to_owned())]);
        let node = Candidate { id: &id, share_position: share_position(&id), labels: &labels };
        let given = loaded.layers_of(&node);
        let given = given.iter().filter(|given| given.origin != crate::fleet::resolve::Origin::Standby);
        let mut given: Vec<_> =
            given.map(|given| (given.revision.name.to_string(), given.revision.revision.cast_signed())).collect();
        given.sort();
        assert_eq!(given, rows, "{id}");
    }
    let name = "experiments/canary".parse().expect("a name");
    let Document::Experiment(read) = layer::document(&mut *conn, &name, None).await.expect("readable") else {
        panic!("an experiment")
    };
    assert_eq!((read.description.as_str(), read.state()), ("as it was", v1::ExperimentState::Running));
    let wanted = audit::Wanted { name: "", oldest_first: true, beyond: None, limit: 10 };
    let (entries, _) = audit::list(&mut *conn, wanted).await.expect("entries");
    let [entry] = entries.as_slice() else { panic!("one: {entries:?}") };
    assert_eq!((entry.name.as_str(), entry.revision, entry.method.as_str()), ("experiments/canary", 2, "Migrate"));
    assert!(entry.reason.contains("no canary any more") && entry.request_json.contains("5000"), "{entry:?}");
    let generation = control::get(conn).await.expect("control").generation;
    assert_eq!((generation, entry.generation), (2, 2), "nodes hear of it");
}

#[tokio::test]
async fn entries_of_the_audit_log_from_before_the_chain_are_in_it() {
    let address = test_support::empty_database().await;
    let candidates = address.candidates().expect("an address");
    let mut connection = PgConnection::connect_with(candidates.first()).await.expect("connected");
    up_to(15).run(&mut connection).await.expect("as it was");
    sqlx::raw_sql(
        r#"INSERT INTO audit (sequence, at, actor, method, name, revision, reason, request_json, generation) VALUES
           (1, '2026-03-01 12:00:00.000001+01', 'ann@desk', 'CreatePolicy', 'policies/a', 1, 'wéil', '{ "b": 1,  "a": 2 }', 1),
           (2, '1969-12-31 23:59:59.5Z', '', 'M', 'n', 0, E'two\nlines', 'null', 1),
           (3, now(), 'bob', 'M', 'n', 0, '', '[]', 2)"#,
    )
    .execute(&mut connection)
    .await
    .expect("as it was");
    super::schema::migrations().run(&mut connection).await.expect("up to date");
    connection.close().await.expect("closed");
    let store = Store::new(candidates, Metrics::new());
    let read = store.read("test", |conn| {
        Box::pin(async move {
            let wanted = audit::Wanted { name: "", oldest_first: true, beyond: None, limit: 10 };
            audit::list(conn, wanted).await
        })
    });
    let (rows, _) = read.await.expect("read");
    let mut chain = sockpilot_audit::Chain::through([]);
    for row in rows {
        chain.take(&crate::grpc::convert::change::audit_entry_to_proto(row)).expect("whole");
    }
    assert_eq!(chain.head().sequence, 3);
}
