//! The circuit breaker: how often it ends a canary that does no harm, how soon one that does, and what it costs a connection's end.
//!
//! The first two by simulation, through the very function of the kernel program, with fixed seeds; the last by the kernel's own account, with
//! the breaker armed and not taking turns.

use anyhow::{Context, Result};
use sockpilot_policy::breaker::{threshold, trips};
use sockpilot_tests::{machine::Machine, netns::Netns, random::Random};

use crate::{Figures, churn::Churner, cost::accounted, note, quantile, variant::Variant};

const PPM: u32 = 1_000;
/// Of 10,000 but seven would trip, and their number be chance.
const FALSE_RUNS: u32 = 100_000;
const FALSE_BAD_ENDS: u64 = 3_000;
const HARM_RUNS: u32 = 2_001;
const ENDS: f64 = 2.0;

pub fn measure(machine: &Machine, figures: &mut Figures) -> Result<()> {
    let mut random = Random(1);
    let false_trips = (0..FALSE_RUNS).filter(|_| run(&mut random, 1.0, FALSE_BAD_ENDS).is_some()).count();
    // Not rounded: it is small, and must not be greater than the probability that was asked for.
    let share = false_trips as f64 / f64::from(FALSE_RUNS);
    println!("{:<36} {share}", "breaker_false_trips");
    figures.insert("breaker_false_trips".to_owned(), share.into());
    for rate in [2, 5, 20] {
        let ends = (0..HARM_RUNS).filter_map(|_| run(&mut random, f64::from(rate), u64::MAX));
        let mut ends: Vec<_> = ends.map(|ends| ends as f64).collect();
        note(figures, &format!("breaker_bad_ends_x{rate}"), quantile(&mut ends, 0.5));
    }

    let mut variants = vec![
        Variant::empty(machine)?,
        Variant::rollout(machine, "unarmed", 0)?,
        Variant::rollout(machine, "armed", PPM)?,
    ];
    let mut churner = Churner::start(machine, &Netns::new()?)?;
    let accounts = accounted(&mut churner, &mut variants)?;
    // By far most connections end well; what it costs those is the figure.
    let bad_ends = variants.iter().map(Variant::bad_ends).sum::<Result<u64>>()?;
    note(figures, "breaker_bad_ends_of_churn", bad_ends as f64);
    let of = |name| accounts.get(name).map(|said| said.ns_per_connection() / ENDS).context("no account");
    note(figures, "kernel_breaker_ns", of("armed")? - of("unarmed")?);
    Ok(())
}

/// After how many bad ends the breaker acts, if it does within so many, where the canary's connections end badly so many times as often as the
/// control's.
fn run(random: &mut Random, rate: f64, bad_ends: u64) -> Option<u64> {
    let (mut canary, threshold) = (0, threshold(PPM));
    (1..=bad_ends).find(|end| {
        canary += u64::from(random.chance(rate / (1.0 + rate)));
        trips(canary, end - canary, threshold)
    })
}
