//! Who asks for a change, as the audit log shows it.

use std::{fmt, str::FromStr};

/// Key of the call's metadata that says who asks, in visible ASCII.
pub const KEY: &str = "x-sockpilot-actor";
/// The same in UTF-8; wins where both are given. Metadata of gRPC is ASCII unless its key ends so.
pub const BINARY_KEY: &str = "x-sockpilot-actor-bin";
const CHARS_MAX: usize = 200;

/// Who asks: 1 to 200 characters that can be seen, in any script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// From names that nobody typed: what cannot be seen becomes a `?`.
    #[must_use]
    pub fn of_names(text: &str) -> Self {
        let seen = |c| if is_unseen(c) { '?' } else { c };
        let text: String = text.trim().chars().take(CHARS_MAX).map(seen).collect();
        Self(if text.is_empty() { "unknown".to_owned() } else { text })
    }

    /// For [`KEY`]: other characters than visible ASCII become a `?`.
    #[must_use]
    pub fn to_ascii(&self) -> String {
        self.0.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Actor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim_matches(' ');
        let length = text.chars().count();
        if !(1..=CHARS_MAX).contains(&length) {
            return Err(format!("has {length} characters; an actor has 1 to {CHARS_MAX}"));
        }
        if text.chars().any(is_unseen) {
            return Err("has control characters; write who asks in characters that can be seen".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

/// Control characters, line ends, and what turns the direction of the text around it.
fn is_unseen(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_is_what_people_are_called() {
        for good in ["ann@desk", "jürgen", "Ann von der Au", "山田", &"ü".repeat(200)] {
            assert_eq!(good.parse::<Actor>().map(|actor| actor.to_string()).as_deref(), Ok(good));
        }
        for bad in ["", " ", "ann\n", "a\u{0}b", "a\u{202e}b", "a\u{85}b", &"a".repeat(201)] {
            assert!(bad.parse::<Actor>().is_err(), "{bad:?}");
        }
        assert_eq!("jürgen".parse::<Actor>().expect("sound").to_ascii(), "j?rgen");
        assert_eq!(Actor::of_names("jürgen\t@desk").as_str(), "jürgen?@desk");
    }
}
