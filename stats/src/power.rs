//! How many units an experiment needs, what it can find, and how long it takes: before it starts, and while it runs.
//!
//! With n units of both arms, the treatment's share s of them, and variances of a unit v_C and v_T, an estimate has the
//! variance D (v_T / (n s) + v_C / (n (1 - s))), D the design effect of clusters. Power is the chance that the interval at
//! the planned end excludes no effect. A sequential one may end before; its power at the end is the lower bound of that.

use crate::{
    Estimate, Level, NoAnswer, Sides,
    answer::finite,
    sequence,
    special::{normal_sf, normal_upper},
};

/// The most units that any plan may need.
const UNITS_MAX: f64 = 1e18;

/// Which interval will decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// The one at the planned end.
    Fixed,
    /// The one that is valid at every look.
    Sequential,
}

/// What is planned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Design {
    /// Of the decision.
    pub level: Level,
    /// Of the interval.
    pub sides: Sides,
    /// Of the interval.
    pub test: Test,
    /// The treatment's share of the units of both arms, between 0 and 1.
    pub share: f64,
    /// By what clusters multiply the variance ([`crate::cluster::design_effect`]); 1 without.
    pub design_effect: f64,
}

/// The variances of one unit, in the measure's unit squared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variances {
    /// Of the control.
    pub control: f64,
    /// Of the treatment.
    pub treatment: f64,
}

impl Variances {
    /// The same in both arms.
    #[must_use]
    pub fn both(variance: f64) -> Self {
        Self { control: variance, treatment: variance }
    }

    /// Of a thing that happens in a share `p` of the control's units, and `effect` more often in the treatment's.
    #[must_use]
    pub fn of_proportion(p: f64, effect: f64) -> Self {
        Self { control: p * (1.0 - p), treatment: (p + effect) * (1.0 - p - effect) }
    }
}

impl Design {
    fn checked(&self, variances: Variances) -> Result<(), NoAnswer> {
        let Variances { control, treatment } = variances;
        if !(self.share > 0.0 && self.share < 1.0) {
            return Err(NoAnswer::Shares);
        }
        if ![control, treatment, self.design_effect].iter().all(|value| value.is_finite() && *value >= 0.0) {
            return Err(NoAnswer::NotFinite);
        }
        if (control + treatment) * self.design_effect > 0.0 { Ok(()) } else { Err(NoAnswer::NoVariance) }
    }

    /// The variance of an estimate from one unit; from n it is the nth part.
    fn variance(&self, variances: Variances) -> f64 {
        self.design_effect * (variances.treatment / self.share + variances.control / (1.0 - self.share))
    }

    /// The fewest units of both arms with which the interval says anything.
    fn fewest(&self) -> f64 {
        let independent = self.test == Test::Sequential && self.design_effect <= 1.0;
        let first = if independent { self.level.first_look() as f64 / self.share.min(1.0 - self.share) } else { 0.0 };
        first.max(2.0)
    }

    /// By how many standard errors an effect must differ from none.
    fn bound(&self, units: f64) -> f64 {
        match self.test {
            // A sequence over clusters is tuned to their number.
            Test::Sequential if self.design_effect > 1.0 => {
                sequence::bound_at(self.level.tuning(), &self.level, self.sides)
            }
            Test::Sequential => sequence::bound_at(units, &self.level, self.sides),
            Test::Fixed if self.sides == Sides::Two => normal_upper(0.5 * self.level.alpha()),
            Test::Fixed => normal_upper(self.level.alpha()),
        }
    }
}

/// The chance to find an effect that is `scores` standard errors large, where the bound is at `bound`.
fn chance(scores: f64, bound: f64, sides: Sides) -> f64 {
    let found = normal_sf(bound - scores);
    if sides == Sides::Two { found + normal_sf(bound + scores) } else { found }
}

/// The power to find an effect (in the measure's unit) with this many units of both arms.
///
/// # Errors
/// If the design or a variance is none.
pub fn power(effect: f64, variances: Variances, units: f64, design: &Design) -> Result<f64, NoAnswer> {
    design.checked(variances)?;
    if units.is_nan() || units < design.fewest() {
        return Ok(0.0);
    }
    let scores = finite(effect)?.abs() / (design.variance(variances) / units).sqrt();
    finite(chance(scores, design.bound(units), design.sides))
}

/// How many units of both arms it takes to find an effect with a power. For a fixed test
/// (z_alpha + z_power)^2 (v_T / s + v_C / (1 - s)) D / effect^2; for a sequential one the least n with
/// bound(n) + z_power = effect / SE(n), and not before its first look.
///
/// # Errors
/// If the effect is zero, the power not between 0 and 1, or the design or a variance is none; [`NoAnswer::NotFinite`] if no
/// number of units that can be counted is enough.
pub fn sample_size(effect: f64, variances: Variances, power: f64, design: &Design) -> Result<f64, NoAnswer> {
    design.checked(variances)?;
    if !(power > 0.0 && power < 1.0) {
        return Err(NoAnswer::Level);
    }
    let needed = |units: f64| (design.bound(units) - normal_upper(power)).max(0.0).powi(2);
    let unit = design.variance(variances) / (effect * effect);
    if design.test == Test::Fixed {
        return finite(needed(2.0) * unit);
    }
    // The bound grows with the logarithm of n, so the right side wins in the end.
    solve(design.fewest(), |units| units >= needed(units) * unit)
}

/// The least x from `from` on for which something holds that holds for all greater ones.
fn solve(from: f64, holds: impl Fn(f64) -> bool) -> Result<f64, NoAnswer> {
    let (mut low, mut high) = (from, from);
    while !holds(high) {
        low = high;
        high *= 2.0;
        if high > UNITS_MAX {
            return Err(NoAnswer::NotFinite);
        }
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if holds(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(high)
}

/// The least effect (in the measure's unit) that is found with a power in this many units of both arms.
///
/// # Errors
/// If there are fewer than two units or the first look, the power is not between 0 and 1, or the design or a variance is none.
pub fn detectable(units: f64, variances: Variances, power: f64, design: &Design) -> Result<f64, NoAnswer> {
    design.checked(variances)?;
    if !(power > 0.0 && power < 1.0) {
        return Err(NoAnswer::Level);
    }
    if units.is_nan() || units < design.fewest() {
        // A float becomes the nearest count there is.
        return Err(NoAnswer::TooFew { found: units as u64, needed: design.fewest().ceil() as u64 });
    }
    finite((design.bound(units) - normal_upper(power)) * (design.variance(variances) / units).sqrt())
}

/// The same as a share of the control's mean, whose own error then counts too: with k the standard errors needed, a and b the
/// variances of both arms' means over the control's mean squared, the root of d^2 = k^2 (a + b (1 + d)^2).
///
/// # Errors
/// As [`detectable`]; [`NoAnswer::TooFew`] if the control's mean is not told from zero, so that no relative effect is.
pub fn detectable_relative(
    units: f64,
    control_mean: f64,
    variances: Variances,
    power: f64,
    design: &Design,
) -> Result<f64, NoAnswer> {
    detectable(units, variances, power, design)?;
    if finite(control_mean)? == 0.0 {
        return Err(NoAnswer::ZeroControl);
    }
    let scale = design.design_effect / (units * control_mean * control_mean);
    let (a, b) = (variances.treatment * scale / design.share, variances.control * scale / (1.0 - design.share));
    let square = (design.bound(units) - normal_upper(power)).powi(2);
    let rest = 1.0 - square * b;
    if rest <= 0.0 {
        let needed = finite(units * square * b)?.ceil();
        return Err(NoAnswer::TooFew { found: units as u64, needed: needed as u64 });
    }
    let half = square * b;
    finite((half + (half * half + rest * square * (a + b)).sqrt()) / rest)
}

/// How many times the present sample must be added to find `effect` (in the estimate's unit) with a power; 0 if it is
/// already enough. Supposes that variance goes on falling with the number of units. The level is the design's; its share
/// and design effect are in the estimate already.
///
/// # Errors
/// If the estimate has no variance, or the power is not between 0 and 1, or no multiple is enough.
pub fn more_needed(estimate: &Estimate, effect: f64, power: f64, design: &Design) -> Result<f64, NoAnswer> {
    estimate.score()?;
    if !(power > 0.0 && power < 1.0) {
        return Err(NoAnswer::Level);
    }
    let sample = estimate.sample() as f64;
    let plain = Design { design_effect: 1.0, ..*design };
    let scores = finite(effect)?.abs() / estimate.standard_error();
    let enough = |times: f64| chance(scores * times.sqrt(), plain.bound(times * sample), design.sides) >= power;
    Ok(solve(1.0, enough)? - 1.0)
}

/// How long that many units take to come, in the unit of time of the rate.
///
/// # Errors
/// If nothing comes.
pub fn duration(units: f64, units_per_time: f64) -> Result<f64, NoAnswer> {
    if units_per_time > 0.0 { finite(units / units_per_time) } else { Err(NoAnswer::TooFew { found: 0, needed: 1 }) }
}

#[cfg(test)]
mod tests;
