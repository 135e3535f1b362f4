//! Experiments whose truth is known, because it was made: how often the engine raises a false alarm, how often its intervals hold
//! the effect, and whether it finds what it should. Pure and from fixed seeds: nothing here measures time.

mod designs;
mod flows;
pub mod rollouts;

pub use designs::{node_assigned, switchback};
pub use flows::{Alarms, aa, counts, coverage, delayed, power_error};

use sockpilot_stats::{Contrast, Level, NoAnswer};

/// The first look, in flows: before, an asymptotic sequence promises nothing.
const FIRST_LOOK: usize = 500;
/// Flows from one look to the next.
const LOOK_EVERY: usize = 100;
/// Flows of a run: 196 looks.
const FLOWS: usize = 20_000;

/// The nominal share of false alarms.
const ALPHA: f64 = 0.05;

fn level() -> Level {
    Level::new(ALPHA, Level::TUNING).expect("a level")
}

/// Whether it is time for a look, after so many flows.
fn is_look(flows: usize) -> bool {
    flows >= FIRST_LOOK && flows.is_multiple_of(LOOK_EVERY)
}

/// Whether a contrast finds an effect, at a level that is valid at every look.
fn alarms(contrast: &Result<Contrast, NoAnswer>, level: &Level) -> bool {
    contrast.as_ref().is_ok_and(|contrast| contrast.absolute.sequence_p < level.alpha())
}

/// The share of runs in which something happened. Every run has a seed of its own.
fn share_of(runs: u64, mut happens: impl FnMut(u64) -> bool) -> f64 {
    (0..runs).filter(|run| happens(*run)).count() as f64 / runs as f64
}
