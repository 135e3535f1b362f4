//! The famous reversal, on the real kernel: connections that share a bottleneck. Those with a larger window win from the others, so an
//! experiment by connections claims a large gain; when all have it, nobody gains anything. The claim carries a warning, and an experiment
//! by slots of time tells the truth.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use sockpilot_policy::bucket::{flow_bucket, salt};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::{Admin, everyone},
    cgroup::Cgroup,
    documents::{arm, clamp, experiment, policy, rule},
    experiments::{effect, mean_ln, measure, results, row, settled},
    link::Way,
    machine::{Needs, scenario},
    node::Node,
    server::{Database, Server},
    shaper::Character,
    traffic::{Flow, Opening},
    wait::{eventually, pass},
    world::{Pair, Wire, socket},
};

/// Full with the small windows alone: so many times ten packets are more than fit on the way.
const RATE_BPS: u64 = 40_000_000;
const DELAY: Duration = Duration::from_millis(2);
const AT_ONCE: usize = 8;
const UPLOAD: u32 = 150_000;
/// Packets, by the policy that everybody has, and by the arm.
const NARROW: u32 = 10;
const WIDE: u32 = 40;
/// A sequence says nothing before either arm has 300.
const FLOWS_EACH: usize = 330;
const TITLE: &str = "ln(duration_us)";
/// A share that everybody would notice.
const LARGE: f64 = 0.4;
/// What is left of it when all are treated.
const SMALL: f64 = 0.2;
/// By what two measurements of the same may differ.
const SAME: f64 = 0.1;
const SLOT_S: u32 = 5;
const WASHOUT_S: u32 = 1;
const HORIZON_S: u32 = 2;
const PAIRS: u64 = 5;
const PATIENCE: Duration = Duration::from_secs(150);
/// How often the server is asked.
const LOOK: Duration = Duration::from_millis(500);
/// Of each run of the ground truth; at its edges connections have fewer beside them.
const RUN: Duration = Duration::from_secs(7);
const EDGE: Duration = Duration::from_secs(1);

fn design(id: &str, unit: v1::Unit) -> v1::Experiment {
    let time_slot = (unit == v1::Unit::TimeSlot).then_some(v1::TimeSlot { slot_s: SLOT_S, washout_s: WASHOUT_S });
    v1::Experiment {
        unit: unit.into(),
        time_slot,
        measures: vec![measure("duration_us", true, v1::MeasureRole::Success)],
        horizon_s: HORIZON_S,
        ..experiment(
            id,
            50,
            v1::Match::default(),
            vec![arm("usual", 5_000, v1::Parameters::default()), arm("wide", 5_000, clamp(WIDE))],
        )
    }
}

/// Gives everyone so many packets, below the experiments.
fn put_policy(admin: &Admin, packets: u32) -> Result<()> {
    let rules = vec![rule("all", v1::Match::default(), clamp(packets))];
    let stored = admin.put_policy(policy("usual", 10, rules), everyone())?;
    admin.wait_in_force("node", &stored.name, stored.revision)
}

fn stop(admin: &Admin, name: &str) -> Result<()> {
    let request = v1::StopExperimentRequest { name: name.to_owned(), ..v1::StopExperimentRequest::default() };
    admin.call(admin.experiments().stop_experiment(request))?;
    admin.wait_in_force("node", name, 0)
}

/// The same connections, one after the other, until they are stopped.
fn start(pair: &mut Pair) -> Result<()> {
    let opening = Opening {
        at_once: AT_ONCE,
        upload: UPLOAD,
        until_closed: true,
        ..Opening::new(socket("10.1.0.2", pair.port)?, 0)
    };
    pair.client.start_opening(&opening)
}

fn stopped(pair: &mut Pair) -> Result<Vec<Flow>> {
    let flows = pair.client.stop()?;
    ensure!(flows.iter().all(|flow| flow.error.is_none()), "a connection failed");
    Ok(flows)
}

/// The mean logarithm of what they took while all have windows of so many packets.
fn truth(admin: &Admin, pair: &mut Pair, packets: u32) -> Result<f64> {
    put_policy(admin, packets)?;
    start(pair)?;
    pass(RUN)?;
    let flows = stopped(pair)?;
    let began = flows.iter().map(|flow| flow.began_us).min().context("no connection")?;
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let inner: Range<u64> = began + micros(EDGE)..began + micros(RUN) - micros(EDGE);
    let inner: Vec<_> = flows.iter().filter(|flow| inner.contains(&flow.began_us)).collect();
    ensure!(inner.len() >= 50, "{} connections", inner.len());
    // With reno nothing is lost here, so a clamp is to be seen at the end, too.
    ensure!(inner.iter().all(|flow| flow.closed.as_ref().is_some_and(|facts| facts.ssthresh == packets)), "{inner:?}");
    Ok(mean_ln(inner.iter().map(|flow| flow.duration_us)))
}

/// An experiment by connections: what it claims.
fn by_connections(admin: &Admin, pair: &mut Pair) -> Result<v1::Effect> {
    let stored = admin.put_experiment(design("flows", v1::Unit::Flow), everyone())?;
    admin.wait_in_force("node", &stored.name, stored.revision)?;
    start(pair)?;
    let mut flows: Vec<Flow> = vec![];
    let is_wide = |flow: &&Flow| flow_bucket(salt("flows"), &flow.key()) >= 5_000;
    let began = Instant::now();
    while {
        let wide = flows.iter().filter(is_wide).count();
        wide.min(flows.len() - wide) < FLOWS_EACH
    } {
        ensure!(began.elapsed() < PATIENCE, "only {} connections", flows.len());
        pass(LOOK)?;
        flows.extend(pair.client.progress()?);
    }
    flows.extend(stopped(pair)?);
    let found = settled(admin, &stored.name, flows.len() as u64)?;
    let (wide, usual): (Vec<&Flow>, Vec<&Flow>) = flows.iter().partition(is_wide);
    let of_clients =
        mean_ln(wide.iter().map(|flow| flow.duration_us)) - mean_ln(usual.iter().map(|flow| flow.duration_us));
    let claim = effect(&found, TITLE)?;
    println!("by connections: {claim:?}, by the clients: {of_clients:.3}, {} connections", flows.len());
    ensure!(row(&found, TITLE)?.standing() == v1::Standing::Better, "{found:?}");
    ensure!(claim.upper < -LARGE, "no large gain: {claim:?}");
    ensure!((claim.effect - of_clients).abs() < SAME, "{claim:?} is not near {of_clients}");
    let warned = |warning: &String| warning.contains("cwnd_clamp_packets") && warning.contains("shared bottleneck");
    ensure!(found.warnings.iter().any(warned), "no warning: {:?}", found.warnings);
    stop(admin, &stored.name)?;
    Ok(claim)
}

/// An experiment by slots of time.
fn by_slots(admin: &Admin, pair: &mut Pair) -> Result<v1::Effect> {
    let stored = admin.put_experiment(design("slots", v1::Unit::TimeSlot), everyone())?;
    admin.wait_in_force("node", &stored.name, stored.revision)?;
    start(pair)?;
    let found = eventually("enough pairs of slots have passed", PATIENCE, || {
        pass(LOOK)?;
        let found = results(admin, &stored.name)?;
        ensure!(found.arms.iter().all(|arm| arm.groups >= PAIRS), "{:?}", found.arms);
        Ok(found)
    })?;
    let flows = stopped(pair)?;
    let wide = flows.iter().filter(|flow| flow.closed.as_ref().is_some_and(|facts| facts.ssthresh == WIDE)).count();
    ensure!(wide > flows.len() / 4 && wide < flows.len() * 3 / 4, "{wide} of {} connections are wide", flows.len());
    ensure!(found.estimand.contains("everybody and nobody"), "{}", found.estimand);
    ensure!(!found.warnings.iter().any(|warning| warning.contains("bottleneck")), "{:?}", found.warnings);
    println!("by slots: {:?}", found.arms);
    effect(&found, TITLE)
}

#[test]
fn a_gain_that_is_won_from_others_is_found_out() {
    scenario(Needs::Kernel, |machine| {
        let server = Server::start(machine, Database::Embedded, &[])?;
        let admin = server.admin()?;
        let path = Character { delay: DELAY, queue_bytes: 4 << 20, ..Character::default() };
        let wire = Wire::new(path)?;
        wire.link.set(Way::Forth, Character { rate_bps: Some(RATE_BPS), ..path });
        let cgroup = Cgroup::new(machine, "managed")?;
        let _node = Node::start(machine, "node", &server.url(), &cgroup, &[])?;
        admin.wait_for_nodes(&["node"])?;
        let mut pair = Pair::start(machine, &wire, Some(&cgroup), None)?;
        put_policy(&admin, NARROW)?;

        let claim = by_connections(&admin, &mut pair)?;
        let of_all = truth(&admin, &mut pair, WIDE)? - truth(&admin, &mut pair, NARROW)?;
        println!("all against none, by the clients: {of_all:.3}");
        ensure!(of_all.abs() < SMALL, "when all are treated something changes: {of_all}");
        let slots = by_slots(&admin, &mut pair)?;
        println!("by slots of time: {slots:?}");
        ensure!(slots.lower > claim.upper, "{slots:?} does not exclude the claim {claim:?}");
        // The interval is narrower than what the two runs of the clients may differ by.
        ensure!((slots.effect - of_all).abs() < SAME, "{slots:?} is not near {of_all}");
        ensure!(slots.effect.abs() < SMALL, "{slots:?}");
        ensure!(wire.link.counts(Way::Forth).overflowed == 0, "the queue was too short");
        Ok(())
    });
}
