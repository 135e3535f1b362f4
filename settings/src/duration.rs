//! Durations as people type them.

use std::time::Duration;

/// `90s`, `10m`, `1h30m`, `2d`; a second at least, and a hundred years at most.
///
/// # Errors
/// The fault, with a remedy.
pub fn duration(text: &str) -> Result<Duration, String> {
    let explain = || format!("\"{text}\" is no duration; write for example 90s, 10m, 1h30m or 2d");
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(explain)?;
        let (number, after) = rest.split_at(digits);
        let mut characters = after.chars();
        let unit = match characters.next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            _ => return Err(explain()),
        };
        let number: u64 = number.parse().map_err(|_| explain())?;
        seconds = number.checked_mul(unit).and_then(|part| seconds.checked_add(part)).ok_or_else(explain)?;
        rest = characters.as_str();
    }
    // A hundred years: beyond it, times before 1970 begin.
    if seconds == 0 || seconds > 100 * 365 * 86_400 { Err(explain()) } else { Ok(Duration::from_secs(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_add_up() {
        for (text, expected) in [("90s", 90), ("10m", 600), ("1h30m", 5_400), ("2d", 172_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(expected)), "{text}");
        }
        for text in ["", "10", "m", "10x", "0s", "-1s", "99999999999999999999s", "9999999d", "1.5h", "10mä"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
