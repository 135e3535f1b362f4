//! What gates say: figures, and drawings on one scale for all of them, whose unit is each gate's own margin.

use super::COLUMNS;
use crate::format::{self, NONE};
use crate::table::Table;
use crate::views::amount;
use crate::views::interval::{self, Interval, Scale};
use sockpilot_proto::v1::{self, GateVerdict};

/// A line for each gate; then what each says in words.
pub fn table(gates: &[v1::GateResult]) -> String {
    let scale = Scale::of(&gates.iter().filter_map(in_margins).collect::<Vec<_>>());
    let drawing = interval::heading(&scale, |margins| format!("{margins:+} margins"));
    let mut headings = vec!["GATE", "VERDICT", ">CONTROL", ">CANARY", ">HARM", ">FROM, TO", ">MARGIN", &drawing];
    headings.extend([">N CONTROL", ">N CANARY", ">NEEDS ABOUT", "COMPARISON"]);
    let mut table = Table::new(&headings);
    for result in gates {
        let gate = result.gate.clone().unwrap_or_default();
        let judged = result.verdict() != GateVerdict::NoData;
        let cell = |text: String| if judged { text } else { NONE.to_owned() };
        table.row(vec![
            gate.metric,
            verdict(result.verdict()).to_owned(),
            cell(amount::value(result.control, &result.unit)),
            cell(amount::value(result.canary, &result.unit)),
            cell(harm(result, result.harm)),
            cell(amount::range(result.harm_at_least, result.harm_at_most, |bound| harm(result, bound))),
            margin(result),
            in_margins(result).filter(|_| judged).map(|one| interval::draw(&one, &scale)).unwrap_or_default(),
            result.n_control.to_string(),
            result.n_canary.to_string(),
            needed(result),
            format::or_none(&result.comparison),
        ]);
    }
    table.render() + &reasons(gates)
}

/// How long each takes, before anything was seen.
pub fn expected(gates: &[v1::GateResult]) -> String {
    let mut table = Table::new(&["GATE", ">MARGIN", ">NEEDS ABOUT"]);
    for result in gates {
        let gate = result.gate.clone().unwrap_or_default();
        table.row(vec![gate.metric, margin(result), needed(result)]);
    }
    table.render() + &reasons(gates)
}

/// A sentence each, which names its gate.
fn reasons(gates: &[v1::GateResult]) -> String {
    let sentences: String = gates.iter().map(|result| format::wrapped(&result.reason, COLUMNS)).collect();
    if sentences.is_empty() { sentences } else { format!("\n{sentences}") }
}

/// Of shares in points, so that it is not taken for a share of a share; of times of the control's.
fn harm(result: &v1::GateResult, harm: f64) -> String {
    if result.unit.is_empty() { amount::difference(harm, "") } else { amount::relative(harm) }
}

fn margin(result: &v1::GateResult) -> String {
    harm(result, result.margin).trim_start_matches('+').to_owned()
}

/// Of no margin there are no multiples.
fn in_margins(result: &v1::GateResult) -> Option<Interval> {
    let v1::GateResult { harm, harm_at_least, harm_at_most, margin, .. } = result;
    let drawn = Interval {
        lower: harm_at_least / margin,
        effect: harm / margin,
        upper: harm_at_most / margin,
        margin: Some(1.0),
    };
    (*margin > 0.0 && drawn.is_sound()).then_some(drawn)
}

fn needed(result: &v1::GateResult) -> String {
    match (result.verdict(), result.needed_s) {
        (GateVerdict::Pass, _) | (_, 0) => NONE.to_owned(),
        (_, seconds) => amount::seconds(seconds as f64),
    }
}

fn verdict(verdict: GateVerdict) -> &'static str {
    match verdict {
        GateVerdict::Unspecified => NONE,
        GateVerdict::Pass => "PASS",
        GateVerdict::Fail => "FAIL",
        GateVerdict::Inconclusive => "INCONCLUSIVE",
        GateVerdict::NoData => "NO DATA",
    }
}
