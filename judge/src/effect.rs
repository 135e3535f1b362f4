//! A measure of an arm against the control: which sums it is made of, and with which errors, by what was randomised.

use std::collections::{BTreeMap, BTreeSet};

use sockpilot_outcomes::{Measured, measured::GroupSums};
use sockpilot_policy::{
    bucket::{is_saturated, salt},
    measure::{Estimator, Measure, Stage, Transform},
    model::Unit,
    parameter::{Action, PARAMETERS, Phase},
};
use sockpilot_stats::{
    CoMoments, Contrast, Covariate, Errors, Estimate, Finding, Kind, Level, NoAnswer, balance,
    cluster::Cluster,
    contrast,
    events::{self, Numbers},
    saturation::{SaturationPair, saturation},
    switchback::{SlotPair, switchback},
};

use crate::{ALPHA_OF_CHECKS, evidence::Evidence};

/// Worlds that are looked at where there are too many to look at all.
const WORLDS: u64 = 10_000;

/// What came of a comparison.
#[derive(Debug, Clone)]
pub struct Compared {
    /// Effect, intervals and p-values.
    pub contrast: Contrast,
    /// Chance differences of the covariate were taken out.
    pub adjusted: bool,
    /// What it is the effect of, if not the difference of the arms.
    pub effect_of: &'static str,
    /// What else follows from the same design: what it is of, and how much.
    pub beside: Vec<(&'static str, Finding)>,
}

/// Compares an arm with the control.
///
/// # Errors
/// Why there is no answer.
pub fn compare(
    evidence: &Evidence,
    measure: usize,
    (control, treatment): (usize, usize),
    level: &Level,
) -> Result<Compared, NoAnswer> {
    let estimator = evidence.columns.estimators.get(measure).copied().ok_or(NoAnswer::Unlike)?;
    let (control, treatment) = (&evidence.arms[control].measured, &evidence.arms[treatment].measured);
    let numbers = numbers(&evidence.comparison.measures[measure]);
    match evidence.comparison.unit {
        Unit::TimeSlot { .. } => of_slots((estimator, numbers), control, treatment, level),
        Unit::SaturationPair { .. } => of_saturation(evidence, (estimator, numbers), control, treatment, level),
        Unit::Flow | Unit::PeerPrefix { .. } | Unit::Node => {
            of_units(evidence, measure, estimator, (control, treatment), level)
        }
    }
}

fn of_units(
    evidence: &Evidence,
    measure: usize,
    estimator: Estimator,
    (control, treatment): (&Measured, &Measured),
    level: &Level,
) -> Result<Compared, NoAnswer> {
    let stage = stage(estimator);
    let kind = kind(&evidence.comparison.measures[measure], estimator);
    let clusters = Clusters::of(evidence.comparison.unit, stage, control, treatment);
    let (of_control, of_treatment) = (moments(control, stage), moments(treatment, stage));
    // The covariate is of established connections only, and only where nothing was done to the handshake.
    let covariate = Covariate::from(evidence.columns.covariate());
    let checks = Level::new(ALPHA_OF_CHECKS, Level::TUNING)?;
    let balanced = stage == Stage::Established
        && !evidence.comparison.arms.iter().any(|arm| acts_before_established(&arm.set))
        && balance(of_control, of_treatment, covariate, clusters.errors(), &checks)
            .is_ok_and(|found| found.sequence_p > ALPHA_OF_CHECKS);
    let ask = |covariate| match numbers(&evidence.comparison.measures[measure]) {
        Numbers::Any => contrast(of_control, of_treatment, kind, covariate, clusters.errors(), level),
        Numbers::Events => events::contrast(of_control, of_treatment, kind, covariate, clusters.errors(), level),
    };
    if balanced && let Ok(contrast) = ask(Some(covariate)) {
        return Ok(Compared { contrast, adjusted: true, effect_of: "", beside: vec![] });
    }
    Ok(Compared { contrast: ask(None)?, adjusted: false, effect_of: "", beside: vec![] })
}

/// The clusters of two arms, as far as errors are theirs.
enum Clusters {
    None,
    /// Each in one arm.
    Apart(Vec<CoMoments>, Vec<CoMoments>),
    /// Each has both.
    Both(Vec<(CoMoments, CoMoments)>),
}

/// The clusters of one arm, if its units have several connections each.
#[must_use]
pub fn clusters(unit: Unit, stage: Stage, measured: &Measured) -> Option<Vec<CoMoments>> {
    match unit {
        Unit::Flow => None,
        Unit::PeerPrefix { .. } | Unit::Node | Unit::TimeSlot { .. } | Unit::SaturationPair { .. } => {
            Some(measured.groups.values().map(|sums| cluster(sums, stage)).collect())
        }
    }
}

impl Clusters {
    fn of(unit: Unit, stage: Stage, control: &Measured, treatment: &Measured) -> Self {
        let all = |measured: &Measured| measured.groups.values().map(|sums| cluster(sums, stage)).collect();
        match unit {
            Unit::Node => Self::Apart(all(control), all(treatment)),
            Unit::PeerPrefix { .. } => {
                let groups: BTreeSet<_> = control.groups.keys().chain(treatment.groups.keys()).collect();
                let width = moments(control, stage).mean.len().max(moments(treatment, stage).mean.len());
                let of = |measured: &Measured, group| {
                    measured.groups.get(group).map_or_else(|| CoMoments::new(width), |sums| cluster(sums, stage))
                };
                Self::Both(groups.into_iter().map(|group| (of(control, group), of(treatment, group))).collect())
            }
            Unit::Flow | Unit::TimeSlot { .. } | Unit::SaturationPair { .. } => Self::None,
        }
    }

    fn errors(&self) -> Errors<'_> {
        match self {
            Self::None => Errors::Independent,
            Self::Apart(control, treatment) => Errors::Clustered { control, treatment },
            Self::Both(pairs) => Errors::Paired(pairs),
        }
    }
}

/// The sums of a group, in the form of moments: only count and mean are used of a cluster.
fn cluster(sums: &GroupSums, stage: Stage) -> CoMoments {
    let (count, sums) = match stage {
        Stage::Attempts => (sums.attempts, &sums.attempt_sums),
        Stage::Established => (sums.established, &sums.established_sums),
    };
    let mut moments = CoMoments::new(sums.len());
    moments.count = count;
    if count > 0 {
        moments.mean = sums.iter().map(|sum| sum / count as f64).collect();
    }
    moments
}

fn of_slots(
    (estimator, numbers): (Estimator, Numbers),
    control: &Measured,
    treatment: &Measured,
    level: &Level,
) -> Result<Compared, NoAnswer> {
    let pairs: BTreeSet<u32> = control.groups.keys().chain(treatment.groups.keys()).map(|slot| slot / 2).collect();
    let of = |measured: &Measured, pair: u32| {
        let slot = [2 * pair, 2 * pair + 1].into_iter().find_map(|slot| measured.groups.get(&slot));
        slot.map_or_else(Cluster::default, |sums| weighed(sums, estimator))
    };
    let pairs: Vec<_> =
        pairs.into_iter().map(|pair| SlotPair { control: of(control, pair), treatment: of(treatment, pair) }).collect();
    // The same worlds at every look: a verdict can be drawn again.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 33)
    };
    let found = switchback(&pairs, numbers, WORLDS, &mut random)?;
    let finding = Finding::of(found.estimate, level)?;
    let finding = Finding { fixed_p: found.p, ..finding };
    let (control, treatment) = (total(&pairs, |pair| pair.control), total(&pairs, |pair| pair.treatment));
    let contrast = related(finding, control, treatment, level);
    Ok(Compared { contrast, adjusted: false, effect_of: "switching everybody", beside: vec![] })
}

fn total(pairs: &[SlotPair], of: fn(&SlotPair) -> Cluster) -> f64 {
    let seen = pairs.iter().filter(|pair| pair.control.weight > 0.0 && pair.treatment.weight > 0.0).map(of);
    let (sum, weight) = seen.fold((0.0, 0.0), |(sum, weight), cluster| (sum + cluster.sum, weight + cluster.weight));
    sum / weight
}

fn of_saturation(
    evidence: &Evidence,
    (estimator, numbers): (Estimator, Numbers),
    control: &Measured,
    treatment: &Measured,
    level: &Level,
) -> Result<Compared, NoAnswer> {
    let salt = salt(&evidence.comparison.salt);
    let mut pairs: BTreeMap<u32, [Cluster; 4]> = BTreeMap::new();
    for (arm, measured) in [control, treatment].into_iter().enumerate() {
        for (group, sums) in &measured.groups {
            let place = usize::from(is_saturated(salt, *group)) * 2 + arm;
            pairs.entry(group / 2).or_default()[place] = weighed(sums, estimator);
        }
    }
    let pairs: Vec<_> = pairs
        .into_values()
        .map(|[low_control, low_treatment, high_control, high_treatment]| SaturationPair {
            low_control,
            low_treatment,
            high_control,
            high_treatment,
        })
        .collect();
    let found = saturation(&pairs, numbers, level)?;
    let contrast = related(found.total, found.base, found.base + found.total.estimate.effect, level);
    let beside = vec![
        ("difference where few are treated", found.direct_low),
        ("difference where most are treated", found.direct_high),
        ("what the control gets from the others' treatment", found.spillover),
    ];
    Ok(Compared { contrast, adjusted: false, effect_of: "treating everybody", beside })
}

/// An effect with what it is relative to. The control's own error is left out: it is small beside that of the difference.
fn related(absolute: Finding, control: f64, treatment: f64, level: &Level) -> Contrast {
    let Estimate { effect, variance, .. } = absolute.estimate;
    let relative = if control == 0.0 || !control.is_finite() {
        Err(NoAnswer::ZeroControl)
    } else {
        let size = control.abs();
        Finding::of(Estimate { effect: effect / size, variance: variance / (size * size), ..absolute.estimate }, level)
            .map(|relative| Finding { fixed_p: absolute.fixed_p, ..relative })
    };
    Contrast { control, treatment, theta: None, absolute, relative }
}

/// What a group brings to a mean or a ratio.
fn weighed(sums: &GroupSums, estimator: Estimator) -> Cluster {
    let (count, of) = match stage(estimator) {
        Stage::Attempts => (sums.attempts, &sums.attempt_sums),
        Stage::Established => (sums.established, &sums.established_sums),
    };
    let at = |column: usize| of.get(column).copied().unwrap_or_default();
    match estimator {
        Estimator::Mean { column, .. } => Cluster { sum: at(column), weight: count as f64 },
        Estimator::Ratio { numerator, denominator, .. } => Cluster { sum: at(numerator), weight: at(denominator) },
    }
}

/// Over which connections a measure is.
#[must_use]
pub fn stage(estimator: Estimator) -> Stage {
    match estimator {
        Estimator::Mean { stage, .. } | Estimator::Ratio { stage, .. } => stage,
    }
}

/// The moments of a stage.
#[must_use]
pub fn moments(measured: &Measured, stage: Stage) -> &CoMoments {
    match stage {
        Stage::Attempts => &measured.attempts,
        Stage::Established => &measured.established,
    }
}

/// What is asked of the moments.
#[must_use]
pub fn kind(measure: &Measure, estimator: Estimator) -> Kind {
    let yes_or_no = matches!(measure.transform, Transform::AtMost(_)) || measure.quantity.unit().is_empty();
    match estimator {
        Estimator::Mean { column, .. } if yes_or_no => Kind::Proportion(column),
        Estimator::Mean { column, .. } => Kind::Mean(column),
        Estimator::Ratio { numerator, denominator, .. } => Kind::Ratio { numerator, denominator },
    }
}

/// Whether a measure counts events, so that none of many is data, too.
#[must_use]
pub fn numbers(measure: &Measure) -> Numbers {
    let counts = match measure.transform {
        Transform::AtMost(_) => true,
        Transform::Log => false,
        Transform::Itself | Transform::Cap(_) => measure.quantity.is_count(),
    };
    if counts { Numbers::Events } else { Numbers::Any }
}

/// Whether something in a set may change the handshake, so that its round-trip time is an outcome.
fn acts_before_established(set: &sockpilot_policy::model::Parameters) -> bool {
    set.iter().any(|(slot, _)| acts_in_handshake(slot))
}

/// Whether the parameter of a slot may change the handshake.
#[must_use]
pub fn acts_in_handshake(slot: usize) -> bool {
    match PARAMETERS.get(slot).map(|parameter| parameter.action) {
        Some(Action::Option { phases, .. }) => {
            phases & Phase::Connect as u8 != 0 && phases & Phase::ActiveEstablished as u8 == 0
        }
        Some(Action::Reply(_)) => true,
        Some(Action::ReflectTrafficClass) | None => false,
    }
}
