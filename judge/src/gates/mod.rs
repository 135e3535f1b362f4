//! Gates of a rollout: from what was measured at a step to a verdict on each, and whether the step may go on.
//!
//! - [`metric`]: what a gate can be about.
//! - [`evidence`]: what a step is judged on.
//! - [`split`]: the canary against the control beside it; [`nodes`]: difference in differences by node.
//! - [`preview()`]: how long a gate will take, before the start.
//! - [`reference`](mod@reference): `docs/rollouts.md`.
//!
//! Pure, as all of this crate. `docs/rollouts.md` says what verdicts mean, and how sure they are.

pub mod evidence;
pub mod metric;
pub mod nodes;
mod preview;
pub mod reference;
pub mod split;
mod words;

use sockpilot_policy::measure::Estimator;
use sockpilot_proto::v1::{self, GateVerdict};
use sockpilot_stats::{
    Estimate, Level, NoAnswer, Sides,
    power::{Design, Test, more_needed},
    sequence::interval,
};

use self::{
    evidence::{GateEvidence, Seen},
    metric::Form,
};
pub use self::{
    metric::{DEFAULT_GATES, Gate, METRICS, Metric, gates_from_proto, measures_of},
    preview::{Present, preview},
};
use crate::EvidenceError;

/// With which probability a gate may pass, over all looks at a step, though there is harm of its margin. Not divided among gates, because all
/// have to pass: more gates make a wrong pass less likely.
pub const PASS_ALPHA: f64 = 0.05;
/// Of the check whether canary and control are as large as each other.
pub const LEVEL_OF_CHECKS: f64 = 0.001;
/// Connections of the smaller side before which nothing is said of a share: what happens or not has no heavy tail, and its error is never
/// zero, so it takes fewer than times do ([`Level::FIRST_LOOK`]).
pub const SHARES_FROM: u64 = 100;
/// Nodes on both sides before which changes by node say nothing: with fewer, the bound at which a change is told from chance is five of its
/// errors and more (Student's t with few degrees of freedom), and the errors themselves are a guess.
pub const NODES_MIN: usize = 8;
/// With which probability a gate is to pass when there is no harm, for what it says of the time that takes.
const POWER: f64 = 0.8;

/// What came of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// In the order of the gates.
    pub results: Vec<v1::GateResult>,
    /// What follows.
    pub step: StepVerdict,
}

/// What follows from the gates of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepVerdict {
    /// As far as gates go: all have passed, or the step has all connections and there are no nodes to tell by.
    GoOn,
    /// Not yet.
    Wait,
    /// Harm is shown; of an A/A: the measuring is broken.
    RollBack,
}

/// What a comparison finds: canary less control, so that more is worse; of times in logarithms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// The value without the revision.
    pub control: f64,
    /// The value with it.
    pub canary: f64,
    /// Connections or nodes: control, canary.
    pub n: (u64, u64),
    /// The harm.
    pub estimate: Estimate,
}

/// Judges all gates of a step.
///
/// # Errors
/// If the evidence contradicts itself.
pub fn gates(message: &v1::RolloutEvidence) -> Result<Judgement, EvidenceError> {
    let evidence = GateEvidence::read(message)?;
    let results: Vec<_> = evidence.gates.iter().map(|(gate, estimator)| one(&evidence, gate, *estimator)).collect();
    let step = step(&evidence, &results);
    Ok(Judgement { results, step })
}

/// A step with a share needs a pass of every gate. One with all connections has had it on these nodes; there harm must not show, and a pass is
/// needed where there are nodes enough to tell.
fn step(evidence: &GateEvidence, results: &[v1::GateResult]) -> StepVerdict {
    let has = |verdict| results.iter().any(|result| result.verdict() == verdict);
    if has(GateVerdict::Fail) {
        return StepVerdict::RollBack;
    }
    let all_passed = results.iter().all(|result| result.verdict() == GateVerdict::Pass);
    let untold = match &evidence.seen {
        Seen::Split { .. } => false,
        Seen::Nodes(nodes) => {
            let alive = nodes.values().any(|node| node.reached && node.after.attempts > 0);
            alive && !nodes::are_enough(nodes)
        }
    };
    if all_passed || untold { StepVerdict::GoOn } else { StepVerdict::Wait }
}

fn one(evidence: &GateEvidence, gate: &Gate, estimator: Estimator) -> v1::GateResult {
    let blank = v1::GateResult { comparison: evidence.seen.compared().words().to_owned(), ..blank(gate) };
    match &evidence.seen {
        Seen::Split { control, canary } => {
            let n = (split::known(gate, estimator, control), split::known(gate, estimator, canary));
            let blank = v1::GateResult { n_control: n.0, n_canary: n.1, ..blank };
            if n.0.min(n.1) == 0 {
                let reason = words::nothing_measured(gate, n);
                return v1::GateResult { verdict: GateVerdict::NoData.into(), reason, ..blank };
            }
            let found = split::compare(evidence, (gate, estimator), control, canary);
            settled(evidence, gate, found, split::lopsided(control, canary), blank)
        }
        Seen::Nodes(nodes) => {
            let (others, reached) = nodes::comparable(nodes);
            let blank = v1::GateResult { n_control: others as u64, n_canary: reached as u64, ..blank };
            if !nodes::are_enough(nodes) {
                let reason = words::few_nodes(gate, others, reached);
                return v1::GateResult { verdict: GateVerdict::NoData.into(), reason, ..blank };
            }
            match nodes::compare(gate, estimator, nodes) {
                Err(NoAnswer::TooFew { .. }) => {
                    let reason = words::silent_nodes(gate);
                    v1::GateResult { verdict: GateVerdict::NoData.into(), reason, ..blank }
                }
                found => settled(evidence, gate, found, None, blank),
            }
        }
    }
}

/// What is known of a gate before anything was seen.
fn blank(gate: &Gate) -> v1::GateResult {
    v1::GateResult {
        gate: Some(to_proto(gate)),
        unit: unit(gate).to_owned(),
        margin: gate.margin,
        harm_at_least: f64::NEG_INFINITY,
        harm_at_most: f64::INFINITY,
        ..v1::GateResult::default()
    }
}

/// Connections of the smaller side before which nothing is said.
fn first_look(gate: &Gate) -> u64 {
    if gate.metric.form == Form::Share { SHARES_FROM } else { Level::FIRST_LOOK }
}

/// Of what excludes harm at a level: canary and control are as large as each other.
fn design(level: Level) -> Design {
    Design { level, sides: Sides::Upper, test: Test::Sequential, share: 0.5, design_effect: 1.0 }
}

/// What a gate is, as in the plan, with the margin that it has.
fn to_proto(gate: &Gate) -> v1::Gate {
    v1::Gate { metric: gate.metric.name.to_owned(), margin_bp: (gate.margin * 10_000.0).round() as u32 }
}

fn unit(gate: &Gate) -> &'static str {
    if gate.metric.form == Form::Time { "us" } else { "" }
}

/// Bounds on the harm, as shares.
struct Bounds {
    at_least: f64,
    at_most: f64,
    /// Some difference is beyond chance, as sure as a fail must be.
    differs: bool,
    /// What is better by more than the margin is excluded, too.
    not_better: bool,
}

fn bounds(evidence: &GateEvidence, gate: &Gate, estimate: &Estimate) -> Result<Bounds, NoAnswer> {
    let from = first_look(gate);
    let fail = Level::new(evidence.alpha, Level::TUNING)?.looking_from(from);
    let pass = Level::new(PASS_ALPHA, Level::TUNING)?.looking_from(from);
    let both = interval(estimate, &fail, Sides::Two)?;
    Ok(Bounds {
        at_least: share(gate, interval(estimate, &fail, Sides::Lower)?.lower),
        at_most: share(gate, interval(estimate, &pass, Sides::Upper)?.upper),
        differs: !both.holds(0.0),
        not_better: share(gate, interval(estimate, &pass, Sides::Lower)?.lower) > -gate.margin,
    })
}

/// From the scale of the estimate to a share: a difference of logarithms is a ratio.
fn share(gate: &Gate, value: f64) -> f64 {
    if gate.metric.form == Form::Time { value.exp_m1() } else { value }
}

fn settled(
    evidence: &GateEvidence,
    gate: &Gate,
    found: Result<Found, NoAnswer>,
    lopsided: Option<String>,
    blank: v1::GateResult,
) -> v1::GateResult {
    let answer = found.and_then(|found| Ok((found, bounds(evidence, gate, &found.estimate)?)));
    let (found, bounds) = match answer {
        Ok(answer) => answer,
        Err(why) => {
            let reason = words::no_answer(gate, why);
            return v1::GateResult { verdict: GateVerdict::Inconclusive.into(), reason, ..blank };
        }
    };
    let harmed = if evidence.unchanged { bounds.differs } else { bounds.at_least > gate.margin };
    let excluded = bounds.at_most < gate.margin && (!evidence.unchanged || bounds.not_better);
    let verdict = match (harmed, excluded, &lopsided) {
        (true, _, _) => GateVerdict::Fail,
        // An A/A that loses connections has found what it is for.
        (false, _, Some(_)) if evidence.unchanged => GateVerdict::Fail,
        (false, true, None) => GateVerdict::Pass,
        (false, _, _) => GateVerdict::Inconclusive,
    };
    let value = |value: f64| if gate.metric.form == Form::Time { value.exp() } else { value };
    let mut result = v1::GateResult {
        verdict: verdict.into(),
        control: value(found.control),
        canary: value(found.canary),
        harm: share(gate, found.estimate.effect),
        harm_at_least: bounds.at_least,
        harm_at_most: bounds.at_most,
        n_control: found.n.0,
        n_canary: found.n.1,
        needed_s: if verdict == GateVerdict::Inconclusive { needed_s(evidence, gate, &found.estimate) } else { 0 },
        ..blank
    };
    result.reason = words::reason(gate, &result, evidence, lopsided.as_deref());
    result
}

/// How much longer it takes to exclude harm of the margin if there is none. Of nodes it is not known: time makes them no more.
fn needed_s(evidence: &GateEvidence, gate: &Gate, estimate: &Estimate) -> u64 {
    if estimate.clusters.is_some() {
        return 0;
    }
    let needed = || -> Result<f64, NoAnswer> {
        let margin = margin(gate);
        let design = design(Level::new(PASS_ALPHA, Level::TUNING)?);
        let early = first_look(gate) as f64 / estimate.n_control.min(estimate.n_treatment).max(1) as f64 - 1.0;
        Ok(more_needed(estimate, margin, POWER, &design)?.max(early))
    };
    seconds(needed().unwrap_or_default() * f64::from(evidence.duration_s))
}

/// The margin in the scale of the estimate.
fn margin(gate: &Gate) -> f64 {
    if gate.metric.form == Form::Time { gate.margin.ln_1p() } else { gate.margin }
}

/// Whole seconds, as far as they can be known.
fn seconds(seconds: f64) -> u64 {
    if seconds > 0.0 && seconds < 1e10 { seconds.ceil() as u64 } else { 0 }
}
