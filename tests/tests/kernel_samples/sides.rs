//! The two worlds, and the connections that are tried in both.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::Pod;
use sockpilot_policy::layout::FlowKey;
use sockpilot_tests::{
    admin::Admin,
    cgroup::Cgroup,
    cprogram::CProgram,
    link::Way,
    machine::Machine,
    node::Node,
    packet::Segment,
    postgres::{Durability, Postgres},
    seen::Got,
    server::{Database, Server},
    shaper::{Character, LossOf},
    traffic::{Agent, Opening},
    world::{Wire, short_path, socket},
};

/// The key of maps by connection end.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Key(pub FlowKey);

// SAFETY: numbers without padding.
unsafe impl Pod for Key {}

/// The port that the samples act on, and another one.
pub const GATE: u16 = 55_601;
/// See [`GATE`].
pub const BESIDE: u16 = 55_602;
/// To where and from where: within a site, and between two.
const SAME_SITE: (&str, &str) = ("fd01::2", "fd01::1");
const OTHER_SITE: (&str, &str) = ("fd01::2", "fd02::1");
const IPV4: (&str, &str) = ("10.1.0.2", "10.1.0.1");
/// An unanswered SYN is sent again after 40 ms, if a sample says so, or after the kernel's second.
const SHORT: Duration = Duration::from_millis(500);

/// A connection to be tried.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// To where and from where.
    pub ends: (&'static str, &'static str),
    /// To which port.
    pub port: u16,
}

impl Case {
    /// Every pair of ends with every port.
    pub fn all() -> impl Iterator<Item = Self> {
        let ends = [SAME_SITE, OTHER_SITE, IPV4];
        ends.into_iter().flat_map(|ends| [GATE, BESIDE].map(|port| Self { ends, port }))
    }

    /// To the port that the samples act on, within a site.
    pub fn same_site(self) -> bool {
        self.port == GATE && self.ends == SAME_SITE
    }

    /// To the port that the samples act on, between two sites.
    pub fn other_site(self) -> bool {
        self.port == GATE && self.ends == OTHER_SITE
    }
}

/// One of the two worlds.
pub struct Side {
    /// In the cgroup.
    pub client: Agent,
    /// In no cgroup, to see what the server does by itself.
    stranger: Agent,
    gate: Agent,
    beside: Agent,
    /// Between client and servers.
    pub wire: Wire,
    /// Of the client and the servers.
    pub cgroup: Cgroup,
}

impl Side {
    fn new(machine: &Machine, name: &str) -> Result<Self> {
        let wire = Wire::new(short_path())?;
        let cgroup = Cgroup::new(machine, name)?;
        let client = Agent::start(machine, "client", &wire.near, Some(&cgroup))?;
        let stranger = Agent::start(machine, "stranger", &wire.near, None)?;
        let gate = Agent::start(machine, "gate", &wire.far, Some(&cgroup))?;
        let beside = Agent::start(machine, "beside", &wire.far, Some(&cgroup))?;
        Ok(Self { client, stranger, gate, beside, wire, cgroup })
    }

    /// Servers listen for each family by itself.
    fn listen(&mut self) -> Result<()> {
        for (agent, port) in [(&mut self.gate, GATE), (&mut self.beside, BESIDE)] {
            agent.listen(socket(IPV4.0, port)?)?;
            agent.listen(socket(SAME_SITE.0, port)?)?;
        }
        Ok(())
    }

    fn open(&mut self, case: Case) -> Result<Got> {
        let Case { ends: (to, from), port } = case;
        let opening = Opening { from: Some(from.parse()?), ..Opening::new(socket(to, port)?, 1) };
        let flow = self.client.open(&opening)?.pop().context("no connection")?;
        let client = flow.opened.clone().with_context(|| format!("{flow:?}"))?;
        let server = if port == GATE { &mut self.gate } else { &mut self.beside };
        let server = server.accepted()?.pop().context("nothing was accepted")?.opened;
        let sightings = self.wire.link.sightings();
        let segment = |wanted: fn(&Segment) -> bool| {
            let ours = |s: &Segment| [s.source.port(), s.destination.port()].contains(&flow.local.port());
            let segments = sightings.iter().map(|sighting| &sighting.segment);
            segments.rev().find(|s| wanted(s) && ours(s)).context("no handshake was seen")
        };
        let (syn, syn_ack) = (segment(Segment::is_syn)?.into(), segment(Segment::is_syn_ack)?.into());
        Ok(Got { client: client.into(), server: server.into(), syn, syn_ack })
    }

    /// Between the first and the second of what the link loses: SYNs, or SYN-ACKs to a client that nobody manages.
    fn first_interval(&mut self, case: Case, lost: LossOf) -> Result<Duration> {
        let Case { ends: (to, from), port } = case;
        let (way, client, wanted): (_, _, fn(&Segment) -> bool) = match lost {
            LossOf::SynAck => (Way::Back, &mut self.stranger, Segment::is_syn_ack),
            _ => (Way::Forth, &mut self.client, Segment::is_syn),
        };
        self.wire.link.set(way, Character { loss: 1.0, loss_of: lost, ..short_path() });
        let opening = Opening { from: Some(from.parse()?), patience_ms: 1_600, ..Opening::new(socket(to, port)?, 1) };
        let flow = client.open(&opening)?.pop().context("no connection")?;
        self.wire.link.set(way, short_path());
        ensure!(flow.error.is_some(), "the handshake should not have come through: {flow:?}");
        let sightings = self.wire.link.sightings();
        let ours = |s: &Segment| [s.source.port(), s.destination.port()].contains(&flow.local.port());
        let mut times = sightings.iter().filter(|s| wanted(&s.segment) && ours(&s.segment)).map(|s| s.at);
        let (first, second) = (times.next().context("none was seen")?, times.next().context("only one was seen")?);
        Ok(second - first)
    }
}

/// Both worlds, and what manages the first one.
pub struct Sides<'m> {
    machine: &'m Machine,
    /// Managed by a daemon.
    pub policy: Side,
    /// With a program.
    pub sample: Side,
    /// At the sample's cgroup.
    pub program: Option<CProgram>,
    _node: Node<'m>,
    /// Of the daemon.
    pub server: Server<'m>,
    _postgres: Postgres<'m>,
}

impl<'m> Sides<'m> {
    /// With nothing in force yet.
    pub fn new(machine: &'m Machine) -> Result<Self> {
        let postgres = Postgres::start(machine, Durability::Process)?;
        let server = Server::start(machine, Database::Url(postgres.url()), &[])?;
        let (policy, sample) = (Side::new(machine, "policy")?, Side::new(machine, "sample")?);
        let node = Node::start(machine, "node", &server.url(), &policy.cgroup, &["--long-flow-interval-s", "1"])?;
        server.admin()?.wait_for_nodes(&["node"])?;
        Ok(Self { machine, policy, sample, program: None, _node: node, server, _postgres: postgres })
    }

    /// With a file of `docs/samples` in force here, and a program there.
    pub fn with(machine: &'m Machine, file: &str, program: &str) -> Result<Self> {
        Self::with_text(machine, &fs::read_to_string(path(file)).context("reading a sample")?, program)
    }

    /// As [`Self::with`], with the text of a document.
    pub fn with_text(machine: &'m Machine, document: &str, program: &str) -> Result<Self> {
        let mut this = Self::new(machine)?;
        let admin = this.apply(document)?;
        admin.wait_in_force("node", &layer(document)?, 1)?;
        let mut program = CProgram::load(machine, program, None)?;
        program.attach(&this.sample.cgroup)?;
        this.program = Some(program);
        this.policy.listen()?;
        this.sample.listen()?;
        Ok(this)
    }

    /// Gives the server a document.
    pub fn apply(&self, document: &str) -> Result<Admin> {
        let file = self.machine.directory().join("sample.yaml");
        fs::write(&file, document).context("writing a sample")?;
        self.server.says(&["apply", "-f", file.to_str().context("a strange folder")?])?;
        self.server.admin()
    }

    /// Every connection gets the same on both sides; `acts` says whether it is one that should get what only a sample sets.
    pub fn compare(&mut self, acts: impl Fn(Case) -> bool, has: impl Fn(&Got) -> bool) -> Result<()> {
        for case in Case::all() {
            let (policy, sample) = (self.policy.open(case)?, self.sample.open(case)?);
            ensure!(policy == sample, "{case:?}\nby the policy:  {policy:?}\nby the program: {sample:?}");
            ensure!(has(&policy) == acts(case), "{case:?} got {policy:?}");
        }
        Ok(())
    }

    /// What was lost is sent again as soon on both sides.
    pub fn compare_timers(&mut self, lost: LossOf) -> Result<()> {
        for case in [(SAME_SITE, GATE), (SAME_SITE, BESIDE), (OTHER_SITE, GATE)] {
            let case = Case { ends: case.0, port: case.1 };
            for (who, side) in [("policy", &mut self.policy), ("program", &mut self.sample)] {
                let interval = side.first_interval(case, lost)?;
                ensure!((interval < SHORT) == case.same_site(), "{case:?}: {interval:?} by the {who}");
                // 10 ticks; timers fire late, never early.
                ensure!(interval >= Duration::from_millis(39), "{case:?}: {interval:?} by the {who}");
            }
        }
        Ok(())
    }
}

/// Where a sample is.
pub fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/samples").join(file)
}

/// The name of the layer that a document makes.
pub fn layer(document: &str) -> Result<String> {
    let name = document.lines().find_map(|line| line.strip_prefix("name: ")).context("a document without a name")?;
    Ok(format!("policies/{name}"))
}
