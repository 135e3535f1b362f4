//! Results as one HTML file that can be sent around: nothing in it is loaded from elsewhere, and there is no script.
//!
//! What others wrote (names, reasons, warnings) gets into it by `html!` only, which escapes it.

use super::amount;
use super::experiment::{Row, arm_name, epoch, headline, of, scale, share_word, weight};
use super::interval::{Interval, Scale};
use crate::format::{self, NONE};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sockpilot_proto::v1::{self, VerdictKind};

const STYLE: &str = include_str!("report.css");

/// Of a drawing.
const WIDTH: f64 = 640.0;
/// Left and right of the scale.
const EDGE: f64 = 20.0;
/// Where the intervals are in a drawing.
const MIDDLE: f64 = 16.0;

/// The file.
pub fn html(results: &v1::ExperimentResults) -> String {
    let rows: Vec<Row> = results.measures.iter().map(Row::of).collect();
    let scale = scale(&rows);
    let title = epoch(results);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Even if something got in that should not, nothing is loaded and nothing runs.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                (verdict(results))
                (ground(results))
                h2 { "Arms" }
                (arms(&results.arms))
                (shares(&results.share_checks))
                h2 { "Measures" }
                @if rows.is_empty() { p { "None." } } @else { (legend()) }
                @for row in &rows { (measure(row, &scale)) }
            }
        }
    }
    .into_string()
}

fn verdict(results: &v1::ExperimentResults) -> Markup {
    let verdict = results.verdict.clone().unwrap_or_default();
    let class = match verdict.kind() {
        VerdictKind::Ship => "yes",
        VerdictKind::DoNotShip | VerdictKind::Invalid => "no",
        VerdictKind::KeepRunning => "wait",
        VerdictKind::Inconclusive | VerdictKind::NoData | VerdictKind::Unspecified => "unclear",
    };
    html! {
        div class={ "verdict " (class) } {
            strong { (headline(&verdict)) }
            p { (verdict.reason) }
        }
    }
}

/// What it is drawn from, and what else is to be known.
fn ground(results: &v1::ExperimentResults) -> Markup {
    let (from, to) = (format::time(results.from_time.as_ref()), format::time(results.to_time.as_ref()));
    html! {
        p { "Connections that began from " (from) " to " (to) "." }
        @if !results.estimand.is_empty() { p { "Estimand: " (results.estimand) } }
        @for warning in &results.warnings { p.warning { strong { "Warning: " } (warning) } }
    }
}

fn arms(arms: &[v1::ArmSummary]) -> Markup {
    let grouped = arms.iter().any(|arm| arm.groups > 0);
    html! {
        div.wide {
            table {
                tr {
                    th { "Arm" } th { "Weight" } th { "Begun" } th { "Established" } th { "Unfinished" }
                    @if grouped { th { "Groups of units" } }
                }
                @for arm in arms {
                    tr {
                        td { (arm_name(arm)) } td { (weight(arm)) } td { (arm.attempts) }
                        td { (of(arm.established, arm.attempts)) } td { (of(arm.unfinished, arm.attempts)) }
                        @if grouped { td { (arm.groups) } }
                    }
                }
            }
        }
    }
}

fn shares(checks: &[v1::ShareCheck]) -> Markup {
    html! {
        @if !checks.is_empty() {
            h2 { "Whether the arms have their shares" }
            div.wide {
                table {
                    tr { th { "Of those" } th { "p" } th { "Deviation" } th.text { "Says" } }
                    @for check in checks {
                        tr {
                            td { (check.stage) } td { (amount::probability(check.p)) }
                            td { (amount::value(check.deviation, "")) }
                            td class=(if check.mismatch { "text worse" } else { "text" }) { (share_word(check)) }
                        }
                    }
                }
            }
        }
    }
}

fn legend() -> Markup {
    html! {
        p.small {
            "Intervals and p are valid at every look, if nothing else is said. All intervals are on one scale, in percent of the control. The \
             black line is no effect, the broken one of a guardrail its margin; an arrow is an interval that goes on beyond the scale."
        }
    }
}

fn measure(row: &Row, scale: &Scale) -> Markup {
    let direction = if row.good == "↑" { "more is better" } else { "less is better" };
    html! {
        article {
            h3 {
                (row.measure) ", " (row.arm) " "
                span { (row.role) ", " (row.good) " " (direction) ": " }
                span class=(class(row)) { strong { (row.standing) } }
            }
            @if let Some(interval) = row.interval.filter(Interval::is_sound) { (drawing(row, &interval, scale)) }
            @if row.control != NONE {
                p { "control " (row.control) " → " (row.arm) " " (row.value) }
                p {
                    @if row.relative.effect != NONE {
                        strong { (row.relative.effect) } " " (row.relative.range) ", that is "
                    }
                    strong { (row.absolute.effect) } " " (row.absolute.range) "; p " (row.p)
                    @if row.corrected_p != NONE { ", corrected for all success measures " (row.corrected_p) }
                }
                p.small {
                    "Valid at the planned end, and not at a look before it: "
                    @if row.relative.effect != NONE { (row.relative.range_at_end) ", that is " }
                    (row.absolute.range_at_end)
                }
            }
            @if !row.note.is_empty() { p.small { (row.note) } }
        }
    }
}

fn class(row: &Row) -> &'static str {
    match row.standing.as_str() {
        "better" => "better",
        "worse" => "worse",
        "within margin" => "within",
        _ => "open",
    }
}

fn x(value: f64, scale: &Scale) -> f64 {
    EDGE + scale.position(value) * (WIDTH - 2.0 * EDGE)
}

fn drawing(row: &Row, interval: &Interval, scale: &Scale) -> Markup {
    let place = |value: f64| format!("{:.1}", x(value, scale));
    let label = format!("{} of {}: {} {}", row.measure, row.arm, row.relative.effect, row.relative.range);
    let (left, right) = (place(-scale.extent()), place(scale.extent()));
    let colour = match class(row) {
        "better" | "within" => "#17692f",
        "worse" => "#a4161a",
        _ => "#555",
    };
    // Looks stand at the elements themselves: programs that make other files of this one do not look for the style of the page here.
    html! {
        svg viewBox={ "0 0 " (WIDTH) " 48" } role="img" aria-label=(label) {
            line x1=(left) x2=(right) y1="30" y2="30" stroke="#c9c9c9" {}
            line x1=(place(0.0)) x2=(place(0.0)) y1="4" y2="32" stroke="#111" {}
            @if let Some(margin) = interval.margin.filter(|margin| !scale.is_beyond(*margin)) {
                line x1=(place(margin)) x2=(place(margin)) y1="4" y2="32" stroke="#a4161a" stroke-dasharray="4 3" {}
            }
            path d=(path(interval, scale)) stroke=(colour) stroke-width="3" fill="none" {}
            @if !scale.is_beyond(interval.effect) {
                circle cx=(place(interval.effect)) cy=(MIDDLE) r="6" fill=(colour) {}
            }
            g font-family="system-ui, Arial, sans-serif" font-size="13" fill="#555" {
                text x=(left) y="45" { (amount::round_relative(-scale.extent())) }
                text x=(place(0.0)) y="45" text-anchor="middle" { "0" }
                text x=(right) y="45" text-anchor="end" { (amount::round_relative(scale.extent())) }
            }
        }
    }
}

/// The line with what it ends in: a stroke across, or the head of an arrow.
fn path(interval: &Interval, scale: &Scale) -> String {
    let (left, right) = (x(interval.lower, scale), x(interval.upper, scale));
    let (top, bottom) = (MIDDLE - 7.0, MIDDLE + 7.0);
    let end = |at: f64, back: f64, beyond: bool| {
        if beyond {
            format!("M{:.1} {top} L{at:.1} {MIDDLE} L{:.1} {bottom}", at + back, at + back)
        } else {
            format!("M{at:.1} {top} V{bottom}")
        }
    };
    let first = end(left, 8.0, interval.lower < -scale.extent());
    let last = end(right, -8.0, interval.upper > scale.extent());
    format!("M{left:.1} {MIDDLE} H{right:.1} {first} {last}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::experiment::tests::{example, hostile};

    /// Walks through all tags; returns the names of elements in their order.
    fn elements(text: &str) -> Vec<String> {
        let mut open: Vec<String> = Vec::new();
        let mut seen = Vec::new();
        let body = text.strip_prefix("<!DOCTYPE html>").unwrap();
        for part in body.split('<').skip(1) {
            let (tag, _) = part.split_once('>').unwrap_or_else(|| panic!("a tag without end: {part}"));
            assert_eq!(tag.matches('"').count() % 2, 0, "a quote without end: {tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
                continue;
            }
            let name = tag.split_whitespace().next().unwrap().to_owned();
            if name != "meta" {
                open.push(name.clone());
            }
            seen.push(name);
        }
        assert_eq!(open, Vec::<String>::new());
        seen
    }

    #[test]
    fn the_file_is_well_formed_and_needs_nothing_else() {
        let text = html(&example());
        let seen = elements(&text);
        assert_eq!(seen.iter().filter(|name| *name == "article").count(), 4);
        assert_eq!(seen.iter().filter(|name| *name == "svg").count(), 3, "what has no answer has no interval");
        for loading in ["http://", "https://", "url(", "@import", "src="] {
            assert!(!text.contains(loading), "{loading}");
        }
        assert!(!seen.iter().any(|name| ["script", "img", "link", "iframe"].contains(&name.as_str())), "{seen:?}");
    }

    #[test]
    fn everything_that_the_table_says_is_there() {
        let text = html(&example());
        for said in [
            "experiments/wide@3",
            "KEEP RUNNING, about 2d04h more",
            "2026-03-01T12:00:00Z to 2026-03-03T12:00:00Z",
            "control 14.6MB/s → fast 15.8MB/s",
            "[+2.10%, +14.5%]",
            "no answer: only 3 connections",
            "MISMATCH",
            "within margin",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
    }

    #[test]
    fn whatever_others_wrote_is_text() {
        let text = html(&hostile());
        let seen = elements(&text);
        assert!(!seen.iter().any(|name| name == "script" || name == "b"), "{seen:?}");
        assert!(text.contains("&lt;script&gt;") && text.contains("&quot;&gt;&lt;b&gt;"), "{text}");
        assert!(!text.contains("NaN") && !text.contains("inf"), "numbers that are none do not get into drawings");
    }
}
