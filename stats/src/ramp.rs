//! A ramp is a free test for interference: if the control itself moves as the share of treatment grows, then an A/B difference
//! is not what all would get (arXiv 2211.03262), and two shares or more tell the total effect, if interference is linear in
//! the share (arXiv 2410.12740).
//!
//! Epochs are the points. They are at different times, so a drift may also be the time of day: a warning, not a proof.

use crate::{
    Estimate, NoAnswer,
    answer::{enough, finite},
    special::{chi_squared_sf, normal_sf},
};

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
    /// By how much the control moves from share 0 to share 1, in the measure's unit.
    pub drift: f64,
    /// The standard error of it.
    pub drift_error: f64,
    /// The p-value of no drift, at one look.
    pub drift_p: f64,
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
pub fn ramp(points: &[RampPoint]) -> Result<Ramp, NoAnswer> {
    enough(points.len() as u64, 2)?;
    if !points.iter().all(|point| (0.0..=1.0).contains(&point.share)) {
        return Err(NoAnswer::Shares);
    }
    let control = Line::fit(points.iter().map(|point| (point.share, point.control)))?;
    let treatment = Line::fit(points.iter().map(|point| (point.share, point.treatment)))?;
    let drift_error = finite(control.variance_slope.sqrt())?;
    let total = treatment.at_zero + treatment.slope - control.at_zero;
    let treatment_variance = treatment.variance_at_zero + treatment.variance_slope + 2.0 * treatment.covariance;
    let free = points.len() as f64 - 2.0;
    Ok(Ramp {
        drift: control.slope,
        drift_error,
        drift_p: (2.0 * normal_sf((control.slope / drift_error).abs())).min(1.0),
        line_p: if free > 0.0 { chi_squared_sf(control.residual, free) } else { 1.0 },
        total: finite(total)?,
        total_error: finite((treatment_variance + control.variance_at_zero).sqrt())?,
    })
}
