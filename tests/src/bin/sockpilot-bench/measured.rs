//! Experiments at size: results over a million stored cells of ten measures, the same analysis by gbstats, and what it costs the daemon
//! to measure a connection for three experiments.

use std::{
    env,
    io::Write,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use sockpilot_node::{
    clock::FleetClock,
    records::{aggregation::Aggregation, journal::Head, measuring::Measuring},
};
use sockpilot_outcomes::{Choice, Flow, Measured, testing::record};
use sockpilot_policy::{
    layout::FlowRecord,
    measure::{Columns, Quantity},
};
use sockpilot_programs::PYTHON3;
use sockpilot_proto::{
    cell::measured_to_proto,
    v1::{self, node_service_client::NodeServiceClient},
};
use sockpilot_tests::{
    admin::{Admin, everyone},
    documents::{arm, experiment},
    machine::Machine,
    postgres::{Durability, Postgres},
    random::Random,
    server::{Database, Server},
    wait::eventually,
};

use crate::{Figures, note, quantile};

const NAME: &str = "experiments/e";
const NODES: u64 = 100;
/// Intervals of ten seconds, each with two arms and two directions.
const INTERVALS: u64 = 2_500;
const CELLS: u64 = NODES * INTERVALS * 4;
/// Intervals in a report.
const AT_A_TIME: u64 = 250;
/// Reports on their way at the same time.
const AT_ONCE: u64 = 8;
/// Cells that differ.
const KINDS: usize = 256;
const QUESTIONS: usize = 5;
const MERGED_MAX: Duration = Duration::from_secs(600);
/// Python adds up one cell in so many; its time is multiplied.
const ONE_IN: u64 = 20;
/// Records that are folded, with and without experiments.
const RECORDS: u64 = 200_000;
const EXPERIMENTS: usize = 3;

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let (with, without) = (us_per_record(EXPERIMENTS)?, us_per_record(0)?);
    note(figures, "node_us_per_record_measures", with);
    note(figures, "node_us_per_record_no_measures", without);

    let kinds = Arc::new(kinds()?);
    let ours_ms = results(machine, &kinds)?;
    note(figures, "results_1m_cells_ms", ours_ms);
    let theirs_ms = gbstats(&kinds)?;
    note(figures, "results_gbstats_ms", theirs_ms);
    note(figures, "results_vs_gbstats", theirs_ms / ours_ms);
    // As a figure that must not be exceeded, like all budgets.
    note(figures, "results_of_gbstats", ours_ms / theirs_ms);
    Ok(())
}

/// Ten measures: a success measure, two guardrails, and what people look at beside them.
fn measures() -> Vec<v1::Measure> {
    let of = |quantity: Quantity, role: v1::MeasureRole| v1::Measure {
        quantity: quantity.name().to_owned(),
        role: role.into(),
        ..v1::Measure::default()
    };
    let beside = [
        Quantity::Failed,
        Quantity::SynRetransmits,
        Quantity::SegmentsOut,
        Quantity::Rtos,
        Quantity::DurationUs,
        Quantity::BytesSent,
        Quantity::Reset,
    ];
    let mut measures = vec![
        of(Quantity::Connected, v1::MeasureRole::Guardrail),
        of(Quantity::Retransmits, v1::MeasureRole::Guardrail),
        of(Quantity::SrttUs, v1::MeasureRole::Success),
    ];
    measures.extend(beside.map(|quantity| of(quantity, v1::MeasureRole::Diagnostic)));
    measures
}

fn design() -> v1::Experiment {
    let set = v1::Parameters { syn_rto_ms: Some(200), ..v1::Parameters::default() };
    let arms = vec![arm("control", 5_000, v1::Parameters::default()), arm("treatment", 5_000, set)];
    v1::Experiment { measures: measures(), horizon_s: 1, ..experiment("e", 1, v1::Match::default(), arms) }
}

fn measuring() -> Result<Measuring> {
    let v1::Experiment { arms, measures, horizon_s, .. } = design();
    let layer =
        v1::ExperimentLayer { salt: "e".to_owned(), arms, measures, horizon_s, ..v1::ExperimentLayer::default() };
    Measuring::of(&layer).context("a design with measures")
}

/// Records like ordinary traffic.
fn records(random: &mut Random) -> FlowRecord {
    let mut draw = |from: u64, to: u64| from + random.bits() % (to - from);
    let (rtt_us, bytes_sent) = (draw(8_000, 60_000), draw(100, 14_000));
    FlowRecord {
        established_ns: 1_000_000 + rtt_us * 1_000,
        end_ns: 1_000_000 + rtt_us * 1_000 * draw(2, 15),
        srtt_us: u32::try_from(rtt_us).unwrap_or_default(),
        handshake_rtt_us: u32::try_from(rtt_us).unwrap_or_default(),
        bytes_sent,
        bytes_received: draw(100, 100_000),
        segments_out: u32::try_from(bytes_sent / 1_400).unwrap_or_default() + 4,
        retransmits: u32::from(draw(0, 20) == 0),
        rtos: u32::from(draw(0, 200) == 0),
        ..record()
    }
}

/// Cells of some tens of connections.
fn kinds() -> Result<Vec<Measured>> {
    let mut random = Random(11);
    let measuring = measuring()?;
    let mut kind = || {
        let mut measured = Measured::default();
        for _ in 0..5 + random.bits() % 55 {
            let record = records(&mut random);
            measured.add(&measuring.columns, &Flow::of(&record), measuring.horizon_ns(), None);
        }
        measured
    };
    Ok((0..KINDS).map(|_| kind()).collect())
}

/// Which of the kinds the cell of a number is.
fn kind_of(cell: u64) -> usize {
    (cell.wrapping_mul(2_654_435_761) >> 7) as usize % KINDS
}

fn report(node: u64, first: u64, begin_s: u64, kinds: &[v1::Measured]) -> v1::FlowReport {
    let cell = |at: u64| {
        let (interval, part) = (first + at / 4, at % 4);
        v1::FlowCell {
            interval_start_s: begin_s + interval * 10,
            interval_length_s: 10,
            layer: NAME.to_owned(),
            revision: 1,
            choice: if part / 2 == 0 { "control" } else { "treatment" }.to_owned(),
            direction: 1 + (part % 2) as i32,
            measured: Some(kinds[kind_of((node * INTERVALS + interval) * 4 + part)].clone()),
            ..v1::FlowCell::default()
        }
    };
    v1::FlowReport {
        node_id: format!("node-{node}"),
        boot_id: format!("boot-of-node-{node}"),
        sequence: 1 + first / AT_A_TIME,
        cells: (0..AT_A_TIME * 4).map(cell).collect(),
        ..v1::FlowReport::default()
    }
}

/// Milliseconds that the results take, in the middle of several, once all but the last minute is merged.
fn results(machine: &Machine, kinds: &[Measured]) -> Result<f64> {
    let begin_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 3_600 * 3_600 - 8 * 3_600;
    let postgres = Postgres::start(machine, Durability::Disk)?;
    let server = Server::start(machine, Database::Url(postgres.url()), &[])?;
    let admin = server.admin()?;
    admin.put_experiment(design(), everyone())?;
    ingest(&admin, &server.url(), begin_s, kinds)?;
    eventually("all that is over is merged", MERGED_MAX, || {
        let over = "SELECT count(*) FROM flow_rollup_stale WHERE start_s + length_s + 15 < extract(epoch FROM now())";
        ensure!(postgres.query(over)? == "0", "not yet");
        Ok(())
    })?;
    let wanted: u64 = (0..CELLS).map(|cell| kinds[kind_of(cell)].attempts.count).sum();
    let mut times = vec![];
    for _ in 0..QUESTIONS {
        let request = v1::GetExperimentResultsRequest { name: NAME.to_owned(), revision: 0 };
        let began = Instant::now();
        let found = admin.call(admin.experiments().get_experiment_results(request))?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        let counted: u64 = found.arms.iter().map(|arm| arm.attempts).sum();
        ensure!(counted == wanted, "{counted} of {wanted} connections");
        ensure!(found.measures.len() == measures().len(), "{} measures", found.measures.len());
    }
    Ok(quantile(&mut times, 0.5))
}

fn ingest(admin: &Admin, url: &str, begin_s: u64, kinds: &[Measured]) -> Result<()> {
    let kinds: Arc<Vec<v1::Measured>> = Arc::new(kinds.iter().map(measured_to_proto).collect());
    let done = Arc::new(AtomicU64::new(0));
    for lane in 0..AT_ONCE {
        let (done, kinds, url) = (done.clone(), kinds.clone(), url.to_owned());
        admin.spawn(async move {
            let Ok(endpoint) = tonic::transport::Endpoint::from_shared(url) else { return };
            let Ok(channel) = endpoint.connect().await else { return };
            let mut client = NodeServiceClient::new(channel);
            for node in (0..NODES).filter(|node| node % AT_ONCE == lane) {
                for first in (0..INTERVALS).step_by(AT_A_TIME as usize) {
                    let report = report(node, first, begin_s, &kinds);
                    let cells = report.cells.len() as u64;
                    if let Err(status) = client.report_flows(report).await {
                        eprintln!("a report failed: {status}");
                        return;
                    }
                    done.fetch_add(cells, Ordering::Relaxed);
                }
            }
        });
    }
    eventually("all reports are committed", MERGED_MAX, || {
        let done = done.load(Ordering::Relaxed);
        ensure!(done == CELLS, "{done} of {CELLS} cells");
        Ok(())
    })
}

/// Milliseconds of the same by gbstats: the sums of all cells of each arm added up in Python, and a sequential test of each measure. Reading
/// the cells is not counted.
fn gbstats(kinds: &[Measured]) -> Result<f64> {
    let installed = env::var_os("SOCKPILOT_STATISTICS").filter(|place| !place.is_empty());
    let installed = installed.context("gbstats is missing: run ./setup.sh, then source target/setup.env")?;
    let estimators = measuring()?.columns;
    let sums = |measured: &Measured| sums(measured, &estimators);
    let kinds: Vec<serde_json::Value> = kinds.iter().map(|kind| serde_json::json!(sums(kind))).collect();
    let arm = |treatment: u64| -> Vec<usize> {
        (0..CELLS).step_by(ONE_IN as usize).map(|cell| kind_of(cell + 2 * treatment)).collect()
    };
    let question = serde_json::json!({ "kinds": kinds, "control": arm(0), "treatment": arm(1) });
    let mut python = PYTHON3.command()?;
    python.arg("-c").arg(include_str!("by_gbstats.py")).env("PYTHONPATH", installed);
    let mut python = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("python3")?;
    python.stdin.take().context("its standard input")?.write_all(question.to_string().as_bytes())?;
    let answer = python.wait_with_output()?;
    ensure!(answer.status.success(), "by_gbstats.py ended with {}", answer.status);
    let seconds: f64 = String::from_utf8_lossy(&answer.stdout).trim().parse().context("its answer")?;
    // Both arms together have one cell in ten.
    Ok(seconds * 1e3 * ONE_IN as f64 / 2.0)
}

/// What gbstats wants of a cell, by measure: count, sum and sum of squares; of a ratio those of both, and of their products.
fn sums(measured: &Measured, columns: &Columns) -> Vec<Vec<f64>> {
    use sockpilot_policy::measure::{Estimator, Stage};
    let of = |stage| match stage {
        Stage::Attempts => &measured.attempts,
        Stage::Established => &measured.established,
    };
    let one = |estimator: &Estimator| match *estimator {
        Estimator::Mean { stage, column } => {
            let (moments, n) = (of(stage), of(stage).count as f64);
            vec![n, moments.mean[column] * n, product(moments, column, column)]
        }
        Estimator::Ratio { stage, numerator, denominator } => {
            let (moments, n) = (of(stage), of(stage).count as f64);
            let column = |column: usize| [moments.mean[column] * n, product(moments, column, column)];
            let ([a, b], [c, d]) = (column(numerator), column(denominator));
            vec![n, a, b, c, d, product(moments, numerator, denominator)]
        }
    };
    columns.estimators.iter().map(one).collect()
}

/// The sum of products, not of deviations.
fn product(moments: &sockpilot_stats::CoMoments, i: usize, j: usize) -> f64 {
    let (high, low) = (i.max(j), i.min(j));
    moments.m2[high * (high + 1) / 2 + low] + moments.count as f64 * moments.mean[i] * moments.mean[j]
}

/// CPU time of folding a record, as the daemon does, with so many experiments of ten measures that its connection is in.
fn us_per_record(experiments: usize) -> Result<f64> {
    let mut random = Random(13);
    let records: Vec<FlowRecord> = (0..1_024).map(|_| records(&mut random)).collect();
    let choice = |layer: String| Arc::new(Choice { layer, revision: 1, name: "treatment".to_owned() });
    let choices: Vec<_> = (0..experiments.max(1)).map(|at| choice(format!("experiments/e{at}"))).collect();
    let measuring = measuring()?;
    let mut book = Aggregation::new(Head { clock: Some(FleetClock::default()), ..Head::default() });
    let began = cpu()?;
    for number in 0..RECORDS {
        let flow = Flow::of(&records[number as usize % records.len()]);
        // Some thousand records in an interval.
        let second = 1_700_000_000 + number / 1_000;
        book.fold(&flow, &choices, second, 10);
        for choice in choices.iter().take(experiments) {
            book.measure(&flow, (choice, &measuring), second, 10, "n");
        }
    }
    let took = cpu()? - began;
    ensure!(book.flows() > 0, "nothing was folded");
    Ok(took.as_secs_f64() * 1e6 / RECORDS as f64)
}

/// Of this thread.
fn cpu() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
