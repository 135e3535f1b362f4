//! Every verdict of a step with a share of the connections, and what follows from it.

use sockpilot_judge::gates::StepVerdict;
use sockpilot_proto::v1::{self, GateVerdict, rollout_evidence::Comparison};

use super::made::{Made, SOUND, evidence, judged, only, split};

const ALL: [&str; 4] = ["connect_failures", "resets", "retransmit_ratio", "srtt"];

#[test]
fn what_is_as_good_passes_and_goes_on() {
    let found = judged(&split(&ALL, SOUND, SOUND));
    for result in &found.results {
        assert_eq!(result.verdict(), GateVerdict::Pass, "{}", result.reason);
        assert!(result.harm_at_most < result.margin && result.harm_at_least < 0.0, "{result:?}");
    }
    assert_eq!(found.step, StepVerdict::GoOn);
    assert_eq!(found.results[0].n_canary, 100_000);
}

#[test]
fn harm_beyond_the_margin_fails_and_goes_back() {
    let harms = [
        (
            "connect_failures",
            Made { failed: 1_300, ..SOUND },
            "connect_failures is 1.30% in the canary (100000 connections) and 0.30% in the control (100000): worse by 1.00 points, for certain by more than",
        ),
        ("resets", Made { reset: 3_000, ..SOUND }, "worse by 2.00 points"),
        ("retransmit_ratio", Made { retransmitted: 0.02, ..SOUND }, "worse by 1.00 points"),
        (
            "srtt",
            Made { srtt_us: 24_000.0, ..SOUND },
            "srtt is 24.00 ms in the canary (99700 connections) and 20.00 ms in the control (99700): worse by 20.0%",
        ),
    ];
    for (name, harmed, said) in harms {
        let found = judged(&split(&ALL, SOUND, harmed));
        for result in &found.results {
            let is_it = result.gate.as_ref().is_some_and(|gate| gate.metric == name);
            assert_eq!(result.verdict() == GateVerdict::Fail, is_it, "{}", result.reason);
            assert!(!is_it || result.reason.contains(said), "{}", result.reason);
            assert!(!is_it || result.harm_at_least > result.margin, "{result:?}");
        }
        assert_eq!(found.step, StepVerdict::RollBack);
    }
}

/// Significant, but within what is tolerated.
#[test]
fn harm_within_the_margin_passes() {
    let (verdict, result) = only(&split(&["srtt"], SOUND, Made { srtt_us: 20_800.0, ..SOUND }));
    assert_eq!(verdict, GateVerdict::Pass, "{}", result.reason);
    assert!(result.harm_at_least > 0.0, "{result:?}");
}

#[test]
fn too_little_waits_and_says_how_long() {
    let few = Made { begun: 2_000, failed: 6, reset: 20, ..SOUND };
    let found = judged(&split(&ALL, few, few));
    assert_eq!(found.step, StepVerdict::Wait);
    let failures = &found.results[0];
    assert_eq!(failures.verdict(), GateVerdict::Inconclusive);
    assert!((300..6_000).contains(&failures.needed_s), "{failures:?}");
    assert!(failures.reason.contains("if it does no harm, it can pass in about"), "{}", failures.reason);
    // After as much time as it said, it does.
    let times = 1 + failures.needed_s / 600;
    let more = Made { begun: 2_000 * (times + 1), failed: 6 * (times + 1), ..SOUND };
    assert_eq!(only(&split(&ALL[..1], more, more)).0, GateVerdict::Pass);
}

/// Too few to say anything, whatever was seen of them; and the same as soon as there are enough.
#[test]
fn before_the_first_look_nothing_is_said() {
    let failing = |begun| {
        split(&["connect_failures"], Made { begun, failed: 0, ..SOUND }, Made { begun, failed: begun, ..SOUND })
    };
    let (verdict, result) = only(&failing(99));
    assert_eq!((verdict, result.harm_at_most), (GateVerdict::Inconclusive, f64::INFINITY));
    assert!(result.reason.contains("too few to say how sure"), "{}", result.reason);
    assert_eq!(only(&failing(100)).0, GateVerdict::Fail);
}

#[test]
fn none_of_few_is_no_certainty_and_none_of_many_is_data() {
    let none = |begun| {
        let made = Made { begun, failed: 0, reset: 0, retransmitted: 0.0, ..SOUND };
        judged(&split(&["connect_failures", "retransmit_ratio"], made, made))
            .results
            .iter()
            .map(v1::GateResult::verdict)
            .collect::<Vec<_>>()
    };
    assert_eq!(none(300)[0], GateVerdict::Inconclusive);
    assert_eq!(none(3_000), [GateVerdict::Pass; 2]);
    // One side only.
    let clean = Made { failed: 0, retransmitted: 0.0, ..SOUND };
    let found = judged(&split(
        &["connect_failures", "retransmit_ratio"],
        clean,
        Made { retransmitted: 0.03, failed: 900, ..SOUND },
    ));
    assert!(found.results.iter().all(|result| result.verdict() == GateVerdict::Fail), "{found:?}");
}

#[test]
fn nothing_measured_is_no_data_and_never_passes() {
    let nothing = Made { begun: 0, failed: 0, reset: 0, ..SOUND };
    for (control, canary, who) in
        [(nothing, nothing, "neither"), (SOUND, nothing, "the canary has not"), (nothing, SOUND, "the control has not")]
    {
        let found = judged(&split(&ALL, control, canary));
        assert_eq!(found.step, StepVerdict::Wait);
        for result in &found.results {
            assert_eq!(result.verdict(), GateVerdict::NoData);
            assert!(result.reason.contains(who), "{}", result.reason);
        }
    }
    let absent = evidence(&ALL, |_| Comparison::Split(v1::SplitEvidence::default()));
    assert_eq!(judged(&absent).results[0].verdict(), GateVerdict::NoData);
    // All failed: of times there are none, of failures there are.
    let all = Made { failed: SOUND.begun, reset: 0, ..SOUND };
    let found = judged(&split(&["connect_failures", "srtt"], SOUND, all));
    let verdicts: Vec<_> = found.results.iter().map(v1::GateResult::verdict).collect();
    assert_eq!(verdicts, [GateVerdict::Fail, GateVerdict::NoData]);
}

/// Accepted connections that fail are not seen at all.
#[test]
fn a_canary_that_loses_connections_does_not_pass() {
    let fewer = Made { begun: 90_000, failed: 270, reset: 900, ..SOUND };
    let found = judged(&split(&ALL, SOUND, fewer));
    assert_eq!(found.step, StepVerdict::Wait);
    for result in &found.results {
        assert_eq!(result.verdict(), GateVerdict::Inconclusive);
        assert!(result.reason.contains("90000 and 100000 connections"), "{}", result.reason);
    }
}

#[test]
fn without_gates_nothing_stands_in_the_way() {
    assert_eq!(judged(&split(&[], SOUND, SOUND)).step, StepVerdict::GoOn);
}

/// The same difference, in an A/A: harm within the margin, or gain, says that the measuring is broken.
#[test]
fn an_a_a_that_differs_is_broken() {
    let a_a = |canary| v1::RolloutEvidence { unchanged: true, ..split(&["srtt"], SOUND, canary) };
    assert_eq!(only(&a_a(SOUND)).0, GateVerdict::Pass);
    for srtt_us in [19_200.0, 20_800.0] {
        let (verdict, result) = only(&a_a(Made { srtt_us, ..SOUND }));
        assert_eq!(verdict, GateVerdict::Fail);
        assert!(result.reason.contains("though both have the same"), "{}", result.reason);
    }
    assert_eq!(only(&a_a(Made { begun: 90_000, ..SOUND })).0, GateVerdict::Fail);
}

/// The more gates and steps there are, the surer each must be to fail.
#[test]
fn false_alarms_are_shared_out() {
    let bound = |steps| only(&v1::RolloutEvidence { steps, ..split(&["srtt"], SOUND, SOUND) }).1.harm_at_least;
    assert!(bound(100) < bound(10) && bound(10) < bound(1));
    let of = |gates: &[&str]| judged(&split(gates, SOUND, SOUND)).results.pop().expect("one").harm_at_least;
    assert!(of(&["resets", "srtt"]) < of(&["srtt"]));
    let passes = |steps| only(&v1::RolloutEvidence { steps, ..split(&["srtt"], SOUND, SOUND) }).1.harm_at_most;
    assert!((passes(100) - passes(1)).abs() < 1e-15, "what passes is not shared out");
}
