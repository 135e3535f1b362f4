//! Experiments: design, words, arms.

use super::{Id, IfUnsupported, Labels, LayerName, Match, Parameters};
use crate::measure::Measure;

/// An experiment document.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    /// What people say of it.
    pub words: Words,
    /// What it is.
    pub design: Design,
}

/// What people say of an experiment. Other words change nothing of what was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// What it is about.
    pub description: String,
    /// Who answers for it.
    pub owner: String,
    /// How long it is to run; 0: until it is stopped. Seconds.
    pub duration_s: u32,
}

/// What an experiment's outcomes come from: another design is another epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Design {
    /// Higher is asked first.
    pub priority: u32,
    /// Only nodes with all of these.
    pub node_labels: Labels,
    /// What is compared.
    pub comparison: Comparison,
}

/// What an experiment compares: what a node needs of its design.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Which connections take part.
    pub matches: Match,
    /// What is randomised.
    pub unit: Unit,
    /// Input of the bucket hash.
    pub salt: String,
    /// By first bucket; no bucket has two, and one may have none.
    pub arms: Vec<Arm>,
    /// As in [`Rule`](super::Rule), for all arms.
    pub if_unsupported: IfUnsupported,
    /// By what the arms are compared.
    pub measures: Vec<Measure>,
    /// A connection's outcome is what it had so long after its beginning, or at its end if that was before. Seconds.
    pub horizon_s: u32,
    /// The policy that arms may withhold.
    pub withholds: Option<LayerName>,
}

/// The horizon of an experiment that names none, in seconds.
pub const HORIZON_S: u32 = 60;
/// The longest one.
pub const HORIZON_S_MAX: u32 = 600;

impl Comparison {
    /// A comparison of connections with nothing to measure.
    #[must_use]
    pub fn of_flows(matches: Match, salt: &str, arms: Vec<Arm>) -> Self {
        Self {
            matches,
            unit: Unit::Flow,
            salt: salt.to_owned(),
            arms,
            if_unsupported: IfUnsupported::default(),
            measures: vec![],
            horizon_s: HORIZON_S,
            withholds: None,
        }
    }
}

/// What an experiment randomises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Every connection by itself.
    Flow,
    /// All connections of a node with addresses in one prefix.
    PeerPrefix {
        /// Length of the prefix of IPv4 addresses.
        ipv4_bits: u8,
        /// Length of the prefix of IPv6 addresses.
        ipv6_bits: u8,
    },
    /// All connections of a node.
    Node,
    /// All connections of the fleet that begin in one slot of time (switchback).
    TimeSlot {
        /// Length of a slot.
        slot_s: u32,
        /// At the beginning of a slot, what is left out of the outcomes.
        washout_s: u32,
    },
    /// Every connection by itself, but with the second arm's share by the node: low on one half of the nodes, high on the other.
    SaturationPair {
        /// In basis points.
        low_bp: u32,
        /// In basis points.
        high_bp: u32,
    },
}

/// One way to treat a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arm {
    /// Unique in its experiment.
    pub name: Id,
    /// Its first bucket.
    pub first_bucket: u32,
    /// Number of its buckets.
    pub weight_bp: u32,
    /// What its connections get.
    pub set: Parameters,
    /// Its connections do not get the policy of [`Comparison::withholds`].
    pub withholds: bool,
}
