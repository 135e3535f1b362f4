//! A change that is planned, and what comes of it once it is carried out: of what was read before and what the database answered, so that
//! nothing has to be read again.

use std::sync::Arc;

use chrono::DateTime;
use sockpilot_policy::model::LayerKind;
use sockpilot_proto::v1;

use super::{
    apply::Change,
    author::Author,
    document::{Document, Identity},
    notes::Notes,
    plan::{Action, Assignment, Current, Plan},
    reach::{Reach, Seen},
    target::Target,
};
use crate::{
    fleet::resolve::{Reached, Revision, Step},
    store::{decision::Decided, standing::Standing},
};

/// See the [module](self).
#[derive(Debug)]
pub struct Planned<'a> {
    pub change: &'a Change,
    pub standing: &'a Standing,
    pub current: Option<Current>,
    pub plan: Plan,
}

/// A change that is made.
#[derive(Debug, Default)]
pub struct Made {
    /// What is to be known of it.
    pub notes: Notes,
    /// The newest revision of a policy, as it is now.
    pub newest: Option<Document>,
    /// A rollout gives nodes something of it, or takes it back.
    pub in_rollout: bool,
    /// What it makes of what nodes are served from, if it is as simple as that.
    pub step: Option<Step>,
}

/// Whether a revision is for every node that there is.
#[must_use]
pub fn reaches_all(held: &Assignment, document: &Document) -> bool {
    held.target == Target::Everyone && document.node_labels().is_empty()
}

impl Planned<'_> {
    /// The newest revision, once it is carried out.
    #[must_use]
    pub fn latest(&self) -> u64 {
        let before = self.current.as_ref().map_or(0, |current| current.latest_revision);
        self.plan.store.unwrap_or(before)
    }

    /// Which revision the change gives, and to whom; also if they have it already.
    #[must_use]
    pub fn given(&self) -> Option<Assignment> {
        let (revision, target) = match &self.change.action {
            Action::Delete
            | Action::Stage { .. }
            | Action::Withdraw { .. }
            | Action::Create { target: Target::Nobody }
            | Action::Update { target: Target::Nobody, .. }
            | Action::Assign { target: Target::Nobody, .. } => return None,
            Action::Create { target } | Action::Update { target, .. } => (self.latest(), target),
            Action::Assign { revision, target, .. } => (*revision, target),
            Action::Promote { .. } | Action::Rollback { .. } => return self.everyone(),
        };
        // Of waves that were added, the whole.
        let canary = self.canary().filter(|held| held.revision == revision && *target != Target::Everyone);
        Some(canary.unwrap_or_else(|| Assignment { revision, target: target.clone() }))
    }

    /// What everyone has, once it is carried out.
    fn everyone(&self) -> Option<Assignment> {
        let before = self.current.as_ref().filter(|_| !self.plan.end_everyone).and_then(|current| current.everyone);
        let before = before.map(|revision| Assignment { revision, target: Target::Everyone });
        self.plan.start.clone().filter(|start| start.target == Target::Everyone).or(before)
    }

    /// The canary, once it is carried out.
    fn canary(&self) -> Option<Assignment> {
        let before = self.current.as_ref().filter(|_| !self.plan.end_canary).and_then(|current| current.canary.clone());
        self.plan.start.clone().filter(|start| start.target != Target::Everyone).or(before)
    }

    /// Whether an experiment that runs is to end at another time by other words.
    #[must_use]
    pub fn lasts_otherwise(&self) -> bool {
        let sent = self.change.sent.as_ref().map(|sent| &sent.document);
        let (Some(Document::Experiment(running)), Some(Document::Experiment(sent))) = (&self.standing.newest, sent)
        else {
            return false;
        };
        let lasted_s = running.end_time.zip(running.start_time).map_or(0, |(end, start)| end.seconds - start.seconds);
        running.start_time.is_some() && lasted_s != i64::from(sent.duration_s)
    }

    /// What came of it: `decided` is what the database answered, `given` what is given and its document, and `nodes` are those that it may be
    /// for, unless it is for all.
    #[must_use]
    pub fn made(
        &self,
        author: &Author,
        decided: Option<&Decided>,
        given: Option<(&Assignment, &Document)>,
        nodes: &[Seen],
    ) -> Made {
        Made {
            notes: self.notes(given, nodes),
            newest: self.newest(author, decided),
            in_rollout: self.standing.in_rollout,
            step: decided.and_then(|decided| self.step(decided, given)),
        }
    }

    fn notes(&self, given: Option<(&Assignment, &Document)>, nodes: &[Seen]) -> Notes {
        let mut notes = Notes::default();
        if let Some(sent) = &self.change.sent {
            notes.document(&sent.document);
        }
        let Some((held, document)) = given else { return notes };
        if reaches_all(held, document) {
            let (total_nodes, connected_nodes) = self.standing.nodes;
            notes.reach = Some(Reach { nodes: total_nodes, connected_nodes, total_nodes });
        } else {
            notes.reach(held, document, nodes);
        }
        let begins = self.plan.start.as_ref().is_some_and(|start| start.target == Target::Everyone);
        if let Some(before) = self.current.as_ref().filter(|_| begins && self.plan.store.is_none()) {
            if !before.confirmed.contains(&held.revision) {
                notes.unconfirmed(held.revision);
            }
            if before.canary.as_ref().is_some_and(|canary| canary.revision == held.revision) {
                notes.canary_tally(&before.tally);
            }
        }
        notes
    }

    fn newest(&self, author: &Author, decided: Option<&Decided>) -> Option<Document> {
        let Self { change, standing, plan, .. } = self;
        // How far an experiment has come is told by more than its row.
        if change.name.kind == LayerKind::Experiment || plan.delete {
            return None;
        }
        let Some(decided) = decided else { return standing.newest.clone() };
        let etag = decided.object(self.latest(), false).etag();
        match (&change.sent, plan.store) {
            (Some(sent), Some(revision)) => Some(sent.document.clone().identified(Identity {
                name: change.name.to_string(),
                uid: decided.uid.to_string(),
                revision,
                etag,
                created_at: decided.stored_at.unwrap_or(DateTime::UNIX_EPOCH),
                creator: author.actor(),
                state: v1::ExperimentState::Unspecified,
                started_at: None,
                ends_at: None,
                shipped_arm: String::new(),
            })),
            _ => standing.newest.clone().map(|newest| newest.with_etag(etag)),
        }
    }

    fn step(&self, decided: &Decided, given: Option<(&Assignment, &Document)>) -> Option<Step> {
        let Self { change, standing, plan, .. } = self;
        let generation = decided.generation.cast_unsigned();
        let simple = change.name.kind == LayerKind::Policy && self.canary().is_none() && !standing.in_rollout;
        if !simple || generation != standing.generation + 1 {
            return None;
        }
        let everyone = match (&plan.start, given) {
            (Some(start), Some((held, document))) if start == held => {
                Some(Arc::new(Revision::of(change.name.clone(), held.revision, document.clone())))
            }
            (None, _) if plan.end_everyone || plan.delete => None,
            _ => return None,
        };
        let reached = Reached { epoch: standing.epoch, generation, audit: decided.audit_head() };
        Some(Step { reached, name: change.name.clone(), everyone })
    }
}
