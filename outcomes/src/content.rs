//! What a cell holds, by its key.

use crate::{CellKey, Measured, Sums, measured::MeasuredError};

/// What a cell holds.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all cells are of flows: a box would be an allocation for each")]
pub enum Content {
    /// Of flows that ended, or were still open.
    Flows(Sums),
    /// What an experiment measures.
    Measured(Measured),
}

impl Content {
    /// Nothing yet.
    #[must_use]
    pub fn of(key: &CellKey) -> Self {
        match key.size_class {
            Some(_) => Self::Flows(Sums::default()),
            None => Self::Measured(Measured::default()),
        }
    }

    /// Adds all flows of another.
    ///
    /// # Errors
    /// If it is of another kind, or measures something else; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<(), MeasuredError> {
        match (self, other) {
            (Self::Flows(sums), Self::Flows(other)) => sums.merge(other),
            (Self::Measured(measured), Self::Measured(other)) => measured.merge(other)?,
            (Self::Flows(_), Self::Measured(_)) | (Self::Measured(_), Self::Flows(_)) => {
                return Err(MeasuredError::Group { group: 0, problem: "and flows cannot be added up" });
            }
        }
        Ok(())
    }

    /// What it costs in memory, in pairs of numbers.
    #[must_use]
    pub fn pairs(&self) -> usize {
        match self {
            Self::Flows(sums) => sums.bins(),
            Self::Measured(measured) => measured.numbers() / 2,
        }
    }

    /// How many flows have ended in it; each is counted once, so not again in what experiments measure.
    #[must_use]
    pub fn ended(&self) -> u64 {
        match self {
            Self::Flows(sums) => sums.counts.flows,
            Self::Measured(_) => 0,
        }
    }
}
