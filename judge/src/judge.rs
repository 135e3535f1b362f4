//! From evidence to results.

use sockpilot_policy::{
    bucket::GROUPS,
    measure::{Better, Measure, Role, Stage, Transform},
    model::Unit,
};
use sockpilot_proto::{convert::measure_to_proto, v1};
use sockpilot_stats::{
    Contrast, Finding, Level, NoAnswer,
    events::Numbers,
    multiple::holm,
    noninferiority::{Direction, Margin, Standing, non_inferiority},
    srm::{CONCENTRATION, LeastP, mismatch},
};

use crate::{
    ALPHA, ALPHA_OF_CHECKS, CLUSTERS_MIN, LOSS_FLOOR, RATE_FLOOR, SHARE_FLOOR, UNITS_MIN,
    effect::{Compared, compare, moments, numbers, stage},
    evidence::{Evidence, EvidenceError},
    verdict, words,
};

/// What the arms' shares are looked at by, in the order of [`v1::Evidence::least_share_p`].
pub const STAGES: [&str; 3] = ["begun", "established", "ended"];

/// With more groups than this, several nodes may be in one.
const GROUPS_OF_ONE_NODE: usize = GROUPS as usize / 4;

/// One measure of one arm against the control.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The measure.
    pub measure: Measure,
    /// Position of the arm.
    pub arm: usize,
    /// What came of it, or why nothing did.
    pub compared: Result<Compared, NoAnswer>,
    /// How it stands.
    pub standing: v1::Standing,
    /// After correction for all success measures.
    pub corrected_p: f64,
}

/// Draws all that can be said.
///
/// # Errors
/// If the evidence contradicts itself.
pub fn judge(message: &v1::Evidence) -> Result<v1::ExperimentResults, EvidenceError> {
    let evidence = Evidence::read(message)?;
    let checks = share_checks(&evidence);
    let mut judged = compared(&evidence);
    settle(&evidence, &mut judged);
    let warnings = words::warnings(&evidence, &checks, &judged);
    let drift = words::drift(&evidence);
    let verdict = verdict::of(&evidence, &checks, &judged, drift.as_deref());
    let control = evidence.control();
    let mut order: Vec<usize> = (0..evidence.arms.len()).collect();
    order.sort_by_key(|at| *at != control);
    Ok(v1::ExperimentResults {
        name: evidence.name.clone(),
        revision: evidence.revision,
        from_time: message.from_time,
        to_time: message.to_time,
        estimand: words::estimand(&evidence),
        arms: order.into_iter().map(|at| summary(&evidence, at, at == control)).collect(),
        share_checks: checks,
        measures: judged.iter().flat_map(|judged| rows(&evidence, judged)).collect(),
        warnings: drift.into_iter().chain(warnings).collect(),
        verdict: Some(verdict),
    })
}

fn summary(evidence: &Evidence, at: usize, control: bool) -> v1::ArmSummary {
    let arm = &evidence.arms[at];
    let saturated = matches!(evidence.comparison.unit, Unit::SaturationPair { .. });
    v1::ArmSummary {
        arm: arm.arm.name.to_string(),
        weight_bp: if saturated { 0 } else { arm.arm.weight_bp },
        attempts: arm.measured.attempts.count,
        established: arm.measured.established.count,
        unfinished: arm.measured.unfinished,
        control,
        groups: arm.measured.groups.len() as u64,
    }
}

/// Whether the arms have their shares: of connections where each is a unit, else of groups of units. Nothing can be said where a unit's
/// groups have both arms.
fn share_checks(evidence: &Evidence) -> Vec<v1::ShareCheck> {
    let shares: Vec<f64> = evidence.arms.iter().map(|arm| f64::from(arm.arm.weight_bp)).collect();
    let counts = |of: fn(&sockpilot_outcomes::Measured) -> u64| {
        evidence.arms.iter().map(|arm| of(&arm.measured)).collect::<Vec<_>>()
    };
    let stages: Vec<(&str, Vec<u64>, f64)> = match evidence.comparison.unit {
        Unit::Flow => vec![
            (STAGES[0], counts(|measured| measured.attempts.count), SHARE_FLOOR),
            (STAGES[1], counts(|measured| measured.established.count), LOSS_FLOOR),
            (STAGES[2], counts(|measured| measured.attempts.count - measured.unfinished), LOSS_FLOOR),
        ],
        // Nodes are counted by their groups as long as hardly two share one: of many nodes every arm has all groups, whatever its share.
        Unit::Node if evidence.arms.iter().any(|arm| arm.measured.groups.len() > GROUPS_OF_ONE_NODE) => vec![],
        Unit::Node | Unit::TimeSlot { .. } => {
            vec![(STAGES[0], counts(|measured| measured.groups.len() as u64), SHARE_FLOOR)]
        }
        Unit::PeerPrefix { .. } | Unit::SaturationPair { .. } => vec![],
    };
    let check = |(index, (stage, counts, floor)): (usize, (&str, Vec<u64>, f64))| {
        let found = mismatch(&counts, &shares, CONCENTRATION).ok()?;
        let before = evidence.least_share_p.get(index).copied().unwrap_or(1.0);
        let least = LeastP::new(before).after(found.p);
        Some(v1::ShareCheck {
            stage: stage.to_owned(),
            p: least.p(),
            deviation: found.deviation,
            mismatch: found.matters(least, ALPHA_OF_CHECKS, floor),
        })
    };
    stages.into_iter().enumerate().filter_map(check).collect()
}

fn compared(evidence: &Evidence) -> Vec<Judged> {
    let control = evidence.control();
    let treatments: Vec<usize> = (0..evidence.arms.len()).filter(|arm| *arm != control).collect();
    let level = Level::new(ALPHA, Level::TUNING).map(|level| level.divided(treatments.len()));
    let mut judged = vec![];
    for (index, measure) in evidence.comparison.measures.iter().enumerate() {
        for arm in &treatments {
            let answer = |level: Level| {
                enough(evidence, index, control, *arm)?;
                compare(evidence, index, (control, *arm), &level)
            };
            let compared = level.and_then(answer);
            let standing = v1::Standing::Open;
            judged.push(Judged { measure: *measure, arm: *arm, compared, standing, corrected_p: 1.0 });
        }
    }
    judged
}

/// Intervals that hold at every look do so for many units; of few nothing is said.
fn enough(evidence: &Evidence, measure: usize, control: usize, treatment: usize) -> Result<(), NoAnswer> {
    let estimator = evidence.columns.estimators.get(measure).ok_or(NoAnswer::Unlike)?;
    for arm in [control, treatment] {
        let measured = &evidence.arms[arm].measured;
        let (found, needed) = match evidence.comparison.unit {
            Unit::Flow => (moments(measured, stage(*estimator)).count, UNITS_MIN),
            Unit::PeerPrefix { .. } | Unit::Node | Unit::TimeSlot { .. } | Unit::SaturationPair { .. } => {
                (measured.groups.len() as u64, CLUSTERS_MIN)
            }
        };
        if found < needed {
            return Err(NoAnswer::TooFew { found, needed });
        }
    }
    Ok(())
}

/// How each stands: success measures after correction for all of them, guardrails each for itself.
fn settle(evidence: &Evidence, judged: &mut [Judged]) {
    let is_success = |judged: &Judged| judged.measure.role == Role::Success || evidence.is_aa();
    let successes: Vec<usize> = (0..judged.len()).filter(|at| is_success(&judged[*at])).collect();
    let p = |at: &usize| judged[*at].compared.as_ref().map_or(1.0, |found| strongest(&found.contrast).sequence_p);
    let corrected = holm(&successes.iter().map(p).collect::<Vec<_>>());
    for (at, p) in successes.into_iter().zip(corrected) {
        judged[at].corrected_p = p;
    }
    let guardrails = Level::new(ALPHA, Level::TUNING);
    for judged in judged {
        let Ok(compared) = &judged.compared else { continue };
        let (better, found) = (judged.measure.better(), strongest(&compared.contrast));
        let good = (found.estimate.effect > 0.0) == (better == Better::Higher);
        judged.standing = match judged.measure.role {
            Role::Guardrail { margin_bp } if !evidence.is_aa() => match guardrails {
                Ok(level) => guardrail(&compared.contrast, &judged.measure, margin_bp, &level),
                Err(_) => v1::Standing::Open,
            },
            Role::Success if judged.corrected_p < ALPHA => direction(good),
            Role::Diagnostic | Role::Guardrail { .. } if found.sequence_p < ALPHA => direction(good),
            Role::Success | Role::Diagnostic | Role::Guardrail { .. } => v1::Standing::Open,
        };
    }
}

fn direction(good: bool) -> v1::Standing {
    if good { v1::Standing::Better } else { v1::Standing::Worse }
}

fn guardrail(contrast: &Contrast, measure: &Measure, margin_bp: u32, level: &Level) -> v1::Standing {
    let direction = match measure.better() {
        Better::Higher => Direction::Higher,
        Better::Lower => Direction::Lower,
    };
    let share = f64::from(margin_bp) / 10_000.0;
    let margin = match (measure.transform, numbers(measure)) {
        // A difference of logarithms is a relative one already.
        (Transform::Log, _) => Margin::Absolute(share.ln_1p()),
        (_, Numbers::Events) => Margin::Within { share, or: share * RATE_FLOOR },
        (_, Numbers::Any) => Margin::Relative(share),
    };
    match non_inferiority(contrast, direction, margin, level).map(|found| found.standing) {
        Ok(Standing::Pass) => v1::Standing::WithinMargin,
        Ok(Standing::Fail) => v1::Standing::Worse,
        Ok(Standing::Inconclusive) | Err(_) => v1::Standing::Open,
    }
}

/// The absolute effect: the relative one is less sure by the control's own error.
fn strongest(contrast: &Contrast) -> Finding {
    contrast.absolute
}

/// The messages about a measure of an arm: first the effect itself, then what follows beside it.
fn rows(evidence: &Evidence, judged: &Judged) -> Vec<v1::MeasureResult> {
    let Judged { measure, arm, compared, standing, corrected_p } = judged;
    let plain = v1::MeasureResult {
        measure: Some(measure_to_proto(measure)),
        title: measure.to_string(),
        unit: measure.unit(),
        arm: evidence.arms[*arm].arm.name.to_string(),
        higher_is_better: measure.better() == Better::Higher,
        standing: (*standing).into(),
        corrected_p: *corrected_p,
        ..v1::MeasureResult::default()
    };
    let compared = match compared {
        Ok(compared) => compared,
        Err(why) => return vec![v1::MeasureResult { no_answer: why.to_string(), ..plain }],
    };
    let Compared { contrast, adjusted, effect_of, beside } = compared;
    let log = measure.transform == Transform::Log;
    let mut rows = vec![v1::MeasureResult {
        control: contrast.control,
        value: contrast.treatment,
        absolute: Some(effect(&contrast.absolute)),
        relative: if log {
            Some(of_logarithms(&contrast.absolute))
        } else {
            contrast.relative.as_ref().ok().map(effect)
        },
        adjusted: *adjusted,
        effect_of: (*effect_of).to_owned(),
        ..plain.clone()
    }];
    rows.extend(beside.iter().map(|(of, finding)| v1::MeasureResult {
        control: contrast.control,
        value: contrast.control + finding.estimate.effect,
        absolute: Some(effect(finding)),
        relative: log.then(|| of_logarithms(finding)),
        effect_of: (*of).to_owned(),
        standing: v1::Standing::Unspecified.into(),
        ..plain.clone()
    }));
    rows
}

fn effect(finding: &Finding) -> v1::Effect {
    let Finding { estimate, sequence, sequence_p, fixed, fixed_p } = finding;
    v1::Effect {
        effect: estimate.effect,
        lower: sequence.lower,
        upper: sequence.upper,
        p: *sequence_p,
        standard_error: estimate.standard_error(),
        lower_at_end: fixed.lower,
        upper_at_end: fixed.upper,
        p_at_end: *fixed_p,
    }
}

/// A difference of mean logarithms is a ratio of geometric means.
fn of_logarithms(finding: &Finding) -> v1::Effect {
    let v1::Effect { effect, lower, upper, p, standard_error, lower_at_end, upper_at_end, p_at_end } =
        self::effect(finding);
    let [effect, lower, upper, lower_at_end, upper_at_end] =
        [effect, lower, upper, lower_at_end, upper_at_end].map(f64::exp_m1);
    v1::Effect { effect, lower, upper, p, standard_error, lower_at_end, upper_at_end, p_at_end }
}

/// Whether a measure is of established connections.
#[must_use]
pub fn is_of_established(evidence: &Evidence, measure: &Measure) -> bool {
    let at = evidence.comparison.measures.iter().position(|other| other == measure);
    at.and_then(|at| evidence.columns.estimators.get(at))
        .is_some_and(|estimator| stage(*estimator) == Stage::Established)
}
