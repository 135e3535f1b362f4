//! `make demo`: a policy and a 10% experiment on real connections, a canary, a promotion and a way back, and rollouts that decide for
//! themselves, in under four minutes.
//!
//! Everything is real: the server with its private Postgres, two node daemons with a cgroup each, the kernel program, and
//! the connections. Only the path is emulated: two clients reach one origin over 25 ms each way, and SYNs get lost.

mod checks;
mod rollouts;
mod stage;
mod story;
mod tally;

use std::{fs, process::ExitCode, time::Instant};

use anyhow::{Context, Result, ensure};
use sockpilot_tests::{
    machine::{self, Machine, Needs},
    wait,
};

const SUMMARY: &str = "target/demo/summary.json";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let began = Instant::now();
    machine::allows(Needs::Kernel).context("this machine cannot show it")?;
    wait::stop_on_signals()?;
    let machine = Machine::claim()?;
    let told = story::tell(&machine, began);
    if told.is_err() && wait::check_interrupted().is_ok() {
        machine.print_logs();
    }
    drop(machine);
    let remains = machine::remains();
    let mut summary = told?;
    ensure!(remains.is_empty(), "something was left behind: {remains:?}");
    summary["seconds"] = began.elapsed().as_secs_f64().round().into();
    fs::create_dir_all("target/demo").context("making target/demo")?;
    let text = serde_json::to_string_pretty(&summary).context("writing the summary")?;
    fs::write(SUMMARY, text + "\n").with_context(|| format!("writing {SUMMARY}"))?;
    println!(
        "\nAll as expected, nothing left behind, {:.0} s. The figures are in {SUMMARY}.",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}
