//! How soon what was given is taken back: from the call until the last of a thousand connected nodes has received it; without TLS.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sockpilot_proto::v1::{
    self, kill_switch_service_client::KillSwitchServiceClient, rollout_plan_service_client::RolloutPlanServiceClient,
    rollout_service_client::RolloutServiceClient,
};
use sockpilot_tests::{
    admin::{Admin, everyone},
    documents::clamped,
    machine::Machine,
    postgres::{Durability, Postgres},
    server::{Database, Server},
    simulated::SimulatedNodes,
    wait::pass,
};

use crate::{Figures, note, quantile};

const NODES: usize = 1_000;
/// Of either; the last of a thousand is a tail in itself.
const TIMES: u32 = 30;
/// Between two measurements, so that no answer of the one before is in the way.
const PAUSE: Duration = Duration::from_millis(500);
const PLAN: &str = "rolloutPlans/bench";

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let postgres = Postgres::start(machine, Durability::Disk)?;
    let server = Server::start(machine, Database::Url(postgres.url()), &[])?;
    let admin = server.admin()?;
    admin.put_policy(clamped(10), everyone())?;
    // Half of each node's connections, for an hour: all nodes have a canary, and what they had stands by.
    let wave = v1::RolloutWave {
        flow_shares_bp: vec![5_000],
        bake_time: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
        ..v1::RolloutWave::default()
    };
    let plan = v1::RolloutPlan { name: PLAN.to_owned(), waves: vec![wave], ..v1::RolloutPlan::default() };
    let request = v1::UpdateRolloutPlanRequest { plan: Some(plan), allow_missing: true, ..Default::default() };
    admin.call(RolloutPlanServiceClient::new(admin.channel()).update_rollout_plan(request))?;

    let fleet = SimulatedNodes::connect(&server, NODES, "policies/web")?;
    let mut back = (0..TIMES).map(|at| roll_back(&admin, &fleet, at)).collect::<Result<Vec<_>>>()?;
    let mut off = (0..TIMES).map(|_| switch_off(&admin, &fleet)).collect::<Result<Vec<_>>>()?;
    note(figures, "rollback_ms_1000_nodes_p50", quantile(&mut back, 0.5));
    note(figures, "rollback_ms_1000_nodes_p99", quantile(&mut back, 0.99));
    note(figures, "kill_switch_ms_1000_nodes_p50", quantile(&mut off, 0.5));
    note(figures, "kill_switch_ms_1000_nodes_p99", quantile(&mut off, 0.99));
    Ok(())
}

fn roll_back(admin: &Admin, fleet: &SimulatedNodes, at: u32) -> Result<f64> {
    let rollout = v1::RolloutOptions { plan: PLAN.to_owned(), ..v1::RolloutOptions::default() };
    let request = v1::UpdatePolicyRequest {
        policy: Some(clamped(11 + at)),
        rollout: Some(rollout),
        ..v1::UpdatePolicyRequest::default()
    };
    let made = admin.call(admin.policies().update_policy(request))?;
    let name = made.notes.context("no notes")?.rollout;
    fleet.all_have("the canary", made.revision)?;
    pass(PAUSE)?;
    let began = Instant::now();
    let verb = v1::RolloutVerbRequest { name, reason: "a benchmark".to_owned(), ..Default::default() };
    admin.call(RolloutServiceClient::new(admin.channel()).roll_back_rollout(verb))?;
    let last = fleet.all_have("what was good", 1)?;
    pass(PAUSE)?;
    Ok(last.duration_since(began).as_secs_f64() * 1e3)
}

fn switch_off(admin: &Admin, fleet: &SimulatedNodes) -> Result<f64> {
    let switch = |off| {
        let (target, reason) = ("policies/web".to_owned(), "a benchmark".to_owned());
        let request = v1::SetKillSwitchRequest { target, off, reason, ..Default::default() };
        admin.call(KillSwitchServiceClient::new(admin.channel()).set_kill_switch(request))
    };
    let began = Instant::now();
    switch(true)?;
    let last = fleet.all_have("nothing", 0)?;
    pass(PAUSE)?;
    switch(false)?;
    fleet.all_have("what they had", 1)?;
    pass(PAUSE)?;
    Ok(last.duration_since(began).as_secs_f64() * 1e3)
}
