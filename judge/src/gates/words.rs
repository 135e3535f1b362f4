//! What is said of a gate, for people who own a service and not a textbook.

use sockpilot_proto::v1::{self, GateVerdict};
use sockpilot_stats::NoAnswer;

use super::{
    NODES_MIN,
    evidence::{Compared, GateEvidence},
    metric::{Form, Gate},
};
use crate::words::duration;

/// Why it has the verdict that it has: what was seen, of how many, how sure that is, and what is tolerated.
pub fn reason(gate: &Gate, result: &v1::GateResult, evidence: &GateEvidence, lopsided: Option<&str>) -> String {
    let v1::GateResult { control, canary, harm, harm_at_least, harm_at_most, margin, n_control, n_canary, .. } = result;
    let value = |value| amount(gate, value);
    let seen = match evidence.seen.compared() {
        Compared::Nodes => format!(
            "{} is {} on {n_canary} nodes with the new revision, where {} was to be expected from the {n_control} without it",
            gate.metric,
            value(*canary),
            value(*control)
        ),
        Compared::Connections => format!(
            "{} is {} in the canary ({}) and {} in the control ({n_control})",
            gate.metric,
            value(*canary),
            counted(*n_canary, "connection"),
            value(*control)
        ),
    };
    let worse = if *harm < 0.0 {
        format!("better by {}", harm_of(gate, -harm))
    } else {
        format!("worse by {}", harm_of(gate, *harm))
    };
    let tolerated = format!("{} tolerated", harm_of(gate, *margin));
    let sure = harm_at_least.is_finite() && harm_at_most.is_finite();
    match (result.verdict(), lopsided) {
        (GateVerdict::Fail, lost) if evidence.unchanged => {
            let lost = lost.map_or_else(String::new, |lost| format!("; {lost}"));
            format!("{seen}: {worse}, though both have the same, so what is measured cannot be relied on{lost}.")
        }
        (GateVerdict::Fail, _) => {
            format!("{seen}: {worse}, for certain by more than {}, with {tolerated}.", harm_of(gate, *harm_at_least))
        }
        (GateVerdict::Pass, _) => {
            format!("{seen}: worse by less than {}, with {tolerated}.", harm_of(gate, *harm_at_most))
        }
        (_, Some(lost)) => format!("{seen}, and it cannot pass: {lost}."),
        (_, None) if !sure => format!("{seen}: {worse}, of too few to say how sure that is{}.", wait(result.needed_s)),
        (_, None) => format!(
            "{seen}: {worse}, which may be anything from {} to {}, with {tolerated}{}.",
            harm_of(gate, *harm_at_least),
            harm_of(gate, *harm_at_most),
            wait(result.needed_s)
        ),
    }
}

fn wait(needed_s: u64) -> String {
    if needed_s == 0 {
        return String::new();
    }
    format!("; if it does no harm, it can pass in about {} at the present traffic", duration(needed_s))
}

/// That a side has nothing.
pub fn nothing_measured(gate: &Gate, (control, canary): (u64, u64)) -> String {
    let who = match (control, canary) {
        (0, 0) => "neither the canary nor the control has had",
        (0, _) => "the control has not had",
        (_, _) => "the canary has not had",
    };
    let what = match gate.metric.form {
        Form::Share => "any connection that was measured",
        Form::Per(_) => "any connection that was established and measured",
        Form::Time => "any connection that has this time",
    };
    format!("{}: {who} {what} yet.", gate.metric)
}

/// That nodes are too few to tell by.
pub fn few_nodes(gate: &Gate, others: usize, reached: usize) -> String {
    format!(
        "{}: {} with the new revision can be compared with {others} without it, and it takes {NODES_MIN} of both to tell a change \
         from what nodes differ by anyway; what holds is what the canary has shown.",
        gate.metric,
        counted(reached as u64, "node")
    )
}

/// `1 node`, `5 nodes`.
fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// That nodes that could tell have measured nothing.
pub fn silent_nodes(gate: &Gate) -> String {
    format!("{}: too few nodes have had connections to measure it by, both before the step and since.", gate.metric)
}

/// That no number came of it.
pub fn no_answer(gate: &Gate, why: NoAnswer) -> String {
    format!("{}: nothing can be said yet: {why}.", gate.metric)
}

/// A value: a time in a unit that people would take, or a share.
pub fn amount(gate: &Gate, value: f64) -> String {
    match gate.metric.form {
        Form::Time if value >= 1e6 => format!("{:.2} s", value / 1e6),
        Form::Time if value >= 1e3 => format!("{:.2} ms", value / 1e3),
        Form::Time => format!("{value:.0} µs"),
        Form::Share | Form::Per(_) => percent(value),
    }
}

/// Of a share in points of a hundred, so that it is not mistaken for a share of a share.
pub fn harm_of(gate: &Gate, harm: f64) -> String {
    match gate.metric.form {
        Form::Time => percent(harm),
        Form::Share | Form::Per(_) => format!("{} points", percent(harm).trim_end_matches('%')),
    }
}

/// With as many digits as tell it from zero, and no more than two after the point where it is large.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent.abs() {
        size if size >= 10.0 => 1,
        size if size >= 0.1 || size == 0.0 => 2,
        size if size >= 0.001 => 4,
        _ => 6,
    };
    format!("{percent:.digits$}%")
}
