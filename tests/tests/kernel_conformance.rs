//! Every option that a program may set on a connection, at every moment of its life: by `docs/samples/t3-options.yaml`, and by
//! a program in C that does what the kernel's option suite does, side by side in two cgroups on the same connections.
//!
//! A policy has no moment for listening sockets, because they are no connections. There the program sets its options on the
//! listener, connections inherit them, and what is compared is what the accepted ends got. Options that the suite has and the
//! table of parameters has not (sharing of ports, binding to a device) are no matter of an open connection and left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData};
use sockpilot_tests::{
    cgroup::Cgroup,
    cprogram::CProgram,
    machine::{Machine, Needs, scenario},
    netns::Netns,
    node::Node,
    postgres::{Durability, Postgres},
    server::{Database, Server},
    traffic::{Agent, Options},
    wait::eventually,
};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/samples/t3-options.yaml");
const POLICIES: [&str; 2] = ["policies/sample-options", "policies/sample-options-begin"];
const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// Open connections are looked at every ten seconds.
const SOON: Duration = Duration::from_secs(25);

/// The options in the order of the program's table, and what is read when they have been set.
const OPTIONS: [(&str, i32); 24] = [
    ("send_buffer_bytes", 16_246),
    ("receive_buffer_bytes", 16_246),
    ("congestion_control", letters(*b"cubi")),
    ("min_rto_ms", 20_000),
    ("max_delayed_ack_ms", 12_000),
    ("max_rto_ms", 5_000),
    ("max_pacing_rate_bytes_per_s", 0xeb9f),
    ("mss_bytes", 1_314),
    ("window_clamp_bytes", 8_123),
    ("user_timeout_ms", 123_400),
    ("syn_retries", 123),
    ("keepalive", 1),
    ("keepalive_idle_s", 123),
    ("keepalive_interval_s", 123),
    ("keepalive_probes", 123),
    ("not_sent_low_water_bytes", 1_314),
    ("nodelay", 1),
    ("thin_linear_timeouts", 1),
    ("dscp", 0xe0),
    ("priority", 6),
    ("mark", 0xeb9f),
    ("tx_rehash", 0),
    ("receive_low_water_bytes", 8_123),
    (UNKNOWN, letters(*b"cubi")),
];
/// The congestion control that nobody has.
const UNKNOWN: &str = "none";
/// They are settled while a connection begins, so they stand in the policy for new connections.
const BEGINNING: [&str; 4] = ["send_buffer_bytes", "receive_buffer_bytes", "mss_bytes", "syn_retries"];
/// They act for the end that connects only: their moment in a policy is before the SYN. A listener's segment size would act in its
/// SYN-ACK; there is no parameter for that.
const CONNECTING: [&str; 2] = ["mss_bytes", "syn_retries"];
/// Of the segment size [`OPTIONS`] say what is offered; this is used, because of the time stamps in each segment.
const USED_MSS: i64 = 1_314 - 12;

/// The kernel lets an accepted connection begin without its listener's.
const NOT_INHERITED: &str = "priority";

const fn letters(name: [u8; 4]) -> i32 {
    i32::from_le_bytes(name)
}

/// The moments, in the order of the program's map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Listen,
    Connect,
    Active,
    Passive,
    CloseWait,
}

const MOMENTS: [Moment; 5] = [Moment::Listen, Moment::Connect, Moment::Active, Moment::Passive, Moment::CloseWait];

/// What the program saw of an option at a moment: how often that came, the value that was there, what setting it and reading
/// it then said, and likewise of putting back.
#[derive(Debug)]
struct Outcome {
    times: i32,
    before: i32,
    set: i32,
    after: i32,
    put_back: i32,
    at_last: i32,
}

/// The program at work in its cgroup.
struct Peer {
    _program: CProgram,
    cgroup: Cgroup,
    results: Array<MapData, [i32; 6]>,
    kept: Array<MapData, u32>,
}

impl Peer {
    fn new(machine: &Machine) -> Result<Self> {
        let cgroup = Cgroup::new(machine, "program")?;
        let mut program = CProgram::load(machine, "t3_setget", None)?;
        program.attach(&cgroup)?;
        let (results, kept) = (program.map("results")?, program.map("kept")?);
        Ok(Self { _program: program, cgroup, results, kept })
    }

    /// What is set at these moments stays, as far as a policy can say it; at others it is restored at once, but for what
    /// is not inherited.
    fn keep(&mut self, moments: &[Moment]) -> Result<()> {
        for moment in MOMENTS {
            let accepting = matches!(moment, Moment::Listen | Moment::Passive);
            let alone = |name| moment == Moment::Passive && name == NOT_INHERITED;
            let stays = |name| alone(name) || moments.contains(&moment) && !(accepting && CONNECTING.contains(&name));
            let bits = OPTIONS.iter().enumerate().filter(|(_, (name, _))| stays(name)).map(|(bit, _)| 1_u32 << bit);
            self.kept.set(moment as u32, bits.sum::<u32>(), 0)?;
        }
        Ok(())
    }

    /// What happened at a moment since the last question, by option.
    fn outcomes(&mut self, moment: Moment) -> Result<BTreeMap<&'static str, Outcome>> {
        let mut outcomes = BTreeMap::new();
        for (which, (name, _)) in OPTIONS.iter().enumerate() {
            let key = u32::try_from(moment as usize * OPTIONS.len() + which)?;
            let [times, before, set, after, put_back, at_last] = self.results.get(&key, 0)?;
            self.results.set(key, [0; 6], 0)?;
            outcomes.insert(*name, Outcome { times, before, set, after, put_back, at_last });
        }
        Ok(outcomes)
    }
}

/// Both sides, and what manages the first one.
struct Sides<'m> {
    machine: &'m Machine,
    netns: Netns,
    managed: Cgroup,
    peer: Peer,
    _node: Node<'m>,
    server: Server<'m>,
    _postgres: Postgres<'m>,
}

impl<'m> Sides<'m> {
    /// The program acts, no policy does.
    fn new(machine: &'m Machine) -> Result<Self> {
        let postgres = Postgres::start(machine, Durability::Process)?;
        let server = Server::start(machine, Database::Url(postgres.url()), &[])?;
        let (managed, peer) = (Cgroup::new(machine, "policy")?, Peer::new(machine)?);
        let node = Node::start(machine, "node", &server.url(), &managed, &[])?;
        server.admin()?.wait_for_nodes(&["node"])?;
        Ok(Self { machine, netns: Netns::new()?, managed, peer, _node: node, server, _postgres: postgres })
    }

    fn apply_sample(&self) -> Result<()> {
        self.server.says(&["apply", "-f", SAMPLE])?;
        let admin = self.server.admin()?;
        POLICIES.iter().try_for_each(|policy| admin.wait_in_force("node", policy, 1))
    }

    /// Gives the server a document.
    fn apply(&self, document: &str) -> Result<()> {
        let file = self.machine.directory().join("document.yaml");
        fs::write(&file, document).context("writing a document")?;
        self.server.says(&["apply", "-f", file.to_str().context("a strange folder")?]).map(drop)
    }

    /// A process under the policy.
    fn managed(&self) -> Result<Agent> {
        Agent::start(self.machine, "managed", &self.netns, Some(&self.managed))
    }

    /// A process under the program.
    fn peer(&self) -> Result<Agent> {
        Agent::start(self.machine, "peer", &self.netns, Some(&self.peer.cgroup))
    }

    /// New connections get the same on both sides, and that is what was asked for.
    fn compare_new(&self) -> Result<()> {
        let (mut managed, mut peer) = (self.managed()?, self.peer()?);
        for at in ADDRESSES {
            managed.keep(at)?;
            peer.keep(at)?;
        }
        let (ours, theirs) = (managed.look()?, peer.look()?);
        for ((at, ours), theirs) in ADDRESSES.iter().zip(ours).zip(theirs) {
            let place = ["connected", "accepted"];
            for (end, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                same(&format!("what {} at {at}, policy and program", place[end]), ours, theirs)?;
                same(&format!("what {} at {at}, found and wanted", place[end]), ours, &wanted(end, ours))?;
            }
        }
        Ok(())
    }
}

/// What a new connection should have; end 0 is the one that connected.
fn wanted(end: usize, found: &Options) -> Options {
    let mut options: Options = OPTIONS
        .iter()
        .filter(|(name, _)| *name != UNKNOWN)
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    // The kernel lowers it when it sees how much of a fixed buffer segments take.
    let clamp = found["window_clamp_bytes"];
    options.insert("window_clamp_bytes".to_owned(), if (4_096..=8_123).contains(&clamp) { clamp } else { 8_123 });
    // The other end uses what was offered to it.
    options.insert("mss_bytes".to_owned(), USED_MSS);
    if end == 1 {
        options.insert("syn_retries".to_owned(), 6);
    }
    options
}

/// Says only what is not.
fn same(what: &str, one: &Options, other: &Options) -> Result<()> {
    let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let different: Vec<_> = names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name))
        .map(|name| format!("{name}: {:?} and {:?}", one.get(name), other.get(name)))
        .collect();
    ensure!(different.is_empty(), "{what}: {different:#?}");
    Ok(())
}

/// The program could set, read and restore every option at a moment, but for what cannot be by the kernel's rules.
fn check(moment: Moment, outcomes: &BTreeMap<&str, Outcome>) -> Result<()> {
    for (name, value) in OPTIONS {
        let found = &outcomes[name];
        let Outcome { times, before, set, after, put_back, at_last } = *found;
        let early = matches!(moment, Moment::Listen | Moment::Connect);
        let (refusal, expected) = match name {
            UNKNOWN => (-libc::ENOENT, before),
            // The kernel takes it at any time. It acts, and is told, before there is a connection only.
            "mss_bytes" if moment != Moment::Listen => (0, before),
            _ => (0, value),
        };
        ensure!((times, set, after) == (1, refusal, expected), "{name} at {moment:?}: {found:?}");
        // That there is no clamp yet cannot be set, only be.
        let stuck = name == "window_clamp_bytes" && early;
        let back = if stuck { (-libc::EINVAL, value) } else { (0, before) };
        ensure!((put_back, at_last) == back, "{name} at {moment:?}: {found:?}");
    }
    Ok(())
}

/// On accepted connections by a callback of their own, and as what they inherit from a listener.
#[test]
fn new_connections() {
    scenario(Needs::Kernel, |machine| {
        let mut sides = Sides::new(machine)?;
        sides.apply_sample()?;
        sides.peer.keep(&[Moment::Connect, Moment::Active, Moment::Passive])?;
        sides.compare_new()?;
        sides.peer.keep(&[Moment::Connect, Moment::Active, Moment::Listen])?;
        sides.compare_new()
    });
}

/// Connections whose other end has finished before the policy comes. The program acts when they learn of it.
#[test]
fn connections_that_wait_to_be_closed() {
    scenario(Needs::Kernel, |machine| {
        let mut sides = Sides::new(machine)?;
        let (mut managed, mut peer) = (sides.managed()?, sides.peer()?);
        let cases: Vec<_> = ADDRESSES.iter().flat_map(|at| [(*at, 0), (*at, 1)]).collect();
        let mut program_set = Vec::new();
        for (which, (at, finished)) in cases.iter().enumerate() {
            for agent in [&mut managed, &mut peer] {
                agent.keep(*at)?;
                agent.finish_sending(which, *finished)?;
            }
            for moment in MOMENTS {
                let outcomes = sides.peer.outcomes(moment)?;
                check(moment, &outcomes).with_context(|| format!("{at}, finished by end {finished}"))?;
                if moment == Moment::CloseWait {
                    program_set.push(outcomes);
                }
            }
        }
        let mut waiting = || {
            let ends = managed.look()?.into_iter().zip(&cases);
            let waits = |([connected, accepted], (_, finished)): ([Options; 2], &(IpAddr, usize))| {
                if *finished == 0 { accepted } else { connected }
            };
            anyhow::Ok(Vec::from_iter(ends.map(waits)))
        };
        let before = waiting()?;
        let by_program: Vec<Options> = before.iter().zip(&program_set).map(|(old, set)| overlaid(old, set)).collect();

        sides.apply_sample()?;
        eventually("the policy has come to all", SOON, || each_same("policy and program", &waiting()?, &by_program))?;
        sides.server.says(&["delete", POLICIES[0]])?;
        eventually("all is as it was", SOON, || each_same("after the policy and before", &waiting()?, &before))
    });
}

/// Options as they were, but for those that can be changed on open connections: they are as the program left them.
fn overlaid(old: &Options, set: &BTreeMap<&str, Outcome>) -> Options {
    let mut options = old.clone();
    for (name, outcome) in set.iter().filter(|(name, _)| **name != UNKNOWN && !BEGINNING.contains(name)) {
        options.insert((*name).to_owned(), outcome.after.into());
    }
    options
}

fn each_same(what: &str, ones: &[Options], others: &[Options]) -> Result<()> {
    ones.iter().zip(others).enumerate().try_for_each(|(at, (one, other))| same(&format!("{what}, {at}"), one, other))
}

#[test]
fn what_must_fail_fails() {
    scenario(Needs::Kernel, |machine| {
        let mut sides = Sides::new(machine)?;
        sides.apply(&format!(
            "{{kind: Policy, name: unknown, rules: [{{name: all, set: {{congestion_control: {UNKNOWN}}}}}]}}"
        ))?;
        eventually("the node refuses it", SOON, || {
            let said = sides.server.says(&["status", "policies/unknown"])?;
            ensure!(said.contains(&format!("no congestion control {UNKNOWN}")), "{said}");
            Ok(())
        })?;
        let (mut managed, mut peer) = (sides.managed()?, sides.peer()?);
        managed.keep(ADDRESSES[0])?;
        peer.keep(ADDRESSES[0])?;
        for moment in [Moment::Listen, Moment::Connect, Moment::Active, Moment::Passive] {
            let outcome = &sides.peer.outcomes(moment)?[UNKNOWN];
            ensure!(outcome.set == -libc::ENOENT && outcome.before == outcome.after, "{moment:?}: {outcome:?}");
        }
        let reno = i64::from(letters(*b"reno"));
        for options in [managed.look()?, peer.look()?].iter().flatten().flatten() {
            ensure!(options["congestion_control"] == reno, "{options:?}");
        }

        // The program can set a segment size on an open connection, in vain; a rule for open connections is refused.
        for (parameter, value) in BEGINNING.iter().zip([8_123, 8_123, 1_314, 123]) {
            let rule = format!("{{name: all, apply_to: new_and_established, set: {{{parameter}: {value}}}}}");
            let document = format!("{{kind: Policy, name: late, rules: [{rule}]}}");
            let error = sides.apply(&document).err().with_context(|| format!("{parameter} was accepted"))?.to_string();
            ensure!(error.contains(&format!("set.{parameter}")), "{error}");
        }
        Ok(())
    });
}
