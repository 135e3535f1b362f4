//! A real server and real nodes, each at a site of its own: a client in the node's cgroup, and an emulated path to the one origin.

use anyhow::{Context, Result, ensure};
use sockpilot_proto::v1;

use crate::{
    admin::Admin,
    cgroup::Cgroup,
    link::{End, Link},
    machine::Machine,
    netns::Netns,
    node::Node,
    server::{Database, Server},
    shaper::Character,
    traffic::{Agent, Flow, Opening},
    world::socket,
};

/// Daemons that start at the same time, of which each has to load programs.
const AT_ONCE: usize = 3;

/// A node, and the client whose connections it manages.
#[derive(Debug)]
pub struct Site<'m> {
    /// Between client and origin.
    pub link: Link,
    /// Makes the traffic.
    pub client: Agent,
    /// The address at which this site finds the origin.
    pub origin: String,
    /// The daemon.
    pub node: Node<'m>,
    _cgroup: Cgroup,
    _netns: Netns,
}

/// The whole of it.
#[derive(Debug)]
pub struct Fleet<'m> {
    /// In the order of their names.
    pub sites: Vec<Site<'m>>,
    /// The server's API.
    pub admin: Admin,
    /// With a database of its own.
    pub server: Server<'m>,
    /// The origin's.
    pub port: u16,
    _origin: Agent,
    _netns: Netns,
}

impl<'m> Fleet<'m> {
    /// Starts everything, with nodes of these ids and values of the label `site`; no traffic yet, no policy. Paths are alike both ways.
    ///
    /// # Errors
    /// If something cannot be started.
    pub fn start(machine: &'m Machine, nodes: &[(&str, &str)], path: Character, cell_interval_s: u32) -> Result<Self> {
        let server = Server::start(machine, Database::Embedded, &[]).context("starting the server")?;
        let admin = server.admin()?;
        let netns = Netns::new()?;
        let mut sites = vec![];
        for (number, &(id, site)) in (1_u64..).zip(nodes) {
            let more = ["--label", &format!("site={site}"), "--cell-interval-s", &cell_interval_s.to_string()];
            sites.push(Site::start(machine, &netns, number, id, path, (&server.url(), &more))?);
            if sites.len() % AT_ONCE == 0 {
                admin.wait_for_nodes(&[id])?;
            }
        }
        admin.wait_for_nodes(&nodes.iter().map(|(id, _)| *id).collect::<Vec<_>>())?;
        let mut origin = Agent::start(machine, "origin", &netns, None)?;
        let port = origin.listen(socket("0.0.0.0", 0)?)?.port();
        Ok(Self { sites, admin, server, port, _origin: origin, _netns: netns })
    }

    /// Traffic from all sites to the origin.
    ///
    /// # Errors
    /// If an agent cannot.
    pub fn start_traffic(&mut self, opening: &Opening) -> Result<()> {
        for site in &mut self.sites {
            let to = socket(&site.origin, self.port)?;
            site.client.start_opening(&Opening { to, ..opening.clone() })?;
        }
        Ok(())
    }

    /// What became of the connections that have ended since the last call, by site.
    ///
    /// # Errors
    /// If an agent cannot.
    pub fn progress(&mut self) -> Result<Vec<Vec<Flow>>> {
        self.sites.iter_mut().map(|site| site.client.progress()).collect()
    }

    /// Stops it and waits for the last connection; what became of those not yet told, by site. None may have failed.
    ///
    /// # Errors
    /// If one has.
    pub fn stop_traffic(&mut self) -> Result<Vec<Vec<Flow>>> {
        let flows: Vec<_> = self.sites.iter_mut().map(|site| site.client.stop()).collect::<Result<_>>()?;
        for flow in flows.iter().flatten() {
            ensure!(flow.error.is_none(), "a connection failed: {flow:?}");
        }
        Ok(flows)
    }

    /// Waits until all nodes have confirmed a revision of a layer (0: that they have none).
    ///
    /// # Errors
    /// If they do not.
    pub fn wait_in_force(&self, layer: &str, revision: u64) -> Result<()> {
        self.sites.iter().try_for_each(|site| self.admin.wait_in_force(site.node.id(), layer, revision))
    }

    /// What a node has confirmed of a layer; 0: nothing.
    ///
    /// # Errors
    /// What the server says.
    pub fn confirmed(&self, node: &str, layer: &str) -> Result<u64> {
        let nodes = self.admin.nodes()?;
        let entry = nodes.get(node).and_then(|node| node.layers.iter().find(|entry| entry.layer == layer));
        Ok(entry.map_or(0, |entry: &v1::NodeLayer| entry.confirmed_revision))
    }
}

impl<'m> Site<'m> {
    fn start(
        machine: &'m Machine,
        origin: &Netns,
        number: u64,
        id: &str,
        path: Character,
        (server, more): (&str, &[&str]),
    ) -> Result<Self> {
        let netns = Netns::new()?;
        let (near, far) = (format!("10.50.{number}.1"), format!("10.50.{number}.2"));
        let (here, there) = ([near.parse()?], [far.parse()?]);
        let ends = (End { netns: &netns, addresses: &here }, End { netns: origin, addresses: &there });
        let link = Link::new(&ends.0, &ends.1, path, number)?;
        let cgroup = Cgroup::new(machine, id)?;
        let node = Node::start(machine, id, server, &cgroup, more).context("starting a node")?;
        let client = Agent::start(machine, "client", &netns, Some(&cgroup))?;
        Ok(Self { link, client, origin: far, node, _cgroup: cgroup, _netns: netns })
    }
}
