//! What a change does to a policy or an experiment: decided here, without a database; [`super::apply`] does it.

use sockpilot_policy::model::LayerKind;

use crate::change::{document::Difference, reach::counted, target::Target, wave::Canary};

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A new policy or experiment.
    Create { target: Target },
    /// Another document.
    Update {
        target: Target,
        /// After the waves that are there, not in their place.
        adds: bool,
        /// Create it if there is none.
        allow_missing: bool,
    },
    /// No more of it.
    Delete,
    /// A revision for somebody.
    Assign {
        revision: u64,
        target: Target,
        /// After the waves that are there, not in their place.
        adds: bool,
        /// Although nobody knows that it works.
        force: bool,
    },
    /// The canary's revision for everyone.
    Promote {
        /// Although nobody knows that it works.
        force: bool,
    },
    Rollback {
        /// To which; `None`: end the canary, else what everyone had before.
        revision: Option<u64>,
    },
    /// A step of a rollout: exactly this canary.
    Stage { revision: u64, canary: Canary },
    /// The end of a rollout that failed: nobody has its revision any more.
    Withdraw {
        revision: u64,
        /// What everyone had before; `None`: nothing.
        good: Option<u64>,
    },
}

/// A revision given to a target, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub revision: u64,
    /// Who has it.
    pub target: Target,
}

/// What the nodes say of the canary's revision, of those that are to run it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CanaryTally {
    /// It is in force there, and they are connected.
    pub in_force: u64,
    /// They have confirmed it, and are not connected now.
    pub gone: u64,
    /// They refuse it.
    pub refused: u64,
    /// They are connected and have not answered yet.
    pub silent: u64,
    /// They are not connected and have not answered.
    pub unavailable: u64,
    /// What one of those that refuse it says.
    pub complaint: Option<String>,
    /// Why it is for no node at all.
    pub nobody: Option<String>,
}

/// How things are with a policy or an experiment that exists or existed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Current {
    /// It exists no more.
    pub deleted: bool,
    /// Changes with every change.
    pub etag: String,
    /// The newest revision.
    pub latest_revision: u64,
    /// What everyone has.
    pub everyone: Option<u64>,
    /// What some have beside it.
    pub canary: Option<Assignment>,
    /// What the nodes say of that.
    pub tally: CanaryTally,
    /// Revisions that some node has had in force at some time.
    pub confirmed: Vec<u64>,
    /// What everyone had before, newest decision first.
    pub had_before: Vec<u64>,
    /// In what the document that came with an update differs from the newest revision.
    pub difference: Difference,
}

/// What to do. The default is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Make the object, or bring the deleted one back with another uid.
    pub create: bool,
    /// Store the document as this revision.
    pub store: Option<u64>,
    /// Give the newest revision the words of the document.
    pub mend: bool,
    /// End what everyone has.
    pub end_everyone: bool,
    /// End the canary.
    pub end_canary: bool,
    /// Then give this.
    pub start: Option<Assignment>,
    /// Delete the object.
    pub delete: bool,
}

impl Plan {
    /// Whether a node may have to enforce something else.
    #[must_use]
    pub fn concerns_nodes(&self) -> bool {
        *self != Self { mend: self.mend, ..Self::default() }
    }
}

/// Why a change cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefusal {
    /// There is no such object, or not any more.
    #[error("there is no such policy or experiment")]
    Missing,
    /// There is one already.
    #[error("it exists already; update it instead")]
    Exists,
    /// The revision was never made.
    #[error("there is no revision {0}")]
    NoRevision(u64),
    /// Somebody else was faster.
    #[error("it has changed since it was read (its etag is now {now}); read it again and decide again")]
    Etag {
        /// What the etag is now.
        now: String,
    },
    /// The object is gone that was read with the etag.
    #[error("it does not exist here, so it is not what was read with this etag; leave the etag out to create it")]
    Gone,
    /// Nobody knows that it works.
    #[error("revision {revision} for everyone: {why}, or force it with a reason")]
    Unconfirmed {
        revision: u64,
        /// What speaks against it, and what to do.
        why: String,
    },
    /// Who asks for it is bound to others.
    #[error("it is beyond what you may change")]
    OutOfBounds,
    /// The state forbids it.
    #[error("{0}")]
    State(String),
}

/// Decides what a change does. `asked_etag` is empty if nobody wants it compared.
///
/// # Errors
/// Why it cannot be.
pub fn plan(
    kind: LayerKind,
    action: &Action,
    asked_etag: &str,
    current: Option<&Current>,
) -> Result<Plan, ChangeRefusal> {
    let next = current.map_or(1, |current| current.latest_revision + 1);
    let live = current.filter(|current| !current.deleted);
    match (action, live) {
        (Action::Create { .. }, Some(_)) => return Err(ChangeRefusal::Exists),
        (Action::Create { target } | Action::Update { target, allow_missing: true, .. }, None) => {
            // An etag names something that somebody has read, so it is not "missing" for them.
            return match action {
                Action::Update { .. } if !asked_etag.is_empty() => Err(ChangeRefusal::Gone),
                _ => Ok(Plan { create: true, store: Some(next), start: held(next, target), ..Plan::default() }),
            };
        }
        (_, None) => return Err(ChangeRefusal::Missing),
        (_, Some(_)) => {}
    }
    let Some(current) = live else { return Err(ChangeRefusal::Missing) };
    if !asked_etag.is_empty() && asked_etag != current.etag {
        return Err(ChangeRefusal::Etag { now: current.etag.clone() });
    }
    match action {
        Action::Create { .. } => Err(ChangeRefusal::Exists),
        Action::Update { target, adds, allow_missing: _ } => update(target, *adds, next, current),
        Action::Delete => Ok(Plan {
            delete: true,
            end_everyone: current.everyone.is_some(),
            end_canary: current.canary.is_some(),
            ..Plan::default()
        }),
        Action::Assign { revision, target: Target::Nobody, .. } => stop(*revision, current),
        Action::Assign { revision, target, adds, force } => {
            let plan = assign(*revision, target, *adds, current)?;
            let forward = current.everyone.is_some_and(|now| *revision > now) || is_canary(*revision, current);
            // No part of the nodes can try an experiment first.
            let forward = forward && kind == LayerKind::Policy;
            if forward && *target == Target::Everyone && !force {
                tried(*revision, current)?;
            }
            Ok(plan)
        }
        Action::Promote { force } => match &current.canary {
            Some(canary) => {
                if !force {
                    tried(canary.revision, current)?;
                }
                give_everyone(canary.revision, current)
            }
            None => Err(ChangeRefusal::State(
                "there is no canary to promote; assign a revision to some nodes first".to_owned(),
            )),
        },
        Action::Rollback { revision } => rollback(kind, *revision, current),
        Action::Stage { revision, canary } => {
            let wanted = held(*revision, &Target::Canary(canary.clone()));
            if wanted == current.canary {
                return Ok(Plan::default());
            }
            Ok(Plan { end_canary: current.canary.is_some(), start: wanted, ..Plan::default() })
        }
        Action::Withdraw { revision, good } => Ok(withdraw(*revision, *good, current)),
    }
}

/// Takes a revision from everybody; others that are given stay.
fn withdraw(revision: u64, good: Option<u64>, current: &Current) -> Plan {
    let end_everyone = current.everyone == Some(revision);
    let start = good.filter(|_| end_everyone).and_then(|good| held(good, &Target::Everyone));
    Plan { end_canary: is_canary(revision, current), end_everyone, start, ..Plan::default() }
}

fn update(target: &Target, adds: bool, next: u64, current: &Current) -> Result<Plan, ChangeRefusal> {
    if current.difference != Difference::Design {
        let mend = current.difference == Difference::Words;
        return Ok(Plan { mend, ..assign(current.latest_revision, target, adds, current)? });
    }
    let plan = Plan { store: Some(next), start: held(next, target), ..Plan::default() };
    Ok(match target {
        Target::Everyone => {
            Plan { end_everyone: current.everyone.is_some(), end_canary: current.canary.is_some(), ..plan }
        }
        Target::Canary(_) => Plan { end_canary: current.canary.is_some(), ..plan },
        Target::Nobody => plan,
    })
}

fn assign(revision: u64, target: &Target, adds: bool, current: &Current) -> Result<Plan, ChangeRefusal> {
    if revision == 0 || revision > current.latest_revision {
        return Err(ChangeRefusal::NoRevision(revision));
    }
    let target = match target {
        Target::Canary(asked) => &Target::Canary(canary(revision, asked, adds, current)?),
        Target::Everyone | Target::Nobody => target,
    };
    let wanted = held(revision, target);
    match target {
        Target::Nobody => Ok(Plan::default()),
        Target::Everyone => give_everyone(revision, current),
        Target::Canary(_) if wanted == current.canary => Ok(Plan::default()),
        // Those nodes have it, as everyone has.
        Target::Canary(_) if current.everyone == Some(revision) && current.canary.is_none() => Ok(Plan::default()),
        Target::Canary(_) if current.everyone == Some(revision) => Err(ChangeRefusal::State(format!(
            "everyone has revision {revision} already, except the nodes of the canary; roll back to end the canary"
        ))),
        Target::Canary(_) => Ok(Plan { end_canary: current.canary.is_some(), start: wanted, ..Plan::default() }),
    }
}

/// The canary that comes of what is asked for, beside what there is of the same revision.
fn canary(revision: u64, asked: &Canary, adds: bool, current: &Current) -> Result<Canary, ChangeRefusal> {
    match &current.canary {
        Some(Assignment { revision: now, target: Target::Canary(before) }) if *now == revision => {
            if adds {
                let remedy = "; leave that wave out, or replace the waves";
                return before.joined(asked).map_err(|why| ChangeRefusal::State(why + remedy));
            }
            // Sent again, it changes nothing: only what was given by hand has no salt.
            let again = asked.waves == before.waves && !asked.salt.is_empty() && !before.salt.is_empty();
            Ok(if again { before.clone() } else { asked.clone() })
        }
        _ => Ok(asked.clone()),
    }
}

/// Takes an experiment from everyone.
fn stop(revision: u64, current: &Current) -> Result<Plan, ChangeRefusal> {
    match current.everyone {
        _ if revision == 0 || revision > current.latest_revision => Err(ChangeRefusal::NoRevision(revision)),
        Some(now) if now != revision => {
            Err(ChangeRefusal::State(format!("everyone has revision {now}, not {revision}; stop that one")))
        }
        now => Ok(Plan { end_everyone: now.is_some(), ..Plan::default() }),
    }
}

/// Gives everyone a revision and ends the canary; nothing changes for those who have it.
fn give_everyone(revision: u64, current: &Current) -> Result<Plan, ChangeRefusal> {
    let end_canary = current.canary.is_some();
    if current.everyone == Some(revision) {
        return Ok(Plan { end_canary, ..Plan::default() });
    }
    let start = held(revision, &Target::Everyone);
    Ok(Plan { end_everyone: current.everyone.is_some(), end_canary, start, ..Plan::default() })
}

fn is_canary(revision: u64, current: &Current) -> bool {
    current.canary.as_ref().is_some_and(|canary| canary.revision == revision)
}

/// Whether some node has shown that a revision works, and none of its canary says the contrary without another that has it.
fn tried(revision: u64, current: &Current) -> Result<(), ChangeRefusal> {
    let CanaryTally { in_force, gone, refused, silent, unavailable, complaint, nobody } = &current.tally;
    let of_canary = is_canary(revision, current);
    let refused_by_all = of_canary && *refused > 0 && in_force + gone == 0;
    if current.confirmed.contains(&revision) && !refused_by_all {
        return Ok(());
    }
    let nodes = |number: &u64| counted(usize::try_from(*number).unwrap_or(usize::MAX));
    let why = match (of_canary, nobody, complaint) {
        (false, ..) => "no node has ever had it in force; assign it to some nodes first".to_owned(),
        (true, Some(nobody), _) => {
            format!(
                "no node has confirmed it, because its canary has no node ({nobody}). Assign it to nodes that exist first"
            )
        }
        (true, None, Some(complaint)) => {
            let all = refused + silent + unavailable;
            format!(
                "{refused} of {} of its canary refused it and none has it in force ({complaint}). Mend it first",
                nodes(&all)
            )
        }
        (true, None, None) => {
            let waiting = [(silent, "not answered yet"), (unavailable, "not connected")];
            let waiting: Vec<_> =
                waiting.iter().filter(|(n, _)| **n > 0).map(|(n, what)| format!("{} {what}", nodes(n))).collect();
            format!("no node has confirmed it ({}). Wait until the status shows it in force", waiting.join(", "))
        }
    };
    Err(ChangeRefusal::Unconfirmed { revision, why })
}

fn rollback(kind: LayerKind, revision: Option<u64>, current: &Current) -> Result<Plan, ChangeRefusal> {
    let state = |text: String| Err(ChangeRefusal::State(text));
    match (revision, current.everyone, &current.canary) {
        (Some(revision), ..) if revision == 0 || revision > current.latest_revision => {
            Err(ChangeRefusal::NoRevision(revision))
        }
        (Some(revision), Some(now), _) if revision > now => {
            state(format!("revision {revision} is newer than {now}, which everyone has; to go forward, assign it"))
        }
        (Some(revision), None, Some(canary)) if revision >= canary.revision => state(format!(
            "revision {revision} is not earlier than the canary's, {}; to go forward, promote or assign",
            canary.revision
        )),
        (Some(revision), None, None) => state(format!(
            "nobody has a revision, so there is nothing to go back from; assign revision {revision} instead"
        )),
        (Some(revision), ..) => give_everyone(revision, current),
        (None, _, Some(_)) => Ok(Plan { end_canary: true, ..Plan::default() }),
        // Only ever backwards: after 1, 2, 3 and two rollbacks everyone has 1, not the 3 that somebody fled from.
        (None, Some(now), None) => match current.had_before.iter().find(|&&before| before < now) {
            Some(&before) => give_everyone(before, current),
            None => {
                let remedy = match kind {
                    LayerKind::Policy => "delete it to withdraw it",
                    LayerKind::Experiment => "assign it to nobody to stop it",
                };
                state(format!("everyone has revision {now} and had none before it; {remedy}"))
            }
        },
        (None, None, None) => state("nobody has a revision, so there is nothing to go back from".to_owned()),
    }
}

fn held(revision: u64, target: &Target) -> Option<Assignment> {
    (*target != Target::Nobody).then(|| Assignment { revision, target: target.clone() })
}

mod different;
#[cfg(test)]
mod tests;
