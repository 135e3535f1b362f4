//! How long to wait before calling or trying again: rules 3 and 4 of `node.proto`. Pure: randomness is handed in.

use std::time::Duration;

const BASE: Duration = Duration::from_millis(250);
const CAP: Duration = Duration::from_secs(30);

/// A random time in [0, min(30 s, 0.25 s * 2^attempt)), where `random` is in [0, 1) and the first attempt is 0.
#[must_use]
pub fn delay(attempt: u32, random: f64) -> Duration {
    let bound = 2_u32.checked_pow(attempt).and_then(|factor| BASE.checked_mul(factor)).unwrap_or(CAP).min(CAP);
    bound.mul_f64(random.clamp(0.0, 1.0))
}

/// A random time in [15 s, 30 s), where `random` is in [0, 1): before asking again what was refused for good, so that only a person's
/// correction will help.
#[must_use]
pub fn slow(random: f64) -> Duration {
    CAP.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stays_in_its_range(attempt: u32, random in 0.0..1.0f64) {
            let bound = 0.25 * 2_f64.powi(attempt.min(100) as i32);
            prop_assert!(delay(attempt, random).as_secs_f64() <= bound.min(30.0));
        }
    }

    #[test]
    fn doubles_up_to_the_cap() {
        let bounds = [0, 1, 2, 6, 7, 31, 32, u32::MAX].map(|attempt| delay(attempt, 1.0).as_millis());
        assert_eq!(bounds, [250, 500, 1_000, 16_000, 30_000, 30_000, 30_000, 30_000]);
        assert_eq!(delay(5, 0.0), Duration::ZERO);
    }

    #[test]
    fn what_is_refused_for_good_is_asked_for_slowly() {
        assert_eq!([0.0, 1.0].map(|random| slow(random).as_secs()), [15, 30]);
    }
}
