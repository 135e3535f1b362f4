//! `make bench`: figures of one run on this machine, as one flat JSON object.
//!
//! Ratios are measured with both sides taking turns in the same run, so that they hold on a noisy machine as well; absolute
//! times hold for this machine only.

mod decision;
mod program;
mod propagation;

use std::{fs, process::ExitCode};

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use sockpilot_tests::{
    machine::{self, Machine, Needs},
    wait,
};

const SUMMARY: &str = "target/bench/summary.json";

/// Named figures.
type Figures = Map<String, Value>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The benchmark failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    machine::allows(Needs::Kernel).context("this machine cannot run it")?;
    wait::stop_on_signals()?;
    let machine = Machine::claim()?;
    let mut figures = Figures::new();
    let measured = [decision::measure, program::measure, propagation::measure]
        .into_iter()
        .try_for_each(|measure| measure(&machine, &mut figures));
    if measured.is_err() {
        machine.print_logs();
    }
    measured?;
    fs::create_dir_all("target/bench").context("making target/bench")?;
    let text = serde_json::to_string_pretty(&figures).context("writing the summary")?;
    fs::write(SUMMARY, format!("{text}\n")).with_context(|| format!("writing {SUMMARY}"))?;
    println!("{text}\nWritten to {SUMMARY}.");
    Ok(())
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
