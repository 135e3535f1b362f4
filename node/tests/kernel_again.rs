//! Sockets that carry several connections, one after the other, or listen in between: every connection is decided and recorded for
//! itself, and what was set for one does not stay for the next.

mod common;

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::Path,
    time::Duration,
};

use common::{
    Home, Net, World, enter, facts,
    info::{Counts, Info},
    options::{congestion_control, read, set_number},
    records, remove_cgroup, until,
};
use socket2::{Domain, Socket, Type};
use sockpilot_node::kernel::{Kernel, Walker};
use sockpilot_outcomes::{Flow, Outcome};
use sockpilot_policy::{
    compile::compile,
    layout::{ACTIVE, Counter, FlowRecord, PASSIVE, Reported},
    model::{ApplyTo, Direction, Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term, Value},
    parameter::slot_by_name,
};

const TIMES: usize = 20;
const KEEPALIVE_IDLE: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE);
const USER_TIMEOUT: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT);
const PRIORITY: (i32, i32) = (libc::SOL_SOCKET, libc::SO_PRIORITY);
const TOS: (i32, i32) = (libc::IPPROTO_IP, libc::IP_TOS);

/// A kernel side of this process, in a network namespace of its own.
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

    /// Puts a policy in force.
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

    /// The outcomes of the next records, which are all that come.
    fn outcomes(&mut self, expected: usize) -> Vec<Outcome> {
        self.records(expected).iter().map(|record| Flow::of(record).outcome).collect()
    }

    fn records(&mut self, expected: usize) -> Vec<FlowRecord> {
        let records = records(&mut self.kernel, expected);
        for record in &records {
            assert_eq!(record.reported, Reported::default(), "nothing of an earlier connection");
        }
        records
    }

    /// Every stamp has had its record, and there is none that nobody expected.
    fn settled(mut self) {
        let counters = self.kernel.counters().unwrap();
        assert_eq!(counters[Counter::FlowsStamped as usize], counters[Counter::FlowsClosed as usize]);
        assert_eq!(counters[Counter::RecordsDropped as usize], 0);
        assert_eq!(self.kernel.refusals().unwrap(), []);
        self.records(0);
    }
}

fn set(values: &[(&str, u32)]) -> Parameters {
    let with =
        |set: Parameters, (name, value): &(&str, u32)| set.with(slot_by_name(name).unwrap(), Value::Number(*value));
    values.iter().fold(Parameters::default(), with)
}

fn rule(name: &str, matches: Match, set: Parameters) -> Rule {
    Rule::new(name.parse().unwrap(), matches, set)
}

/// Of connecting ends.
fn active() -> Match {
    Match { direction: Some(Direction::Active), ..Match::default() }
}

fn to_port(port: u16) -> Match {
    Match { remote_ports: vec![port.to_string().parse().unwrap()], ..active() }
}

fn listen(at: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((at, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

/// A port where nobody listens.
fn nobody(at: &str) -> SocketAddr {
    listen(at).1
}

fn socket(to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket
}

/// A view of the same socket, for what asks a stream.
fn stream(socket: &Socket) -> TcpStream {
    socket.try_clone().unwrap().into()
}

/// `connect` with `AF_UNSPEC`.
fn disconnect(socket: &Socket) {
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as u32;
    // SAFETY: an address of the length said.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const nowhere, length) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Connects without waiting, while nobody answers.
fn begin(socket: &Socket, to: SocketAddr) {
    socket.set_nonblocking(true).unwrap();
    let error = socket.connect(&to.into()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
    socket.set_nonblocking(false).unwrap();
}

fn lose_syns(port: u16) {
    Net::lose(&format!("tcp dport {port} tcp flags & (syn|ack) == syn"));
}

/// What a program does that waits for its server, until the server is there; blocking, and not.
#[test]
fn refused_and_again() {
    let Some(world) = World::new("again") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    for at in ["127.0.0.1", "::1"] {
        for waits in [true, false] {
            let to = nobody(at);
            rig.apply(vec![rule("all", active(), set(&[("user_timeout_ms", 5_000)]))]);
            let socket = socket(to);
            socket.set_nonblocking(!waits).unwrap();
            for _ in 0..TIMES {
                let mut error = socket.connect(&to.into()).unwrap_err();
                if !waits {
                    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
                    error = socket.connect(&to.into()).unwrap_err();
                }
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            }
            let listener = TcpListener::bind(to).unwrap();
            socket.connect(&to.into()).or_else(|error| if waits { Err(error) } else { Ok(()) }).unwrap();
            let peer = listener.accept().unwrap().0;
            let connected = stream(&socket);
            until("connected", || Info::of(&connected).state() == 1);
            let counts = Info::of(&connected).counts();
            drop((socket, connected, peer));
            let records = rig.records(TIMES + 1);
            let (last, refused) = records.split_last().unwrap();
            for record in refused {
                assert_eq!((Flow::of(record).outcome, record.error as i32), (Outcome::Failed, libc::ECONNREFUSED));
                assert_eq!((record.segments_out, record.segments_in, record.bytes_sent), (1, 1, 0), "{record:#?}");
            }
            assert!(refused.is_sorted_by_key(|record| record.start_ns));
            assert_ne!(Flow::of(last).outcome, Outcome::Failed);
            assert!(last.start_ns > refused[TIMES - 1].end_ns && last.established_ns > last.start_ns);
            assert_eq!((last.syn_retransmits, last.choice_count), (0, 1));
            assert!(last.segments_out >= counts.segments_out && last.segments_out <= counts.segments_out + 2);
        }
    }
    rig.settled();
}

/// Each connection of one descriptor has the rule of its own destination, and counts nothing of the one before.
#[test]
fn disconnected_and_elsewhere() {
    let Some(world) = World::new("again-elsewhere") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    for at in ["127.0.0.1", "::1"] {
        let places = [listen(at), listen(at), listen(at)];
        let [a, b, _] = places.each_ref().map(|(_, at)| at.port());
        let rules = [("a", a, 100), ("b", b, 200)];
        rig.apply(rules.map(|(name, port, idle)| rule(name, to_port(port), set(&[("keepalive_idle_s", idle)]))).into());
        let socket = socket(places[0].1);
        let mut expected = Vec::new();
        for turn in 0..TIMES {
            for (place, idle) in [(0, 100), (1, 200), (2, 7_200)] {
                let (listener, to) = &places[place];
                socket.connect(&(*to).into()).unwrap();
                let mut peer = listener.accept().unwrap().0;
                let mut connected = stream(&socket);
                let bytes = 1_000 + turn;
                connected.write_all(&vec![1; bytes]).unwrap();
                peer.read_exact(&mut vec![0; bytes]).unwrap();
                until("all is acknowledged", || Info::of(&connected).unacknowledged() == 0);
                assert_eq!(read(&connected, KEEPALIVE_IDLE.0, KEEPALIVE_IDLE.1), idle);
                if place < 2 {
                    expected.push((to.port(), Info::of(&connected).counts()));
                }
                disconnect(&socket);
            }
        }
        let records = rig.records(expected.len());
        let found: Vec<_> = records.iter().map(|record| (record.flow.remote_port, Counts::of(record))).collect();
        assert_eq!(found, expected);
        assert!(records.iter().all(|record| Flow::of(record).outcome == Outcome::Reset), "by this end");
        assert!(
            records.iter().all(|record| record.established_ns > record.start_ns && record.flow.direction == ACTIVE)
        );
    }
    rig.settled();
}

/// What the program ends itself before anybody has answered is abandoned; what the kernel gives up has failed.
#[test]
fn given_up_by_the_program_or_by_the_kernel() {
    let Some(world) = World::new("again-given-up") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    let (listener, to) = listen("127.0.0.1");
    rig.apply(vec![rule("all", active(), set(&[("syn_rto_ms", 20), ("syn_retries", 1)]))]);
    lose_syns(to.port());
    let ends: [&dyn Fn(Socket); 5] = [
        &|socket| drop(socket),
        &|socket| {
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            drop(socket);
        },
        &|socket| disconnect(&socket),
        &|socket| socket.shutdown(Shutdown::Both).unwrap(),
        // With a descriptor that is still open somewhere: nothing has ended until the last is closed.
        &|socket| drop((socket.try_clone().unwrap(), socket)),
    ];
    for end in ends {
        let socket = socket(to);
        begin(&socket, to);
        end(socket);
        assert_eq!(rig.outcomes(1), [Outcome::Abandoned]);
    }
    let socket = socket(to);
    for _ in 0..3 {
        begin(&socket, to);
        disconnect(&socket);
        begin(&socket, to);
        let _ = socket.shutdown(Shutdown::Write);
    }
    assert_eq!(rig.outcomes(6), [Outcome::Abandoned; 6]);
    let error = socket.connect(&to.into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let timed_out = rig.records(1)[0];
    assert_eq!((Flow::of(&timed_out).outcome, timed_out.error as i32), (Outcome::Failed, libc::ETIMEDOUT));
    assert!(timed_out.syn_retransmits > 0);
    Net::heal();
    socket.connect(&to.into()).unwrap();
    drop((listener.accept().unwrap(), socket));
    let works = rig.records(1)[0];
    assert_eq!((works.syn_retransmits, works.rtos, works.established_ns > 0), (0, 0, true), "{works:#?}");
    rig.settled();
}

/// An attempt that sends no SYN is no connection, and leaves the next one alone.
#[test]
fn without_a_way_there_is_no_connection() {
    let Some(world) = World::new("again-no-way") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    rig.apply(vec![rule("all", active(), Parameters::default())]);
    let (refused, (listener, to)) = (nobody("127.0.0.1"), listen("127.0.0.1"));
    let socket = socket(to);
    for _ in 0..3 {
        let nowhere: SocketAddr = "192.0.2.1:9".parse().unwrap();
        assert_eq!(socket.connect(&nowhere.into()).unwrap_err().kind(), ErrorKind::NetworkUnreachable);
        assert_eq!(socket.connect(&refused.into()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    socket.connect(&to.into()).unwrap();
    drop(socket);
    drop(listener);
    let mut outcomes = rig.outcomes(4);
    assert_ne!(outcomes.pop(), Some(Outcome::Failed));
    assert_eq!(outcomes, [Outcome::Failed; 3]);
    rig.settled();
}

/// A socket that connected, then listens; and one that was accepted, then connects.
#[test]
fn from_one_end_to_the_other() {
    let Some(world) = World::new("again-ends") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    for at in ["127.0.0.1", "::1"] {
        let (listener, to) = listen(at);
        let idle = set(&[("keepalive_idle_s", 100)]);
        let passive = Match { direction: Some(Direction::Passive), ..Match::default() };
        rig.apply(vec![rule("active", active(), idle), rule("passive", passive, Parameters::default())]);
        let socket = socket(to);
        for _ in 0..3 {
            socket.connect(&to.into()).unwrap();
            let accepted = Socket::from(listener.accept().unwrap().0);
            disconnect(&socket);
            socket.bind(&SocketAddr::new(to.ip(), 0).into()).unwrap();
            socket.listen(1).unwrap();
            let own = socket.local_addr().unwrap().as_socket().unwrap();
            // The other end, accepted before, connects to what connected before.
            disconnect(&accepted);
            accepted.connect(&own.into()).unwrap();
            let (child, _) = socket.accept().unwrap();
            assert_eq!(read(&stream(&child), KEEPALIVE_IDLE.0, KEEPALIVE_IDLE.1), 7_200, "none of the listener's past");
            disconnect(&accepted);
            until("the reset has come", || Info::of(&stream(&child)).state() == 7);
            // No more a listener.
            socket.shutdown(Shutdown::Both).unwrap();
            let records = rig.records(4);
            let at = |record: &FlowRecord| [record.flow.remote_port, record.flow.local_port].contains(&to.port());
            let mut found: Vec<_> = records.iter().map(|record| (record.flow.direction, at(record))).collect();
            found.sort_unstable();
            assert_eq!(found, [(ACTIVE, false), (ACTIVE, true), (PASSIVE, false), (PASSIVE, true)]);
            assert!(records.iter().all(|record| Flow::of(record).outcome == Outcome::Reset));
            disconnect(&socket);
        }
    }
    rig.settled();
}

/// A socket that connects to itself: the SYNs cross, and the kernel has the callback of an accepted one.
#[test]
fn crossing_syns_are_an_active_connection() {
    let Some(world) = World::new("again-crossing") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    let passive = Match { direction: Some(Direction::Passive), ..Match::default() };
    let idle = |seconds| set(&[("keepalive_idle_s", seconds)]);
    for at in ["127.0.0.1", "::1"] {
        let itself = nobody(at);
        for (rules, records) in [
            (vec![rule("a", active(), idle(100)), rule("p", passive.clone(), idle(200))], 1),
            (vec![rule("p", passive.clone(), idle(200))], 0),
        ] {
            rig.apply(rules);
            let socket = socket(itself);
            socket.bind(&itself.into()).unwrap();
            for _ in 0..3 {
                socket.connect(&itself.into()).unwrap();
                let expected = if records == 1 { 100 } else { 7_200 };
                assert_eq!(read(&stream(&socket), KEEPALIVE_IDLE.0, KEEPALIVE_IDLE.1), expected);
                disconnect(&socket);
                let found = rig.records(records);
                assert!(found.iter().all(|record| record.flow.direction == ACTIVE && record.established_ns > 0));
            }
        }
    }
    rig.settled();
}

/// Data with the SYN: the kernel puts the connection off until there is some.
#[test]
fn put_off_until_there_is_data() {
    const TCP_FASTOPEN_CONNECT: (i32, i32) = (libc::IPPROTO_TCP, 30);
    let Some(world) = World::new("again-put-off") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    // Both ends, without cookies.
    fs::write("/proc/sys/net/ipv4/tcp_fastopen", (0x1 | 0x2 | 0x4 | 0x200 | 0x400).to_string()).unwrap();
    rig.apply(vec![rule("all", active(), Parameters::default())]);
    let to = nobody("127.0.0.1");
    let socket = socket(to);
    set_number(&stream(&socket), TCP_FASTOPEN_CONNECT, 1);
    let mut connected = stream(&socket);
    for _ in 0..3 {
        socket.connect(&to.into()).unwrap();
        disconnect(&socket);
        rig.records(0);
        socket.connect(&to.into()).unwrap();
        connected.write_all(b"nobody hears").and_then(|()| connected.read(&mut [0])).unwrap_err();
        assert_eq!(rig.outcomes(1), [Outcome::Failed]);
    }
    let listener = TcpListener::bind(to).unwrap();
    socket.connect(&to.into()).unwrap();
    connected.write_all(b"somebody").unwrap();
    let mut peer = listener.accept().unwrap().0;
    peer.read_exact(&mut [0; 8]).unwrap();
    until("connected", || Info::of(&connected).state() == 1);
    disconnect(&socket);
    drop(peer);
    let record = rig.records(1)[0];
    assert_eq!(Flow::of(&record).outcome, Outcome::Reset);
    // The kernel keeps the least round-trip time for the socket's next connection.
    assert!(record.min_rtt_us > 0);
    drop(listener);
    socket.connect(&to.into()).unwrap();
    connected.write_all(b"nobody hears").and_then(|()| connected.read(&mut [0])).unwrap_err();
    assert_eq!(rig.records(1)[0].min_rtt_us, 0);
    rig.settled();
}

/// What was set for one connection is restored before the next, whether its rule was for open connections too or not; but not
/// what the application has set since.
#[test]
fn what_was_set_does_not_stay() {
    let Some(world) = World::new("again-options") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    let places = [listen("127.0.0.1"), listen("127.0.0.1")];
    let values = set(&[
        ("keepalive_idle_s", 100),
        ("user_timeout_ms", 5_000),
        ("priority", 5),
        ("dscp", 46),
        ("cwnd_clamp_packets", 7),
        ("min_rto_ms", 20),
        ("window_clamp_bytes", 40_000),
    ]);
    for apply_to in [ApplyTo::New, ApplyTo::NewAndEstablished] {
        let socket = socket(places[0].1);
        let connected = stream(&socket);
        let seen = || {
            let numbers =
                [KEEPALIVE_IDLE, USER_TIMEOUT, PRIORITY, TOS].map(|(level, name)| read(&connected, level, name));
            (numbers, congestion_control(&connected))
        };
        set_number(&connected, PRIORITY, 3);
        set_number(&connected, KEEPALIVE_IDLE, 50);
        let before = seen();
        let other = if before.1 == "reno" { "cubic" } else { "reno" };
        let values = values.clone().with(slot_by_name("congestion_control").unwrap(), Value::Name(other.to_owned()));
        rig.apply(vec![Rule { apply_to, ..rule("a", to_port(places[0].1.port()), values) }]);
        let connect = |place: usize| {
            socket.connect(&places[place].1.into()).unwrap();
            (seen(), places[place].0.accept().unwrap())
        };
        for _ in 0..3 {
            let (set, _peer) = connect(0);
            assert_eq!(set, ([100, 5_000, 5, 46 << 2], other.to_owned()));
            disconnect(&socket);
            let (fresh, mut peer) = connect(1);
            assert_eq!(fresh, before, "as if the first had never been: {apply_to:?}");
            (&connected).write_all(&[1; 200_000]).unwrap();
            peer.0.read_exact(&mut vec![0; 200_000]).unwrap();
            assert!(Info::of(&connected).window() > 7, "nor the bound of the window");
            disconnect(&socket);
        }
        // Refused, then elsewhere, with the application's word in between.
        let (_, _peer) = connect(0);
        disconnect(&socket);
        set_number(&connected, KEEPALIVE_IDLE, 77);
        let (fresh, _peer) = connect(1);
        assert_eq!(fresh, ([77, before.0[1], before.0[2], before.0[3]], before.1.clone()));
        disconnect(&socket);
        // When nothing is in force any more.
        set_number(&connected, KEEPALIVE_IDLE, 50);
        let (_, _peer) = connect(0);
        disconnect(&socket);
        rig.apply(vec![]);
        let (fresh, _peer) = connect(0);
        assert_eq!(fresh, before);
        disconnect(&socket);
        assert_eq!(rig.records(5).len(), 5);
    }
    rig.settled();
}

/// What was changed on a connection that was open before its rule is restored before the next one, too.
#[test]
fn what_was_changed_while_open_does_not_stay() {
    let Some(world) = World::new("again-open") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let adjuster = Walker::adjuster(&world.options).unwrap().expect("this kernel has all fields");
    let _net = Net::new();
    let places = [listen("127.0.0.1"), listen("127.0.0.1")];
    let socket = socket(places[0].1);
    socket.connect(&places[0].1.into()).unwrap();
    let idle = set(&[("keepalive_idle_s", 100)]);
    let apply_to = ApplyTo::NewAndEstablished;
    rig.apply(vec![Rule { apply_to, ..rule("a", to_port(places[0].1.port()), idle) }]);
    adjuster.walk_all().unwrap();
    let idle = || read(&stream(&socket), KEEPALIVE_IDLE.0, KEEPALIVE_IDLE.1);
    assert_eq!(idle(), 100);
    disconnect(&socket);
    socket.connect(&places[1].1.into()).unwrap();
    assert_eq!(idle(), 7_200);
    disconnect(&socket);
    rig.settled();
}

/// With an attachment of its own around the socket and another around that: still one decision for each connection.
#[test]
fn beneath_two_attachments() {
    let Some(world) = World::new("again-service") else { return };
    let home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    let web = world.options.cgroup.join("web");
    fs::create_dir(&web).unwrap();
    let services = |path: &str| Match { services: vec![path.parse().unwrap()], ..active() };
    rig.apply(vec![rule("web", services("/web"), Parameters::default()), rule("all", active(), Parameters::default())]);
    let of = |rig: &mut Rig, path: &Path| {
        enter(path);
        let to = nobody("127.0.0.1");
        let socket = socket(to);
        for _ in 0..TIMES {
            socket.connect(&to.into()).unwrap_err();
        }
        let _listener = TcpListener::bind(to).unwrap();
        socket.connect(&to.into()).unwrap();
        disconnect(&socket);
        let records = rig.records(TIMES + 1);
        let outcomes = records.iter().map(|record| Flow::of(record).outcome);
        assert_eq!(outcomes.filter(|outcome| *outcome == Outcome::Failed).count(), TIMES);
        records.iter().map(|record| record.choices[0]).collect::<Vec<_>>()
    };
    let inner = of(&mut rig, &web);
    let outer = of(&mut rig, &world.options.cgroup);
    assert!(inner.iter().all(|choice| *choice == inner[0]) && outer.iter().all(|choice| *choice == outer[0]));
    assert_ne!(inner[0], outer[0]);
    enter(home.cgroup());
    remove_cgroup(&web);
    rig.settled();
}
