//! Every kind of verdict, of connections as units.

use sockpilot_proto::v1::{self, MeasureRole, Standing, Unit, VerdictKind};

use crate::made::{arm, design, evidence, flows, kind, made, measure, over, results, verdict};

const MANY: u64 = 1_000_000;

#[test]
fn nothing_measured_is_no_data() {
    for nothing in [None, Some(v1::Measured::default()), Some(made(0, 0, 0.0).measured())] {
        let nothing = evidence(design(Unit::Flow), vec![nothing.clone(), nothing]);
        assert_eq!(kind(&nothing), VerdictKind::NoData);
        assert_eq!(kind(&over(nothing)), VerdictKind::NoData, "also at the planned end");
    }
}

#[test]
fn a_success_measure_that_is_better_ships() {
    let found = flows(made(MANY, MANY - 1_000, 1_000.0), made(MANY, MANY - 1_010, 950.0));
    let said = verdict(&found);
    assert_eq!((said.kind(), said.arm.as_str()), (VerdictKind::Ship, "treatment"));
    assert!(said.reason.contains("srtt_us is better with treatment: -5.0%"), "{}", said.reason);
    assert!(said.reason.contains("connected has not become worse by more than the margin"), "{}", said.reason);
    let row = results(&found).measures.into_iter().find(|row| row.title == "srtt_us").expect("it");
    let effect = row.absolute.expect("an effect");
    assert!(effect.lower < -50.0 && -50.0 < effect.upper && effect.upper < 0.0, "{effect:?}");
}

#[test]
fn a_guardrail_that_is_broken_forbids_what_is_better() {
    let found = flows(made(MANY, MANY - 1_000, 1_000.0), made(MANY, MANY - 200_000, 950.0));
    let said = verdict(&found);
    assert_eq!(said.kind(), VerdictKind::DoNotShip);
    assert!(said.reason.contains("connected is worse with treatment: -19"), "{}", said.reason);
}

#[test]
fn a_success_measure_that_is_worse_forbids() {
    let said = verdict(&flows(made(MANY, MANY - 1_000, 1_000.0), made(MANY, MANY - 1_010, 1_050.0)));
    assert_eq!(said.kind(), VerdictKind::DoNotShip);
    assert!(said.reason.contains("srtt_us is worse with treatment: +5.0%"), "{}", said.reason);
}

#[test]
fn none_of_many_is_data() {
    for unfinished in [false, true] {
        let mut found = flows(made(MANY, MANY, 1_000.0), made(MANY, 0, 0.0));
        if unfinished {
            found = over(found);
        }
        let said = verdict(&found);
        assert_eq!(said.kind(), VerdictKind::DoNotShip, "{}", said.reason);
        assert!(said.reason.contains("connected"), "{}", said.reason);
    }
    // And none of any is not no data.
    let none = flows(made(MANY, 0, 0.0), made(MANY, 0, 0.0));
    assert_eq!(kind(&none), VerdictKind::KeepRunning);
    assert_eq!(kind(&over(none)), VerdictKind::Inconclusive);
}

#[test]
fn arms_without_their_shares_are_invalid() {
    let found = flows(made(MANY, MANY, 1_000.0), made(MANY * 9 / 10, MANY * 9 / 10, 900.0));
    let said = verdict(&found);
    assert_eq!(said.kind(), VerdictKind::Invalid);
    assert!(said.reason.contains("treatment has 47.37% instead of 50.00%"), "{}", said.reason);
    // An alarm is not forgotten, but a deviation that has shrunk below what matters spoils nothing.
    let mut later = flows(made(MANY, MANY, 1_000.0), made(MANY - 10_000, MANY - 10_000, 900.0));
    later.least_share_p = vec![1e-9, 1.0, 1.0];
    assert_eq!(kind(&later), VerdictKind::Invalid);
    let mut shrunk = flows(made(MANY, MANY, 1_000.0), made(MANY - 100, MANY - 100, 900.0));
    shrunk.least_share_p = vec![1e-9, 1.0, 1.0];
    assert_eq!(kind(&shrunk), VerdictKind::Ship);
}

/// What survives in one arm only makes measures of the rest look worse, or better.
#[test]
fn survivors_are_no_fair_sample() {
    for srtt_us in [900.0, 1_100.0] {
        // The guardrail allows 5%: it is not broken, but the loss is large enough to mislead.
        let said = verdict(&flows(made(MANY, MANY - 1_000, 1_000.0), made(MANY, MANY * 955 / 1_000, srtt_us)));
        assert_eq!(said.kind(), VerdictKind::Invalid, "{srtt_us}: {}", said.reason);
        assert!(said.reason.contains("`connected`"), "{}", said.reason);
    }
    // Who connects more often is not to be blamed for the slow connections that the other has lost.
    let rescued = verdict(&flows(made(MANY, MANY * 90 / 100, 1_000.0), made(MANY, MANY - 1_000, 1_100.0)));
    assert_eq!(rescued.kind(), VerdictKind::Invalid, "{}", rescued.reason);
    // And whose measures count all is judged by them.
    let mut all = flows(made(MANY, MANY * 90 / 100, 1_000.0), made(MANY, MANY - 1_000, 1_100.0));
    let design = all.design.as_mut().expect("a design");
    design.measures = vec![measure("connected", MeasureRole::Success), measure("srtt_us", MeasureRole::Diagnostic)];
    let said = verdict(&all);
    assert_eq!((said.kind(), said.arm.as_str()), (VerdictKind::Ship, "treatment"), "{}", said.reason);
}

#[test]
fn what_is_not_known_runs_on_and_says_how_long() {
    let found = flows(made(400, 396, 1_000.0), made(400, 396, 1_000.0));
    let said = verdict(&found);
    assert_eq!(said.kind(), VerdictKind::KeepRunning);
    assert!(said.needed_s > 0, "{said:?}");
    assert!(said.reason.contains("will be found in about"), "{}", said.reason);
    // Ten times the connections in the same time need less.
    let faster = verdict(&flows(made(4_000, 3_960, 1_000.0), made(4_000, 3_960, 1_000.0)));
    assert!(faster.needed_s < said.needed_s, "{faster:?} {said:?}");
    let said = verdict(&over(found));
    assert_eq!((said.kind(), said.needed_s), (VerdictKind::Inconclusive, 0));
    assert!(said.reason.contains("not known whether the arms differ"), "{}", said.reason);
    // Without a planned end it never comes.
    let mut open = flows(made(1_000, 990, 1_000.0), made(1_000, 990, 1_000.0));
    open.planned_end = None;
    assert_eq!(kind(&open), VerdictKind::KeepRunning);
}

#[test]
fn few_are_not_enough_for_a_word() {
    for few in [1, 2, 5, 50, 99, 150] {
        let found = flows(made(few, few, 1_000.0), made(few, few, 10.0));
        assert_eq!(kind(&found), VerdictKind::KeepRunning, "{few}");
        assert_eq!(kind(&over(found)), VerdictKind::Inconclusive, "{few}");
    }
}

fn same_arms() -> v1::ExperimentLayer {
    let mut same = design(Unit::Flow);
    same.arms = vec![arm("control", 5_000, 0, None), arm("treatment", 5_000, 5_000, None)];
    same
}

#[test]
fn an_a_a_finds_nothing_or_is_invalid() {
    let of = |treatment_us| {
        let measured = [1_000.0, treatment_us].map(|us| Some(made(MANY, MANY - 1_000, us).measured()));
        evidence(same_arms(), measured.into())
    };
    let said = verdict(&of(1_000.1));
    assert_eq!(said.kind(), VerdictKind::KeepRunning);
    assert!(said.reason.contains("as it should be"), "{}", said.reason);
    assert_eq!(kind(&over(of(1_000.1))), VerdictKind::Inconclusive, "never a yes");
    for found in [950.0, 1_050.0] {
        let said = verdict(&of(found));
        assert_eq!(said.kind(), VerdictKind::Invalid);
        assert!(said.reason.contains("yet differ"), "{}", said.reason);
    }
}

/// Of three arms the best is shipped, and one that harms is none of the others' business.
#[test]
fn of_three_arms_each_is_judged_for_itself() {
    let mut three = design(Unit::Flow);
    three.arms = vec![
        arm("short", 3_000, 0, Some(200)),
        arm("control", 4_000, 3_000, None),
        arm("shorter", 3_000, 7_000, Some(100)),
    ];
    let of = |short_us, shorter_us| {
        let measured = [(300_000, short_us), (400_000, 1_000.0), (300_000, shorter_us)];
        evidence(three.clone(), measured.map(|(n, us)| Some(made(n, n - 10, us).measured())).into())
    };
    let said = verdict(&of(980.0, 950.0));
    assert_eq!((said.kind(), said.arm.as_str()), (VerdictKind::Ship, "shorter"));
    let said = verdict(&of(980.0, 1_100.0));
    assert_eq!((said.kind(), said.arm.as_str()), (VerdictKind::Ship, "short"), "{}", said.reason);
    assert_eq!(kind(&of(1_050.0, 1_100.0)), VerdictKind::DoNotShip);
    assert_eq!(kind(&of(1_000.0, 1_100.0)), VerdictKind::KeepRunning, "the other may be good yet");
    let all = results(&of(980.0, 950.0));
    assert_eq!(all.arms.iter().map(|arm| arm.arm.as_str()).collect::<Vec<_>>(), ["control", "short", "shorter"]);
    assert!(all.arms[0].control && all.measures.iter().all(|row| row.arm != "control"));
}

/// The control itself moves as the treatment's share grows: what the arms differ by is not what everybody would get.
#[test]
fn a_control_that_moves_with_the_ramp_is_invalid() {
    let ramp = |drifts: bool| {
        let mut now = flows(made(MANY, MANY, if drifts { 1_300.0 } else { 1_000.0 }), made(MANY, MANY, 900.0));
        let earlier = |(revision, share_bp, control_us): (u64, u32, f64)| {
            let arm = |arm: &str, share_bp: u32, us| v1::ArmEvidence {
                arm: arm.to_owned(),
                measured: Some(made(100 * u64::from(share_bp), 100 * u64::from(share_bp), us).measured()),
            };
            v1::EarlierShares {
                revision,
                weights_bp: vec![10_000 - share_bp, share_bp],
                arms: vec![arm("control", 10_000 - share_bp, control_us), arm("treatment", share_bp, 900.0)],
            }
        };
        let control = |share: f64| if drifts { 1_000.0 + 600.0 * share } else { 1_000.0 };
        now.revision = 4;
        now.earlier = [(3, 3_000, control(0.3)), (2, 1_000, control(0.1)), (1, 500, control(0.05))].map(earlier).into();
        now
    };
    let said = verdict(&ramp(true));
    assert_eq!(said.kind(), VerdictKind::Invalid);
    assert!(said.reason.contains("the control itself has moved"), "{}", said.reason);
    let said = verdict(&ramp(false));
    assert_eq!(said.kind(), VerdictKind::Ship, "{}", said.reason);
}

#[test]
fn without_a_success_measure_nothing_is_shipped() {
    let mut found = flows(made(MANY, MANY - 1_000, 1_000.0), made(MANY, MANY - 900, 500.0));
    found.design.as_mut().expect("a design").measures[1].role = MeasureRole::Diagnostic.into();
    assert_eq!(kind(&found), VerdictKind::KeepRunning);
    assert!(results(&found).warnings.iter().any(|warning| warning.contains("role of success")));
    assert_eq!(kind(&over(found.clone())), VerdictKind::Inconclusive);
    let rows = results(&found).measures;
    assert!(rows.iter().any(|row| row.standing() == Standing::Better), "but it is seen");
}
