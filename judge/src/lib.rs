//! What experiments say: from what was measured ([`evidence`]) to effects ([`effect`]), results ([`judge()`]) and a verdict
//! ([`verdict`]). How long it takes ([`power`]), and where caps come from ([`freeze`]).
//! What gates of rollouts say: [`gates`].
//!
//! Pure: the same evidence gives the same results, byte for byte, on a server and on the machine of whoever doubts them.
#![warn(missing_docs)]

pub mod effect;
pub mod evidence;
pub mod freeze;
pub mod gates;
mod judge;
pub mod power;
pub mod verdict;
pub mod words;

pub use effect::acts_in_handshake;
pub use evidence::{Evidence, EvidenceError};
pub use judge::{Judged, STAGES, judge};

/// The false alarms allowed over all looks at an experiment.
pub const ALPHA: f64 = 0.05;
/// Of a check whether the experiment is sound.
pub const ALPHA_OF_CHECKS: f64 = 0.01;
/// An arm whose share is off by less than this share of all connections spoils nothing.
pub const SHARE_FLOOR: f64 = 0.001;
/// The same of connections lost later: an arm that connects more often is allowed to.
pub const LOSS_FLOOR: f64 = 0.01;
/// A guardrail's margin is a share of the control's value; of events (failed connections, resets, segments sent again of those sent) that are
/// rarer than this, the same share of this. A share of next to nothing would never be met.
pub const RATE_FLOOR: f64 = 0.01;
/// Below so many units in an arm nothing is said: intervals that are valid at every look are so for many units.
pub const UNITS_MIN: u64 = 100;
/// The same of clusters: nodes, groups or pairs.
pub const CLUSTERS_MIN: u64 = 5;
