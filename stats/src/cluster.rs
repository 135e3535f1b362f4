//! Errors at the level of assignment: flows of one node are not independent, its clusters are.
//!
//! A clustered mean is the ratio of the clusters' sums S and weights N, with the delta method over clusters (Deng, Knoblich
//! and Lu, KDD 2018): Var(r) = [Var(S) - 2 r Cov(S, N) + r^2 Var(N)] / (K mean(N)^2) over K clusters. Taking flows for
//! independent where nodes were assigned finds "effects" in three of four A/A tests.

use crate::{
    CoMoments, Estimate, Moments, NoAnswer,
    answer::{enough, finite},
    events::Numbers,
    linear::{self, Columns, Delta, Question, Sums},
};

/// What a cluster brings to a mean: a sum, and over how many (or over what weight).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cluster {
    /// The sum of the measure, in its unit.
    pub sum: f64,
    /// The number of its units, or the sum of the denominator.
    pub weight: f64,
}

/// A cluster of one arm, as a contrast sees it.
pub(crate) struct ClusterSums {
    pub moments: CoMoments,
    pub columns: Columns,
    pub units: u64,
    /// What one is in the sums.
    pub scale: f64,
}

/// Clusters that have both arms.
pub(crate) struct JointSums {
    pub moments: CoMoments,
    pub control: Columns,
    pub treatment: Columns,
    pub units: (u64, u64),
    /// What one is in the sums.
    pub scale: f64,
}

/// Sums per cluster of what the columns name, and of units at the end; in units of the mean cluster, so that they stay small.
fn row(cluster: &CoMoments, columns: Columns, scale: f64) -> Result<[f64; 5], NoAnswer> {
    let mut row = [0.0; 5];
    for (place, column) in row.iter_mut().zip(columns) {
        let Some(index) = column else { continue };
        let dimension = cluster.dimension();
        *place = cluster.sum(index).ok_or(NoAnswer::NoMeasure { index, dimension })? * scale;
    }
    row[4] = cluster.count as f64 * scale;
    Ok(row)
}

/// The columns in such rows, `from` on: what had no denominator is divided by the units.
fn row_columns(columns: Columns, from: usize) -> Columns {
    let [y, d, x, e] = columns;
    let at = |place: usize| Some(from + place);
    let denominator = |column: Option<usize>, place| at(if column.is_some() { place } else { 4 });
    let covariate = x.and(at(2));
    [y.and(at(0)), denominator(d, 1), covariate, covariate.and(denominator(e, 3))]
}

fn units(clusters: impl Iterator<Item = u64>) -> u64 {
    clusters.fold(0, u64::saturating_add)
}

fn scale_of(units: u64, clusters: usize) -> f64 {
    clusters as f64 / units.max(1) as f64
}

/// The clusters of one arm as vectors; empty ones were not seen, and are none.
pub(crate) fn sums(clusters: &[CoMoments], columns: Columns) -> Result<ClusterSums, NoAnswer> {
    let units = units(clusters.iter().map(|cluster| cluster.count));
    let scale = scale_of(units, clusters.len());
    let mut moments = CoMoments::new(5);
    for cluster in clusters.iter().filter(|cluster| cluster.count > 0) {
        moments.add(&row(cluster, columns, scale)?).map_err(|_| NoAnswer::NotFinite)?;
    }
    Ok(ClusterSums { moments, columns: row_columns(columns, 0), units, scale })
}

/// The clusters of both arms as vectors.
pub(crate) fn joint_sums(pairs: &[(CoMoments, CoMoments)], columns: Columns) -> Result<JointSums, NoAnswer> {
    let units = (units(pairs.iter().map(|pair| pair.0.count)), units(pairs.iter().map(|pair| pair.1.count)));
    let scale = scale_of(units.0.saturating_add(units.1), pairs.len());
    let mut moments = CoMoments::new(10);
    for (control, treatment) in pairs.iter().filter(|pair| pair.0.count > 0 || pair.1.count > 0) {
        let mut both = [0.0; 10];
        both[..5].copy_from_slice(&row(control, columns, scale)?);
        both[5..].copy_from_slice(&row(treatment, columns, scale)?);
        moments.add(&both).map_err(|_| NoAnswer::NotFinite)?;
    }
    Ok(JointSums { moments, control: row_columns(columns, 0), treatment: row_columns(columns, 5), units, scale })
}

/// Vectors of sums and weights, one for each cluster with any weight.
fn vectors<const N: usize>(rows: impl Iterator<Item = [Cluster; N]>) -> Result<CoMoments, NoAnswer> {
    let mut moments = CoMoments::new(2 * N);
    for row in rows.filter(|row| row.iter().any(|cluster| cluster.weight != 0.0)) {
        let flat: Vec<f64> = row.iter().flat_map(|cluster| [cluster.sum, cluster.weight]).collect();
        moments.add(&flat).map_err(|_| NoAnswer::NotFinite)?;
    }
    enough(moments.count, 2)?;
    Ok(moments)
}

fn columns_at(place: usize) -> Columns {
    [Some(2 * place), Some(2 * place + 1), None, None]
}

/// The clustered mean of one arm: all sums over all weights.
///
/// # Errors
/// If there are fewer than two clusters, or they do not vary.
pub fn mean(clusters: &[Cluster]) -> Result<Estimate, NoAnswer> {
    let moments = vectors(clusters.iter().map(|cluster| [*cluster]))?;
    let (effect, variance) = linear::value(&moments, columns_at(0), false)?;
    let clusters = moments.count;
    Ok(Estimate {
        effect,
        variance,
        n_control: clusters,
        n_treatment: 0,
        df: clusters as f64 - 1.0,
        clusters: Some(clusters),
    })
}

/// The difference of the clustered means of two arms, where each cluster is in one arm; absolute, and relative to the control.
///
/// # Errors
/// If an arm has fewer than two clusters, or they do not vary.
pub fn difference(
    control: &[Cluster],
    treatment: &[Cluster],
) -> Result<(Estimate, Result<Estimate, NoAnswer>), NoAnswer> {
    let one = vectors(control.iter().map(|cluster| [*cluster]))?;
    let other = vectors(treatment.iter().map(|cluster| [*cluster]))?;
    let sums = Sums::Apart { control: &one, treatment: &other };
    let (control, treatment) = (columns_at(0), columns_at(0));
    let delta = Question { sums, control, treatment, proportion: false, events: [0.0; 2] }.answer()?;
    Ok(both(&delta, (one.count, other.count), one.count.saturating_add(other.count)))
}

/// The same where every cluster has both arms, as (control, treatment): nodes of a flow-unit experiment, or random groups of
/// prefixes. What is common to a cluster cancels. Degrees of freedom are the clusters less one.
///
/// # Errors
/// If there are fewer than two clusters, or they do not vary.
pub fn paired(pairs: &[(Cluster, Cluster)]) -> Result<(Estimate, Result<Estimate, NoAnswer>), NoAnswer> {
    let moments = vectors(pairs.iter().map(|(control, treatment)| [*control, *treatment]))?;
    let delta = joint(&moments, 0, 1, Numbers::Any)?;
    Ok(both(&delta, (moments.count, moments.count), moments.count))
}

/// The contrast of two columns of the same clusters.
pub(crate) fn joint(
    moments: &CoMoments,
    control: usize,
    treatment: usize,
    numbers: Numbers,
) -> Result<Delta, NoAnswer> {
    let (control, treatment) = (columns_at(control), columns_at(treatment));
    let events = [numbers.events(true); 2];
    Question { sums: Sums::Joint(moments), control, treatment, proportion: false, events }.answer()
}

/// As [`vectors`], of groups that have `N` sums each.
pub(crate) fn groups<const N: usize>(rows: impl Iterator<Item = [Cluster; N]>) -> Result<CoMoments, NoAnswer> {
    vectors(rows)
}

fn both(delta: &Delta, (n_control, n_treatment): (u64, u64), clusters: u64) -> (Estimate, Result<Estimate, NoAnswer>) {
    let clusters = Some(clusters);
    let of = |(effect, variance)| Estimate { effect, variance, n_control, n_treatment, df: delta.df, clusters };
    (of((delta.effect, delta.variance)), delta.relative.map(of))
}

/// The mean of differences, each of one pair, and its error: Student's paired t, every pair with the same weight.
///
/// # Errors
/// If there are fewer than two, or they do not vary.
pub fn paired_differences(differences: &[f64]) -> Result<Estimate, NoAnswer> {
    let mut moments = Moments::default();
    differences.iter().try_for_each(|difference| finite(*difference).map(|value| moments.add(value)))?;
    enough(moments.count, 2)?;
    let count = moments.count;
    let variance = finite(moments.variance().unwrap_or_default() / count as f64)?;
    if variance <= 0.0 {
        return Err(NoAnswer::NoVariance);
    }
    let df = count as f64 - 1.0;
    Ok(Estimate { effect: moments.mean, variance, n_control: count, n_treatment: count, df, clusters: Some(count) })
}

/// The share of the variance that lies between clusters (ICC), by the analysis of variance of one way with clusters of
/// unequal size (Donner and Koval 1980): (MSB - MSW) / (MSB + (m0 - 1) MSW). Can be a little negative by chance.
///
/// # Errors
/// If there are fewer than two clusters, or no cluster has two units, or nothing varies.
pub fn intraclass_correlation(clusters: &[Moments]) -> Result<f64, NoAnswer> {
    let seen: Vec<_> = clusters.iter().filter(|cluster| cluster.count > 0).collect();
    enough(seen.len() as u64, 2)?;
    let (mut all, mut within, mut squares) = (Moments::default(), 0.0, 0.0);
    for cluster in &seen {
        all.merge(cluster);
        within += cluster.m2;
        squares += (cluster.count as f64).powi(2);
    }
    let (n, k) = (all.count as f64, seen.len() as f64);
    enough(all.count, seen.len() as u64 + 1)?;
    let (between, within) = ((all.m2 - within).max(0.0) / (k - 1.0), within / (n - k));
    let size = (n - squares / n) / (k - 1.0);
    let total = between + (size - 1.0) * within;
    if total > 0.0 { finite((between - within) / total) } else { Err(NoAnswer::NoVariance) }
}

/// By how much clusters of `size` units multiply the variance of a mean: 1 + (size - 1) ICC (Kish 1965). Not below 1 / size.
#[must_use]
pub fn design_effect(size: f64, intraclass_correlation: f64) -> f64 {
    let size = size.max(1.0);
    (1.0 + (size - 1.0) * intraclass_correlation).max(1.0 / size)
}
