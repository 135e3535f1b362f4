//! Rare events (failed connections, resets): whose are they? Given that an event happened, chance alone puts it into an arm with
//! the arm's share of the exposure, however the rate of events moves over the day. So the test is of shares, and needs no
//! variance: one of none is an answer, too. Netflix judges canaries by it (arXiv 2011.03567).

use crate::{
    NoAnswer,
    srm::{Mismatch, mismatch},
};

/// The concentration for counts, which are few: events twice as frequent are found soonest.
pub const CONCENTRATION: f64 = 100.0;

/// The rates of the treatment over the control's against which [`coin`] bets.
pub const RATES: [f64; 3] = [1.5, 3.0, 10.0];

/// Compares the arms' events with their shares of the exposure: of the experiment's units, as fixed by its design.
///
/// # Errors
/// As [`mismatch`].
pub fn events(events: &[u64], exposure: &[f64], concentration: f64) -> Result<Mismatch, NoAnswer> {
    mismatch(events, exposure, concentration)
}

/// The p-value, at one look, of the events being no more frequent in the treatment: 1 / the mean of the likelihood ratios of
/// rates [`RATES`] times the control's. The least one over all looks is valid at all looks, as with [`crate::srm::LeastP`].
/// One-sided, which is right for a breaker and a gate: fewer failures are no reason to stop.
///
/// `exposure` is the treatment's share of treatment and control together.
///
/// # Errors
/// If the exposure is not between 0 and 1.
pub fn coin(control: u64, treatment: u64, exposure: f64) -> Result<f64, NoAnswer> {
    if !(exposure > 0.0 && exposure < 1.0) {
        return Err(NoAnswer::Shares);
    }
    let ln_ratio = |rate: f64| {
        // The share of events that the treatment has at this rate, over its exposure.
        let total = rate * exposure + (1.0 - exposure);
        treatment as f64 * (rate / total).ln() - control as f64 * total.ln()
    };
    let ratios = RATES.map(ln_ratio);
    let greatest = ratios.into_iter().fold(f64::NEG_INFINITY, f64::max);
    let mean = ratios.iter().map(|ratio| (ratio - greatest).exp()).sum::<f64>() / RATES.len() as f64;
    Ok((-(greatest + mean.ln())).exp().min(1.0))
}
