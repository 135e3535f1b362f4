//! Connections in network namespaces that no process is in: a program enters one, opens sockets, and goes back.

mod common;

use std::{
    fs::{self, File},
    io::Write,
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use common::{Home, Net, World, enter, facts, options::read, until};
use nix::sched::{CloneFlags, setns};
use sockpilot_node::kernel::{Kernel, Walker};
use sockpilot_policy::{
    compile::compile,
    layout::{Counter, FlowRecord},
    model::{ApplyTo, Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term, Value},
    parameter::slot_by_name,
};
use sockpilot_programs::SLEEP;

const PAIRS: usize = 3;
const KEEPALIVE_IDLE: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE);

struct Rig {
    kernel: Kernel,
    generation: u64,
}

impl Rig {
    fn new(world: &World) -> Self {
        let (kernel, _) = Kernel::open(&world.options).unwrap();
        enter(&world.options.cgroup);
        Self { kernel, generation: 0 }
    }

    fn apply(&mut self, rules: Vec<Rule>) {
        self.generation += 1;
        let name = "policies/p".parse().unwrap();
        let layer = Layer {
            name,
            revision: 1,
            priority: 1,
            term: Term::Always,
            ends_s: None,
            rollout: None,
            body: LayerBody::Policy(rules),
        };
        let snapshot = Snapshot { layers: vec![layer], zones: vec![] };
        let install = self.kernel.next_install().unwrap();
        self.kernel.install(&compile(&snapshot, &facts(), self.generation, install).unwrap().tables).unwrap();
    }

    /// Parameters set on open connections and restored.
    fn counts(&self) -> [u64; 2] {
        let counters = self.kernel.counters().unwrap();
        [Counter::LiveSet, Counter::LiveRestored].map(|counter| counters[counter as usize])
    }

    fn drain(&mut self) -> Vec<FlowRecord> {
        let mut records = Vec::new();
        let end = self.kernel.peek(usize::MAX, &mut |record| records.push(*record));
        self.kernel.release(end);
        records
    }
}

/// A namespace with nothing but a way to it.
fn namespace() -> File {
    thread::spawn(|| {
        // Without a process of its own: that ends at once.
        drop(Net::new());
        File::open("/proc/thread-self/ns/net").unwrap()
    })
    .join()
    .unwrap()
}

/// What a program does that enters a namespace for a moment.
fn inside<T: Send>(namespace: &File, does: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let there = || {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            does()
        };
        scope.spawn(there).join().unwrap()
    })
}

fn pair() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    [client, listener.accept().unwrap().0]
}

fn pairs() -> Vec<[TcpStream; 2]> {
    (0..PAIRS).map(|_| pair()).collect()
}

/// The namespaces looked at, and the connections not reached.
fn walk(walker: &Walker) -> (usize, u64) {
    (walker.walk_all().unwrap(), walker.unreached())
}

fn idle(seconds: u32) -> Parameters {
    Parameters::default().with(slot_by_name("keepalive_idle_s").unwrap(), Value::Number(seconds))
}

fn live(set: Parameters) -> Vec<Rule> {
    let rule = Rule::new("open".parse().unwrap(), Match::default(), set);
    vec![Rule { apply_to: ApplyTo::NewAndEstablished, ..rule }]
}

fn all_have(pairs: &[[TcpStream; 2]], seconds: u32) -> bool {
    pairs.iter().flatten().all(|end| read(end, KEEPALIVE_IDLE.0, KEEPALIVE_IDLE.1) == seconds)
}

/// Rules reach connections that were open before, in namespaces that only their sockets lead to; they are given back, those that
/// began under the rule too; and long ones are told about.
#[test]
fn sockets_lead_to_their_namespaces() {
    let Some(world) = World::new("namespaces") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let places = [namespace(), namespace()];
    let before: Vec<_> = places.iter().flat_map(|place| inside(place, pairs)).collect();
    let adjuster = Walker::adjuster(&world.options).unwrap().expect("this kernel has all fields");
    rig.apply(live(idle(100)));
    let young: Vec<_> = places.iter().flat_map(|place| inside(place, pairs)).collect();
    drop(places);
    assert_eq!(walk(&adjuster), (3, 0));
    let ends = (2 * 2 * PAIRS) as u64;
    assert_eq!(rig.counts(), [ends, 0]);
    assert!(all_have(&before, 100) && all_have(&young, 100));

    let reporter = Walker::long_flows(&world.options, Duration::ZERO).unwrap().unwrap();
    assert_eq!(walk(&reporter), (3, 0));
    assert_eq!(rig.drain().len() as u64, ends, "one record of each that is stamped");

    rig.apply(vec![]);
    // As another daemon that has come since.
    let adjuster = Walker::adjuster(&world.options).unwrap().unwrap();
    assert_eq!(walk(&adjuster), (3, 0));
    assert_eq!(rig.counts(), [ends, 2 * ends]);
    assert!(all_have(&before, 7_200) && all_have(&young, 7_200));
    drop((before, young));
    let mut closed = 0;
    until("all have ended", || {
        closed += rig.drain().len() as u64;
        closed == ends
    });
    assert_eq!(walk(&reporter), (3, 0), "handles are kept for one look more");
    assert_eq!(walk(&reporter), (1, 0));
}

/// A process outside of the cgroup that sockets were handed on to; ended with the test.
struct Keeper(Child);

impl Keeper {
    /// Takes over what is open at its standard input and output.
    fn of(home: &Home, [client, server]: [TcpStream; 2]) -> Self {
        let input: Stdio = std::os::fd::OwnedFd::from(client).into();
        let output: Stdio = std::os::fd::OwnedFd::from(server).into();
        let child = SLEEP.command().unwrap().arg("600").stdin(input).stdout(output).spawn().unwrap();
        fs::write(home.cgroup().join("cgroup.procs"), child.id().to_string()).unwrap();
        Self(child)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sockets that were handed on to a process outside of the cgroup: by the handle that was kept, or found again by another daemon.
#[test]
fn sockets_that_were_handed_on() {
    let Some(world) = World::new("namespaces-handed-on") else { return };
    let home = Home::here();
    let mut rig = Rig::new(&world);
    rig.apply(live(idle(100)));
    let ends = inside(&namespace(), pair);
    let seen = ends.each_ref().map(|end| end.try_clone().unwrap());
    let adjuster = Walker::adjuster(&world.options).unwrap().expect("this kernel has all fields");
    assert_eq!(walk(&adjuster), (2, 0));
    let keeper = Keeper::of(&home, ends);
    drop(seen);
    assert_eq!(walk(&adjuster), (2, 0), "by the handle");
    let other = Walker::adjuster(&world.options).unwrap().unwrap();
    assert_eq!(walk(&other), (2, 0), "by whoever has it open");
    rig.apply(vec![]);
    assert_eq!(walk(&other), (2, 0));
    assert_eq!(rig.counts(), [0, 2]);
    drop(keeper);
}

/// Connections without a process or a name are counted, unless a handle was kept; and nothing is held when they have ended.
#[test]
fn what_nothing_leads_to_is_counted() {
    let Some(world) = World::new("namespaces-lost") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let timeout = Parameters::default().with(slot_by_name("user_timeout_ms").unwrap(), Value::Number(6_000));
    rig.apply(vec![Rule::new("all".parse().unwrap(), Match::default(), timeout)]);
    let place = namespace();
    let ends = inside(&place, pair);
    let kept = Walker::long_flows(&world.options, Duration::ZERO).unwrap().expect("this kernel has all fields");
    assert_eq!(walk(&kept), (2, 0));
    assert_eq!(rig.drain().len(), 2);
    inside(&place, || Net::lose("tcp sport 0-65535"));
    drop(place);
    for mut end in ends {
        end.write_all(b"nobody hears").unwrap();
    }
    let lost = Walker::long_flows(&world.options, Duration::ZERO).unwrap().unwrap();
    assert_eq!(walk(&lost), (1, 2));
    assert_eq!(rig.drain().len(), 0);
    assert_eq!(walk(&kept), (2, 0));
    let mut records = rig.drain();
    assert_eq!(records.len(), 2, "reported while open");
    records.clear();
    until("they are given up", || {
        records.extend(rig.drain());
        records.len() == 2
    });
    assert!(records.iter().all(|record| record.still_open == 0));
    assert_eq!(walk(&lost), (1, 0));
    kept.walk_all().unwrap();
    assert_eq!(walk(&kept), (1, 0), "nothing is held");
}
