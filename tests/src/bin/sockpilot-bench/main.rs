//! `make bench`: figures of one run on this machine, as one flat JSON object.
//!
//! Ratios are measured with both sides taking turns in the same run, so that they hold on a noisy machine as well; absolute
//! times hold for this machine only.

mod apply;
mod breaker;
mod churn;
mod consumer;
mod copy;
mod cost;
mod decision;
mod etcd;
mod fanout;
mod growth;
mod hostile;
mod measured;
mod memory;
mod misdeeds;
mod open;
mod outcomes;
mod program;
mod propagation;
mod recall;
mod rollouts;
mod secured;
mod stats;
mod variant;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};
use sockpilot_tests::{
    machine::{self, Machine, Needs},
    wait,
};

use Budget::{AtLeast, AtMost};

/// Where results are, from the root of the workspace.
const RESULTS: &str = "target/bench";

/// Named figures.
type Figures = Map<String, Value>;

type Measure = fn(&Machine, &mut Figures) -> Result<()>;

/// What can be measured; words on the command line name some of them.
const MEASURES: [(&str, Measure); 17] = [
    ("cost", cost::measure),
    ("apply", apply::measure),
    ("breaker", breaker::measure),
    ("consumer", consumer::measure),
    ("decision", decision::measure),
    ("open", open::measure),
    ("program", program::measure),
    ("propagation", propagation::measure),
    ("fanout", fanout::measure),
    ("recall", recall::measure),
    ("memory", memory::measure),
    ("secured", secured::measure),
    ("hostile", hostile::measure),
    ("outcomes", outcomes::measure),
    ("measured", measured::measure),
    ("stats", stats::measure),
    ("rollouts", rollouts::measure),
];

/// What a figure is to be.
#[derive(Debug, Clone, Copy)]
enum Budget {
    AtMost(f64),
    AtLeast(f64),
}

impl Budget {
    fn is_met(self, value: f64) -> bool {
        match self {
            AtMost(most) => value <= most,
            AtLeast(least) => value >= least,
        }
    }

    fn parts(self) -> (&'static str, f64) {
        match self {
            AtMost(most) => ("at most", most),
            AtLeast(least) => ("at least", least),
        }
    }
}

const BUDGETS: [(&str, Budget); 43] = [
    ("kernel_vs_c", AtMost(1.0)),
    ("kernel_vs_fixed_c", AtMost(1.15)),
    ("decision_1000_rules_vs_10", AtMost(1.1)),
    ("apply_1000_rules_ms", AtMost(50.0)),
    ("breaker_false_trips", AtMost(0.001)),
    ("records_lost", AtMost(0.0)),
    ("node_vs_tcplife", AtMost(0.0625)),
    ("publish_ms_p50", AtMost(2.0)),
    ("fanout_1000_vs_etcd_p99", AtMost(0.5)),
    ("fanout_9000_vs_etcd_p99", AtMost(0.6)),
    ("fanout_1000_cpu_us_per_delivery", AtMost(30.0)),
    ("fanout_9000_cpu_us_per_delivery", AtMost(30.0)),
    ("reconnect_9000_s", AtMost(30.0)),
    ("server_memory_kib_per_node", AtMost(32.0)),
    ("server_memory_kib_per_node_tls", AtMost(64.0)),
    ("fanout_1000_last_ms_p99_tls", AtMost(1_000.0)),
    ("reconnect_1000_s_tls", AtMost(30.0)),
    ("revoked_node_cut_s", AtMost(5.0)),
    ("hostile_p99_ratio", AtMost(1.1)),
    ("hostile_own_p99_ratio", AtMost(1.1)),
    ("hostile_rss_ratio", AtMost(3.0)),
    ("ingest_rows_per_s", AtLeast(60_000.0)),
    ("ingest_vs_copy", AtLeast(0.5)),
    ("outcomes_1m_cells_ms", AtMost(1_000.0)),
    ("stored_bytes_per_cell", AtMost(600.0)),
    ("results_1m_cells_ms", AtMost(1_000.0)),
    ("results_of_gbstats", AtMost(0.05)),
    ("stats_aa_false_alarm_mean", AtMost(0.05)),
    ("stats_aa_false_alarm_ratio", AtMost(0.05)),
    ("stats_aa_false_alarm_count", AtMost(0.05)),
    ("stats_aa_false_alarm_srm", AtMost(0.05)),
    ("stats_aa_false_alarm_cuped", AtMost(0.05)),
    ("stats_aa_false_alarm_three_arms", AtMost(0.05)),
    ("stats_aa_false_alarm_delayed", AtMost(0.05)),
    ("stats_not_covered_mean", AtMost(0.05)),
    ("stats_power_error_points", AtMost(3.0)),
    ("stats_aa_node_icc02", AtMost(0.06)),
    ("stats_aa_switchback", AtMost(0.06)),
    ("rollout_false_rollback", AtMost(0.05)),
    ("rollout_harmless_not_completed", AtMost(0.05)),
    ("rollout_harm_reached_wave2", AtMost(0.05)),
    ("rollout_margin_rolled_back", AtMost(0.05)),
    ("rollout_margin_passed_step", AtMost(0.05)),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let inside = match wanted.first().map(String::as_str) {
        Some(churn::ARGUMENT) => Some(churn::serve()),
        Some(open::ARGUMENT) => Some(open::hold()),
        Some(misdeeds::ARGUMENT) => Some(misdeeds::misbehave(&wanted[1..])),
        _ => None,
    };
    if let Some(ended) = inside {
        return ended.map_or_else(
            |error| {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        );
    }
    match run(&wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The benchmark failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(wanted: &[String]) -> Result<()> {
    let known = MEASURES.map(|(name, _)| name);
    for word in wanted {
        ensure!(known.contains(&word.as_str()), "there is no measure {word:?}; there are {}", known.join(", "));
    }
    machine::allows(Needs::Kernel).context("this machine cannot run it")?;
    wait::stop_on_signals()?;
    let machine = Machine::claim()?;
    let mut figures = Figures::new();
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    let measured = MEASURES
        .iter()
        .filter(|(name, _)| chosen(name))
        .try_for_each(|(name, measure)| measure(&machine, &mut figures).with_context(|| format!("measuring {name}")));
    if measured.is_err() {
        machine.print_logs();
    }
    measured?;
    judge(&mut figures);
    let summary = results()?.join("summary.json");
    let text = serde_json::to_string_pretty(&figures).context("writing the summary")?;
    fs::write(&summary, format!("{text}\n")).with_context(|| format!("writing {}", summary.display()))?;
    println!("{text}\nWritten to {}.", summary.display());
    Ok(())
}

/// The directory of results, made if need be.
fn results() -> Result<PathBuf> {
    fs::create_dir_all(RESULTS).with_context(|| format!("making {RESULTS}"))?;
    Ok(PathBuf::from(RESULTS))
}

/// Says which budgets are met. A missed one is no failure of the run: the machine may be busy with something else.
fn judge(figures: &mut Figures) {
    let mut verdicts = Map::new();
    println!();
    for (name, budget) in BUDGETS {
        let Some(value) = figures.get(name).and_then(Value::as_f64) else { continue };
        let ((is, bound), met) = (budget.parts(), budget.is_met(value));
        println!("{:<7} {name} = {value} (budget: {is} {bound})", if met { "met" } else { "missed" });
        verdicts.insert(name.to_owned(), serde_json::json!({ "value": value, "is": is, "budget": bound, "met": met }));
    }
    figures.insert("budgets".to_owned(), verdicts.into());
}

/// The value below which a share of the values lies.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let position = (share * values.len().saturating_sub(1) as f64).round() as usize;
    values.get(position).copied().unwrap_or(f64::NAN)
}

fn note(figures: &mut Figures, name: &str, value: f64) {
    let rounded = (value * 1e3).round() / 1e3;
    println!("{name:<36} {rounded}");
    figures.insert(name.to_owned(), rounded.into());
}
