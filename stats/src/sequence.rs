//! Intervals and p-values that are valid at every look: asymptotic confidence sequences.
//!
//! Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences",
//! arXiv 2103.06476: a sum of N terms with variance s^2 stays, at all N at once and with probability 1 - alpha in the
//! limit, within s sqrt(N) times a bound in N rho^2, where rho says at which N the bound is tightest. With the standard
//! error SE = s / sqrt(N) the bound on an effect is SE times
//!
//! - two-sided: sqrt(2 (N rho^2 + 1) / (N rho^2) ln(sqrt(N rho^2 + 1) / alpha))
//! - one-sided: sqrt(2 (N rho^2 + 1) / (N rho^2) ln(1 + sqrt(N rho^2 + 1) / (2 alpha)))
//!
//! *Asymptotic* is meant: before [`Level::first_look`] the interval is all there is and p is 1. An estimate over clusters has few of them, and as time
//! goes on no more of them, only more in each. So there the bound is the one at the tuning sample, whatever the level's is,
//! and its normal deviate is exchanged for the one of Student's t with the same tail.

use crate::{
    Estimate, Interval, Level, NoAnswer, Sides,
    answer::finite,
    special::{normal_sf, normal_upper, t_sf, t_upper},
};

/// Beyond this many degrees of freedom t and normal are one to all digits shown.
const DF_NORMAL: f64 = 1e9;

/// The rho that makes a two-sided sequence tightest at the level's tuning sample (2103.06476, eq. 161).
#[must_use]
pub fn rho(level: &Level) -> f64 {
    rho_at(level.alpha(), level.tuning())
}

/// The same of a one-sided sequence: that of the two-sided one at twice the level.
#[must_use]
pub fn rho_one_sided(level: &Level) -> f64 {
    rho_at(2.0 * level.alpha(), level.tuning())
}

fn rho_at(alpha: f64, tuning: f64) -> f64 {
    let double_log = -2.0 * alpha.ln();
    ((double_log + double_log.ln_1p()) / tuning).sqrt()
}

/// The bound at a sample of N, in standard errors.
#[must_use]
pub fn bound(sample: u64, level: &Level, sides: Sides) -> f64 {
    bound_at(sample as f64, level, sides)
}

/// The same between whole numbers, for plans.
pub(crate) fn bound_at(sample: f64, level: &Level, sides: Sides) -> f64 {
    let (rho, crossing): (f64, fn(f64, f64) -> f64) = match sides {
        Sides::Two => (rho(level), |root, alpha| (root / alpha).ln()),
        Sides::Lower | Sides::Upper => (rho_one_sided(level), |root, alpha| (root / (2.0 * alpha)).ln_1p()),
    };
    let spent = sample * rho * rho;
    (2.0 * (spent + 1.0) / spent * crossing((spent + 1.0).sqrt(), level.alpha())).sqrt()
}

/// The level, tuned to the clusters where the estimate is over clusters.
fn tuned(estimate: &Estimate, level: &Level) -> Level {
    estimate.clusters.and_then(|clusters| level.tuned_for(clusters as f64).ok()).unwrap_or(*level)
}

/// Whether it is too early to say anything.
fn is_early(estimate: &Estimate, level: &Level) -> bool {
    let Estimate { n_control, n_treatment, clusters, .. } = *estimate;
    // One arm's own value has no other arm.
    let smaller = if n_treatment == 0 { n_control } else { n_control.min(n_treatment) };
    clusters.is_none() && smaller < level.first_look()
}

/// The interval that holds the effect at all looks at once with probability 1 - alpha.
///
/// # Errors
/// If the estimate has no variance or is not finite.
pub fn interval(estimate: &Estimate, level: &Level, sides: Sides) -> Result<Interval, NoAnswer> {
    estimate.score()?;
    if is_early(estimate, level) {
        return Ok(Interval { lower: f64::NEG_INFINITY, upper: f64::INFINITY });
    }
    let level = tuned(estimate, level);
    let normal = bound(estimate.sample(), &level, sides);
    let bound = match estimate.clusters {
        Some(_) if estimate.df < DF_NORMAL => t_upper(normal_sf(normal), estimate.df),
        _ => normal,
    };
    Ok(Interval::around(estimate.effect, finite(bound * estimate.standard_error())?, sides))
}

/// The p-value that is valid at all looks at once: below alpha exactly when the interval at alpha (tuned as `level` is)
/// excludes no effect (2103.06476, eq. 155). Of [`Sides::Lower`]: that the effect is not greater.
///
/// # Errors
/// If the estimate has no variance or is not finite.
pub fn p_value(estimate: &Estimate, level: &Level, sides: Sides) -> Result<f64, NoAnswer> {
    let mut score = estimate.score()?;
    if is_early(estimate, level) {
        return Ok(1.0);
    }
    if estimate.clusters.is_some() && estimate.df < DF_NORMAL {
        // A tail too small for a number stays one.
        let tail = t_sf(score.abs(), estimate.df).max(f64::MIN_POSITIVE);
        score = score.signum() * normal_upper(tail);
    }
    let level = &tuned(estimate, level);
    let rho = if sides == Sides::Two { rho(level) } else { rho_one_sided(level) };
    let spent = estimate.sample() as f64 * rho * rho;
    let exponent = score * score * spent / (2.0 * (spent + 1.0));
    let root = (spent + 1.0).sqrt();
    let p = match sides {
        Sides::Two => root * (-exponent).exp(),
        Sides::Lower if score <= 0.0 => 1.0,
        Sides::Upper if score >= 0.0 => 1.0,
        Sides::Lower | Sides::Upper => root / (2.0 * exponent.exp_m1()),
    };
    Ok(p.min(1.0))
}
