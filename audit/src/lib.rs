//! The chain of the audit log: whether it is whole, by nothing but its entries and heads that were noted before.
//!
//! What is hashed stands at `AuditEntry` in `admin.proto`. The database makes the hashes (migration 0017) and this verifies them: two
//! implementations, of which each is the other's test. Pure.

#![warn(missing_docs)]

use std::{collections::BTreeMap, fmt, str::FromStr};

use sha2::{Digest, Sha256};
use sockpilot_proto::v1;

/// The first field of every entry that is hashed.
const FORM: &str = "sockpilot audit 1";
/// Hexadecimal digits of a hash.
const DIGITS: usize = 64;

/// Where a chain ends, or ended when somebody noted it: `SEQUENCE:HASH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Of the newest entry.
    pub sequence: u64,
    /// Its hash, in lower-case hexadecimal digits.
    pub hash: String,
}

impl Head {
    /// The end of a chain that has no entries.
    #[must_use]
    pub fn of_nothing() -> Self {
        Self { sequence: 0, hash: "0".repeat(DIGITS) }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.hash)
    }
}

impl FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (sequence, hash) = text.split_once(':').unwrap_or_default();
        let digits = hash.len() == DIGITS && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        match sequence.parse() {
            Ok(sequence) if digits => Ok(Self { sequence, hash: hash.to_ascii_lowercase() }),
            _ => Err(format!(
                "is no head of the audit log; write SEQUENCE:HASH with {DIGITS} digits, as `sockpilot audit head` prints it"
            )),
        }
    }
}

/// Why a chain is not what it was, at its first entry for which that is so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The entry does not hash to its hash.
    #[error("entry {sequence} was changed: its hash is not that of what it says")]
    Changed {
        /// Of the entry.
        sequence: u64,
    },
    /// There is none where there must be one.
    #[error("entry {sequence} is missing: entry {next} is in its place")]
    Missing {
        /// Of the entry that is not there.
        sequence: u64,
        /// What is there instead.
        next: u64,
    },
    /// There is one too many.
    #[error("an entry {sequence} was inserted: it comes after entry {before}")]
    Inserted {
        /// Of the entry.
        sequence: u64,
        /// Of the one before it.
        before: u64,
    },
    /// It is an entry of another chain, or the one before it is.
    #[error("entry {sequence} does not continue the entry before it: one of the two was put in another's place")]
    Replaced {
        /// Of the later one.
        sequence: u64,
    },
    /// The chain ends before a head that somebody noted.
    #[error(
        "entry {sequence} is missing: the log ends at entry {last}, and went on at least to entry {head} when that head was noted"
    )]
    Shortened {
        /// Of the first entry that is not there.
        sequence: u64,
        /// Of the newest that is there.
        last: u64,
        /// Of the head.
        head: u64,
    },
    /// The chain is another one than when somebody noted a head.
    #[error("entry {sequence} is not the one of the head that was noted: it, or entries before it, were rewritten")]
    Rewritten {
        /// Of the head.
        sequence: u64,
    },
}

/// A chain as far as it was looked at.
#[derive(Debug, Clone)]
pub struct Chain {
    head: Head,
    noted: BTreeMap<u64, Vec<String>>,
}

impl Chain {
    /// None yet of a chain that must go through all of these heads.
    pub fn through(noted: impl IntoIterator<Item = Head>) -> Self {
        let mut by_sequence: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for Head { sequence, hash } in noted {
            by_sequence.entry(sequence).or_default().push(hash);
        }
        Self { head: Head::of_nothing(), noted: by_sequence }
    }

    /// The end of what was looked at.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Looks at the next entry.
    ///
    /// # Errors
    /// What is wrong with it. There is no use in going on from there.
    pub fn take(&mut self, entry: &v1::AuditEntry) -> Result<(), Broken> {
        let (sequence, before) = (entry.sequence, self.head.sequence);
        if sequence <= before {
            return Err(Broken::Inserted { sequence, before });
        }
        if sequence > before + 1 {
            return Err(Broken::Missing { sequence: before + 1, next: sequence });
        }
        if hash(entry).as_deref() != Some(entry.hash.as_str()) {
            return Err(Broken::Changed { sequence });
        }
        if entry.previous_hash != self.head.hash {
            return Err(Broken::Replaced { sequence });
        }
        self.head = Head { sequence, hash: entry.hash.clone() };
        self.as_noted(sequence)
    }

    fn as_noted(&self, sequence: u64) -> Result<(), Broken> {
        let mut noted = self.noted.get(&sequence).into_iter().flatten();
        if noted.all(|hash| *hash == self.head.hash) { Ok(()) } else { Err(Broken::Rewritten { sequence }) }
    }

    /// Ends the chain where it ends.
    ///
    /// # Errors
    /// If it went on when a head was noted.
    pub fn end(self) -> Result<Head, Broken> {
        let last = self.head.sequence;
        if last == 0 {
            self.as_noted(0)?;
        }
        match self.noted.last_key_value() {
            Some((&head, _)) if head > last => Err(Broken::Shortened { sequence: last + 1, last, head }),
            _ => Ok(self.head),
        }
    }
}

/// The hash of an entry, without a look at the one that it says; `None`: its time is none that the log has.
#[must_use]
pub fn hash(entry: &v1::AuditEntry) -> Option<String> {
    let v1::AuditEntry {
        sequence,
        time,
        actor,
        method,
        name,
        revision,
        reason,
        request_json,
        generation,
        proof,
        role,
        request_id,
        difference_json,
        previous_hash,
        hash: _,
    } = entry;
    let time = time.as_ref().filter(|time| time.nanos % 1_000 == 0 && (0..1_000_000_000).contains(&time.nanos))?;
    let time_us = time.seconds.checked_mul(1_000_000)?.checked_add(i64::from(time.nanos / 1_000))?;
    let mut hasher = Sha256::new();
    for field in [
        FORM,
        &sequence.to_string(),
        &time_us.to_string(),
        actor,
        proof,
        role,
        method,
        name,
        &revision.to_string(),
        &generation.to_string(),
        reason,
        request_id,
        request_json,
        difference_json,
        previous_hash,
    ] {
        hasher.update((field.len() as u64).to_be_bytes());
        hasher.update(field);
    }
    Some(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
