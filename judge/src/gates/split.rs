//! Canary against the control beside it: connections of the same nodes at the same time, each drawn by itself.

use sockpilot_outcomes::Measured;
use sockpilot_policy::measure::Estimator;
use sockpilot_stats::{
    Covariate, Errors, Estimate, Kind, Level, NoAnswer, balance, contrast, events,
    shares::{Share, difference},
    srm::{CONCENTRATION, mismatch},
};

use super::{
    Found, LEVEL_OF_CHECKS, PASS_ALPHA,
    evidence::GateEvidence,
    metric::{Form, Gate},
};
use crate::effect::{kind, moments, stage};

/// A side whose share is off by less than this share of all connections spoils nothing.
const LOPSIDED: f64 = 0.005;

/// What a gate finds.
pub fn compare(
    evidence: &GateEvidence,
    (gate, estimator): (&Gate, Estimator),
    control: &Measured,
    canary: &Measured,
) -> Result<Found, NoAnswer> {
    match gate.metric.form {
        Form::Share => of_share(estimator, control, canary),
        Form::Per(_) | Form::Time => of_values(evidence, (gate, estimator), control, canary),
    }
}

fn of_share(estimator: Estimator, control: &Measured, canary: &Measured) -> Result<Found, NoAnswer> {
    let (Estimator::Mean { stage, column } | Estimator::Ratio { stage, numerator: column, .. }) = estimator;
    let of = |measured: &Measured| share(moments(measured, stage).sum(column), measured.attempts.count);
    let (control, canary) = (of(control), of(canary));
    Ok(Found {
        control: control.value()?,
        canary: canary.value()?,
        n: (control.of, canary.of),
        estimate: difference(control, canary)?,
    })
}

/// So many of all that were begun, whatever a node says.
pub fn share(events: Option<f64>, of: u64) -> Share {
    // A float becomes the nearest count there is.
    Share { events: (events.unwrap_or_default().round() as u64).min(of), of }
}

fn of_values(
    evidence: &GateEvidence,
    (gate, estimator): (&Gate, Estimator),
    control: &Measured,
    canary: &Measured,
) -> Result<Found, NoAnswer> {
    let n = (known(gate, estimator, control), known(gate, estimator, canary));
    let (control, canary) = (moments(control, stage(estimator)), moments(canary, stage(estimator)));
    let kind = kind(&gate.metric.measure(), estimator);
    let level = Level::new(PASS_ALPHA, Level::TUNING)?;
    let plain = |control, canary, kind| contrast(control, canary, kind, None, Errors::Independent, &level);
    let covariate = Covariate::from(evidence.columns.covariate());
    let checks = Level::new(LEVEL_OF_CHECKS, Level::TUNING)?;
    // Chance differences of the handshake's round-trip time are taken out where nothing was done to it and both are alike in it.
    let alike = !evidence.handshake_differs
        && balance(control, canary, covariate, Errors::Independent, &checks)
            .is_ok_and(|found| found.sequence_p > LEVEL_OF_CHECKS);
    let adjusted = alike.then(|| contrast(control, canary, kind, Some(covariate), Errors::Independent, &level).ok());
    let found = match adjusted.flatten().map_or_else(|| plain(control, canary, kind), Ok) {
        // Nothing of all that was sent, as no segment sent again, is data, too.
        Err(NoAnswer::NoVariance) => match kind {
            Kind::Ratio { .. } if gate.metric.form != Form::Time => {
                events::contrast(control, canary, kind, None, Errors::Independent, &level)?
            }
            Kind::Ratio { .. } | Kind::Mean(_) | Kind::Proportion(_) => return Err(NoAnswer::NoVariance),
        },
        found => found?,
    };
    let estimate = Estimate { n_control: n.0, n_treatment: n.1, ..found.absolute.estimate };
    Ok(Found { control: found.control, canary: found.treatment, n, estimate })
}

/// How many connections have what a gate is about.
pub fn known(gate: &Gate, estimator: Estimator, measured: &Measured) -> u64 {
    match (gate.metric.form, estimator) {
        (Form::Share, _) => measured.attempts.count,
        (Form::Time, Estimator::Ratio { stage, denominator, .. }) => {
            let moments = moments(measured, stage);
            (moments.sum(denominator).unwrap_or_default().round() as u64).min(moments.count)
        }
        (Form::Time | Form::Per(_), Estimator::Mean { stage, .. } | Estimator::Ratio { stage, .. }) => {
            moments(measured, stage).count
        }
    }
}

/// That the two are not as large as they must be, in words. They have equally many buckets, so what is missing on one side was lost: by the
/// change, or by the measuring. Accepted connections are seen only once they are established, so this is where those appear that are not.
pub fn lopsided(control: &Measured, canary: &Measured) -> Option<String> {
    let counts = [control.attempts.count, canary.attempts.count];
    let found = mismatch(&counts, &[0.5, 0.5], CONCENTRATION).ok()?;
    (found.p < LEVEL_OF_CHECKS && found.deviation > LOPSIDED).then(|| {
        format!(
            "canary and control have {} and {} connections, where chance alone would make them more alike (p = {:.1e}): one of them loses \
             connections, so what is left is no fair comparison",
            counts[1], counts[0], found.p
        )
    })
}
