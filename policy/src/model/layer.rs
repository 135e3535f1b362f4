//! What a node evaluates: layers, and when they act.

use super::{Comparison, LayerName, Rollout, Rule, Zone};

/// Everything one node must enforce.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// In the order in which they are asked.
    pub layers: Vec<Layer>,
    /// What zones in matches mean.
    pub zones: Vec<Zone>,
}

/// One policy revision, or one experiment epoch, as a node evaluates it.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Which policy or experiment.
    pub name: LayerName,
    /// Which revision or epoch.
    pub revision: u64,
    /// Higher is asked first.
    pub priority: u32,
    /// When it acts.
    pub term: Term,
    /// It ends by itself at this second of the fleet's time, since 1970.
    pub ends_s: Option<u64>,
    /// What a rollout of its policy asks, if it is in one.
    pub rollout: Option<Rollout>,
    /// Its rules or arms.
    pub body: LayerBody,
}

impl Layer {
    /// Whether it acts when the last contact with a server was `silence_ms` ago: a canary that the circuit breaker has not ended, and
    /// everything else by its [`Term`]; what stands by, in the place of the canary.
    #[must_use]
    pub fn holds(&self, silence_ms: u64) -> bool {
        let tripped = self.rollout.as_ref().is_some_and(|rollout| rollout.tripped);
        match self.term {
            Term::Always => true,
            Term::WhileInContact { .. } => self.term.holds(silence_ms) && !tripped,
            Term::AfterSilence { .. } => self.term.holds(silence_ms) || tripped,
        }
    }
}

/// When a layer acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// Always.
    Always,
    /// Until the last contact with a server is so long ago: a canary or an experiment.
    WhileInContact {
        /// The lease.
        lease_ms: u32,
    },
    /// Only from then on: what everyone has, in the place of a canary that has ended.
    AfterSilence {
        /// The canary's lease.
        lease_ms: u32,
    },
}

impl Term {
    /// Whether a layer acts when the last contact with a server was `silence_ms` ago.
    #[must_use]
    pub fn holds(self, silence_ms: u64) -> bool {
        match self {
            Self::Always => true,
            Self::WhileInContact { lease_ms } => silence_ms <= u64::from(lease_ms),
            Self::AfterSilence { lease_ms } => silence_ms > u64::from(lease_ms),
        }
    }
}

/// What a layer consists of.
#[derive(Debug, Clone, PartialEq)]
pub enum LayerBody {
    /// In order.
    Policy(Vec<Rule>),
    /// One match, several arms.
    Experiment(Box<Comparison>),
}

/// Sorts layers into the order in which they are asked.
pub fn sort_layers(layers: &mut [Layer]) {
    layers.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.name.cmp(&b.name)));
}
