//! Rules for connections that are open already: set, read back by the process that owns the socket, and restored.

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
};

use common::{
    Home, Net, World, enter, facts,
    info::Info,
    options::{CASES, Case, congestion_control, cookie, read, set_number, traffic_class},
};
use socket2::{Domain, Socket, Type};
use sockpilot_node::{
    kernel::{Kernel, Stamps, Walker},
    process::inspect::Inspector,
};
use sockpilot_policy::{
    compile::compile,
    layout::Counter,
    model::{ApplyTo, Direction, Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term, Value},
    parameter::{LIVE_MASK, slot_by_name},
};

const KEEPALIVE_IDLE: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE);
const USER_TIMEOUT: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT);
/// The kernel's default.
const IDLE_S: u32 = 7_200;

/// A kernel side of this process, and what has its rules apply to open connections.
struct Rig {
    kernel: Kernel,
    adjuster: Walker,
    generation: u64,
}

impl Rig {
    fn new(world: &World) -> Self {
        let (kernel, _) = Kernel::open(&world.options).unwrap();
        let adjuster = Walker::adjuster(&world.options).unwrap().expect("this kernel has all fields");
        enter(&world.options.cgroup);
        Self { kernel, adjuster, generation: 0 }
    }

    /// Puts layers in force, the first one with the highest priority, and has them apply.
    fn apply(&mut self, layers: Vec<Vec<Rule>>) {
        self.generation += 1;
        let layer = |(index, rules)| Layer {
            name: format!("policies/p{index}").parse().unwrap(),
            revision: 1,
            priority: 1,
            term: Term::Always,
            ends_s: None,
            rollout: None,
            body: LayerBody::Policy(rules),
        };
        let layers = layers.into_iter().enumerate().map(layer).collect();
        let install = self.kernel.next_install().unwrap();
        let compiled = compile(&Snapshot { layers, zones: vec![] }, &facts(), self.generation, install).unwrap();
        self.kernel.install(&compiled.tables).unwrap();
        self.adjuster.walk_all().unwrap();
    }

    /// Parameters set on open connections, restored, and left to the application.
    fn counts(&self) -> [u64; 3] {
        assert_eq!(self.kernel.refusals().unwrap(), [], "the kernel refuses nothing");
        let counters = self.kernel.counters().unwrap();
        [Counter::LiveSet, Counter::LiveRestored, Counter::LiveLeft].map(|counter| counters[counter as usize])
    }
}

fn set(values: &[(&str, u32)]) -> Parameters {
    let with =
        |set: Parameters, (name, value): &(&str, u32)| set.with(slot_by_name(name).unwrap(), Value::Number(*value));
    values.iter().fold(Parameters::default(), with)
}

/// For connections to or from a port.
fn at_port(port: u16, direction: Direction) -> Match {
    let ports = vec![port.to_string().parse().unwrap()];
    let direction = Some(direction);
    match direction {
        Some(Direction::Passive) => Match { direction, local_ports: ports, ..Match::default() },
        _ => Match { direction, remote_ports: ports, ..Match::default() },
    }
}

fn live(matches: Match, set: Parameters) -> Rule {
    Rule { apply_to: ApplyTo::NewAndEstablished, ..Rule::new("open".parse().unwrap(), matches, set) }
}

/// Both ends, connecting and accepting, and the port of the latter.
fn connect(listen: &str, to: &str) -> ([TcpStream; 2], u16) {
    let listener = TcpListener::bind((listen, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((to, port)).unwrap();
    ([client, listener.accept().unwrap().0], port)
}

fn live_cases() -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(|case| LIVE_MASK >> slot_by_name(case.name).unwrap() & 1 == 1)
}

/// All that can be seen of a connection's end: what is changed, by parameter.
fn seen(stream: &TcpStream) -> (Vec<(&'static str, u32)>, String, u32) {
    let (level, option) = traffic_class(stream);
    let numbers = live_cases().map(|case| (case.name, read(stream, case.level, case.option))).collect();
    (numbers, congestion_control(stream), read(stream, level, option))
}

/// Every parameter of the table that can be changed on an open connection, at both ends, over IPv4, IPv6, and IPv4 through IPv6.
#[test]
fn is_set_and_put_back() {
    let Some(world) = World::new("live") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    let pairs = [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "::ffff:127.0.0.1")].map(|(l, t)| connect(l, t).0);
    let ends: Vec<&TcpStream> = pairs.iter().flatten().collect();
    let before: Vec<_> = ends.iter().map(|end| seen(end)).collect();

    let all = live_cases().fold(set(&[("dscp", 46), ("cwnd_clamp_packets", 1_000)]), |all, case| {
        all.with(slot_by_name(case.name).unwrap(), Value::Number(case.value))
    });
    let other = if before[0].1 == "reno" { "cubic" } else { "reno" };
    let all = all.with(slot_by_name("congestion_control").unwrap(), Value::Name(other.to_owned()));
    let parameters = all.iter().count() as u64;
    assert_eq!(parameters, u64::from(LIVE_MASK.count_ones()), "all that the table says");

    rig.apply(vec![vec![Rule::new("new".parse().unwrap(), Match::default(), all.clone())]]);
    assert!(ends.iter().map(|end| seen(end)).eq(before.iter().cloned()), "a rule for new connections only");
    assert_eq!(rig.counts(), [0; 3]);

    rig.apply(vec![vec![live(Match::default(), all.clone())]]);
    let mut changed = rig.counts()[0];
    assert_eq!(changed, 6 * parameters);
    for end in &ends {
        let (numbers, name, class) = seen(end);
        let expected: Vec<_> = live_cases().map(|case| (case.name, case.expected)).collect();
        assert_eq!((numbers, name.as_str(), class & !3), (expected, other, 46 << 2), "{end:?}");
    }
    // One that begins under the rule gets the same, and follows it as well.
    let (young, _) = connect("127.0.0.1", "127.0.0.1");
    assert!(young.iter().all(|end| seen(end) == seen(ends[0])));
    rig.adjuster.walk_all().unwrap();
    assert_eq!(rig.counts(), [changed, 0, 0], "every value once");

    // Another value of one parameter.
    rig.apply(vec![vec![live(
        Match::default(),
        all.with(slot_by_name("keepalive_idle_s").unwrap(), Value::Number(77)),
    )]]);
    changed += 8;
    assert_eq!(rig.counts(), [changed, 0, 0]);
    assert!(ends.iter().chain(&[&young[0], &young[1]]).all(|end| read(end, KEEPALIVE_IDLE.0, KEEPALIVE_IDLE.1) == 77));

    rig.apply(vec![]);
    assert!(ends.iter().map(|end| seen(end)).eq(before.iter().cloned()), "as before the rule");
    for (end, mut before) in young.iter().zip(before) {
        // The clamp was there before the window of the connecting end was chosen, so there is none to go back to.
        let mut seen = seen(end);
        seen.0.retain(|(name, _)| *name != "window_clamp_bytes");
        before.0.retain(|(name, _)| *name != "window_clamp_bytes");
        assert_eq!(seen, before, "as if the rule had never been");
        assert!(read(end, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP) >= 65_535);
    }
    assert_eq!(rig.counts(), [changed, 8 * parameters, 0]);
}

#[test]
fn the_application_has_the_last_word() {
    let Some(world) = World::new("live-word") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    let (ends, _) = connect("127.0.0.1", "127.0.0.1");
    let values = |end: &TcpStream| [KEEPALIVE_IDLE, USER_TIMEOUT].map(|(level, option)| read(end, level, option));
    let rule = |idle_s, timeout_ms| {
        live(Match::default(), set(&[("keepalive_idle_s", idle_s), ("user_timeout_ms", timeout_ms)]))
    };
    rig.apply(vec![vec![rule(100, 5_000)]]);
    assert_eq!(values(&ends[0]), [100, 5_000]);

    let explained = || {
        let stamps = Stamps::open(&world.options).unwrap();
        let explainer = Inspector { stamps, attributions: Path::new("/nowhere"), tables: "tables" };
        explainer.process(std::process::id()).unwrap()
    };
    let expected = format!(
        "{} -> {} (open before any rule was for it)\n  for as long as the connection is open and its rule holds:\n    \
         user_timeout_ms                  5000, now 5000, before 0\n    \
         keepalive_idle_s                 100, now 100, before 7200\n",
        ends[0].local_addr().unwrap(),
        ends[0].peer_addr().unwrap(),
    );
    assert!(explained().contains(&expected), "{}", explained());
    set_number(&ends[0], KEEPALIVE_IDLE, 33);
    rig.adjuster.walk_all().unwrap();
    assert_eq!(values(&ends[0]), [33, 5_000], "not set again");
    rig.apply(vec![vec![rule(200, 6_000)]]);
    assert_eq!(values(&ends[0]), [33, 6_000], "nor to another value");
    assert_eq!(values(&ends[1]), [200, 6_000], "where the application has said nothing");
    assert!(explained().contains("200, now 33, left alone: the application has changed it"), "{}", explained());
    rig.apply(vec![vec![rule(300, 6_000)]]);
    rig.apply(vec![]);
    assert_eq!(values(&ends[0]), [33, 0], "nor restored");
    assert_eq!(values(&ends[1]), [IDLE_S, 0]);
    let [_, _, left] = rig.counts();
    assert_eq!(left, 1);
    // A rule that comes later begins anew, from what the application has set.
    rig.apply(vec![vec![rule(100, 5_000)]]);
    assert_eq!(values(&ends[0]), [100, 5_000]);
    rig.kernel.withdraw().unwrap();
    rig.adjuster.walk_all().unwrap();
    assert_eq!(values(&ends[0]), [33, 0], "with nothing in force");
}

/// Who opened the connection is known of sockets that were never stamped, whatever they were bound to.
#[test]
fn directions_are_told_apart() {
    let Some(world) = World::new("live-direction") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    for (listen, to) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "::ffff:127.0.0.1")] {
        for bound in [false, true] {
            let listener = TcpListener::bind((listen, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let to: SocketAddr = (to.parse::<std::net::IpAddr>().unwrap(), port).into();
            let client = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            if bound {
                client.bind(&SocketAddr::new(to.ip(), 0).into()).unwrap();
            }
            client.connect(&to.into()).unwrap();
            let ends = [client.into(), listener.accept().unwrap().0];
            // Also when nobody listens there any more.
            drop(listener);
            for (direction, expected) in [(Direction::Active, [9, IDLE_S]), (Direction::Passive, [IDLE_S, 9])] {
                let rule = live(at_port(port, direction), set(&[("keepalive_idle_s", 9)]));
                let mirrored = Match { direction: Some(direction), ..Match::default() };
                let by_direction_alone = live(mirrored, set(&[("keepalive_idle_s", 9)]));
                for rule in [rule, by_direction_alone] {
                    rig.apply(vec![vec![rule]]);
                    let found = ends.each_ref().map(|end| read(end, KEEPALIVE_IDLE.0, KEEPALIVE_IDLE.1));
                    assert_eq!(found, expected, "{direction:?} of {to}, bound: {bound}");
                }
            }
            rig.apply(vec![]);
        }
    }
}

/// The innermost named cgroup around the socket counts, as for new connections, and nothing outside the node's own.
#[test]
fn services_and_strangers() {
    let Some(world) = World::new("live-services") else { return };
    let home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    let cgroup = |path: &str| world.options.cgroup.join(path);
    for path in ["web", "web/api", "db"] {
        fs::create_dir(cgroup(path)).unwrap();
    }
    let open_in = |path: &Path| {
        enter(path);
        connect("127.0.0.1", "127.0.0.1").0
    };
    let pairs = [cgroup(""), cgroup("web"), cgroup("web/api"), cgroup("db")].map(|path| open_in(&path));
    let outside = open_in(home.cgroup());
    enter(&world.options.cgroup);
    let services = |services: &[&str]| Match {
        services: services.iter().map(|service| service.parse().unwrap()).collect(),
        ..Match::default()
    };
    let idle = |seconds| set(&[("keepalive_idle_s", seconds)]);
    let found = |pairs: &[[TcpStream; 2]]| {
        pairs.iter().map(|[a, b]| [a, b].map(|end| read(end, KEEPALIVE_IDLE.0, KEEPALIVE_IDLE.1))).collect::<Vec<_>>()
    };

    rig.apply(vec![vec![live(services(&["/web"]), idle(10))]]);
    assert_eq!(found(&pairs), [[IDLE_S; 2], [10; 2], [10; 2], [IDLE_S; 2]]);
    let api = live(services(&["/web/api"]), idle(20));
    let rest = Rule { name: "rest".parse().unwrap(), ..live(Match::default(), idle(30)) };
    rig.apply(vec![vec![api, rest]]);
    assert_eq!(found(&pairs), [[30; 2], [30; 2], [20; 2], [30; 2]]);
    assert_eq!(found(&[outside]), [[IDLE_S; 2]]);

    // What wins for new connections only is left as it is, and so is what is the daemon's own.
    let new_only = Rule::new("new".parse().unwrap(), services(&["/db"]), idle(40));
    let own = &pairs[1][0];
    rig.kernel.exempt(cookie(own)).unwrap();
    rig.apply(vec![vec![new_only], vec![live(Match::default(), idle(50))]]);
    assert_eq!(found(&pairs), [[50; 2], [IDLE_S, 50], [50; 2], [IDLE_S; 2]]);
    drop(pairs);
    for path in ["web/api", "web", "db"] {
        common::remove_cgroup(&cgroup(path));
    }
}

/// The kernel sets the priority with the traffic class of IPv4 sockets.
#[test]
fn options_that_change_each_other() {
    let Some(world) = World::new("live-order") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    let (ends, _) = connect("127.0.0.1", "127.0.0.1");
    let priority = (libc::SOL_SOCKET, libc::SO_PRIORITY);
    set_number(&ends[0], priority, 3);
    let values = || [priority, traffic_class(&ends[0])].map(|(level, option)| read(&ends[0], level, option));
    let rule = |values: &[(&str, u32)]| vec![vec![live(Match::default(), set(values))]];
    rig.apply(rule(&[("dscp", 46), ("priority", 5)]));
    assert_eq!(values(), [5, 46 << 2]);
    rig.apply(rule(&[("priority", 5)]));
    assert_eq!(values(), [5, 0], "one of them stays");
    rig.apply(rule(&[("dscp", 46), ("priority", 5)]));
    rig.apply(vec![]);
    assert_eq!(values(), [3, 0], "what the application had set");
    assert_eq!(rig.counts()[2], 0);
}

/// A handshake that is under way when the rule goes ends with what was decided at its beginning. The next look puts it back.
#[test]
fn handshakes_under_way_follow_later() {
    let Some(world) = World::new("live-handshake") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let rule =
        live(at_port(to.port(), Direction::Active), set(&[("keepalive_idle_s", 9), ("cwnd_clamp_packets", 500)]));
    rig.apply(vec![vec![rule]]);
    let lost = format!("tcp dport {} tcp flags & (syn|ack) == syn limit rate 1/hour burst 1 packets", to.port());
    Net::lose(&lost);
    let client = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| TcpStream::connect(to).unwrap());
        common::until("the connection begins", || rig.kernel.counters().unwrap()[Counter::FlowsStamped as usize] == 1);
        rig.apply(vec![]);
        connecting.join().unwrap()
    });
    Net::heal();
    let idle = || read(&client, KEEPALIVE_IDLE.0, KEEPALIVE_IDLE.1);
    assert_eq!(idle(), 9);
    rig.adjuster.walk_all().unwrap();
    assert_eq!(idle(), IDLE_S);
    assert_eq!(rig.counts(), [0, 2, 0]);
}

/// What only BPF programs can set, and nobody can read.
#[test]
fn congestion_windows_are_bounded_and_freed() {
    let Some(world) = World::new("live-window") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    let (mut ends, _) = connect("127.0.0.1", "127.0.0.1");
    let bytes = vec![7; 4 << 20];
    let mut send = || {
        let [from, to] = &mut ends;
        let (mut writer, mut buffer) = (from.try_clone().unwrap(), [0; 1 << 16]);
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&bytes).unwrap());
            (0..bytes.len() / buffer.len()).for_each(|_| to.read_exact(&mut buffer).unwrap());
        });
        Info::of(from).window()
    };
    assert!(send() >= 10);
    rig.apply(vec![vec![live(Match::default(), set(&[("cwnd_clamp_packets", 4)]))]]);
    send();
    assert!(send() <= 4);
    rig.apply(vec![]);
    send();
    assert!(send() > 4);
    assert_eq!(rig.counts(), [2, 2, 0]);
}

/// Rules come and go while connections open and close: every end is recorded once, nothing is refused, and one that stays open
/// has in the end what it had in the beginning.
#[test]
fn holds_under_churn() {
    let Some(world) = World::new("live-churn") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    let ([client, server], _) = connect("127.0.0.1", "127.0.0.1");
    let before = [seen(&client), seen(&server)];
    let cubic = Value::Name("cubic".to_owned());
    let all = set(&[("nodelay", 1), ("keepalive_idle_s", 9), ("dscp", 10), ("priority", 4), ("min_rto_ms", 20)]);
    let all = all.with(slot_by_name("congestion_control").unwrap(), cubic);
    let churned = std::thread::scope(|scope| {
        let churn = scope.spawn(|| (0..3_000).map(|_| drop(connect("127.0.0.1", "127.0.0.1"))).count());
        while !churn.is_finished() {
            rig.apply(vec![vec![live(Match::default(), all.clone())]]);
            rig.apply(vec![vec![Rule::new("new".parse().unwrap(), Match::default(), all.clone())]]);
        }
        churn.join().unwrap()
    });
    rig.apply(vec![]);
    assert_eq!([seen(&client), seen(&server)], before);
    let [set, put_back, left] = rig.counts();
    assert!(set > 0 && put_back > 0 && left == 0, "{set} {put_back} {left}");
    let counters = rig.kernel.counters().unwrap();
    let [stamped, closed] = [Counter::FlowsStamped, Counter::FlowsClosed].map(|counter| counters[counter as usize]);
    assert_eq!(stamped, closed);
    assert!(stamped <= 2 * churned as u64 && stamped > churned as u64, "{stamped} of {churned} connections");
}

/// A connection whose other end has sent all it has to send is still open.
#[test]
fn half_closed_connections_count() {
    let Some(world) = World::new("live-half") else { return };
    let _home = Home::here();
    let mut rig = Rig::new(&world);
    let _net = Net::new();
    let (ends, _) = connect("127.0.0.1", "127.0.0.1");
    ends[0].shutdown(Shutdown::Write).unwrap();
    let mut nothing = [0];
    assert_eq!(ends[1].peek(&mut nothing).unwrap(), 0);
    rig.apply(vec![vec![live(Match::default(), set(&[("user_timeout_ms", 5_000)]))]]);
    assert_eq!(read(&ends[1], USER_TIMEOUT.0, USER_TIMEOUT.1), 5_000);
    rig.apply(vec![]);
    assert_eq!(read(&ends[1], USER_TIMEOUT.0, USER_TIMEOUT.1), 0);
}
