//! Shares of events that may be rare: what none of many is worth.
//!
//! The variance p (1 - p) / n of a share is zero where nothing happened, which is no certainty. So for the variance, not for the share
//! itself, each side gets one unit more of each kind: p = (k + 1) / (n + 2), Agresti and Caffo, "Simple and effective confidence
//! intervals for proportions and differences of proportions", The American Statistician 54 (2000). Then none of n is a share whose error is
//! 1 / n, and a bound of three errors says what the rule of three says. Where many events pile up by chance the error grows with them, so
//! that what looks like harm is believed later, not sooner.

use crate::{Estimate, NoAnswer, answer::enough};

/// So many of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Units to which it happened.
    pub events: u64,
    /// Of how many.
    pub of: u64,
}

impl Share {
    /// The share.
    ///
    /// # Errors
    /// If it is of nothing, or of fewer than it happened to.
    pub fn value(self) -> Result<f64, NoAnswer> {
        enough(self.of, 1)?;
        enough(self.of, self.events)?;
        Ok(self.events as f64 / self.of as f64)
    }

    /// The variance of the share, which is never zero.
    #[must_use]
    pub fn variance(self) -> f64 {
        let (yes, no) = (self.events.min(self.of) as f64 + 1.0, self.of.saturating_sub(self.events) as f64 + 1.0);
        let both = yes + no;
        (yes / both) * (no / both) / self.of.max(1) as f64
    }
}

/// Treatment less control, of units that are independent.
///
/// # Errors
/// If a side is of nothing, or of fewer than it happened to.
pub fn difference(control: Share, treatment: Share) -> Result<Estimate, NoAnswer> {
    let effect = treatment.value()? - control.value()?;
    let n = control.of as f64 + treatment.of as f64;
    Ok(Estimate {
        effect,
        variance: control.variance() + treatment.variance(),
        n_control: control.of,
        n_treatment: treatment.of,
        df: (n - 1.0).max(1.0),
        clusters: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(events: u64, of: u64) -> Share {
        Share { events, of }
    }

    #[test]
    fn none_of_many_is_no_certainty() {
        let none = difference(share(0, 1_000), share(0, 1_000)).expect("an answer");
        assert!(none.effect == 0.0 && (none.standard_error() - 2.0_f64.sqrt() / 1_000.0).abs() < 1e-5, "{none:?}");
        let all = difference(share(0, 1_000), share(1_000, 1_000)).expect("an answer");
        assert!((all.standard_error() - none.standard_error()).abs() < 1e-9, "{all:?}");
    }

    #[test]
    fn of_many_events_it_is_the_binomial_variance() {
        let half = share(500_000, 1_000_000).variance();
        assert!((half / (0.25 / 1e6) - 1.0).abs() < 1e-5, "{half}");
    }

    #[test]
    fn of_nothing_there_is_no_share() {
        assert_eq!(difference(share(0, 0), share(0, 5)), Err(NoAnswer::TooFew { found: 0, needed: 1 }));
        assert_eq!(share(6, 5).value(), Err(NoAnswer::TooFew { found: 5, needed: 6 }));
        assert!(difference(share(u64::MAX, u64::MAX), share(0, 1)).is_ok_and(|found| found.variance.is_finite()));
    }
}
