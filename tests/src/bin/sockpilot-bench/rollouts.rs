//! What gates do to rollouts whose truth was made. Figures are shares of runs, not times; seeds are fixed, so they are the same on every
//! machine.

use anyhow::Result;
use sockpilot_tests::{machine::Machine, simulate::rollouts};

use crate::{Figures, note};

/// As many runs without harm as were promised.
const RUNS: u64 = 500;
/// Fewer of those that harm as much as is just tolerated: they end at the deadline.
const RUNS_AT_MARGIN: u64 = 200;
/// The plan for what many depend on.
const PLAN: &str = "careful";

pub fn measure(_: &Machine, figures: &mut Figures) -> Result<()> {
    let good = rollouts::harmless(PLAN, RUNS);
    let bad = rollouts::harmful(PLAN, RUNS, 2.0);
    let at_margin = rollouts::harmful(PLAN, RUNS_AT_MARGIN, 1.0);
    for (name, value) in [
        ("rollout_false_rollback", good.rolled_back),
        ("rollout_harmless_not_completed", 1.0 - good.completed),
        ("rollout_harmless_median_s", good.median_s),
        ("rollout_harm_stopped_wave1", 1.0 - bad.reached_second_wave),
        ("rollout_harm_rolled_back", bad.rolled_back),
        ("rollout_harm_median_s", bad.median_s),
        // What is exactly tolerated: here gates are as wrong as they may be, in both directions.
        ("rollout_margin_rolled_back", at_margin.rolled_back),
        ("rollout_margin_passed_step", at_margin.passed_first_step),
        // As a figure that must not be exceeded, like all budgets.
        ("rollout_harm_reached_wave2", bad.reached_second_wave),
    ] {
        note(figures, name, value);
    }
    Ok(())
}
