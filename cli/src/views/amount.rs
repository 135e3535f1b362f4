//! Values of measures as people read them: scaled to what they are counted in. Pure.

use crate::format::NONE;
use sockpilot_proto::v1::{Effect, MeasureResult};

/// Signs are told apart at a glance where both are as wide.
const MINUS: char = '-';

/// A value in its unit, as the contract names it: `12.3ms`, `14.6MB/s`, `98.20%`; of a logarithm the geometric mean.
pub fn value(value: f64, unit: &str) -> String {
    match unit.strip_prefix("ln ") {
        Some(unit) => positive_or_not(value.exp(), unit, scaled),
        None => positive_or_not(value, unit, scaled),
    }
}

/// A difference of two values: with its sign, of shares in percentage points.
pub fn difference(value: f64, unit: &str) -> String {
    signed(
        value,
        &if unit.is_empty() { format!("{}pp", digits(value.abs() * 100.0)) } else { scaled(value.abs(), unit) },
    )
}

/// A share of the control's value, with its sign: `+12.3%`.
pub fn relative(value: f64) -> String {
    signed(value, &format!("{}%", digits(value.abs() * 100.0)))
}

/// A round share of the control's value, as it stands at the ends of a scale: `-20%`.
pub fn round_relative(value: f64) -> String {
    format!("{:+}%", (value * 1e8).round() / 1e6)
}

/// `[-3.10%, +1.20%]`
pub fn range(lower: f64, upper: f64, show: impl Fn(f64) -> String) -> String {
    if lower.is_nan() || upper.is_nan() { NONE.to_owned() } else { format!("[{}, {}]", show(lower), show(upper)) }
}

/// A probability: `0.0312`, `<0.0001`.
pub fn probability(p: f64) -> String {
    match p {
        p if !(0.0..=1.0).contains(&p) => NONE.to_owned(),
        p if p < 0.0001 => "<0.0001".to_owned(),
        p => format!("{p:.4}"),
    }
}

/// The difference in the unit in which the values are shown, which for a logarithm is not its own: a share of the control's geometric
/// mean is a difference in the quantity's unit. With that unit.
pub fn absolute(result: &MeasureResult) -> Option<(Effect, &str)> {
    let Some(unit) = result.unit.strip_prefix("ln ") else {
        return result.absolute.map(|effect| (effect, result.unit.as_str()));
    };
    let (effect, mean) = (result.relative?, result.control.exp());
    let times = |share: f64| share * mean;
    let in_unit = Effect {
        effect: times(effect.effect),
        lower: times(effect.lower),
        upper: times(effect.upper),
        standard_error: times(effect.standard_error),
        lower_at_end: times(effect.lower_at_end),
        upper_at_end: times(effect.upper_at_end),
        ..effect
    };
    Some((in_unit, unit))
}

/// How long, to two units: `45s`, `12m30s`, `3h05m`, `2d04h`.
pub fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() || !(0.0..=1e12).contains(&seconds) {
        return NONE.to_owned();
    }
    let s = seconds.ceil() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// Whole numbers with three significant digits, as they are estimated: `1.25M`.
pub fn number(value: f64) -> String {
    positive_or_not(value, "", |value, _| prefixed(value, ""))
}

fn positive_or_not(value: f64, unit: &str, show: impl Fn(f64, &str) -> String) -> String {
    match value {
        v if v.is_nan() => NONE.to_owned(),
        v if v.is_infinite() => signed(v, "").trim_start_matches('+').to_owned(),
        v if v < 0.0 => format!("{MINUS}{}", show(-v, unit)),
        v => show(v, unit),
    }
}

fn signed(value: f64, magnitude: &str) -> String {
    match value {
        v if v.is_nan() => NONE.to_owned(),
        v if v == f64::INFINITY => "+∞".to_owned(),
        v if v == f64::NEG_INFINITY => format!("{MINUS}∞"),
        v if v < 0.0 => format!("{MINUS}{magnitude}"),
        v if v > 0.0 => format!("+{magnitude}"),
        _ => magnitude.to_owned(),
    }
}

/// Not negative.
fn scaled(value: f64, unit: &str) -> String {
    match unit {
        // Of shares near all and near none, what is between two of them is in the decimals.
        "" if (0.1..=1.0).contains(&value) => format!("{:.2}%", value * 100.0),
        "" => format!("{}%", digits(value * 100.0)),
        "us" => micros(value),
        "bytes" => prefixed(value, "B"),
        "bytes/s" => prefixed(value, "B/s"),
        // A unit of its own is the last word of the cell.
        other => format!("{} {other}", prefixed(value, "")),
    }
}

fn micros(value: f64) -> String {
    match value {
        v if v < 999.5 => format!("{}us", digits(v)),
        v if v < 999_500.0 => format!("{}ms", digits(v / 1e3)),
        v => format!("{}s", digits(v / 1e6)),
    }
}

/// In powers of 1,000.
fn prefixed(value: f64, unit: &str) -> String {
    let mut scaled = value;
    let mut prefixes = ["", "k", "M", "G", "T", "P"].into_iter();
    let mut prefix = prefixes.next().unwrap_or_default();
    while scaled >= 999.5 {
        let Some(next) = prefixes.next() else { break };
        (scaled, prefix) = (scaled / 1e3, next);
    }
    format!("{}{prefix}{unit}", digits(scaled))
}

/// Three significant digits of what is not negative, two of what is small; what is beyond all sense stays short.
fn digits(value: f64) -> String {
    match value {
        v if v.is_infinite() => "∞".to_owned(),
        v if v >= 1e6 => format!("{v:.2e}"),
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v if v >= 0.0995 || v == 0.0 => format!("{v:.2}"),
        v if v >= 0.00995 => format!("{v:.3}"),
        v if v >= 0.000_995 => format!("{v:.4}"),
        v => format!("{v:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_scaled_to_their_unit() {
        for (number, unit, expected) in [
            (850.4, "us", "850us"),
            (12_345.0, "us", "12.3ms"),
            (1_020_000.0, "us", "1.02s"),
            (14_600_000.0, "bytes/s", "14.6MB/s"),
            (999.6, "bytes", "1.00kB"),
            (0.982, "", "98.20%"),
            (0.000_123, "", "0.012%"),
            (0.0, "", "0.00%"),
            (1.5, "segments", "1.50 segments"),
            (40_000f64.ln(), "ln us", "40.0ms"),
            (-2.0, "us", "-2.00us"),
        ] {
            assert_eq!(value(number, unit), expected);
        }
    }

    #[test]
    fn differences_have_a_sign_and_shares_points() {
        assert_eq!(difference(-0.0031, ""), "-0.31pp");
        assert_eq!(difference(1_500.0, "us"), "+1.50ms");
        assert_eq!(difference(0.0, "us"), "0.00us");
        assert_eq!(relative(0.1234), "+12.3%");
        assert_eq!(range(-0.031, f64::INFINITY, relative), "[-3.10%, +∞]");
    }

    #[test]
    fn the_difference_of_logarithms_is_one_of_geometric_means() {
        let relative = Some(Effect { effect: 0.1, lower: 0.05, upper: 0.15, ..Effect::default() });
        let absolute = Some(Effect { effect: 0.0953, ..Effect::default() });
        let (control, unit) = (1e6f64.ln(), "ln bytes/s".to_owned());
        let result = MeasureResult { unit, control, relative, absolute, ..MeasureResult::default() };
        let (effect, unit) = super::absolute(&result).unwrap();
        assert_eq!(difference(effect.effect, unit), "+100kB/s");
        assert_eq!(range(effect.lower, effect.upper, |v| difference(v, unit)), "[+50.0kB/s, +150kB/s]");
    }

    #[test]
    fn numbers_that_are_none_and_those_beyond_sense_stay_short() {
        for unit in ["", "us", "bytes/s", "ln us", "segments"] {
            for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, f64::MIN_POSITIVE, -0.0] {
                assert!(value(number, unit).chars().count() < 24, "{}", value(number, unit));
                assert!(difference(number, unit).chars().count() < 24, "{}", difference(number, unit));
            }
        }
        assert_eq!((value(f64::NAN, "us"), relative(f64::NAN)), ("-".to_owned(), "-".to_owned()));
        assert_eq!((probability(f64::NAN), probability(0.0)), ("-".to_owned(), "<0.0001".to_owned()));
    }

    #[test]
    fn times_have_two_units() {
        for (number, expected) in [(44.2, "45s"), (750.0, "12m30s"), (187_200.0, "2d04h"), (f64::INFINITY, "-")] {
            assert_eq!(seconds(number), expected);
        }
        assert_eq!(number(1_250_000.0), "1.25M");
    }
}
