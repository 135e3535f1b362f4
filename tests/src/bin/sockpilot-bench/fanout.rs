//! One change to many connected nodes, beside etcd in the same run: from the call that publishes it, durably, until the last has received
//! it. Nodes and watchers are in this process, each with a connection of its own, without TLS, and cost it alike; nodes answer as real ones
//! do.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::{SysconfVar, sysconf},
};
use sockpilot_proto::v1;
use sockpilot_tests::{
    admin::{Admin, everyone},
    documents::{policy, rule},
    machine::Machine,
    postgres::{Durability, Postgres},
    server::{Database, Server},
    simulated::SimulatedNodes,
    wait::{eventually, pass},
};
use tokio::{runtime::Runtime, sync::watch};

use crate::{
    Figures,
    etcd::{Etcd, Writer, watch_key},
    growth::{self, Point},
    note, quantile,
};

const SIZES: [(usize, u32); 3] = [(1_000, 25), (3_000, 10), (9_000, 5)];
/// Of either, before: Postgres plans a statement anew the first five times that a session executes it.
const WARM_UP: u32 = 6;
/// Server and etcd take turns so often.
const ROUNDS: u32 = 4;
/// Between two changes, and for each node: then no answer to the one before is in the way.
const PAUSE: Duration = Duration::from_millis(150);
const PAUSE_OF_NODE: Duration = Duration::from_micros(100);
/// Of heartbeats: two and more of each node.
const IDLE: Duration = Duration::from_secs(12);
const PATIENCE: Duration = Duration::from_secs(120);
/// They make a snapshot of 4 KB.
const RULES: u32 = 100;

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("asking for the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of open files")?;
    let points = SIZES.iter().map(|&(nodes, changes)| of_size(machine, figures, nodes, changes));
    let drawn = growth::draw(&points.collect::<Result<Vec<_>>>()?)?;
    println!("growth: {}", drawn.display());
    Ok(())
}

fn of_size(machine: &Machine, figures: &mut Figures, nodes: usize, changes: u32) -> Result<Point> {
    let mut ours = Ours::start(machine, nodes)?;
    let theirs = Theirs::start(machine, nodes, ours.fleet.snapshot_bytes())?;
    for _ in 0..WARM_UP {
        ours.change()?;
        theirs.change()?;
    }
    let [mut our_work, mut their_work] = Work::at_rest([ours.server.process().id(), theirs.etcd.id()])?;
    let (mut our_ms, mut their_ms) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        our_ms.extend(our_work.during(changes, || ours.change())?);
        their_ms.extend(their_work.during(changes, || theirs.change())?);
    }
    let deliveries = f64::from(ROUNDS * changes) * nodes as f64;
    let mut say = |name: &str, value: f64| note(figures, &name.replace('N', &nodes.to_string()), value);
    let (p50, p99) = (quantile(&mut our_ms, 0.5), quantile(&mut our_ms, 0.99));
    let (etcd_p50, etcd_p99) = (quantile(&mut their_ms, 0.5), quantile(&mut their_ms, 0.99));
    say("idle_N_cpu_ms_per_s", our_work.idle_share * 1e3);
    say("fanout_N_last_ms_p50", p50);
    say("fanout_N_last_ms_p99", p99);
    say("etcd_N_last_ms_p50", etcd_p50);
    say("etcd_N_last_ms_p99", etcd_p99);
    say("fanout_N_vs_etcd_p50", p50 / etcd_p50);
    say("fanout_N_vs_etcd_p99", p99 / etcd_p99);
    say("fanout_N_cpu_us_per_delivery", our_work.of_changes_s * 1e6 / deliveries);
    say("etcd_N_cpu_us_per_delivery", their_work.of_changes_s * 1e6 / deliveries);
    say("reconnect_N_s", ours.reconnect()?);
    Ok(Point { nodes, p99_ms: p99, p50_ms: p50, etcd_p99_ms: etcd_p99, etcd_p50_ms: etcd_p50 })
}

struct Ours<'m> {
    fleet: SimulatedNodes,
    admin: Admin,
    server: Server<'m>,
    nodes: usize,
    number: u32,
    _postgres: Postgres<'m>,
}

impl<'m> Ours<'m> {
    fn start(machine: &'m Machine, nodes: usize) -> Result<Self> {
        let postgres = Postgres::start(machine, Durability::Disk)?;
        let server = Server::start(machine, Database::Url(postgres.url()), &[])?;
        let admin = server.admin()?;
        admin.put_policy(document(1), everyone())?;
        let fleet = SimulatedNodes::connect_light(&server, nodes, "policies/web")?;
        Ok(Self { fleet, admin, server, nodes, number: 1, _postgres: postgres })
    }

    fn change(&mut self) -> Result<f64> {
        rest(self.nodes)?;
        self.number += 1;
        let document = document(self.number);
        let began = Instant::now();
        let revision = self.admin.put_policy(document, everyone())?.revision;
        let last = self.fleet.all_have("the change", revision)?;
        Ok(last.duration_since(began).as_secs_f64() * 1e3)
    }

    /// From the end of the server, without a word, until it is there again and all nodes have what was changed then.
    fn reconnect(&mut self) -> Result<f64> {
        let began = Instant::now();
        self.server.kill()?;
        self.server.restart()?;
        self.number += 1;
        let revision = self.admin.put_policy(document(self.number), everyone())?.revision;
        let last = self.fleet.all_have("the change after the restart", revision)?;
        Ok(last.duration_since(began).as_secs_f64())
    }
}

fn document(number: u32) -> v1::Policy {
    let set = |at| v1::Parameters { cwnd_clamp_packets: Some(10 + number + at), ..v1::Parameters::default() };
    let name = |at| format!("a-rule-of-many-{at:04}");
    policy("web", 1, (0..RULES).map(|at| rule(&name(at), v1::Match::default(), set(at))).collect())
}

struct Theirs {
    watchers: Arc<Vec<watch::Sender<(i64, Instant)>>>,
    bytes: usize,
    runtime: Runtime,
    writer: std::cell::RefCell<Writer>,
    etcd: Etcd,
}

impl Theirs {
    fn start(machine: &Machine, watchers: usize, bytes: usize) -> Result<Self> {
        let etcd = Etcd::start(machine)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let none = || watch::Sender::new((-1, Instant::now()));
        let watchers: Arc<Vec<_>> = Arc::new((0..watchers).map(|_| none()).collect());
        for at in 0..watchers.len() {
            let (all, url) = (watchers.clone(), etcd.url().to_owned());
            runtime.spawn(async move {
                if let Err(error) = watch_key(&url, &all[at]).await {
                    eprintln!("watcher {at}: {error:#}");
                }
            });
        }
        let writer = runtime.block_on(Writer::connect(etcd.url()))?.into();
        let theirs = Self { watchers, bytes, runtime, writer, etcd };
        theirs.all_have(0)?;
        Ok(theirs)
    }

    fn all_have(&self, revision: i64) -> Result<Instant> {
        eventually("all watchers have it", PATIENCE, || {
            let have = self.watchers.iter().filter(|seen| seen.borrow().0 == revision).count();
            ensure!(have == self.watchers.len(), "{have} have");
            Ok(())
        })?;
        self.watchers.iter().map(|seen| seen.borrow().1).max().context("no watchers")
    }

    fn change(&self) -> Result<f64> {
        rest(self.watchers.len())?;
        let mut writer = self.writer.borrow_mut();
        let began = Instant::now();
        let revision = self.runtime.block_on(writer.put(vec![b'x'; self.bytes]))?;
        let last = self.all_have(revision)?;
        Ok(last.duration_since(began).as_secs_f64() * 1e3)
    }
}

/// So many nodes have answered then.
fn rest(nodes: usize) -> Result<()> {
    pass(PAUSE + PAUSE_OF_NODE * u32::try_from(nodes)?)
}

/// The CPU time that changes cost a process, beside what it takes without them.
#[derive(Debug, Clone, Copy)]
struct Work {
    process: u32,
    /// Seconds of CPU in a second without changes.
    idle_share: f64,
    of_changes_s: f64,
}

impl Work {
    /// Of processes that have nothing to do for a while.
    fn at_rest<const N: usize>(processes: [u32; N]) -> Result<[Self; N]> {
        let mut work = processes.map(|process| Self { process, idle_share: 0.0, of_changes_s: 0.0 });
        let before: Vec<_> = processes.into_iter().map(cpu_s).collect::<Result<_>>()?;
        pass(IDLE)?;
        for (work, before_s) in work.iter_mut().zip(before) {
            work.idle_share = (cpu_s(work.process)? - before_s) / IDLE.as_secs_f64();
        }
        Ok(work)
    }

    /// Answers with what each change answers.
    fn during(&mut self, changes: u32, change: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
        let (began, before_s) = (Instant::now(), cpu_s(self.process)?);
        let answers = std::iter::repeat_with(change).take(changes as usize).collect::<Result<_>>()?;
        self.of_changes_s += cpu_s(self.process)? - before_s - self.idle_share * began.elapsed().as_secs_f64();
        Ok(answers)
    }
}

/// CPU time of a process so far, its own and the kernel's for it.
fn cpu_s(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("looking at a process")?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("no CPU time");
    let per_s = sysconf(SysconfVar::CLK_TCK)?.context("no clock")?;
    // utime and stime, fields 14 and 15 of proc(5), of which the first two are before the parenthesis.
    Ok((ticks(11)? + ticks(12)?) / per_s as f64)
}
