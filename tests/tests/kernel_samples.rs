//! The policies in `docs/samples` against programs in C that do what the kernel's samples do: on the same traffic, in two cgroups,
//! every connection gets the same settings and the same handshake.
//!
//! Both worlds are alike: a link between two namespaces, both ends in one cgroup, servers on the port that the samples act on and on
//! another one. One cgroup is managed by a daemon that has the policy from a server, to which it came by the command
//! line; at the other the program is attached. Left out are sockets that speak IPv4 through IPv6: the samples take their
//! addresses for IPv6 ones of one site, a policy for the IPv4 addresses that they are.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use sockpilot_tests::{
    admin::Admin,
    cgroup::Cgroup,
    cprogram::{self, CProgram},
    link::Way,
    machine::{Machine, Needs, scenario},
    node::Node,
    packet::Segment,
    postgres::{Durability, Postgres},
    process,
    seen::{Got, Offer, Settings},
    server::{Database, Server},
    shaper::{Character, LossOf},
    traffic::{Agent, Opening},
    wait::eventually,
    world::{Wire, short_path, socket},
};

/// The port that the samples act on, and another one.
const GATE: u16 = 55_601;
const BESIDE: u16 = 55_602;
/// To where and from where: within a site, and between two.
const SAME_SITE: (&str, &str) = ("fd01::2", "fd01::1");
const OTHER_SITE: (&str, &str) = ("fd01::2", "fd02::1");
const IPV4: (&str, &str) = ("10.1.0.2", "10.1.0.1");
/// An unanswered SYN is sent again after 40 ms, if a sample says so, or after the kernel's second.
const SHORT: Duration = Duration::from_millis(500);

/// A connection to be tried.
#[derive(Debug, Clone, Copy)]
struct Case {
    ends: (&'static str, &'static str),
    port: u16,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        let ends = [SAME_SITE, OTHER_SITE, IPV4];
        ends.into_iter().flat_map(|ends| [GATE, BESIDE].map(|port| Self { ends, port }))
    }

    fn same_site(self) -> bool {
        self.port == GATE && self.ends == SAME_SITE
    }

    fn other_site(self) -> bool {
        self.port == GATE && self.ends == OTHER_SITE
    }
}

/// One of the two worlds.
struct Side {
    /// In the cgroup.
    client: Agent,
    /// In no cgroup, to see what the server does by itself.
    stranger: Agent,
    gate: Agent,
    beside: Agent,
    wire: Wire,
    cgroup: Cgroup,
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
struct Sides<'m> {
    machine: &'m Machine,
    policy: Side,
    sample: Side,
    _program: Option<CProgram>,
    _node: Node<'m>,
    server: Server<'m>,
    _postgres: Postgres<'m>,
}

impl<'m> Sides<'m> {
    /// With nothing in force yet.
    fn new(machine: &'m Machine) -> Result<Self> {
        let postgres = Postgres::start(machine, Durability::Process)?;
        let server = Server::start(machine, Database::Url(postgres.url()), &[])?;
        let (policy, sample) = (Side::new(machine, "policy")?, Side::new(machine, "sample")?);
        let node = Node::start(machine, "node", &server.url(), &policy.cgroup, &[])?;
        server.admin()?.wait_for_nodes(&["node"])?;
        Ok(Self { machine, policy, sample, _program: None, _node: node, server, _postgres: postgres })
    }

    /// With a file of `docs/samples` in force here, and a program there.
    fn with(machine: &'m Machine, file: &str, program: &str) -> Result<Self> {
        Self::with_text(machine, &fs::read_to_string(path(file)).context("reading a sample")?, program)
    }

    fn with_text(machine: &'m Machine, document: &str, program: &str) -> Result<Self> {
        let mut this = Self::new(machine)?;
        let admin = this.apply(document)?;
        admin.wait_in_force("node", &layer(document)?, 1)?;
        let mut program = CProgram::load(machine, program, None)?;
        program.attach(&this.sample.cgroup)?;
        this._program = Some(program);
        this.policy.listen()?;
        this.sample.listen()?;
        Ok(this)
    }

    fn apply(&self, document: &str) -> Result<Admin> {
        let file = self.machine.directory().join("sample.yaml");
        fs::write(&file, document).context("writing a sample")?;
        self.says(&["apply", "-f", file.to_str().context("a strange folder")?])?;
        self.server.admin()
    }

    /// What the command line says.
    fn says(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(process::binary("sockpilot")?);
        let output = command.args(arguments).env("SOCKPILOT_SERVER", self.server.url()).output();
        let output = output.context("starting sockpilot")?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Every connection gets the same on both sides; `acts` says whether it is one that should get what only a sample sets.
    fn compare(&mut self, acts: impl Fn(Case) -> bool, has: impl Fn(&Got) -> bool) -> Result<()> {
        for case in Case::all() {
            let (policy, sample) = (self.policy.open(case)?, self.sample.open(case)?);
            ensure!(policy == sample, "{case:?}\nby the policy:  {policy:?}\nby the program: {sample:?}");
            ensure!(has(&policy) == acts(case), "{case:?} got {policy:?}");
        }
        Ok(())
    }

    /// What was lost is sent again as soon on both sides.
    fn compare_timers(&mut self, lost: LossOf) -> Result<()> {
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

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/samples").join(file)
}

/// The name of the layer that a document makes.
fn layer(document: &str) -> Result<String> {
    let name = document.lines().find_map(|line| line.strip_prefix("name: ")).context("a document without a name")?;
    Ok(format!("policies/{name}"))
}

/// Runs a test, or says why not.
fn row(body: impl FnOnce(&Machine) -> Result<()>) {
    if let Err(error) = cprogram::can_compile() {
        let name = std::thread::current().name().unwrap_or("test").to_owned();
        let _ = writeln!(std::io::stderr(), "{name}: skipped, because {error:#}");
        return;
    }
    scenario(Needs::Kernel, body);
}

/// The kernel's ticks are answered by the programs in C, and are milliseconds in the policies.
fn ticks_are_as_in_the_policies() -> Result<bool> {
    let hz = sockpilot_node::facts::read().context("reading this kernel's facts")?.hz;
    if hz != 250 {
        writeln!(std::io::stderr(), "timers are not compared: the policies are for 250 ticks a second, here are {hz}")?;
    }
    Ok(hz == 250)
}

#[test]
fn s1_synrto() {
    row(|machine| {
        if !ticks_are_as_in_the_policies()? {
            return Ok(());
        }
        let mut sides = Sides::with(machine, "s1-synrto.yaml", "s1_synrto")?;
        sides.compare(|_| true, |_| true)?;
        sides.compare_timers(LossOf::Syn)?;
        sides.compare_timers(LossOf::SynAck)
    });
}

#[test]
fn s2_rwnd() {
    row(|machine| {
        let offered = |offer: &Offer| (40 * 1_300..=40 * 1_440).contains(&u32::from(offer.window));
        Sides::with(machine, "s2-rwnd.yaml", "s2_rwnd")?
            .compare(Case::other_site, |got| offered(&got.syn) && offered(&got.syn_ack))
    });
}

#[test]
fn s3_bufs() {
    row(|machine| {
        let great = |settings: &Settings| settings.send_buffer == 3_000_000 && settings.receive_buffer == 3_000_000;
        Sides::with(machine, "s3-bufs.yaml", "s3_bufs")?
            .compare(|case| case.port == GATE, |got| great(&got.client) && great(&got.server))
    });
}

/// The congestion control that this kernel lacks is named; with another one in its place all else is as in the sample.
#[test]
fn s4_cong() {
    row(|machine| {
        let document = fs::read_to_string(path("s4-cong.yaml")).context("reading a sample")?;
        let here =
            fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").context("asking for them")?;
        let has_dctcp = here.split_whitespace().any(|name| name == "dctcp");
        let (document, expected) = if has_dctcp {
            (document, "dctcp")
        } else {
            refused_naming(&Sides::new(machine)?, &document, "dctcp")?;
            (document.replace("congestion_control: dctcp", "congestion_control: cubic"), "cubic")
        };
        let both =
            |got: &Got| [&got.client, &got.server].map(|side| side.ecn && side.congestion == expected) == [true; 2];
        Sides::with_text(machine, &document, "s4_cong")?.compare(Case::same_site, both)
    });
}

#[test]
fn s5_iw() {
    row(|machine| {
        Sides::with(machine, "s5-iw.yaml", "s5_iw")?.compare(
            |case| case.port == GATE,
            |got| got.client.cwnd == 40 && got.server.cwnd == 10 && got.server.send_buffer == 3_000_000,
        )
    });
}

#[test]
fn s6_clamp() {
    row(|machine| {
        let small =
            |side: &Settings| side.ssthresh == 100 && side.send_buffer == 300_000 && side.receive_buffer == 300_000;
        let mut sides = Sides::with(machine, "s6-clamp.yaml", "s6_clamp")?;
        sides.compare(Case::same_site, |got| small(&got.client) && small(&got.server))?;
        if ticks_are_as_in_the_policies()? { sides.compare_timers(LossOf::Syn) } else { Ok(()) }
    });
}

/// No kernel of today's distributions has it.
#[test]
fn s7_basertt_needs_nv() {
    row(|machine| {
        let document = fs::read_to_string(path("s7-basertt.yaml")).context("reading a sample")?;
        refused_naming(&Sides::new(machine)?, &document, "nv")
    });
}

/// There is no setting to compare; that the connections opened are counted, and only they, is.
#[test]
fn s8_dumpstats_observes() {
    row(|machine| {
        let mut sides = Sides::with(machine, "s8-dumpstats.yaml", "empty")?;
        sides.compare(|_| true, |_| true)?;
        let admin = sides.server.admin()?;
        eventually("all connections are counted", Duration::from_secs(20), || {
            let flows: u64 = admin.flows("policies/sample-dumpstats")?.values().sum();
            ensure!(flows == Case::all().count() as u64, "{flows} are");
            Ok(())
        })
    });
}

#[test]
fn s9_tos_reflect() {
    row(|machine| {
        let mut sides = Sides::with(machine, "s9-tos-reflect.yaml", "s9_tos_reflect")?;
        sides.compare(|_| false, |got| got.server.traffic_class != 0)?;
        // From here on the applications mark their connections.
        let mut marking = CProgram::load(machine, "traffic_class", None)?;
        marking.attach(&sides.policy.cgroup)?;
        marking.attach(&sides.sample.cgroup)?;
        sides.compare(|_| true, |got| got.client.traffic_class == 0xb8 && got.server.traffic_class == 0xb8)
    });
}

/// The node refuses it, and the status of the policy says what is missing.
fn refused_naming(sides: &Sides<'_>, document: &str, what: &str) -> Result<()> {
    let admin = sides.apply(document)?;
    let layer = layer(document)?;
    let said = eventually(&format!("{layer} is refused"), Duration::from_secs(20), || {
        let said = sides.says(&["status", &layer, "-o", "json"])?;
        let words: Vec<_> = said.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        ensure!(words.contains(&what) && said.contains("set."), "{said}");
        Ok(said)
    })?;
    let nodes = admin.nodes()?;
    let layers = &nodes.get("node").context("the node is unknown")?.layers;
    ensure!(layers.iter().all(|entry| entry.layer != layer || entry.confirmed_revision == 0), "confirmed: {said}");
    Ok(())
}
