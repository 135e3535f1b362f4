//! What has to be as expected, and the tables that show it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sockpilot_proto::v1;
use sockpilot_tests::traffic::Flow;

use crate::tally::quantile;

/// The treatment's share of the connections may lie in here; at some thousand connections chance alone stays well inside.
const SHARE: std::ops::Range<f64> = 0.08..0.12;
/// When a first SYN is repeated: never early; timers and a busy machine make it late.
const LATE: Duration = Duration::from_millis(150);
const SKETCH_ERROR: f64 = 0.03;

/// One arm, as the clients saw it and as the server has it.
#[derive(Debug, Default)]
pub struct ArmView {
    /// Connections that the hash puts here.
    pub flows: u64,
    /// Seen by the clients.
    pub connect_us: Vec<u64>,
    /// First SYN to its first repetition, on the wire.
    pub repetition: Vec<Duration>,
    /// The server's row.
    pub row: v1::OutcomeRow,
}

impl ArmView {
    pub fn to_json(&self) -> Value {
        let (counts, connect) = (self.row.counts.unwrap_or_default(), self.row.connect_time_us.unwrap_or_default());
        json!({
            "flows": counts.flows,
            "connect_time_ms": { "p50": connect.p50 / 1e3, "p99": connect.p99 / 1e3, "mean": connect.mean / 1e3 },
            "connect_time_ms_seen_by_clients": { "p50": ms(quantile(&self.connect_us, 0.5)), "p99": ms(quantile(&self.connect_us, 0.99)) },
            "syn_repeated_after_ms": quantile(&self.repetition, 0.5).map(|time| time.as_secs_f64() * 1e3),
            "retransmits": counts.retransmits,
            "syn_retransmits": counts.syn_retransmits,
        })
    }
}

fn ms(micros: Option<u64>) -> f64 {
    micros.unwrap_or(0) as f64 / 1e3
}

/// Puts the server's rows beside what the clients saw, and compares.
pub fn arms(arms: &mut BTreeMap<String, ArmView>, rows: &[v1::OutcomeRow]) -> Result<()> {
    ensure!(rows.len() == arms.len() && rows.len() == 2, "the server has other arms: {rows:?}");
    for row in rows {
        let arm =
            arms.get_mut(&row.choice).with_context(|| format!("no connection should be in arm {}", row.choice))?;
        arm.row = row.clone();
        let counts = row.counts.unwrap_or_default();
        ensure!(counts.flows == arm.flows, "{}: the hash says {}, the server {}", row.choice, arm.flows, counts.flows);
        ensure!(counts.established == counts.flows && counts.set_failures == 0, "{}: {counts:?}", row.choice);
        let stored = row.connect_time_us.unwrap_or_default().p50;
        let seen = ms(quantile(&arm.connect_us, 0.5)) * 1e3;
        ensure!((stored / seen - 1.0).abs() < SKETCH_ERROR, "{}: connect time {stored} us, seen {seen} us", row.choice);
    }
    let share = arms["quick"].flows as f64 / (arms["quick"].flows + arms["control"].flows) as f64;
    ensure!(SHARE.contains(&share), "the treatment has {share} of the connections");
    for (name, expected) in [("control", 1_000), ("quick", 200)] {
        let expected = Duration::from_millis(expected);
        let found = quantile(&arms[name].repetition, 0.5).context("no SYN was repeated")?;
        ensure!((expected..expected + LATE).contains(&found), "{name}: SYNs are repeated after {found:?}");
    }
    let mean = |name: &str| arms[name].row.connect_time_us.unwrap_or_default().mean;
    ensure!(mean("quick") < mean("control"), "the short timeout did not help");
    Ok(())
}

/// The arms' table.
pub fn print_arms(arms: &BTreeMap<String, ArmView>) {
    let total: u64 = arms.values().map(|arm| arm.flows).sum();
    println!(
        "\n  arm        flows   share   SYN repeated after   connect ms: mean    p50    p99   SYNs again   data again"
    );
    for (name, arm) in arms {
        let (counts, connect) = (arm.row.counts.unwrap_or_default(), arm.row.connect_time_us.unwrap_or_default());
        println!(
            "  {name:<9}{:>7}{:>7.1}%{:>18.0} ms{:>19.1}{:>7.1}{:>7.0}{:>13}{:>13}",
            arm.flows,
            100.0 * arm.flows as f64 / total as f64,
            quantile(&arm.repetition, 0.5).unwrap_or_default().as_secs_f64() * 1e3,
            connect.mean / 1e3,
            connect.p50 / 1e3,
            connect.p99 / 1e3,
            counts.syn_retransmits,
            counts.retransmits
        );
    }
}

/// How many sockets began with which window.
pub fn print_windows(windows: &BTreeMap<u32, u64>) {
    println!("\n  initial window (getsockopt)   connections");
    for (window, flows) in windows {
        println!("  {window:>27}   {flows:>11}");
    }
}

/// After a change, the connections opened last have what was decided at their site.
pub fn windows_by_site(flows: &[Vec<Flow>], expected: [u32; 2]) -> Result<()> {
    for (flows, expected) in flows.iter().zip(expected) {
        let last = flows.iter().max_by_key(|flow| flow.began_us).context("no connections")?;
        let window = last.opened.as_ref().context("not established")?.cwnd;
        ensure!(window == expected, "the last connection began with {window} packets, not {expected}");
    }
    Ok(())
}

/// The same at all sites.
pub fn last_windows(flows: &[Vec<Flow>], expected: u32) -> Result<()> {
    windows_by_site(flows, [expected; 2])?;
    println!("\n  new connections begin with {expected} packets at both sites");
    Ok(())
}

/// Outcomes by revision, side by side: the larger window needs fewer round trips.
pub fn revisions(rows: &[v1::OutcomeRow], second_revision: u64) -> Result<BTreeMap<String, Value>> {
    let mut by_revision = BTreeMap::new();
    for row in rows {
        let (window, duration) = (row.established_cwnd.unwrap_or_default(), row.duration_us.unwrap_or_default());
        let flows = row.counts.unwrap_or_default().flows;
        by_revision.insert(row.revision, (window.p50, duration.p50, flows));
    }
    let (first, second) =
        (by_revision.get(&1).context("no outcomes")?, by_revision.get(&2).context("no outcomes of the canary")?);
    ensure!(second.2 == second_revision, "{second_revision} sockets began with 40, the server knows of {}", second.2);
    ensure!(
        (first.0 / 20.0 - 1.0).abs() < SKETCH_ERROR && (second.0 / 40.0 - 1.0).abs() < SKETCH_ERROR,
        "{by_revision:?}"
    );
    ensure!(second.1 < first.1, "the larger window was not quicker: {by_revision:?}");
    let to_json = |(revision, (window, duration, flows)): (u64, (f64, f64, u64))| {
        (revision.to_string(), json!({ "window": window, "duration_ms_p50": duration / 1e3, "flows": flows }))
    };
    Ok(by_revision.into_iter().map(to_json).collect())
}

/// Nothing may be lost on the way.
pub fn lost_nothing(dropped: u64) -> Result<()> {
    ensure!(dropped == 0, "{dropped} flow records were lost");
    Ok(())
}

/// What the experiment is to say here: that a quick retry is better, and that nothing speaks against it.
pub fn verdict(results: &v1::ExperimentResults) -> Result<()> {
    let verdict = results.verdict.clone().context("the results have no verdict")?;
    ensure!(verdict.kind() == v1::VerdictKind::Ship, "the verdict is not to ship: {}", verdict.reason);
    ensure!(verdict.arm == "quick", "the verdict is to ship {}", verdict.arm);
    ensure!(results.share_checks.iter().all(|check| !check.mismatch), "the arms lack their shares");
    Ok(())
}
