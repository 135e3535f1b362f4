//! What experiments say: from what was measured ([`evidence`]) to effects ([`effect`]), results ([`judge`]) and a verdict ([`verdict`]).
//! How long it takes ([`power`]), and where caps come from ([`freeze`]).
//!
//! All of that is pure: the same evidence gives the same results, byte for byte. [`gather`] reads what there is, [`draw`] notes a
//! verdict, and [`watch`] is the task that looks.

pub mod draw;
pub mod effect;
pub mod evidence;
pub mod freeze;
pub mod gather;
pub mod judge;
pub mod power;
pub mod verdict;
pub mod watch;
pub mod words;

/// The false alarms allowed over all looks at an experiment.
pub const ALPHA: f64 = 0.05;
/// Of a check whether the experiment is sound.
pub const ALPHA_OF_CHECKS: f64 = 0.01;
/// An arm whose share is off by less than this share of all connections spoils nothing.
pub const SHARE_FLOOR: f64 = 0.001;
/// The same of connections lost later: an arm that connects more often is allowed to.
pub const LOSS_FLOOR: f64 = 0.01;
/// Below so many units in an arm nothing is said: intervals that are valid at every look are so for many units.
pub const UNITS_MIN: u64 = 100;
/// The same of clusters: nodes, groups or pairs.
pub const CLUSTERS_MIN: u64 = 5;
/// How long after their horizon connections are waited for, in seconds: the walk that looks at open ones, and the report.
pub const SETTLE_S: i64 = 30;
