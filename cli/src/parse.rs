//! Shares and durations as people type them.

use sockpilot_proto::v1::{Selector, selector, selector::Kind, target};
pub use sockpilot_settings::duration::duration;
use sockpilot_settings::{labels, node};

/// `10%`, `0.5%` as basis points, 1 to 9,999.
pub fn share(text: &str) -> Result<u32, String> {
    let explain = || format!("\"{text}\" is no share; write 0.01% to 99.99%, with at most two decimals");
    let number = text.strip_suffix('%').ok_or_else(explain)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > 3 || fraction.len() > 2 {
        return Err(explain());
    }
    let whole: u32 = whole.parse().map_err(|_| explain())?;
    let hundredths: u32 = format!("{fraction:0<2}").parse().map_err(|_| explain())?;
    match whole * 100 + hundredths {
        share @ 1..=9_999 => Ok(share),
        10_000 => Err("100% is everyone, not a share; use --everyone (apply gives to everyone by itself)".to_owned()),
        _ => Err(explain()),
    }
}

/// `10%`, `role=edge,zone=a`, `nodes/a,nodes/b`.
pub fn wave(text: &str) -> Result<Selector, String> {
    let kind = if text.ends_with('%') {
        Kind::ShareBp(share(text)?)
    } else if text.starts_with("nodes/") {
        let nodes = text.split(',').map(|name| match name.strip_prefix("nodes/") {
            Some(_) => node::name(name),
            None => Err(format!("\"{name}\" is no node; write nodes/NODE for each")),
        });
        Kind::Nodes(selector::Nodes { nodes: nodes.collect::<Result<_, _>>()? })
    } else {
        let labels = labels::selection(text)?.into_iter().collect();
        Kind::NodeLabels(target::NodeLabels { labels })
    };
    Ok(Selector { kind: Some(kind) })
}

/// `350us`, `80ms`, `1s` as microseconds.
pub fn micros(text: &str) -> Result<u32, String> {
    let explain = || format!("\"{text}\" is no time; write for example 350us, 80ms or 1s");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(explain)?;
    let (number, unit) = text.split_at(digits);
    let factor: u32 = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        _ => return Err(explain()),
    };
    number.parse().ok().and_then(|number: u32| number.checked_mul(factor)).ok_or_else(explain)
}

/// `2026-03-01T12:00:00Z`
pub fn time(text: &str) -> Result<prost_types::Timestamp, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no time; write for example 2026-03-01T12:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_basis_points() {
        for (text, expected) in
            [("10%", 1_000), ("0.5%", 50), ("0.05%", 5), ("0.01%", 1), ("99.99%", 9_999), ("33.3%", 3_330)]
        {
            assert_eq!(share(text), Ok(expected), "{text}");
        }
        for text in ["10", "%", "0%", "0.00%", "0.001%", "101%", "-1%", "1e1%", ".5%", "5.%", "999999999999%", "+5%"] {
            assert!(share(text).is_err(), "{text}");
        }
        assert!(share("100%").unwrap_err().contains("--everyone"));
    }

    #[test]
    fn times_of_the_day_are_as_they_are_printed() {
        let read = time("2026-03-01T12:00:00Z").unwrap();
        assert_eq!(crate::format::time(Some(&read)), "2026-03-01T12:00:00Z");
        for text in ["", "noon", "2026-13-01T00:00:00Z"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        for (text, expected) in [("350us", 350), ("80ms", 80_000), ("1s", 1_000_000)] {
            assert_eq!(micros(text), Ok(expected), "{text}");
        }
        for text in ["", "80", "ms", "1.5ms", "5000s", "-1s"] {
            assert!(micros(text).is_err(), "{text}");
        }
    }
}
