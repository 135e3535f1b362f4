//! A rollout by share of flows, on real connections: who gets what, and the circuit breaker that ends a canary with nobody there.

mod common;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use common::{Home, Net, World, enter, facts};
use socket2::{Domain, SockAddr, Socket, Type};
use sockpilot_node::kernel::{Counted, Kernel};
use sockpilot_policy::{
    compile::{Compiled, compile},
    decide::{Flow, decide},
    model::{Direction, Group, Layer, LayerBody, Match, Parameters, Part, Rollout, Rule, Snapshot, Term, Value},
    parameter::slot_by_name,
    unit::on_node,
};

const PORT: u16 = 7_777;
/// What the canary sets, and what nftables knows it by.
const MARK: u32 = 7;
const CLAMP: u32 = 44;
const LEASE_MS: u32 = 600_000;

/// A node of its own, with everything that a test of it needs.
struct Rig {
    /// First, so that nobody is in the cgroup any more when it goes.
    _home: Home,
    _net: Net,
    listener: Socket,
    /// Source ports, so that each connection has its own bucket, and every run the same ones.
    next_port: u16,
    kernel: Option<Kernel>,
    world: World,
}

impl Rig {
    fn new(name: &str) -> Option<Self> {
        let world = World::new(name)?;
        let home = Home::here();
        let net = Net::new();
        let (mut kernel, _) = Kernel::open(&world.options).unwrap();
        kernel.note_contact(None).unwrap();
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&to(PORT)).unwrap();
        listener.listen(64).unwrap();
        enter(&world.options.cgroup);
        Some(Self { _home: home, _net: net, listener, next_port: 20_000, kernel: Some(kernel), world })
    }

    fn kernel(&mut self) -> &mut Kernel {
        self.kernel.as_mut().expect("a daemon")
    }

    fn install(&mut self, layers: Vec<Layer>) -> (Snapshot, Compiled) {
        let kernel = self.kernel();
        let snapshot = on_node(&Snapshot { layers, zones: vec![] }, "node");
        let compiled = compile(&snapshot, &facts(), 1, kernel.next_install().unwrap()).unwrap();
        kernel.install(&compiled.tables).unwrap();
        (snapshot, compiled)
    }

    /// The daemon ends.
    fn kill(&mut self) {
        self.kernel = None;
    }

    /// It starts again, and finds what is in force.
    fn restart(&mut self, compiled: &Compiled) {
        let (mut kernel, _) = Kernel::open(&self.world.options).unwrap();
        assert!(kernel.recognise(&compiled.tables).unwrap());
        self.kernel = Some(kernel);
    }

    /// A connection from the next port.
    fn connect(&mut self) -> io::Result<Socket> {
        self.next_port += 1;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&to(self.next_port))?;
        socket.connect(&to(PORT))?;
        Ok(socket)
    }

    /// Connects, which may be refused, and ends in order. How many were refused.
    fn refused(&mut self, connections: u32) -> u32 {
        (0..connections).map(|_| u32::from(!self.exchange())).sum()
    }

    fn exchange(&mut self) -> bool {
        match self.connect() {
            Ok(client) => {
                let (server, _) = self.listener.accept().unwrap();
                drop(client);
                assert_eq!((&server).read_all(), 0);
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
                false
            }
        }
    }

    /// Connects and resets, with both ends here.
    fn reset(&mut self, connections: u32) {
        for _ in 0..connections {
            let client = self.connect().unwrap();
            let (server, _) = self.listener.accept().unwrap();
            client.set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
            // The reset is there at once.
            let _ = (&server).read_all();
        }
    }

    fn counted(&mut self) -> Counted {
        self.kernel().breakers().unwrap().pop().expect("one breaker")
    }
}

trait ReadAll {
    fn read_all(self) -> usize;
}

impl ReadAll for &Socket {
    fn read_all(mut self) -> usize {
        io::Read::read(&mut self, &mut [0; 16]).unwrap_or_default()
    }
}

fn to(port: u16) -> SockAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()
}

fn active() -> Match {
    let remote_ports = vec![PORT.to_string().parse().unwrap()];
    Match { direction: Some(Direction::Active), remote_ports, ..Match::default() }
}

fn of_share(share_bp: u32) -> Rollout {
    Rollout {
        name: "wide".parse().unwrap(),
        salt: "a rollout".to_owned(),
        revision: 2,
        share_bp,
        measures: vec![],
        horizon_s: 60,
        breaker_ppm: 1_000,
        unchanged: false,
        tripped: false,
        part: Part::default(),
    }
}

fn layer(revision: u64, term: Term, rollout: &Rollout, matches: Match, set: &[(&str, u32)]) -> Layer {
    let set = set
        .iter()
        .fold(Parameters::default(), |set, (name, value)| set.with(slot_by_name(name).unwrap(), Value::Number(*value)));
    Layer {
        name: "policies/web".parse().unwrap(),
        revision,
        priority: 1,
        term,
        ends_s: None,
        rollout: Some(rollout.clone()),
        body: LayerBody::Policy(vec![Rule::new(format!("r{revision}").parse().unwrap(), matches, set)]),
    }
}

/// The canary marks its packets; what everyone has does not.
fn layers(rollout: &Rollout) -> Vec<Layer> {
    let (canary, standby) = (Term::WhileInContact { lease_ms: LEASE_MS }, Term::AfterSilence { lease_ms: LEASE_MS });
    vec![
        layer(rollout.revision, canary, rollout, active(), &[("mark", MARK)]),
        layer(1, standby, rollout, active(), &[("cwnd_clamp_packets", CLAMP)]),
    ]
}

/// Something else that has changed: another policy beside.
fn with_another(mut layers: Vec<Layer>) -> Vec<Layer> {
    let other =
        Layer { name: "policies/other".parse().unwrap(), term: Term::Always, rollout: None, ..layers[0].clone() };
    let LayerBody::Policy(rules) = &mut layers[0].body else { unreachable!() };
    assert_eq!(rules.len(), 1);
    let nothing = Rule::new("none".parse().unwrap(), active(), Parameters::default());
    layers.push(Layer { body: LayerBody::Policy(vec![nothing]), ..other });
    layers
}

#[test]
fn shares_of_connections_are_as_told() {
    let Some(mut rig) = Rig::new("shares") else { return };
    let (snapshot, compiled) = rig.install(layers(&of_share(2_000)));
    const CONNECTIONS: u32 = 500;
    assert_eq!(rig.refused(CONNECTIONS), 0);
    let mut groups: BTreeMap<_, u32> = BTreeMap::new();
    let kernel = rig.kernel();
    let mut records = vec![];
    common::until("all have ended", || {
        let end = kernel.peek(1_000, &mut |record| records.push(*record));
        kernel.release(end);
        records.len() >= CONNECTIONS as usize
    });
    for record in &records {
        let flow = Flow { key: record.flow, service: None, handshake_rtt_us: None, begin_s: None };
        let decided = decide(&snapshot, &flow, 0);
        let [choice] = &decided.choices[..] else { panic!("one layer acts: {decided:?}") };
        let found = &compiled.choices[usize::from(record.choices[0]) - 1];
        assert_eq!((record.choice_count, found.layer, found.group), (1, choice.layer, choice.group));
        *groups.entry(choice.group).or_default() += 1;
    }
    // Within four standard deviations of a fifth, a fifth and three fifths.
    let near = |group, share: f64| {
        let (found, expected) = (f64::from(groups[&Some(group)]), f64::from(CONNECTIONS) * share);
        assert!((found - expected).abs() < 4.0 * (expected * (1.0 - share)).sqrt(), "{group}: {found} for {expected}");
    };
    near(Group::Canary, 0.2);
    near(Group::Control, 0.2);
    near(Group::Rest, 0.6);
    let Counted { canary_bad_ends, control_bad_ends, tripped, .. } = rig.counted();
    assert_eq!((canary_bad_ends, control_bad_ends, tripped), (0, 0, false), "they ended well");
}

/// 14 bad ends of the canary and none of its control are enough at one in a thousand (`policy/tests/breaker.rs`).
const ENOUGH: u32 = 14;

#[test]
fn a_harmful_canary_ends_with_nobody_there() {
    let Some(mut rig) = Rig::new("breaker") else { return };
    let rollout = of_share(2_000);
    let (_, compiled) = rig.install(layers(&rollout));
    Net::refuse(&format!("meta mark {MARK}"));
    // About a fifth of them.
    let before = rig.refused(25);
    assert!((1..ENOUGH).contains(&before), "{before}");
    assert_eq!(rig.counted().canary_bad_ends, u64::from(before));
    // Neither a restart nor something else that changes begins anew.
    rig.restart(&compiled);
    let (_, compiled) = rig.install(with_another(layers(&rollout)));
    assert_eq!(rig.counted().canary_bad_ends, u64::from(before));
    rig.kill();
    assert_eq!(before + rig.refused(400), ENOUGH, "from then on what stands by acts on all");
    assert_eq!(rig.refused(100), 0);

    // It stays so: when the daemon comes back, with other shares, and whatever else changes.
    rig.restart(&compiled);
    let told = rig.counted();
    assert_eq!((told.canary_bad_ends, told.control_bad_ends, told.tripped), (u64::from(ENOUGH), 0, true));
    assert_eq!((told.of.rollout.as_str(), told.of.revision), ("rollouts/wide", 2));
    for share_bp in [2_000, 3_000, 10_000] {
        let (snapshot, compiled) = rig.install(layers(&of_share(share_bp)));
        assert_eq!(rig.refused(60), 0, "with {share_bp}");
        assert!(rig.counted().tripped);
        drop((snapshot, compiled));
    }
    // Until another revision is rolled out.
    rig.install(layers(&Rollout { revision: 3, ..of_share(2_000) }));
    assert!(!rig.counted().tripped);
    assert!(rig.refused(60) > 0);
}

#[test]
fn what_is_as_bad_without_the_canary_does_not_end_it() {
    let Some(mut rig) = Rig::new("alike") else { return };
    rig.install(layers(&of_share(5_000)));
    Net::refuse(&format!("tcp dport {PORT}"));
    assert_eq!(rig.refused(400), 400);
    let Counted { canary_bad_ends, control_bad_ends, tripped, .. } = rig.counted();
    assert_eq!((canary_bad_ends + control_bad_ends, tripped), (400, false));
    assert!(canary_bad_ends.abs_diff(control_bad_ends) < 80, "{canary_bad_ends} and {control_bad_ends}");
}

#[test]
fn a_connection_counts_once_and_for_the_share_that_it_began_under() {
    let Some(mut rig) = Rig::new("once") else { return };
    // Both ends of each are here.
    let both = |rollout: &Rollout| {
        let term = Term::WhileInContact { lease_ms: LEASE_MS };
        vec![layer(2, term, rollout, Match::default(), &[("cwnd_clamp_packets", CLAMP)])]
    };
    rig.install(both(&of_share(5_000)));
    rig.listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    rig.listener.set_reuse_address(true).unwrap();
    rig.listener.bind(&to(PORT + 1)).unwrap();
    let begun = rig.next_port;
    assert!(rig.connect().is_err(), "nobody listens there any more");
    rig.next_port = begun;
    let first = rig.counted();
    assert_eq!(first.canary_bad_ends + first.control_bad_ends, 1);
    assert!(rig.connect().is_err());
    let again = rig.counted();
    assert_eq!(again.canary_bad_ends + again.control_bad_ends, 1, "the same addresses and ports are the same coin");

    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.set_reuse_address(true).unwrap();
    listener.bind(&to(PORT)).unwrap();
    listener.listen(64).unwrap();
    rig.listener = listener;
    rig.reset(20);
    let ends = |counted: Counted| counted.canary_bad_ends + counted.control_bad_ends;
    common::until("all have ended", || ends(rig.counted()) >= 21);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(ends(rig.counted()), 21, "one of the two ends of each");

    // What began with another share is not of this one.
    let old: Vec<_> = (0..10).map(|_| (rig.connect().unwrap(), rig.listener.accept().unwrap())).collect();
    rig.install(both(&of_share(4_000)));
    for (client, (server, _)) in old {
        client.set_linger(Some(Duration::ZERO)).unwrap();
        drop((client, server));
    }
    rig.reset(10);
    let within = |counted: Counted| (1..=10).contains(&ends(counted));
    common::until("the new ones have ended", || ends(rig.counted()) > 0);
    thread::sleep(Duration::from_millis(50));
    assert!(within(rig.counted()), "{:?}", rig.counted());
}
