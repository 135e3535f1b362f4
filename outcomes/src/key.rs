//! What tells cells apart.

use std::sync::Arc;

use sockpilot_policy::model::Direction;

/// A choice of a layer, as outcomes name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Choice {
    /// `policies/{policy}`, `experiments/{experiment}`, or of what is measured of a rollout `rollouts/{rollout}`.
    pub layer: String,
    /// Revision or epoch.
    pub revision: u64,
    /// The rule's or the arm's name.
    pub name: String,
}

/// A stretch of wall-clock time, aligned to its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interval {
    /// Seconds since 1970.
    pub start_s: u64,
    /// Seconds.
    pub length_s: u32,
}

impl Interval {
    /// The interval that a moment lies in.
    #[must_use]
    pub fn at(moment_s: u64, length_s: u32) -> Self {
        let length_s = length_s.max(1);
        Self { start_s: moment_s - moment_s % u64::from(length_s), length_s }
    }

    /// The first second after it.
    #[must_use]
    pub fn end_s(self) -> u64 {
        self.start_s.saturating_add(u64::from(self.length_s))
    }
}

/// How much a flow sent that was acknowledged; of a flow that is still open, so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SizeClass {
    /// Up to 14,600 bytes: fits the usual initial window.
    Small,
    /// Up to 146,000 bytes.
    Medium,
    /// Up to 1 MB.
    Large,
    /// More.
    Huge,
}

impl SizeClass {
    /// The class of so many bytes.
    #[must_use]
    pub fn of(bytes_sent: u64) -> Self {
        match bytes_sent {
            0..=14_600 => Self::Small,
            14_601..=146_000 => Self::Medium,
            146_001..=1_000_000 => Self::Large,
            _ => Self::Huge,
        }
    }
}

/// What tells cells of a node apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CellKey {
    /// When the flows ended; of what an experiment measures, when they began.
    pub interval: Interval,
    /// What they had.
    pub choice: Arc<Choice>,
    /// Who opened them.
    pub direction: Direction,
    /// How much they sent; `None`: it is what an experiment measures, of flows of all sizes.
    pub size_class: Option<SizeClass>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_class_has_its_bounds_inside() {
        assert_eq!([0, 14_600].map(SizeClass::of), [SizeClass::Small; 2]);
        assert_eq!([14_601, 146_000].map(SizeClass::of), [SizeClass::Medium; 2]);
        assert_eq!([146_001, 1_000_000].map(SizeClass::of), [SizeClass::Large; 2]);
        assert_eq!([1_000_001, u64::MAX].map(SizeClass::of), [SizeClass::Huge; 2]);
    }
}
