//! Outcomes at size: reports through gRPC until committed, in turns with a bare client that copies the same rows; what a stored cell takes on
//! disk; and how long a question about a million cells takes once they are merged, as all are but those of the last minute.

use std::{
    sync::Arc,
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
    admin::{Admin, everyone},
    documents::{policy, rule},
    machine::Machine,
    postgres::{Durability, Postgres},
    random::Random,
    server::{Database, Server},
    wait::eventually,
};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    Figures,
    copy::{self, Copier, Row},
    note, quantile,
};

const NODES: u64 = 100;
const MINUTES: u64 = 50;
/// Minutes in a report.
const MINUTES_AT_ONCE: u64 = 5;
/// Rules, each with both directions and all size classes.
const CHOICES: u64 = 25;
const CELLS: u64 = NODES * MINUTES * CHOICES * 8;
/// The server and the bare client take turns so often, each with the reports of some nodes.
const ROUNDS: u64 = 5;
/// Reports on their way at the same time.
const AT_ONCE: u64 = 8;
/// Cells that differ; what they hold is like ordinary traffic: some tens of flows each.
const KINDS: usize = 256;
const QUESTIONS: usize = 5;
const MERGED_MAX: Duration = Duration::from_secs(300);

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let kinds: Arc<Vec<Sums>> = Arc::new(kinds());
    let begin_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 3_600 * 3_600 - 2 * 3_600;
    let (postgres, bare) = (Postgres::start(machine, Durability::Disk)?, Postgres::start(machine, Durability::Disk)?);
    let server = Server::start(machine, Database::Url(postgres.url()), &[])?;
    let admin = server.admin()?;
    let rules = vec![rule("r0", v1::Match::default(), v1::Parameters::default())];
    admin.put_policy(policy("web", 1, rules), everyone())?;

    bare.query(copy::TABLE)?;
    let values: Vec<Vec<u8>> = kinds.iter().map(|sums| encode_content(&Content::Flows(sums.clone()))).collect();
    let values = Arc::new(values);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (mut ours_s, mut bare_s) = (0.0, 0.0);
    for round in 0..ROUNDS {
        ours_s += ingest(&runtime, &server.url(), round, begin_s, &kinds)?;
        bare_s += copied(&runtime, &bare.url(), round, begin_s, &values)?;
    }
    let (ours, bare) = (CELLS as f64 / ours_s, CELLS as f64 / bare_s);
    note(figures, "ingest_rows_per_s", ours);
    note(figures, "ingest_copy_rows_per_s", bare);
    note(figures, "ingest_vs_copy", ours / bare);

    let size = "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'flow_cell'::regclass";
    let bytes: f64 = postgres.query(size)?.parse().context("the size of the cells")?;
    note(figures, "stored_bytes_per_cell", bytes / CELLS as f64);
    let began = Instant::now();
    eventually("all that is over is merged", MERGED_MAX, || {
        let over = "SELECT count(*) FROM flow_rollup_stale WHERE start_s + length_s + 15 < extract(epoch FROM now())";
        ensure!(postgres.query(over)? == "0", "not yet");
        Ok(())
    })?;
    note(figures, "roll_up_s", began.elapsed().as_secs_f64());
    note(figures, "outcomes_1m_cells_ms", ask(&admin)?);
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

/// The reports of a round, one after the other of each node: node and first minute.
fn reports(round: u64, lane: u64) -> impl Iterator<Item = (u64, u64)> {
    let nodes = (0..NODES).filter(move |node| node % ROUNDS == round && node / ROUNDS % AT_ONCE == lane);
    nodes.flat_map(|node| (0..MINUTES).step_by(MINUTES_AT_ONCE as usize).map(move |minute| (node, minute)))
}

/// How long the reports of a round take until all are committed.
fn ingest(runtime: &Runtime, url: &str, round: u64, begin_s: u64, kinds: &Arc<Vec<Sums>>) -> Result<f64> {
    let lane = |lane| {
        let (kinds, url) = (kinds.clone(), url.to_owned());
        async move {
            let channel = tonic::transport::Endpoint::from_shared(url)?.connect().await.context("connecting")?;
            let mut client = NodeServiceClient::new(channel);
            for (node, minute) in reports(round, lane) {
                client.report_flows(report(node, minute, begin_s, &kinds)).await.context("reporting")?;
            }
            Ok(())
        }
    };
    took(runtime, (0..AT_ONCE).map(lane))
}

/// How long a client that does nothing else takes for the same rows.
fn copied(runtime: &Runtime, url: &str, round: u64, begin_s: u64, values: &Arc<Vec<Vec<u8>>>) -> Result<f64> {
    let lane = |lane| {
        let (values, url) = (values.clone(), url.to_owned());
        async move {
            let mut copier = Copier::connect(&url).await?;
            for (node, first_minute) in reports(round, lane) {
                let row = |([minute, choice, direction, size_class], kind): ([u64; 4], usize)| Row {
                    start_s: (begin_s + minute * 60).cast_signed(),
                    source_id: small(node).into(),
                    choice_id: small(choice).into(),
                    direction: small(direction),
                    size_class: small(size_class),
                    value: values[kind].as_slice(),
                };
                copier.write(1, keys(node, first_minute).map(row)).await?;
            }
            Ok(())
        }
    };
    took(runtime, (0..AT_ONCE).map(lane))
}

/// All numbers are here.
fn small(number: u64) -> i16 {
    i16::try_from(number).unwrap_or_default()
}

/// How long all of these take, side by side.
fn took(
    runtime: &Runtime,
    lanes: impl Iterator<Item = impl Future<Output = Result<()>> + Send + 'static>,
) -> Result<f64> {
    let began = Instant::now();
    runtime.block_on(async {
        let mut beside = JoinSet::new();
        for lane in lanes {
            beside.spawn(lane);
        }
        while let Some(ended) = beside.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    })?;
    Ok(began.elapsed().as_secs_f64())
}

/// How long a question about all of it takes, in the middle of several.
fn ask(admin: &Admin) -> Result<f64> {
    let mut times = vec![];
    for _ in 0..QUESTIONS {
        let began = Instant::now();
        let rows = admin.outcomes("policies/web")?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        ensure!(rows.len() as u64 == CHOICES * 2, "{} rows", rows.len());
    }
    Ok(quantile(&mut times, 0.5))
}
