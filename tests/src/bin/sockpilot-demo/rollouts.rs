//! A rollout that goes through, and one that is stopped on the first node.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sockpilot_proto::v1::RolloutState;
use sockpilot_tests::{
    admin::Admin,
    rollouts::{detected_after, newest, transitions},
    wait::pass,
};

use crate::{
    stage::{NODES, Stage},
    story::POLICY,
};

const LOOK: Duration = Duration::from_millis(200);
/// Of `sockpilot apply --wait` where the rollout was rolled back.
const ROLLED_BACK: i32 = 4;
const HARMFUL_REVISION: u64 = 3;

/// How far the harmful one came.
pub struct Found {
    /// Of both, while they ran.
    pub connections: u64,
    completed_s: f64,
    detect_s: f64,
    /// Until every node had confirmed what was before.
    rolled_back_s: f64,
    harmed_nodes: BTreeSet<String>,
    /// Connections with the harmful revision, and all while it was there.
    harmed: u64,
    meanwhile: u64,
    reason: String,
}

impl Found {
    pub fn to_json(&self) -> Value {
        json!({
            "good": { "state": "completed", "seconds": self.completed_s, "nodes": NODES.len() },
            "harmful": {
                "state": "rolled back",
                "reason": self.reason,
                "blast_radius_nodes": self.harmed_nodes.len(),
                "of_nodes": NODES.len(),
                "blast_radius_flows": self.harmed,
                "of_flows_meanwhile": self.meanwhile,
                "blast_radius_flow_share": self.harmed as f64 / self.meanwhile.max(1) as f64,
                "detect_s": self.detect_s,
                "rolled_back_s": self.rolled_back_s,
            },
        })
    }
}

/// Shows both; revision 1 is in force, and revision 2 stored.
pub fn show(stage: &mut Stage<'_>) -> Result<Found> {
    stage.lose_syns(0.0);
    stage.start_traffic()?;
    stage.sockpilot(&["apply", "-f", "tests/demo/rollout-plan.yaml"])?;
    let began = Instant::now();
    let good = ["apply", "-f", "tests/demo/initial-window-2.yaml", "--plan", "brisk", "--reason", "40 once more"];
    stage.sockpilot(&[&good[..], &["--wait=2m"]].concat())?;
    let completed_s = began.elapsed().as_secs_f64();
    stage.fleet.wait_in_force(POLICY, 2)?;
    let before = stage.fleet.progress()?.concat().len() as u64;

    let harmful = ["apply", "-f", "tests/demo/initial-window-harmful.yaml", "--plan", "brisk", "--reason", "a mistake"];
    let began = Instant::now();
    let harmed_nodes =
        watched(stage, |stage| stage.sockpilot_ending(&[&harmful[..], &["--wait=2m"]].concat(), ROLLED_BACK))?;
    let rolled_back_s = began.elapsed().as_secs_f64();
    let meanwhile = stage.fleet.progress()?.concat().len() as u64;
    stage.fleet.wait_in_force(POLICY, 2)?;
    let after = stage.fleet.stop_traffic()?.concat().len() as u64;
    stage.sockpilot(&["rollout", "history", POLICY, "--evidence"])?;

    let rollout = newest(&stage.fleet.admin, POLICY)?;
    ensure!(rollout.state() == RolloutState::RolledBack && rollout.revision == HARMFUL_REVISION, "{rollout:?}");
    let moves = transitions(&stage.fleet.admin, &rollout.name)?;
    let back = moves.iter().find(|moved| moved.to_state() == RolloutState::RollingBack).context("no way back")?;
    let flows = stage.fleet.admin.flows(POLICY)?;
    let harmed = flows.iter().filter(|((revision, _), _)| *revision == HARMFUL_REVISION).map(|(_, flows)| flows).sum();
    let detect_s = detected_after(&moves)?.as_secs_f64();
    let reason = back.reason.clone();
    let connections = before + meanwhile + after;
    ensure!(harmed_nodes.len() == 1 && harmed > 0, "it reached {harmed_nodes:?} and {harmed} connections");
    println!(
        "\n  harm was found after {detect_s:.1} s; until then {harmed} of {meanwhile} connections had it, on {} of {} nodes",
        harmed_nodes.len(),
        NODES.len()
    );
    Ok(Found { connections, completed_s, detect_s, rolled_back_s, harmed_nodes, harmed, meanwhile, reason })
}

/// Which nodes confirmed the harmful revision while something went on.
fn watched(stage: &Stage<'_>, work: impl FnOnce(&Stage<'_>) -> Result<()>) -> Result<BTreeSet<String>> {
    let done = AtomicBool::new(false);
    let admin = Admin::new(&stage.fleet.server.url())?;
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut found = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                for (id, node) in admin.nodes()? {
                    let has = |layer: &str, revision| layer == POLICY && revision == HARMFUL_REVISION;
                    if node.layers.iter().any(|entry| has(&entry.layer, entry.confirmed_revision)) {
                        found.insert(id);
                    }
                }
                pass(LOOK)?;
            }
            Ok(found)
        });
        let worked = work(stage);
        done.store(true, Ordering::Relaxed);
        let found = watcher.join().ok().context("the watcher panicked")?;
        worked.and(found)
    })
}
