//! Values that are tried on a socket of the daemon's own come back as this kernel makes them, and are refused as it refuses them.

mod common;

use std::{collections::BTreeSet, time::Instant};

use common::World;
use sockpilot_node::{
    kernel::{Family, Kernel, TrialSocket},
    snapshot::trials::Trials,
};
use sockpilot_policy::{
    compile::{Compiled, Violation, compile_tried},
    facts::{KernelFacts, computed},
    model::{IfUnsupported, Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term, Value},
    parameter::{Action, Kind, PARAMETERS, slot_by_name},
    readings::{Encoded, Errno, Reading},
};

const EINVAL: i32 = 22;
const ENOENT: i32 = 2;

fn socket(world: &World) -> TrialSocket {
    // Trials are beside a kernel side, as the daemon's are.
    let _ = Kernel::open(&world.options).unwrap();
    TrialSocket::open(&world.options).unwrap().expect("this kernel's structures are known")
}

fn slot(name: &str) -> usize {
    slot_by_name(name).unwrap()
}

fn number(value: u32) -> Encoded {
    Encoded::Number(value)
}

fn one(socket: &TrialSocket, name: &str, value: Encoded) -> Reading {
    let mut readings = socket.try_values(Family::Ipv4, slot(name), &[value]).unwrap();
    readings.pop().flatten().expect("the kernel gives it back")
}

#[test]
fn every_option_is_given_back() {
    let Some(world) = World::new("trials") else { return };
    let (socket, facts) = (socket(&world), sockpilot_node::facts::read().unwrap());
    for (slot, parameter) in PARAMETERS.iter().enumerate() {
        let Action::Option { ipv6, .. } = parameter.action else { continue };
        let values = match parameter.kind {
            Kind::Number { min, max, .. } => vec![min, max, min / 2 + max / 2],
            Kind::On | Kind::Switch => vec![1, 0],
            Kind::Name => vec![],
        };
        let encoded = values.into_iter().filter_map(|value| {
            let value = Value::Number(value);
            sockpilot_policy::facts::encode(parameter, &value, &facts).ok()
        });
        let mut encoded: Vec<_> = encoded.collect();
        if parameter.kind == Kind::Name {
            encoded.extend(facts.congestion_controls.iter().cloned().map(Encoded::Name));
        }
        assert!(!encoded.is_empty(), "{}", parameter.name);
        let families = if ipv6.is_some() { &[Family::Ipv4, Family::Ipv6][..] } else { &[Family::Ipv4] };
        for family in families {
            let readings = socket.try_values(*family, slot, &encoded).unwrap();
            for (value, reading) in encoded.iter().zip(readings) {
                let Some(Reading::Read(read)) = &reading else {
                    panic!("{} {value:?} {family:?}: {reading:?}", parameter.name)
                };
                // What these two are cut to is nowhere written.
                if !matches!(parameter.name, "receive_low_water_bytes" | "window_clamp_bytes") {
                    assert_eq!(*read, computed(parameter, value, &facts), "{} {value:?} {family:?}", parameter.name);
                }
            }
        }
    }
}

#[test]
fn what_the_kernel_cuts_and_refuses() {
    let Some(world) = World::new("cuts") else { return };
    let (socket, facts) = (socket(&world), sockpilot_node::facts::read().unwrap());
    let above = number(facts.wmem_max + 4_096);
    assert_eq!(one(&socket, "send_buffer_bytes", above), Reading::Read(number(facts.wmem_max * 2)));
    let above = number(facts.rmem_max + 4_096);
    assert_eq!(one(&socket, "receive_buffer_bytes", above), Reading::Read(number(facts.rmem_max * 2)));
    // A moment longer than one tick is two.
    let two = number(2_000_000 / facts.hz);
    let longer = number(1_000_000 / facts.hz + 1);
    assert_eq!(one(&socket, "min_rto_ms", longer.clone()), Reading::Read(two.clone()));
    assert_eq!(one(&socket, "max_delayed_ack_ms", longer), Reading::Read(two));
    assert_eq!(one(&socket, "window_clamp_bytes", number(1)).clone(), one(&socket, "window_clamp_bytes", number(2)));

    let invalid = Reading::Refused(Errno(EINVAL));
    let one_tick = number(1_000_000 / facts.hz);
    for (name, value) in [
        ("min_rto_ms", one_tick.clone()),
        ("max_delayed_ack_ms", one_tick),
        ("min_rto_ms", number(201_000)),
        ("mss_bytes", number(32_768)),
        ("mss_bytes", number(87)),
        ("max_rto_ms", number(999)),
        ("initial_cwnd_packets", number(0)),
        ("cwnd_clamp_packets", number(0)),
        ("keepalive_idle_s", number(32_768)),
        ("syn_retries", number(128)),
    ] {
        assert_eq!(one(&socket, name, value.clone()), invalid, "{name} {value:?}");
    }
    let unknown = Encoded::Name("nowhere".to_owned());
    assert_eq!(one(&socket, "congestion_control", unknown), Reading::Refused(Errno(ENOENT)));
}

fn snapshot(sets: impl IntoIterator<Item = Parameters>, if_unsupported: IfUnsupported) -> Snapshot {
    let rules = sets.into_iter().enumerate().map(|(index, set)| Rule {
        if_unsupported,
        ..Rule::new(format!("r{index}").parse().unwrap(), Match::default(), set)
    });
    let body = LayerBody::Policy(rules.collect());
    let name = "policies/p".parse().unwrap();
    Snapshot {
        layers: vec![Layer { name, revision: 1, priority: 1, term: Term::Always, ends_s: None, rollout: None, body }],
        zones: vec![],
    }
}

fn tried(socket: TrialSocket, snapshot: &Snapshot, facts: &KernelFacts) -> Result<Compiled, Vec<Violation>> {
    let readings = Trials::new(socket).readings(snapshot, facts);
    compile_tried(snapshot, facts, &readings, 1, 1)
}

/// What a node would say whose facts claim too much, or have changed since they were read.
#[test]
fn readings_win_over_facts() {
    let Some(world) = World::new("readings") else { return };
    let mut facts = sockpilot_node::facts::read().unwrap();
    let real = facts.wmem_max;
    facts.wmem_max = u32::MAX / 4;
    facts.congestion_controls.push("nowhere".to_owned());
    let asked = real + 4_096;
    let set = |name, value| Parameters::default().with(slot(name), value);
    let buffer = set("send_buffer_bytes", Value::Number(asked));
    let compiled = tried(socket(&world), &snapshot([buffer], IfUnsupported::Reject), &facts).unwrap();
    let [effective] = compiled.effective.as_slice() else { panic!("{:?}", compiled.effective) };
    assert_eq!((&effective.requested, &effective.effective), (&asked.to_string(), &(real * 2).to_string()));
    assert!(effective.note.ends_with("read back from a socket"), "{effective:?}");

    let nowhere = || [set("congestion_control", Value::Name("nowhere".to_owned()))];
    let refusals = tried(socket(&world), &snapshot(nowhere(), IfUnsupported::Reject), &facts).unwrap_err();
    assert_eq!(refusals[0].fault.field, "rules[0].set.congestion_control");
    assert!(refusals[0].fault.description.contains("ENOENT"), "{refusals:?}");
    let compiled = tried(socket(&world), &snapshot(nowhere(), IfUnsupported::Skip), &facts).unwrap();
    assert_eq!((compiled.tables.choices[1].parameters, &*compiled.effective[0].effective), (0, "skipped"));
}

/// Every value is another one: the worst that an apply can meet.
#[test]
fn a_thousand_values_take_little_time() {
    let Some(world) = World::new("thousand") else { return };
    let facts = sockpilot_node::facts::read().unwrap();
    let names: Vec<_> = PARAMETERS
        .iter()
        .filter(|parameter| matches!(parameter.action, Action::Option { .. }))
        .filter(|parameter| matches!(parameter.kind, Kind::Number { max, .. } if max >= 32_767))
        .map(|parameter| parameter.name)
        .collect();
    let sets = (0..1_000_u32).map(|index| {
        let name = names[index as usize % names.len()];
        Parameters::default().with(slot(name), Value::Number(4_096 + index))
    });
    let snapshot = snapshot(sets, IfUnsupported::Reject);
    let wanted: BTreeSet<_> = sockpilot_policy::facts::values_to_try(&snapshot, &facts);
    assert_eq!(wanted.len(), 1_000);
    let mut trials = Trials::new(socket(&world));
    let mut times = vec![];
    for _ in 0..2 {
        let began = Instant::now();
        let readings = trials.readings(&snapshot, &facts);
        times.push(began.elapsed());
        assert!(wanted.iter().all(|(slot, value)| readings.get(*slot, value).is_some()));
    }
    println!("1,000 values of {} parameters: {:?}, remembered {:?}", names.len(), times[0], times[1]);
}
