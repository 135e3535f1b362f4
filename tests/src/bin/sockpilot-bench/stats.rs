//! The truth of the statistics, by experiments whose truth was made. Figures are shares of runs, not times; seeds are fixed, so
//! they are the same on every machine.

use anyhow::Result;
use sockpilot_tests::{machine::Machine, simulate};

use crate::{Figures, note};

pub fn measure(_: &Machine, figures: &mut Figures) -> Result<()> {
    let alarms = simulate::aa(1_000);
    let (delayed, as_they_close) = simulate::delayed(300);
    let (node, node_as_flows) = simulate::node_assigned(600);
    let (switchback, without_washout) = simulate::switchback(2_000);
    for (name, value) in [
        ("stats_aa_false_alarm_mean", alarms.mean),
        ("stats_aa_false_alarm_ratio", alarms.ratio),
        ("stats_aa_false_alarm_count", simulate::counts(2_000)),
        ("stats_aa_false_alarm_srm", alarms.srm),
        ("stats_aa_false_alarm_cuped", alarms.cuped),
        ("stats_aa_false_alarm_three_arms", alarms.three_arms),
        ("stats_aa_false_alarm_delayed", delayed),
        ("stats_coverage_mean", simulate::coverage(600)),
        ("stats_power_error_points", simulate::power_error(1_500)),
        ("stats_aa_node_icc02", node),
        ("stats_aa_switchback", switchback),
        // What goes wrong without the remedy: were these low, the simulation would show nothing.
        ("stats_naive_fixed_peeking", alarms.fixed_peeking),
        ("stats_naive_delayed_as_they_close", as_they_close),
        ("stats_naive_node_as_flows", node_as_flows),
        ("stats_naive_switchback_without_washout", without_washout),
    ] {
        note(figures, name, value);
    }
    // As a figure that must not be exceeded, like all budgets.
    let coverage = figures["stats_coverage_mean"].as_f64().unwrap_or_default();
    note(figures, "stats_not_covered_mean", 1.0 - coverage);
    Ok(())
}
