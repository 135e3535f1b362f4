//! What the demo plays on: server, two nodes, the emulated paths, and agents that make traffic.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1;
use sockpilot_tests::{
    fleet::Fleet,
    link::Way,
    machine::Machine,
    process,
    shaper::{Character, LossOf},
    traffic::Opening,
    wait::eventually,
    world::socket,
};

/// One way.
pub const DELAY: Duration = Duration::from_millis(25);
/// Share of SYNs that get lost.
pub const SYN_LOSS: f64 = 0.2;
/// The nodes, each with its `site` label.
pub const NODES: [(&str, &str); 2] = [("node-a", "a"), ("node-b", "b")];

const CELL_INTERVAL_S: u32 = 1;
/// Connections of one client at the same time.
const AT_ONCE: usize = 48;
/// More than 20 packets and less than 40: what an initial window makes of it can be seen.
const UPLOAD: u32 = 40_000;
const PATIENCE: Duration = Duration::from_secs(30);
/// Results are about connections whose horizon has passed half a minute ago.
const RESULTS_PATIENCE: Duration = Duration::from_secs(90);

/// The whole of it.
pub struct Stage<'m> {
    pub fleet: Fleet<'m>,
}

impl<'m> Stage<'m> {
    /// Starts everything; no traffic yet, no policy.
    pub fn build(machine: &'m Machine) -> Result<Self> {
        let fleet = Fleet::start(machine, &NODES, path(), CELL_INTERVAL_S)?;
        let stage = Self { fleet };
        stage.lose_syns(SYN_LOSS);
        Ok(stage)
    }

    /// From now on so many SYNs get lost on all paths.
    pub fn lose_syns(&self, loss: f64) {
        for site in &self.fleet.sites {
            site.link.set(Way::Forth, Character { loss, loss_of: LossOf::Syn, ..path() });
        }
    }

    /// Traffic from all sites.
    pub fn start_traffic(&mut self) -> Result<()> {
        let opening = Opening::new(socket("0.0.0.0", 0)?, 0);
        let opening = Opening { at_once: AT_ONCE, upload: UPLOAD, pause_ms: 20, patience_ms: 20_000, ..opening };
        self.fleet.start_traffic(&opening)
    }

    /// Runs `sockpilot` as a person would, and shows it.
    pub fn sockpilot(&self, arguments: &[&str]) -> Result<()> {
        self.sockpilot_ending(arguments, 0)
    }

    /// As [`Self::sockpilot`], where it is to end with another code.
    pub fn sockpilot_ending(&self, arguments: &[&str], code: i32) -> Result<()> {
        println!("\n$ sockpilot {}", arguments.join(" "));
        let mut command = process::own("sockpilot")?;
        command.args(arguments).env("SOCKPILOT_SERVER", self.fleet.server.url()).env("SOCKPILOT_ACTOR", "demo");
        // Files are named as seen from the root of the repository.
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?);
        let output = command.output().context("running sockpilot")?;
        let (said, beside) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.code() == Some(code), "sockpilot ended with {}: {}", output.status, beside.trim());
        for line in beside.lines().chain(said.lines()) {
            println!("  {line}");
        }
        if code != 0 {
            println!("  (exit code {code})");
        }
        Ok(())
    }

    /// Waits until every node runs the revision that it should (`None`: not the layer), and says how long that took for the
    /// last of them after the change was committed.
    pub fn wait_in_force(&self, layer: &str, revisions: [u64; 2]) -> Result<Duration> {
        for ((id, _), revision) in NODES.iter().zip(revisions) {
            self.fleet.admin.wait_in_force(id, layer, revision)?;
        }
        let request = v1::GetLayerStatusRequest { name: layer.to_owned() };
        let status = self.fleet.admin.call(self.fleet.admin.fleet().get_layer_status(request))?;
        let committed = status.assignments.iter().filter_map(|assignment| time(assignment.start_time.as_ref())).max();
        let committed = committed.context("no assignment has a time")?;
        let nodes = self.fleet.admin.nodes()?;
        let entries = nodes.values().flat_map(|node| &node.layers).filter(|entry| entry.layer == layer);
        let last = entries
            .filter_map(|entry| time(entry.confirm_time.as_ref()))
            .max()
            .context("no confirmation has a time")?;
        last.duration_since(committed).context("confirmed before it was committed")
    }

    /// Waits until no node runs a layer any more.
    pub fn wait_gone(&self, layer: &str) -> Result<()> {
        NODES.iter().try_for_each(|(id, _)| self.fleet.admin.wait_in_force(id, layer, 0))
    }

    /// Waits until the server has every flow of a layer; no traffic may be under way.
    pub fn wait_for_flows(&self, layer: &str, expected: u64) -> Result<Vec<v1::OutcomeRow>> {
        eventually(&format!("all {expected} outcomes of {layer} have come"), PATIENCE, || {
            let rows = self.fleet.admin.outcomes(layer)?;
            let stored: u64 = rows.iter().filter_map(|row| row.counts.as_ref()).map(|counts| counts.flows).sum();
            ensure!(stored == expected, "the server has {stored}");
            Ok(rows)
        })
    }

    /// Waits until an experiment has measured all its connections.
    pub fn wait_for_results(&self, name: &str, expected: u64) -> Result<v1::ExperimentResults> {
        eventually(&format!("{name} has measured {expected} connections"), RESULTS_PATIENCE, || {
            let request = v1::GetExperimentResultsRequest { name: name.to_owned(), revision: 0 };
            let results = self.fleet.admin.call(self.fleet.admin.experiments().get_experiment_results(request))?;
            let measured: u64 = results.arms.iter().map(|arm| arm.attempts).sum();
            ensure!(measured == expected, "it has {measured}");
            Ok(results)
        })
    }
}

fn path() -> Character {
    Character { delay: DELAY, ..Character::default() }
}

fn time(timestamp: Option<&prost_types::Timestamp>) -> Option<SystemTime> {
    SystemTime::try_from(*timestamp?).ok()
}
