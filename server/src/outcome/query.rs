//! Which outcomes are asked for, and what is found.

use std::collections::BTreeMap;

use sockpilot_outcomes::Sums;
use sockpilot_policy::model::LayerName;

use super::Key;
use crate::change::notes::Warning;

/// Which outcomes are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Of which policy or experiment.
    pub name: LayerName,
    /// 0: all.
    pub revision: u64,
    /// Intervals that begin at this second or later.
    pub start_s: Option<i64>,
    /// Intervals that reach into so many seconds before now.
    pub since_s: Option<i64>,
    /// Intervals that begin before this second.
    pub end_s: Option<i64>,
    /// 0: both.
    pub direction: i16,
    /// Empty: all.
    pub node_id: String,
    /// Keep size classes apart.
    pub by_size_class: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Merged, by what rows are about.
    pub rows: BTreeMap<Key, Sums>,
    /// Why the rows may tell less than was asked for.
    pub warnings: Vec<Warning>,
}
