//! Count, mean and variance that can be merged.

/// Count, mean, sum of squared deviations and range of some numbers.
///
/// Sums of squares are never formed: for byte counts they would lose all digits of the variance.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Moments {
    /// How many numbers.
    pub count: u64,
    /// Their mean; 0 if there are none.
    pub mean: f64,
    /// The sum of their squared deviations from the mean.
    pub m2: f64,
    /// The least; 0 if there are none.
    pub min: f64,
    /// The greatest; 0 if there are none.
    pub max: f64,
}

/// Why five numbers are no [`Moments`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MomentsError {
    /// A field is infinite or not a number.
    #[error("a moment is infinite or not a number")]
    NotFinite,
    /// There are no numbers, yet they have a mean.
    #[error("moments of nothing must be zero")]
    NotEmpty,
    /// The mean is out of the range, or the sum of squares is negative or greater than the range allows.
    #[error("moments contradict each other: min <= mean <= max and 0 <= m2 <= count * (max - min)^2 must hold")]
    Contradiction,
}

impl Moments {
    /// Checks what came from outside.
    ///
    /// # Errors
    /// If no numbers can have these moments.
    pub fn checked(self) -> Result<Self, MomentsError> {
        let Self { count, mean, m2, min, max } = self;
        if ![mean, m2, min, max].iter().all(|field| field.is_finite()) {
            return Err(MomentsError::NotFinite);
        }
        if count == 0 {
            return if [mean, m2, min, max] == [0.0; 4] { Ok(self) } else { Err(MomentsError::NotEmpty) };
        }
        // Mean and squares are rounded with every number added, the range is not.
        let slack = 1e-9 * (min.abs().max(max.abs()));
        let m2_max = count as f64 * (max - min + slack).powi(2);
        let sound = min <= max && (min - slack..=max + slack).contains(&mean) && (0.0..=m2_max).contains(&m2);
        if sound { Ok(self) } else { Err(MomentsError::Contradiction) }
    }

    /// Adds a number (Welford).
    pub fn add(&mut self, value: f64) {
        (self.min, self.max) =
            if self.count == 0 { (value, value) } else { (self.min.min(value), self.max.max(value)) };
        self.count = self.count.saturating_add(1);
        let before = value - self.mean;
        self.mean += before / self.count as f64;
        self.m2 += before * (value - self.mean);
    }

    /// Adds the numbers of another (Chan).
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        let (ours, theirs) = (self.count as f64, other.count as f64);
        let distance = other.mean - self.mean;
        let share = theirs / (ours + theirs);
        self.m2 += other.m2 + distance * distance * ours * share;
        self.mean += distance * share;
        self.count = self.count.saturating_add(other.count);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// The variance of the population the numbers were drawn from; `None` for fewer than two.
    #[must_use]
    pub fn variance(&self) -> Option<f64> {
        (self.count >= 2).then(|| self.m2 / (self.count - 1) as f64)
    }

    /// The root of [`Moments::variance`].
    #[must_use]
    pub fn standard_deviation(&self) -> Option<f64> {
        self.variance().map(f64::sqrt)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f64]) -> Moments {
        let mut moments = Moments::default();
        values.iter().for_each(|value| moments.add(*value));
        moments
    }

    fn merged(parts: &[Moments]) -> Moments {
        let mut all = Moments::default();
        parts.iter().for_each(|part| all.merge(part));
        all
    }

    fn assert_close(a: &Moments, b: &Moments) {
        let close = |x: f64, y: f64, scale: f64| (x - y).abs() <= 1e-9 * scale.max(1.0);
        let spread = (a.max - a.min).powi(2) * a.count as f64;
        assert_eq!((a.count, a.min, a.max), (b.count, b.min, b.max));
        assert!(close(a.mean, b.mean, a.max.abs().max(a.min.abs())), "{a:?} {b:?}");
        assert!(close(a.m2, b.m2, spread), "{a:?} {b:?}");
    }

    proptest! {
        #[test]
        fn merging_equals_one_pass(parts in prop::collection::vec(prop::collection::vec(0.0..1e9f64, 0..20), 0..8)) {
            let whole = of(&parts.concat());
            let merged = merged(&parts.iter().map(|part| of(part)).collect::<Vec<_>>());
            assert_close(&whole, &merged);
            prop_assert_eq!(merged.checked(), Ok(merged));
        }

        #[test]
        fn merging_is_associative(
            a in prop::collection::vec(0.0..1e9f64, 0..20),
            b in prop::collection::vec(0.0..1e9f64, 0..20),
            c in prop::collection::vec(0.0..1e9f64, 0..20),
        ) {
            let (a, b, c) = (of(&a), of(&b), of(&c));
            assert_close(&merged(&[merged(&[a, b]), c]), &merged(&[a, merged(&[b, c])]));
        }

        #[test]
        fn any_five_numbers_are_checked_without_panic(count: u64, mean: f64, m2: f64, min: f64, max: f64) {
            if let Ok(sound) = (Moments { count, mean, m2, min, max }).checked() {
                prop_assert!(merged(&[sound, sound]).standard_deviation().is_some_and(|deviation| deviation >= 0.0));
            }
        }
    }

    #[test]
    fn keeps_the_digits_that_a_sum_of_squares_loses() {
        let moments = of(&[1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0]);
        assert_eq!(moments.variance(), Some(30.0));
    }

    #[test]
    fn has_no_variance_below_two() {
        assert_eq!(of(&[]).variance(), None);
        assert_eq!(of(&[5.0]).standard_deviation(), None);
    }

    #[test]
    fn refuses_contradictions() {
        let sound = of(&[1.0, 2.0]);
        assert_eq!((Moments { m2: -1.0, ..sound }).checked(), Err(MomentsError::Contradiction));
        assert_eq!((Moments { m2: 1e300, ..sound }).checked(), Err(MomentsError::Contradiction));
        assert_eq!((Moments { mean: 3.0, ..sound }).checked(), Err(MomentsError::Contradiction));
        assert_eq!((Moments { max: f64::INFINITY, ..sound }).checked(), Err(MomentsError::NotFinite));
        assert_eq!((Moments { count: 0, ..sound }).checked(), Err(MomentsError::NotEmpty));
    }
}
