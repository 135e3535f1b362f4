//! Documents from the wire: sound ones arrive whole, unsound ones with every fault at its path.

use proptest::prelude::*;
use sockpilot_policy::{
    fault::Faults,
    model::{ApplyTo, LayerBody, Term, Value},
    parameter::{Kind, PARAMETERS, slot_by_name},
};
use sockpilot_proto::{
    convert::{experiment_from_proto, parameters_to_proto, policy_from_proto, snapshot_from_proto},
    v1,
};

fn rule(name: &str, condition: v1::Match, set: v1::Parameters) -> v1::Rule {
    v1::Rule { name: name.to_owned(), r#match: Some(condition), set: Some(set), ..v1::Rule::default() }
}

fn policy(rules: Vec<v1::Rule>) -> v1::Policy {
    v1::Policy { rules, ..v1::Policy::default() }
}

fn one(condition: v1::Match, set: v1::Parameters) -> v1::Policy {
    policy(vec![rule("r", condition, set)])
}

fn arm(name: &str, weight_bp: u32, first_bucket: Option<u32>) -> v1::Arm {
    v1::Arm { name: name.to_owned(), weight_bp, first_bucket, set: None, withholds: false }
}

fn experiment(arms: Vec<v1::Arm>) -> v1::Experiment {
    v1::Experiment { name: "experiments/e".to_owned(), arms, ..v1::Experiment::default() }
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, Faults>, expected: &[(&str, &str)]) {
    let faults = result.expect_err("must be refused");
    let found: Vec<_> =
        faults.as_slice().iter().map(|fault| (fault.field.as_str(), fault.description.as_str())).collect();
    for (field, part) in expected {
        assert!(found.iter().any(|(f, d)| f == field && d.contains(part)), "{field}: {part} is not in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn all_faults_at_once_with_their_paths() {
    let condition = v1::Match {
        remote_prefixes: texts(&["10.0.0.0/8", "10.0.0.1/8", "nonsense"]),
        local_ports: texts(&["0", "90-80", "443"]),
        services: texts(&["web", "/a//b"]),
        direction: 9,
        ..v1::Match::default()
    };
    let set = v1::Parameters { syn_rto_ms: Some(0), ecn: Some(false), ..v1::Parameters::default() };
    let mut document =
        policy(vec![rule("Bad Name", condition, set), rule("r", v1::Match::default(), v1::Parameters::default())]);
    document.priority = 2_000_000;
    check(
        policy_from_proto(&document, "policy"),
        &[
            ("policy.rules[0].name", "is no id"),
            ("policy.rules[0].match.direction", "unknown"),
            ("policy.rules[0].match.remote_prefixes[1]", "write 10.0.0.0/8"),
            ("policy.rules[0].match.remote_prefixes[2]", "is no prefix"),
            ("policy.rules[0].match.local_ports[0]", "between 1 and 65535"),
            ("policy.rules[0].match.local_ports[1]", "runs backwards"),
            ("policy.rules[0].match.services[0]", "is no cgroup path"),
            ("policy.rules[0].match.services[1]", "is no cgroup path"),
            ("policy.priority", "at most 1000000"),
            ("policy.rules[0].set.syn_rto_ms", "1 to 120000 milliseconds"),
            ("policy.rules[0].set.ecn", "only be turned on"),
        ],
    );
}

#[test]
fn contradictory_matches() {
    let set = v1::Parameters::default();
    let case = |condition: v1::Match, field: &str, part: &str| {
        check(policy_from_proto(&one(condition, set.clone()), ""), &[(field, part)]);
    };
    let (v4, v6) = (v1::Family::Ipv4 as i32, v1::Family::Ipv6 as i32);
    let m = v1::Match::default;
    case(v1::Match { same_prefix: Some(129), ..m() }, "rules[0].match.same_prefix", "1 to 128");
    case(v1::Match { not_same_prefix: Some(0), ..m() }, "rules[0].match.not_same_prefix", "1 to 128");
    case(v1::Match { same_prefix: Some(44), family: v4, ..m() }, "rules[0].match.same_prefix", "no IPv4 address");
    case(
        v1::Match { same_prefix: Some(44), not_same_prefix: Some(44), ..m() },
        "rules[0].match.not_same_prefix",
        "contradicts",
    );
    case(
        v1::Match { family: v6, local_prefixes: texts(&["10.0.0.0/8"]), ..m() },
        "rules[0].match.local_prefixes[0]",
        "not of the family",
    );
    let apart = v1::Match { local_prefixes: texts(&["10.0.0.0/8"]), remote_prefixes: texts(&["2001:db8::/32"]), ..m() };
    case(apart, "rules[0].match.remote_prefixes", "share no address family");
    let nets = v1::Match { local_prefixes: texts(&["10.1.0.0/16"]), remote_prefixes: texts(&["10.2.0.0/16"]), ..m() };
    case(v1::Match { same_prefix: Some(16), ..nets.clone() }, "rules[0].match.same_prefix", "can agree");
    case(v1::Match { not_same_prefix: Some(8), ..nets.clone() }, "rules[0].match.not_same_prefix", "agree in 8 bits");
    let sound = v1::Match { same_prefix: Some(14), not_same_prefix: Some(16), ..nets };
    policy_from_proto(&one(sound, set.clone()), "").unwrap();
}

#[test]
fn parameters_that_never_act() {
    let set = v1::Parameters { synack_rto_ms: Some(100), ..v1::Parameters::default() };
    let condition = v1::Match { direction: v1::Direction::Active as i32, ..v1::Match::default() };
    check(policy_from_proto(&one(condition, set.clone()), ""), &[("rules[0].set.synack_rto_ms", "passive")]);
    policy_from_proto(&one(v1::Match::default(), set), "").unwrap();
}

#[test]
fn rules_for_open_connections_set_what_can_be_put_back() {
    let mut policy = one(
        v1::Match { min_handshake_rtt_us: Some(1_000), ..v1::Match::default() },
        v1::Parameters { initial_cwnd_packets: Some(40), ..v1::Parameters::default() },
    );
    policy.rules[0].apply_to = v1::ApplyTo::NewAndEstablished.into();
    let faults = [("rules[0].apply_to", "handshake"), ("rules[0].set.initial_cwnd_packets", "policy of its own")];
    check(policy_from_proto(&policy, ""), &faults);
    policy.rules[0].r#match = None;
    policy.rules[0].set = Some(v1::Parameters { nodelay: Some(true), ..v1::Parameters::default() });
    assert_eq!(policy_from_proto(&policy, "").unwrap().rules[0].apply_to, ApplyTo::NewAndEstablished);
    policy.rules[0].apply_to = 7;
    check(policy_from_proto(&policy, ""), &[("rules[0].apply_to", "write NEW or NEW_AND_ESTABLISHED")]);
}

#[test]
fn rules_are_named_and_bounded() {
    check(policy_from_proto(&policy(vec![]), ""), &[("rules", "1 to 1000")]);
    let same = || rule("same", v1::Match::default(), v1::Parameters::default());
    check(policy_from_proto(&policy(vec![same(), same()]), ""), &[("rules[1].name", "twice")]);
    let many = (0..1001).map(|at| rule(&format!("r{at}"), v1::Match::default(), v1::Parameters::default()));
    check(policy_from_proto(&policy(many.collect()), ""), &[("rules", "has 1001")]);
    let mut document = policy(vec![same()]);
    document.description = "x".repeat(1001);
    document.node_labels.insert("two words".to_owned(), "x".repeat(64));
    let at = "node_labels";
    check(policy_from_proto(&document, ""), &[("description", "1000"), (at, "without spaces"), (at, "at most 63")]);
}

#[test]
fn arms_own_every_bucket_at_most_once() {
    let case =
        |arms: Vec<v1::Arm>, expected: &[(&str, &str)]| check(experiment_from_proto(&experiment(arms), ""), expected);
    case(vec![arm("a", 9000, None), arm("b", 1500, None)], &[("arms", "have 10500 basis points")]);
    case(vec![arm("a", 9000, None), arm("b", 0, None)], &[("arms[1].weight_bp", "is 0")]);
    case(vec![arm("a", 10_000, None)], &[("arms", "2 to 8")]);
    case(vec![arm("a", 5000, None), arm("a", 5000, None)], &[("arms[1].name", "twice")]);
    case(vec![arm("a", 5000, Some(0)), arm("b", 5000, Some(4000))], &[("arms[1].first_bucket", "overlaps")]);
    case(vec![arm("a", 5000, Some(0)), arm("b", 5000, Some(5001))], &[("arms[1].first_bucket", "ends after")]);
    case(vec![arm("a", 5000, Some(0)), arm("b", 5000, None)], &[("arms[1].first_bucket", "is missing")]);
    let nine = (0..9).map(|at| arm(&format!("a{at}"), if at == 0 { 2000 } else { 1000 }, None)).collect();
    case(nine, &[("arms", "has 9 arms")]);
    let placed =
        experiment_from_proto(&experiment(vec![arm("b", 1000, Some(9000)), arm("a", 9000, Some(0))]), "").unwrap();
    assert_eq!(placed.design.comparison.arms.iter().map(|arm| arm.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(placed.design.comparison.salt, "e", "the id stands in for an empty salt");
    let owned = |arms: Vec<v1::Arm>| {
        let read = experiment_from_proto(&experiment(arms), "").unwrap();
        read.design.comparison.arms.iter().map(|arm| (arm.first_bucket, arm.weight_bp)).collect::<Vec<_>>()
    };
    assert_eq!(owned(vec![arm("a", 100, None), arm("b", 100, None)]), [(0, 100), (100, 100)], "the rest is nobody's");
    assert_eq!(owned(vec![arm("b", 100, Some(9900)), arm("a", 100, Some(50))]), [(50, 100), (9900, 100)]);
}

#[test]
fn a_layer_must_be_what_its_name_says() {
    let body =
        v1::layer::Body::Policy(v1::PolicyLayer { rules: one(v1::Match::default(), v1::Parameters::default()).rules });
    let layer = |name: &str, body| v1::Layer {
        name: name.to_owned(),
        revision: 1,
        priority: 0,
        lease_ms: 0,
        standby: false,
        ends_s: 0,
        rollout: None,
        body,
    };
    let of = |layer| v1::Layers { layers: vec![layer], zones: vec![] };
    check(snapshot_from_proto(&of(layer("experiments/e", Some(body.clone())))), &[("layers[0]", "not announce")]);
    check(snapshot_from_proto(&of(layer("policies/p", None))), &[("layers[0]", "upgrade the node daemon")]);
    check(snapshot_from_proto(&of(layer("nodes/n", Some(body.clone())))), &[("layers[0].name", "is no name")]);
    let sound = snapshot_from_proto(&of(layer("policies/p", Some(body)))).unwrap();
    assert!(matches!(&sound.layers[0].body, LayerBody::Policy(rules) if rules.len() == 1));
    assert_eq!(sound.layers[0].term, Term::Always);
}

proptest! {
    /// What is in the table goes over the wire and comes back.
    #[test]
    fn parameters_survive(values in proptest::collection::vec(proptest::option::of(0_u32..1000), PARAMETERS.len())) {
        let mut set = sockpilot_policy::model::Parameters::default();
        for ((slot, parameter), value) in PARAMETERS.iter().enumerate().zip(&values) {
            let Some(value) = value else { continue };
            let value = match parameter.kind {
                Kind::Number { min, max, .. } => Value::Number((min + value).min(max)),
                Kind::On => Value::Number(1),
                Kind::Switch => Value::Number(value % 2),
                Kind::Name => Value::Name(format!("cc{value}")),
            };
            set = set.with(slot, value);
        }
        let document = one(v1::Match::default(), parameters_to_proto(&set));
        prop_assert_eq!(&policy_from_proto(&document, "").unwrap().rules[0].set, &set);
    }

    /// No text breaks the reader.
    #[test]
    fn any_text_is_answered(text in ".{0,60}", number: i32, weight: u32, first: Option<u32>) {
        let condition = v1::Match {
            direction: number,
            family: number,
            local_prefixes: vec![text.clone()],
            remote_prefixes: vec![text.clone()],
            same_prefix: Some(weight),
            not_same_prefix: first,
            local_ports: vec![text.clone()],
            remote_ports: vec![text.clone()],
            services: vec![text.clone()],
            local_zones: vec![text.clone()],
            remote_zones: vec![text.clone()],
            zone_relation: number,
            min_handshake_rtt_us: first,
            max_handshake_rtt_us: Some(weight),
        };
        let set = v1::Parameters { syn_rto_ms: Some(weight), congestion_control: Some(text.clone()), ..v1::Parameters::default() };
        let _ = policy_from_proto(&policy(vec![rule(&text, condition, set)]), &text);
        let _ = experiment_from_proto(&experiment(vec![arm(&text, weight, first), arm("b", u32::MAX, first)]), "");
    }
}

#[test]
fn slots_are_found_by_field_name() {
    assert_eq!(slot_by_name("syn_rto_ms"), Some(0));
    assert_eq!(slot_by_name("syn_rto"), None);
}

fn measure(quantity: &str) -> v1::Measure {
    v1::Measure { quantity: quantity.to_owned(), ..v1::Measure::default() }
}

fn two() -> v1::Experiment {
    experiment(vec![arm("a", 5_000, Some(0)), arm("b", 5_000, Some(5_000))])
}

/// What is randomised: each fault at its field, with what would be right.
#[test]
fn faults_of_units_are_at_their_fields() {
    let read = |document: &v1::Experiment| experiment_from_proto(document, "");
    let slots = |slot_s, washout_s| v1::Experiment {
        unit: v1::Unit::TimeSlot.into(),
        time_slot: Some(v1::TimeSlot { slot_s, washout_s }),
        horizon_s: 60,
        ..two()
    };
    assert!(read(&slots(600, 60)).is_ok());
    check(read(&slots(120, 60)), &[("time_slot.slot_s", "write 121 to 86400")]);
    check(read(&slots(86_401, 60)), &[("time_slot.slot_s", "write 121 to 86400")]);
    check(read(&slots(600, 0)), &[("time_slot.washout_s", "at least 1 second")]);
    let uneven = vec![arm("a", 4_000, Some(0)), arm("b", 5_000, Some(5_000))];
    check(read(&v1::Experiment { arms: uneven, ..slots(600, 60) }), &[("arms", "two of 5000 basis points")]);
    let missing = v1::Experiment { time_slot: None, ..slots(600, 60) };
    check(read(&missing), &[("time_slot.slot_s", "is 0"), ("time_slot.washout_s", "is 0")]);

    let peers = |ipv4_length, ipv6_length| v1::Experiment {
        unit: v1::Unit::PeerPrefix.into(),
        peer_prefix: Some(v1::PeerPrefix { ipv4_length, ipv6_length }),
        ..two()
    };
    assert!(read(&peers(0, 0)).is_ok(), "what is left out has a default");
    check(
        read(&peers(33, 129)),
        &[("peer_prefix.ipv4_length", "write 1 to 32"), ("peer_prefix.ipv6_length", "write 1 to 128")],
    );
    check(read(&peers(300, 48)), &[("peer_prefix.ipv4_length", "write 1 to 32")]);

    let pairs = |low_bp, high_bp| v1::Experiment {
        unit: v1::Unit::SaturationPair.into(),
        saturation_pair: Some(v1::SaturationPair { low_bp, high_bp }),
        ..two()
    };
    assert!(read(&pairs(0, 0)).is_ok());
    check(read(&pairs(9_500, 500)), &[("saturation_pair.low_bp", "0 < low_bp < high_bp < 10000")]);
    check(read(&pairs(500, 10_000)), &[("saturation_pair.low_bp", "0 < low_bp < high_bp < 10000")]);
    let three = vec![arm("a", 1, Some(0)), arm("b", 1, Some(1)), arm("c", 1, Some(2))];
    check(read(&v1::Experiment { arms: three, ..pairs(0, 0) }), &[("arms", "must be two")]);

    // What belongs to another unit is not left aside silently.
    let other = v1::Experiment { unit: v1::Unit::Node.into(), ..slots(600, 60) };
    check(read(&other), &[("time_slot", "is for UNIT_TIME_SLOT only")]);
    check(read(&v1::Experiment { unit: 99, ..two() }), &[("unit", "UNIT_FLOW")]);
    check(read(&v1::Experiment { horizon_s: 601, ..two() }), &[("horizon_s", "write 1 to 600")]);
}

#[test]
fn faults_of_measures_are_at_their_fields() {
    let read = |measures: Vec<v1::Measure>| experiment_from_proto(&v1::Experiment { measures, ..two() }, "");
    let role = |role: v1::MeasureRole, margin_bp| v1::Measure { role: role.into(), margin_bp, ..measure("connected") };
    assert!(read(vec![role(v1::MeasureRole::Guardrail, 0)]).is_ok(), "a margin has a default");
    check(read(vec![measure("speed")]), &[("measures[0].quantity", "delivery_rate_bps")]);
    check(read(vec![role(v1::MeasureRole::Guardrail, 10_001)]), &[("measures[0].margin_bp", "write 1 to 10000")]);
    check(read(vec![measure("connected"), measure("connected")]), &[("measures[1]", "is connected again")]);
    for bound in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        for transform in [v1::measure::Transform::Cap(bound), v1::measure::Transform::AtMost(bound)] {
            let bounded = v1::Measure { transform: Some(transform), ..measure("srtt_us") };
            check(read(vec![bounded]), &[("measures[0].transform", "greater than 0")]);
        }
    }
    let per = |quantity, per: &str, transform| {
        read(vec![v1::Measure { per: per.to_owned(), transform, ..measure(quantity) }])
    };
    assert!(per("retransmits", "segments_out", None).is_ok());
    check(per("retransmits", "retransmits", None), &[("measures[0].per", "cannot be retransmits")]);
    check(per("retransmits", "srtt_us", None), &[("measures[0].per", "cannot be srtt_us")]);
    let log = Some(v1::measure::Transform::Log(true));
    check(per("retransmits", "segments_out", log), &[("measures[0].per", "beside a transform")]);
    let capped = |cap| v1::Measure { transform: Some(v1::measure::Transform::Cap(cap)), ..measure("srtt_us") };
    let many = (1..=11).map(|at| capped(f64::from(at))).collect();
    check(read(many), &[("measures", "has 11 entries; write at most 10")]);
}

#[test]
fn faults_of_holdbacks_are_at_their_fields() {
    let read = |withholds: &str, which: [bool; 2], set| {
        let mut document = v1::Experiment { withholds: withholds.to_owned(), ..two() };
        for (arm, withholds) in document.arms.iter_mut().zip(which) {
            arm.withholds = withholds;
            arm.set = Some(v1::Parameters { syn_rto_ms: set, ..v1::Parameters::default() });
        }
        experiment_from_proto(&document, "")
    };
    assert!(read("policies/p", [true, false], None).is_ok());
    check(read("", [true, false], None), &[("withholds", "is missing")]);
    check(read("policies/p", [false, false], None), &[("withholds", "arms that do not")]);
    check(read("policies/p", [true, true], None), &[("withholds", "arms that do not")]);
    check(read("experiments/p", [true, false], None), &[("withholds", "only a policy")]);
    check(read("policies/p", [true, false], Some(200)), &[("arms[0].set", "is not empty")]);
}
