//! Explanations agree with decisions.

use proptest::prelude::*;
use sockpilot_policy::{
    address::address_bytes,
    decide::{Flow, decide, matches},
    explain::{Explanation, ParameterExplained, explain, first_unmet},
    facts::KernelFacts,
    layout::{ACTIVE, FlowKey, IPV4, IPV6, PASSIVE},
    model::{
        Arm, Comparison, Direction, Id, IfUnsupported, Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term,
        Value, Zone, ZoneRelation,
    },
    parameter::slot_by_name,
};

const ADDRESSES: [&str; 7] =
    ["10.1.0.1", "10.1.0.9", "10.2.0.1", "192.0.2.1", "2001:db8::1", "2001:db8:0:1::1", "fd00::1"];
const PREFIXES: [&str; 5] = ["10.1.0.0/16", "10.0.0.0/8", "10.2.0.1/32", "2001:db8::/32", "::/0"];
const SERVICES: [&str; 3] = ["/web", "/web/api", "/db"];

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

fn key(local: &str, remote: &str, ports: (u16, u16), direction: u8) -> FlowKey {
    let bytes = |text: &str| address_bytes(text.parse().unwrap());
    let family = if local.contains(':') { IPV6 } else { IPV4 };
    FlowKey {
        local: bytes(local),
        remote: bytes(remote),
        local_port: ports.0,
        remote_port: ports.1,
        family,
        direction,
        reserved: 0,
    }
}

fn some_of(all: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    let all: Vec<_> = all.iter().map(ToString::to_string).collect();
    prop_oneof![2 => Just(vec![]), 1 => prop::sample::subsequence(all.clone(), 1..=all.len())]
}

fn parsed<T: std::str::FromStr<Err = String>>(texts: &[String]) -> Vec<T> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

prop_compose! {
    fn any_match()(
        direction in prop::option::weighted(0.2, prop::sample::select(vec![Direction::Active, Direction::Passive])),
        prefixes in (some_of(&PREFIXES), some_of(&PREFIXES)),
        relations in (prop::option::weighted(0.2, 1_u8..130), prop::option::weighted(0.2, 1_u8..130)),
        ports in (some_of(&["1-9", "5"]), some_of(&["2", "7-8"])),
        services in some_of(&SERVICES),
        zones in (some_of(&["a", "b"]), some_of(&["b", "c"])),
        zone_relation in prop::option::weighted(0.2, prop::sample::select(vec![
            ZoneRelation::SameZone, ZoneRelation::OtherZone, ZoneRelation::SameRegion, ZoneRelation::OtherRegion,
        ])),
        times in (prop::option::weighted(0.2, 1_u32..4), prop::option::weighted(0.2, 1_u32..4)),
        family in prop::option::weighted(0.2, prop::sample::select(vec![
            sockpilot_policy::address::Family::Ipv4, sockpilot_policy::address::Family::Ipv6,
        ])),
    ) -> Match {
        Match {
            direction,
            family,
            local_prefixes: parsed(&prefixes.0),
            remote_prefixes: parsed(&prefixes.1),
            same_prefix: relations.0,
            not_same_prefix: relations.1,
            local_ports: parsed(&ports.0),
            remote_ports: parsed(&ports.1),
            services: parsed(&services),
            local_zones: parsed(&zones.0),
            remote_zones: parsed(&zones.1),
            zone_relation,
            min_handshake_rtt_us: times.0,
            max_handshake_rtt_us: times.1,
        }
    }
}

type AnyFlow = (FlowKey, Option<&'static str>, Option<u32>);

fn any_flow() -> impl Strategy<Value = AnyFlow> {
    let pairs: Vec<_> = ADDRESSES
        .iter()
        .flat_map(|local| ADDRESSES.iter().map(move |remote| (*local, *remote)))
        .filter(|(local, remote)| local.contains(':') == remote.contains(':'))
        .collect();
    let key = (prop::sample::select(pairs), (1_u16..10, 1_u16..10), prop::sample::select(vec![ACTIVE, PASSIVE]))
        .prop_map(|((local, remote), ports, direction)| key(local, remote, ports, direction));
    (key, prop::option::of(prop::sample::select(&SERVICES)), prop::option::of(1_u32..5))
}

fn flow(any: &AnyFlow) -> Flow<'static> {
    Flow { key: any.0, service: any.1, handshake_rtt_us: any.2, begin_s: None }
}

fn zones() -> Vec<Zone> {
    let zone = |name, region, prefix: &str| Zone {
        name: id(name),
        region: id(region),
        prefixes: vec![prefix.parse().unwrap()],
    };
    vec![zone("a", "x", "10.1.0.0/16"), zone("b", "x", "10.0.0.0/8"), zone("c", "y", "2001:db8::/32")]
}

fn any_set() -> impl Strategy<Value = Parameters> {
    prop::collection::vec((0_usize..5, 1_u32..100), 0..4)
        .prop_map(|values| values.into_iter().fold(Parameters::default(), |set, (s, v)| set.with(s, Value::Number(v))))
}

fn any_layer() -> impl Strategy<Value = LayerBody> {
    let policy = prop::collection::vec((any_match(), any_set()), 1..5).prop_map(|rules| {
        let rule = |(index, (matches, set))| Rule::new(id(&format!("r{index}")), matches, set);
        LayerBody::Policy(rules.into_iter().enumerate().map(rule).collect())
    });
    let experiment =
        (any_match(), any_set(), any_set(), 1_u32..=5_000).prop_map(|(matches, first, second, weight_bp)| {
            let arm = |name, first_bucket, set| Arm { name: id(name), first_bucket, weight_bp, set, withholds: false };
            LayerBody::Experiment(Box::new(Comparison::of_flows(
                matches,
                "s",
                vec![arm("one", 0, first), arm("two", 5_000, second)],
            )))
        });
    prop_oneof![policy, experiment]
}

fn any_term() -> impl Strategy<Value = Term> {
    prop_oneof![
        Just(Term::Always),
        (1_u32..3).prop_map(|lease_ms| Term::WhileInContact { lease_ms }),
        (1_u32..3).prop_map(|lease_ms| Term::AfterSilence { lease_ms }),
    ]
}

prop_compose! {
    fn any_snapshot()(bodies in prop::collection::vec((any_layer(), any_term()), 0..5)) -> Snapshot {
        let layer = |(index, (body, term))| {
            let collection = if matches!(body, LayerBody::Policy(_)) { "policies" } else { "experiments" };
            Layer { name: format!("{collection}/l{index}").parse().unwrap(), revision: 1, priority: 0, term, ends_s: None, rollout: None, body }
        };
        Snapshot { layers: bodies.into_iter().enumerate().map(layer).collect(), zones: zones() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_is_unmet_exactly_if_a_match_holds(condition in any_match(), any in any_flow()) {
        let (flow, zones) = (flow(&any), zones());
        let unmet = first_unmet(&condition, &flow, &zones);
        prop_assert_eq!(unmet.is_none(), matches(&condition, &flow, &zones), "{:?}", unmet);
        prop_assert!(unmet.is_none_or(|unmet| !unmet.why.is_empty()));
    }

    #[test]
    fn layers_and_values_are_those_of_the_decision(snapshot in any_snapshot(), any in any_flow(), silence_ms in 0_u64..3) {
        let flow = flow(&any);
        let Explanation { layers, parameters, refusals } = explain(&snapshot, &flow, silence_ms, None);
        let decision = decide(&snapshot, &flow, silence_ms);
        let choices: Vec<_> = layers.iter().filter_map(|layer| layer.choice.clone()).collect();
        prop_assert_eq!(&choices, &decision.choices);
        for layer in &layers {
            let holds = layer.asked.last().is_some_and(|asked| asked.unmet.is_none());
            prop_assert_eq!(holds, layer.choice.is_some() || layer.free_bucket.is_some());
            prop_assert!(layer.choice.is_none() || layer.free_bucket.is_none());
            prop_assert!(layer.free_bucket.is_none_or(|bucket| bucket % 5_000 >= 1), "the first of each half is owned");
            let before = &layer.asked[..layer.asked.len().saturating_sub(1)];
            prop_assert!(before.iter().all(|asked| asked.unmet.is_some()));
        }
        prop_assert!(refusals.is_empty());
        if flow.handshake_rtt_us.is_none() {
            prop_assert!(layers.iter().all(|layer| layer.choice_before.is_none()));
            let winner = |explained: &ParameterExplained<'_>| {
                let winner = explained.winner.as_ref().expect("without a node nothing is skipped");
                (explained.parameter.name, winner.value.to_string(), winner.layer)
            };
            let won: Vec<_> = parameters.iter().map(winner).collect();
            let decided: Vec<_> = decision.values.iter().enumerate().filter_map(|(slot, value)| {
                let (value, position) = (*value)?;
                let parameter = &sockpilot_policy::parameter::PARAMETERS[slot];
                Some((parameter.name, value.to_string(), decision.choices[position].layer))
            }).collect();
            prop_assert_eq!(won, decided);
        }
    }
}

fn facts() -> KernelFacts {
    KernelFacts {
        release: "6.18".to_owned(),
        hz: 250,
        congestion_controls: vec!["cubic".to_owned()],
        wmem_max: 212_992,
        rmem_max: 4_194_304,
        sysctls: std::collections::BTreeMap::new(),
    }
}

fn set(values: &[(&str, Value)]) -> Parameters {
    values.iter().fold(Parameters::default(), |set, (name, value)| set.with(slot_by_name(name).unwrap(), value.clone()))
}

fn rule(name: &str, matches: Match, set: Parameters, if_unsupported: IfUnsupported) -> Rule {
    Rule { if_unsupported, ..Rule::new(id(name), matches, set) }
}

fn policies(layers: Vec<Vec<Rule>>) -> Snapshot {
    let layer = |(index, rules)| Layer {
        name: format!("policies/p{index}").parse().unwrap(),
        revision: 1,
        priority: 0,
        term: Term::Always,
        ends_s: None,
        rollout: None,
        body: LayerBody::Policy(rules),
    };
    Snapshot { layers: layers.into_iter().enumerate().map(layer).collect(), zones: vec![] }
}

fn of<'a>(explanation: &'a Explanation<'_>, name: &str) -> (Option<usize>, Option<&'a str>, &'a str, usize) {
    let explained = explanation.parameters.iter().find(|explained| explained.parameter.name == name).unwrap();
    let winner = explained.winner.as_ref().map(|winner| winner.layer);
    (winner, explained.effective.as_deref(), &explained.note, explained.losers.len())
}

fn bbr(if_unsupported: IfUnsupported) -> Rule {
    let value = Value::Name("bbr".to_owned());
    rule("bbr", Match::default(), set(&[("congestion_control", value)]), if_unsupported)
}

#[test]
fn what_a_node_skips_leaves_the_place_to_the_next_layer() {
    let cubic = set(&[("congestion_control", Value::Name("cubic".to_owned()))]);
    let below = rule("cubic", Match::default(), cubic, IfUnsupported::Reject);
    let flow =
        Flow { key: key("10.1.0.1", "10.2.0.1", (1, 2), ACTIVE), service: None, handshake_rtt_us: None, begin_s: None };
    let facts = facts();
    let skipping = policies(vec![vec![bbr(IfUnsupported::Skip)], vec![below.clone()]]);
    let explanation = explain(&skipping, &flow, 0, Some(&facts));
    assert_eq!(of(&explanation, "congestion_control"), (Some(1), Some("cubic"), "", 1));
    assert!(explanation.parameters[0].losers[0].note.starts_with("skipped: this node has no congestion control bbr"));
    assert!(explanation.refusals.is_empty());
    assert_eq!(of(&explain(&skipping, &flow, 0, None), "congestion_control"), (Some(0), None, "", 1));

    let refusing = policies(vec![vec![bbr(IfUnsupported::Reject)], vec![below]]);
    let explanation = explain(&refusing, &flow, 0, Some(&facts));
    let (winner, effective, note, losers) = of(&explanation, "congestion_control");
    assert_eq!((winner, effective, losers), (Some(0), None, 1));
    assert!(note.starts_with("the node refuses all its layers"), "{note}");
    assert_eq!(explanation.refusals[0].fault.field, "rules[0].set.congestion_control");
}

#[test]
fn effective_values_are_the_kernels() {
    let asked = set(&[("syn_rto_ms", Value::Number(10)), ("send_buffer_bytes", Value::Number(1_500_000))]);
    let snapshot = policies(vec![vec![rule("r", Match::default(), asked, IfUnsupported::Reject)]]);
    let explained = |direction| {
        let flow = Flow {
            key: key("10.1.0.1", "10.2.0.1", (1, 2), direction),
            service: None,
            handshake_rtt_us: None,
            begin_s: None,
        };
        let explanation = explain(&snapshot, &flow, 0, Some(&facts()));
        ["syn_rto_ms", "send_buffer_bytes"].map(|name| of(&explanation, name).1.map(str::to_owned))
    };
    assert_eq!(explained(ACTIVE), [Some("12".to_owned()), Some("425984".to_owned())]);
    assert_eq!(explained(PASSIVE), [None, Some("425984".to_owned())], "no SYN timeout where no SYN is sent");
}

/// The same as the kernel program: the handshake goes by what was decided without its time.
#[test]
fn the_handshakes_time_comes_too_late_for_the_handshake() {
    let far = Match { min_handshake_rtt_us: Some(1_000), ..Match::default() };
    let snapshot = policies(vec![vec![
        rule("far", far, set(&[("initial_cwnd_packets", Value::Number(40))]), IfUnsupported::Reject),
        rule(
            "near",
            Match::default(),
            set(&[("syn_rto_ms", Value::Number(20)), ("initial_cwnd_packets", Value::Number(10))]),
            IfUnsupported::Reject,
        ),
    ]]);
    let explained = |handshake_rtt_us| {
        let flow =
            Flow { key: key("10.1.0.1", "10.2.0.1", (1, 2), ACTIVE), service: None, handshake_rtt_us, begin_s: None };
        let explanation = explain(&snapshot, &flow, 0, None);
        let before =
            explanation.layers[0].choice_before.as_ref().map(|choice| choice.as_ref().unwrap().name.to_string());
        let values = explanation.parameters.iter().map(|explained| {
            let winner = explained.winner.as_ref().unwrap();
            (explained.parameter.name, winner.choice.to_string(), winner.value.to_string())
        });
        (before, values.collect::<Vec<_>>())
    };
    let value = |name, choice: &str, value: &str| (name, choice.to_owned(), value.to_owned());
    let syn = value("syn_rto_ms", "near", "20");
    let (before, values) = explained(Some(5_000));
    assert_eq!(before.as_deref(), Some("near"));
    assert_eq!(values, [syn.clone(), value("initial_cwnd_packets", "far", "40")]);
    let (before, values) = explained(Some(500));
    assert_eq!((before, values), (None, vec![syn, value("initial_cwnd_packets", "near", "10")]));
}

#[test]
fn the_first_condition_that_fails_is_named() {
    let flow = Flow {
        key: key("10.1.0.1", "10.2.0.1", (9, 443), PASSIVE),
        service: Some("/db"),
        handshake_rtt_us: None,
        begin_s: None,
    };
    let case = |condition: Match| {
        let unmet = first_unmet(&condition, &flow, &zones()).unwrap();
        format!("{}: {}", unmet.condition, unmet.why)
    };
    let any = Match::default;
    let active = Match { direction: Some(Direction::Active), same_prefix: Some(32), ..any() };
    assert_eq!(case(active), "direction: the connection is passive");
    let prefixes = Match { remote_prefixes: vec!["10.1.0.0/16".parse().unwrap()], ..any() };
    assert_eq!(case(prefixes), "remote_prefixes: 10.2.0.1 is not in 10.1.0.0/16");
    let whole = Match { remote_prefixes: vec!["::/0".parse().expect("a prefix")], ..Match::default() };
    let why = "10.2.0.1 is not in ::/0; ::/0 holds for IPv6 only, write 0.0.0.0/0 for IPv4";
    assert_eq!(case(whole), format!("remote_prefixes: {why}"));
    let same = Match { same_prefix: Some(24), ..any() };
    assert_eq!(case(same), "same_prefix: the addresses have their first 14 bits in common");
    let ports = Match { remote_ports: (1..=7).map(|port: u16| port.to_string().parse().unwrap()).collect(), ..any() };
    assert_eq!(case(ports), "remote_ports: port 443 is not in 1, 2, 3, 4, 5, 2 more");
    let services = Match { services: vec!["/web".parse().unwrap()], ..any() };
    assert_eq!(case(services), "services: /db is not in /web");
    let zone = Match { local_zones: vec![id("b")], ..any() };
    assert_eq!(case(zone), "local_zones: 10.1.0.1 is in zone a, not in b");
    let relation = Match { zone_relation: Some(ZoneRelation::OtherRegion), ..any() };
    assert_eq!(case(relation), "zone_relation: both are in region x");
    let time = Match { max_handshake_rtt_us: Some(7), ..any() };
    assert_eq!(case(time), "max_handshake_rtt_us: the handshake's time is not known");
}
