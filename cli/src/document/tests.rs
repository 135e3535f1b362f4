//! What documents are read, written and compared as.

use super::*;
use crate::yaml;

fn source(text: &str) -> Result<Source, Vec<Problem>> {
    read("test.yaml", &yaml::parse(text).unwrap()[0])
}

#[track_caller]
fn refused(text: &str, expected: &[(&str, u64, &str)]) {
    let problems = source(text).unwrap_err();
    let found: Vec<(&str, u64, &str)> =
        problems.iter().map(|p| (p.path.as_str(), p.line.unwrap_or_default(), p.description.as_str())).collect();
    assert_eq!(found, expected);
}

const WEB: &str = "kind: Policy\nname: web\npriority: 10\nnode_labels:\n  role: edge\n\
                   rules:\n- name: far\n  match:\n    direction: active\n    remote_ports:\n    - '443'\n  \
                   set:\n    initial_cwnd_packets: 40\n";

#[test]
fn a_bare_name_gets_its_collection() {
    assert_eq!(source(WEB).unwrap().document.name(), "policies/web");
    assert_eq!(source("kind: experiment\nname: e\n").unwrap().document.name(), "experiments/e");
    assert_eq!(source("name: experiments/e\n").unwrap().document.kind(), "Experiment");
}

#[test]
fn the_kind_must_be_known_and_agree_with_the_name() {
    refused("name: web\n", &[("kind", 1, "missing; write kind: Policy or kind: Experiment")]);
    refused("kind: Polisy\nname: w\n", &[("kind", 1, "no such kind as \"Polisy\"; did you mean Policy?")]);
    refused("name: experiments/e\nkind: Policy\n", &[("kind", 2, "is Policy but the name stands in experiments/")]);
    refused("kind: Policy\n", &[("name", 1, "missing; give the document a name")]);
    refused("- 1\n", &[("", 1, "must be a mapping, not a list")]);
}

#[test]
fn yaml_of_a_document_reads_back_as_the_same_document() {
    let document = source(WEB).unwrap().document;
    let text = document.to_yaml();
    assert_eq!(source(&text).unwrap().document, document, "{text}");
    assert!(text.starts_with("kind: Policy\nname: policies/web\n"), "{text}");
    assert!(text.contains("direction: active\n"), "{text}");
}

/// A message with a value in every field that a file may have, whatever fields there will be.
fn filled(descriptor: &prost_reflect::MessageDescriptor) -> serde_json::Value {
    filled_but(descriptor, &schema::OUTPUT_ONLY)
}

fn filled_but(descriptor: &prost_reflect::MessageDescriptor, left_out: &[&str]) -> serde_json::Value {
    use prost_reflect::Kind;
    // Of fields that exclude each other, the first.
    let first = |field: &prost_reflect::FieldDescriptor| {
        field.containing_oneof().is_none_or(|group| group.fields().next().as_ref() == Some(field))
    };
    let fields = descriptor.fields().filter(|field| !left_out.contains(&field.name()));
    let fields = fields.filter(first);
    let values = fields.map(|field| {
        let value = match field.kind() {
            _ if field.is_map() => serde_json::json!({"a.b/c": "on"}),
            Kind::String if field.name() == "name" => "policies/p".into(),
            Kind::String => "0x10: yes".into(),
            Kind::Bool => true.into(),
            Kind::Enum(descriptor) => descriptor.values().nth(1).unwrap().name().into(),
            Kind::Message(inner) if inner.full_name() == "google.protobuf.Duration" => "5400s".into(),
            Kind::Message(inner) if inner.full_name() == "google.protobuf.Timestamp" => "2026-03-01T12:00:00Z".into(),
            Kind::Message(inner) => filled_but(&inner, &[]),
            _ => 41.into(),
        };
        let value = if field.is_list() { serde_json::json!([value, value]) } else { value };
        (field.json_name().to_owned(), value)
    });
    serde_json::Value::Object(values.collect())
}

fn message<M: prost::Message + Default>(name: &str) -> M {
    let descriptor = schema::message(name);
    let message = DynamicMessage::deserialize(descriptor.clone(), filled(&descriptor)).unwrap();
    message.transcode_to().unwrap()
}

#[test]
fn documents_with_every_field_survive_the_way_through_yaml() {
    let policy = Document::Policy(message("Policy"));
    let name = "experiments/e".to_owned();
    let experiment = Document::Experiment(v1::Experiment { name, ..message("Experiment") });
    let map = Document::ZoneMap(v1::ZoneMap { name: String::new(), ..message("ZoneMap") });
    let name = "rolloutPlans/careful".to_owned();
    let plan = Document::RolloutPlan(v1::RolloutPlan { name, ..message("RolloutPlan") });
    let name = String::new();
    let settings = Document::RolloutSettings(v1::RolloutSettings { name, ..message("RolloutSettings") });
    for document in [policy, experiment, map, plan, settings] {
        assert_eq!(source(&document.to_yaml()).unwrap().document, document, "{}", document.to_yaml());
    }
}

const DESIGN: &str = "kind: Experiment
name: wide
unit: NODE
horizonS: 30
duration_s: 259200
withholds: policies/web
peerPrefix: {ipv4Length: 20, ipv6_length: 56}
time_slot: {slot_s: 900, washoutS: 60}
saturationPair: {low_bp: 500, highBp: 9500}
measures:
- {quantity: duration_us, cap: 2.5e6, role: guardrail, marginBp: 300}
- {quantity: srtt_us, log: true, role: MEASURE_ROLE_SUCCESS}
- {quantity: connected}
- {quantity: retransmits, per: segments_out}
- {quantity: handshake_us, atMost: 100000}
arms:
- {name: off, weight_bp: 100, withholds: true}
";

#[test]
fn what_an_experiment_measures_by_and_randomises_survives_the_way_through_yaml() {
    use v1::measure::Transform;
    let document = source(DESIGN).unwrap().document;
    let Document::Experiment(experiment) = &document else { panic!("{document:?}") };
    assert_eq!((experiment.unit(), experiment.horizon_s, experiment.duration_s), (v1::Unit::Node, 30, 259_200));
    assert_eq!((experiment.withholds.as_str(), experiment.arms[0].withholds), ("policies/web", true));
    let lengths = v1::PeerPrefix { ipv4_length: 20, ipv6_length: 56 };
    assert_eq!(experiment.peer_prefix, Some(lengths));
    assert_eq!(experiment.time_slot, Some(v1::TimeSlot { slot_s: 900, washout_s: 60 }));
    assert_eq!(experiment.saturation_pair, Some(v1::SaturationPair { low_bp: 500, high_bp: 9_500 }));
    let transforms: Vec<_> = experiment.measures.iter().map(|measure| measure.transform).collect();
    let expected =
        [Some(Transform::Cap(2.5e6)), Some(Transform::Log(true)), None, None, Some(Transform::AtMost(100_000.0))];
    assert_eq!(transforms, expected);
    assert_eq!(experiment.measures[0].role(), v1::MeasureRole::Guardrail);
    assert_eq!(source(&document.to_yaml()).unwrap().document, document, "{}", document.to_yaml());
}

#[test]
fn units_have_short_names() {
    for (word, unit) in [
        ("flow", v1::Unit::Flow),
        ("peer-prefix", v1::Unit::PeerPrefix),
        ("time_slot", v1::Unit::TimeSlot),
        ("UNIT_SATURATION_PAIR", v1::Unit::SaturationPair),
    ] {
        let document = source(&format!("kind: Experiment\nname: e\nunit: {word}\n")).unwrap().document;
        assert!(matches!(document, Document::Experiment(e) if e.unit() == unit), "{word}");
    }
}

#[test]
fn what_has_become_of_an_experiment_is_no_part_of_its_document() {
    let document = source(DESIGN).unwrap().document;
    let Document::Experiment(mut experiment) = document.clone() else { panic!("{document:?}") };
    experiment.start_time = Some(prost_types::Timestamp { seconds: 1_772_366_400, nanos: 0 });
    (experiment.end_time, experiment.shipped_arm) = (experiment.start_time, "off".to_owned());
    let ended = Document::Experiment(experiment);
    assert_eq!(source(&ended.to_yaml()).unwrap().document, document, "{}", ended.to_yaml());
    assert_eq!(diff(Some(&document), &ended), "");
}

#[test]
fn texts_that_look_like_something_else_survive_the_way_through_yaml() {
    for odd in ["yes", "1.10", "~", "null", "- a", "a: b", "#x", " x ", "two\nlines", "\"quoted\"", "0x10", ""] {
        let document = Document::Policy(v1::Policy {
            name: "policies/web".to_owned(),
            description: odd.to_owned(),
            node_labels: [("odd".to_owned(), odd.to_owned())].into(),
            ..v1::Policy::default()
        });
        assert_eq!(source(&document.to_yaml()).unwrap().document, document, "{}", document.to_yaml());
    }
}

#[test]
fn the_zone_map_needs_no_name() {
    let text = "kind: zonemap\nzones:\n- name: fra-1\n  region: fra\n  prefixes: [10.1.0.0/16]\n";
    let document = source(text).unwrap().document;
    let Document::ZoneMap(map) = &document else { panic!("{document:?}") };
    assert_eq!(map.zones[0].prefixes, ["10.1.0.0/16"]);
    let named = Document::ZoneMap(v1::ZoneMap { name: "zoneMap".to_owned(), ..map.clone() });
    assert_eq!(source(&named.to_yaml()).unwrap().document, document);
    let found = source(text).unwrap().locate("zone_map.zones[0].prefixes[0]", "is odd");
    assert_eq!((found.path.as_str(), found.line), ("zones[0].prefixes[0]", Some(5)));
}

const PLAN: &str = "kind: rolloutplan
name: slow
waves:
- {selector: {share_bp: 100}, flowSharesBp: [100, 1000], bake_time: 10m, min_flows: 5000}
- {selector: {node_labels: {labels: {role: edge}}}, bake_time: 1h30m}
- {bake_time: 1d}
gates:
- {metric: connect_failures, margin_bp: 50}
on_deadline: roll_back
decision_deadline: 172800s
";

#[test]
fn a_plan_is_a_document_whose_durations_are_readable() {
    let document = source(PLAN).unwrap().document;
    let Document::RolloutPlan(plan) = &document else { panic!("{document:?}") };
    assert_eq!((plan.name.as_str(), plan.on_deadline()), ("rolloutPlans/slow", v1::OnDeadline::RollBack));
    let bakes: Vec<_> = plan.waves.iter().map(|wave| wave.bake_time.unwrap().seconds).collect();
    assert_eq!(bakes, [600, 5_400, 86_400]);
    let text = document.to_yaml();
    assert!(text.contains("bake_time: 1h30m\n") && text.contains("decision_deadline: 2d\n"), "{text}");
    assert_eq!(source(&text).unwrap().document, document);
    let stored = v1::RolloutPlan { revision: 4, etag: "e".to_owned(), creator: "ann".to_owned(), ..plan.clone() };
    assert_eq!(diff(Some(&Document::RolloutPlan(stored)), &document), "");
    assert_eq!(source("name: rolloutPlans/slow\n").unwrap().document.kind(), "RolloutPlan");
    let found = source(PLAN).unwrap().locate("plan.waves[1].selector", "is odd");
    assert_eq!((found.path.as_str(), found.line), ("waves[1].selector", Some(5)));
}

#[test]
fn rollout_settings_need_no_name_and_may_say_nothing() {
    let document = source("kind: RolloutSettings\ndefault_plan: rolloutPlans/quick\n").unwrap().document;
    assert!(!document.is_empty() && document.is_the_only_one());
    let (name, etag) = ("rolloutSettings".to_owned(), "7".to_owned());
    let unwritten = Document::RolloutSettings(v1::RolloutSettings { name, etag, ..Default::default() });
    assert!(unwritten.is_empty());
    assert!(diff(Some(&unwritten), &document).starts_with("--- rolloutSettings\n+++ rolloutSettings\n"));
}

#[test]
fn a_diff_names_the_revision_and_shows_only_what_changes() {
    let before = match source(WEB).unwrap().document {
        Document::Policy(p) => Document::Policy(v1::Policy { revision: 3, etag: "x".to_owned(), ..p }),
        other => other,
    };
    let after = source(&WEB.replace("40", "20")).unwrap().document;
    let text = diff(Some(&before), &after);
    assert!(text.starts_with("--- policies/web@3\n+++ policies/web\n@@"), "{text}");
    assert!(text.contains("-    initial_cwnd_packets: 40\n+    initial_cwnd_packets: 20\n"), "{text}");
    assert_eq!(diff(Some(&before), &source(WEB).unwrap().document), "");
    assert!(diff(None, &after).starts_with("--- /dev/null\n"));
}

#[test]
fn what_the_server_says_is_found_in_the_file() {
    let source = source(WEB).unwrap();
    let found = source.locate("policy.rules[0].set.initial_cwnd_packets", "too big");
    assert_eq!((found.path.as_str(), found.line), ("rules[0].set.initial_cwnd_packets", Some(13)));
    assert_eq!(source.locate("policy", "too big").path, "");
    assert_eq!(source.locate("policy_id", "differs").path, "policy_id");
}
