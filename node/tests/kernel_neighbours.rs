//! Other sock_ops programs on the same path: theirs and ours both do their work, whoever came first, and the daemon knows them.

mod common;

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::Array,
    programs::{CgroupAttachMode, SockOps},
};
use common::{Home, Net, World, enter, facts, records, remove_cgroup, until};
use socket2::{Domain, Socket, Type};
use sockpilot_node::kernel::{Kernel, neighbours};
use sockpilot_policy::{
    compile::compile,
    layout::{ACTIVE, FlowRecord},
    model::{Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term, Value},
    parameter::slot_by_name,
};

const RTT_CB: u32 = 12;
/// What our policy asks for, and what the other program answers: 75 ticks at HZ 250.
const OUR_TIMEOUT_US: u32 = 200_000;
const THEIR_TIMEOUT_TICKS: u32 = 75;
const THEIR_TIMEOUT_US: u32 = 300_000;
const KERNEL_TIMEOUT_US: u32 = 1_000_000;
const WINDOW: u32 = 23;

/// What the other program is like. See `tests/c/neighbour.bpf.c`.
#[derive(Debug, Clone, Copy, Default)]
struct Manners {
    rude: u32,
    timeout: u32,
    no_opinion: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The same cgroup, before us.
    Before,
    /// The same cgroup, after us.
    After,
    /// A cgroup around ours: runs after us.
    Around,
    /// A cgroup inside ours, in which the connections are: runs before us.
    Inside,
}

const ORDERS: [Order; 4] = [Order::Before, Order::After, Order::Around, Order::Inside];

/// The other program, attached while it lives.
struct Other(Ebpf);

impl Other {
    fn attach(object: &Path, manners: Manners, cgroup: &Path) -> Self {
        let Manners { rude, timeout, no_opinion } = manners;
        let mut loader = EbpfLoader::new();
        loader.override_global("rude", &rude, true);
        loader.override_global("timeout", &timeout, true);
        loader.override_global("no_opinion", &no_opinion, true);
        let mut ebpf = loader.load_file(object).unwrap();
        let program: &mut SockOps = ebpf.program_mut("neighbour").unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach(File::open(cgroup).unwrap(), CgroupAttachMode::Single).unwrap();
        Self(ebpf)
    }

    fn seen(&self, op: u32) -> u64 {
        let seen: Array<_, u64> = self.0.map("seen").unwrap().try_into().unwrap();
        seen.get(&op, 0).unwrap()
    }
}

fn compile_other(directory: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/c/neighbour.bpf.c");
    let object = directory.join("neighbour.o");
    let status =
        sockpilot_programs::compile_for_bpf(&source, &object).unwrap_or_else(|error| panic!("{error}")).status();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "clang: {status:?}");
    object
}

fn install(kernel: &mut Kernel) {
    let slot = |name| slot_by_name(name).unwrap();
    let set = Parameters::default()
        .with(slot("initial_cwnd_packets"), Value::Number(WINDOW))
        .with(slot("syn_rto_ms"), Value::Number(OUR_TIMEOUT_US / 1_000));
    let (name, matches) = ("all".parse().unwrap(), Match::default());
    let rules = vec![Rule::new(name, matches, set)];
    let name = "policies/all".parse().unwrap();
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
    let compiled = compile(&snapshot, &facts(), 1, kernel.next_install().unwrap()).unwrap();
    kernel.install(&compiled.tables).unwrap();
}

/// Both programs over one cgroup, in an order, with this process under them.
fn with_both(object: &Path, manners: Manners, order: Order, check: &mut dyn FnMut(&mut Kernel, &Other)) {
    let Some(mut world) = World::new("neighbours") else { return };
    let around = world.options.cgroup.clone();
    let nested = [around.join("managed"), around.join("managed/inner")];
    for cgroup in &nested {
        fs::create_dir(cgroup).unwrap();
    }
    let [managed, inner] = &nested;
    world.options.cgroup.clone_from(managed);
    let theirs = match order {
        Order::Before | Order::After => managed,
        Order::Around => &around,
        Order::Inside => inner,
    };
    {
        let _home = Home::here();
        let before = (order == Order::Before).then(|| Other::attach(object, manners, theirs));
        let (mut kernel, _) = Kernel::open(&world.options).unwrap();
        let other = before.unwrap_or_else(|| Other::attach(object, manners, theirs));
        install(&mut kernel);
        enter(inner);
        let known: Vec<_> = neighbours(&world.options)
            .unwrap()
            .into_iter()
            .filter(|neighbour| neighbour.cgroup.starts_with(&around))
            .map(|neighbour| (neighbour.cgroup, neighbour.name))
            .collect();
        let expected = (order != Order::Inside).then(|| (theirs.clone(), "neighbour".to_owned()));
        assert_eq!(known, Vec::from_iter(expected), "{order:?}");
        check(&mut kernel, &other);
    }
    Kernel::detach(&world.options).unwrap();
    for cgroup in nested.iter().rev() {
        remove_cgroup(cgroup);
    }
    world.options.cgroup = around;
}

/// One connection. Returns our records of its ends, if there are as many as expected.
fn exchange(kernel: &mut Kernel) -> Vec<FlowRecord> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop((listener.accept().unwrap(), client));
    records(kernel, 2)
}

/// The timer of a SYN that nobody answers.
fn syn_timeout_us() -> u32 {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let nowhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
    assert!(socket.connect(&nowhere.into()).is_err());
    let mut info = [0_u32; 64];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: a buffer of the length said.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    // tcpi_rto, after eight fields of a byte.
    info[2]
}

/// A callback of each program for one connection, and both programs' flags and records.
fn both_work(kernel: &mut Kernel, other: &Other, what: &str) {
    let rtts = other.seen(RTT_CB);
    for record in exchange(kernel) {
        assert_eq!(record.established_cwnd, WINDOW, "{what}");
        assert_eq!((record.error, record.refused), (0, 0), "{what}");
        // FIN_WAIT2 or FIN_WAIT1 or CLOSING, LAST_ACK: nothing has overwritten it.
        assert!([4, 5, 9, 11].contains(&record.old_state), "{what}: {}", record.old_state);
        let active = record.flow.direction == ACTIVE;
        assert!(!active || record.start_ns < record.established_ns, "{what}");
    }
    assert!(other.seen(RTT_CB) > rtts, "{what}: the other program gets the callbacks it has asked for");
}

#[test]
fn programs_live_together_in_any_order() {
    let Some(probe) = World::new("neighbours-probe") else { return };
    drop(probe);
    let directory = tempfile::tempdir().unwrap();
    let object = compile_other(directory.path());
    let _net = Net::new();
    Net::lose("tcp dport 9");
    let modest = Manners::default();
    let rude = Manners { rude: 1, ..modest };
    let answers = Manners { timeout: THEIR_TIMEOUT_TICKS, ..modest };
    let no_opinion = Manners { no_opinion: 1, ..modest };
    for order in ORDERS {
        for manners in [modest, rude, answers, no_opinion] {
            let what = format!("{order:?} {manners:?}");
            // Who comes last has the last word, even if it is none.
            let first = matches!(order, Order::Before | Order::Inside);
            let timeout_us = match (manners.timeout > 0, manners.no_opinion > 0) {
                // Our program leaves what is answered already.
                (true, _) => THEIR_TIMEOUT_US,
                (_, true) if !first => KERNEL_TIMEOUT_US,
                _ => OUR_TIMEOUT_US,
            };
            with_both(&object, manners, order, &mut |kernel, other| {
                both_work(kernel, other, &what);
                assert_eq!(syn_timeout_us(), timeout_us, "{what}");
                until("the attempt is recorded", || {
                    let mut seen = 0;
                    let end = kernel.peek(usize::MAX, &mut |_| seen += 1);
                    kernel.release(end);
                    seen == 1
                });
            });
        }
    }
}
