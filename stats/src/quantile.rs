//! The error of a quantile from order statistics. Under a frozen threshold a quantile is better asked as a proportion
//! ([`crate::Kind::Proportion`]): that can be looked at at any time, adjusted and clustered.

use crate::{
    CoMoments, NoAnswer,
    answer::finite,
    cluster::{self, Cluster},
    special::normal_upper,
};

/// The level of the interval by which order statistics are picked, two-sided.
const ALPHA: f64 = 0.05;

/// A quantile of n numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantileSample {
    /// How many numbers.
    pub count: u64,
    /// Which quantile, between 0 and 1.
    pub level: f64,
    /// The order statistic at rank n (level - z sqrt(level (1 - level) / n)), z = 1.96.
    pub lower: f64,
    /// The one at the rank as far above.
    pub upper: f64,
}

/// The variance of one number's worth of a quantile: (n - 1) ((upper - lower) / 2z)^2, of which the nth part is the variance of
/// the estimate (Deng, Knoblich and Lu, KDD 2018; as gbstats codes it).
///
/// # Errors
/// If there are too few numbers for ranks on both sides; or both order statistics are one, as in one bin of a sketch: then the
/// quantile is not resolved, and no floor under the variance would make it so.
pub fn variance(sample: &QuantileSample) -> Result<f64, NoAnswer> {
    let QuantileSample { count, level, lower, upper } = *sample;
    if !(level > 0.0 && level < 1.0) {
        return Err(NoAnswer::Level);
    }
    let z = normal_upper(ALPHA / 2.0);
    let needed = z * z * (level / (1.0 - level)).max((1.0 - level) / level);
    if count < 2 || count as f64 <= needed {
        return Err(NoAnswer::TooFew { found: count, needed: (needed.floor() as u64).saturating_add(1).max(2) });
    }
    let half = finite((upper - lower) / (2.0 * z))?;
    if half > 0.0 { finite((count - 1) as f64 * half * half) } else { Err(NoAnswer::NoVariance) }
}

/// The same where units come in clusters: times the variance of the share below the quantile over clusters, over that of
/// independent units, level (1 - level) / n. Sums are of the units at most the quantile, weights of all.
///
/// # Errors
/// As [`variance`], and if the clusters are too few or do not vary.
pub fn clustered_variance(sample: &QuantileSample, clusters: &[Cluster]) -> Result<f64, NoAnswer> {
    scaled(sample, cluster::mean(clusters)?.variance)
}

/// The same from co-moments over clusters of (units at most the quantile, units).
///
/// # Errors
/// As [`clustered_variance`].
pub fn clustered_variance_of(sample: &QuantileSample, clusters: &CoMoments) -> Result<f64, NoAnswer> {
    scaled(sample, crate::linear::value(clusters, [Some(0), Some(1), None, None], false)?.1)
}

fn scaled(sample: &QuantileSample, cluster_variance: f64) -> Result<f64, NoAnswer> {
    let independent = sample.level * (1.0 - sample.level) / sample.count as f64;
    finite(variance(sample)? * cluster_variance / independent)
}
