//! What fits a message, and what is said of the rest.

use super::*;
use crate::yaml;

fn walk(text: &str) -> (Value, Walk) {
    let documents = yaml::parse(text).unwrap();
    let mut walk = Walk::default();
    let value = walk.message(&documents[0], &schema::message("Policy"));
    (value, walk)
}

#[track_caller]
fn faults(text: &str, expected: &[&str]) {
    let (_, walk) = walk(text);
    let found: Vec<String> = walk
        .problems
        .iter()
        .map(|p| format!("{}: {}: {}", p.line.unwrap_or_default(), p.path, p.description))
        .collect();
    // What is expected is what each begins with: which fields are known changes with the contract.
    let alike = found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e));
    assert!(alike, "found: {found:#?}, expected: {expected:#?}");
}

#[test]
fn both_spellings_and_short_enums_become_canonical_json() {
    let (value, walk) = walk(
        "name: web\nnodeLabels: {role: edge, version: 1.10}\nrules:\n- name: a\n  match:\n    direction: active\n    \
         family: FAMILY_IPV6\n    remote_ports: [443, 8000-8999]\n    same_prefix: 44\n  set: {syn_rto_ms: 50, ecn: true}\n",
    );
    assert_eq!(walk.problems, []);
    assert_eq!(
        value,
        serde_json::json!({
            "name": "web",
            "nodeLabels": {"role": "edge", "version": "1.10"},
            "rules": [{
                "name": "a",
                "match": {
                    "direction": "DIRECTION_ACTIVE",
                    "family": "FAMILY_IPV6",
                    "remotePorts": ["443", "8000-8999"],
                    "samePrefix": 44,
                },
                "set": {"synRtoMs": 50, "ecn": true},
            }],
        })
    );
}

#[test]
fn every_misfit_is_found_at_once_with_path_and_line() {
    faults(
        "name: web\npriorty: 3\nrules:\n- name: a\n  match:\n    direction: activ\n    remote_prefix: 10.0.0.0/8\n    \
         remote_ports: 443\n  set:\n    syn_rto_ms: 50ms\n    ecn: 1\n- just text\n",
        &[
            "2: priorty: no such field as \"priorty\"; did you mean priority?",
            "6: rules[0].match.direction: no such value as \"activ\"; did you mean active?",
            "7: rules[0].match.remote_prefix: no such field as \"remote_prefix\"; did you mean remote_prefixes?",
            "8: rules[0].match.remote_ports: must be a list, not 443; write [...]",
            "10: rules[0].set.syn_rto_ms: must be a whole number from 0 to 4294967295, not \"50ms\"",
            "11: rules[0].set.ecn: must be true or false, not 1",
            "12: rules[1]: must be a mapping of name, match, set,",
        ],
    );
}

#[test]
fn a_word_like_nothing_known_lists_what_is_known() {
    faults("rules:\n- zebra: 1\n", &["2: rules[0].zebra: no such field as \"zebra\"; known: name, match, set,"]);
}

#[test]
fn the_same_field_in_both_spellings_is_a_fault() {
    faults(
        "node_labels: {a: b}\nnodeLabels: {a: c}\n",
        &["2: node_labels: given twice, as node_labels and as nodeLabels"],
    );
}

#[test]
fn numbers_that_do_not_fit_are_faults() {
    for text in ["-1", "4294967296", "1.5", "[1]"] {
        let (_, walk) = walk(&format!("priority: {text}\n"));
        assert_eq!(walk.problems.len(), 1, "{text}");
    }
}

#[test]
fn of_fields_that_exclude_each_other_one_is_given() {
    let text = "measures:\n- {quantity: srtt_us, cap: 2.5e6}\n- {quantity: srtt_us, cap: many}\n\
                - {quantity: srtt_us, cap: 1, log: true}\n- {quantity: srtt_us, log: true}\n\
                - {quantity: srtt_us, at_most: inf}\n- {quantity: srtt_us, role: guard}\nunit: flows\n";
    let mut walk = Walk::default();
    walk.message(&yaml::parse(text).unwrap()[0], &schema::message("Experiment"));
    let found: Vec<_> = walk.problems.iter().map(|p| (p.line.unwrap_or_default(), p.description.as_str())).collect();
    let expected = [
        (3, "must be a number, not \"many\""),
        (4, "cap is given too; write one of the two"),
        (6, "must be a number, not \"inf\""),
        (7, "no such value as \"guard\"; did you mean guardrail?"),
        (8, "no such value as \"flows\"; did you mean flow?"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn durations_are_as_people_type_them_or_canonical() {
    let text = "waves:\n- {bake_time: 1h30m, deadline: 0.5s}\n- {bakeTime: 0s, deadline: soon}\n- {bake_time: -1s, deadline: 90}\n";
    let mut walk = Walk::default();
    let value = walk.message(&yaml::parse(text).unwrap()[0], &schema::message("RolloutPlan"));
    assert_eq!(value["waves"][0], serde_json::json!({"bakeTime": "5400s", "deadline": "0.5s"}));
    assert_eq!(value["waves"][1]["bakeTime"], "0s");
    let found: Vec<_> = walk.problems.iter().map(|p| (p.line.unwrap_or_default(), p.path.as_str())).collect();
    assert_eq!(found, [(3, "waves[1].deadline"), (4, "waves[2].bake_time"), (4, "waves[2].deadline")]);
}

#[test]
fn what_the_server_writes_at_the_root_is_a_fields_name_deeper() {
    let text = "freeze_windows:\n- {start_time: 2026-12-24T00:00:00Z, end_tim: x}\n";
    let mut walk = Walk::default();
    let value = walk.message(&yaml::parse(text).unwrap()[0], &schema::message("RolloutSettings"));
    assert_eq!(value["freezeWindows"][0]["startTime"], "2026-12-24T00:00:00Z");
    assert!(walk.problems[0].description.contains("did you mean end_time?"), "{:?}", walk.problems);
}

#[test]
fn output_only_fields_are_read_over() {
    let (value, walk) = walk("name: web\nuid: x\nrevision: 7\ncreate_time: 2026-01-01T00:00:00Z\ncreator: me\n");
    assert_eq!(walk.problems, []);
    assert_eq!(value, serde_json::json!({"name": "web"}));
}

#[test]
fn a_line_is_found_for_fields_that_are_missing_too() {
    let (_, walk) = walk("name: web\nrules:\n- name: a\n  match:\n    direction: active\n");
    assert_eq!(walk.lines.find("rules[0].match.direction"), Some(5));
    assert_eq!(walk.lines.find("rules[0].match.remote_prefixes[0]"), walk.lines.find("rules[0].match"));
    assert_eq!(walk.lines.find("rules[0].set"), Some(3));
    assert_eq!(walk.lines.find("description"), None);
}
