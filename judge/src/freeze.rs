//! Caps for measures with heavy tails, from what was seen before the start. Sums cannot be capped afterwards.
//!
//! Where outcomes have a distribution of the quantity, or of one that it is a part of, the cap is the 99th percentile. Of other quantities an
//! A/A knows mean and variance, and by Cantelli's inequality at most one in a hundred is above mean + sqrt(99) standard deviations,
//! whatever the distribution: that is the cap.

use sockpilot_outcomes::{Measured, Sums};
use sockpilot_policy::measure::{Column, Columns, Measure, Quantity, Stage, Transform};
use sockpilot_proto::{convert::measure_to_proto, v1};
use sockpilot_stats::{CoMoments, Summary};

use crate::{effect::moments, evidence::Evidence};

/// Of which at most one in a hundred is above.
const DEVIATIONS: f64 = 9.95;

/// The measures with caps: those that are the mean of a quantity itself, whose tail may be heavy. `seen` are outcomes, `measured` what the
/// experiment itself has measured.
#[must_use]
pub fn freeze(measures: &[Measure], seen: &Sums, measured: &Evidence) -> v1::FreezeExperimentResponse {
    let (mut frozen, mut notes) = (vec![], vec![]);
    for measure in measures {
        let (measure, note) = match cap(measure, seen, measured) {
            Ok((cap, note)) => (Measure { transform: Transform::Cap(cap), ..*measure }, note),
            Err(why) => (*measure, format!("is left as it is; {why}")),
        };
        notes.push(format!("{measure}: {note}"));
        frozen.push(measure_to_proto(&measure));
    }
    v1::FreezeExperimentResponse { measures: frozen, notes }
}

/// The cap and where it is from, or why there is none.
fn cap(measure: &Measure, seen: &Sums, measured: &Evidence) -> Result<(f64, String), String> {
    let quantity = measure.quantity;
    let distribution = distribution(quantity, seen);
    match measure.transform {
        Transform::AtMost(_) => return Err(threshold(distribution)),
        Transform::Log => return Err("a logarithm needs no cap".to_owned()),
        Transform::Itself | Transform::Cap(_) => {}
    }
    if measure.per.is_some() {
        return Err("a ratio of sums needs no cap".to_owned());
    }
    if quantity.unit().is_empty() {
        return Err("a yes or no needs no cap".to_owned());
    }
    if let Some((of, Summary { count, p99, .. })) = distribution.filter(|(_, summary)| summary.count > 0) {
        let of = if of == quantity.name() { String::new() } else { format!(" of {of}, of which it is a part,") };
        return Ok((rounded_up(p99), format!("capped at the 99th percentile{of} of {count} connections")));
    }
    if let Some((count, mean, deviation)) = known(quantity, measured) {
        let cap = rounded_up(mean + DEVIATIONS * deviation);
        return Ok((cap, format!("capped where at most one in a hundred of {count} measured connections is")));
    }
    Err(match distribution {
        Some(_) => "nothing was seen of it yet: name a policy that has outcomes, or run this as an A/A first".to_owned(),
        None => "no distribution of it is kept: run this as an A/A first, without a cap, and freeze again; or write a `cap`, or `log`".to_owned(),
    })
}

/// What outcomes know of a quantity, or of one that is never less.
fn distribution(quantity: Quantity, seen: &Sums) -> Option<(&'static str, Summary)> {
    let (of, distribution) = match quantity {
        Quantity::SrttUs => (quantity, &seen.distributions.srtt_us),
        Quantity::DurationUs => (quantity, &seen.distributions.duration_us),
        Quantity::HandshakeUs => (quantity, &seen.distributions.connect_time_us),
        Quantity::MinRttUs | Quantity::QueueingUs => (Quantity::SrttUs, &seen.distributions.srtt_us),
        Quantity::HandshakeRttUs => (Quantity::HandshakeUs, &seen.distributions.connect_time_us),
        _ => return None,
    };
    Some((of.name(), distribution.summary()))
}

/// A threshold is what people promise each other: nothing is set, but what was seen is said.
fn threshold(distribution: Option<(&str, Summary)>) -> String {
    match distribution {
        Some((of, Summary { count, p50, p90, p99, .. })) if count > 0 => format!(
            "of {count} connections half had a {of} of at most {p50:.0}, nine in ten of at most {p90:.0}, 99 in 100 of at most {p99:.0}: near \
             these a threshold tells most"
        ),
        _ => "no distribution of it was seen to take a threshold from".to_owned(),
    }
}

/// How many connections the experiment has measured a quantity of, its mean and its standard deviation, if it was measured as it is.
fn known(quantity: Quantity, evidence: &Evidence) -> Option<(u64, f64, f64)> {
    let Columns { attempts, established, .. } = &evidence.columns;
    let stages = [(Stage::Attempts, attempts), (Stage::Established, established)];
    let (stage, columns, at) = stages.into_iter().find_map(|(stage, columns)| {
        let at = columns.iter().position(|column| *column == Column::Value(quantity, Transform::Itself))?;
        Some((stage, columns, at))
    })?;
    let mut all = CoMoments::new(columns.len());
    for arm in evidence.arms.iter().filter(|arm| arm.measured != Measured::default()) {
        all.merge(moments(&arm.measured, stage)).ok()?;
    }
    // Where it is not known it counts as 0 in the sums.
    let known = columns.iter().position(|column| *column == Column::Known(quantity));
    let share = known.map_or(Some(1.0), |known| all.mean(known)).filter(|share| *share > 0.0)?;
    let n = all.count as f64;
    let (sum, square) = (all.mean(at)?, all.variance(at)? * (n - 1.0) / n + all.mean(at)?.powi(2));
    let mean = sum / share;
    Some(((n * share).round() as u64, mean, (square / share - mean * mean).max(0.0).sqrt()))
}

/// To two digits: what is frozen is read by people.
fn rounded_up(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let unit = 10_f64.powf(value.log10().floor() - 1.0);
    (value / unit).ceil() * unit
}
