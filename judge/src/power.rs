//! How many connections it takes, and how long.

use sockpilot_outcomes::Sums;
use sockpilot_policy::{
    measure::{Measure, Quantity, Role, Transform},
    model::{Comparison, Unit},
};
use sockpilot_proto::{convert::measure_to_proto, v1};
use sockpilot_stats::{
    Level, NoAnswer, Sides, arm,
    power::{Design, Test, Variances, detectable, sample_size},
};

use crate::{
    ALPHA,
    effect::{kind, moments, stage},
    evidence::{Evidence, control},
};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerQuestion {
    /// As a share of the control's value.
    pub effect: f64,
    /// With which probability it is to be found.
    pub power: f64,
}

/// What it takes to find an effect, by measure and arm. What was measured of all arms stands for the control: before an epoch has begun
/// nothing else is known.
#[must_use]
pub fn power(evidence: &Evidence, question: PowerQuestion, source: String) -> v1::ExperimentPower {
    let control = evidence.control();
    let units_per_s = evidence.attempts() as f64 / evidence.duration_s().max(1) as f64;
    let mut measures = vec![];
    for (index, measure) in evidence.comparison.measures.iter().enumerate() {
        if measure.role == Role::Diagnostic {
            continue;
        }
        for treatment in (0..evidence.arms.len()).filter(|arm| *arm != control) {
            let plain = v1::MeasurePower {
                measure: Some(measure_to_proto(measure)),
                title: measure.to_string(),
                arm: evidence.arms[treatment].arm.name.to_string(),
                ..v1::MeasurePower::default()
            };
            measures.push(match of_measure(evidence, index, measure, (control, treatment), question) {
                Err(why) => v1::MeasurePower { no_answer: why.to_string(), ..plain },
                Ok((units, units_at_end, detectable_now, share_of_all)) => {
                    let rate = units_per_s * share_of_all;
                    let lasts = |units: f64| if rate > 0.0 { units / rate } else { 0.0 };
                    v1::MeasurePower {
                        units,
                        units_at_end,
                        duration_s: lasts(units),
                        duration_at_end_s: lasts(units_at_end),
                        detectable_now,
                        ..plain
                    }
                }
            });
        }
    }
    v1::ExperimentPower { measures, source, units_per_s }
}

/// The same before an epoch has measured anything, from the outcomes of a policy over some time: of the measures whose means and
/// variances these tell.
#[must_use]
pub fn power_before(
    comparison: &Comparison,
    seen: &Sums,
    duration_s: f64,
    question: PowerQuestion,
    source: String,
) -> v1::ExperimentPower {
    let control = control(comparison);
    let units_per_s = seen.counts.flows as f64 / duration_s.max(1.0);
    let weight = |arm: usize| f64::from(comparison.arms[arm].weight_bp.max(1));
    let all: f64 = (0..comparison.arms.len()).map(weight).sum();
    let mut measures = vec![];
    for measure in comparison.measures.iter().filter(|measure| measure.role != Role::Diagnostic) {
        for treatment in (0..comparison.arms.len()).filter(|arm| *arm != control) {
            let plain = v1::MeasurePower {
                measure: Some(measure_to_proto(measure)),
                title: measure.to_string(),
                arm: comparison.arms[treatment].name.to_string(),
                ..v1::MeasurePower::default()
            };
            let both = weight(treatment) + weight(control);
            let sizes = known_before(measure, seen).and_then(|(mean, variance)| {
                let effect = match measure.transform {
                    Transform::Log => question.effect.ln_1p(),
                    _ => question.effect * mean.abs(),
                };
                let size = |test| {
                    let level = Level::new(ALPHA, Level::TUNING)?;
                    let share = weight(treatment) / both;
                    let design = Design { level, sides: Sides::Two, test, share, design_effect: 1.0 };
                    sample_size(effect, Variances::both(variance), question.power, &design)
                };
                Ok((size(Test::Sequential)?, size(Test::Fixed)?))
            });
            let rate = units_per_s * both / all;
            let lasts = |units: f64| if rate > 0.0 { units / rate } else { 0.0 };
            measures.push(match sizes {
                Err(why) => v1::MeasurePower { no_answer: why.to_string(), ..plain },
                Ok((units, units_at_end)) => v1::MeasurePower {
                    units,
                    units_at_end,
                    duration_s: lasts(units),
                    duration_at_end_s: lasts(units_at_end),
                    ..plain
                },
            });
        }
    }
    v1::ExperimentPower { measures, source, units_per_s }
}

/// Mean and variance of a measure, as far as the sums of all flows tell them.
fn known_before(measure: &Measure, seen: &Sums) -> Result<(f64, f64), NoAnswer> {
    let flows = seen.counts.flows;
    let unknown = NoAnswer::TooFew { found: 0, needed: 2 };
    let share = |events: u64| {
        let p = events as f64 / flows.max(1) as f64;
        if flows < 2 { Err(unknown) } else { Ok((p, p * (1.0 - p))) }
    };
    let distribution = match measure.quantity {
        _ if measure.per.is_some() => return Err(unknown),
        Quantity::Connected => return share(flows - seen.counts.failed - seen.counts.abandoned),
        Quantity::Failed => return share(seen.counts.failed),
        Quantity::Reset => return share(seen.counts.reset),
        Quantity::TimedOut => return share(seen.counts.timed_out),
        Quantity::HandshakeUs => &seen.distributions.connect_time_us,
        Quantity::SrttUs => &seen.distributions.srtt_us,
        Quantity::DurationUs => &seen.distributions.duration_us,
        _ => return Err(unknown),
    };
    let (mean, variance) = (distribution.moments.mean, distribution.moments.variance().ok_or(unknown)?);
    match measure.transform {
        Transform::Itself => Ok((mean, variance)),
        // By the delta method: the variance of a logarithm is about that of the relative deviation, and less for heavy tails.
        Transform::Log if mean > 0.0 => Ok((mean.ln(), variance / (mean * mean))),
        Transform::Log | Transform::Cap(_) | Transform::AtMost(_) => Err(unknown),
    }
}

fn of_measure(
    evidence: &Evidence,
    index: usize,
    measure: &Measure,
    (control, treatment): (usize, usize),
    question: PowerQuestion,
) -> Result<(f64, f64, f64, f64), NoAnswer> {
    let estimator = *evidence.columns.estimators.get(index).ok_or(NoAnswer::Unlike)?;
    let known = evidence.arms.iter().find(|arm| moments(&arm.measured, stage(estimator)).count > 0);
    let known = known.ok_or(NoAnswer::TooFew { found: 0, needed: 2 })?;
    let level = Level::new(ALPHA, Level::TUNING)?;
    let of_known = moments(&known.measured, stage(estimator));
    let found = arm(of_known, kind(measure, estimator), None, &level)?;
    let variance = found.estimate.variance * of_known.count as f64;
    let effect = match measure.transform {
        Transform::Log => question.effect.ln_1p(),
        _ if found.estimate.effect == 0.0 => return Err(NoAnswer::ZeroControl),
        _ => question.effect * found.estimate.effect.abs(),
    };
    let weight = |arm: usize| f64::from(evidence.arms[arm].arm.weight_bp.max(1));
    let (own, both) = (weight(treatment), weight(treatment) + weight(control));
    let all: f64 = (0..evidence.arms.len()).map(weight).sum();
    let design =
        |test| Design { level, sides: Sides::Two, test, share: own / both, design_effect: design_effect(evidence) };
    let variances = Variances::both(variance);
    let units = sample_size(effect, variances, question.power, &design(Test::Sequential))?;
    let at_end = sample_size(effect, variances, question.power, &design(Test::Fixed))?;
    let count = |arm: usize| moments(&evidence.arms[arm].measured, stage(estimator)).count;
    let now = count(control).saturating_add(count(treatment));
    let least = detectable(now.max(2) as f64, variances, question.power, &design(Test::Sequential)).unwrap_or_default();
    let relative = match measure.transform {
        Transform::Log => least.exp_m1(),
        _ => least / found.estimate.effect.abs(),
    };
    Ok((units, at_end, relative, both / all))
}

/// By what clusters multiply the variance, as far as it can be seen: how unequal they are in size is a lower bound.
fn design_effect(evidence: &Evidence) -> f64 {
    if evidence.comparison.unit == Unit::Flow {
        return 1.0;
    }
    let sizes = evidence.arms.iter().flat_map(|arm| arm.measured.groups.values()).map(|sums| sums.attempts as f64);
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for size in sizes {
        (count, sum, squares) = (count + 1.0, sum + size, squares + size * size);
    }
    if sum > 0.0 { (count * squares / (sum * sum)).max(1.0) } else { 1.0 }
}
