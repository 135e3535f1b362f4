//! Policies and their rules.

use super::{Id, Labels, Match, Parameters};

/// A policy document (one revision's content).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// For people.
    pub description: String,
    /// Higher is asked first.
    pub priority: u32,
    /// Only nodes with all of these.
    pub node_labels: Labels,
    /// In order; the first that matches is the choice.
    pub rules: Vec<Rule>,
}

/// Which connections get which parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Unique in its policy.
    pub name: Id,
    /// Which connections.
    pub matches: Match,
    /// What they get.
    pub set: Parameters,
    /// What a node does whose kernel cannot honour a parameter of `set`.
    pub if_unsupported: IfUnsupported,
    /// Whether connections that are open already get it too.
    pub apply_to: ApplyTo,
}

impl Rule {
    /// A rule of the usual kind: for new connections, refused by nodes that cannot honour it.
    #[must_use]
    pub fn new(name: Id, matches: Match, set: Parameters) -> Self {
        Self { name, matches, set, if_unsupported: IfUnsupported::default(), apply_to: ApplyTo::default() }
    }
}

/// Which connections a rule is for, by when they began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ApplyTo {
    /// Those that begin while it is in force.
    #[default]
    New,
    /// Those that are open already too.
    NewAndEstablished,
}

/// What a node does whose kernel cannot honour a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfUnsupported {
    /// It refuses the layer.
    #[default]
    Reject,
    /// It applies the rest.
    Skip,
}
