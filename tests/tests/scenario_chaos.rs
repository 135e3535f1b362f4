//! Everything that can be killed, stopped or cut off is, at random, while people change policies and nodes report: a checker of histories says
//! whether anything was lost, went back, or was counted twice.
//!
//! `SOCKPILOT_CHAOS_SEED` runs what a run said again; `SOCKPILOT_CHAOS_FAULTS` says how many faults there are (`make chaos`: 120).

use std::{
    collections::BTreeSet,
    fmt,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use sockpilot_tests::{
    cgroup::Cgroup,
    clock::Clock,
    disk::Disk,
    history::check,
    machine::{Machine, Needs, scenario},
    node::{Node, Place},
    postgres::{Durability, Postgres},
    random::Random,
    relay::{Mode, Relay, Target},
    server::{Database, Server},
    traffic::Opening,
    trial::{Trial, place},
    wait::{eventually, pass},
    world::{Pair, Wire, short_path, socket},
};

const NODES: usize = 16;
const FAULTS: u64 = 30;
/// A fault lasts as long at least, and so much longer at most.
const FAULT_MIN: Duration = Duration::from_millis(100);
const FAULT_MORE: Duration = Duration::from_millis(900);
/// Between two.
const REST_MAX: Duration = Duration::from_millis(400);
/// How often another befalls somebody else meanwhile.
const TWO: f64 = 0.4;
/// Until all agree, after the last.
const SETTLED_MAX: Duration = Duration::from_secs(45);
const DAEMON: &str = "daemon";
/// Room for all that the daemon keeps by its own bounds: a block of 4 KiB for each of 4,096 versions put in force, and its books. A disk
/// that it fills by itself stays full.
const DAEMON_DISK_KIB: u32 = 32 << 10;
/// Room for a database, and not much more.
const DATABASE_KIB: u32 = 192 << 10;
/// What a clock may jump by, to either side.
const JUMP_MAX_S: u64 = 7_200;

/// What befalls whom.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// A played node is killed.
    KillNode(usize),
    /// Its way is held up, or cut.
    CutNode(usize, Mode),
    /// It is given another server.
    MoveNode(usize, usize),
    /// The real daemon is killed.
    KillDaemon,
    /// Stopped, and goes on.
    StopDaemon,
    /// Its wall clock jumps, and stays so.
    JumpDaemon(i64),
    /// Its disk is full.
    FillDaemon,
    /// A server is killed.
    KillServer(usize),
    /// Stopped, and goes on.
    StopServer(usize),
    /// Its way to the database is held up, or cut.
    CutServer(usize, Mode),
    /// Its wall clock jumps, and stays so.
    JumpServer(usize, i64),
    /// Postgres is killed.
    KillDatabase,
    /// All of it is stopped, and goes on.
    StopDatabase,
    /// Its disk is full.
    FillDatabase,
    /// Its wall clock jumps, and stays so.
    JumpDatabase(i64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

fn draw(random: &mut Random) -> Fault {
    let mut below = |limit: usize| (random.bits() % limit as u64) as usize;
    let (kind, node, server) = (below(21), below(NODES), below(2));
    let mode = if below(2) == 0 { Mode::Stall } else { Mode::Cut };
    let jump_s = below(2 * JUMP_MAX_S as usize) as i64 - JUMP_MAX_S as i64;
    match kind {
        0..=2 => Fault::KillNode(node),
        3..=4 => Fault::CutNode(node, mode),
        5 => Fault::MoveNode(node, server),
        6 => Fault::KillDaemon,
        7 => Fault::StopDaemon,
        8 => Fault::JumpDaemon(jump_s),
        9 => Fault::FillDaemon,
        10..=11 => Fault::KillServer(server),
        12..=13 => Fault::StopServer(server),
        14..=15 => Fault::CutServer(server, mode),
        16 => Fault::KillDatabase,
        17 => Fault::StopDatabase,
        18 => Fault::FillDatabase,
        19 => Fault::JumpServer(server, jump_s),
        _ => Fault::JumpDatabase(jump_s / 60),
    }
}

impl Fault {
    /// Whom it befalls: by the order in which faults at one time end, because a server is not ready before its database is; and who of these.
    fn victim(self) -> (u8, usize) {
        match self {
            Self::KillDatabase | Self::StopDatabase | Self::FillDatabase | Self::JumpDatabase(_) => (0, 0),
            Self::CutServer(server, _) => (1, server),
            Self::KillServer(server) | Self::StopServer(server) | Self::JumpServer(server, _) => (2, server),
            Self::KillDaemon | Self::StopDaemon | Self::JumpDaemon(_) | Self::FillDaemon => (3, 0),
            Self::KillNode(node) | Self::CutNode(node, _) | Self::MoveNode(node, _) => (4, node),
        }
    }
}

/// One fault, or two of different victims at the same time.
fn draw_some(random: &mut Random) -> Vec<Fault> {
    let mut drawn = vec![draw(random)];
    if random.chance(TWO) {
        let other = draw(random);
        if other.victim() != drawn[0].victim() {
            drawn.push(other);
        }
    }
    drawn.sort_by_key(|fault| fault.victim());
    drawn
}

/// All that faults befall.
struct Site<'m> {
    trial: Trial<'m>,
    ways: [Relay; 2],
    server_clocks: [Clock; 2],
    daemon: Node<'m>,
    daemon_clock: Clock,
    daemon_disk: Disk,
    database_clock: Clock,
    database_disk: Disk,
    postgres: Postgres<'m>,
}

impl Site<'_> {
    fn begin(&mut self, fault: Fault) -> Result<()> {
        let Self {
            trial,
            ways,
            server_clocks,
            daemon,
            daemon_clock,
            daemon_disk,
            database_clock,
            database_disk,
            postgres,
        } = self;
        match fault {
            Fault::KillNode(node) => trial.crowd.kill(node),
            Fault::CutNode(node, mode) => trial.crowd.way(node, mode),
            Fault::MoveNode(node, server) => trial.crowd.lead_to(node, place(&trial.servers[server])),
            Fault::KillDaemon => daemon.kill()?,
            Fault::StopDaemon => daemon.process().signal_all(Signal::SIGSTOP)?,
            Fault::JumpDaemon(jump_s) => daemon_clock.set_s(jump_s)?,
            Fault::FillDaemon => daemon_disk.fill()?,
            Fault::KillServer(server) => trial.servers[server].kill()?,
            Fault::StopServer(server) => trial.servers[server].process().signal_all(Signal::SIGSTOP)?,
            Fault::CutServer(server, mode) => ways[server].set(mode),
            Fault::JumpServer(server, jump_s) => server_clocks[server].set_s(jump_s)?,
            Fault::KillDatabase => postgres.kill()?,
            Fault::StopDatabase => postgres.stall(true)?,
            Fault::FillDatabase => database_disk.fill()?,
            Fault::JumpDatabase(jump_s) => database_clock.set_s(jump_s)?,
        }
        Ok(())
    }

    fn end(&mut self, fault: Fault) -> Result<()> {
        let Self { trial, ways, daemon, daemon_disk, database_disk, postgres, .. } = self;
        match fault {
            Fault::KillNode(node) => trial.crowd.revive(&trial.runtime, node),
            Fault::CutNode(node, _) => trial.crowd.way(node, Mode::Pass),
            Fault::KillDaemon => daemon.restart()?,
            Fault::StopDaemon => daemon.process().signal_all(Signal::SIGCONT)?,
            Fault::FillDaemon => daemon_disk.make_room()?,
            Fault::KillServer(server) => trial.servers[server].restart()?,
            Fault::StopServer(server) => trial.servers[server].process().signal_all(Signal::SIGCONT)?,
            Fault::CutServer(server, _) => ways[server].set(Mode::Pass),
            Fault::KillDatabase => postgres.restart()?,
            Fault::StopDatabase => postgres.stall(false)?,
            Fault::FillDatabase => {
                database_disk.make_room()?;
                // Without room for its log it ends.
                if postgres.query("SELECT 1").is_err() {
                    postgres.kill()?;
                    postgres.restart()?;
                }
            }
            Fault::MoveNode(..) | Fault::JumpDaemon(_) | Fault::JumpServer(..) | Fault::JumpDatabase(_) => {}
        }
        Ok(())
    }
}

fn number_of(variable: &str) -> Result<Option<u64>> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty());
    text.map(|text| text.parse().with_context(|| format!("{variable} is {text:?}"))).transpose()
}

fn start<'m>(machine: &'m Machine, cgroup: &Cgroup, seed: u64) -> Result<Site<'m>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (database_clock, daemon_clock) = (Clock::new(machine)?, Clock::new(machine)?);
    let server_clocks = [Clock::new(machine)?, Clock::new(machine)?];
    let database_disk = Disk::new(machine, "database", DATABASE_KIB)?;
    let postgres = Postgres::start_in(
        machine,
        Durability::Process,
        database_disk.path().to_owned(),
        &database_clock.environment(),
    )?;
    let socket = postgres.folder().join(".s.PGSQL.5432");
    let ways = [Relay::new(&runtime, Target::Socket(socket.clone()))?, Relay::new(&runtime, Target::Socket(socket))?];
    let server = |number: usize| {
        let url = format!("postgres://sockpilot@{}/postgres?sslmode=disable", ways[number].address());
        Server::start_in(machine, Database::Url(url), server_clocks[number].environment())
    };
    let trial = Trial::start(runtime, [server(0)?, server(1)?], NODES, seed)?;
    let daemon_disk = Disk::new(machine, "disk", DAEMON_DISK_KIB)?;
    let environment = daemon_clock.environment();
    let at = Place { state: daemon_disk.path().join("state"), environment, ..Place::new(machine, DAEMON)? };
    let daemon =
        Node::start_at(machine, DAEMON, &trial.servers[0].url(), cgroup, at, &["--long-flow-interval-s", "0"])?;
    // Connections that no policy matches are not recorded.
    eventually("the daemon has a policy in force", SETTLED_MAX, || {
        let known = trial.admins[0].nodes()?.remove(DAEMON).context("the daemon is unknown")?;
        ensure!(known.layers.iter().any(|layer| layer.confirmed_revision > 0), "{:?}", known.layers);
        Ok(())
    })?;
    Ok(Site { trial, ways, server_clocks, daemon, daemon_clock, daemon_disk, database_clock, database_disk, postgres })
}

/// Flows that the daemon has reported and the database has, over all layers.
fn flows_of_daemon(site: &Site<'_>) -> Result<(u64, u64)> {
    let known = site.trial.admins[0].nodes()?.remove(DAEMON).context("the daemon is unknown")?;
    Ok((known.records_total, known.records_dropped))
}

#[test]
fn whatever_fails_nothing_is_lost_and_nothing_goes_back() {
    scenario(Needs::Kernel, |machine| {
        let drawn = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
        let seed = number_of("SOCKPILOT_CHAOS_SEED")?.unwrap_or(drawn);
        let faults = number_of("SOCKPILOT_CHAOS_FAULTS")?.unwrap_or(FAULTS);
        println!("SOCKPILOT_CHAOS_SEED={seed} SOCKPILOT_CHAOS_FAULTS={faults}");
        let (wire, cgroup) = (Wire::new(short_path())?, Cgroup::new(machine, "managed")?);
        let mut site = start(machine, &cgroup, seed)?;
        let mut pair = Pair::start(machine, &wire, Some(&cgroup), None)?;
        let churn = Opening { at_once: 2, pause_ms: 20, ..Opening::new(socket("10.1.0.2", pair.port)?, 0) };
        pair.client.start_opening(&churn)?;

        let mut random = Random(seed);
        let began = Instant::now();
        let mut number = 0;
        while number < faults {
            let drawn = draw_some(&mut random);
            let lasts = FAULT_MIN + FAULT_MORE.mul_f64(random.share());
            println!("{number} at {:?}: {drawn:?} for {lasts:?}", began.elapsed());
            number += drawn.len() as u64;
            for fault in &drawn {
                site.begin(*fault).with_context(|| format!("{fault}"))?;
            }
            pass(lasts)?;
            for fault in &drawn {
                site.end(*fault).with_context(|| format!("the end of {fault}"))?;
            }
            pass(REST_MAX.mul_f64(random.share()))?;
        }
        println!("{number} faults in {:?}", began.elapsed());
        site.trial.writers.go_on(4)?;
        let flows = pair.client.stop()?.len() as u64;
        eventually("the database has every flow of the daemon", SETTLED_MAX, || {
            let (counted, dropped) = flows_of_daemon(&site)?;
            ensure!((counted, dropped) == (flows, 0), "{counted} of {flows}, {dropped} dropped");
            Ok(())
        })?;
        let Site { trial, postgres, daemon: _daemon, ways: _ways, .. } = site;
        let settling = Instant::now();
        let ended = trial.finish(&postgres, SETTLED_MAX)?;
        println!("settled after {:?}", settling.elapsed());
        for (name, revision) in &ended.newest {
            ended.admins[0].wait_in_force(DAEMON, name, *revision)?;
        }
        let violations = check(&ended.history);
        ensure!(violations.is_empty(), "{violations:#?}");
        ended.audit()?;
        let epochs: BTreeSet<_> = ended.history.sights.values().flatten().map(|sight| &sight.epoch).collect();
        ensure!(epochs.len() == 1, "nothing was lost, but there were several epochs: {epochs:?}");
        let (writes, sights) = (ended.history.writes.len(), ended.history.sights.values().map(Vec::len).sum::<usize>());
        println!(
            "{writes} changes, {sights} sights of {NODES} nodes, {flows} real connections: nothing lost, nothing back"
        );
        Ok(())
    });
}
