//! One measure of an arm against the control: effect, intervals and p-values, from co-moments.

use crate::{
    CoMoments, Estimate, Interval, Level, NoAnswer, Sides, cluster,
    estimate::{fixed_interval, fixed_p},
    events::Numbers,
    linear::{self, Columns, Delta, Question, Sums},
    sequence,
};

/// What is compared, by the measures' places in the co-moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The mean of a measure.
    Mean(usize),
    /// The mean of a measure that is 0 or 1.
    Proportion(usize),
    /// Sum over sum, as retransmitted of all segments, and not the mean of every flow's own ratio.
    Ratio {
        /// What is counted.
        numerator: usize,
        /// Of how many.
        denominator: usize,
    },
}

/// A measure from before the treatment, by which chance differences between the arms are taken out (CUPED).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covariate {
    /// The measure.
    pub numerator: usize,
    /// If the covariate is a ratio, of what.
    pub denominator: Option<usize>,
}

impl From<usize> for Covariate {
    fn from(numerator: usize) -> Self {
        Self { numerator, denominator: None }
    }
}

/// At which level units were assigned, and so at which level they are independent.
#[derive(Debug, Clone, Copy)]
pub enum Errors<'a> {
    /// Each unit by itself.
    Independent,
    /// Whole clusters (nodes): each is in one arm. Their sums are the arm's.
    Clustered {
        /// The control's clusters.
        control: &'a [CoMoments],
        /// The treatment's clusters.
        treatment: &'a [CoMoments],
    },
    /// Units finer than these clusters (random groups of prefixes), each of which has both arms: (control, treatment).
    Paired(&'a [(CoMoments, CoMoments)]),
}

/// An estimate with all that is said of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finding {
    /// The effect.
    pub estimate: Estimate,
    /// Where the effect is, valid at every look.
    pub sequence: Interval,
    /// Of no effect, valid at every look.
    pub sequence_p: f64,
    /// Where the effect is, valid at the planned end only.
    pub fixed: Interval,
    /// Of no effect, valid at the planned end only.
    pub fixed_p: f64,
}

impl Finding {
    /// All that follows from an estimate.
    ///
    /// # Errors
    /// If it has no variance or is not finite.
    pub fn of(estimate: Estimate, level: &Level) -> Result<Self, NoAnswer> {
        Ok(Self {
            estimate,
            sequence: sequence::interval(&estimate, level, Sides::Two)?,
            sequence_p: sequence::p_value(&estimate, level, Sides::Two)?,
            fixed: fixed_interval(&estimate, level.alpha(), Sides::Two)?,
            fixed_p: fixed_p(&estimate, Sides::Two)?,
        })
    }
}

/// An arm against the control.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contrast {
    /// The control's value, not adjusted, in the measure's unit.
    pub control: f64,
    /// The treatment's value, not adjusted.
    pub treatment: f64,
    /// The slope on the covariate that was taken out, if one was asked for; 0 where the covariate does not vary.
    pub theta: Option<f64>,
    /// Treatment less control, in the measure's unit.
    pub absolute: Finding,
    /// Treatment less control as a share of the control; none where the control is zero.
    pub relative: Result<Finding, NoAnswer>,
}

/// Compares an arm with the control. `control` and `treatment` are the sums of all units that the question is about (attempts,
/// or established flows); with clustered errors the clusters say it all, and these are only counted.
///
/// # Errors
/// If an arm has fewer than two units or clusters, if one does not vary, or if there is no such measure.
pub fn contrast(
    control: &CoMoments,
    treatment: &CoMoments,
    kind: Kind,
    covariate: Option<Covariate>,
    errors: Errors<'_>,
    level: &Level,
) -> Result<Contrast, NoAnswer> {
    ask((control, treatment), kind, covariate, errors, Numbers::Any, level)
}

/// The same of numbers of any kind.
pub(crate) fn ask(
    (control, treatment): (&CoMoments, &CoMoments),
    kind: Kind,
    covariate: Option<Covariate>,
    errors: Errors<'_>,
    numbers: Numbers,
    level: &Level,
) -> Result<Contrast, NoAnswer> {
    let columns = columns(kind, covariate);
    let events = numbers.events(!matches!(errors, Errors::Independent));
    let proportion = matches!(kind, Kind::Proportion(_));
    let counts = (control.count, treatment.count);
    let (delta, counts, clusters) = match errors {
        Errors::Independent => {
            let sums = Sums::Apart { control, treatment };
            (
                Question { sums, control: columns, treatment: columns, proportion, events: [events; 2] }.answer()?,
                counts,
                None,
            )
        }
        Errors::Clustered { control, treatment } => {
            let (one, other) = (cluster::sums(control, columns)?, cluster::sums(treatment, columns)?);
            let clusters = one.moments.count.saturating_add(other.moments.count);
            let sums = Sums::Apart { control: &one.moments, treatment: &other.moments };
            let (control, treatment) = (one.columns, other.columns);
            let events = [events * one.scale, events * other.scale];
            let question = Question { sums, control, treatment, proportion: false, events };
            (question.answer()?, (one.units, other.units), Some(clusters))
        }
        Errors::Paired(pairs) => {
            let joint = cluster::joint_sums(pairs, columns)?;
            let sums = Sums::Joint(&joint.moments);
            let (control, treatment) = (joint.control, joint.treatment);
            let events = [events * joint.scale; 2];
            let question = Question { sums, control, treatment, proportion: false, events };
            (question.answer()?, joint.units, Some(joint.moments.count))
        }
    };
    conclude(&delta, counts, clusters, level)
}

fn conclude(
    delta: &Delta,
    (n_control, n_treatment): (u64, u64),
    clusters: Option<u64>,
    level: &Level,
) -> Result<Contrast, NoAnswer> {
    let estimate = |(effect, variance)| Estimate { effect, variance, n_control, n_treatment, df: delta.df, clusters };
    Ok(Contrast {
        control: delta.control,
        treatment: delta.treatment,
        theta: delta.theta,
        absolute: Finding::of(estimate((delta.effect, delta.variance)), level)?,
        relative: delta.relative.and_then(|relative| Finding::of(estimate(relative), level)),
    })
}

/// Where value and covariate are.
fn columns(kind: Kind, covariate: Option<Covariate>) -> Columns {
    let (numerator, denominator) = match kind {
        Kind::Mean(measure) | Kind::Proportion(measure) => (measure, None),
        Kind::Ratio { numerator, denominator } => (numerator, Some(denominator)),
    };
    [Some(numerator), denominator, covariate.map(|of| of.numerator), covariate.and_then(|of| of.denominator)]
}

/// One arm's own value, with an interval that is valid at every look. The estimate's effect is the value; its p-values are of a
/// value of zero, and so mostly mean nothing.
///
/// # Errors
/// As [`contrast`].
pub fn arm(
    moments: &CoMoments,
    kind: Kind,
    clusters: Option<&[CoMoments]>,
    level: &Level,
) -> Result<Finding, NoAnswer> {
    let columns = columns(kind, None);
    let (value, variance, n_control, df, clusters) = match clusters {
        None => {
            let (value, variance) = linear::value(moments, columns, matches!(kind, Kind::Proportion(_)))?;
            (value, variance, moments.count, moments.count as f64 - 1.0, None)
        }
        Some(clusters) => {
            let sums = cluster::sums(clusters, columns)?;
            let (value, variance) = linear::value(&sums.moments, sums.columns, false)?;
            (value, variance, sums.units, sums.moments.count as f64 - 1.0, Some(sums.moments.count))
        }
    };
    Finding::of(Estimate { effect: value, variance, n_control, n_treatment: 0, df, clusters }, level)
}

/// Whether the arms are alike in a covariate, which the treatment cannot have changed: asked before it is used. A small
/// [`Finding::sequence_p`] says that the covariate is not from before the treatment, or that the assignment is broken; then
/// adjusting by it would bias the effect.
///
/// # Errors
/// As [`contrast`].
pub fn balance(
    control: &CoMoments,
    treatment: &CoMoments,
    covariate: Covariate,
    errors: Errors<'_>,
    level: &Level,
) -> Result<Finding, NoAnswer> {
    let kind = match covariate {
        Covariate { numerator, denominator: None } => Kind::Mean(numerator),
        Covariate { numerator, denominator: Some(denominator) } => Kind::Ratio { numerator, denominator },
    };
    Ok(contrast(control, treatment, kind, None, errors, level)?.absolute)
}

#[cfg(test)]
mod tests;
