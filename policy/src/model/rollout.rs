//! What a rollout asks of a node, on each layer of its policy.

use std::fmt;

use super::{Id, Match};
use crate::{bucket::BUCKETS, measure::Measure};

/// What a rollout asks of a node: alike on the canary and on what stands by for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// Its id.
    pub name: Id,
    /// Input of the bucket hash.
    pub salt: String,
    /// The revision that is rolled out.
    pub revision: u64,
    /// The canary's share of the connections, in basis points; 0: the rollout has not reached this node.
    pub share_bp: u32,
    /// By what the groups are compared; empty: nothing is measured.
    pub measures: Vec<Measure>,
    /// As in [`Comparison`](super::Comparison).
    pub horizon_s: u32,
    /// The probability, in millionths, with which the circuit breaker may end a canary that does no harm; 0: no breaker.
    pub breaker_ppm: u32,
    /// The canary is what everyone has already (A/A), and has no layer of its own.
    pub unchanged: bool,
    /// The circuit breaker has ended the canary on this node. A server does not say it; whoever knows it does.
    pub tripped: bool,
    /// What all that makes of this layer on a node; empty until [resolved](crate::unit::on_node).
    pub part: Part,
}

/// What a layer of a policy in a rollout is on a node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Part {
    /// By bucket. Of a layer that stands by the first one is what it does in the place of the canary, on all connections; the others act
    /// while the canary does.
    pub portions: Vec<Portion>,
    /// Matches of the policy's other revision that this one lacks, by their rules' names: such connections take part, too, and nothing is
    /// set on them.
    pub others: Vec<(Id, Match)>,
}

/// A share of the connections that a layer matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    /// Its first bucket.
    pub first_bucket: u32,
    /// Number of its buckets.
    pub weight_bp: u32,
    /// As what its connections are measured.
    pub group: Option<Group>,
    /// Whether they get what the rules set.
    pub sets: bool,
}

impl Portion {
    /// Everything, of a policy that is in no rollout.
    pub const WHOLE: Self = Self { first_bucket: 0, weight_bp: BUCKETS, group: None, sets: true };

    /// Whether all buckets are in it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.weight_bp == BUCKETS
    }

    /// Whether a bucket is in it.
    #[must_use]
    pub fn has(&self, bucket: u32) -> bool {
        (self.first_bucket..self.first_bucket.saturating_add(self.weight_bp)).contains(&bucket)
    }
}

/// Which of a rollout's connections one is measured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// Of the canary's buckets.
    Canary,
    /// Of buckets beside them, as many.
    Control,
    /// Of the other buckets of such a node.
    Rest,
    /// Of a node where the canary acts on all connections.
    All,
    /// Of a node that the rollout has not reached.
    Before,
}

impl Group {
    /// The name of the choice as which its connections are measured.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::Control => "control",
            Self::Rest => "rest",
            Self::All => "all",
            Self::Before => "before",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Rollout {
    /// The resource name: `rollouts/{id}`.
    #[must_use]
    pub fn resource(&self) -> String {
        format!("rollouts/{}", self.name)
    }
}
