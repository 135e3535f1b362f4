//! What tests say to experiments, and ask of them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use sockpilot_proto::v1;

use crate::{
    admin::Admin,
    wait::{eventually, pass},
};

/// Until the last interval is over (a minute, if a daemon is not told otherwise), the horizon of all has passed, and half a minute more.
const PATIENCE: Duration = Duration::from_secs(150);
/// How often the server is asked.
const LOOK: Duration = Duration::from_millis(300);

/// A measure of a quantity, or of its logarithm.
#[must_use]
pub fn measure(quantity: &str, log: bool, role: v1::MeasureRole) -> v1::Measure {
    let transform = log.then_some(v1::measure::Transform::Log(true));
    v1::Measure { quantity: quantity.to_owned(), role: role.into(), transform, ..v1::Measure::default() }
}

/// What is known of the epoch that runs.
///
/// # Errors
/// What the server says.
pub fn results(admin: &Admin, name: &str) -> Result<v1::ExperimentResults> {
    let request = v1::GetExperimentResultsRequest { name: name.to_owned(), revision: 0 };
    Ok(admin.call(admin.experiments().get_experiment_results(request))?)
}

/// Waits until all connections are in the results.
///
/// # Errors
/// If they do not come.
pub fn settled(admin: &Admin, name: &str, expected: u64) -> Result<v1::ExperimentResults> {
    eventually(&format!("{name} has measured all connections"), PATIENCE, || {
        let results = results(admin, name)?;
        let measured: u64 = results.arms.iter().map(|arm| arm.attempts).sum();
        if measured != expected {
            pass(LOOK)?;
            bail!("{measured} of {expected}");
        }
        Ok(results)
    })
}

/// The first row of a measure.
///
/// # Errors
/// If there is none.
pub fn row<'a>(results: &'a v1::ExperimentResults, title: &str) -> Result<&'a v1::MeasureResult> {
    let found = results.measures.iter().find(|row| row.title == title);
    found.with_context(|| format!("no row {title} in {:?}", results.measures))
}

/// The effect in that row, arm less control.
///
/// # Errors
/// If it has none.
pub fn effect(results: &v1::ExperimentResults, title: &str) -> Result<v1::Effect> {
    let row = row(results, title)?;
    row.absolute.with_context(|| format!("no effect: {row:?}"))
}

/// The mean of logarithms.
#[must_use]
pub fn mean_ln(values: impl Iterator<Item = u64>) -> f64 {
    let (count, sum) = values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + (value as f64).ln()));
    sum / count
}
