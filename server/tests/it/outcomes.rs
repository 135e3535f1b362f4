//! Outcomes over time: merged by minute, hour and day without another result, kept for a time and within a bound, and moved from the
//! former schema.

use prost::Message;
use prost_types::Timestamp;
use sockpilot_proto::v1;
use sockpilot_server::{
    Config, Database,
    metrics::Metrics,
    outcome::{
        Level,
        retention::{Limits, Retention},
    },
    store::{Error, Settled, Store, partition, rollup},
    task::{FleetTask, leader::Fence},
    test_support,
};

use crate::{
    reports::{cell, report},
    world::{World, hello, hours_ago},
};

const HOUR_S: u64 = 3_600;

fn time(second: u64) -> Option<Timestamp> {
    Some(Timestamp { seconds: second.cast_signed(), nanos: 0 })
}

async fn send(world: &World, node: &str, sequence: u64, cells: Vec<v1::FlowCell>) {
    let report = v1::FlowReport { node_id: node.to_owned(), ..report(sequence, cells) };
    world.nodes.clone().report_flows(report).await.expect("committed");
}

async fn ask(world: &World, query: v1::QueryOutcomesRequest) -> v1::QueryOutcomesResponse {
    let query = v1::QueryOutcomesRequest { name: "policies/p".to_owned(), by_size_class: true, ..query };
    world.fleet.clone().query_outcomes(query).await.expect("outcomes").into_inner()
}

async fn flows(world: &World) -> u64 {
    let all = ask(world, v1::QueryOutcomesRequest::default()).await;
    all.rows.iter().filter_map(|row| row.counts).map(|counts| counts.flows).sum()
}

/// Merges all that is over and stale, as the task does.
pub async fn roll_up(store: &Store) {
    for level in Level::ALL {
        let stale = store.read("stale", |conn| Box::pin(async move { rollup::stale(conn, level, 0, 10_000).await }));
        for bucket in stale.await.expect("found") {
            let make = store.transact("make", move |conn| {
                Box::pin(async move { Ok(Settled::Commit(rollup::make(conn, bucket).await?)) })
            });
            make.await.expect("made");
        }
    }
}

pub async fn execute(store: &Store, statements: String) {
    let done = store.transact("a statement of a test", move |conn| {
        let statements = sqlx::AssertSqlSafe(statements.clone());
        Box::pin(async move {
            let done = sqlx::raw_sql(statements).execute(conn).await;
            done.map(|_| Settled::Commit(())).map_err(|source| Error::Database { operation: "a test", source })
        })
    });
    done.await.expect("executed");
}

pub async fn number(store: &Store, query: &'static str) -> i64 {
    let read = store.read("a number", move |conn| {
        Box::pin(async move {
            let number = sqlx::query_scalar(query).fetch_one(conn).await;
            number.map_err(|source| Error::Database { operation: "a test", source })
        })
    });
    read.await.expect("a number")
}

/// Runs retention at once, as the leader.
async fn retain(store: &Store, limits: Limits) -> String {
    let fence = Fence { epoch: number(store, "SELECT epoch FROM leader").await };
    let mut task = Retention { store: store.clone(), limits, metrics: Metrics::new() };
    task.run(fence).await.expect("done")
}

/// Rows are equal: counts and quantiles exactly, means and deviations but for rounding.
fn assert_same(before: &[v1::OutcomeRow], after: &[v1::OutcomeRow]) {
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(after) {
        assert_eq!((&before.choice, before.size_class, before.counts), (&after.choice, after.size_class, after.counts));
        let parts = |row: &v1::OutcomeRow| row.connect_time_us.expect("times");
        let (before, after) = (parts(before), parts(after));
        let exact = |q: &v1::Quantiles| (q.count, [q.min, q.p50, q.p90, q.p99, q.max].map(f64::to_bits));
        assert_eq!(exact(&before), exact(&after));
        assert!((before.mean - after.mean).abs() <= 1e-9 * before.mean.abs());
        assert!((before.standard_deviation - after.standard_deviation).abs() <= 1e-6 * before.standard_deviation.abs());
    }
}

/// Two nodes, four hours, two choices, two size classes; intervals of ten seconds.
async fn filled(world: &mut World) -> u64 {
    world.create("p").await;
    let begin_s = hours_ago(6);
    for (number, node) in ["n", "m"].into_iter().enumerate() {
        let cells = (0..120_u64).flat_map(|at| {
            let start_s = begin_s + at * 120 + 10 * (at % 6);
            let size = if at % 3 == 0 { v1::SizeClass::Huge } else { v1::SizeClass::Small };
            ["all", "other"].map(|choice| {
                let mut cell = cell(choice, start_s, 1 + at % 7 + number as u64);
                cell.size_class = size.into();
                cell
            })
        });
        send(world, node, 1, cells.collect()).await;
    }
    begin_s
}

#[tokio::test]
async fn what_is_merged_says_the_same_as_cells() {
    let mut world = World::new().await;
    let begin_s = filled(&mut world).await;
    world.connect(hello("n")).await;
    let ranges = [
        v1::QueryOutcomesRequest::default(),
        v1::QueryOutcomesRequest {
            start_time: time(begin_s + 1),
            end_time: time(begin_s + 2 * HOUR_S + 77),
            ..Default::default()
        },
        v1::QueryOutcomesRequest {
            start_time: time(begin_s + 600),
            end_time: time(begin_s + 660),
            ..Default::default()
        },
        v1::QueryOutcomesRequest { node: "nodes/n".to_owned(), ..Default::default() },
        v1::QueryOutcomesRequest { direction: v1::Direction::Active.into(), revision: 1, ..Default::default() },
    ];
    // What only reports made, nothing else: the task may have been there before.
    let store = world.server.store().clone();
    execute(&store, "DELETE FROM flow_rollup; DELETE FROM flow_rollup_made".to_owned()).await;
    let mut of_cells = vec![];
    for range in &ranges {
        of_cells.push(ask(&world, range.clone()).await.rows);
    }
    assert!(of_cells.iter().all(|rows| !rows.is_empty()));
    let again = "INSERT INTO flow_rollup_stale SELECT 60, interval_start_s / 60 * 60 FROM flow_cell";
    execute(&store, again.to_owned()).await;
    roll_up(&store).await;
    assert!(number(&store, "SELECT count(*) FROM flow_rollup_made WHERE length_s = 3600").await >= 4);
    for (range, of_cells) in ranges.iter().zip(&of_cells) {
        assert_same(of_cells, &ask(&world, range.clone()).await.rows);
    }
    // Nothing of a whole hour is read from cells.
    execute(&store, "DELETE FROM flow_cell".to_owned()).await;
    let hours = v1::QueryOutcomesRequest {
        start_time: time(begin_s),
        end_time: time(begin_s + 4 * HOUR_S),
        ..Default::default()
    };
    assert_same(&of_cells[0], &ask(&world, hours).await.rows);
    world.server.stop().await;
}

#[tokio::test]
async fn a_late_report_counts_at_once_and_once() {
    let mut world = World::new().await;
    let begin_s = filled(&mut world).await;
    let store = world.server.store().clone();
    roll_up(&store).await;
    let before = flows(&world).await;
    send(&world, "late", 1, vec![cell("all", begin_s + 50, 5)]).await;
    assert_eq!(flows(&world).await, before + 5, "from cells, until it is merged");
    roll_up(&store).await;
    assert_eq!(flows(&world).await, before + 5);
    // The same cell with a new total replaces the old one.
    send(&world, "late", 2, vec![cell("all", begin_s + 50, 8)]).await;
    assert_eq!(flows(&world).await, before + 8);
    roll_up(&store).await;
    roll_up(&store).await;
    assert_eq!(flows(&world).await, before + 8);
    assert_eq!(number(&store, "SELECT count(*) FROM flow_rollup_stale WHERE length_s < 86400").await, 0);
    world.server.stop().await;
}

#[tokio::test]
async fn old_cells_go_and_their_sums_stay() {
    let mut world = World::new().await;
    filled(&mut world).await;
    let old_s = hours_ago(30 * 24);
    send(&world, "n", 2, vec![cell("all", old_s, 4), cell("all", old_s + 60, 6)]).await;
    let store = world.server.store().clone();
    let before = ask(&world, v1::QueryOutcomesRequest::default()).await;
    // What nobody has merged yet is merged before it goes.
    let done = retain(&store, Limits::default()).await;
    assert!(done.contains("dropped 1 for age, 0 for size"), "{done}");
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'flow_cell'::regclass";
    let left = number(&store, partitions).await;
    assert!((3..=6).contains(&left), "those of today, and ahead of them: {left}");
    assert_same(&before.rows, &ask(&world, v1::QueryOutcomesRequest::default()).await.rows);
    // Of what is gone a node may send the same again: it cannot be told from what is new, so it is left out, and counted.
    let after = flows(&world).await;
    send(&world, "n", 3, vec![cell("all", old_s, 4)]).await;
    send(&world, "n", 3, vec![cell("all", old_s, 4)]).await;
    assert_eq!(flows(&world).await, after);
    assert_eq!(number(&store, "SELECT sum(cells_too_late)::bigint FROM flow_report_head").await, 1);
    // What is later than that has a partition made for it.
    let between_s = old_s + 12 * HOUR_S;
    send(&world, "n", 4, vec![cell("all", between_s, 3)]).await;
    assert_eq!(flows(&world).await, after + 3);
    assert_eq!(number(&store, partitions).await, left + 1);
    let of_node = v1::QueryOutcomesRequest { node: "nodes/n".to_owned(), ..Default::default() };
    world.connect(hello("n")).await;
    let answer = ask(&world, of_node).await;
    assert_eq!(answer.warnings.iter().map(|warning| warning.field.as_str()).collect::<Vec<_>>(), ["node"]);
    // Minutes of that age go with the cells, hours stay; so half a minute of it cannot be told.
    let half = v1::QueryOutcomesRequest { start_time: time(old_s + 30), ..Default::default() };
    let answer = ask(&world, half).await;
    assert_eq!(answer.warnings.iter().map(|warning| warning.field.as_str()).collect::<Vec<_>>(), ["start_time"]);
    world.server.stop().await;
}

#[tokio::test]
async fn outcomes_keep_within_the_disk_they_may_take() {
    let mut world = World::new().await;
    filled(&mut world).await;
    let (day_s, store) = (hours_ago(26), world.server.store().clone());
    send(&world, "n", 2, vec![cell("all", day_s, 4)]).await;
    let before = ask(&world, v1::QueryOutcomesRequest::default()).await;
    let limits = Limits { bytes_max: 0, ..Limits::default() };
    let done = retain(&store, limits).await;
    assert!(!done.contains("0 for size"), "{done}");
    assert_same(&before.rows, &ask(&world, v1::QueryOutcomesRequest::default()).await.rows);
    // What is being written stays, whatever the bound.
    let now_s = hours_ago(0);
    send(&world, "n", 3, vec![cell("all", now_s, 1)]).await;
    retain(&store, limits).await;
    let ahead = number(&store, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'flow_cell'::regclass").await;
    assert!(ahead >= 3, "{ahead}");
    world.server.stop().await;
}

#[tokio::test]
async fn partitions_are_bounded() {
    let mut world = World::new().await;
    world.create("p").await;
    let apart = partition::LENGTH_S.cast_unsigned();
    let cells = (0..=partition::PARTITIONS_MAX as u64).map(|number| cell("all", number * apart, 1)).collect();
    let refused = world.nodes.clone().report_flows(report(1, cells)).await.expect_err("too many");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert_eq!(flows(&world).await, 0, "nothing of it is stored");
    world.server.stop().await;
}

/// The schema as it was up to a version.
async fn migrate_to(store: &Store, version: i64) {
    let table = "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL,
         installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, checksum bytea NOT NULL,
         execution_time bigint NOT NULL)";
    execute(store, table.to_owned()).await;
    let migrator = sqlx::migrate!("../migrations");
    for migration in migrator.iter().filter(|migration| migration.version <= version) {
        execute(store, migration.sql.as_str().to_owned()).await;
        let checksum = migration.checksum.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (version, description) = (migration.version, &migration.description);
        execute(
            store,
            format!(
                "INSERT INTO _sqlx_migrations VALUES ({version}, '{description}', now(), true, '\\x{checksum}', 0)"
            ),
        )
        .await;
    }
}

#[tokio::test]
async fn cells_of_the_former_schema_are_moved() {
    let address = test_support::empty_database().await;
    let store = Store::new(address.candidates().expect("an address"), Metrics::new());
    migrate_to(&store, 9).await;
    let template = cell("all", 0, 10);
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let times = hex(template.connect_time_us.clone().expect("times").encode_to_vec());
    // 25,000: more than are moved at once, and young enough to be kept.
    let begin_s = hours_ago(100);
    execute(
        &store,
        format!(
            "INSERT INTO layer_object (name, latest_revision) VALUES ('policies/p', 1);
             INSERT INTO flow_report_head (node_id, boot_id, sequence, records_total, records_dropped)
                 SELECT 'n' || i, 'b', 7, 0, 0 FROM generate_series(1, 5) AS i;
             INSERT INTO flow_cell (layer, revision, interval_start_s, interval_length_s, node_id, boot_id, choice, direction,
                 size_class, sequence, flows, established, failed, reset, timed_out, bytes_sent, bytes_received,
                 segments_out, segments_in, retransmits, syn_retransmits, rtos, set_failures, connect_time_us, srtt_us,
                 duration_us, established_cwnd, still_open, delivered_packets, ce_marked_packets, spurious_retransmits, abandoned)
             SELECT 'policies/p', 1, {begin_s} + 10 * i, 10, 'n' || 1 + i % 5, 'b', 'all', 1, 1, 7,
                 20, 10, 4, 3, 2, 11, 12, 13, 14, 15, 16, 17, 18, '\\x{times}', '', '', '', 19, 21, 22, 23, 1
             FROM generate_series(1, 25000) AS i;"
        ),
    )
    .await;
    let world = World::of(Config::new(Database::At(address))).await;
    let rows = ask(&world, v1::QueryOutcomesRequest::default()).await.rows;
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    let n = 25_000;
    let expected = v1::FlowCounts {
        flows: 20 * n,
        established: 10 * n,
        failed: 4 * n,
        reset: 3 * n,
        timed_out: 2 * n,
        bytes_sent: 11 * n,
        bytes_received: 12 * n,
        segments_out: 13 * n,
        segments_in: 14 * n,
        retransmits: 15 * n,
        syn_retransmits: 16 * n,
        rtos: 17 * n,
        set_failures: 18 * n,
        still_open: 19 * n,
        delivered_packets: 21 * n,
        ce_marked_packets: 22 * n,
        spurious_retransmits: 23 * n,
        abandoned: n,
    };
    assert_eq!(row.counts, Some(expected));
    assert_eq!(row.connect_time_us.map(|times| (times.count, times.max)), Some((10 * n, 10_000.0)));
    // A node that reports a cell again replaces it, as ever.
    let again = report(8, vec![cell("all", begin_s + 10, 3)]);
    let again = v1::FlowReport { node_id: "n2".to_owned(), boot_id: "b".to_owned(), ..again };
    world.nodes.clone().report_flows(again).await.expect("committed");
    assert_eq!(flows(&world).await, 20 * n - 20 + 3);
    assert_eq!(
        number(world.server.store(), "SELECT count(*) FROM pg_class WHERE relname = 'flow_cell_before'").await,
        0
    );
    world.server.stop().await;
    store.close().await;
}
