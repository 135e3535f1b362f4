//! What is said of values beside what the kernel makes of them: settings of the network namespace, and what comes too late.

use sockpilot_policy::{
    effective::{Effect, Place, effect, too_late},
    facts::{KernelFacts, sysctls_to_read},
    model::{Direction, Parameters, Value},
    parameter::{PARAMETERS, Times, slot_by_name, sysctl::Part},
};

fn facts(sysctls: &[(&str, u32)]) -> KernelFacts {
    KernelFacts {
        release: "6.18".to_owned(),
        hz: 250,
        congestion_controls: vec!["cubic".to_owned()],
        wmem_max: 212_992,
        rmem_max: 4_194_304,
        sysctls: sysctls.iter().map(|(name, value)| (format!("net.ipv4.{name}"), *value)).collect(),
    }
}

const USUAL: [(&str, u32); 7] = [
    ("tcp_syn_linear_timeouts", 4),
    ("tcp_syn_retries", 6),
    ("tcp_synack_retries", 5),
    ("tcp_rto_max_ms", 120_000),
    ("tcp_retries2", 15),
    ("tcp_keepalive_intvl", 75),
    ("tcp_keepalive_probes", 9),
];

fn of(name: &str, set: &[(&str, u32)], facts: &KernelFacts) -> Effect {
    let set = set
        .iter()
        .fold(Parameters::default(), |set, (name, value)| set.with(slot_by_name(name).unwrap(), Value::Number(*value)));
    let slot = slot_by_name(name).unwrap();
    let place = Place { set: &set, direction: None };
    effect(&PARAMETERS[slot], set.get(slot).unwrap(), &place, facts, |_| None).unwrap()
}

#[test]
fn the_number_of_syns_is_what_the_namespace_makes_of_it() {
    let set = [("syn_rto_ms", 100), ("syn_retries", 6)];
    let told = of("syn_retries", &set, &facts(&USUAL));
    assert_eq!(told.effective, "10");
    assert!(told.note.starts_with("net.ipv4.tcp_syn_linear_timeouts 4 come before"), "{}", told.note);
    let schedule = "an unanswered SYN is sent again 10 times, after 100, 200, 300, 400, 500, 700, 1100, 1900, 3500, 6700 ms, and \
                    given up after 13.100 s; with net.ipv4.tcp_syn_linear_timeouts 4, net.ipv4.tcp_syn_retries 6, \
                    net.ipv4.tcp_rto_max_ms 120000 in the daemon's network namespace (a connection's own counts)";
    assert_eq!(told.caveats, [schedule]);
    assert_eq!(of("syn_rto_ms", &set, &facts(&USUAL)).caveats, [schedule], "the same wherever it is asked");
    // Before Linux 6.5 there is no such setting.
    let told = of("syn_retries", &set, &facts(&[("tcp_syn_retries", 6)]));
    assert_eq!((told.effective.as_str(), told.note.as_str()), ("6", ""));
    assert!(told.caveats[0].contains("sent again 6 times, after 100, 300, 700, 1500, 3100, 6300 ms"), "{told:?}");
    assert_eq!(of("syn_retries", &set, &facts(&[])).caveats, Vec::<String>::new(), "the node does not say");
}

#[test]
fn a_user_timeout_ends_an_unanswered_connect() {
    let told = of("user_timeout_ms", &[("user_timeout_ms", 1_500)], &facts(&USUAL));
    assert!(told.caveats[0].contains("sent again once, after 1000 ms, and given up after 1.500 s"), "{told:?}");
    let told = of("syn_retries", &[("user_timeout_ms", 1_500), ("syn_retries", 3)], &facts(&USUAL));
    assert_eq!(told.effective, "1");
}

#[test]
fn settings_that_win_over_a_value() {
    let mut bounded = facts(&USUAL);
    bounded.sysctls.insert("net.ipv4.tcp_rto_max_ms".to_owned(), 1_000);
    let told = of("syn_rto_ms", &[("syn_rto_ms", 3_000)], &bounded);
    assert_eq!(told.effective, "1000");
    assert!(told.note.starts_with("cut to max_rto_ms or net.ipv4.tcp_rto_max_ms, 1000 here"), "{told:?}");
    assert_eq!(of("syn_rto_ms", &[("syn_rto_ms", 3_000), ("max_rto_ms", 2_000)], &bounded).effective, "2000");
    assert_eq!(of("synack_rto_ms", &[("synack_rto_ms", 3_000)], &bounded).effective, "3000");
    let thin = facts(&[("tcp_thin_linear_timeouts", 1)]);
    assert_eq!(of("thin_linear_timeouts", &[("thin_linear_timeouts", 0)], &thin).effective, "1");
    assert_eq!(of("thin_linear_timeouts", &[("thin_linear_timeouts", 0)], &facts(&[])).effective, "0");
    let told = of("max_rto_ms", &[("max_rto_ms", 1_000)], &facts(&USUAL));
    assert!(
        told.caveats[0].starts_with("unacknowledged data is given up at the first timeout 14.400 s after"),
        "{told:?}"
    );
    let told = of("keepalive_idle_s", &[("keepalive_idle_s", 60)], &facts(&USUAL));
    assert!(told.caveats[0].contains("given up 735 s after the last packet came"), "{told:?}");
}

/// What is said follows from the value of the setting, and from nothing else.
#[test]
fn settings_are_told_while_they_act() {
    let told = |value| {
        of("initial_cwnd_packets", &[("initial_cwnd_packets", 40)], &facts(&[("tcp_slow_start_after_idle", value)]))
    };
    assert!(
        told(1).caveats[0].starts_with("net.ipv4.tcp_slow_start_after_idle is 1 in the daemon's network namespace")
    );
    assert_eq!(told(0).caveats, Vec::<String>::new());
}

#[test]
fn what_comes_too_late_is_told_for_the_ends_that_it_is_about() {
    let mark = &PARAMETERS[slot_by_name("mark").unwrap()];
    let of = |direction| too_late(mark, direction).collect::<Vec<_>>();
    assert!(of(Some(Direction::Active))[0].contains("do not choose the source address"));
    assert!(of(Some(Direction::Passive))[0].contains("SYN-ACK"));
    assert_eq!((of(None).len(), of(Some(Direction::Active)).len(), of(Some(Direction::Passive)).len()), (2, 1, 1));
}

/// Times that are told name settings of their own entry, which the daemon therefore reads.
#[test]
fn every_setting_that_is_computed_from_is_read() {
    let read: Vec<_> = sysctls_to_read().collect();
    assert!(read.len() < 64, "more than a hello may name");
    for parameter in PARAMETERS {
        let computed = parameter.sysctls.iter().filter(|sysctl| sysctl.part == Part::Computed);
        let names: Vec<_> = computed.map(|sysctl| sysctl.name).collect();
        let needed = parameter.times.iter().flat_map(|times| match times {
            Times::Syn => ["net.ipv4.tcp_syn_retries", "net.ipv4.tcp_syn_linear_timeouts"].as_slice(),
            Times::SynAck => &["net.ipv4.tcp_synack_retries"],
            Times::Unacknowledged => &["net.ipv4.tcp_retries2"],
            Times::Idle => &["net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_keepalive_intvl"],
        });
        for name in needed {
            assert!(names.contains(name) && read.contains(name), "{}: {name}", parameter.name);
        }
    }
}
