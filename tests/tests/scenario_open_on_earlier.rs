//! A rollout tells how many connections still have what was decided before it came: counted on real nodes, in the kernel's own tables.

use std::time::Duration;

use anyhow::{Result, ensure};
use sockpilot_proto::v1::{self, RolloutState};
use sockpilot_tests::{
    admin::everyone,
    documents::{policy, rule},
    fleet::Fleet,
    machine::{Needs, scenario},
    rollouts::{create_plan, roll_out, rollout, wait_for, wave},
    traffic::Opening,
    wait::{eventually, pass},
    world::{short_path, socket},
};

const NODES: [(&str, &str); 2] = [("node-a", "a"), ("node-b", "b")];
const POLICY: &str = "policies/windows";
const HELD: usize = 5;
/// Longer than the rollout takes; then they close by themselves.
const HOLD_MS: u64 = 40_000;
const PATIENCE: Duration = Duration::from_secs(90);

fn document(initial_cwnd_packets: u32) -> v1::Policy {
    let set = v1::Parameters { initial_cwnd_packets: Some(initial_cwnd_packets), ..v1::Parameters::default() };
    policy("windows", 10, vec![rule("all", v1::Match::default(), set)])
}

/// Opens connections from a site.
fn hold(fleet: &mut Fleet<'_>, site: usize) -> Result<()> {
    let port = fleet.port;
    let site = &mut fleet.sites[site];
    let to = socket(&site.origin, port)?;
    site.client.start_opening(&Opening { hold_ms: HOLD_MS, at_once: HELD, ..Opening::new(to, HELD) })
}

/// Waits until a rollout tells so many, with no node unheard of.
fn tells(fleet: &Fleet<'_>, name: &str, open: usize) -> Result<()> {
    eventually(&format!("{name} tells {open} connections under earlier revisions"), PATIENCE, || {
        let now = rollout(&fleet.admin, name)?;
        pass(Duration::from_millis(200))?;
        let told = (now.open_on_earlier_revisions, now.open_unknown_nodes);
        ensure!(told == (open as u64, 0), "{told:?}");
        ensure!(now.open_looked_time.is_some(), "{now:?}");
        Ok(())
    })
}

#[test]
fn a_rollout_tells_what_is_open_under_earlier_revisions() {
    scenario(Needs::Kernel, |machine| {
        let mut fleet = Fleet::start(machine, &NODES, short_path(), 1)?;
        let at_once = v1::RolloutPlan { waves: vec![wave(&[], &[], 0, 0)], ..v1::RolloutPlan::default() };
        create_plan(&fleet.admin, "at-once", at_once)?;
        fleet.admin.put_policy(document(12), everyone())?;
        fleet.wait_in_force(POLICY, 1)?;
        hold(&mut fleet, 0)?;
        pass(Duration::from_secs(1))?;

        let change = roll_out(&fleet.admin, document(20), "at-once")?;
        let ended = wait_for(&fleet.admin, &change.name, RolloutState::Completed, PATIENCE, |_| Ok(()))?;
        fleet.wait_in_force(POLICY, 2)?;
        tells(&fleet, &ended.name, HELD)?;
        // What begins now has the new revision, and is not among them.
        hold(&mut fleet, 1)?;
        pass(Duration::from_secs(6))?;
        tells(&fleet, &ended.name, HELD)?;
        tells(&fleet, &ended.name, 0)
    });
}
