//! What a rollout makes of a policy on a node: whose each bucket is, whatever the revisions match, with and without a server.

use sockpilot_policy::{
    bucket::{flow_bucket, salt},
    decide::{Choice, Flow, decide},
    explain::explain,
    layout::FlowKey,
    model::{Arm, Comparison, Group, Layer, LayerBody, Match, Parameters, Part, Rollout, Rule, Snapshot, Term, Value},
    parameter::slot_by_name,
    unit::on_node,
};

const LEASE_MS: u32 = 1_000;

fn rollout(share_bp: u32) -> Rollout {
    Rollout {
        name: "wide".parse().unwrap(),
        salt: "s".to_owned(),
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

fn rule(name: &str, remote_port: &str, cwnd: u32) -> Rule {
    let matches = Match { remote_ports: vec![remote_port.parse().unwrap()], ..Match::default() };
    let set = Parameters::default().with(slot_by_name("initial_cwnd_packets").unwrap(), Value::Number(cwnd));
    Rule::new(name.parse().unwrap(), matches, set)
}

fn layer(revision: u64, term: Term, rollout: Rollout, rules: Vec<Rule>) -> Layer {
    let (name, body) = ("policies/web".parse().unwrap(), LayerBody::Policy(rules));
    Layer { name, revision, priority: 1, term, ends_s: None, rollout: Some(rollout), body }
}

/// The canary matches ports 1 and 2, what everyone has 2 and 3.
fn pair(rollout: &Rollout) -> Snapshot {
    let (canary, standby) = (Term::WhileInContact { lease_ms: LEASE_MS }, Term::AfterSilence { lease_ms: LEASE_MS });
    let layers = vec![
        layer(2, canary, rollout.clone(), vec![rule("one", "1", 21), rule("two", "2", 22)]),
        layer(1, standby, rollout.clone(), vec![rule("two", "2", 12), rule("three", "3", 13)]),
    ];
    on_node(&Snapshot { layers, zones: vec![] }, "node")
}

/// A flow to a port with a bucket in a range.
fn flow(remote_port: u16, buckets: std::ops::Range<u32>) -> Flow<'static> {
    let keys = (1..).map(|local_port| FlowKey { local_port, remote_port, ..FlowKey::default() });
    let key = keys.into_iter().find(|key| buckets.contains(&flow_bucket(salt("s"), key))).unwrap();
    Flow { key, service: None, handshake_rtt_us: None, begin_s: None }
}

/// Revision, name, group, and the window that is set.
type Found = (u64, String, Option<Group>, Option<u32>);

fn found(snapshot: &Snapshot, flow: &Flow<'_>, silence_ms: u64) -> Option<Found> {
    let decision = decide(snapshot, flow, silence_ms);
    assert!(decision.choices.len() <= 1, "one revision acts: {:?}", decision.choices);
    decision.choices.first().map(|Choice { layer, name, set, group, .. }| {
        let set = set.get(slot_by_name("initial_cwnd_packets").unwrap());
        let window = set.map(|value| if let Value::Number(number) = value { *number } else { 0 });
        (snapshot.layers[*layer].revision, name.to_string(), *group, window)
    })
}

fn is(revision: u64, name: &str, group: Option<Group>, window: impl Into<Option<u32>>) -> Option<Found> {
    Some((revision, name.to_owned(), group, window.into()))
}

#[test]
fn canary_and_control_are_of_the_same_connections() {
    let snapshot = pair(&rollout(1_000));
    let (canary, control, rest) = (0..1_000, 1_000..2_000, 2_000..10_000);
    for (buckets, revision, group) in [(canary, 2, Group::Canary), (control, 1, Group::Control), (rest, 1, Group::Rest)]
    {
        let found = [1, 2, 3].map(|port| found(&snapshot, &flow(port, buckets.clone()), 0));
        let own = |name: &str, window: u32| is(revision, name, Some(group), window);
        let along = |name: &str| is(revision, name, Some(group), None);
        let expected = match revision {
            2 => [own("one", 21), own("two", 22), along("three")],
            _ => [along("one"), own("two", 12), own("three", 13)],
        };
        assert_eq!(found, expected, "{group}");
    }
    assert_eq!(found(&snapshot, &flow(4, 0..10_000), 0), None, "neither matches it");
}

#[test]
fn what_stands_by_acts_on_all_when_the_canary_has_ended() {
    let silent = |snapshot: &Snapshot, silence_ms| {
        [0..1_000, 1_000..2_000, 2_000..10_000].map(|buckets| found(snapshot, &flow(2, buckets), silence_ms))
    };
    let plain = is(1, "two", None, 12);
    let ended = [plain.clone(), plain.clone(), plain];
    assert_eq!(silent(&pair(&rollout(1_000)), u64::from(LEASE_MS) + 1), ended);
    assert_eq!(silent(&pair(&Rollout { tripped: true, ..rollout(1_000) }), 0), ended, "by the breaker");
    assert_eq!(silent(&pair(&rollout(10_000)), u64::from(LEASE_MS) + 1), ended);
    assert_eq!(found(&pair(&rollout(10_000)), &flow(2, 0..10_000), 0), is(2, "two", Some(Group::All), 22));
}

#[test]
fn without_another_revision_the_control_has_nothing() {
    let canary = Term::WhileInContact { lease_ms: LEASE_MS };
    let layers = vec![layer(2, canary, rollout(1_000), vec![rule("two", "2", 22)])];
    let snapshot = on_node(&Snapshot { layers, zones: vec![] }, "node");
    let at = |buckets, silence_ms| found(&snapshot, &flow(2, buckets), silence_ms);
    assert_eq!(at(0..1_000, 0), is(2, "two", Some(Group::Canary), 22));
    assert_eq!(at(1_000..2_000, 0), is(2, "two", Some(Group::Control), None));
    assert_eq!(at(2_000..10_000, 0), is(2, "two", Some(Group::Rest), None));
    assert_eq!(at(1_000..2_000, u64::from(LEASE_MS) + 1), None);
}

#[test]
fn nodes_that_are_not_reached_and_those_of_an_a_a_test_have_one_layer() {
    let one = |rollout: Rollout| {
        let layers = vec![layer(1, Term::Always, rollout, vec![rule("two", "2", 12)])];
        on_node(&Snapshot { layers, zones: vec![] }, "node")
    };
    let group = |snapshot: &Snapshot, buckets| {
        let (_, _, group, window) = found(snapshot, &flow(2, buckets), u64::MAX).unwrap();
        assert_eq!(window, Some(12), "all have the same");
        group
    };
    assert_eq!(group(&one(rollout(0)), 0..10_000), Some(Group::Before));
    assert_eq!(group(&one(rollout(500)), 0..500), None, "the node cannot honour its canary");
    let unchanged = one(Rollout { unchanged: true, ..rollout(500) });
    assert_eq!(group(&unchanged, 0..500), Some(Group::Canary));
    assert_eq!(group(&unchanged, 500..1_000), Some(Group::Control));
    assert_eq!(group(&unchanged, 1_000..10_000), Some(Group::Rest));
    assert_eq!(on_node(&unchanged, "node"), unchanged, "may be asked twice");
}

#[test]
fn an_arm_that_withholds_the_policy_withholds_all_of_it() {
    let mut snapshot = pair(&rollout(1_000));
    let arm = |name: &str, first_bucket, withholds| Arm {
        name: name.parse().unwrap(),
        first_bucket,
        weight_bp: 5_000,
        set: Parameters::default(),
        withholds,
    };
    let comparison = Comparison {
        withholds: Some("policies/web".parse().unwrap()),
        ..Comparison::of_flows(Match::default(), "other", vec![arm("with", 0, false), arm("without", 5_000, true)])
    };
    let experiment = Layer {
        name: "experiments/holdback".parse().unwrap(),
        priority: 9,
        term: Term::Always,
        rollout: None,
        body: LayerBody::Experiment(Box::new(comparison)),
        ..snapshot.layers[0].clone()
    };
    snapshot.layers.insert(0, experiment);
    for local_port in 0..2_000 {
        let key = FlowKey { local_port, remote_port: 2, ..FlowKey::default() };
        let flow = Flow { key, service: None, handshake_rtt_us: None, begin_s: None };
        let choices = decide(&snapshot, &flow, 0).choices;
        let withheld = choices[0].name.as_str() == "without";
        assert_eq!(choices.len(), 2 - usize::from(withheld), "{choices:?}");
    }
}

#[test]
fn the_explanation_says_the_group_and_claims_no_choice_where_nothing_is_set() {
    let snapshot = pair(&rollout(1_000));
    let explained = explain(&snapshot, &flow(3, 0..1_000), 0, None);
    let [canary, standby] = &explained.layers[..] else { panic!("two layers") };
    assert_eq!((canary.group, canary.choice.is_none(), canary.ended), (Some(Group::Canary), true, false));
    assert_eq!((standby.group, standby.choice.is_none(), standby.ended), (None, true, false));
    assert!(standby.free_bucket.is_some_and(|bucket| bucket < 1_000), "its rule holds, but the bucket is the canary's");
    assert!(explained.parameters.is_empty());
    let explained = explain(&snapshot, &flow(2, 1_000..2_000), 0, None);
    let standby = &explained.layers[1];
    assert_eq!(standby.group, Some(Group::Control));
    assert!(standby.choice.as_ref().is_some_and(|choice| choice.bucket.is_some_and(|bucket| bucket >= 1_000)));
}
