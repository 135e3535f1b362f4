//! Rollouts on the real kernel: three nodes with traffic over long paths. What does no harm goes through all waves; what does is stopped
//! on the first node and taken back, by the gates, or by the breaker in the kernel where no daemon lives.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1::{self, RolloutPhase, RolloutState};
use sockpilot_tests::{
    admin::everyone,
    documents::{clamp, policy, rule},
    fleet::Fleet,
    link::Way,
    machine::{Needs, scenario},
    rollouts::{create_plan, detected_after, gate, roll_out, rollout, switch, transitions, wait_for, wave},
    shaper::{Character, LossOf},
    traffic::{Flow, Opening},
    wait::{eventually, pass},
    world::socket,
};

const NODES: [(&str, &str); 3] = [("node-a", "a"), ("node-b", "b"), ("node-c", "c")];
const POLICY: &str = "policies/windows";
/// One way.
const DELAY: Duration = Duration::from_millis(25);
/// Some 28 packets: of a window of 2 it takes many round trips.
const UPLOAD: u32 = 40_000;
const AT_ONCE: usize = 24;
const HORIZON_S: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(300);

fn long_path() -> Character {
    Character { delay: DELAY, ..Character::default() }
}

fn traffic() -> Result<Opening> {
    let to = socket("10.50.1.2", 1)?;
    Ok(Opening { at_once: AT_ONCE, upload: UPLOAD, pause_ms: 20, patience_ms: 20_000, ..Opening::new(to, 0) })
}

/// One node, then a second one, then all.
fn plan() -> v1::RolloutPlan {
    v1::RolloutPlan {
        waves: vec![
            wave(&["node-a"], &[1_000, 5_000], 3, 100),
            wave(&["node-b"], &[5_000], 3, 100),
            wave(&[], &[], 3, 100),
        ],
        gates: vec![gate("completion_time", 2_000), gate("srtt", 2_000), gate("bad_ends", 500)],
        horizon_s: HORIZON_S,
        ..v1::RolloutPlan::default()
    }
}

fn windows(packets: u32) -> v1::Parameters {
    v1::Parameters { initial_cwnd_packets: Some(packets), ..v1::Parameters::default() }
}

fn document(set: v1::Parameters) -> v1::Policy {
    policy("windows", 10, vec![rule("all", v1::Match::default(), set)])
}

/// What the last connections of each site began with.
fn last_windows(flows: &[Vec<Flow>]) -> Result<Vec<u32>> {
    let last = |flows: &Vec<Flow>| {
        let last = flows.iter().max_by_key(|flow| flow.began_us).context("no connections")?;
        Ok(last.opened.as_ref().context("not established")?.cwnd)
    };
    flows.iter().map(last).collect()
}

/// New connections of all sites begin with a window.
fn expect_windows(fleet: &mut Fleet<'_>, packets: u32) -> Result<()> {
    fleet.progress()?;
    eventually(&format!("connections begin with {packets} packets"), Duration::from_secs(20), || {
        pass(Duration::from_millis(200))?;
        let found = last_windows(&fleet.progress()?)?;
        ensure!(found == [packets; 3], "{found:?}");
        Ok(())
    })
}

#[test]
fn good_changes_go_on_and_harmful_ones_go_back() {
    scenario(Needs::Kernel, |machine| {
        let mut fleet = Fleet::start(machine, &NODES, long_path(), 1)?;
        create_plan(&fleet.admin, "brisk", plan())?;
        fleet.admin.put_policy(document(windows(12)), everyone())?;
        fleet.wait_in_force(POLICY, 1)?;
        fleet.start_traffic(&traffic()?)?;
        expect_windows(&mut fleet, 12)?;
        a_good_change(&mut fleet)?;
        a_harmful_change(&mut fleet)?;
        the_kill_switch(&mut fleet)?;
        fleet.stop_traffic().map(drop)
    });
}

fn a_good_change(fleet: &mut Fleet<'_>) -> Result<()> {
    let began = Instant::now();
    let good = roll_out(&fleet.admin, document(windows(20)), "brisk")?;
    ensure!((good.revision, good.good_revision) == (2, 1), "{good:?}");
    let admin = &fleet.admin;
    let ended = wait_for(admin, &good.name, RolloutState::Completed, PATIENCE, |now| {
        // Waves that have not begun have nothing, and a wave that has not converged its first step has it on no more nodes than it has.
        let reached = match now.wave {
            0 => 0,
            1 => 1,
            2 => 2,
            _ => 3,
        };
        for (id, _) in &NODES[reached..] {
            let has = fleet.confirmed(id, POLICY)?;
            ensure!(
                has == 1 || rollout(admin, &good.name)?.wave > now.wave,
                "{id} has revision {has} in wave {}",
                now.wave
            );
        }
        Ok(())
    })?;
    println!("a good change took {:.0} s", began.elapsed().as_secs_f64());
    ensure!(ended.reason == "everyone has it", "{ended:?}");
    fleet.wait_in_force(POLICY, 2)?;
    expect_windows(fleet, 20)?;

    let moves = transitions(&fleet.admin, &good.name)?;
    for moved in &moves {
        println!("  wave {} step {} {}: {}", moved.wave, moved.step, moved.phase().as_str_name(), moved.reason);
    }
    let steps: Vec<_> = moves
        .iter()
        .filter(|moved| moved.phase() == RolloutPhase::Judging && moved.to_state() == RolloutState::Running)
        .map(|moved| (moved.wave, moved.step))
        .collect();
    ensure!(steps == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1)], "{steps:?}");
    // What a step with a share passed on stands beside the move to the next one.
    for next in [(1, 2), (1, 3), (2, 2)] {
        let entered = |moved: &&v1::RolloutTransition| {
            moved.phase() == RolloutPhase::Applying && (moved.wave, moved.step) == next
        };
        let judged = moves.iter().find(entered).with_context(|| format!("nothing led to {next:?}"))?;
        ensure!(judged.gates.len() == 3, "{judged:?}");
        for gate in &judged.gates {
            ensure!(gate.verdict() == v1::GateVerdict::Pass && gate.n_canary >= 100, "{gate:?}");
        }
    }
    // The first step was begun by who asked for the rollout; what follows is the controller's: five steps, and everyone.
    audited(fleet, "", 6)
}

/// So many changes of the controller are in the audit log of the policy, with these words in their reasons.
fn audited(fleet: &Fleet<'_>, words: &str, number: usize) -> Result<()> {
    let request = v1::ListAuditEntriesRequest {
        name: POLICY.to_owned(),
        page_size: 200,
        ..v1::ListAuditEntriesRequest::default()
    };
    let entries = fleet.admin.call(fleet.admin.fleet().list_audit_entries(request))?.entries;
    let own = |entry: &&v1::AuditEntry| entry.actor == "controllers/rollouts" && entry.reason.contains(words);
    let found = entries.iter().filter(own).count();
    ensure!(found == number, "{found} entries with \"{words}\" in {entries:?}");
    Ok(())
}

fn a_harmful_change(fleet: &mut Fleet<'_>) -> Result<()> {
    fleet.progress()?;
    let harmful = roll_out(&fleet.admin, document(clamp(2)), "brisk")?;
    let (mut reached, mut last) = (0, 0);
    wait_for(&fleet.admin, &harmful.name, RolloutState::RolledBack, PATIENCE, |now| {
        ensure!(now.wave == 1, "it came to wave {}", now.wave);
        last = last.max(now.step);
        let mut has = 0;
        for (id, _) in NODES {
            let confirmed = fleet.confirmed(id, POLICY)?;
            has += usize::from(confirmed == 3);
            ensure!(id == "node-a" || confirmed == 2, "{id} has revision {confirmed}");
        }
        reached = reached.max(has);
        Ok(())
    })?;
    let moves = transitions(&fleet.admin, &harmful.name)?;
    for moved in &moves {
        println!("  wave {} step {} {}: {}", moved.wave, moved.step, moved.phase().as_str_name(), moved.reason);
    }
    let back = moves.iter().find(|moved| moved.to_state() == RolloutState::RollingBack).context("no way back")?;
    let failed: Vec<_> = back
        .gates
        .iter()
        .filter(|gate| gate.verdict() == v1::GateVerdict::Fail)
        .filter_map(|gate| gate.gate.as_ref())
        .collect();
    ensure!(failed.iter().any(|gate| gate.metric == "completion_time"), "{:?}", back.gates);
    fleet.wait_in_force(POLICY, 2)?;
    let meanwhile = fleet.progress()?.concat().len() as f64;
    expect_windows(fleet, 20)?;
    let detected = detected_after(&moves)?;
    let flows = fleet.admin.flows(POLICY)?;
    let harmed = flows.iter().filter(|((revision, _), _)| *revision == 3).map(|(_, flows)| flows).sum::<u64>() as f64;
    println!(
        "harm was found after {:.1} s in step {last}, on {reached} of {} nodes and {harmed} of {meanwhile} connections",
        detected.as_secs_f64(),
        NODES.len()
    );
    ensure!(reached == 1 && harmed > 0.0, "it reached {reached} nodes");
    // In its first step it has a tenth of a third.
    ensure!(harmed < 0.06 * meanwhile || last > 1, "{harmed} of {meanwhile} connections had it");
    ensure!(detected < Duration::from_secs(120), "{detected:?}");
    audited(fleet, "completion_time", 1)
}

fn the_kill_switch(fleet: &mut Fleet<'_>) -> Result<()> {
    let began = Instant::now();
    ensure!(switch(&fleet.admin, POLICY, true)?.off, "it is off");
    fleet.wait_in_force(POLICY, 0)?;
    println!("switched off everywhere after {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    expect_windows(fleet, 10)?;
    ensure!(!switch(&fleet.admin, POLICY, false)?.off, "it is on");
    fleet.wait_in_force(POLICY, 2)?;
    expect_windows(fleet, 20)
}

/// A user timeout shorter than that of a SYN, on a path that begins to lose SYNs when nobody watches.
#[test]
fn the_breaker_ends_a_canary_where_no_daemon_lives() {
    scenario(Needs::Kernel, |machine| {
        let mut fleet = Fleet::start(machine, &NODES, long_path(), 1)?;
        let slow =
            v1::RolloutPlan { waves: vec![wave(&["node-a"], &[5_000], 600, 100), wave(&[], &[], 600, 100)], ..plan() };
        create_plan(&fleet.admin, "slow", slow)?;
        fleet.admin.put_policy(document(windows(12)), everyone())?;
        fleet.wait_in_force(POLICY, 1)?;
        let hasty = v1::Parameters { user_timeout_ms: Some(500), ..windows(20) };
        let canary = roll_out(&fleet.admin, document(hasty), "slow")?;
        fleet.admin.wait_in_force("node-a", POLICY, 2)?;
        eventually("it bakes", Duration::from_secs(20), || {
            let now = rollout(&fleet.admin, &canary.name)?;
            ensure!(now.phase() == RolloutPhase::Baking, "{now:?}");
            Ok(())
        })?;
        let port = fleet.port;
        let site = fleet.sites.first_mut().context("a site")?;
        let opening = Opening { to: socket(&site.origin, port)?, upload: 1_000, ..traffic()? };
        site.client.start_opening(&opening)?;
        pass(Duration::from_secs(2))?;
        let clean = site.client.progress()?;
        ensure!(clean.iter().all(|flow| flow.error.is_none()), "a clean path");
        ensure!(
            windows_of(&clean).any(|packets| packets == 20) && windows_of(&clean).any(|packets| packets == 12),
            "two shares"
        );

        site.node.kill()?;
        site.link.set(Way::Forth, Character { loss: 0.3, loss_of: LossOf::Syn, ..long_path() });
        let began = Instant::now();
        let mut failed = 0;
        eventually("the canary has ended in the kernel", Duration::from_secs(60), || {
            pass(Duration::from_secs(2))?;
            let flows = site.client.progress()?;
            failed += flows.iter().filter(|flow| flow.error.is_some()).count();
            let canary = windows_of(&flows).filter(|packets| *packets == 20).count();
            ensure!(canary == 0 && !flows.is_empty(), "{canary} of {} have the canary's", flows.len());
            Ok(())
        })?;
        println!("{failed} failed until the breaker ended it, {:.0} s after the daemon", began.elapsed().as_secs_f64());
        ensure!(failed > 0, "it had no reason");
        let now = rollout(&fleet.admin, &canary.name)?;
        ensure!(now.state() == RolloutState::Running, "nobody knows yet: {now:?}");

        let again = Instant::now();
        fleet.sites[0].node.restart()?;
        let ended =
            wait_for(&fleet.admin, &canary.name, RolloutState::RolledBack, Duration::from_secs(60), |_| Ok(()))?;
        println!(
            "the server knew {:.1} s after the daemon had begun again: {}",
            again.elapsed().as_secs_f64(),
            ended.reason
        );
        let moves = transitions(&fleet.admin, &canary.name)?;
        let back = moves.iter().find(|moved| moved.to_state() == RolloutState::RollingBack).context("no way back")?;
        ensure!(back.trip_nodes == ["nodes/node-a"] && back.reason.contains("circuit breaker"), "{back:?}");
        let trip = back.breaker_trips.first().context("no trip")?;
        ensure!(trip.canary_bad_ends > trip.control_bad_ends, "{trip:?}");
        fleet.wait_in_force(POLICY, 1)?;
        fleet.sites[0].client.stop().map(drop)
    });
}

fn windows_of(flows: &[Flow]) -> impl Iterator<Item = u32> {
    flows.iter().filter_map(|flow| flow.opened.as_ref()).map(|facts| facts.cwnd)
}
