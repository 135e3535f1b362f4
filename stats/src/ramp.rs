//! A ramp is a free test for interference: if the control itself moves as the share of treatment grows, then an A/B difference
//! is not what all would get (arXiv 2211.03262), and two shares or more tell the total effect, if interference is linear in
//! the share (arXiv 2410.12740).
//!
//! Epochs are the points. They are at different times, so a drift may also be the time of day: a warning, not a proof.
//!
//! The drift is looked at again and again while the last epoch grows and the others stay. A slope by weighted least squares is an
//! efficient estimate, so at a later look it has the covariance with itself at an earlier one that a mean has: its own variance then. In the
//! time of its information (1 / variance) it is thus a mean of so many units, and a [`sequence`](crate::sequence) holds for it at every
//! look, if its sample is counted by that information and not by the flows, of which those of the earlier epochs say no more.
//! A unit counts as one if its share is as far from the mean as shares can be (1/2).

use crate::{
    Estimate, Finding, Level, NoAnswer,
    answer::{enough, finite},
    special::chi_squared_sf,
};

/// Variances of epochs are taken for known, so that a slope is normal.
const DF_KNOWN: f64 = 1e12;

/// An epoch of a ramp.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RampPoint {
    /// The treatment's share of all, from 0 to 1.
    pub share: f64,
    /// The control's value with its variance (clustered where assignment is).
    pub control: Estimate,
    /// The treatment's.
    pub treatment: Estimate,
}

/// What a ramp says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ramp {
    /// By how much the control moves from share 0 to share 1, in the measure's unit. Its sequence is valid at every look.
    pub drift: Finding,
    /// Of the points lying on a line, by chi-squared; 1 for two points, which always do. A small one says that interference is
    /// not linear, or that time moved the control.
    pub line_p: f64,
    /// The total effect Y1(1) - Y0(0) by the two arms' lines.
    pub total: f64,
    /// The standard error of it.
    pub total_error: f64,
}

/// A line through points with known variances, by weighted least squares.
struct Line {
    at_zero: f64,
    slope: f64,
    variance_at_zero: f64,
    variance_slope: f64,
    covariance: f64,
    residual: f64,
}

impl Line {
    fn fit(points: impl Iterator<Item = (f64, Estimate)>) -> Result<Self, NoAnswer> {
        let mut weighted = Vec::new();
        for (x, estimate) in points {
            // Only to learn whether the estimate is one.
            estimate.score()?;
            weighted.push((x, estimate.effect, 1.0 / estimate.variance));
        }
        let total: f64 = weighted.iter().map(|point| point.2).sum();
        let mean =
            |of: fn(&(f64, f64, f64)) -> f64| weighted.iter().map(|point| of(point) * point.2 / total).sum::<f64>();
        let (x_mean, y_mean) = (mean(|point| point.0), mean(|point| point.1));
        let spread: f64 = weighted.iter().map(|(x, _, weight)| weight * (x - x_mean).powi(2)).sum();
        if spread <= 0.0 {
            return Err(NoAnswer::NoVariance);
        }
        let product: f64 = weighted.iter().map(|(x, y, weight)| weight * (x - x_mean) * (y - y_mean)).sum();
        let slope = finite(product / spread)?;
        let at_zero = y_mean - slope * x_mean;
        let residual = weighted.iter().map(|(x, y, weight)| weight * (y - at_zero - slope * x).powi(2)).sum();
        let variance_slope = 1.0 / spread;
        let variance_at_zero = 1.0 / total + x_mean * x_mean * variance_slope;
        Ok(Self { at_zero, slope, variance_at_zero, variance_slope, covariance: -x_mean * variance_slope, residual })
    }
}

/// Tests the control for drift over the shares, and estimates the total effect.
///
/// # Errors
/// If there are fewer than two different shares, a share is none, or an epoch's estimates are.
pub fn ramp(points: &[RampPoint], level: &Level) -> Result<Ramp, NoAnswer> {
    enough(points.len() as u64, 2)?;
    if !points.iter().all(|point| (0.0..=1.0).contains(&point.share)) {
        return Err(NoAnswer::Shares);
    }
    let control = Line::fit(points.iter().map(|point| (point.share, point.control)))?;
    let treatment = Line::fit(points.iter().map(|point| (point.share, point.treatment)))?;
    let total = treatment.at_zero + treatment.slope - control.at_zero;
    let treatment_variance = treatment.variance_at_zero + treatment.variance_slope + 2.0 * treatment.covariance;
    let free = points.len() as f64 - 2.0;
    Ok(Ramp {
        drift: Finding::of(drift(points, &control), level)?,
        line_p: if free > 0.0 { chi_squared_sf(control.residual, free) } else { 1.0 },
        total: finite(total)?,
        total_error: finite((treatment_variance + control.variance_at_zero).sqrt())?,
    })
}

/// The control's slope, with the units that its information is worth.
fn drift(points: &[RampPoint], control: &Line) -> Estimate {
    let each = || points.iter().map(|point| point.control);
    let clusters = each().filter_map(|epoch| epoch.clusters).min();
    let units: f64 = each().map(|epoch| epoch.n_control as f64).sum();
    let of_unit = each().map(|epoch| epoch.variance * (epoch.n_control as f64).powi(2)).sum::<f64>() / units;
    Estimate {
        effect: control.slope,
        variance: control.variance_slope,
        n_control: ((4.0 * of_unit / control.variance_slope) as u64).max(1),
        n_treatment: 0,
        df: clusters.map_or(DF_KNOWN, |_| each().map(|epoch| epoch.df).fold(f64::INFINITY, f64::min)),
        clusters,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A normal deviate, as a sum of twelve uniform ones.
    fn normal(state: &mut u64) -> f64 {
        let mut uniform = || {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 11) as f64 / (1_u64 << 53) as f64
        };
        (0..12).map(|_| uniform()).sum::<f64>() - 6.0
    }

    fn of(mean: f64, n: u64) -> Estimate {
        Estimate { effect: mean, variance: 1.0 / n as f64, n_control: n, n_treatment: 0, df: n as f64, clusters: None }
    }

    /// Shares of runs of a ramp over 5%, 20% and 50% that alarm at a look of 300: at every look valid, and at one look valid.
    fn alarms(drift: f64) -> (f64, f64) {
        const RUNS: u64 = 400;
        const STEP: u64 = 200;
        let level = Level::new(0.05, Level::TUNING).unwrap();
        let mut found = (0, 0);
        for run in 0..RUNS {
            let mut state = run * 7_919 + 1;
            let mut point = |share: f64, n: u64| RampPoint {
                share,
                control: of(drift * share + normal(&mut state) / (n as f64).sqrt(), n),
                treatment: of(0.0, n),
            };
            let earlier = [point(0.05, 9_500), point(0.2, 8_000)];
            let (mut sum, mut alarmed) = (0.0, (false, false));
            for look in 1..=300 {
                sum += point(0.5, STEP).control.effect * STEP as f64;
                let now = RampPoint { control: of(sum / (look * STEP) as f64, look * STEP), ..point(0.5, 1) };
                let Ok(found) = ramp(&[earlier[0], earlier[1], now], &level) else { panic!("{now:?}") };
                alarmed.0 |= found.drift.sequence_p < 0.05;
                alarmed.1 |= found.drift.fixed_p < 0.05;
            }
            found = (found.0 + u64::from(alarmed.0), found.1 + u64::from(alarmed.1));
        }
        (found.0 as f64 / RUNS as f64, found.1 as f64 / RUNS as f64)
    }

    #[test]
    fn a_drift_may_be_looked_for_at_any_time() {
        let (at_every_look, at_one_look) = alarms(0.0);
        assert!(at_every_look <= 0.05, "{at_every_look}");
        assert!(at_one_look > 0.15, "looked at so often, what is valid at one look is not: {at_one_look}");
        let (found, _) = alarms(0.3);
        assert!(found > 0.95, "{found}");
    }

    #[test]
    fn clusters_are_few_however_long_they_are_looked_at() {
        let level = Level::new(0.05, Level::TUNING).unwrap();
        let clustered = |clusters: u64, mean: f64| Estimate {
            clusters: Some(clusters),
            df: clusters as f64 - 1.0,
            ..of(mean, 1_000_000)
        };
        let p = |clusters: u64| {
            let point =
                |share: f64| RampPoint { share, control: clustered(clusters, 0.01 * share), treatment: of(0.0, 100) };
            ramp(&[point(0.1), point(0.5), point(0.9)], &level).unwrap().drift.sequence_p
        };
        assert!(p(1_000) < 0.01 && p(5) > 0.05, "{} {}", p(1_000), p(5));
    }
}
