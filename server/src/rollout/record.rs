//! What is known of a rollout.

use chrono::{DateTime, Utc};
use prost::Message;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sockpilot_judge::gates::{Gate, measures_of};
use sockpilot_policy::model::{Comparison, LayerName, Match};
use sockpilot_proto::{convert::measure_to_proto, v1};
use sockpilot_rollout::{
    machine::{Machine, State},
    plan::{ALL_FLOWS_BP, Place, Plan},
};

use crate::{
    change::author::Author,
    change::wave::{Canary, Selector},
    fleet::resolve::RolloutTerms,
};

/// How a rollout's name begins.
pub const COLLECTION: &str = "rollouts/";

/// A rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// `rollouts/{id}`
    pub name: String,
    /// Grows with every change.
    pub version: u64,
    pub policy: LayerName,
    pub revision: u64,
    /// What everyone had before.
    pub good_revision: Option<u64>,
    pub plan: RolloutPlan,
    /// Of its waves and shares.
    pub salt: String,
    pub machine: Machine,
    /// Who has the present step has this generation or a later one in force.
    pub step_generation: u64,
    /// Why it is where it is.
    pub reason: String,
    /// What the gates said last.
    pub gates: Vec<v1::GateResult>,
    pub creator: String,
    /// What is approved.
    pub digest: Vec<u8>,
    /// Empty: nobody.
    pub approver: String,
    /// Who has it go past freeze windows, locks and limits, from its beginning or from a step on; `None`: it keeps to them.
    pub glass: Option<Glass>,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// Who has broken the glass, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glass {
    pub actor: String,
    pub reason: String,
    /// Since when, in seconds since 1970.
    pub since_s: i64,
}

/// A plan as it was sent, and what it means.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutPlan {
    pub message: v1::RolloutPlan,
    pub plan: Plan,
    pub gates: Vec<Gate>,
    /// By wave; of the last, `None` is all nodes.
    pub selectors: Vec<Option<Selector>>,
}

impl RolloutPlan {
    /// The canary of a place: the waves up to it, with the share of connections.
    #[must_use]
    pub fn canary(&self, place: Place, salt: &str) -> Canary {
        let waves = self.selectors[..place.wave.clamp(1, self.selectors.len())].iter();
        // No label is asked for: every node has all of these.
        let waves = waves.map(|selector| selector.clone().unwrap_or_else(|| Selector::Labels([].into()))).collect();
        Canary { salt: salt.to_owned(), waves, flow_share_bp: self.plan.flow_share_bp(place) }
    }

    /// By what its steps are judged.
    #[must_use]
    pub fn measures(&self) -> Vec<v1::Measure> {
        measures_of(&self.gates).iter().map(measure_to_proto).collect()
    }
}

impl Rollout {
    /// Where it stands, for people to see.
    #[must_use]
    pub fn shown(&self) -> Value {
        let Machine { state, place, .. } = self.machine;
        json!({
            "policy": self.policy.to_string(),
            "revision": self.revision,
            "plan": self.plan.message.name,
            "state": state.word(),
            "wave": place.wave,
            "step": place.step,
            "approver": self.approver,
        })
    }

    /// The same past freeze windows, locks and limits from now on. Whoever was first is remembered.
    #[must_use]
    pub fn with_broken_glass(self, author: &Author, now_s: i64) -> Self {
        let broken = || Glass { actor: author.actor(), reason: author.reason().to_owned(), since_s: now_s };
        Self { glass: Some(self.glass.unwrap_or_else(broken)), ..self }
    }

    /// The etag.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("r{}", self.version)
    }

    /// What it asks of nodes, while it gives them anything.
    #[must_use]
    pub fn terms(&self) -> RolloutTerms {
        let place = self.machine.place;
        let layer = v1::LayerRollout {
            name: self.name.clone(),
            salt: self.salt.clone(),
            revision: self.revision,
            flow_share_bp: 0,
            measures: self.plan.measures(),
            horizon_s: self.plan.plan.horizon_s,
            breaker_ppm: self.plan.plan.breaker_ppm,
            unchanged: false,
        };
        let unchanged = (place.wave == 0).then(|| self.plan.canary(place, &self.salt));
        RolloutTerms { layer, unchanged }
    }

    /// Whether nodes are to know of it.
    #[must_use]
    pub fn is_on_nodes(&self) -> bool {
        matches!(self.machine.state, State::Running | State::Paused)
    }

    /// As the design of a comparison: what its cells must look like.
    #[must_use]
    pub fn comparison(&self) -> Comparison {
        let measures = measures_of(&self.plan.gates);
        Comparison { measures, ..Comparison::of_flows(Match::default(), &self.salt, vec![]) }
    }

    /// Whether the present step is for a part of the connections.
    #[must_use]
    pub fn is_of_shares(&self) -> bool {
        self.plan.plan.flow_share_bp(self.machine.place) < ALL_FLOWS_BP
    }
}

/// What is approved: the policy's content, its name and revision, and the plan.
#[must_use]
pub fn digest(policy: &LayerName, revision: u64, content: &[u8], plan: &v1::RolloutPlan) -> Vec<u8> {
    let hash = Sha256::new().chain_update(policy.to_string()).chain_update([0]).chain_update(revision.to_be_bytes());
    hash.chain_update(Sha256::digest(content)).chain_update(plan.encode_to_vec()).finalize().to_vec()
}
