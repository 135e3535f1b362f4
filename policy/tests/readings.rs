//! What a node says about values that its kernel was asked about.

use sockpilot_policy::{
    compile::{Compiled, Violation, compile_tried},
    facts::{KernelFacts, values_to_try},
    model::{Arm, Comparison, IfUnsupported, Layer, LayerBody, Match, Parameters, Rule, Snapshot, Term, Value},
    parameter::slot_by_name,
    readings::{Encoded, Errno, Reading, Readings},
};

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

fn slot(name: &str) -> usize {
    slot_by_name(name).unwrap()
}

fn set(values: &[(&str, u32)]) -> Parameters {
    values.iter().fold(Parameters::default(), |set, (name, value)| set.with(slot(name), Value::Number(*value)))
}

fn snapshot(set: Parameters, if_unsupported: IfUnsupported) -> Snapshot {
    let rule = Rule { if_unsupported, ..Rule::new("r".parse().unwrap(), Match::default(), set) };
    let body = LayerBody::Policy(vec![rule]);
    let name = "policies/p".parse().unwrap();
    Snapshot {
        layers: vec![Layer { name, revision: 1, priority: 1, term: Term::Always, ends_s: None, rollout: None, body }],
        zones: vec![],
    }
}

fn reading(name: &str, encoded: u32, reading: Reading) -> Readings {
    [((slot(name), Encoded::Number(encoded)), reading)].into_iter().collect()
}

fn read(number: u32) -> Reading {
    Reading::Read(Encoded::Number(number))
}

fn compiled(
    values: &[(&str, u32)],
    if_unsupported: IfUnsupported,
    readings: &Readings,
) -> Result<Compiled, Vec<Violation>> {
    compile_tried(&snapshot(set(values), if_unsupported), &facts(), readings, 1, 1)
}

/// Effective value and note; nothing if it is as asked for.
fn comes_out(name: &str, value: u32, readings: &Readings) -> Option<(String, String)> {
    let mut effective = compiled(&[(name, value)], IfUnsupported::Reject, readings).unwrap().effective;
    assert!(effective.len() <= 1);
    effective.pop().map(|effective| (effective.effective, effective.note))
}

#[test]
fn notes_say_whether_a_value_was_read_or_computed() {
    let none = Readings::default();
    let rounded = "rounded up to timer ticks, 250 a second here";
    let text = |value: &str, why: &str, source: &str| Some((value.to_owned(), format!("{why}; {source}")));
    assert_eq!(comes_out("syn_rto_ms", 10, &none), text("12", rounded, "computed from HZ"));
    assert_eq!(comes_out("min_rto_ms", 5, &none), text("8", rounded, "computed"));
    assert_eq!(comes_out("max_rto_ms", 1_001, &none), text("1004", rounded, "computed"));
    let as_computed = reading("min_rto_ms", 5_000, read(8_000));
    assert_eq!(comes_out("min_rto_ms", 5, &as_computed), text("8", rounded, "read back from a socket"));
    let cut = "cut to net.core.wmem_max 212992, then doubled by the kernel; automatic tuning is off";
    let as_computed = reading("send_buffer_bytes", 300_000, read(425_984));
    assert_eq!(comes_out("send_buffer_bytes", 300_000, &none), text("425984", cut, "computed"));
    assert_eq!(comes_out("send_buffer_bytes", 300_000, &as_computed), text("425984", cut, "read back from a socket"));
}

#[test]
fn a_reading_wins_over_what_is_computed() {
    let taken = |value: &str| Some((value.to_owned(), "taken so by this kernel; read back from a socket".to_owned()));
    for (name, value, encoded, back, said) in [
        ("send_buffer_bytes", 300_000, 300_000, 500_000, "500000"),
        ("min_rto_ms", 10, 10_000, 6_666, "6.666"),
        ("window_clamp_bytes", 1_024, 1_024, 1_152, "1152"),
        ("dscp", 46, 184, 160, "40"),
        ("keepalive", 1, 1, 0, "0"),
    ] {
        assert_eq!(comes_out(name, value, &reading(name, encoded, read(back))), taken(said), "{name}");
    }
    // The two bits of ECN are not the policy's.
    assert_eq!(comes_out("dscp", 46, &reading("dscp", 184, read(187))), None);
    assert_eq!(comes_out("window_clamp_bytes", 5_000, &reading("window_clamp_bytes", 5_000, read(5_000))), None);
}

#[test]
fn what_the_kernel_refused_is_refused_with_its_path_or_skipped() {
    let readings = reading("mss_bytes", 1_000, Reading::Refused(Errno(22)));
    let values = [("mss_bytes", 1_000), ("syn_retries", 3)];
    let refusals = compiled(&values, IfUnsupported::Reject, &readings).unwrap_err();
    let [refusal] = refusals.as_slice() else { panic!("{refusals:?}") };
    assert_eq!(refusal.fault.field, "rules[0].set.mss_bytes");
    assert!(refusal.fault.description.contains("EINVAL (22)"), "{refusal:?}");
    assert!(refusal.fault.description.contains("if_unsupported: skip"), "{refusal:?}");

    let compiled = compiled(&values, IfUnsupported::Skip, &readings).unwrap();
    assert_eq!(compiled.tables.choices[1].parameters, 1 << slot("syn_retries"));
    let [effective] = compiled.effective.as_slice() else { panic!("{:?}", compiled.effective) };
    assert_eq!((&*effective.requested, &*effective.effective), ("1000", "skipped"));
    assert!(effective.note.contains("EINVAL"), "{effective:?}");
}

#[test]
fn every_value_that_an_option_sets_is_tried_once() {
    let name = |name: &str| Parameters::default().with(slot("congestion_control"), Value::Name(name.to_owned()));
    // A reply, what this node lacks, and one value twice.
    let mut tried = snapshot(set(&[("syn_rto_ms", 10), ("dscp", 46), ("min_rto_ms", 10)]), IfUnsupported::Reject);
    let arm =
        |text: &str, set| Arm { name: text.parse().unwrap(), first_bucket: 0, weight_bp: 1, set, withholds: false };
    let arms = vec![arm("a", name("cubic")), arm("b", name("bbr")), arm("c", set(&[("dscp", 46), ("dscp", 46)]))];
    let body = LayerBody::Experiment(Box::new(Comparison {
        if_unsupported: IfUnsupported::Skip,
        ..Comparison::of_flows(Match::default(), "s", arms)
    }));
    let layer = Layer { name: "experiments/e".parse().unwrap(), body, ..tried.layers[0].clone() };
    tried.layers.push(layer);
    let expected = [
        (slot("congestion_control"), Encoded::Name("cubic".to_owned())),
        (slot("min_rto_ms"), Encoded::Number(10_000)),
        (slot("dscp"), Encoded::Number(184)),
    ];
    assert_eq!(values_to_try(&tried, &facts()).into_iter().collect::<Vec<_>>(), expected);
}
