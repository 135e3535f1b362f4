//! What applying a document comes to, in words.

use super::{rollout, way};
use crate::args::Apply;
use crate::document::{self, Document};
use crate::format::{reach, target};

/// What was done.
pub fn done(effect: &Effect, after: &Document, apply: &Apply) -> String {
    let (name, revision, how) = (after.name(), after.revision(), how(apply, after));
    let line = match effect {
        Effect::Created => format!("{name}: created, revision {revision}{how}"),
        Effect::Revised => format!("{name}: revision {revision}{how}"),
        Effect::Mended => format!("{name}: other words, still revision {revision}"),
        Effect::Assigned => format!("{name}: document unchanged, revision {revision} is now{how}"),
        Effect::Replaced => format!("{name}: replaced"),
        Effect::Nothing => unchanged(after),
    };
    line + &next(apply, after)
}

/// What would be done.
pub fn planned(effect: &Effect, after: &Document, apply: &Apply) -> String {
    let (name, revision, how) = (after.name(), after.revision(), how(apply, after));
    match effect {
        Effect::Created => format!("{name}: would be created, revision {revision}{how}"),
        Effect::Revised => format!("{name}: would become revision {revision}{how}"),
        Effect::Mended => format!("{name}: other words, would stay at revision {revision}"),
        Effect::Assigned => format!("{name}: document unchanged, revision {revision} would be{how}"),
        Effect::Replaced => format!("{name}: would be replaced"),
        Effect::Nothing => unchanged(after),
    }
}

/// What is left to be done to its rollout.
fn next(apply: &Apply, answer: &Document) -> String {
    match rollout(answer) {
        Some(rollout) if apply.rollout.draft => format!("\nStart it with: sockpilot rollout start {rollout}"),
        Some(rollout) if apply.rollout.confirm_within.is_some() => {
            format!("\nConfirm it with: sockpilot rollout confirm {rollout}")
        }
        _ => String::new(),
    }
}

fn unchanged(document: &Document) -> String {
    match document.revision() {
        0 => format!("{}: unchanged", document.name()),
        revision => match rollout(document) {
            Some(rollout) => format!("{}: unchanged at revision {revision}, by {rollout}", document.name()),
            None => format!("{}: unchanged at revision {revision}", document.name()),
        },
    }
}

/// ` by rollouts/web-3`, ` for everyone`, ` for role=edge: 3 of 40 nodes`; nothing where no node gets anything.
fn how(apply: &Apply, answer: &Document) -> String {
    let chosen = way(apply, answer).target;
    let how = match (answer, &chosen) {
        (_, Some(chosen)) => format!(" for {}", target(Some(chosen))),
        (Document::Policy(_), None) => match rollout(answer) {
            Some(rollout) if apply.rollout.draft => format!(" by {rollout}, a draft"),
            Some(rollout) => format!(" by {rollout}"),
            None if apply.change.dry_run => " by a rollout".to_owned(),
            None => " for everyone".to_owned(),
        },
        (Document::Experiment(_), None) => " for everyone".to_owned(),
        (Document::ZoneMap(_) | Document::RolloutPlan(_) | Document::RolloutSettings(_), None) => return String::new(),
    };
    match answer.notes().and_then(|notes| notes.reach).filter(|r| chosen.is_some() || r.nodes < r.total_nodes) {
        Some(nodes) => format!("{how}: {}", reach(&nodes)),
        None => how,
    }
}

/// What applying a document comes to.
pub enum Effect {
    Created,
    Revised,
    /// An experiment with other words.
    Mended,
    /// The document was there already, but it was given to others than before.
    Assigned,
    /// There is one of its kind, without revisions.
    Replaced,
    Nothing,
}

impl Effect {
    pub fn of(before: Option<&Document>, after: &Document) -> Self {
        match before {
            _ if after.is_the_only_one() => {
                if document::diff(before, after).is_empty() {
                    Self::Nothing
                } else {
                    Self::Replaced
                }
            }
            None => Self::Created,
            Some(before) if before.revision() != after.revision() => Self::Revised,
            Some(before) if !document::diff(Some(before), after).is_empty() => Self::Mended,
            Some(before) if before.etag() != after.etag() => Self::Assigned,
            Some(_) => Self::Nothing,
        }
    }
}
