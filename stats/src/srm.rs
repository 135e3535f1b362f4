//! Sample ratio mismatch: do the arms have the shares that they were given? Asked at three stages (assigned, established,
//! reported); a mismatch that is only in the later ones is survivorship, not a broken assignment.
//!
//! The sequential test is the Bayes factor of a Dirichlet prior, centred on the expected shares, against exactly these shares:
//! Lindon and Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022, arXiv 2011.03567. With
//! alpha_i = concentration x share_i its logarithm is
//! ln G(A) - ln G(A + n) + sum [ln G(alpha_i + n_i) - ln G(alpha_i) - n_i ln share_i], A the sum of the alphas.

use crate::{
    NoAnswer,
    answer::finite,
    special::{chi_squared_sf, stirling_rest},
};

/// The usual concentration of the prior: mismatches of about a percent are found soonest.
pub const CONCENTRATION: f64 = 10_000.0;

/// How the arms' numbers stand to their shares, at one look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mismatch {
    /// The logarithm of the evidence for other shares than those expected.
    pub ln_bayes_factor: f64,
    /// 1 / Bayes factor, at most 1. The p-value valid at all looks is the least of all of these: [`LeastP`].
    pub p: f64,
    /// Pearson's statistic. For who looks once only.
    pub chi_squared: f64,
    /// The p-value of it: valid at one planned look.
    pub chi_squared_p: f64,
    /// The greatest difference of any arm's share from the one expected, as a share of all.
    pub deviation: f64,
}

impl Mismatch {
    /// Whether it is one that matters: beyond chance, and beyond `floor` (0.001 is a usual one). With a thousand million
    /// flows any p-value is small, and a deviation of a millionth spoils nothing.
    #[must_use]
    pub fn matters(&self, least: LeastP, level: f64, floor: f64) -> bool {
        least.p() < level && self.deviation > floor
    }
}

/// The least p-value that was ever seen: with it a sequential test forgets no alarm. The caller keeps it between looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeastP(f64);

impl Default for LeastP {
    fn default() -> Self {
        Self(1.0)
    }
}

impl LeastP {
    /// As it was kept. What is no probability is 1.
    #[must_use]
    pub fn new(p: f64) -> Self {
        Self(if (0.0..=1.0).contains(&p) { p } else { 1.0 })
    }

    /// After another look.
    #[must_use]
    pub fn after(self, p: f64) -> Self {
        Self(self.0.min(Self::new(p).0))
    }

    /// The p-value, valid at all looks.
    #[must_use]
    pub fn p(self) -> f64 {
        self.0
    }
}

/// Compares counts with the shares they should have, by a prior that is centred on them. Shares need not sum to 1: of what an
/// experiment does not own nothing is counted.
///
/// # Errors
/// If shares are not positive, or not one for each count, or fewer than two, or the concentration is not positive.
pub fn mismatch(counts: &[u64], shares: &[f64], concentration: f64) -> Result<Mismatch, NoAnswer> {
    let prior: Vec<f64> = normalised(counts.len(), shares)?.iter().map(|share| share * concentration).collect();
    mismatch_under(counts, shares, &prior)
}

/// The same with any Dirichlet prior: one positive number for each arm.
///
/// # Errors
/// As [`mismatch`].
pub fn mismatch_under(counts: &[u64], shares: &[f64], prior: &[f64]) -> Result<Mismatch, NoAnswer> {
    let shares = normalised(counts.len(), shares)?;
    if prior.len() != shares.len() || !prior.iter().all(|alpha| alpha.is_finite() && *alpha > 0.0) {
        return Err(NoAnswer::Level);
    }
    let n: f64 = counts.iter().map(|count| *count as f64).sum();
    let ln_bayes_factor = finite(ln_bayes_factor(counts, n, &shares, prior))?;
    let (mut chi_squared, mut deviation) = (0.0, 0.0_f64);
    if n > 0.0 {
        for (count, share) in counts.iter().zip(&shares) {
            let excess = *count as f64 - n * share;
            chi_squared += excess * excess / (n * share);
            deviation = deviation.max((excess / n).abs());
        }
    }
    let chi_squared_p = chi_squared_sf(finite(chi_squared)?, counts.len() as f64 - 1.0);
    Ok(Mismatch { ln_bayes_factor, p: (-ln_bayes_factor).exp().min(1.0), chi_squared, chi_squared_p, deviation })
}

fn normalised(arms: usize, shares: &[f64]) -> Result<Vec<f64>, NoAnswer> {
    let sum: f64 = shares.iter().sum();
    let sound = shares.len() == arms && arms >= 2 && sum.is_finite();
    if !sound || !shares.iter().all(|share| *share > 0.0 && share / sum > 0.0) {
        return Err(NoAnswer::Shares);
    }
    Ok(shares.iter().map(|share| share / sum).collect())
}

/// As above. Logarithms of gammas of millions would cancel to nothing: by Stirling's formula it is, with the posterior shares
/// q_i = (alpha_i + n_i) / (A + n), the distance (A + n) KL(q | share) less the prior's A KL(alpha / A | share), less half
/// the sum of ln[(alpha_i + n_i) / alpha_i], plus half of the same of all, plus what that formula leaves over. So a
/// million million flows keep their digits.
fn ln_bayes_factor(counts: &[u64], n: f64, shares: &[f64], prior: &[f64]) -> f64 {
    let before: f64 = prior.iter().sum();
    let whole = before + n;
    let mut sum = 0.5 * (n / before).ln_1p() + stirling_rest(before) - stirling_rest(whole);
    for ((count, share), alpha) in counts.iter().zip(shares).zip(prior) {
        let count = *count as f64;
        let off_centre = alpha - before * share;
        sum += whole * share * divergence((off_centre + (count - n * share)) / (whole * share));
        sum -= before * share * divergence(off_centre / (before * share));
        sum += stirling_rest(alpha + count) - stirling_rest(*alpha) - 0.5 * (count / alpha).ln_1p();
    }
    sum
}

/// (1 + x) ln(1 + x) - x: about x^2 / 2, and never negative.
fn divergence(x: f64) -> f64 {
    if x.abs() > 0.02 {
        return if x <= -1.0 { 1.0 } else { (1.0 + x) * x.ln_1p() - x };
    }
    // The series: sum of (-x)^k / (k (k - 1)), from k = 2.
    let (mut sum, mut power) = (0.0, x * x);
    for k in 2..12 {
        sum += power / f64::from(k * (k - 1));
        power *= -x;
    }
    sum
}
