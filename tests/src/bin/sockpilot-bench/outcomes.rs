//! Outcomes at size: reports through gRPC until committed, against a bare client that writes the same rows; what a stored cell takes on
//! disk; and how long a question about a million cells takes once they are merged, as all are but those of the last minute.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use sockpilot_outcomes::{Content, Flow, Sums, testing::record};
use sockpilot_policy::layout::FlowRecord;
use sockpilot_proto::{
    cell::{encode_content, sums_to_proto},
    v1::{self, node_service_client::NodeServiceClient},
};
use sockpilot_tests::{
    admin::everyone,
    documents::{policy, rule},
    machine::Machine,
    postgres::{Durability, Postgres},
    random::Random,
    server::{Database, Server},
    wait::eventually,
};
use sqlx::{Connection, PgConnection};

use crate::{Figures, note, quantile};

const NODES: u64 = 100;
const MINUTES: u64 = 50;
/// Minutes in a report.
const MINUTES_AT_ONCE: u64 = 5;
/// Rules, each with both directions and all size classes.
const CHOICES: u64 = 25;
const CELLS: u64 = NODES * MINUTES * CHOICES * 8;
/// Reports on their way at the same time.
const AT_ONCE: u64 = 8;
/// Cells that differ; what they hold is like ordinary traffic: some tens of flows each.
const KINDS: usize = 256;
const QUESTIONS: usize = 5;
const MERGED_MAX: Duration = Duration::from_secs(300);

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let kinds: Arc<Vec<Sums>> = Arc::new(kinds());
    let begin_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 3_600 * 3_600 - 2 * 3_600;
    let rows_per_s = {
        let postgres = Postgres::start(machine, Durability::Disk)?;
        let server = Server::start(machine, Database::Url(postgres.url()), &[])?;
        let admin = server.admin()?;
        admin.put_policy(
            policy("web", 1, vec![rule("r0", v1::Match::default(), v1::Parameters::default())]),
            everyone(),
        )?;
        let rows_per_s = ingest(&admin, &server.url(), begin_s, &kinds)?;
        note(figures, "ingest_rows_per_s", rows_per_s);
        let bytes: f64 = postgres
            .query(
                "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'flow_cell'::regclass",
            )?
            .parse()
            .context("the size of the cells")?;
        note(figures, "stored_bytes_per_cell", bytes / CELLS as f64);
        let began = Instant::now();
        eventually("all that is over is merged", MERGED_MAX, || {
            let over =
                "SELECT count(*) FROM flow_rollup_stale WHERE start_s + length_s + 15 < extract(epoch FROM now())";
            ensure!(postgres.query(over)? == "0", "not yet");
            Ok(())
        })?;
        note(figures, "roll_up_s", began.elapsed().as_secs_f64());
        note(figures, "outcomes_1m_cells_ms", ask(&admin)?);
        rows_per_s
    };
    let bare = bare(machine, begin_s, &kinds)?;
    note(figures, "ingest_bare_rows_per_s", bare);
    note(figures, "ingest_vs_bare", rows_per_s / bare);
    Ok(())
}

/// Cells of some tens of flows, with times over a range as on real paths.
fn kinds() -> Vec<Sums> {
    let mut random = Random(7);
    let mut draw = |from: u64, to: u64| from + random.bits() % (to - from);
    let mut kind = || {
        let mut sums = Sums::default();
        for _ in 0..draw(5, 60) {
            let (rtt_us, bytes_sent) = (draw(8_000, 60_000), draw(100, 14_000));
            sums.add(&Flow::of(&FlowRecord {
                established_ns: 1_000_000 + rtt_us * 1_000,
                end_ns: 1_000_000 + rtt_us * 1_000 * draw(2, 40),
                srtt_us: u32::try_from(rtt_us).unwrap_or_default(),
                bytes_sent,
                bytes_received: draw(100, 100_000),
                segments_out: u32::try_from(bytes_sent / 1_400).unwrap_or_default() + 4,
                ..record()
            }));
        }
        sums
    };
    (0..KINDS).map(|_| kind()).collect()
}

/// What tells a cell of a report from others: minute, choice, direction, size class; and the number of what it holds.
fn keys(node: u64, first_minute: u64) -> impl Iterator<Item = ([u64; 4], usize)> {
    let parts = (first_minute..first_minute + MINUTES_AT_ONCE)
        .flat_map(|minute| (0..CHOICES * 8).map(move |at| [minute, at / 8, 1 + at % 8 / 4, 1 + at % 4]));
    parts.enumerate().map(move |(at, key)| (key, (node as usize * 31 + at) % KINDS))
}

fn report(node: u64, first_minute: u64, begin_s: u64, kinds: &[Sums]) -> v1::FlowReport {
    let cell = |([minute, choice, direction, size_class], kind): ([u64; 4], usize)| v1::FlowCell {
        interval_start_s: begin_s + minute * 60,
        interval_length_s: 60,
        layer: "policies/web".to_owned(),
        revision: 1,
        choice: format!("r{choice}"),
        direction: direction as i32,
        size_class: size_class as i32,
        ..sums_to_proto(&kinds[kind])
    };
    v1::FlowReport {
        node_id: format!("node-{node}"),
        boot_id: format!("boot-of-node-{node}"),
        sequence: 1 + first_minute / MINUTES_AT_ONCE,
        cells: keys(node, first_minute).map(cell).collect(),
        ..v1::FlowReport::default()
    }
}

/// The reports, one after the other of each node: node and first minute.
fn reports(lane: u64) -> impl Iterator<Item = (u64, u64)> {
    let nodes = (0..NODES).filter(move |node| node % AT_ONCE == lane);
    nodes.flat_map(|node| (0..MINUTES).step_by(MINUTES_AT_ONCE as usize).map(move |minute| (node, minute)))
}

/// Rows committed per second.
fn ingest(admin: &sockpilot_tests::admin::Admin, url: &str, begin_s: u64, kinds: &Arc<Vec<Sums>>) -> Result<f64> {
    let (done, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
    for lane in 0..AT_ONCE {
        let (done, kinds, url) = (done.clone(), kinds.clone(), url.to_owned());
        admin.spawn(async move {
            let Ok(endpoint) = tonic::transport::Endpoint::from_shared(url) else { return };
            let Ok(channel) = endpoint.connect().await else { return };
            let mut client = NodeServiceClient::new(channel);
            for (node, minute) in reports(lane) {
                let report = report(node, minute, begin_s, &kinds);
                let cells = report.cells.len() as u64;
                if let Err(status) = client.report_flows(report).await {
                    eprintln!("a report failed: {status}");
                    return;
                }
                done.fetch_add(cells, Ordering::Relaxed);
            }
        });
    }
    eventually("all reports are committed", MERGED_MAX, || {
        let done = done.load(Ordering::Relaxed);
        ensure!(done == CELLS, "{done} of {CELLS} cells");
        Ok(())
    })?;
    Ok(CELLS as f64 / began.elapsed().as_secs_f64())
}

/// How long a question about all of it takes, in the middle of several.
fn ask(admin: &sockpilot_tests::admin::Admin) -> Result<f64> {
    let mut times = vec![];
    for _ in 0..QUESTIONS {
        let began = Instant::now();
        let rows = admin.outcomes("policies/web")?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        ensure!(rows.len() as u64 == CHOICES * 2, "{} rows", rows.len());
    }
    Ok(quantile(&mut times, 0.5))
}

/// Rows per second of a client that writes the same rows into the same table, and does nothing else.
fn bare(machine: &Machine, begin_s: u64, kinds: &[Sums]) -> Result<f64> {
    let postgres = Postgres::start(machine, Durability::Disk)?;
    postgres.query(
        "CREATE TABLE flow_cell (interval_start_s bigint, sequence bigint, choice_id integer, source_id integer,
             interval_length_s integer, direction smallint, size_class smallint, value bytea,
             PRIMARY KEY (interval_start_s, choice_id, source_id, direction, size_class, interval_length_s))",
    )?;
    let values: Vec<Vec<u8>> = kinds.iter().map(|sums| encode_content(&Content::Flows(sums.clone()))).collect();
    let values = Arc::new(values);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let began = Instant::now();
    runtime.block_on(async {
        let mut lanes = tokio::task::JoinSet::new();
        for lane in 0..AT_ONCE {
            let (url, values) = (postgres.url(), values.clone());
            lanes.spawn(async move {
                let mut connection = PgConnection::connect(&url).await?;
                for (node, minute) in reports(lane) {
                    write(&mut connection, node, minute, begin_s, &values).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = lanes.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    })?;
    Ok(CELLS as f64 / began.elapsed().as_secs_f64())
}

async fn write(connection: &mut PgConnection, node: u64, minute: u64, begin_s: u64, values: &[Vec<u8>]) -> Result<()> {
    let small = |number: u64| i16::try_from(number).unwrap_or_default();
    let (mut starts, mut choices, mut directions, mut sizes, mut held) = (vec![], vec![], vec![], vec![], vec![]);
    for ([minute, choice, direction, size_class], kind) in keys(node, minute) {
        starts.push((begin_s + minute * 60).cast_signed());
        choices.push(i32::from(small(choice)));
        directions.push(small(direction));
        sizes.push(small(size_class));
        held.push(values[kind].as_slice());
    }
    sqlx::query(
        "INSERT INTO flow_cell (sequence, source_id, interval_length_s, interval_start_s, choice_id, direction, size_class, value)
         SELECT 1, $1, 60, * FROM unnest($2::bigint[], $3::integer[], $4::smallint[], $5::smallint[], $6::bytea[])
         ON CONFLICT DO NOTHING",
    )
    .bind(i32::from(small(node)))
    .bind(starts)
    .bind(choices)
    .bind(directions)
    .bind(sizes)
    .bind(held)
    .execute(connection)
    .await?;
    Ok(())
}
