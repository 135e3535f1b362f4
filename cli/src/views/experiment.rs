//! What an experiment says, in words and tables.

mod answers;
#[cfg(test)]
pub mod tests;

use super::amount;
use super::interval::{self, Interval, Scale};
use crate::format::{self, NONE};
use crate::table::{Table, one_line};
use sockpilot_proto::v1::{self, MeasureRole, Standing, VerdictKind};

pub use answers::{changed, concluded, frozen, power, verdicts};

/// Where a paragraph is broken.
const COLUMNS: usize = 120;
/// Of a guardrail that names none, in basis points.
const MARGIN_BP: u32 = 500;

/// Everything about an epoch; `at_end`: with the intervals that hold at the planned end only.
pub fn results(results: &v1::ExperimentResults, at_end: bool) -> String {
    let verdict = results.verdict.clone().unwrap_or_default();
    let rows: Vec<Row> = results.measures.iter().map(Row::of).collect();
    let mut text = format!("{}: {}\n", epoch(results), headline(&verdict));
    text.push_str(&format::wrapped(&verdict.reason, COLUMNS));
    let (from, to) = (format::time(results.from_time.as_ref()), format::time(results.to_time.as_ref()));
    text.push_str(&format!("\nConnections that began from {from} to {to}.\n"));
    if !results.estimand.is_empty() {
        text.push_str(&format::wrapped(&format!("Estimand: {}", results.estimand), COLUMNS));
    }
    for warning in &results.warnings {
        text.push_str(&format::wrapped(&format!("Warning: {warning}"), COLUMNS));
    }
    text.push_str(&format!("\n{}", arms(&results.arms)));
    if !results.share_checks.is_empty() {
        text.push_str(&format!("\n{}", shares(&results.share_checks)));
    }
    if !rows.is_empty() {
        text.push_str(&format!("\nIntervals and p are valid at every look:\n\n{}", measures(&rows)));
    }
    if at_end && !rows.is_empty() {
        text.push_str(&format!("\nValid at the planned end, and not at a look before it:\n\n{}", ends(&rows)));
    }
    text
}

/// `experiments/syn-rto@2`
pub fn epoch(results: &v1::ExperimentResults) -> String {
    one_line(&format!("{}@{}", results.name, results.revision))
}

/// The verdict in a few words, of which none can be taken for a yes that is none.
pub fn headline(verdict: &v1::Verdict) -> String {
    match verdict.kind() {
        VerdictKind::Unspecified => "NO VERDICT".to_owned(),
        VerdictKind::Ship => one_line(&format!("SHIP {}", verdict.arm)).trim_end().to_owned(),
        VerdictKind::DoNotShip => "DO NOT SHIP".to_owned(),
        VerdictKind::KeepRunning if verdict.needed_s > 0 => {
            format!("KEEP RUNNING, about {} more", amount::seconds(verdict.needed_s as f64))
        }
        VerdictKind::KeepRunning => "KEEP RUNNING".to_owned(),
        VerdictKind::Invalid => "INVALID, what was measured does not answer the question".to_owned(),
        VerdictKind::Inconclusive => "INCONCLUSIVE, which is not a yes".to_owned(),
        VerdictKind::NoData => "NO DATA, which is not a yes".to_owned(),
    }
}

fn arms(arms: &[v1::ArmSummary]) -> String {
    let grouped = arms.iter().any(|arm| arm.groups > 0);
    let mut headings = vec!["ARM", ">WEIGHT", ">BEGUN", ">ESTABLISHED", ">UNFINISHED"];
    if grouped {
        headings.push(">GROUPS OF UNITS");
    }
    let mut table = Table::new(&headings);
    for arm in arms {
        let mut cells = vec![arm_name(arm), weight(arm)];
        cells.extend([arm.attempts.to_string(), of(arm.established, arm.attempts), of(arm.unfinished, arm.attempts)]);
        if grouped {
            cells.push(arm.groups.to_string());
        }
        table.row(cells);
    }
    table.render()
}

/// `fast`, `off (control)`.
pub fn arm_name(arm: &v1::ArmSummary) -> String {
    if arm.control && arm.arm != "control" { format!("{} (control)", arm.arm) } else { arm.arm.clone() }
}

/// Of a saturation pair there is none.
pub fn weight(arm: &v1::ArmSummary) -> String {
    if arm.weight_bp == 0 { NONE.to_owned() } else { format::share(arm.weight_bp) }
}

/// `980 (98.0%)`; of nothing there is no share.
pub fn of(part: u64, all: u64) -> String {
    if all == 0 { part.to_string() } else { format!("{part} ({:.2}%)", part as f64 / all as f64 * 100.0) }
}

fn shares(checks: &[v1::ShareCheck]) -> String {
    let mut table = Table::new(&["ARMS' SHARES OF THOSE", ">P", ">DEVIATION", "SAYS"]);
    for check in checks {
        let deviation = amount::value(check.deviation, "");
        table.row(vec![check.stage.clone(), amount::probability(check.p), deviation, share_word(check).to_owned()]);
    }
    table.render()
}

/// What a check of shares comes to.
pub fn share_word(check: &v1::ShareCheck) -> &'static str {
    if check.mismatch { "MISMATCH: the arms do not have the shares that they should have" } else { "as they should be" }
}

/// A measure of an arm, every cell of it.
pub struct Row {
    pub measure: String,
    pub role: String,
    pub arm: String,
    /// `↑` or `↓`.
    pub good: &'static str,
    pub control: String,
    pub value: String,
    pub relative: Shown,
    pub absolute: Shown,
    pub p: String,
    /// After correction for all success measures.
    pub corrected_p: String,
    pub standing: String,
    pub note: String,
    /// Relative to the control.
    pub interval: Option<Interval>,
}

/// An effect with its interval, as it is read.
pub struct Shown {
    pub effect: String,
    pub range: String,
    pub range_at_end: String,
    pub p_at_end: String,
}

impl Shown {
    fn none() -> Self {
        let none = || NONE.to_owned();
        Self { effect: none(), range: none(), range_at_end: none(), p_at_end: none() }
    }

    fn of(effect: &v1::Effect, show: impl Fn(f64) -> String) -> Self {
        Self {
            effect: show(effect.effect),
            range: amount::range(effect.lower, effect.upper, &show),
            range_at_end: amount::range(effect.lower_at_end, effect.upper_at_end, &show),
            p_at_end: amount::probability(effect.p_at_end),
        }
    }
}

impl Row {
    pub fn of(result: &v1::MeasureResult) -> Self {
        let measure = result.measure.clone().unwrap_or_default();
        let row = Self {
            measure: result.title.clone(),
            role: role(&measure),
            arm: result.arm.clone(),
            good: if result.higher_is_better { "↑" } else { "↓" },
            control: NONE.to_owned(),
            value: NONE.to_owned(),
            relative: Shown::none(),
            absolute: Shown::none(),
            p: NONE.to_owned(),
            corrected_p: NONE.to_owned(),
            standing: standing(result.standing()).to_owned(),
            note: note(result),
            interval: None,
        };
        if !result.no_answer.is_empty() {
            return row;
        }
        let effect = result.relative.or(result.absolute);
        let success = measure.role() == MeasureRole::Success;
        Self {
            control: amount::value(result.control, &result.unit),
            value: amount::value(result.value, &result.unit),
            relative: result.relative.map_or_else(Shown::none, |effect| Shown::of(&effect, amount::relative)),
            absolute: amount::absolute(result)
                .map_or_else(Shown::none, |(effect, unit)| Shown::of(&effect, |v| amount::difference(v, unit))),
            p: effect.map_or_else(|| NONE.to_owned(), |effect| amount::probability(effect.p)),
            corrected_p: if success { amount::probability(result.corrected_p) } else { NONE.to_owned() },
            interval: result.relative.map(|effect| Interval {
                lower: effect.lower,
                effect: effect.effect,
                upper: effect.upper,
                margin: margin(&measure).map(|margin| if result.higher_is_better { -margin } else { margin }),
            }),
            ..row
        }
    }
}

/// The one scale of all intervals.
pub fn scale(rows: &[Row]) -> Scale {
    Scale::of(&rows.iter().filter_map(|row| row.interval).collect::<Vec<_>>())
}

fn measures(rows: &[Row]) -> String {
    let scale = scale(rows);
    let drawing = interval::heading(&scale, amount::round_relative);
    let mut headings = vec!["MEASURE", "FOR", "ARM", "GOOD", ">CONTROL", ">VALUE", ">CHANGE", ">FROM, TO", &drawing];
    headings.extend(["STANDING", ">P", ">HOLM", ">DIFFERENCE", ">FROM, TO", "NOTE"]);
    let mut table = Table::new(&headings);
    for row in rows {
        table.row(vec![
            row.measure.clone(),
            row.role.clone(),
            row.arm.clone(),
            row.good.to_owned(),
            row.control.clone(),
            row.value.clone(),
            row.relative.effect.clone(),
            row.relative.range.clone(),
            row.interval.map(|interval| interval::draw(&interval, &scale)).unwrap_or_default(),
            row.standing.clone(),
            row.p.clone(),
            row.corrected_p.clone(),
            row.absolute.effect.clone(),
            row.absolute.range.clone(),
            row.note.clone(),
        ]);
    }
    table.render()
}

fn ends(rows: &[Row]) -> String {
    let mut table = Table::new(&["MEASURE", "ARM", "GOOD", ">CHANGE", ">FROM, TO", ">P", ">DIFFERENCE", ">FROM, TO"]);
    for row in rows {
        // Where there is no share of the control, the difference has the p.
        let p = if row.relative.p_at_end == NONE { &row.absolute.p_at_end } else { &row.relative.p_at_end };
        table.row(vec![
            row.measure.clone(),
            row.arm.clone(),
            row.good.to_owned(),
            row.relative.effect.clone(),
            row.relative.range_at_end.clone(),
            p.clone(),
            row.absolute.effect.clone(),
            row.absolute.range_at_end.clone(),
        ]);
    }
    table.render()
}

/// As a share of the control's value; only guardrails have one.
fn margin(measure: &v1::Measure) -> Option<f64> {
    let margin_bp = if measure.margin_bp == 0 { MARGIN_BP } else { measure.margin_bp };
    (measure.role() == MeasureRole::Guardrail).then_some(f64::from(margin_bp) / 1e4)
}

/// `success`, `guardrail 5%`.
pub fn role(measure: &v1::Measure) -> String {
    match measure.role() {
        MeasureRole::Success => "success".to_owned(),
        MeasureRole::Guardrail if measure.margin_bp == 0 => format!("guardrail {}", format::share(MARGIN_BP)),
        MeasureRole::Guardrail => format!("guardrail {}", format::share(measure.margin_bp)),
        MeasureRole::Diagnostic | MeasureRole::Unspecified => "diagnostic".to_owned(),
    }
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Unspecified => NONE,
        Standing::Better => "better",
        Standing::Worse => "worse",
        Standing::WithinMargin => "within margin",
        Standing::Open => "open",
    }
}

fn note(result: &v1::MeasureResult) -> String {
    if !result.no_answer.is_empty() {
        return format!("no answer: {}", result.no_answer);
    }
    let means = if result.unit.starts_with("ln ") { "geometric means" } else { "" };
    let adjusted = if result.adjusted { "adjusted for the handshakes' round-trip times" } else { "" };
    let parts = [result.effect_of.as_str(), means, adjusted].into_iter().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("; ")
}
