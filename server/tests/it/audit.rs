//! The audit log: nobody changes it who runs as a server does, and whoever can change it is found out.

use sockpilot_audit::{Broken, Chain, Head};
use sockpilot_proto::v1;
use sockpilot_server::{
    Config, Database,
    store::{
        Error, Result, Settled, Store,
        audit::{AuditRow, Wanted, list},
        connection::PgConnection,
    },
    test_support,
};
use sqlx::AssertSqlSafe;

use crate::world::{World, policy, zone_map};

/// What a server is started with, and the same database as its owner has it.
async fn config_and_owner() -> (Config, Store) {
    let config = test_support::config().await;
    let owner = test_support::owner_store(&config).await;
    (config, owner)
}

/// Some changes of different things.
async fn fill(world: &mut World) {
    world.create("p").await;
    world.update("p", 2_000, crate::world::share(5_000)).await;
    let zones = Some(v1::ZoneMap { zones: zone_map(&[("eu-1", "10.0.0.0/8")]).zones, ..v1::ZoneMap::default() });
    let request = v1::UpdateZoneMapRequest { zone_map: zones, reason: "a µ map".to_owned(), ..Default::default() };
    world.zones.update_zone_map(request).await.expect("a map");
    let request = v1::PromoteRevisionRequest {
        name: "policies/p".to_owned(),
        force: true,
        reason: "it works\n\"really\"".to_owned(),
        ..v1::PromoteRevisionRequest::default()
    };
    world.assignments.promote_revision(request).await.expect("promoted");
    let request = v1::DeletePolicyRequest { name: "policies/p".to_owned(), ..v1::DeletePolicyRequest::default() };
    world.policies.delete_policy(request).await.expect("deleted");
}

/// All entries, as `audit export` reads them.
async fn exported(world: &World) -> Vec<v1::AuditEntry> {
    let (mut all, mut page_token) = (vec![], String::new());
    loop {
        let request = v1::ListAuditEntriesRequest { page_size: 3, page_token, oldest_first: true, name: String::new() };
        let page = world.fleet.clone().list_audit_entries(request).await.expect("entries").into_inner();
        all.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

fn verify(entries: &[v1::AuditEntry], noted: Option<&Head>) -> std::result::Result<Head, Broken> {
    let mut chain = Chain::through(noted.cloned());
    entries.iter().try_for_each(|entry| chain.take(entry))?;
    chain.end()
}

fn failed(source: sqlx::Error) -> Error {
    Error::Database { operation: "test", source }
}

async fn execute(conn: &mut PgConnection, sql: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await.map(drop).map_err(failed)
}

/// What the log would be after some statements of its owner, who has taken the triggers away.
async fn tampered(owner: &Store, sql: String) -> Vec<v1::AuditEntry> {
    let done = owner.transact("tamper", move |conn| {
        let sql = sql.clone();
        Box::pin(async move {
            execute(&mut *conn, "ALTER TABLE audit DISABLE TRIGGER USER").await?;
            execute(&mut *conn, &sql).await?;
            let wanted = Wanted { name: "", oldest_first: true, beyond: None, limit: 1_000 };
            Ok(Settled::Discard(list(conn, wanted).await?.0))
        })
    });
    done.await.expect("tampered with").into_iter().map(entry).collect()
}

fn entry(row: AuditRow) -> v1::AuditEntry {
    let AuditRow {
        sequence,
        at,
        actor,
        proof,
        role,
        method,
        name,
        revision,
        generation,
        reason,
        request_id,
        request_json,
        difference_json,
        previous_hash,
        hash,
    } = row;
    let nanos = i32::try_from(at.timestamp_subsec_nanos()).expect("below a second");
    v1::AuditEntry {
        sequence: sequence.cast_unsigned(),
        time: Some(prost_types::Timestamp { seconds: at.timestamp(), nanos }),
        revision: revision.cast_unsigned(),
        generation: generation.cast_unsigned(),
        actor,
        proof,
        role,
        method,
        name,
        reason,
        request_id,
        request_json,
        difference_json,
        previous_hash,
        hash,
    }
}

/// Another value for a column.
fn other(column: &str) -> &'static str {
    match column {
        "sequence" => "sequence + 1000",
        "at" => "at + interval '1 microsecond'",
        "revision" => "revision + 1",
        "generation" => "generation + 1",
        "request_json" => "(request_json::text || ' ')::json",
        "difference_json" => "'[{\"path\":\"x\"}]'::json",
        "previous_hash" => "sha256(previous_hash)",
        "hash" => "sha256(hash)",
        "actor" => "actor || 'x'",
        "proof" => "proof || 'x'",
        "role" => "role || 'x'",
        "method" => "method || 'x'",
        "name" => "name || 'x'",
        "reason" => "reason || 'x'",
        "request_id" => "request_id || 'x'",
        new => panic!("say how {new} is tampered with, and see to it that it is hashed"),
    }
}

async fn columns(owner: &Store) -> Vec<String> {
    let read = owner.read("columns", |conn| {
        Box::pin(async move {
            let query = "SELECT attname::text FROM pg_attribute WHERE attrelid = 'audit'::regclass AND attnum > 0 AND NOT attisdropped";
            sqlx::query_scalar(query).fetch_all(conn).await.map_err(failed)
        })
    });
    read.await.expect("columns")
}

#[tokio::test]
async fn each_column_of_each_row_counts() {
    let (config, owner) = config_and_owner().await;
    let mut world = World::of(config).await;
    fill(&mut world).await;
    let whole = exported(&world).await;
    assert_eq!(whole.len(), 5);
    verify(&whole, None).expect("whole");
    let columns = columns(&owner).await;
    assert_eq!(columns.len(), 15);
    for sequence in 1..=5 {
        for column in &columns {
            let sql = format!("UPDATE audit SET {column} = {} WHERE sequence = {sequence}", other(column));
            let found = verify(&tampered(&owner, sql).await, None);
            match (column.as_str(), sequence) {
                ("sequence", 5) => assert_eq!(found, Err(Broken::Missing { sequence, next: 1_005 })),
                ("sequence", _) => assert_eq!(found, Err(Broken::Missing { sequence, next: sequence + 1 })),
                _ => assert_eq!(found, Err(Broken::Changed { sequence }), "{column}"),
            }
        }
    }
    world.server.stop().await;
}

/// Numbers that look drawn, and are the same each time.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, bound: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// Makes numbers and hashes anew, as somebody does who knows how it is done.
const REHASH: &str = "
    DO $$
    DECLARE entry audit; head bytea := decode(repeat('00', 32), 'hex'); place bigint := 0;
    BEGIN
        FOR entry IN SELECT * FROM audit ORDER BY sequence LOOP
            place := place + 1;
            UPDATE audit SET sequence = -place WHERE sequence = entry.sequence;
            entry.sequence := place; entry.previous_hash := head; head := audit_hash(entry);
            UPDATE audit SET previous_hash = entry.previous_hash, hash = head WHERE sequence = -place;
        END LOOP;
        UPDATE audit SET sequence = -sequence;
    END $$;";

fn manipulation(drawn: &mut Drawn, columns: &[String], length: usize) -> String {
    let row = drawn.below(length) + 1;
    let column = &columns[drawn.below(columns.len())];
    let change = format!("UPDATE audit SET {column} = {} WHERE sequence = {row}", other(column));
    let rehash = if drawn.below(2) == 0 { REHASH } else { "" };
    let insert = |after: usize| {
        format!(
            "UPDATE audit SET sequence = -sequence - 1 WHERE sequence > {after}; UPDATE audit SET sequence = -sequence WHERE sequence < 0;
             INSERT INTO audit SELECT sequence + 1, at, 'mallory', method, name, revision, reason, request_json, generation, proof, role,
                 request_id, difference_json, hash, sha256(hash) FROM audit WHERE sequence = {after};"
        )
    };
    match drawn.below(6) {
        0 | 1 => change,
        // Numbers and hashes are made anew, so a change of these alone would be none.
        2 if !["sequence", "hash", "previous_hash"].contains(&column.as_str()) => format!("{change}; {REHASH}"),
        2 | 3 => format!("DELETE FROM audit WHERE sequence = {row}; {rehash}"),
        4 => format!("DELETE FROM audit WHERE sequence >= {row}"),
        // Behind the newest it would be an entry more.
        _ if row < length => format!("{} {rehash}", insert(row)),
        _ => {
            let with = row % length + 1;
            format!(
                "UPDATE audit SET sequence = 0 WHERE sequence = {row}; UPDATE audit SET sequence = {row} WHERE sequence = {with};
                 UPDATE audit SET sequence = {with} WHERE sequence = 0; {rehash}"
            )
        }
    }
}

#[tokio::test]
async fn a_thousand_manipulations_of_the_table_are_found() {
    let (config, owner) = config_and_owner().await;
    let mut world = World::of(config).await;
    for _ in 0..3 {
        fill(&mut world).await;
    }
    let whole = exported(&world).await;
    let noted = verify(&whole, None).expect("whole");
    // The manipulations that begin by making all anew find the same chain: what makes it there makes it here.
    assert_eq!(verify(&tampered(&owner, REHASH.to_owned()).await, Some(&noted)), Ok(noted.clone()));
    let (columns, mut drawn) = (columns(&owner).await, Drawn(17));
    for number in 0..1_000 {
        let sql = manipulation(&mut drawn, &columns, whole.len());
        let entries = tampered(&owner, sql.clone()).await;
        assert_ne!(entries, whole, "{number}: {sql}");
        assert!(verify(&entries, Some(&noted)).is_err(), "{number}: {sql}");
    }
    assert_eq!(verify(&exported(&world).await, Some(&noted)), Ok(noted));
    world.server.stop().await;
}

/// What the database says to a statement.
async fn refused(store: &Store, sql: &'static str) -> String {
    let done = store.transact("a statement of a test", move |conn| {
        Box::pin(async move {
            execute(conn, sql).await?;
            Ok(Settled::Commit(()))
        })
    });
    match done.await.expect_err(sql) {
        Error::Database { source, .. } => source.to_string(),
        other => panic!("{sql}: {other}"),
    }
}

#[tokio::test]
async fn a_server_can_add_to_the_log_and_nothing_else() {
    let (config, owner) = config_and_owner().await;
    let mut world = World::of(config.clone()).await;
    fill(&mut world).await;
    let before = exported(&world).await;
    let server = world.server.store();
    for sql in [
        "UPDATE audit SET reason = 'better'",
        "UPDATE audit SET reason = reason WHERE false",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "INSERT INTO audit (sequence, actor) VALUES (7, 'x')",
        "INSERT INTO audit (at, actor) VALUES (now() - interval '1 year', 'x')",
        "INSERT INTO audit (hash, previous_hash) VALUES ('', '')",
        "ALTER TABLE audit DISABLE TRIGGER USER",
        "DROP TRIGGER audit_refuse ON audit",
        "CREATE TRIGGER other BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION audit_refuse()",
        "CREATE RULE other AS ON INSERT TO audit DO INSTEAD NOTHING",
        "DROP TABLE audit",
        "CREATE OR REPLACE FUNCTION audit_hash(entry audit) RETURNS bytea LANGUAGE sql AS 'SELECT NULL::bytea'",
        "SET session_replication_role = replica",
        "SET ROLE sockpilot",
        "CREATE TABLE public.other ()",
        "UPDATE _sqlx_migrations SET checksum = ''",
    ] {
        let said = refused(server, sql).await;
        let denied = ["permission denied", "must be owner"].iter().any(|text| said.contains(text));
        assert!(denied, "{sql}: {said}");
    }
    for sql in ["UPDATE audit SET reason = 'better'", "DELETE FROM audit", "TRUNCATE audit"] {
        let said = refused(&owner, sql).await;
        assert!(said.contains("neither changed nor removed"), "{sql}: {said}");
    }
    assert_eq!(exported(&world).await, before);

    // A table of its own, found first, leads nobody astray.
    let done = server.transact("astray", |conn| {
        Box::pin(async move {
            execute(&mut *conn, "CREATE TEMP TABLE audit (LIKE public.audit) ON COMMIT DROP").await?;
            execute(
                conn,
                "INSERT INTO public.audit (actor, proof, role, method, name, revision, generation, reason, request_id, request_json,
                     difference_json) VALUES ('x', '', '', 'M', 'n', 0, 0, '', '', '{}', '[]')",
            )
            .await?;
            Ok(Settled::Commit(()))
        })
    });
    done.await.expect("an entry");
    let entries = exported(&world).await;
    assert_eq!(entries.len(), before.len() + 1);
    verify(&entries, Some(&verify(&before, None).expect("whole"))).expect("whole");
    assert_eq!(world.server.metrics().audit_kept.get(), 1);
    world.server.stop().await;

    let Database::At(address) = &config.database else { panic!("an address") };
    let address = test_support::owner(address).await;
    let world = World::of(Config { database: Database::At(address), ..config }).await;
    assert_eq!(world.server.metrics().audit_kept.get(), 0, "who owns the table can do as they like");
    world.server.stop().await;
}

#[tokio::test]
async fn servers_that_change_things_at_once_make_one_chain() {
    let config = test_support::config().await;
    let (one, other) = (World::of(config.clone()).await, World::of(config).await);
    // Two clients of each server, each with ten changes.
    let create = |world: &World, client: &'static str| {
        let mut policies = world.policies.clone();
        async move {
            for number in 0..10 {
                let policy = Some(policy(&format!("{client}-{number}"), 1_000));
                policies
                    .create_policy(v1::CreatePolicyRequest { policy, ..Default::default() })
                    .await
                    .expect("created");
            }
        }
    };
    tokio::join!(create(&one, "a"), create(&other, "b"), create(&one, "c"), create(&other, "d"));
    let entries = exported(&one).await;
    assert_eq!(verify(&entries, None).map(|head| head.sequence), Ok(40));
    let generations: Vec<u64> = entries.iter().map(|entry| entry.generation).collect();
    assert!(generations.is_sorted_by(|a, b| a < b), "the order of the chain is that of the commits: {generations:?}");
    assert!(entries.is_sorted_by_key(|entry| entry.time.map(|time| (time.seconds, time.nanos))));
    for world in [one, other] {
        world.server.stop().await;
    }
}

#[tokio::test]
async fn an_entry_says_what_a_change_made_different() {
    let mut world = World::new().await;
    fill(&mut world).await;
    let differences: Vec<(String, serde_json::Value)> = exported(&world)
        .await
        .into_iter()
        .map(|entry| (entry.method, serde_json::from_str(&entry.difference_json).expect("JSON")))
        .collect();
    let of = |index: usize, path: &str| {
        let (method, difference) = &differences[index];
        let found = difference.as_array().expect("a list").iter().find(|entry| entry["path"] == path);
        found.unwrap_or_else(|| panic!("{path} of {method}: {difference}")).clone()
    };
    assert_eq!(of(0, "document.rules[all].set.synRtoMs")["after"], 1_000);
    assert_eq!(of(0, "everyone")["after"], 1);
    let changed = of(1, "document.rules[all].set.synRtoMs");
    assert_eq!((&changed["before"], &changed["after"]), (&1_000.into(), &2_000.into()));
    assert_eq!(of(1, "canary.revision")["after"], 2);
    assert_eq!(of(2, "zones[eu-1].prefixes")["after"], serde_json::json!(["10.0.0.0/8"]));
    assert_eq!(of(3, "canary.revision"), serde_json::json!({ "path": "canary.revision", "before": 2 }));
    assert_eq!((of(3, "everyone")["before"].clone(), of(3, "everyone")["after"].clone()), (1.into(), 2.into()));
    assert_eq!(of(4, "everyone")["before"], 2, "what was deleted");
    world.server.stop().await;
}

#[tokio::test]
async fn a_page_is_bounded_in_bytes_and_nothing_is_left_out() {
    let (config, owner) = config_and_owner().await;
    let world = World::of(config).await;
    // 30 entries of 300 KB.
    let sql = "INSERT INTO audit (actor, proof, role, method, name, revision, generation, reason, request_id, request_json, difference_json)
               SELECT 'x', '', '', 'M', 'n', i, 0, '', '', to_json(repeat('x', 300000)), '[]' FROM generate_series(1, 30) AS i";
    let done = owner.transact("fill", move |conn| {
        Box::pin(async move {
            execute(conn, sql).await?;
            Ok(Settled::Commit(()))
        })
    });
    done.await.expect("filled");
    let request = v1::ListAuditEntriesRequest { page_size: 200, ..v1::ListAuditEntriesRequest::default() };
    let mut fleet = world.fleet.clone().max_decoding_message_size(64 << 20);
    let page = fleet.list_audit_entries(request.clone()).await.expect("entries").into_inner();
    let sequences =
        |page: &v1::ListAuditEntriesResponse| -> Vec<u64> { page.entries.iter().map(|entry| entry.sequence).collect() };
    assert_eq!(sequences(&page), (17..=30).rev().collect::<Vec<_>>(), "14 of them are 4 MiB");
    let next = v1::ListAuditEntriesRequest { page_token: page.next_page_token, ..request };
    let page = fleet.list_audit_entries(next).await.expect("entries").into_inner();
    assert_eq!(sequences(&page)[0], 16);
    world.server.stop().await;
}
