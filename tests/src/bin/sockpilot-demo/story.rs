//! The demo's course: each step shows what a person would type, then compares what the sockets had with what the server says.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sockpilot_tests::{machine::Machine, traffic::Flow, wait::pass};

use crate::{
    checks::{self, ArmView},
    rollouts,
    stage::{DELAY, SYN_LOSS, Stage},
    tally,
};

pub const POLICY: &str = "policies/initial-window";
const EXPERIMENT: &str = "experiments/syn-timeout";
/// The policy that gets what was found to be better.
const SHIPPED: &str = "policies/syn-timeout";
/// As in the experiment's file.
const SALT: &str = "syn-timeout";
const ARMS: [(&str, u32); 2] = [("control", 9_000), ("quick", 1_000)];
/// How long traffic flows before and after a change that is made under way.
const GLANCE: Duration = Duration::from_secs(4);
/// How long the experiment runs.
const EXPERIMENT_TIME: Duration = Duration::from_secs(24);

/// What the demo finds out on its way.
#[derive(Default)]
struct Findings {
    flows: u64,
    /// Of the policy, so far.
    policy_flows: u64,
    propagation: Vec<(&'static str, Duration)>,
}

/// Tells it; gives the summary.
pub fn tell(machine: &Machine, began: Instant) -> Result<Value> {
    println!(
        "Starting a server with a private Postgres, two nodes, and two clients with a path to one origin each ..."
    );
    let mut stage = Stage::build(machine)?;
    println!(
        "Ready after {:.1} s. The server runs as {}; every path has {} ms each way and loses {:.0}% of the SYNs.",
        began.elapsed().as_secs_f64(),
        stage.fleet.server.user(),
        DELAY.as_millis(),
        100.0 * SYN_LOSS
    );
    stage.sockpilot(&["nodes"])?;
    let mut findings = Findings::default();

    heading("1. A policy: an initial window of 20 packets on the long path");
    let windows = policy_under_traffic(&mut stage, &mut findings)?;
    heading("2. An experiment: one connection in ten repeats a lost SYN after 200 ms instead of a second");
    let arms = run_experiment(&mut stage, &mut findings)?;
    heading("3. A new revision, first on one node");
    let revisions = canary(&mut stage, &mut findings)?;
    heading("4. The new revision for everyone, and back again");
    promote_and_roll_back(&mut stage, &mut findings)?;
    heading("5. The same by a rollout that judges for itself, and one that does harm");
    let rollouts = rollouts::show(&mut stage)?;
    findings.flows += rollouts.connections;

    let nodes = stage.fleet.admin.nodes()?;
    let dropped: u64 = nodes.values().map(|node| node.records_dropped).sum();
    let share = arms["quick"].flows as f64 / arms.values().map(|arm| arm.flows).sum::<u64>() as f64;
    checks::lost_nothing(dropped)?;
    heading("What it came to");
    checks::print_arms(&arms);
    println!("\n  from commit to in force on all nodes:");
    for (what, time) in &findings.propagation {
        println!("    {what:<24} {:>7.1} ms", time.as_secs_f64() * 1e3);
    }
    println!("\n  {} connections; every outcome reached the server, {dropped} records were lost.", findings.flows);
    let propagation: BTreeMap<_, _> = findings.propagation.iter().map(|(what, time)| (*what, millis(*time))).collect();
    let slowest = findings.propagation.iter().map(|(_, time)| *time).max().context("nothing was changed")?;
    Ok(json!({
        "nodes": nodes.len(),
        "flows_total": findings.flows,
        "flows_by_arm": arms.iter().map(|(name, arm)| (name.clone(), arm.flows.into())).collect::<serde_json::Map<_, _>>(),
        "treatment_share": share,
        "outcome_by_arm": arms.iter().map(|(name, arm)| (name.clone(), arm.to_json())).collect::<serde_json::Map<_, _>>(),
        "established_cwnd": { "by_getsockopt": windows, "by_revision": revisions },
        "propagation_ms": millis(slowest),
        "propagation_ms_by_change": propagation,
        "lost_records": dropped,
        "rollouts": rollouts.to_json(),
    }))
}

fn policy_under_traffic(stage: &mut Stage<'_>, findings: &mut Findings) -> Result<BTreeMap<String, u64>> {
    stage.start_traffic()?;
    pass(GLANCE)?;
    stage.sockpilot(&["apply", "-f", "tests/demo/initial-window.yaml", "--reason", "long path"])?;
    findings.propagation.push(("apply", stage.wait_in_force(POLICY, [1, 1])?));
    pass(GLANCE)?;
    let flows = stop(stage, findings)?.concat();
    let windows = tally::frequencies(windows(&flows));
    let with_policy = windows.get(&20).copied().unwrap_or(0);
    checks::print_windows(&windows);
    stage.wait_for_flows(POLICY, with_policy).context("the server counts connections that had a window of 20")?;
    findings.policy_flows += with_policy;
    println!("\n  {with_policy} sockets had a window of 20, and the server knows of as many.");
    Ok(windows.into_iter().map(|(window, flows)| (window.to_string(), flows)).collect())
}

fn run_experiment(stage: &mut Stage<'_>, findings: &mut Findings) -> Result<BTreeMap<String, ArmView>> {
    stage.sockpilot(&["apply", "-f", "tests/demo/syn-timeout.yaml", "--reason", "is 200 ms better?"])?;
    findings.propagation.push(("apply the experiment", stage.wait_in_force(EXPERIMENT, [1, 1])?));
    let since: Vec<_> = stage.fleet.sites.iter().map(|site| site.link.age()).collect();
    stage.start_traffic()?;
    let began = Instant::now();
    println!();
    while began.elapsed() < EXPERIMENT_TIME {
        pass(Duration::from_secs(2))?;
        let flows = stage.fleet.admin.flows(EXPERIMENT)?;
        let of = |arm: &str| flows.get(&(1, arm.to_owned())).copied().unwrap_or(0);
        println!(
            "  {:>3.0} s   control {:>6}   quick {:>6}",
            began.elapsed().as_secs_f64(),
            of("control"),
            of("quick")
        );
    }
    let by_site = stop(stage, findings)?;
    let expected = by_site.iter().map(|flows| flows.len() as u64).sum();
    findings.policy_flows += expected;
    let rows = stage.wait_for_flows(EXPERIMENT, expected)?;
    stage.sockpilot(&["outcomes", EXPERIMENT])?;

    let mut arms: BTreeMap<String, ArmView> = BTreeMap::new();
    for ((site, flows), since) in stage.fleet.sites.iter().zip(&by_site).zip(since) {
        let repetitions = tally::first_repetitions(&site.link.sightings(), since);
        for flow in flows {
            let arm = arms.entry(tally::arm_of(SALT, &ARMS, flow).to_owned()).or_default();
            arm.flows += 1;
            arm.connect_us.push(flow.connect_us);
            arm.repetition.extend(repetitions.get(&flow.local));
        }
    }
    checks::arms(&mut arms, &rows)?;
    judge(stage, expected)?;
    Ok(arms)
}

/// Waits until every connection has been measured, and does what the verdict says.
fn judge(stage: &Stage<'_>, expected: u64) -> Result<()> {
    println!(
        "\n  Waiting until the last connection has reached the horizon, and what became of it has been reported ..."
    );
    let results = stage.wait_for_results(EXPERIMENT, expected)?;
    stage.sockpilot(&["experiment", "results", EXPERIMENT])?;
    checks::verdict(&results)?;
    let reason = ["--reason", "the question is answered"];
    stage.sockpilot(
        &[&["experiment", "conclude", EXPERIMENT, "--ship", "quick", "--policy", SHIPPED], &reason[..]].concat(),
    )?;
    stage.sockpilot(&["experiment", "replay", EXPERIMENT])?;
    stage.wait_gone(EXPERIMENT)
}

fn canary(stage: &mut Stage<'_>, findings: &mut Findings) -> Result<BTreeMap<String, Value>> {
    stage.start_traffic()?;
    stage.sockpilot(&["apply", "-f", "tests/demo/initial-window-2.yaml", "--nodes", "site=b", "--reason", "try 40"])?;
    findings.propagation.push(("canary", stage.wait_in_force(POLICY, [1, 2])?));
    pass(GLANCE * 2)?;
    let flows = stop(stage, findings)?;
    checks::windows_by_site(&flows, [20, 40])?;
    findings.policy_flows += flows.concat().len() as u64;
    let rows = stage.wait_for_flows(POLICY, findings.policy_flows)?;
    stage.sockpilot(&["outcomes", POLICY])?;
    stage.sockpilot(&["status", POLICY])?;
    let forty = windows(&flows.concat()).filter(|window| *window == 40).count() as u64;
    checks::revisions(&rows, forty)
}

fn promote_and_roll_back(stage: &mut Stage<'_>, findings: &mut Findings) -> Result<()> {
    stage.start_traffic()?;
    stage.sockpilot(&["promote", POLICY, "--reason", "40 is quicker"])?;
    findings.propagation.push(("promote", stage.wait_in_force(POLICY, [2, 2])?));
    pass(GLANCE)?;
    let flows = stop(stage, findings)?;
    checks::last_windows(&flows, 40)?;
    findings.policy_flows += flows.concat().len() as u64;

    stage.start_traffic()?;
    stage.sockpilot(&["rollback", POLICY, "--reason", "a neighbour complained"])?;
    findings.propagation.push(("roll back", stage.wait_in_force(POLICY, [1, 1])?));
    pass(GLANCE)?;
    let flows = stop(stage, findings)?;
    checks::last_windows(&flows, 20)?;
    findings.policy_flows += flows.concat().len() as u64;
    stage.wait_for_flows(POLICY, findings.policy_flows)?;
    stage.sockpilot(&["status", POLICY])?;
    stage.sockpilot(&["audit"])
}

fn stop(stage: &mut Stage<'_>, findings: &mut Findings) -> Result<Vec<Vec<Flow>>> {
    let flows = stage.fleet.stop_traffic()?;
    findings.flows += flows.iter().map(|flows| flows.len() as u64).sum::<u64>();
    Ok(flows)
}

fn windows(flows: &[Flow]) -> impl Iterator<Item = u32> {
    flows.iter().filter_map(|flow| flow.opened.as_ref()).map(|facts| facts.cwnd)
}

fn heading(text: &str) {
    println!("\n== {text}");
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}
