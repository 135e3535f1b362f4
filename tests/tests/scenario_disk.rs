//! The state directory cannot be written to for a while: what is in force stays so, what could not be written is owed and shown,
//! and when it can be written again, nothing is missing.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::{Admin, everyone},
    cgroup::Cgroup,
    disk::Disk,
    documents::{clamp, policy, rule},
    machine::{Machine, Needs, scenario},
    node::{Node, Place},
    server::Served,
    traffic::Opening,
    wait::eventually,
    world::{Pair, Wire, short_path, socket},
};

const PATIENCE: Duration = Duration::from_secs(60);
const NODE: &str = "node";
const LAYER: &str = "policies/web";
const DISK_KIB: u32 = 4_096;

/// A node whose state directory is a disk of its own.
struct Site<'m> {
    pair: Pair,
    node: Node<'m>,
    served: Served<'m>,
    disk: Disk,
    _wire: Wire,
    _cgroup: Cgroup,
}

impl<'m> Site<'m> {
    fn start(machine: &'m Machine) -> Result<Self> {
        let (wire, cgroup) = (Wire::new(short_path())?, Cgroup::new(machine, "managed")?);
        let disk = Disk::new(machine, "disk", DISK_KIB)?;
        let served = Served::start(machine)?;
        let place = Place { state: disk.path().join("state"), ..Place::new(machine, NODE)? };
        let node =
            Node::start_at(machine, NODE, &served.server.url(), &cgroup, place, &["--long-flow-interval-s", "0"])?;
        served.admin.wait_for_nodes(&[NODE])?;
        let pair = Pair::start(machine, &wire, Some(&cgroup), None)?;
        Ok(Self { pair, node, served, disk, _wire: wire, _cgroup: cgroup })
    }

    fn admin(&self) -> &Admin {
        &self.served.admin
    }

    /// Puts a revision with this clamp in force.
    fn enforce(&self, packets: u32) -> Result<u64> {
        let document = policy("web", 10, vec![rule("all", v1::Match::default(), clamp(packets))]);
        let revision = self.admin().put_policy(document, everyone())?.revision;
        self.admin().wait_in_force(NODE, LAYER, revision)?;
        Ok(revision)
    }

    /// What the list of nodes says that is not on disk.
    fn not_written(&self) -> Result<Option<v1::StateNotWritten>> {
        Ok(self.admin().nodes()?.remove(NODE).context("the node is unknown")?.state_not_written)
    }

    fn wait_until_owed(&self, what: &[&str]) -> Result<v1::StateNotWritten> {
        eventually(&format!("{what:?} are shown as not written"), PATIENCE, || {
            let shown = self.not_written()?.context("nothing is")?;
            ensure!(what.iter().all(|what| shown.what.iter().any(|shown| shown == what)), "{shown:?}");
            Ok(shown)
        })
    }

    fn wait_until_written(&self) -> Result<()> {
        eventually("all is written", PATIENCE, || {
            let shown = self.not_written()?;
            ensure!(shown.is_none(), "{shown:?}");
            Ok(())
        })
    }

    fn clamp_of_new(&mut self) -> Result<u32> {
        Ok(self.pair.one("10.1.0.2")?.opened.context("not established")?.ssthresh)
    }

    /// Connections that stay open until [`Self::close`].
    fn hold(&mut self, connections: usize) -> Result<()> {
        let opening =
            Opening { at_once: connections, hold_ms: 15_000, ..Opening::new(socket("10.1.0.2", self.pair.port)?, 0) };
        self.pair.client.start_opening(&opening)
    }

    /// Waits until Postgres has so many flows of a revision, and looks whether it stays so.
    fn wait_for_flows(&self, revision: u64, expected: u64) -> Result<()> {
        eventually("every flow is in the outcomes", PATIENCE, || {
            let flows = self.admin().flows(LAYER)?.get(&(revision, "all".to_owned())).copied().unwrap_or_default();
            ensure!(flows == expected, "{flows} of {expected}");
            Ok(())
        })
    }
}

#[test]
fn what_a_full_disk_did_not_take_is_there_when_it_has_room() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine)?;
        site.enforce(21)?;
        ensure!(site.not_written()?.is_none(), "nothing is owed");
        site.disk.fill()?;
        let revision = site.enforce(22)?;
        ensure!(site.clamp_of_new()? == 22, "it is in force without a disk");
        let shown = site.wait_until_owed(&["snapshot", "choices"])?;
        ensure!(shown.reason.contains("No space left"), "{shown:?}");
        let listed = site.served.server.says(&["nodes"])?;
        ensure!(listed.contains("has not written its state since") && listed.contains("No space left"), "{listed}");
        let halves: Vec<_> = files(site.disk.path())?.into_iter().filter(|name| name.ends_with(".new")).collect();
        ensure!(halves.is_empty(), "left behind: {halves:?}");

        // Connections that are open when there is room again, and when the daemon is killed after that.
        site.hold(9)?;
        site.disk.make_room()?;
        site.wait_until_written()?;
        site.node.kill()?;
        site.node.restart()?;
        let held = site.pair.client.stop()?;
        ensure!(held.iter().all(|flow| flow.opened.as_ref().is_some_and(|facts| facts.ssthresh == 22)), "{held:?}");
        ensure!(held.len() >= 9, "{} connections", held.len());
        // The one that was looked at above is the first.
        site.wait_for_flows(revision, 1 + held.len() as u64)?;

        // The machine starts anew while there is no server.
        site.node.detach()?;
        site.served.server.kill()?;
        site.node.restart()?;
        eventually("the newer one is in force again", PATIENCE, || {
            let clamp = site.clamp_of_new()?;
            ensure!(clamp == 22, "a new connection has {clamp}");
            Ok(())
        })
    });
}

#[test]
fn records_wait_in_the_kernel_while_the_disk_is_full() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine)?;
        let revision = site.enforce(21)?;
        let churn = Opening { at_once: 4, pause_ms: 5, ..Opening::new(socket("10.1.0.2", site.pair.port)?, 0) };
        site.pair.client.start_opening(&churn)?;
        for _ in 0..3 {
            site.disk.fill()?;
            site.wait_until_owed(&["outcomes"])?;
            // Folded and not written down: whoever comes next folds it again.
            site.node.kill()?;
            site.node.restart()?;
            site.wait_until_owed(&["outcomes"])?;
            site.disk.make_room()?;
            site.wait_until_written()?;
        }
        let flows = site.pair.client.stop()?;
        ensure!(flows.iter().all(|flow| flow.opened.is_some()), "connections failed");
        site.wait_for_flows(revision, flows.len() as u64)?;
        let known = site.admin().nodes()?.remove(NODE).context("the node is unknown")?;
        ensure!(
            (known.records_total, known.records_dropped) == (flows.len() as u64, 0),
            "the kernel counted: {known:?}"
        );
        println!("{} connections, nothing lost, nothing twice", flows.len());
        Ok(())
    });
}

#[test]
fn what_is_deleted_while_the_daemon_runs_is_written_again() {
    scenario(Needs::Kernel, |machine| {
        let mut site = Site::start(machine)?;
        let revision = site.enforce(21)?;
        site.hold(5)?;
        let state = site.disk.path().join("state");
        let moved = site.disk.path().join("moved");
        for round in 0..2 {
            if round == 0 {
                fs::remove_dir_all(&state)?;
            } else {
                fs::rename(&state, &moved)?;
            }
            eventually("all files are there again", PATIENCE, || {
                let files = files(&state)?;
                let books = files.iter().any(|name| name.starts_with("books/"));
                let choices = files.iter().any(|name| name.starts_with("attributions/"));
                ensure!(books && choices && files.iter().any(|name| name == "snapshot"), "{files:?}");
                Ok(())
            })?;
        }
        site.node.kill()?;
        site.node.restart()?;
        let held = site.pair.client.stop()?;
        site.wait_for_flows(revision, held.len() as u64)
    });
}

/// Paths of all files below a directory, relative to it.
fn files(directory: &std::path::Path) -> Result<Vec<String>> {
    let mut found = vec![];
    let mut waiting = vec![directory.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {folder:?}"))? {
            let path = entry?.path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(path.strip_prefix(directory)?.display().to_string());
            }
        }
    }
    Ok(found)
}
