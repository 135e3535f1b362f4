//! An effect and how sure it is, however it was come by.

use crate::{
    NoAnswer,
    answer::finite,
    special::{t_sf, t_upper},
};

/// An effect (or a value) with the variance of its estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// In the measure's unit; relative ones are shares of the control.
    pub effect: f64,
    /// The variance of `effect`, not of a unit: the standard error squared.
    pub variance: f64,
    /// Units of the control; of one arm's own value, its units.
    pub n_control: u64,
    /// Units of the treatment; 0 for one arm's own value.
    pub n_treatment: u64,
    /// Degrees of freedom of the variance.
    pub df: f64,
    /// How many clusters the variance is taken over, if over clusters. Then few of them count as few, whatever the units.
    pub clusters: Option<u64>,
}

/// Where an effect may lie. One-sided intervals are infinite on the other side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Not below this.
    pub lower: f64,
    /// Not above this.
    pub upper: f64,
}

/// On which sides an interval ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sides {
    /// On both: "has it changed?"
    Two,
    /// Below only: "is it greater?"
    Lower,
    /// Above only: "is it less?"
    Upper,
}

impl Interval {
    /// Whether a value lies in it.
    #[must_use]
    pub fn holds(&self, value: f64) -> bool {
        self.lower <= value && value <= self.upper
    }

    pub(crate) fn around(effect: f64, half_width: f64, sides: Sides) -> Self {
        let (lower, upper) = (effect - half_width, effect + half_width);
        match sides {
            Sides::Two => Self { lower, upper },
            Sides::Lower => Self { lower, upper: f64::INFINITY },
            Sides::Upper => Self { lower: f64::NEG_INFINITY, upper },
        }
    }
}

impl Estimate {
    /// The standard error.
    #[must_use]
    pub fn standard_error(&self) -> f64 {
        self.variance.sqrt()
    }

    /// The units of both arms, or the clusters: what a sequence counts.
    #[must_use]
    pub fn sample(&self) -> u64 {
        self.clusters.unwrap_or_else(|| self.n_control.saturating_add(self.n_treatment))
    }

    /// The effect in standard errors; or that the estimate is none.
    pub(crate) fn score(&self) -> Result<f64, NoAnswer> {
        if !(self.effect.is_finite() && self.variance.is_finite() && self.df.is_finite()) {
            return Err(NoAnswer::NotFinite);
        }
        if self.variance <= 0.0 {
            return Err(NoAnswer::NoVariance);
        }
        if self.df <= 0.0 {
            return Err(NoAnswer::TooFew { found: self.sample(), needed: 2 });
        }
        finite(self.effect / self.standard_error())
    }
}

/// The interval that is valid at the planned end only: Welch's t interval (for clusters, t over clusters).
///
/// Looking at it before, and stopping when it pleases, makes false alarms of more than a third of all A/A tests.
///
/// # Errors
/// If the estimate has no variance or is not finite.
pub fn fixed_interval(estimate: &Estimate, alpha: f64, sides: Sides) -> Result<Interval, NoAnswer> {
    estimate.score()?;
    if !(alpha > 0.0 && alpha < 1.0) {
        return Err(NoAnswer::Level);
    }
    let tail = if sides == Sides::Two { alpha / 2.0 } else { alpha };
    let half_width = finite(t_upper(tail, estimate.df) * estimate.standard_error())?;
    Ok(Interval::around(estimate.effect, half_width, sides))
}

/// The p-value that belongs to [`fixed_interval`], of no effect. Of [`Sides::Lower`]: that the effect is not greater.
///
/// # Errors
/// If the estimate has no variance or is not finite.
pub fn fixed_p(estimate: &Estimate, sides: Sides) -> Result<f64, NoAnswer> {
    let score = estimate.score()?;
    Ok(match sides {
        Sides::Two => (2.0 * t_sf(score.abs(), estimate.df)).min(1.0),
        Sides::Lower => t_sf(score, estimate.df),
        Sides::Upper => t_sf(-score, estimate.df),
    })
}
