//! What a node's kernel showed when values were set on a socket of the daemon's own, before they are set on others.

use std::collections::BTreeMap;

/// A value as the kernel tables hold it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encoded {
    /// In the kernel's unit.
    Number(u32),
    /// A name, to be held in the table of names.
    Name(String),
}

/// What can be tried: the slot of a parameter, and a value as the kernel tables hold it.
pub type Trial = (usize, Encoded);

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// It was set; this is what the kernel gave back, in its unit.
    Read(Encoded),
    /// The kernel did not set it.
    Refused(Errno),
}

/// An error number of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The name, what it says about a value, and what to do.
    #[must_use]
    pub fn describe(self) -> String {
        let (name, remedy) = match self.0 {
            1 => ("EPERM", "it forbids the option"),
            2 => ("ENOENT", "it knows no such name; name one that is loaded on the node"),
            22 => ("EINVAL", "it lacks the option or the value is out of its bounds; write another value"),
            34 => ("ERANGE", "the value is out of its bounds; write another value"),
            92 => ("ENOPROTOOPT", "it lacks the option"),
            95 => ("EOPNOTSUPP", "it does not support the option"),
            524 => ("ENOTSUPP", "it does not let programs set this"),
            _ => ("an error", "see errno(3)"),
        };
        let refused = format!("this node's kernel refused it on a socket of the daemon's own with {name} ({})", self.0);
        format!("{refused}: {remedy}, leave it out, or write if_unsupported: skip")
    }
}

/// The readings of all trials that were made. Of a value without a reading, what comes out is computed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readings(BTreeMap<usize, BTreeMap<Encoded, Reading>>);

impl Readings {
    /// What came of a trial, if it was made.
    #[must_use]
    pub fn get(&self, slot: usize, encoded: &Encoded) -> Option<&Reading> {
        self.0.get(&slot)?.get(encoded)
    }
}

impl FromIterator<(Trial, Reading)> for Readings {
    fn from_iter<I: IntoIterator<Item = (Trial, Reading)>>(readings: I) -> Self {
        let mut all = Self::default();
        for ((slot, encoded), reading) in readings {
            all.0.entry(slot).or_default().insert(encoded, reading);
        }
        all
    }
}
