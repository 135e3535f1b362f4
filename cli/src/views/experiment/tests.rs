//! What results look like.

use super::*;
use sockpilot_proto::v1::{Effect, Measure, MeasureResult, Verdict, measure::Transform};

fn effect(effect: f64, lower: f64, upper: f64, p: f64) -> Option<Effect> {
    let (lower_at_end, upper_at_end) = (effect + (lower - effect) * 0.6, effect + (upper - effect) * 0.6);
    Some(Effect { effect, lower, upper, p, lower_at_end, upper_at_end, p_at_end: p / 2.0, ..Effect::default() })
}

fn measured(quantity: &str, role: MeasureRole, transform: Option<Transform>) -> Option<Measure> {
    Some(Measure { quantity: quantity.to_owned(), role: role.into(), transform, ..Measure::default() })
}

fn measures_of_example() -> Vec<MeasureResult> {
    let arm = || "fast".to_owned();
    vec![
        MeasureResult {
            measure: measured("delivery_rate_bps", MeasureRole::Success, Some(Transform::Log(true))),
            title: "ln(delivery_rate_bps)".to_owned(),
            unit: "ln bytes/s".to_owned(),
            arm: arm(),
            higher_is_better: true,
            control: 14.6e6f64.ln(),
            value: 15.8e6f64.ln(),
            absolute: effect(0.079, 0.0208, 0.135, 0.0021),
            relative: effect(0.0822, 0.021, 0.145, 0.0021),
            adjusted: true,
            standing: Standing::Better.into(),
            corrected_p: 0.0042,
            ..MeasureResult::default()
        },
        MeasureResult {
            measure: measured("connected", MeasureRole::Guardrail, None),
            title: "connected".to_owned(),
            arm: arm(),
            higher_is_better: true,
            control: 0.982,
            value: 0.981,
            absolute: effect(-0.001, -0.004, 0.002, 0.4),
            relative: effect(-0.001, -0.0041, 0.002, 0.4),
            standing: Standing::WithinMargin.into(),
            ..MeasureResult::default()
        },
        MeasureResult {
            measure: measured("srtt_us", MeasureRole::Diagnostic, None),
            title: "srtt_us".to_owned(),
            unit: "us".to_owned(),
            arm: arm(),
            control: 40_300.0,
            value: 41_100.0,
            absolute: effect(800.0, -2_000.0, f64::INFINITY, 0.31),
            relative: effect(0.0199, -0.0496, f64::INFINITY, 0.31),
            standing: Standing::Open.into(),
            ..MeasureResult::default()
        },
        MeasureResult {
            measure: measured("handshake_us", MeasureRole::Success, None),
            title: "handshake_us".to_owned(),
            unit: "us".to_owned(),
            arm: arm(),
            standing: Standing::Open.into(),
            no_answer: "only 3 connections".to_owned(),
            ..MeasureResult::default()
        },
    ]
}

/// Of every kind something.
pub fn example() -> v1::ExperimentResults {
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let arm = |arm: &str, attempts, control| v1::ArmSummary {
        arm: arm.to_owned(),
        weight_bp: 100,
        attempts,
        established: attempts - 120,
        unfinished: 7,
        control,
        groups: 0,
    };
    let check = |stage: &str, p, mismatch| v1::ShareCheck { stage: stage.to_owned(), p, deviation: 0.0021, mismatch };
    v1::ExperimentResults {
        name: "experiments/wide".to_owned(),
        revision: 3,
        from_time: time(1_772_366_400),
        to_time: time(1_772_539_200),
        estimand: "the difference between connections that were treated and others, while both are there.".to_owned(),
        arms: vec![arm("off", 10_020, true), arm("fast", 9_980, false)],
        share_checks: vec![check("begun", 0.81, false), check("ended", 0.000_01, true)],
        measures: measures_of_example(),
        warnings: vec!["Both arms share a bottleneck.".to_owned()],
        verdict: Some(Verdict {
            kind: VerdictKind::KeepRunning.into(),
            reason: "ln(delivery_rate_bps) is better, but one guardrail is open.".to_owned(),
            needed_s: 187_200,
            ..Verdict::default()
        }),
    }
}

/// With texts that want to be something else, and numbers that are none.
pub fn hostile() -> v1::ExperimentResults {
    let text = || "<script>alert(1)</script>\"><b>&\u{1b}[2J".to_owned();
    let mut results = example();
    (results.name, results.estimand, results.warnings) = (text(), text(), vec![text()]);
    results.verdict = Some(Verdict { kind: 99, reason: text(), arm: text(), needed_s: u64::MAX });
    for arm in &mut results.arms {
        (arm.arm, arm.attempts, arm.established) = (text(), 0, u64::MAX);
    }
    for check in &mut results.share_checks {
        (check.stage, check.p, check.deviation) = (text(), f64::NAN, f64::INFINITY);
    }
    let numbers = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX];
    for (measure, number) in results.measures.iter_mut().zip(numbers) {
        (measure.title, measure.arm, measure.effect_of) = (text(), text(), text());
        (measure.control, measure.value) = (number, -number);
        measure.no_answer.clear();
        let bad = Effect { effect: number, lower: number, upper: number, p: number, ..Effect::default() };
        (measure.relative, measure.absolute) = (Some(bad), Some(bad));
    }
    results
}

#[test]
fn results_have_a_headline_and_a_line_for_each_measure() {
    assert_eq!(results(&example(), false), include_str!("tests/results.txt"));
}

#[test]
fn what_holds_at_the_end_only_stands_apart_and_says_so() {
    let text = results(&example(), true);
    let (_, end) = text.split_once("\nValid at the planned end, and not at a look before it:\n\n").unwrap();
    assert!(end.contains("[+4.55%, +12.0%]") && end.contains("0.0010"), "{end}");
    assert!(!results(&example(), false).contains("planned end"));
}

#[test]
fn only_a_yes_looks_like_one() {
    for kind in 0..=7 {
        let verdict = Verdict { kind, arm: "fast".to_owned(), ..Verdict::default() };
        let is_ship = verdict.kind() == VerdictKind::Ship;
        assert_eq!(headline(&verdict) == "SHIP fast", is_ship, "{kind}");
        assert_eq!(headline(&verdict).starts_with("SHIP"), is_ship, "{kind}");
    }
    let verdict = |kind: VerdictKind| headline(&Verdict { kind: kind.into(), ..Verdict::default() });
    assert_eq!(verdict(VerdictKind::NoData), "NO DATA, which is not a yes");
    assert_eq!(verdict(VerdictKind::Inconclusive), "INCONCLUSIVE, which is not a yes");
}

#[test]
fn the_terminal_gets_no_orders_and_the_lines_stay_short() {
    for text in [results(&hostile(), true), results(&v1::ExperimentResults::default(), true)] {
        assert!(text.chars().all(|c| !c.is_control() || c == '\n'), "{text:?}");
        assert!(!text.contains("NaN") && text.lines().all(|line| line.chars().count() < 600), "{text}");
    }
}

#[test]
fn an_experiment_that_changed_says_what_it_does_now() {
    let end_time = Some(prost_types::Timestamp { seconds: 1_772_366_400, nanos: 0 });
    let (name, state) = ("experiments/wide".to_owned(), v1::ExperimentState::Running.into());
    let mut experiment = v1::Experiment { name, revision: 3, state, end_time, ..v1::Experiment::default() };
    assert_eq!(changed(&experiment, false), "experiments/wide@3: running until 2026-03-01T12:00:00Z\n");
    experiment.end_time = None;
    assert_eq!(changed(&experiment, true), "experiments/wide@3: would be running until it is stopped\n");
    (experiment.state, experiment.duration_s) = (v1::ExperimentState::Stopped.into(), 86_400);
    assert_eq!(changed(&experiment, false), "experiments/wide@3: stopped; planned for 1d00h\n");
}

#[test]
fn an_end_says_what_is_shipped_and_what_to_do_next() {
    let recorded = v1::RecordedVerdict { results: Some(example()), ..v1::RecordedVerdict::default() };
    let policy = v1::Policy { name: "policies/web".to_owned(), revision: 4, ..v1::Policy::default() };
    let (name, shipped_arm) = ("experiments/wide".to_owned(), "fast".to_owned());
    let answer = v1::ConcludeExperimentResponse {
        experiment: Some(v1::Experiment { name, shipped_arm, ..v1::Experiment::default() }),
        policy: Some(policy),
        verdict: Some(recorded),
    };
    assert_eq!(
        concluded(&answer, false),
        "experiments/wide: concluded; the verdict: KEEP RUNNING, about 2d04h more\n\
         ln(delivery_rate_bps) is better, but one guardrail is open.\n\
         Arm fast is the first rule of policies/web@4, for nobody yet.\n\
         Roll it out with: sockpilot rollout create policies/web@4\n"
    );
    let nothing = v1::ConcludeExperimentResponse { policy: None, ..answer };
    assert!(concluded(&nothing, true).ends_with("\nNothing is shipped.\n"));
}

#[test]
fn verdicts_have_a_line_each() {
    let recorded = v1::RecordedVerdict {
        name: "experiments/wide/verdicts/12".to_owned(),
        time: Some(prost_types::Timestamp { seconds: 1_772_366_400, nanos: 0 }),
        evidence: None,
        results: Some(example()),
    };
    let answer = v1::ListVerdictsResponse { verdicts: vec![recorded], next_page_token: String::new() };
    assert_eq!(
        verdicts(&answer),
        "NUMBER  TIME                  REVISION  VERDICT                         BEGUN  REASON\n    \
         12  2026-03-01T12:00:00Z         3  KEEP RUNNING, about 2d04h more  20000  \
         ln(delivery_rate_bps) is better, but one guardrail is open.\n"
    );
}

#[test]
fn power_says_what_it_takes() {
    let found = v1::MeasurePower {
        title: "connected".to_owned(),
        arm: "fast".to_owned(),
        units: 1_250_000.0,
        units_at_end: 1_000_000.0,
        duration_s: 86_400.0,
        duration_at_end_s: 43_200.0,
        detectable_now: 0.031,
        ..v1::MeasurePower::default()
    };
    let none = v1::MeasurePower { no_answer: "nothing was seen".to_owned(), ..v1::MeasurePower::default() };
    let source = "the running epoch".to_owned();
    let answer = v1::ExperimentPower { measures: vec![found, none], source, units_per_s: 14.5 };
    let text = power(&answer, 500, 80);
    assert!(text.starts_with("To find an effect of 5% with a probability of 80%, at 14.5 connections"), "{text}");
    assert!(text.contains("connected  fast  1.25M  1d00h  1.00M"), "{text}");
    assert!(text.contains("no answer: nothing was seen\n"), "{text}");
}

#[test]
fn frozen_measures_can_be_put_into_a_document() {
    let mut measure = measured("duration_us", MeasureRole::Guardrail, Some(Transform::Cap(2.5e6))).unwrap();
    measure.margin_bp = 300;
    let answer =
        v1::FreezeExperimentResponse { measures: vec![measure.clone()], notes: vec!["cap:\nthe 99th".to_owned()] };
    let text = frozen(&answer);
    assert!(text.starts_with("# cap: the 99th\nmeasures:\n"), "{text}");
    let document = format!("kind: Experiment\nname: wide\n{text}");
    let source = crate::document::read("f", &crate::yaml::parse(&document).unwrap()[0]).unwrap();
    let crate::document::Document::Experiment(experiment) = source.document else { panic!("an experiment") };
    assert_eq!(experiment.measures, [measure]);
}
