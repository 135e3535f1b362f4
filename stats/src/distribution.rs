//! Moments and quantiles of one quantity.

use crate::{Moments, MomentsError, Sketch, SketchError};

/// The greatest quantity there can be; in microseconds more than 30,000 years. Keeps merged squares finite.
pub const QUANTITY_MAX: f64 = 1e18;

/// What is kept of one non-negative quantity of many flows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Distribution {
    /// Count, mean, variance and range.
    pub moments: Moments,
    /// Quantiles.
    pub sketch: Sketch,
}

/// Why something is no [`Distribution`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DistributionError {
    /// The moments are unsound.
    #[error("moments of a distribution are unsound")]
    Moments(#[source] MomentsError),
    /// The sketch is unsound.
    #[error("sketch of a distribution is unsound")]
    Sketch(#[source] SketchError),
    /// A number is negative or greater than [`QUANTITY_MAX`].
    #[error("a quantity is negative or greater than 10^18")]
    Range,
    /// They are not of the same numbers.
    #[error("moments are of {moments} numbers, the sketch of {sketch}")]
    Count {
        /// Numbers in the moments.
        moments: u64,
        /// Numbers in the sketch.
        sketch: u64,
    },
}

/// A distribution, for people.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Summary {
    /// How many numbers.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation; 0 for fewer than two.
    pub standard_deviation: f64,
    /// The least.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// Nine in ten are at most this.
    pub p90: f64,
    /// 99 in 100 are at most this.
    pub p99: f64,
    /// The greatest.
    pub max: f64,
}

impl Distribution {
    /// Checks what came from outside: moments as five numbers, and the bytes of a sketch.
    ///
    /// # Errors
    /// If either is unsound or they contradict each other.
    pub fn from_parts(moments: Moments, sketch: &[u8]) -> Result<Self, DistributionError> {
        let moments = moments.checked().map_err(DistributionError::Moments)?;
        if moments.min < 0.0 || moments.max > QUANTITY_MAX {
            return Err(DistributionError::Range);
        }
        let sketch = Sketch::from_bytes(sketch).map_err(DistributionError::Sketch)?;
        if moments.count != sketch.count() {
            return Err(DistributionError::Count { moments: moments.count, sketch: sketch.count() });
        }
        Ok(Self { moments, sketch })
    }

    /// Adds a number from 0 to [`QUANTITY_MAX`].
    pub fn add(&mut self, value: f64) {
        debug_assert!((0.0..=QUANTITY_MAX).contains(&value), "no quantity: {value}");
        self.moments.add(value);
        self.sketch.add(value);
    }

    /// Adds the numbers of another.
    pub fn merge(&mut self, other: &Self) {
        let Self { moments, sketch } = other;
        self.moments.merge(moments);
        self.sketch.merge(sketch);
    }

    /// A quantile, never outside the range of the numbers; `None` if there are none or `q` is not in 0..=1.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        // Not `clamp`, which panics on moments that nobody checked.
        Some(self.sketch.quantile(q)?.min(self.moments.max).max(self.moments.min))
    }

    /// The distribution for people; zeros if it is empty.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let Moments { count, mean, m2: _, min, max } = self.moments;
        let quantile = |q| self.quantile(q).unwrap_or_default();
        Summary {
            count,
            mean,
            standard_deviation: self.moments.standard_deviation().unwrap_or_default(),
            min,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = f64>) -> Distribution {
        let mut distribution = Distribution::default();
        values.into_iter().for_each(|value| distribution.add(value));
        distribution
    }

    #[test]
    fn summarises() {
        let summary = of((1..=1_000).map(f64::from)).summary();
        assert_eq!((summary.count, summary.min, summary.max, summary.mean), (1_000, 1.0, 1_000.0, 500.5));
        assert!((summary.standard_deviation - 288.819).abs() < 0.001);
        assert!((summary.p50 / 500.0 - 1.0).abs() <= 0.011, "{}", summary.p50);
        assert!((summary.p99 / 990.0 - 1.0).abs() <= 0.011, "{}", summary.p99);
        assert_eq!(Distribution::default().summary(), Summary::default());
    }

    #[test]
    fn one_number_is_every_quantile() {
        let one = of([1_000_003.0]);
        assert_eq!(one.summary().p50, 1_000_003.0);
        assert_eq!(one.quantile(1.1), None);
    }

    #[test]
    fn survives_the_wire() {
        let distribution = of([0.0, 1.0, 40.0, 1e12]);
        let again = Distribution::from_parts(distribution.moments, &distribution.sketch.to_bytes());
        assert_eq!(again, Ok(distribution));
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        let debt = of([1.0]);
        let moments = Moments { mean: -1.0, min: -1.0, ..debt.moments };
        assert_eq!(Distribution::from_parts(moments, &debt.sketch.to_bytes()), Err(DistributionError::Range));
    }

    #[test]
    fn refuses_parts_of_different_numbers() {
        let (two, three) = (of([1.0, 2.0]), of([1.0, 2.0, 3.0]));
        let mixed = Distribution::from_parts(two.moments, &three.sketch.to_bytes());
        assert_eq!(mixed, Err(DistributionError::Count { moments: 2, sketch: 3 }));
    }
}
