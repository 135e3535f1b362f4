//! Every parameter that is a socket option arrives: read back with `getsockopt` by the process that owns the socket, at both
//! ends, over IPv4 and IPv6, beside a connection that no rule matches.

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream};

use common::{
    Home, World, enter, facts,
    options::{CASES, read},
    records,
};
use socket2::{Domain, Socket, Type};
use sockpilot_node::kernel::Kernel;
use sockpilot_policy::{
    compile::compile,
    layout::ACTIVE,
    model::{Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term, Value},
    parameter::{Action, PARAMETERS, Phase, slot_by_name},
};

fn layer(name: &str, set: Parameters) -> Layer {
    let matches =
        Match { remote_prefixes: vec!["127.0.0.2".parse().unwrap(), "::1".parse().unwrap()], ..Match::default() };
    let passive = Match { local_prefixes: matches.remote_prefixes.clone(), ..Match::default() };
    let rules =
        vec![Rule::new("to".parse().unwrap(), matches, set.clone()), Rule::new("at".parse().unwrap(), passive, set)];
    Layer {
        name: name.parse().unwrap(),
        revision: 1,
        priority: 1,
        term: Term::Always,
        ends_s: None,
        rollout: None,
        body: LayerBody::Policy(rules),
    }
}

fn connect(address: &str) -> [TcpStream; 2] {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let to: SocketAddr = listener.local_addr().unwrap();
    [TcpStream::connect(to).unwrap(), listener.accept().unwrap().0]
}

/// Whether a parameter is set at the accepting end too.
fn acts_passive(name: &str) -> bool {
    let Action::Option { phases, .. } = PARAMETERS[slot_by_name(name).unwrap()].action else {
        unreachable!("an option")
    };
    phases & Phase::PassiveEstablished as u8 != 0
}

#[test]
fn every_option_arrives() {
    let Some(world) = World::new("options") else { return };
    let _home = Home::here();
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    enter(&world.options.cgroup);

    let set = |set: Parameters, name: &str, value| set.with(slot_by_name(name).unwrap(), Value::Number(value));
    let all = CASES.iter().fold(Parameters::default(), |all, case| set(all, case.name, case.value));
    let all = set(all, "dscp", 46);
    let compiled = compile(
        &Snapshot { layers: vec![layer("policies/all", all)], zones: vec![] },
        &facts(),
        1,
        kernel.next_install().unwrap(),
    )
    .unwrap();
    kernel.install(&compiled.tables).unwrap();

    let untouched = connect("127.0.0.1");
    for address in ["127.0.0.2", "::1"] {
        let ends = connect(address);
        for (end, stream) in ends.iter().enumerate() {
            for case in CASES.iter().filter(|case| end == 0 || acts_passive(case.name)) {
                let found = read(stream, case.level, case.option);
                assert_eq!(found, case.expected, "{} at end {end} of {address}", case.name);
                let default = read(&untouched[end], case.level, case.option);
                assert_ne!(default, case.expected, "{} where no rule matches", case.name);
            }
            let (level, option) = if address == "::1" {
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
            } else {
                (libc::IPPROTO_IP, libc::IP_TOS)
            };
            assert_eq!(read(stream, level, option), 46 << 2, "dscp at end {end} of {address}");
        }
        drop(ends);
        for record in records(&mut kernel, 2) {
            assert_eq!(record.refused, 0, "nothing was refused, direction {}", record.flow.direction == ACTIVE);
        }
    }
    drop(untouched);
    records(&mut kernel, 0);
}

/// A parameter that is in the table but in no test would be a promise without proof.
#[test]
fn every_option_of_the_table_is_tested() {
    let elsewhere = ["initial_cwnd_packets", "cwnd_clamp_packets", "congestion_control", "dscp"];
    for parameter in PARAMETERS.iter().filter(|parameter| matches!(parameter.action, Action::Option { .. })) {
        let here = CASES.iter().any(|case| case.name == parameter.name);
        assert!(here || elsewhere.contains(&parameter.name), "{} is not tested", parameter.name);
    }
}

/// What the SYN came with comes back. Listeners from before the policy have not kept it.
#[test]
fn traffic_class_is_reflected() {
    let Some(world) = World::new("reflects") else { return };
    let _home = Home::here();
    let (mut kernel, _) = Kernel::open(&world.options).unwrap();
    enter(&world.options.cgroup);
    let reflect = Parameters::default().with(slot_by_name("reflect_traffic_class").unwrap(), Value::Number(1));
    let snapshot = Snapshot { layers: vec![layer("policies/reflect", reflect)], zones: vec![] };
    let compiled = compile(&snapshot, &facts(), 1, kernel.next_install().unwrap()).unwrap();
    kernel.install(&compiled.tables).unwrap();
    for (address, reflected) in [("127.0.0.2", 0xb8), ("::1", 0xb8), ("127.0.0.1", 0)] {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let to: SocketAddr = listener.local_addr().unwrap();
        let client = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        let (level, option) =
            if to.is_ipv6() { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) } else { (libc::IPPROTO_IP, libc::IP_TOS) };
        if to.is_ipv6() {
            client.set_tclass_v6(0xb8).unwrap()
        } else {
            client.set_tos_v4(0xb8).unwrap()
        }
        client.connect(&to.into()).unwrap();
        let accepted = listener.accept().unwrap().0;
        assert_eq!(read(&accepted, level, option), reflected, "{address}");
    }
    assert_eq!(kernel.refusals().unwrap(), []);
}
