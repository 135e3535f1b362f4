//! A backup, and what restoring it does; [`super::restore`] does it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use sockpilot_policy::model::LayerName;
use sockpilot_proto::v1;
use sockpilot_rollout::plan::ALL_FLOWS_BP;
use uuid::Uuid;

use super::{
    document::{Difference, Document},
    plan::Assignment,
    target::Target,
    wave::Canary,
};

/// Everything that people have decided.
#[derive(Debug, Clone, Default)]
pub struct Backup {
    /// Where addresses are; `None` if the backup says nothing of it.
    pub zones: Option<Vec<v1::Zone>>,
    /// Plans of rollouts, by name.
    pub plans: BTreeMap<String, v1::RolloutPlan>,
    /// What holds for all rollouts; `None` if the backup says nothing of it.
    pub settings: Option<v1::RolloutSettings>,
    /// Policies and experiments.
    pub layers: BTreeMap<LayerName, Layer>,
}

/// One policy or experiment with all its revisions.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    /// By number; at least one.
    pub revisions: BTreeMap<u64, Revision>,
    /// It exists no more.
    pub deleted: bool,
    /// In the order in which they were made, without what a rollout under way has given.
    pub decisions: Vec<PastAssignment>,
    /// The rollout that was under way and is not revived.
    pub rollout: Option<String>,
}

/// One revision.
#[derive(Debug, Clone)]
pub struct Revision {
    pub document: Document,
    /// Of the object, when it was made: another one after delete and create.
    pub uid: Uuid,
    pub created_at: DateTime<Utc>,
    pub creator: String,
}

/// A decision about who runs what.
#[derive(Debug, Clone, PartialEq)]
pub struct PastAssignment {
    /// Which revision, and whose.
    pub held: Assignment,
    pub reason: String,
    pub actor: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended; `None`: in force.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Everything that people have decided, as it is read.
#[derive(Debug, Clone)]
pub struct Exported {
    pub zones: Vec<v1::Zone>,
    /// Plans of rollouts that are stored, by name.
    pub plans: Vec<v1::RolloutPlan>,
    /// What holds for all rollouts, if anything was set.
    pub settings: Option<v1::RolloutSettings>,
    /// By name.
    pub layers: Vec<ExportedLayer>,
}

/// One policy or experiment, as it is read.
#[derive(Debug, Clone)]
pub struct ExportedLayer {
    pub name: LayerName,
    pub deleted: bool,
    /// Oldest first.
    pub revisions: Vec<Document>,
    /// In the order in which they were made.
    pub assignments: Vec<PastAssignment>,
    /// The rollout that is under way.
    pub rollout: Option<String>,
}

/// What is stored under the name of a layer.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// It exists no more.
    pub deleted: bool,
    pub revisions: BTreeMap<u64, Document>,
    /// In force.
    pub in_force: Vec<Assignment>,
}

/// A thing that is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub name: String,
    /// The newest; 0: there are none.
    pub revision: u64,
    pub step: Step,
    /// What of it is not restored; empty: nothing.
    pub note: String,
}

/// What restoring one thing does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing was there.
    Create,
    /// It was deleted, and comes back with the revisions that are missing.
    Revive,
    /// It is there already.
    Nothing,
}

/// What restoring a document without a history does: made if nobody has decided here, left alone if it is the same.
///
/// # Errors
/// That it is here otherwise, in words.
pub fn plan_one<T: PartialEq>(of_backup: &T, here: Option<&T>) -> Result<Step, String> {
    match here {
        None => Ok(Step::Create),
        Some(here) if here == of_backup => Ok(Step::Nothing),
        Some(_) => Err("is another one here; apply the one of the backup first, or leave it out".to_owned()),
    }
}

impl Layer {
    /// Leaves out what the rollout under way has given: nobody would take it further, so its nodes have what everyone has.
    pub fn without_rollout(&mut self) {
        let share = |canary: &Canary| canary.flow_share_bp < ALL_FLOWS_BP;
        let of_rollout = |decision: &PastAssignment| match &decision.held.target {
            Target::Canary(canary) => decision.ended_at.is_none() && (self.rollout.is_some() || share(canary)),
            Target::Everyone | Target::Nobody => false,
        };
        self.decisions.retain(|decision| !of_rollout(decision));
    }

    /// What is to be known once it is restored.
    #[must_use]
    pub fn note(&self) -> String {
        let rollout = self.rollout.as_deref();
        rollout.map_or_else(String::new, |name| {
            format!("{name} was under way and is not revived; all nodes have what everyone has. Begin it anew")
        })
    }

    /// The number of the newest revision.
    #[must_use]
    pub fn latest(&self) -> u64 {
        self.revisions.keys().next_back().copied().unwrap_or_default()
    }

    /// The decisions in force.
    pub fn in_force(&self) -> impl Iterator<Item = &PastAssignment> {
        self.decisions.iter().filter(|decision| decision.ended_at.is_none())
    }

    /// The documents in force, by number.
    pub fn documents_in_force(&self) -> impl Iterator<Item = (u64, &Document)> {
        let of = |decision: &PastAssignment| (decision.held.revision, self.revisions.get(&decision.held.revision));
        self.in_force().map(of).filter_map(|(number, revision)| Some((number, &revision?.document)))
    }

    /// What restoring it does.
    ///
    /// # Errors
    /// Why it cannot be, in words: what is there is otherwise.
    pub fn plan(&self, stored: Option<&Stored>) -> Result<Step, String> {
        let Some(stored) = stored else { return Ok(Step::Create) };
        if let Some((number, _)) = self.revisions.iter().find(|(number, revision)| {
            stored
                .revisions
                .get(number)
                .is_some_and(|document| document.difference(&revision.document) != Difference::Nothing)
        }) {
            return Err(format!("is here with another revision {number}; apply what you want of the backup by hand"));
        }
        let newest = stored.revisions.keys().next_back().copied().unwrap_or_default();
        let same = stored.revisions.len() == self.revisions.len() && newest == self.latest();
        match (stored.deleted, self.deleted) {
            (true, false) => Ok(Step::Revive),
            (true, true) if same => Ok(Step::Nothing),
            (true, true) => Err("is deleted here and in the backup, with other revisions; leave it out".to_owned()),
            (false, true) => Err("exists here and is deleted in the backup; delete it here or leave it out".to_owned()),
            (false, false) if !same => Err(format!(
                "is here with {newest} as its newest revision, and with {} in the backup; leave it out, or delete it here first",
                self.latest()
            )),
            (false, false) => {
                let of = |held: &Assignment| format!("revision {} for {}", held.revision, held.target);
                let of_backup = || self.in_force().map(|decision| &decision.held);
                let same = of_backup().count() == stored.in_force.len();
                if same && of_backup().all(|held| stored.in_force.contains(held)) {
                    return Ok(Step::Nothing);
                }
                let here: BTreeSet<_> = stored.in_force.iter().map(of).collect();
                let there: BTreeSet<_> = of_backup().map(of).collect();
                let say = |set: &BTreeSet<String>| {
                    if set.is_empty() {
                        "nobody".to_owned()
                    } else {
                        set.iter().cloned().collect::<Vec<_>>().join(" and ")
                    }
                };
                Err(format!(
                    "is assigned otherwise here ({}) than in the backup ({}); assign it by hand, or leave it out",
                    say(&here),
                    say(&there)
                ))
            }
        }
    }
}
