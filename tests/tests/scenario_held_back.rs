//! A layer that a node cannot honour beside others: everything else is newest, of that layer the last good revision stays, through
//! restarts of the daemon and a database that is restored from a backup.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::{Admin, everyone},
    cgroup::Cgroup,
    documents::{clamp, policy, rule},
    machine::{Machine, Needs, scenario},
    node::Node,
    server::{Database, Served},
    wait::eventually,
    world::{FAR, Pair, Wire, short_path},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// For connections to the first address of the far end; the node cannot honour all of its revisions.
const PICKY: &str = "policies/picky";
/// For connections to the second.
const PLAIN: &str = "policies/plain";

/// A whole fleet of one node, and connections under its policies.
struct World<'m> {
    served: Served<'m>,
    node: Node<'m>,
    pair: Pair,
    _wire: Wire,
    _cgroup: Cgroup,
}

impl<'m> World<'m> {
    fn start(machine: &'m Machine) -> Result<Self> {
        let served = Served::start(machine)?;
        let (wire, cgroup) = (Wire::new(short_path())?, Cgroup::new(machine, "managed")?);
        let node = Node::start(machine, "node", &served.server.url(), &cgroup, &[])?;
        served.admin.wait_for_nodes(&["node"])?;
        let pair = Pair::start(machine, &wire, Some(&cgroup), None)?;
        Ok(Self { served, node, pair, _wire: wire, _cgroup: cgroup })
    }

    /// What new connections have of both policies.
    fn expect(&mut self, picky: u32, plain: u32) -> Result<()> {
        for (address, expected) in [(FAR[0], picky), (FAR[1], plain)] {
            let found = self.pair.one(address)?.opened.context("not established")?.ssthresh;
            ensure!(found == expected, "a new connection to {address} has {found}, not {expected}");
        }
        Ok(())
    }

    fn admin(&self) -> &Admin {
        &self.served.admin
    }

    /// Gives everyone a revision; with `beyond`, one that asks for what this kernel has not.
    fn put(&self, layer: &str, packets: u32, beyond: bool) -> Result<u64> {
        let address = if layer == PICKY { FAR[0] } else { FAR[1] };
        let matches = v1::Match { remote_prefixes: vec![format!("{address}/32")], ..v1::Match::default() };
        let mut set = clamp(packets);
        set.congestion_control = beyond.then(|| "nv".to_owned());
        let name = layer.trim_start_matches("policies/");
        Ok(self.admin().put_policy(policy(name, 10, vec![rule("all", matches, set)]), everyone())?.revision)
    }

    /// Waits until the status says that the node holds a revision back, and what it has in its place.
    fn wait_held_back(&self, revision: u64, in_force: u64) -> Result<()> {
        eventually(&format!("{PICKY}@{revision} is held back for {in_force}"), PATIENCE, || {
            let request = v1::GetLayerStatusRequest { name: PICKY.to_owned() };
            let status = self.admin().call(self.admin().fleet().get_layer_status(request))?;
            let rejection = status.rejections.first().context("no rejection")?;
            ensure!((rejection.revision, rejection.revision_in_force) == (revision, in_force), "{rejection:?}");
            let violation = rejection.violations.first().context("it is not said why")?;
            ensure!(violation.field == "rules[0].set.congestion_control", "{violation:?}");
            ensure!(violation.description.contains("nv"), "{violation:?}");
            let counts = [v1::RevisionCount { revision, state: v1::LayerState::Rejected.into(), nodes: 1 }];
            ensure!(status.counts == counts, "{status:?}");
            let nodes = self.admin().nodes()?;
            let layers = &nodes.get("node").context("the node is unknown")?.layers;
            let layer = layers.iter().find(|layer| layer.layer == PICKY).context("the layer is unknown")?;
            ensure!((layer.state(), layer.confirmed_revision) == (v1::LayerState::Rejected, in_force), "{layer:?}");
            Ok(())
        })
    }
}

#[test]
fn a_refused_layer_beside_others_through_daemon_restarts_and_a_database_restore() {
    scenario(Needs::Kernel, |machine| {
        let available = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")?;
        if available.split_whitespace().any(|name| name == "nv") {
            sockpilot_programs::skipped(
                "its kernel has the congestion control nv, which this test needs to be missing",
            );
            return Ok(());
        }
        let mut world = World::start(machine)?;
        world.put(PICKY, 11, false)?;
        let plain = world.put(PLAIN, 21, false)?;
        world.admin().wait_in_force("node", PLAIN, plain)?;
        world.expect(11, 21)?;

        // Held back: the other policy changes all the same, and this one stays as it was.
        let refused = world.put(PICKY, 12, true)?;
        world.wait_held_back(refused, 1)?;
        world.expect(11, 21)?;
        let plain = world.put(PLAIN, 22, false)?;
        world.admin().wait_in_force("node", PLAIN, plain)?;
        world.wait_held_back(refused, 1)?;
        world.expect(11, 22)?;
        let said = world.served.server.says(&["status", PICKY])?;
        ensure!(said.contains("goes on with policies/picky@1"), "{said}");
        let said = world.served.server.says(&["nodes"])?;
        ensure!(said.contains("policies/picky@1 (rejected 2)"), "{said}");

        // The daemon dies and another one begins, which changes nothing; what comes then does.
        world.node.kill()?;
        world.expect(11, 22)?;
        world.node.restart()?;
        world.admin().wait_for_nodes(&["node"])?;
        world.wait_held_back(refused, 1)?;
        world.expect(11, 22)?;
        let plain = world.put(PLAIN, 23, false)?;
        world.admin().wait_in_force("node", PLAIN, plain)?;
        world.expect(11, 23)?;
        eventually("outcomes are of what was in force", PATIENCE, || {
            let flows = world.admin().flows(PICKY)?;
            ensure!(!flows.is_empty() && flows.keys().all(|(revision, _)| *revision == 1), "{flows:?}");
            Ok(())
        })?;

        restore(&mut world, refused)?;

        // Corrected.
        let mended = world.put(PICKY, 15, false)?;
        world.admin().wait_in_force("node", PICKY, mended)?;
        world.expect(15, 24)
    });
}

/// A backup is made while a revision is held back. The fleet goes on, then the database is lost and the backup restored: what it
/// says by the same number later is another revision than the node has.
fn restore(world: &mut World<'_>, refused: u64) -> Result<()> {
    world.served.server.kill()?;
    let backup = world.served.postgres.copy("backup")?;
    world.served.server.restart()?;
    world.admin().wait_for_nodes(&["node"])?;
    let newer = world.put(PICKY, 13, false)?;
    world.admin().wait_in_force("node", PICKY, newer)?;
    world.expect(13, 23)?;

    world.served.server.kill()?;
    world.node.kill()?;
    world.served.server.restart_on(Database::Url(backup))?;
    let again = world.put(PICKY, 14, true)?;
    ensure!(again == newer && newer == refused + 1, "the restored database counts on from {refused}: {again}, {newer}");
    world.put(PLAIN, 24, false)?;
    world.node.restart()?;
    world.admin().wait_for_nodes(&["node"])?;
    // By the same number: what the node had in force before, of the database that was lost.
    world.wait_held_back(again, newer)?;
    world.expect(13, 24)?;
    // Nobody has ever had in force what this database says.
    let promote = v1::AssignRevisionRequest {
        reason: "by a test".to_owned(),
        name: PICKY.to_owned(),
        revision: refused,
        target: Some(everyone()),
        ..v1::AssignRevisionRequest::default()
    };
    world.admin().call(world.admin().assignments().assign_revision(promote))?;
    world.wait_held_back(refused, newer)?;
    world.expect(13, 24)
}
