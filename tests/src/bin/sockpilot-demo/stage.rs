//! What the demo plays on: server, two nodes, the emulated paths, and agents that make traffic.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::Admin,
    cgroup::Cgroup,
    link::{End, Link, Way},
    machine::Machine,
    netns::Netns,
    node::Node,
    process,
    server::{Database, Server},
    shaper::{Character, LossOf},
    traffic::{Agent, Flow, Opening},
    wait::eventually,
    world::socket,
};

/// One way.
pub const DELAY: Duration = Duration::from_millis(25);
/// Share of SYNs that get lost.
pub const SYN_LOSS: f64 = 0.2;
/// The nodes, each with its `site` label.
pub const NODES: [(&str, &str); 2] = [("node-a", "a"), ("node-b", "b")];

/// Connections of one client at the same time.
const AT_ONCE: usize = 48;
/// More than 20 packets and less than 40: what an initial window makes of it can be seen.
const UPLOAD: u32 = 40_000;
const PATIENCE: Duration = Duration::from_secs(30);
/// Results are about connections whose horizon has passed half a minute ago.
const RESULTS_PATIENCE: Duration = Duration::from_secs(90);

/// One site: a client in the cgroup of a node, on a path of its own to the origin.
pub struct Site<'m> {
    pub link: Link,
    pub client: Agent,
    /// The address at which this site finds the origin.
    pub origin: String,
    _node: Node<'m>,
    _cgroup: Cgroup,
    _netns: Netns,
}

/// The whole of it.
pub struct Stage<'m> {
    pub sites: Vec<Site<'m>>,
    pub admin: Admin,
    pub server: Server<'m>,
    port: u16,
    _origin: Agent,
    _netns: Netns,
}

impl<'m> Stage<'m> {
    /// Starts everything; no traffic yet, no policy.
    pub fn build(machine: &'m Machine) -> Result<Self> {
        let server = Server::start(machine, Database::Embedded, &[]).context("starting the server")?;
        let admin = server.admin()?;
        let netns = Netns::new()?;
        let mut sites = Vec::new();
        for (number, (id, site)) in (1_u64..).zip(NODES) {
            sites.push(Site::build(machine, &netns, &server.url(), number, id, site)?);
        }
        let mut origin = Agent::start(machine, "origin", &netns, None)?;
        let port = origin.listen(socket("0.0.0.0", 0)?)?.port();
        admin.wait_for_nodes(&NODES.map(|(id, _)| id))?;
        Ok(Self { sites, admin, server, port, _origin: origin, _netns: netns })
    }

    /// Traffic from all sites.
    pub fn start_traffic(&mut self) -> Result<()> {
        for site in &mut self.sites {
            let to = socket(&site.origin, self.port)?;
            let opening =
                Opening { at_once: AT_ONCE, upload: UPLOAD, pause_ms: 20, patience_ms: 20_000, ..Opening::new(to, 0) };
            site.client.start_opening(&opening)?;
        }
        Ok(())
    }

    /// Stops it and waits for the last connection; what became of all since the start, by site.
    pub fn stop_traffic(&mut self) -> Result<Vec<Vec<Flow>>> {
        let flows: Vec<_> = self.sites.iter_mut().map(|site| site.client.stop()).collect::<Result<_>>()?;
        for flow in flows.iter().flatten() {
            ensure!(flow.error.is_none(), "a connection failed: {flow:?}");
        }
        Ok(flows)
    }

    /// Runs `sockpilot` as a person would, and shows it.
    pub fn sockpilot(&self, arguments: &[&str]) -> Result<()> {
        println!("\n$ sockpilot {}", arguments.join(" "));
        let mut command = process::own("sockpilot")?;
        command.args(arguments).env("SOCKPILOT_SERVER", self.server.url()).env("SOCKPILOT_ACTOR", "demo");
        // Files are named as seen from the root of the repository.
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository")?);
        let output = command.output().context("running sockpilot")?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            println!("  {line}");
        }
        ensure!(output.status.success(), "sockpilot said: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// Waits until every node runs the revision that it should (`None`: not the layer), and says how long that took for the
    /// last of them after the change was committed.
    pub fn wait_in_force(&self, layer: &str, revisions: [u64; 2]) -> Result<Duration> {
        for ((id, _), revision) in NODES.iter().zip(revisions) {
            self.admin.wait_in_force(id, layer, revision)?;
        }
        let request = v1::GetLayerStatusRequest { name: layer.to_owned() };
        let status = self.admin.call(self.admin.fleet().get_layer_status(request))?;
        let committed = status.assignments.iter().filter_map(|assignment| time(assignment.start_time.as_ref())).max();
        let committed = committed.context("no assignment has a time")?;
        let nodes = self.admin.nodes()?;
        let entries = nodes.values().flat_map(|node| &node.layers).filter(|entry| entry.layer == layer);
        let last = entries
            .filter_map(|entry| time(entry.confirm_time.as_ref()))
            .max()
            .context("no confirmation has a time")?;
        last.duration_since(committed).context("confirmed before it was committed")
    }

    /// Waits until no node runs a layer any more.
    pub fn wait_gone(&self, layer: &str) -> Result<()> {
        NODES.iter().try_for_each(|(id, _)| self.admin.wait_in_force(id, layer, 0))
    }

    /// Waits until the server has every flow of a layer; no traffic may be under way.
    pub fn wait_for_flows(&self, layer: &str, expected: u64) -> Result<Vec<v1::OutcomeRow>> {
        eventually(&format!("all {expected} outcomes of {layer} have come"), PATIENCE, || {
            let rows = self.admin.outcomes(layer)?;
            let stored: u64 = rows.iter().filter_map(|row| row.counts.as_ref()).map(|counts| counts.flows).sum();
            ensure!(stored == expected, "the server has {stored}");
            Ok(rows)
        })
    }

    /// Waits until an experiment has measured all its connections.
    pub fn wait_for_results(&self, name: &str, expected: u64) -> Result<v1::ExperimentResults> {
        eventually(&format!("{name} has measured {expected} connections"), RESULTS_PATIENCE, || {
            let request = v1::GetExperimentResultsRequest { name: name.to_owned(), revision: 0 };
            let results = self.admin.call(self.admin.experiments().get_experiment_results(request))?;
            let measured: u64 = results.arms.iter().map(|arm| arm.attempts).sum();
            ensure!(measured == expected, "it has {measured}");
            Ok(results)
        })
    }
}

impl<'m> Site<'m> {
    fn build(machine: &'m Machine, origin: &Netns, server: &str, number: u64, id: &str, site: &str) -> Result<Self> {
        let netns = Netns::new()?;
        let (near, far) = (format!("10.50.{number}.1"), format!("10.50.{number}.2"));
        let (here, there) = ([near.parse()?], [far.parse()?]);
        let path = Character { delay: DELAY, ..Character::default() };
        let link = Link::new(
            &End { netns: &netns, addresses: &here },
            &End { netns: origin, addresses: &there },
            path,
            number,
        )?;
        link.set(Way::Forth, Character { loss: SYN_LOSS, loss_of: LossOf::Syn, ..path });
        let cgroup = Cgroup::new(machine, id)?;
        let label = format!("site={site}");
        let node = Node::start(machine, id, server, &cgroup, &["--label", &label, "--cell-interval-s", "10"])
            .context("starting a node")?;
        let client = Agent::start(machine, "client", &netns, Some(&cgroup))?;
        Ok(Self { link, client, origin: far, _node: node, _cgroup: cgroup, _netns: netns })
    }
}

fn time(timestamp: Option<&prost_types::Timestamp>) -> Option<SystemTime> {
    SystemTime::try_from(*timestamp?).ok()
}
