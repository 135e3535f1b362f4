//! What rules mean, what a node makes of values, and what it cannot hold.

use sockpilot_policy::{
    address::{Prefix, ServicePath},
    compile::compile,
    decide::{Flow, decide, matches},
    facts::{KernelFacts, outcome},
    layout::{ACTIVE, FlowKey, IPV4, IPV6, LAYERS_MAX, PASSIVE, RULES_MAX},
    model::{
        ApplyTo, Arm, Comparison, IfUnsupported, Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term, Value,
        Zone, ZoneRelation, sort_layers,
    },
    parameter::{PARAMETERS, slot_by_name},
    readings::Encoded,
};

fn facts(hz: u32) -> KernelFacts {
    KernelFacts {
        release: "6.18".to_owned(),
        hz,
        congestion_controls: vec!["cubic".to_owned()],
        wmem_max: 212_992,
        rmem_max: 4_194_304,
        sysctls: std::collections::BTreeMap::new(),
    }
}

fn flow(local: &str, remote: &str, direction: u8) -> Flow<'static> {
    let bytes = |text: &str| sockpilot_policy::address::address_bytes(text.parse().unwrap());
    let family = if local.contains(':') { IPV6 } else { IPV4 };
    let (local, remote) = (bytes(local), bytes(remote));
    let key = FlowKey { local, remote, local_port: 40_000, remote_port: 443, family, direction, reserved: 0 };
    Flow { key, service: None, handshake_rtt_us: None, begin_s: None }
}

fn snapshot(layers: Vec<Layer>) -> Snapshot {
    Snapshot { layers, zones: vec![] }
}

fn set(name: &str, value: u32) -> Parameters {
    Parameters::default().with(slot_by_name(name).unwrap(), Value::Number(value))
}

fn rule(name: &str, matches: Match, set: Parameters) -> Rule {
    Rule::new(name.parse().unwrap(), matches, set)
}

fn policy(name: &str, priority: u32, rules: Vec<Rule>) -> Layer {
    let name = format!("policies/{name}").parse().unwrap();
    Layer {
        name,
        revision: 1,
        priority,
        term: Term::Always,
        ends_s: None,
        rollout: None,
        body: LayerBody::Policy(rules),
    }
}

fn encoded(name: &str, value: Value, facts: &KernelFacts) -> Result<(Encoded, Option<String>), String> {
    let outcome = outcome(&PARAMETERS[slot_by_name(name).unwrap()], &value, facts, |_| None)?;
    Ok((outcome.encoded, outcome.differs.map(|(effective, _)| effective)))
}

#[test]
fn milliseconds_become_ticks_of_the_node() {
    let case = |ms, hz| encoded("syn_rto_ms", Value::Number(ms), &facts(hz)).unwrap();
    assert_eq!(case(10, 1000), (Encoded::Number(10), None));
    assert_eq!(case(10, 250), (Encoded::Number(3), Some("12".to_owned())));
    assert_eq!(case(200, 250), (Encoded::Number(50), None));
    assert_eq!(case(1, 100), (Encoded::Number(1), Some("10".to_owned())));
    assert_eq!(case(5, 300), (Encoded::Number(2), Some("6.666".to_owned())));
    assert_eq!(case(120_000, 1000), (Encoded::Number(120_000), None));
}

#[test]
fn buffers_are_cut_and_doubled() {
    let case = |name, bytes| encoded(name, Value::Number(bytes), &facts(250)).unwrap();
    // The sample program's 1,500,000 on a usual node.
    assert_eq!(case("send_buffer_bytes", 1_500_000), (Encoded::Number(1_500_000), Some("425984".to_owned())));
    assert_eq!(case("receive_buffer_bytes", 1_500_000), (Encoded::Number(1_500_000), Some("3000000".to_owned())));
}

#[test]
fn congestion_control_must_be_there() {
    let case = |name: &str| encoded("congestion_control", Value::Name(name.to_owned()), &facts(250));
    assert_eq!(case("cubic").unwrap(), (Encoded::Name("cubic".to_owned()), None));
    assert_eq!(case("dctcp").unwrap_err(), "this node has no congestion control dctcp; it has cubic");
    let layers = [policy(
        "p",
        0,
        vec![rule("r", Match::default(), {
            Parameters::default().with(slot_by_name("congestion_control").unwrap(), Value::Name("bbr".to_owned()))
        })],
    )];
    let refusals = compile(&snapshot(layers.to_vec()), &facts(250), 1, 1).unwrap_err();
    assert_eq!(refusals.len(), 1);
    assert_eq!(refusals[0].layer, Some(0));
    assert_eq!(refusals[0].fault.field, "rules[0].set.congestion_control");
}

#[test]
fn base_rtt_needs_the_congestion_control_that_asks_for_it() {
    let mut facts = facts(250);
    let case = |facts: &KernelFacts| encoded("base_rtt_us", Value::Number(80), facts);
    assert!(case(&facts).unwrap_err().contains("nv"));
    facts.congestion_controls.push("nv".to_owned());
    assert_eq!(case(&facts).unwrap(), (Encoded::Number(80), None));
}

#[test]
fn relations_compare_local_with_remote() {
    let same = |n| Match { same_prefix: Some(n), ..Match::default() };
    let differ = |n| Match { not_same_prefix: Some(n), ..Match::default() };
    let near = flow("2001:db8:0:1::1", "2001:db8:f:1::2", ACTIVE);
    assert!(matches(&same(44), &near, &[]) && !matches(&differ(44), &near, &[]));
    assert!(!matches(&same(45), &near, &[]) && matches(&differ(52), &near, &[]));
    let v4 = flow("10.1.2.3", "10.1.3.4", ACTIVE);
    assert!(matches(&same(23), &v4, &[]) && !matches(&same(24), &v4, &[]) && matches(&differ(24), &v4, &[]));
    // No IPv4 address has 44 bits: neither relation holds.
    assert!(!matches(&same(44), &v4, &[]) && !matches(&differ(44), &v4, &[]));
}

#[test]
fn ipv6_prefixes_do_not_hold_for_ipv4() {
    let everywhere = Match { remote_prefixes: vec!["::/0".parse().unwrap()], ..Match::default() };
    assert!(!matches(&everywhere, &flow("10.0.0.1", "10.0.0.2", ACTIVE), &[]));
    assert!(matches(&everywhere, &flow("::1", "::1", ACTIVE), &[]));
    assert!("::ffff:10.0.0.0/104".parse::<Prefix>().unwrap_err().contains("IPv4 prefix"));
}

#[test]
fn services_hold_for_what_is_beneath() {
    let web: ServicePath = "/web".parse().unwrap();
    assert!(web.holds_for("/web") && web.holds_for("/web/api") && !web.holds_for("/website") && !web.holds_for("/"));
    for unsound in ["", "/", "web", "/a//b", "/a/../b", "/a/"] {
        assert!(unsound.parse::<ServicePath>().is_err(), "{unsound}");
    }
}

#[test]
fn each_parameter_is_won_by_the_first_layer_that_sets_it() {
    let first = Parameters::default();
    let mut layers = [
        policy(
            "low",
            1,
            vec![rule("both", Match::default(), {
                set("syn_rto_ms", 100).with(slot_by_name("cwnd_clamp_packets").unwrap(), Value::Number(50))
            })],
        ),
        policy(
            "high",
            9,
            vec![
                rule(
                    "stop",
                    Match { direction: Some(sockpilot_policy::model::Direction::Passive), ..Match::default() },
                    first,
                ),
                rule("rto", Match::default(), set("syn_rto_ms", 20)),
            ],
        ),
    ];
    sort_layers(&mut layers);
    let snapshot = snapshot(layers.to_vec());
    let wins = |direction| {
        let flow = flow("10.0.0.1", "10.0.0.2", direction);
        let decision = decide(&snapshot, &flow, 0);
        let names: Vec<_> = decision.choices.iter().map(|choice| choice.name.to_string()).collect();
        let value = |name| decision.values[slot_by_name(name).unwrap()].map(|(value, _)| value.to_string());
        (names, value("syn_rto_ms"), value("cwnd_clamp_packets"))
    };
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(wins(ACTIVE), (owned(&["rto", "both"]), Some("20".to_owned()), Some("50".to_owned())));
    assert_eq!(wins(PASSIVE), (owned(&["stop", "both"]), Some("100".to_owned()), Some("50".to_owned())));
}

#[test]
fn equal_priorities_ask_experiments_first_then_by_name() {
    let arm = |name: &str, first_bucket| Arm {
        name: name.parse().unwrap(),
        first_bucket,
        weight_bp: 5000,
        set: Parameters::default(),
        withholds: false,
    };
    let body = LayerBody::Experiment(Box::new(Comparison {
        if_unsupported: IfUnsupported::Reject,
        ..Comparison::of_flows(Match::default(), "s", vec![arm("a", 0), arm("b", 5000)])
    }));
    let experiment = Layer {
        name: "experiments/z".parse().unwrap(),
        revision: 1,
        priority: 5,
        term: Term::WhileInContact { lease_ms: 1000 },
        ends_s: None,
        rollout: None,
        body,
    };
    let mut layers = vec![policy("b", 5, vec![]), policy("a", 5, vec![]), experiment, policy("top", 6, vec![])];
    sort_layers(&mut layers);
    let names: Vec<_> = layers.iter().map(|layer| layer.name.to_string()).collect();
    assert_eq!(names, ["policies/top", "experiments/z", "policies/a", "policies/b"]);
    let snapshot = snapshot(layers);
    // Without word from a server the experiment ends by itself.
    let flow = flow("10.0.0.1", "10.0.0.2", ACTIVE);
    assert_eq!(decide(&snapshot, &flow, 1000).choices.len(), 1);
    assert_eq!(decide(&snapshot, &flow, 1001).choices.len(), 0);
}

#[test]
fn what_everyone_has_stands_by_for_a_canary() {
    let term = |term, layer| Layer { term, ..layer };
    let everyone = policy("p", 1, vec![rule("old", Match::default(), set("syn_rto_ms", 300))]);
    let canary = policy("p", 5, vec![rule("new", Match::default(), set("syn_rto_ms", 100))]);
    let layers = vec![
        term(Term::WhileInContact { lease_ms: 1000 }, canary),
        term(Term::AfterSilence { lease_ms: 1000 }, everyone),
    ];
    let (snapshot, flow) = (snapshot(layers), flow("10.0.0.1", "10.0.0.2", ACTIVE));
    let at = |silence_ms| {
        let choices = decide(&snapshot, &flow, silence_ms).choices;
        choices.iter().map(|choice| choice.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!([at(0), at(1000), at(1001)], [["new"], ["new"], ["old"]]);
}

#[test]
fn a_node_holds_only_so_much() {
    let layers: Vec<_> = (0..=LAYERS_MAX).map(|at| policy(&format!("p{at}"), 0, vec![])).collect();
    let refusal = &compile(&snapshot(layers.to_vec()), &facts(250), 1, 1).unwrap_err()[0];
    assert_eq!((refusal.layer, refusal.fault.field.as_str()), (None, "layers"));
    let rules = |count| (0..count).map(|at| rule(&format!("r{at}"), Match::default(), Parameters::default())).collect();
    let full = [policy("a", 0, rules(RULES_MAX - 24)), policy("b", 0, rules(24))];
    assert_eq!(compile(&snapshot(full.to_vec()), &facts(250), 1, 1).unwrap().tables.head.words, 16);
    let over = [policy("a", 0, rules(RULES_MAX - 24)), policy("b", 0, rules(25))];
    assert!(compile(&snapshot(over.to_vec()), &facts(250), 1, 1).unwrap_err()[0].fault.description.contains("1024"));
}

#[test]
fn zones_are_those_of_the_longest_prefix() {
    let zone = |name: &str, region: &str, prefixes: &[&str]| Zone {
        name: name.parse().unwrap(),
        region: region.parse().unwrap(),
        prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
    };
    let zones = [
        zone("fra-1", "eu", &["10.1.0.0/16"]),
        zone("fra-2", "eu", &["10.1.2.0/24", "2001:db8:2::/48"]),
        zone("iad-1", "us", &["10.9.0.0/16"]),
    ];
    let relation = |relation| Match { zone_relation: Some(relation), ..Match::default() };
    let holds = |remote, which| matches(&relation(which), &flow("10.1.7.7", remote, ACTIVE), &zones);
    let all = [ZoneRelation::SameZone, ZoneRelation::OtherZone, ZoneRelation::SameRegion, ZoneRelation::OtherRegion];
    assert_eq!(all.map(|which| holds("10.1.8.8", which)), [true, false, true, false]);
    assert_eq!(all.map(|which| holds("10.1.2.8", which)), [false, true, true, false]);
    assert_eq!(all.map(|which| holds("10.9.0.1", which)), [false, true, false, true]);
    assert_eq!(all.map(|which| holds("192.0.2.1", which)), [false; 4], "unknown relates to nothing");
    let remote = Match { remote_zones: vec!["fra-2".parse().unwrap()], ..Match::default() };
    assert!(matches(&remote, &flow("10.1.7.7", "10.1.2.8", ACTIVE), &zones));
    assert!(!matches(&remote, &flow("10.1.7.7", "10.1.3.8", ACTIVE), &zones));
}

#[test]
fn distance_is_known_only_after_the_handshake() {
    let far = Match { min_handshake_rtt_us: Some(50_000), max_handshake_rtt_us: Some(90_000), ..Match::default() };
    let at = |handshake_rtt_us| matches(&far, &Flow { handshake_rtt_us, ..flow("10.0.0.1", "10.0.0.2", ACTIVE) }, &[]);
    assert!(!at(None) && !at(Some(49_999)) && at(Some(50_000)) && at(Some(89_999)) && !at(Some(90_000)));
}

#[test]
fn what_a_kernel_lacks_is_refused_or_skipped() {
    let mut old = facts(250);
    old.release = "5.4.0-generic".to_owned();
    let mut reject = rule("r", Match::default(), set("max_rto_ms", 5000));
    let wanted = |rule: &Rule| snapshot(vec![policy("p", 0, vec![rule.clone()])]);
    let refusals = compile(&wanted(&reject), &old, 1, 1).unwrap_err();
    assert!(refusals[0].fault.description.contains("takes Linux 6.15"), "{refusals:?}");
    reject.if_unsupported = IfUnsupported::Skip;
    let compiled = compile(&wanted(&reject), &old, 1, 1).unwrap();
    assert_eq!(compiled.tables.choices[1].parameters, 0);
    assert_eq!(compiled.effective[0].effective, "skipped");
    assert_eq!(compile(&wanted(&reject), &facts(250), 1, 1).unwrap().effective, []);
}

#[test]
fn open_connections_get_what_wins_if_its_rule_is_for_them() {
    let open = |set: Parameters| Rule { apply_to: ApplyTo::NewAndEstablished, ..rule("r", Match::default(), set) };
    let (idle, nodelay) = (slot_by_name("keepalive_idle_s").unwrap(), slot_by_name("nodelay").unwrap());
    let both = set("keepalive_idle_s", 9).with(nodelay, Value::Number(1));
    let layers = vec![
        policy("a", 2, vec![rule("r", Match::default(), set("keepalive_idle_s", 5))]),
        policy("b", 1, vec![open(both)]),
    ];
    let snapshot = snapshot(layers);
    let decision = decide(&snapshot, &flow("10.0.0.1", "10.0.0.2", ACTIVE), 0);
    assert_eq!(decision.live, 1 << nodelay, "the other one is won by a rule for new connections");
    let tables = compile(&snapshot, &facts(250), 1, 1).unwrap().tables;
    assert_eq!(tables.choices.iter().map(|choice| choice.live).collect::<Vec<_>>(), [0, 0, 1 << idle | 1 << nodelay]);
    assert_eq!(tables.head.live, 1 << idle | 1 << nodelay);
}

#[test]
fn kernels_that_cannot_change_open_connections_say_so() {
    let old = KernelFacts { release: "5.15.0-91-generic".to_owned(), ..facts(250) };
    let mut open = rule("r", Match::default(), set("mark", 1));
    open.apply_to = ApplyTo::NewAndEstablished;
    let wanted = |rule: &Rule| snapshot(vec![policy("p", 0, vec![rule.clone()])]);
    let refusals = compile(&wanted(&open), &old, 1, 1).unwrap_err();
    assert_eq!(refusals[0].fault.field, "rules[0].apply_to");
    assert!(refusals[0].fault.description.contains("takes Linux 5.16"), "{refusals:?}");
    open.if_unsupported = IfUnsupported::Skip;
    let compiled = compile(&wanted(&open), &old, 1, 1).unwrap();
    assert_eq!(
        (compiled.tables.choices[1].parameters, compiled.tables.head.live),
        (1 << slot_by_name("mark").unwrap(), 0)
    );
    assert_eq!(compiled.effective[0].effective, "NEW");
}
