//! What a change does to a policy or an experiment: decided here, without a database; `store::change` does it.

use sockpilot_policy::model::LayerKind;

use crate::{document::Difference, reach::counted, target::Target, wave::Canary};

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A new policy or experiment.
    Create {
        /// Who gets it.
        target: Target,
    },
    /// Another document.
    Update {
        /// Who gets it.
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
        /// Which.
        revision: u64,
        /// Who gets it.
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
    /// Back.
    Rollback {
        /// To which; `None`: end the canary, else what everyone had before.
        revision: Option<u64>,
    },
}

/// A revision given to a target, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub revision: u64,
    /// Who has it.
    pub target: Target,
}

/// What the nodes say of the canary's revision, of those that are to run it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trial {
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
    pub canary: Option<Held>,
    /// What the nodes say of that.
    pub trial: Trial,
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
    pub start: Option<Held>,
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
pub enum Refusal {
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
        /// Which revision.
        revision: u64,
        /// What speaks against it, and what to do.
        why: String,
    },
    /// The state forbids it.
    #[error("{0}")]
    State(String),
}

/// Decides what a change does. `asked_etag` is empty if nobody wants it compared.
///
/// # Errors
/// Why it cannot be.
pub fn plan(kind: LayerKind, action: &Action, asked_etag: &str, current: Option<&Current>) -> Result<Plan, Refusal> {
    let next = current.map_or(1, |current| current.latest_revision + 1);
    let live = current.filter(|current| !current.deleted);
    match (action, live) {
        (Action::Create { .. }, Some(_)) => return Err(Refusal::Exists),
        (Action::Create { target } | Action::Update { target, allow_missing: true, .. }, None) => {
            // An etag names something that somebody has read, so it is not "missing" for them.
            return match action {
                Action::Update { .. } if !asked_etag.is_empty() => Err(Refusal::Gone),
                _ => Ok(Plan { create: true, store: Some(next), start: held(next, target), ..Plan::default() }),
            };
        }
        (_, None) => return Err(Refusal::Missing),
        (_, Some(_)) => {}
    }
    let Some(current) = live else { return Err(Refusal::Missing) };
    if !asked_etag.is_empty() && asked_etag != current.etag {
        return Err(Refusal::Etag { now: current.etag.clone() });
    }
    match action {
        Action::Create { .. } => Err(Refusal::Exists),
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
            None => {
                Err(Refusal::State("there is no canary to promote; assign a revision to some nodes first".to_owned()))
            }
        },
        Action::Rollback { revision } => rollback(kind, *revision, current),
    }
}

fn update(target: &Target, adds: bool, next: u64, current: &Current) -> Result<Plan, Refusal> {
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

fn assign(revision: u64, target: &Target, adds: bool, current: &Current) -> Result<Plan, Refusal> {
    if revision == 0 || revision > current.latest_revision {
        return Err(Refusal::NoRevision(revision));
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
        Target::Canary(_) if current.everyone == Some(revision) => Err(Refusal::State(format!(
            "everyone has revision {revision} already, except the nodes of the canary; roll back to end the canary"
        ))),
        Target::Canary(_) => Ok(Plan { end_canary: current.canary.is_some(), start: wanted, ..Plan::default() }),
    }
}

/// The canary that comes of what is asked for, beside what there is of the same revision.
fn canary(revision: u64, asked: &Canary, adds: bool, current: &Current) -> Result<Canary, Refusal> {
    match &current.canary {
        Some(Held { revision: now, target: Target::Canary(before) }) if *now == revision => {
            if adds {
                let remedy = "; leave that wave out, or replace the waves";
                return before.joined(asked).map_err(|why| Refusal::State(why + remedy));
            }
            // Sent again, it changes nothing: only what was given by hand has no salt.
            let again = asked.waves == before.waves && !asked.salt.is_empty() && !before.salt.is_empty();
            Ok(if again { before.clone() } else { asked.clone() })
        }
        _ => Ok(asked.clone()),
    }
}

/// Takes an experiment from everyone.
fn stop(revision: u64, current: &Current) -> Result<Plan, Refusal> {
    match current.everyone {
        _ if revision == 0 || revision > current.latest_revision => Err(Refusal::NoRevision(revision)),
        Some(now) if now != revision => {
            Err(Refusal::State(format!("everyone has revision {now}, not {revision}; stop that one")))
        }
        now => Ok(Plan { end_everyone: now.is_some(), ..Plan::default() }),
    }
}

/// Gives everyone a revision and ends the canary; nothing changes for those who have it.
fn give_everyone(revision: u64, current: &Current) -> Result<Plan, Refusal> {
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
fn tried(revision: u64, current: &Current) -> Result<(), Refusal> {
    let Trial { in_force, gone, refused, silent, unavailable, complaint, nobody } = &current.trial;
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
    Err(Refusal::Unconfirmed { revision, why })
}

fn rollback(kind: LayerKind, revision: Option<u64>, current: &Current) -> Result<Plan, Refusal> {
    let state = |text: String| Err(Refusal::State(text));
    match (revision, current.everyone, &current.canary) {
        (Some(revision), ..) if revision == 0 || revision > current.latest_revision => {
            Err(Refusal::NoRevision(revision))
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

fn held(revision: u64, target: &Target) -> Option<Held> {
    (*target != Target::Nobody).then(|| Held { revision, target: target.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wave::Selector;

    fn canary(revision: u64, share_bp: u32) -> Held {
        Held { revision, target: Target::Canary(Canary::by_hand(Selector::Share(share_bp))) }
    }

    fn everyone(revision: u64) -> Option<Held> {
        Some(Held { revision, target: Target::Everyone })
    }

    fn current() -> Current {
        Current {
            etag: "e".to_owned(),
            latest_revision: 3,
            everyone: Some(2),
            confirmed: vec![1, 2, 3],
            had_before: vec![1],
            ..Current::default()
        }
    }

    fn with_canary() -> Current {
        Current { canary: Some(canary(3, 1_000)), ..current() }
    }

    fn of(action: Action, current: &Current) -> Result<Plan, Refusal> {
        plan(LayerKind::Policy, &action, "", Some(current))
    }

    #[test]
    fn creates_once() {
        let create = Action::Create { target: Target::Everyone };
        let made = Plan { create: true, store: Some(1), start: everyone(1), ..Plan::default() };
        assert_eq!(plan(LayerKind::Policy, &create, "", None), Ok(made));
        assert_eq!(of(create.clone(), &current()), Err(Refusal::Exists));
        let deleted = Current { deleted: true, ..current() };
        assert_eq!(of(create, &deleted).map(|plan| plan.store), Ok(Some(4)), "revisions go on counting");
    }

    #[test]
    fn an_update_may_create_and_knows_its_etag() {
        let update = |allow_missing| Action::Update { target: Target::Nobody, adds: false, allow_missing };
        assert_eq!(plan(LayerKind::Policy, &update(false), "", None), Err(Refusal::Missing));
        assert_eq!(
            plan(LayerKind::Policy, &update(true), "", None).map(|plan| (plan.store, plan.start)),
            Ok((Some(1), None))
        );
        assert_eq!(plan(LayerKind::Policy, &update(true), "e", None), Err(Refusal::Gone));
        assert_eq!(
            plan(LayerKind::Policy, &update(true), "old", Some(&current())),
            Err(Refusal::Etag { now: "e".to_owned() })
        );
        let stored = Plan { store: Some(4), ..Plan::default() };
        assert_eq!(
            plan(LayerKind::Policy, &update(false), "e", Some(&with_canary())),
            Ok(stored),
            "nobody: canary and everyone stay"
        );
    }

    #[test]
    fn an_unchanged_document_is_only_given() {
        let same = Current { difference: Difference::Nothing, ..current() };
        let update = |target| Action::Update { target, adds: false, allow_missing: false };
        let start = Some(canary(3, 500));
        let plan = Plan { start, ..Plan::default() };
        assert_eq!(of(update(Target::Canary(Canary::by_hand(Selector::Share(500)))), &same), Ok(plan));
        let settled = Current { everyone: Some(3), ..same };
        assert_eq!(of(update(Target::Everyone), &settled), Ok(Plan::default()));
        assert_eq!(of(update(Target::Canary(Canary::by_hand(Selector::Share(500)))), &settled), Ok(Plan::default()));
    }

    #[test]
    fn other_words_are_no_other_revision() {
        let current = Current { difference: Difference::Words, everyone: Some(3), ..current() };
        let update = |target| {
            plan(
                LayerKind::Experiment,
                &Action::Update { target, adds: false, allow_missing: false },
                "",
                Some(&current),
            )
        };
        let mended = Plan { mend: true, ..Plan::default() };
        assert_eq!(update(Target::Everyone), Ok(mended.clone()));
        assert_eq!(update(Target::Nobody), Ok(mended.clone()), "a running one stays so");
        assert!(!mended.concerns_nodes());
        let staged = Current { everyone: Some(2), ..current.clone() };
        let update = Action::Update { target: Target::Everyone, adds: false, allow_missing: false };
        let started = plan(LayerKind::Experiment, &update, "", Some(&staged)).expect("started");
        assert_eq!((started.mend, &started.start, started.concerns_nodes()), (true, &everyone(3), true));
    }

    #[test]
    fn an_experiment_is_started_untried_and_stopped() {
        let assign = |revision, target| Action::Assign { revision, target, adds: false, force: false };
        let of = |action, current: &Current| plan(LayerKind::Experiment, &action, "", Some(current));
        let untried = Current { confirmed: vec![], ..current() };
        assert_eq!(of(assign(3, Target::Everyone), &untried).map(|plan| plan.start), Ok(everyone(3)));
        let stop = |revision| assign(revision, Target::Nobody);
        let ended = Plan { end_everyone: true, ..Plan::default() };
        assert_eq!(of(stop(2), &current()), Ok(ended));
        assert!(matches!(of(stop(1), &current()), Err(Refusal::State(why)) if why.contains("has revision 2, not 1")));
        assert_eq!(of(stop(4), &current()), Err(Refusal::NoRevision(4)));
        let stopped = Current { everyone: None, ..current() };
        assert_eq!(of(stop(2), &stopped), Ok(Plan::default()), "sent again, it changes nothing");
    }

    #[test]
    fn promotes_a_canary_and_nothing_else() {
        let promoted = Plan { end_everyone: true, end_canary: true, start: everyone(3), ..Plan::default() };
        assert_eq!(of(Action::Promote { force: false }, &with_canary()), Ok(promoted));
        assert!(matches!(of(Action::Promote { force: false }, &current()), Err(Refusal::State(_))));
    }

    #[test]
    fn nothing_that_no_node_has_confirmed_goes_on_to_everyone_unless_forced() {
        let promote = |force, current: &Current| of(Action::Promote { force }, current);
        let assign = |force, current: &Current| {
            of(Action::Assign { revision: 3, target: Target::Everyone, adds: false, force }, current)
        };
        let untried = Current { confirmed: vec![1, 2], ..with_canary() };
        let says = |answer: Result<Plan, Refusal>| match answer {
            Err(Refusal::Unconfirmed { revision: 3, why }) => why,
            other => panic!("{other:?}"),
        };
        let with = |trial: Trial| Current { trial, ..untried.clone() };
        let nobody = with(Trial { nobody: Some("role=egde holds for 0 of 5 nodes".to_owned()), ..Trial::default() });
        assert!(says(promote(false, &nobody)).contains("role=egde holds for 0 of 5 nodes"));
        let waiting = with(Trial { silent: 1, unavailable: 2, ..Trial::default() });
        assert!(says(promote(false, &waiting)).contains("1 node not answered yet, 2 nodes not connected"));
        let complaint = Some("nodes/n: no bbr".to_owned());
        let refused = Trial { refused: 2, silent: 1, complaint, ..Trial::default() };
        assert!(says(promote(false, &with(refused.clone()))).contains("2 of 3 nodes of its canary refused it"));
        let once = Current { trial: refused.clone(), ..with_canary() };
        assert!(says(promote(false, &once)).contains("no bbr"), "others may have had it before");
        let split = Current { trial: Trial { in_force: 1, ..refused }, ..with_canary() };
        assert!(promote(false, &split).is_ok(), "it works somewhere");
        assert!(says(assign(false, &waiting)).contains("not answered"), "the same by another name");
        let staged = Current { canary: None, ..untried.clone() };
        assert!(says(assign(false, &staged)).contains("assign it to some nodes first"));
        for current in [&nobody, &waiting, &once] {
            assert!(promote(true, current).is_ok() && assign(true, current).is_ok());
        }
        let first = Current { everyone: None, ..staged };
        assert!(assign(false, &first).is_ok(), "the first for everyone replaces nothing");
        let untried = Current { confirmed: vec![], ..current() };
        assert!(of(Action::Rollback { revision: Some(1) }, &untried).is_ok(), "back is always possible");
        assert!(
            of(Action::Assign { revision: 1, target: Target::Everyone, adds: false, force: false }, &untried).is_ok()
        );
    }

    #[test]
    fn rolls_back_the_canary_first_and_only_backwards() {
        let back = |revision| Action::Rollback { revision };
        assert_eq!(of(back(None), &with_canary()), Ok(Plan { end_canary: true, ..Plan::default() }));
        let to_one = Plan { end_everyone: true, start: everyone(1), ..Plan::default() };
        assert_eq!(of(back(None), &current()), Ok(to_one.clone()));
        assert_eq!(of(back(Some(1)), &with_canary()), Ok(Plan { end_canary: true, ..to_one }));
        assert!(matches!(of(back(Some(3)), &current()), Err(Refusal::State(_))));
        assert_eq!(of(back(Some(4)), &current()), Err(Refusal::NoRevision(4)));
        assert_eq!(of(back(Some(2)), &current()), Ok(Plan::default()), "sent again, it changes nothing");
        let ping = Current { everyone: Some(1), had_before: vec![2, 3, 1], ..current() };
        assert!(matches!(of(back(None), &ping), Err(Refusal::State(_))), "never forward");
        let none = Current { everyone: None, ..current() };
        assert!(matches!(of(back(None), &none), Err(Refusal::State(_))));
        assert!(matches!(of(back(Some(1)), &none), Err(Refusal::State(_))));
    }

    #[test]
    fn assigns_what_exists_to_who_has_it_not() {
        let assign = |revision, target| Action::Assign { revision, target, adds: false, force: false };
        let some = Target::Canary(Canary::by_hand(Selector::Share(2_000)));
        assert_eq!(of(assign(9, Target::Everyone), &current()), Err(Refusal::NoRevision(9)));
        let replaced = Plan { end_canary: true, start: Some(canary(3, 2_000)), ..Plan::default() };
        assert_eq!(of(assign(3, some.clone()), &with_canary()), Ok(replaced));
        assert_eq!(of(assign(2, some.clone()), &current()), Ok(Plan::default()));
        assert!(matches!(of(assign(2, some), &with_canary()), Err(Refusal::State(_))));
    }

    #[test]
    fn waves_are_added_to_the_canary_of_the_same_revision() {
        let waves = |salt: &str, shares: &[u32]| Canary {
            salt: salt.to_owned(),
            waves: shares.iter().map(|&share| Selector::Share(share)).collect(),
        };
        let assign = |revision, canary, adds, current: &Current| {
            let target = Target::Canary(canary);
            of(Action::Assign { revision, target, adds, force: false }, current)
        };
        let begun = |canary| {
            let start = Some(Held { revision: 3, target: Target::Canary(canary) });
            Ok(Plan { end_canary: true, start, ..Plan::default() })
        };
        let running =
            Current { canary: Some(Held { revision: 3, target: Target::Canary(waves("s", &[100])) }), ..current() };
        assert_eq!(assign(3, waves("t", &[500]), true, &running), begun(waves("s", &[100, 500])));
        assert_eq!(
            assign(3, waves("t", &[100, 500]), true, &running),
            begun(waves("s", &[100, 500])),
            "the whole list"
        );
        assert_eq!(assign(3, waves("t", &[100]), true, &running), Ok(Plan::default()), "sent again");
        let less = assign(3, waves("t", &[50]), true, &running);
        assert!(matches!(&less, Err(Refusal::State(why)) if why.contains("replace the waves")), "{less:?}");
        assert_eq!(assign(3, waves("t", &[50]), false, &running), begun(waves("t", &[50])));
        assert_eq!(assign(3, waves("t", &[100]), false, &running), Ok(Plan::default()), "sent again");
        assert_eq!(assign(3, waves("", &[100]), false, &running), begun(waves("", &[100])), "by hand: other nodes");
        let other = assign(1, waves("t", &[500]), true, &running).map(|plan| plan.start);
        let of_other = Some(Held { revision: 1, target: Target::Canary(waves("t", &[500])) });
        assert_eq!(other, Ok(of_other), "another revision begins with a salt of its own");
        let by_hand = with_canary();
        assert_eq!(assign(3, waves("t", &[2_000]), true, &by_hand), begun(waves("", &[1_000, 2_000])), "nobody leaves");
    }

    #[test]
    fn deletes_all_assignments() {
        let gone = Plan { delete: true, end_everyone: true, end_canary: true, ..Plan::default() };
        assert_eq!(of(Action::Delete, &with_canary()), Ok(gone));
        assert_eq!(of(Action::Delete, &Current { deleted: true, ..current() }), Err(Refusal::Missing));
    }
}
