//! Switchback: the unit is a time slot, in which everybody has the same arm.
//!
//! Slots come in pairs (the same hour of two days, or two neighbours), and a coin for each pair says which of the two is the
//! treatment. If treatment did nothing, each pair's difference could as well have had the other sign: the p-value is the
//! share of all such worlds that look at least as extreme (Fisher; Bojinov, Simchi-Levi and Zhao, arXiv 2009.00148). It
//! supposes nothing of the distribution or of how many slots there are. What carries over from one slot into the next has to
//! be washed out before: the caller leaves out the flows that began in the washout or span a boundary.

use crate::{
    Estimate, Moments, NoAnswer,
    answer::{enough, finite},
    cluster::{Cluster, paired_differences},
    events::Numbers,
};

/// With at most this many pairs all worlds are looked at; with more, a sample of them.
pub const EXACT_PAIRS_MAX: usize = 20;

/// Two slots, one of each arm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlotPair {
    /// The slot without the treatment.
    pub control: Cluster,
    /// The slot with it.
    pub treatment: Cluster,
}

/// What a switchback says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Switchback {
    /// The mean of the pairs' differences, each pair with the same weight, and Student's error of it.
    pub estimate: Estimate,
    /// By permutation, two-sided, at the planned end.
    pub p: f64,
    /// Over how many worlds; all of them, if `exact`.
    pub worlds: u64,
    /// Whether they are all that are possible.
    pub exact: bool,
}

/// Compares the slots of pairs. `random` gives 64 random bits; it is asked only if there are more than [`EXACT_PAIRS_MAX`]
/// pairs, and then 64 pairs at a time in each of `worlds` worlds.
///
/// # Errors
/// If there are fewer than two pairs with data in both slots, or they do not vary, unless they are numbers of events.
pub fn switchback(
    pairs: &[SlotPair],
    numbers: Numbers,
    worlds: u64,
    random: &mut impl FnMut() -> u64,
) -> Result<Switchback, NoAnswer> {
    // A slot in which nothing happened is no zero.
    let seen: Vec<_> = pairs.iter().filter(|pair| pair.control.weight > 0.0 && pair.treatment.weight > 0.0).collect();
    let value = |slot: Cluster| slot.sum / slot.weight;
    let differences = seen.iter().map(|pair| finite(value(pair.treatment) - value(pair.control)));
    let differences = differences.collect::<Result<Vec<_>, _>>()?;
    let estimate = match numbers {
        Numbers::Any => paired_differences(&differences)?,
        Numbers::Events => of_events(&seen, &differences)?,
    };
    let (p, worlds, exact) = permutation_p(&differences, worlds, random);
    Ok(Switchback { estimate, p, worlds, exact })
}

/// With the variance of some events more in each arm: in a slot that may be any of them.
fn of_events(seen: &[&SlotPair], differences: &[f64]) -> Result<Estimate, NoAnswer> {
    enough(differences.len() as u64, 2)?;
    let mut moments = Moments::default();
    differences.iter().for_each(|difference| moments.add(*difference));
    let (count, n) = (moments.count, moments.count as f64);
    let one = |slot: Cluster| (Numbers::Events.events(true) / slot.weight).powi(2);
    let floor = seen.iter().map(|pair| one(pair.control) + one(pair.treatment)).sum::<f64>() / (n * n * n);
    let variance = finite(moments.variance().unwrap_or_default() / n + floor)?;
    Ok(Estimate {
        effect: moments.mean,
        variance,
        n_control: count,
        n_treatment: count,
        df: n - 1.0,
        clusters: Some(count),
    })
}

/// The two-sided p-value of a mean of differences under changes of sign: (p, worlds, whether these are all).
#[must_use]
pub fn permutation_p(differences: &[f64], worlds: u64, random: &mut impl FnMut() -> u64) -> (f64, u64, bool) {
    let observed: f64 = differences.iter().sum::<f64>().abs();
    // Sums of the same numbers in another order differ in the last digits.
    let threshold = observed - 1e-12 * differences.iter().map(|difference| difference.abs()).sum::<f64>();
    if differences.len() <= EXACT_PAIRS_MAX {
        let all = 1_u64 << differences.len();
        let extreme = (0..all).filter(|world| signed_sum(differences, *world).abs() >= threshold).count();
        return (extreme as f64 / all as f64, all, true);
    }
    let mut extreme = 0_u64;
    for _ in 0..worlds {
        let sum: f64 = differences.chunks(64).map(|chunk| signed_sum(chunk, random())).sum();
        extreme += u64::from(sum.abs() >= threshold);
    }
    // The world that happened is one of them: no sample makes a p of zero.
    ((1 + extreme) as f64 / (1.0 + worlds as f64), worlds, false)
}

/// The sum with each sign as its bit says.
fn signed_sum(differences: &[f64], world: u64) -> f64 {
    let signed = |(at, difference): (usize, &f64)| if (world >> at) & 1 == 1 { -difference } else { *difference };
    differences.iter().enumerate().map(signed).sum()
}
