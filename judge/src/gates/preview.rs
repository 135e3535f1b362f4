//! How long gates will take, before a rollout has begun: from what came of the policy's connections lately.

use sockpilot_outcomes::{SizeClass, Sums};
use sockpilot_policy::measure::Quantity;
use sockpilot_proto::v1;
use sockpilot_stats::{
    Distribution, Level, NoAnswer,
    power::{Variances, sample_size},
};

use super::{PASS_ALPHA, POWER, blank, design, first_look, margin, metric::Gate, seconds, words};
use crate::words::duration;

/// What came of the policy's connections lately.
#[derive(Debug, Clone)]
pub struct Present {
    /// By size.
    pub seen: Vec<(SizeClass, Sums)>,
    /// Over how many seconds.
    pub seconds: f64,
    /// Which share of these connections the canary will have: that of the step, of the nodes of the wave.
    pub canary_share: f64,
}

/// For each gate, how long it takes to exclude harm of its margin if there is none; the verdict is unspecified. A time of 0 is not known:
/// nothing was seen, or of the metric only sums are kept that say nothing of chance.
#[must_use]
pub fn preview(gates: &[Gate], present: &Present) -> Vec<v1::GateResult> {
    let mut all = Sums::default();
    present.seen.iter().for_each(|(_, sums)| all.merge(sums));
    gates.iter().map(|gate| one(gate, present, &all)).collect()
}

fn one(gate: &Gate, present: &Present, all: &Sums) -> v1::GateResult {
    let blank = blank(gate);
    let Some((value, variance, count)) = known(gate, present, all) else {
        let reason = format!("{}: nothing was seen lately that says how long it takes.", gate.metric);
        return v1::GateResult { reason, ..blank };
    };
    let per_s = count as f64 / present.seconds * present.canary_share;
    let needed_s = needed(gate, variance).map_or(0, |connections| seconds(connections / per_s));
    let takes = if needed_s == 0 {
        "how long it takes is not known".to_owned()
    } else {
        format!("it takes about {}", duration(needed_s))
    };
    let reason = format!(
        "{} is {} now; {takes} of the present traffic to exclude harm of {}, if there is none.",
        gate.metric,
        words::amount(gate, value),
        words::harm_of(gate, gate.margin)
    );
    v1::GateResult { control: value, needed_s, reason, ..blank }
}

/// How many connections the canary needs, beside as many of the control.
fn needed(gate: &Gate, variance: f64) -> Result<f64, NoAnswer> {
    let level = Level::new(PASS_ALPHA, Level::TUNING)?.looking_from(first_look(gate));
    Ok(sample_size(margin(gate), Variances::both(variance), POWER, &design(level))? / 2.0)
}

/// Value, variance and number of the connections that have the metric.
fn known(gate: &Gate, present: &Present, all: &Sums) -> Option<(f64, f64, u64)> {
    let of_size =
        |class| present.seen.iter().find(|(size, _)| *size == class).map(|(_, sums)| &sums.distributions.duration_us);
    let counts = &all.counts;
    let share = |events: u64| {
        let share = events as f64 / counts.flows as f64;
        // As where shares are compared: none of many has a variance, too.
        let with_one_more = (events as f64 + 1.0) / (counts.flows as f64 + 2.0);
        (counts.flows > 0).then_some((share, with_one_more * (1.0 - with_one_more), counts.flows))
    };
    match gate.metric.quantity {
        Quantity::Failed => share(counts.failed),
        Quantity::Reset => share(counts.reset),
        Quantity::TimedOut => share(counts.timed_out),
        Quantity::BadEnd => share(counts.failed.saturating_add(counts.reset).saturating_add(counts.timed_out)),
        Quantity::HandshakeUs => time(&all.distributions.connect_time_us),
        Quantity::SrttUs => time(&all.distributions.srtt_us),
        Quantity::DurationUs => time(&all.distributions.duration_us),
        Quantity::DurationSmallUs => time(of_size(SizeClass::Small)?),
        Quantity::DurationMediumUs => time(of_size(SizeClass::Medium)?),
        Quantity::DurationLargeUs => time(of_size(SizeClass::Large)?),
        _ => None,
    }
}

/// Of a logarithm: half the distance of the quantiles that are two standard deviations apart where it is normal.
fn time(distribution: &Distribution) -> Option<(f64, f64, u64)> {
    let ln = |q| distribution.quantile(q).map(|value| value.max(1.0).ln());
    let (low, middle, high) = (ln(0.159)?, ln(0.5)?, ln(0.841)?);
    let deviation = (high - low) / 2.0;
    // Where most are alike to the sketch's precision, they differ by no more than that.
    let variance = (deviation * deviation).max(1e-4);
    Some((middle.exp(), variance, distribution.moments.count))
}
