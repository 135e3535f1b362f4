//! Count, means and co-moments of several measures, which can be merged: all that an experiment's contrasts need.

use crate::QUANTITY_MAX;

/// The most measures of one experiment.
pub const MEASURES_MAX: usize = 16;

/// How far below zero an eigenvalue may be, relative to the variances: rounding, and no more.
const SLACK: f64 = 1e-7;

/// Count, mean vector and sums of products of deviations of vectors.
///
/// As with [`crate::Moments`], sums of squares are never formed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CoMoments {
    /// How many vectors.
    pub count: u64,
    /// Their mean; zeros if there are none.
    pub mean: Vec<f64>,
    /// The sums of products of deviations from the means: the lower triangle of the matrix, row by row, with its
    /// diagonal. The product of measures i >= j is at i (i + 1) / 2 + j.
    pub m2: Vec<f64>,
}

/// Why numbers are no [`CoMoments`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CoMomentsError {
    /// There are more than [`MEASURES_MAX`] measures, or the triangle does not fit their number.
    #[error("there are {measures} measures (at most {MEASURES_MAX}) and {products} products of two")]
    Shape {
        /// Length of the mean.
        measures: usize,
        /// Length of the triangle.
        products: usize,
    },
    /// Two are of different measures.
    #[error("{theirs} measures cannot be added to {ours}")]
    Dimension {
        /// Measures of what is added to.
        ours: usize,
        /// Measures of what was to be added.
        theirs: usize,
    },
    /// A number is infinite or none.
    #[error("a co-moment is infinite or not a number")]
    NotFinite,
    /// A number is too great, so that merging could overflow.
    #[error("a measure is beyond 10^18")]
    Magnitude,
    /// There is nothing, yet it has moments; or one vector, yet it deviates from its mean.
    #[error("moments of nothing and deviations of one must be zero")]
    NotEmpty,
    /// A variance is negative, or the matrix is no covariance matrix of anything.
    #[error("co-moments contradict each other: the matrix is not positive semidefinite")]
    Contradiction,
}

/// Where the product of two measures is.
fn at(i: usize, j: usize) -> usize {
    let (high, low) = if i >= j { (i, j) } else { (j, i) };
    high * (high + 1) / 2 + low
}

impl CoMoments {
    /// Of nothing yet, for this many measures.
    #[must_use]
    pub fn new(dimension: usize) -> Self {
        Self { count: 0, mean: vec![0.0; dimension], m2: vec![0.0; dimension * (dimension + 1) / 2] }
    }

    /// How many measures.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.mean.len()
    }

    /// Adds a vector (Welford). What is refused changes nothing.
    ///
    /// # Errors
    /// If it has another dimension, or a number that is none or too great.
    pub fn add(&mut self, values: &[f64]) -> Result<(), CoMomentsError> {
        if values.len() != self.dimension() {
            return Err(CoMomentsError::Dimension { ours: self.dimension(), theirs: values.len() });
        }
        if !values.iter().all(|value| value.is_finite()) {
            return Err(CoMomentsError::NotFinite);
        }
        if values.iter().any(|value| value.abs() > QUANTITY_MAX) {
            return Err(CoMomentsError::Magnitude);
        }
        self.count = self.count.saturating_add(1);
        let count = self.count as f64;
        for (i, value) in values.iter().enumerate() {
            let before = value - self.mean[i];
            self.mean[i] += before / count;
            // The means up to i are the new ones: deviations before and after give the exact product.
            for (j, other) in values.iter().enumerate().take(i + 1) {
                self.m2[at(i, j)] += before * (other - self.mean[j]);
            }
        }
        Ok(())
    }

    /// Adds the vectors of another (Chan). What is refused changes nothing.
    ///
    /// # Errors
    /// If it has another dimension.
    pub fn merge(&mut self, other: &Self) -> Result<(), CoMomentsError> {
        let dimension = self.dimension();
        if other.dimension() != dimension || other.m2.len() != self.m2.len() {
            return Err(CoMomentsError::Dimension { ours: dimension, theirs: other.dimension() });
        }
        if other.count == 0 {
            return Ok(());
        }
        if self.count == 0 {
            self.clone_from(other);
            return Ok(());
        }
        let (ours, theirs) = (self.count as f64, other.count as f64);
        let share = theirs / (ours + theirs);
        let weight = ours * share;
        let mut products = self.m2.iter_mut().zip(&other.m2);
        for i in 0..dimension {
            let distance = (other.mean[i] - self.mean[i]) * weight;
            for j in 0..=i {
                let Some((mine, their)) = products.next() else { break };
                *mine += their + distance * (other.mean[j] - self.mean[j]);
            }
        }
        self.mean.iter_mut().zip(&other.mean).for_each(|(mine, their)| *mine += (their - *mine) * share);
        self.count = self.count.saturating_add(other.count);
        Ok(())
    }

    /// Checks what came from outside. What passes can be merged with anything that passes, for ever, and stays finite.
    ///
    /// # Errors
    /// If no vectors can have these co-moments.
    pub fn checked(self) -> Result<Self, CoMomentsError> {
        let dimension = self.dimension();
        if dimension > MEASURES_MAX || self.m2.len() != dimension * (dimension + 1) / 2 {
            return Err(CoMomentsError::Shape { measures: dimension, products: self.m2.len() });
        }
        if !self.mean.iter().chain(&self.m2).all(|value| value.is_finite()) {
            return Err(CoMomentsError::NotFinite);
        }
        let is_zero = |values: &[f64]| values.iter().all(|value| *value == 0.0);
        if (self.count == 0 && !is_zero(&self.mean)) || (self.count <= 1 && !is_zero(&self.m2)) {
            return Err(CoMomentsError::NotEmpty);
        }
        let m2_max = self.count as f64 * (2.0 * QUANTITY_MAX).powi(2);
        if self.mean.iter().any(|mean| mean.abs() > QUANTITY_MAX) || self.m2.iter().any(|m2| m2.abs() > m2_max) {
            return Err(CoMomentsError::Magnitude);
        }
        if self.is_positive_semidefinite() { Ok(self) } else { Err(CoMomentsError::Contradiction) }
    }

    /// Whether the matrix is one of covariances, but for rounding: Cholesky's decomposition of the correlations with a
    /// little added to the diagonal exists.
    fn is_positive_semidefinite(&self) -> bool {
        let dimension = self.dimension();
        if (0..dimension).any(|i| self.m2[at(i, i)] < 0.0) {
            return false;
        }
        // Sums of deviations are rounded with respect to the mean, which may be far greater.
        let rounding = |i: usize| self.count as f64 * (1e-11 * self.mean[i]).powi(2);
        // And what is next to nothing has no square.
        let scale = |i: usize| (self.m2[at(i, i)] + rounding(i) + 1e-200).sqrt();
        let scales: Vec<f64> = (0..dimension).map(scale).collect();
        let mut factor = [[0.0_f64; MEASURES_MAX]; MEASURES_MAX];
        for i in 0..dimension {
            for j in 0..=i {
                let product = self.m2[at(i, j)];
                let correlation = if product == 0.0 { 0.0 } else { product / scales[i] / scales[j] };
                // Also where a scale is zero, and the product is not.
                if !correlation.is_finite() || correlation.abs() > 1.0 + SLACK {
                    return false;
                }
                let known: f64 = (0..j).map(|k| factor[i][k] * factor[j][k]).sum();
                if i == j {
                    let pivot = 1.0 + SLACK - known;
                    if pivot <= 0.0 {
                        return false;
                    }
                    factor[i][i] = pivot.sqrt();
                } else {
                    factor[i][j] = (correlation - known) / factor[j][j];
                }
            }
        }
        true
    }

    /// The mean of a measure, in its unit; `None` if there is no such measure or nothing was added.
    #[must_use]
    pub fn mean(&self, i: usize) -> Option<f64> {
        self.mean.get(i).copied().filter(|_| self.count > 0)
    }

    /// The sum of a measure, in its unit; `None` if there is no such measure.
    #[must_use]
    pub fn sum(&self, i: usize) -> Option<f64> {
        self.mean.get(i).map(|mean| mean * self.count as f64)
    }

    /// The covariance of two measures in the population (n - 1 in the denominator); `None` for fewer than two vectors or
    /// no such measure.
    #[must_use]
    pub fn covariance(&self, i: usize, j: usize) -> Option<f64> {
        let known = self.count >= 2 && i < self.dimension() && j < self.dimension();
        self.m2.get(at(i, j)).filter(|_| known).map(|product| product / (self.count - 1) as f64)
    }

    /// The variance of a measure in the population, in its unit squared; `None` as for [`CoMoments::covariance`].
    #[must_use]
    pub fn variance(&self, i: usize) -> Option<f64> {
        self.covariance(i, i)
    }

    /// From sums as other engines send them: counts, sums, and the lower triangle of sums of products. For comparison with
    /// them only: where the mean is large this has lost the digits of the variance.
    #[must_use]
    pub fn from_sums(count: u64, sums: &[f64], products: &[f64]) -> Self {
        let mut moments = Self::new(sums.len());
        if count == 0 {
            return moments;
        }
        moments.count = count;
        moments.mean = sums.iter().map(|sum| sum / count as f64).collect();
        for i in 0..sums.len() {
            for j in 0..=i {
                let product = products.get(at(i, j)).copied().unwrap_or_default();
                moments.m2[at(i, j)] = product - sums[i] * sums[j] / count as f64;
            }
        }
        moments
    }
}

#[cfg(test)]
mod tests;
