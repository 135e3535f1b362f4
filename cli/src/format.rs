//! Values as people read them.

use prost_types::{Duration, Timestamp};
use sockpilot_proto::v1::{Reach, Selector, Target, selector, target::Kind};
use std::collections::HashMap;

/// What stands where there is no value.
pub const NONE: &str = "-";

/// To the second, in UTC: `2026-03-01T12:00:00Z`.
pub fn time(time: Option<&Timestamp>) -> String {
    match time {
        Some(time) => Timestamp { seconds: time.seconds, nanos: 0 }.to_string(),
        None => NONE.to_owned(),
    }
}

/// Microseconds with three significant digits: `850us`, `12.3ms`, `1.02s`.
pub fn micros(value: f64) -> String {
    match value {
        v if v < 999.5 => format!("{v:.0}us"),
        v if v < 999_500.0 => format!("{}ms", three_digits(v / 1e3)),
        v => format!("{}s", three_digits(v / 1e6)),
    }
}

/// How far a clock is off, to two units: `+2.5s`, `-1m05s`, `+3h00m`, `-2d07h`.
pub fn offset_ms(offset_ms: i64) -> String {
    let sign = if offset_ms < 0 { '-' } else { '+' };
    let ms = offset_ms.unsigned_abs();
    let s = ms / 1_000;
    match s {
        0..60 => format!("{sign}{}.{}s", s, ms % 1_000 / 100),
        60..3_600 => format!("{sign}{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{sign}{}h{:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{sign}{}d{:02}h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// As it is typed: `90s`, `10m`, `1h30m`, `7d`; what is no whole second as the contract has it: `1.500s`.
pub fn duration(duration: Option<&Duration>) -> String {
    match duration {
        None => NONE.to_owned(),
        Some(Duration { seconds, nanos: 0 }) if *seconds >= 0 => duration_s(seconds.unsigned_abs()),
        Some(duration) => duration.to_string(),
    }
}

/// As it is typed: `90s`, `10m`, `1h30m`, `7d`.
pub fn duration_s(seconds: u64) -> String {
    // People say 90s, not 1m30s.
    if seconds < 120 && !seconds.is_multiple_of(60) || seconds == 0 {
        return format!("{seconds}s");
    }
    let parts = [(seconds / 86_400, 'd'), (seconds / 3_600 % 24, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    parts.into_iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}")).collect()
}

/// Bytes with three significant digits, in powers of 1,000: `14.6kB`.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1e3;
        unit += 1;
    }
    if unit == 0 { format!("{value}B") } else { format!("{}{}", three_digits(scaled), UNITS[unit]) }
}

fn three_digits(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// A ratio as percent with two decimals.
pub fn percent(ratio: f64) -> String {
    format!("{:.2}%", ratio * 100.0)
}

/// Basis points as percent, as short as they go: `10%`, `0.5%`, `33.33%`.
pub fn share(basis_points: u32) -> String {
    let (whole, rest) = (basis_points / 100, basis_points % 100);
    match rest {
        0 => format!("{whole}%"),
        rest if rest % 10 == 0 => format!("{whole}.{}%", rest / 10),
        rest => format!("{whole}.{rest:02}%"),
    }
}

/// `a=b,c=d`, by key.
pub fn labels(labels: &HashMap<String, String>) -> String {
    if labels.is_empty() {
        return NONE.to_owned();
    }
    let mut pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.sort();
    pairs.join(",")
}

/// Whom a revision is for.
pub fn target(target: Option<&Target>) -> String {
    match target.and_then(|target| target.kind.as_ref()) {
        None => NONE.to_owned(),
        Some(Kind::Everyone(_)) => "everyone".to_owned(),
        Some(Kind::ShareBp(share_bp)) => format!("{} of nodes", share(*share_bp)),
        Some(Kind::NodeLabels(selection)) => labels(&selection.labels),
        Some(Kind::Waves(waves)) => waves.selectors.iter().map(selector).collect::<Vec<_>>().join(", then "),
        Some(Kind::Nobody(_)) => "nobody".to_owned(),
    }
}

/// `10% of nodes`, `role=edge`, `node web-1`, `7 nodes by name`.
pub fn selector(selector: &Selector) -> String {
    match &selector.kind {
        None => NONE.to_owned(),
        Some(selector::Kind::ShareBp(share_bp)) => format!("{} of nodes", share(*share_bp)),
        Some(selector::Kind::NodeLabels(selection)) => labels(&selection.labels),
        Some(selector::Kind::Nodes(named)) => match named.nodes.as_slice() {
            [one] => format!("node {}", one.trim_start_matches("nodes/")),
            all => format!("{} by name", count(all.len(), "node")),
        },
    }
}

/// `3 of 40 nodes`, `3 of 40 nodes, 1 of them not connected`.
pub fn reach(reach: &Reach) -> String {
    let Reach { nodes, connected_nodes, total_nodes } = reach;
    let text = format!("{nodes} of {}", count(*total_nodes as usize, "node"));
    match nodes - connected_nodes {
        0 => text,
        away => format!("{text}, {away} of them not connected"),
    }
}

/// `NONE` for an empty text.
pub fn or_none(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { text.to_owned() }
}

/// In lines of at most so many characters where its words allow it, each ended; without control characters.
pub fn wrapped(text: &str, width: usize) -> String {
    let mut lines = vec![String::new()];
    for word in crate::table::one_line(text).split_whitespace() {
        let line = lines.last_mut().expect("there is a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.iter().filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

/// `1 fault`, `2 faults`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micros_keep_three_digits() {
        for (value, expected) in [
            (0.0, "0us"),
            (850.4, "850us"),
            (999.6, "1.00ms"),
            (12_345.0, "12.3ms"),
            (99_960.0, "100ms"),
            (1_020_000.0, "1.02s"),
            (75e6, "75.0s"),
        ] {
            assert_eq!(micros(value), expected);
        }
    }

    #[test]
    fn bytes_keep_three_digits() {
        for (value, expected) in [(0, "0B"), (999, "999B"), (14_600, "14.6kB"), (1_000_000, "1.00MB")] {
            assert_eq!(bytes(value), expected);
        }
    }

    #[test]
    fn shares_read_as_they_are_written() {
        for (value, expected) in [(1_000, "10%"), (50, "0.5%"), (5, "0.05%"), (3_333, "33.33%")] {
            assert_eq!(share(value), expected);
            assert_eq!(crate::parse::share(expected), Ok(value));
        }
    }

    #[test]
    fn durations_read_as_they_are_written() {
        for text in ["1s", "90s", "2m", "10m", "1h30m", "7d", "1d1s"] {
            let read = crate::parse::duration(text).unwrap();
            assert_eq!(duration(Some(&read.try_into().unwrap())), text);
        }
        assert_eq!(duration(Some(&Duration { seconds: 1, nanos: 500_000_000 })), "1.500s");
        assert_eq!((duration(None).as_str(), duration_s(0).as_str()), ("-", "0s"));
    }

    #[test]
    fn paragraphs_are_wrapped_between_words() {
        assert_eq!(wrapped("one two  three\u{1b}[2J four", 7), "one two\nthree\n[2J\nfour\n");
        assert_eq!(wrapped("incomprehensible", 3), "incomprehensible\n");
        assert_eq!(wrapped("", 3), "");
    }

    #[test]
    fn times_and_labels() {
        assert_eq!(time(Some(&Timestamp { seconds: 1_772_366_400, nanos: 9 })), "2026-03-01T12:00:00Z");
        assert_eq!(time(None), "-");
        let two = HashMap::from([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())]);
        assert_eq!(labels(&two), "a=1,b=2");
    }
}
