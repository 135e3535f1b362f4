//! The kernel program at work on real connections of this process: what is stamped, set and recorded, by which attachment.
//! One test, because it moves the process from cgroup to cgroup.

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
};

use common::{Home, World, enter, facts, info::Info, records, remove_cgroup};
use socket2::{Domain, Socket, Type};
use sockpilot_node::{
    kernel::{Kernel, Stamps},
    process::inspect::Inspector,
    records::attribution::{Attributions, Meaning},
};
use sockpilot_outcomes::Choice;
use sockpilot_policy::{
    compile::{ChoiceName, Compiled, compile},
    layout::{ACTIVE, Counter, FlowRecord, IPV4, PASSIVE},
    model::{Direction, Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term, Value},
    parameter::slot_by_name,
};

fn rule(name: &str, matches: Match, set: &[(&str, u32)]) -> Rule {
    let set = set.iter().fold(Parameters::default(), |set, (parameter, value)| {
        set.with(slot_by_name(parameter).unwrap(), Value::Number(*value))
    });
    Rule::new(name.parse().unwrap(), matches, set)
}

fn policy(name: &str, priority: u32, rules: Vec<Rule>) -> Layer {
    Layer {
        name: name.parse().unwrap(),
        revision: 1,
        priority,
        term: Term::Always,
        ends_s: None,
        rollout: None,
        body: LayerBody::Policy(rules),
    }
}

fn passive(port: u16) -> Match {
    Match {
        direction: Some(Direction::Passive),
        local_ports: vec![port.to_string().parse().unwrap()],
        ..Match::default()
    }
}

fn active(port: u16) -> Match {
    Match {
        direction: Some(Direction::Active),
        remote_ports: vec![port.to_string().parse().unwrap()],
        ..Match::default()
    }
}

/// One request and its answer; both ends are closed when it returns. Gives the clamp of the accepting end.
fn exchange(listener: &TcpListener, to: SocketAddr) -> u32 {
    let mut client = TcpStream::connect(to).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"hello").unwrap();
    let mut buffer = [0; 5];
    server.read_exact(&mut buffer).unwrap();
    let clamp = Info::of(&server).window();
    drop(client);
    assert_eq!(server.read(&mut buffer).unwrap(), 0);
    clamp
}

fn names(compiled: &Compiled, record: &FlowRecord) -> Vec<String> {
    let choices = &record.choices[..record.choice_count as usize];
    choices.iter().map(|&id| compiled.choices[usize::from(id) - 1].name.to_string()).collect()
}

#[test]
fn real_connections() {
    let Some(world) = World::new("serves") else { return };
    let home = Home::here();
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let port = address.port();
    let web = world.options.cgroup.join("web");
    let api = web.join("api");

    let service = |path: &str, condition: Match| Match { services: vec![path.parse().unwrap()], ..condition };
    let layers = vec![
        policy("policies/top", 9, vec![rule("web", service("/web", Match::default()), &[("cwnd_clamp_packets", 77)])]),
        policy(
            "policies/base",
            1,
            vec![
                rule("in", passive(port), &[("initial_cwnd_packets", 25), ("synack_rto_ms", 300)]),
                rule("out", active(port), &[("initial_cwnd_packets", 31), ("syn_rto_ms", 200)]),
                rule("refused", active(9), &[]),
            ],
        ),
    ];
    let compiled = compile(&Snapshot { layers, zones: vec![] }, &facts(), 1, kernel.next_install().unwrap()).unwrap();
    kernel.install(&compiled.tables).unwrap();

    // Outside the cgroup nothing happens.
    assert_eq!(exchange(&listener, address), 10);
    records(&mut kernel, 0);

    enter(&world.options.cgroup);
    // The cgroup of an accepted socket is the listener's: a new one.
    let listener = rebind(listener, address);
    assert_eq!(exchange(&listener, address), 25);
    let found = records(&mut kernel, 2);
    check_ends(&compiled, &found, port);

    explanation(&world, &compiled, &listener);
    records(&mut kernel, 2);

    // An IPv4 connection through IPv6 sockets is the same flow.
    let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{port}").parse().unwrap();
    exchange(&listener, mapped);
    let found = records(&mut kernel, 2);
    assert!(found.iter().all(|record| record.flow.family == IPV4));
    check_ends(&compiled, &found, port);

    // Nobody listens there.
    assert!(TcpStream::connect("127.0.0.1:9").is_err());
    let found = records(&mut kernel, 1);
    assert_eq!(names(&compiled, &found[0]), ["refused"]);
    assert_eq!((found[0].error, found[0].established_ns), (libc::ECONNREFUSED as u32, 0));

    // A service whose cgroup comes after the policy.
    fs::create_dir(&web).unwrap();
    fs::create_dir(&api).unwrap();
    assert_eq!(kernel.poll_services().unwrap(), 2);
    enter(&api);
    let listener = rebind(listener, address);
    exchange(&listener, address);
    let found = records(&mut kernel, 2);
    for record in &found {
        let base = if record.flow.direction == ACTIVE { "out" } else { "in" };
        assert_eq!(names(&compiled, record), ["web", base], "inherited by child cgroups, at both ends");
    }

    distance(&mut kernel, &listener);
    refusals(&mut kernel, &listener);
    leases_and_exemption(&mut kernel, &listener);

    let counters = kernel.counters().unwrap();
    assert_eq!(counters[Counter::FlowsStamped as usize], 18);
    assert_eq!(counters[Counter::FlowsClosed as usize], 18);
    assert_eq!(counters[Counter::RecordsDropped as usize], 0);
    assert_eq!(counters[Counter::SetRefused as usize], 1);
    drop(listener);
    drop(home);
    remove_cgroup(&api);
    remove_cgroup(&web);
}

/// Rules on the handshake's time are asked when it is known, at both ends, whether or not something was decided before.
fn distance(kernel: &mut Kernel, listener: &TcpListener) {
    let address = listener.local_addr().unwrap();
    let within =
        |condition: Match, min, max| Match { min_handshake_rtt_us: min, max_handshake_rtt_us: max, ..condition };
    let near = |condition| within(condition, None, Some(500_000));
    let far = |condition| within(condition, Some(500_000), None);
    let port = address.port();
    let layers = vec![
        // Decided before the handshake, and refined by it; at the passive end through a pending request.
        policy(
            "policies/base",
            2,
            vec![
                rule("far", far(Match::default()), &[("initial_cwnd_packets", 99)]),
                rule("near-in", near(passive(port)), &[("initial_cwnd_packets", 41)]),
                rule("near-out", near(active(port)), &[("initial_cwnd_packets", 42)]),
                rule("rest", Match::default(), &[("synack_rto_ms", 700), ("initial_cwnd_packets", 17)]),
            ],
        ),
        // Only the handshake decides.
        policy("policies/clamp", 1, vec![rule("clamp", near(active(port)), &[("cwnd_clamp_packets", 123)])]),
    ];
    for layers in [layers.clone(), layers[1..].to_vec()] {
        let (install, refined) = (kernel.next_install().unwrap(), layers.len() == 2);
        let compiled = compile(&Snapshot { layers, zones: vec![] }, &facts(), 3, install).unwrap();
        kernel.install(&compiled.tables).unwrap();
        exchange(listener, address);
        for record in records(kernel, if refined { 2 } else { 1 }) {
            let (expected, cwnd): (&[&str], u32) = match (record.flow.direction, refined) {
                (ACTIVE, true) => (&["near-out", "clamp"], 42),
                (ACTIVE, false) => (&["clamp"], 10),
                _ => (&["near-in"], 41),
            };
            assert_eq!(names(&compiled, &record), expected);
            assert_eq!((record.established_cwnd, record.refused), (cwnd, 0));
            assert!(record.start_ns <= record.established_ns);
        }
    }
}

/// A live socket's stamp is said in words, beside the daemon.
fn explanation(world: &World, compiled: &Compiled, listener: &TcpListener) {
    let directory = tempfile::tempdir().unwrap();
    let named = |name: &ChoiceName| {
        let layer = ["policies/top", "policies/base"][name.layer].to_owned();
        Meaning::from(Arc::new(Choice { layer, revision: 1, name: name.name.to_string() }))
    };
    let choices: Vec<_> = compiled.choices.iter().map(named).collect();
    let mut attributions = Attributions::open(directory.path().to_owned(), "tables", &[]).unwrap();
    attributions.put(compiled.tables.head.install, &choices).unwrap();
    let stamps = Stamps::open(&world.options).unwrap();
    let explainer = Inspector { stamps, attributions: directory.path(), tables: "tables" };
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let text = explainer.process(std::process::id()).unwrap();
    let from = client.local_addr().unwrap();
    let expected = format!("{from} -> {} (active)\n  policies/base@1: out\n", listener.local_addr().unwrap());
    assert!(text.contains(&expected), "{text}");
    assert!(text.contains("    initial_cwnd_packets             31\n"), "{text}");
    assert!(text.contains("    syn_rto_ms                       50 timer ticks\n"), "{text}");
    drop((client, listener.accept().unwrap()));
}

/// What the kernel refuses to set is counted, by parameter and error number, and noted in the flow's record.
fn refusals(kernel: &mut Kernel, listener: &TcpListener) {
    let slot = slot_by_name("congestion_control").unwrap();
    let mut claims = facts();
    claims.congestion_controls.push("no-such".to_owned());
    let mut out = rule("out", active(listener.local_addr().unwrap().port()), &[("cwnd_clamp_packets", 50)]);
    out.set = out.set.with(slot, Value::Name("no-such".to_owned()));
    let snapshot = Snapshot { layers: vec![policy("policies/p", 1, vec![out])], zones: vec![] };
    let compiled = compile(&snapshot, &claims, 4, kernel.next_install().unwrap()).unwrap();
    kernel.install(&compiled.tables).unwrap();
    assert_eq!(kernel.refusals().unwrap(), []);
    exchange(listener, listener.local_addr().unwrap());
    assert_eq!(records(kernel, 1)[0].refused, 1 << slot, "the clamp was set all the same");
    assert_eq!(kernel.refusals().unwrap(), [(slot, libc::ENOENT, 1)]);
}

/// A layer with a lease acts only while a server is heard of; the daemon's own connection is never touched.
fn leases_and_exemption(kernel: &mut Kernel, listener: &TcpListener) {
    let address = listener.local_addr().unwrap();
    let mut standby = policy("policies/canary", 5, vec![rule("standby", active(address.port()), &[])]);
    standby.term = Term::AfterSilence { lease_ms: 60_000 };
    let mut leased = policy("policies/canary", 9, vec![rule("leased", active(address.port()), &[])]);
    leased.term = Term::WhileInContact { lease_ms: 60_000 };
    let forever = policy("policies/base", 1, vec![rule("forever", Match::default(), &[])]);
    let compiled = compile(
        &Snapshot { layers: vec![leased, standby, forever], zones: vec![] },
        &facts(),
        2,
        kernel.next_install().unwrap(),
    )
    .unwrap();
    kernel.install(&compiled.tables).unwrap();
    let out = |kernel: &mut Kernel, expected| {
        let found = records(kernel, expected);
        found.iter().find(|record| record.flow.direction == ACTIVE).map(|record| names(&compiled, record))
    };

    // No server was ever heard of.
    let stream = TcpStream::connect(address).unwrap();
    drop((stream, listener.accept().unwrap()));
    assert_eq!(out(kernel, 2).unwrap(), ["standby", "forever"]);

    kernel.note_contact(None).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    drop((stream, listener.accept().unwrap()));
    assert_eq!(out(kernel, 2).unwrap(), ["leased", "forever"]);

    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    kernel.exempt(socket.cookie().unwrap()).unwrap();
    socket.connect(&address.into()).unwrap();
    drop((socket, listener.accept().unwrap()));
    assert_eq!(out(kernel, 1), None, "only the accepting end is recorded");
}

fn rebind(listener: TcpListener, address: SocketAddr) -> TcpListener {
    drop(listener);
    // TIME_WAIT of earlier connections does not stand in the way: the standard library sets SO_REUSEADDR.
    TcpListener::bind(address).unwrap()
}

fn check_ends(compiled: &Compiled, records: &[FlowRecord], port: u16) {
    let end = |direction| records.iter().find(|record| record.flow.direction == direction).unwrap();
    let (out, inward) = (end(ACTIVE), end(PASSIVE));
    assert_eq!(names(compiled, out), ["out"]);
    assert_eq!(names(compiled, inward), ["in"]);
    assert_eq!((out.flow.remote_port, inward.flow.local_port), (port, port));
    assert_eq!((out.flow.local, out.flow.local_port), (inward.flow.remote, inward.flow.remote_port));
    assert_eq!((out.established_cwnd, inward.established_cwnd), (31, 25));
    // Five bytes, the SYN and the FIN; five bytes and the FIN.
    assert_eq!((out.bytes_sent, inward.bytes_received), (7, 6));
    assert_eq!((out.error, inward.error, out.refused, inward.refused), (0, 0, 0, 0));
    assert!(out.start_ns <= out.established_ns && out.established_ns <= out.end_ns);
    assert!(out.srtt_us > 0);
}
