//! What `--doctor` says: what was looked at, what is wrong with it, and what to do.

use std::{
    fmt::{self, Write},
    fs,
    path::Path,
};

use rustix::fs::statvfs;

/// What came of looking at one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is as it should be.
    Sound(String),
    /// It works, and something is lost by it.
    Doubtful {
        /// What was found, and what is lost by it.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// It does not work.
    Faulty {
        /// What was found.
        found: String,
        /// What to do.
        remedy: String,
    },
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub subject: &'static str,
    /// What came of it.
    pub finding: Finding,
}

impl Check {
    /// Of what is as it should be.
    pub fn sound(subject: &'static str, found: impl Into<String>) -> Self {
        Self { subject, finding: Finding::Sound(found.into()) }
    }

    /// Of what works, and something is lost by it.
    pub fn doubtful(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, finding: Finding::Doubtful { found: found.into(), remedy: remedy.into() } }
    }

    /// Of what does not work.
    pub fn faulty(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, finding: Finding::Faulty { found: found.into(), remedy: remedy.into() } }
    }
}

/// All that was looked at, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkup(pub Vec<Check>);

impl Checkup {
    /// Whether nothing is faulty.
    #[must_use]
    pub fn is_well(&self) -> bool {
        !self.0.iter().any(|check| matches!(check.finding, Finding::Faulty { .. }))
    }
}

impl fmt::Display for Checkup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|check| check.subject.len()).max().unwrap_or(0);
        let (mut doubtful, mut faulty) = (0, 0);
        for Check { subject, finding } in &self.0 {
            let (word, found, remedy) = match finding {
                Finding::Sound(found) => ("ok  ", found, None),
                Finding::Doubtful { found, remedy } => {
                    doubtful += 1;
                    ("warn", found, Some(remedy))
                }
                Finding::Faulty { found, remedy } => {
                    faulty += 1;
                    ("FAIL", found, Some(remedy))
                }
            };
            writeln!(f, "{word}  {subject:width$}  {found}")?;
            if let Some(remedy) = remedy {
                writeln!(f, "      {:width$}  -> {remedy}", "")?;
            }
        }
        match (faulty, doubtful) {
            (0, 0) => f.write_str("All is well.\n"),
            (0, _) => writeln!(f, "It works; {doubtful} of {} checks could be better.", self.0.len()),
            _ => writeln!(f, "It does not work: {faulty} of {} checks failed.", self.0.len()),
        }
    }
}

/// Room on a disk, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// With less something may not fit that is wanted.
    pub enough: u64,
    /// With less writes may fail soon.
    pub least: u64,
}

/// Looks at the disk that a directory is, or will be, on. `lacks` says what may not fit. `None`: nothing of its path is there.
#[must_use]
pub fn disk(directory: &Path, room: Room, lacks: &str) -> Option<Check> {
    let there = directory.ancestors().find(|path| fs::metadata(path).is_ok())?;
    let (subject, remedy) = ("disk", "make room, or name another --state-dir");
    let free = match statvfs(there) {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
        Err(error) => return Some(Check::doubtful(subject, error.to_string(), remedy)),
    };
    let found = format!("{} MiB free at {}", free >> 20, there.display());
    Some(if free >= room.enough {
        Check::sound(subject, found)
    } else if free >= room.least {
        Check::doubtful(subject, format!("{found}; {lacks}"), remedy)
    } else {
        Check::faulty(subject, found, remedy)
    })
}

/// An error with all that caused it, in one line.
#[must_use]
pub fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // A string takes whatever is written.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_what_it_is_about_and_what_is_wrong_has_its_remedy() {
        let mut checkup =
            Checkup(vec![Check::sound("kernel", "Linux 6.18"), Check::doubtful("clock", "free", "set it")]);
        let text = checkup.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..3], ["ok    kernel  Linux 6.18", "warn  clock   free", "              -> set it"]);
        assert!(checkup.is_well() && lines[3].contains("1 of 2"), "{text}");
        checkup.0.push(Check::faulty("cgroup", "v1", "mount it"));
        assert!(!checkup.is_well() && checkup.to_string().contains("FAIL  cgroup  v1"), "{checkup}");
    }

    #[test]
    fn an_error_is_said_with_its_causes() {
        let inner = std::io::Error::other("the disk is full");
        assert_eq!(in_full(&Outer(inner)), "cannot write: the disk is full");
    }

    #[derive(Debug)]
    struct Outer(std::io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("cannot write")
        }
    }

    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
}
