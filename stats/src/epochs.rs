//! An experiment whose shares changed: each epoch is analysed by itself, and the answers are combined.
//!
//! Pooling the flows instead would mix time with arm: if the treatment's share grew while the day got busier, busy hours would
//! look like its effect (Simpson's paradox).

use crate::{
    Estimate, NoAnswer,
    answer::{enough, finite},
};

/// One estimate of several epochs', each weighted by the inverse of its variance, with Satterthwaite's degrees of freedom. Units
/// must be new in every epoch: of flows they are; nodes stay, so that the sums of their clusters have to be added up instead.
///
/// # Errors
/// If there is none, one has no variance or is not finite, or one is over clusters.
pub fn combine(epochs: &[Estimate]) -> Result<Estimate, NoAnswer> {
    enough(epochs.len() as u64, 1)?;
    if epochs.iter().any(|epoch| epoch.clusters.is_some()) {
        return Err(NoAnswer::Unlike);
    }
    epochs.iter().try_for_each(|epoch| epoch.score().map(drop))?;
    let total = finite(epochs.iter().map(|epoch| 1.0 / epoch.variance).sum())?;
    let weights: Vec<f64> = epochs.iter().map(|epoch| 1.0 / epoch.variance / total).collect();
    let sum = |of: &dyn Fn(&Estimate, f64) -> f64| -> f64 {
        epochs.iter().zip(&weights).map(|(epoch, weight)| of(epoch, *weight)).sum()
    };
    let count = |of: fn(&Estimate) -> u64| epochs.iter().map(of).fold(0, u64::saturating_add);
    Ok(Estimate {
        effect: finite(sum(&|epoch, weight| weight * epoch.effect))?,
        variance: finite(1.0 / total)?,
        n_control: count(|epoch| epoch.n_control),
        n_treatment: count(|epoch| epoch.n_treatment),
        df: finite(1.0 / sum(&|epoch, weight| weight * weight / epoch.df))?,
        clusters: None,
    })
}

/// The evidence of several epochs for a mismatch, from the logarithm of each one's Bayes factor: they multiply, since each is a
/// fair bet whatever came before. Returns 1 / their product, at most 1; see [`crate::srm::LeastP`].
///
/// # Errors
/// If one is not finite.
pub fn combine_mismatches(ln_bayes_factors: &[f64]) -> Result<f64, NoAnswer> {
    Ok((-finite(ln_bayes_factors.iter().sum())?).exp().min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(effect: f64, variance: f64) -> Estimate {
        Estimate { effect, variance, n_control: 900, n_treatment: 100, df: 150.0, clusters: None }
    }

    #[test]
    fn the_surer_epoch_weighs_more() {
        let both = combine(&[of(1.0, 1.0), of(3.0, 4.0)]).unwrap();
        assert!((both.effect - 1.4).abs() < 1e-12 && (both.variance - 0.8).abs() < 1e-12, "{both:?}");
        assert_eq!((both.n_control, both.n_treatment), (1_800, 200));
        assert!((both.df - 150.0 / 0.68).abs() < 1e-9, "{both:?}");
        let one = combine(&[of(1.0, 0.25)]).unwrap();
        assert!((one.df - 150.0).abs() < 1e-9 && one.variance == 0.25);
    }

    #[test]
    fn what_cannot_be_combined_is_refused() {
        assert_eq!(combine(&[]), Err(NoAnswer::TooFew { found: 0, needed: 1 }));
        assert_eq!(combine(&[of(1.0, 1.0), of(1.0, 0.0)]), Err(NoAnswer::NoVariance));
        assert_eq!(combine(&[Estimate { clusters: Some(4), ..of(1.0, 1.0) }]), Err(NoAnswer::Unlike));
        assert_eq!(combine(&[of(f64::NAN, 1.0)]), Err(NoAnswer::NotFinite));
        assert_eq!(combine(&[of(1.0, 5e-324), of(1.0, 5e-324)]), Err(NoAnswer::NotFinite));
    }

    #[test]
    fn evidence_multiplies() {
        assert_eq!(combine_mismatches(&[]), Ok(1.0));
        assert!((combine_mismatches(&[2.0, 3.0, -1.0]).unwrap() - (-4.0_f64).exp()).abs() < 1e-15);
        assert_eq!(combine_mismatches(&[f64::INFINITY]), Err(NoAnswer::NotFinite));
    }
}
