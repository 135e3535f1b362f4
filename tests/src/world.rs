//! The usual world of a test: two namespaces over a link, one cgroup that a real daemon manages, agents inside and outside.
//!
//! Every end has two addresses of each family, so that a policy can match one and leave the other alone.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    cgroup::Cgroup,
    control::Control,
    link::{End, Link},
    machine::Machine,
    netns::Netns,
    node::Node,
    shaper::Character,
    traffic::{Agent, Flow, Opening},
};

/// Addresses of the near end; by convention the first of a family is matched, the second is not.
pub const NEAR: [&str; 4] = ["10.1.0.1", "10.2.0.1", "fd01::1", "fd02::1"];
/// Addresses of the far end, likewise.
pub const FAR: [&str; 4] = ["10.1.0.2", "10.2.0.2", "fd01::2", "fd02::2"];

/// Two namespaces and the link between them.
#[derive(Debug)]
pub struct Wire {
    /// Carries the packets.
    pub link: Link,
    /// Where connections begin.
    pub near: Netns,
    /// Where they end.
    pub far: Netns,
}

impl Wire {
    /// Makes them; both directions have the same character.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(character: Character) -> Result<Self> {
        let (near, far) = (Netns::new()?, Netns::new()?);
        let (here, there) = (addresses(&NEAR)?, addresses(&FAR)?);
        let ends = (End { netns: &near, addresses: &here }, End { netns: &far, addresses: &there });
        let link = Link::new(&ends.0, &ends.1, character, 1)?;
        Ok(Self { link, near, far })
    }
}

/// A short delay both ways, nothing lost.
#[must_use]
pub fn short_path() -> Character {
    Character { delay: Duration::from_millis(5), ..Character::default() }
}

/// An agent that opens connections and one that answers them, one of them (or none) in a cgroup.
#[derive(Debug)]
pub struct Pair {
    /// Opens, in the near namespace.
    pub client: Agent,
    /// Answers, in the far namespace.
    pub server: Agent,
    /// The server's port, at all of its addresses.
    pub port: u16,
}

impl Pair {
    /// Starts them; the server listens for IPv6 and IPv4.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn start(machine: &Machine, wire: &Wire, client: Option<&Cgroup>, server: Option<&Cgroup>) -> Result<Self> {
        let client = Agent::start(machine, "client", &wire.near, client)?;
        let mut server = Agent::start(machine, "server", &wire.far, server)?;
        let port = server.listen(socket("::", 0)?)?.port();
        Ok(Self { client, server, port })
    }

    /// Opens one connection to an address of the far end, which must succeed.
    ///
    /// # Errors
    /// If it fails.
    pub fn one(&mut self, to: &str) -> Result<Flow> {
        let opening = Opening::new(socket(to, self.port)?, 1);
        let flow = self.client.open(&opening)?.pop().context("no connection was opened")?;
        ensure!(flow.error.is_none(), "the connection to {to} failed: {flow:?}");
        Ok(flow)
    }
}

/// A daemon that manages the client of a pair (or both of them) and obeys the test.
#[derive(Debug)]
pub struct Site<'m> {
    /// The client is in the cgroup.
    pub pair: Pair,
    /// Plays the server that the daemon calls.
    pub control: Control,
    /// The daemon.
    pub node: Node<'m>,
    /// Between client and server.
    pub wire: Wire,
    /// What the daemon manages.
    pub cgroup: Cgroup,
}

impl<'m> Site<'m> {
    /// Starts everything; nothing is in force.
    ///
    /// # Errors
    /// If something cannot be started.
    pub fn start(machine: &'m Machine, arguments: &[&str]) -> Result<Self> {
        Self::over(machine, short_path(), false, arguments)
    }

    /// As [`Self::start`], over another path; the server is managed too if `both`.
    ///
    /// # Errors
    /// If something cannot be started.
    pub fn over(machine: &'m Machine, character: Character, both: bool, arguments: &[&str]) -> Result<Self> {
        let wire = Wire::new(character)?;
        let cgroup = Cgroup::new(machine, "managed")?;
        let control = Control::start()?;
        let node = Node::start(machine, "node", &control.url(), &cgroup, arguments)?;
        let pair = Pair::start(machine, &wire, Some(&cgroup), both.then_some(&cgroup))?;
        Ok(Self { pair, control, node, wire, cgroup })
    }
}

/// An address and a port.
///
/// # Errors
/// If the text is no address.
pub fn socket(address: &str, port: u16) -> Result<SocketAddr> {
    let address: IpAddr = address.parse().with_context(|| format!("{address} is no address"))?;
    Ok(SocketAddr::new(address, port))
}

fn addresses(texts: &[&str]) -> Result<Vec<IpAddr>> {
    texts.iter().map(|text| text.parse().with_context(|| format!("{text} is no address"))).collect()
}
