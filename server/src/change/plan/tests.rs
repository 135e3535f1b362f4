//! What a change does, case by case.

use super::*;
use crate::change::wave::Selector;

fn canary(revision: u64, share_bp: u32) -> Assignment {
    Assignment { revision, target: Target::Canary(Canary::by_hand(Selector::Share(share_bp))) }
}

fn everyone(revision: u64) -> Option<Assignment> {
    Some(Assignment { revision, target: Target::Everyone })
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

fn of(action: Action, current: &Current) -> Result<Plan, ChangeRefusal> {
    plan(LayerKind::Policy, &action, "", Some(current))
}

#[test]
fn creates_once() {
    let create = Action::Create { target: Target::Everyone };
    let made = Plan { create: true, store: Some(1), start: everyone(1), ..Plan::default() };
    assert_eq!(plan(LayerKind::Policy, &create, "", None), Ok(made));
    assert_eq!(of(create.clone(), &current()), Err(ChangeRefusal::Exists));
    let deleted = Current { deleted: true, ..current() };
    assert_eq!(of(create, &deleted).map(|plan| plan.store), Ok(Some(4)), "revisions go on counting");
}

#[test]
fn an_update_may_create_and_knows_its_etag() {
    let update = |allow_missing| Action::Update { target: Target::Nobody, adds: false, allow_missing };
    assert_eq!(plan(LayerKind::Policy, &update(false), "", None), Err(ChangeRefusal::Missing));
    assert_eq!(
        plan(LayerKind::Policy, &update(true), "", None).map(|plan| (plan.store, plan.start)),
        Ok((Some(1), None))
    );
    assert_eq!(plan(LayerKind::Policy, &update(true), "e", None), Err(ChangeRefusal::Gone));
    assert_eq!(
        plan(LayerKind::Policy, &update(true), "old", Some(&current())),
        Err(ChangeRefusal::Etag { now: "e".to_owned() })
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
        plan(LayerKind::Experiment, &Action::Update { target, adds: false, allow_missing: false }, "", Some(&current))
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
    assert!(matches!(of(stop(1), &current()), Err(ChangeRefusal::State(why)) if why.contains("has revision 2, not 1")));
    assert_eq!(of(stop(4), &current()), Err(ChangeRefusal::NoRevision(4)));
    let stopped = Current { everyone: None, ..current() };
    assert_eq!(of(stop(2), &stopped), Ok(Plan::default()), "sent again, it changes nothing");
}

#[test]
fn promotes_a_canary_and_nothing_else() {
    let promoted = Plan { end_everyone: true, end_canary: true, start: everyone(3), ..Plan::default() };
    assert_eq!(of(Action::Promote { force: false }, &with_canary()), Ok(promoted));
    assert!(matches!(of(Action::Promote { force: false }, &current()), Err(ChangeRefusal::State(_))));
}

#[test]
fn nothing_that_no_node_has_confirmed_goes_on_to_everyone_unless_forced() {
    let promote = |force, current: &Current| of(Action::Promote { force }, current);
    let assign = |force, current: &Current| {
        of(Action::Assign { revision: 3, target: Target::Everyone, adds: false, force }, current)
    };
    let untried = Current { confirmed: vec![1, 2], ..with_canary() };
    let says = |answer: Result<Plan, ChangeRefusal>| match answer {
        Err(ChangeRefusal::Unconfirmed { revision: 3, why }) => why,
        other => panic!("{other:?}"),
    };
    let with = |tally: CanaryTally| Current { tally, ..untried.clone() };
    let nobody =
        with(CanaryTally { nobody: Some("role=egde holds for 0 of 5 nodes".to_owned()), ..CanaryTally::default() });
    assert!(says(promote(false, &nobody)).contains("role=egde holds for 0 of 5 nodes"));
    let waiting = with(CanaryTally { silent: 1, unavailable: 2, ..CanaryTally::default() });
    assert!(says(promote(false, &waiting)).contains("1 node not answered yet, 2 nodes not connected"));
    let complaint = Some("nodes/n: no bbr".to_owned());
    let refused = CanaryTally { refused: 2, silent: 1, complaint, ..CanaryTally::default() };
    assert!(says(promote(false, &with(refused.clone()))).contains("2 of 3 nodes of its canary refused it"));
    let once = Current { tally: refused.clone(), ..with_canary() };
    assert!(says(promote(false, &once)).contains("no bbr"), "others may have had it before");
    let split = Current { tally: CanaryTally { in_force: 1, ..refused }, ..with_canary() };
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
    assert!(of(Action::Assign { revision: 1, target: Target::Everyone, adds: false, force: false }, &untried).is_ok());
}

#[test]
fn rolls_back_the_canary_first_and_only_backwards() {
    let back = |revision| Action::Rollback { revision };
    assert_eq!(of(back(None), &with_canary()), Ok(Plan { end_canary: true, ..Plan::default() }));
    let to_one = Plan { end_everyone: true, start: everyone(1), ..Plan::default() };
    assert_eq!(of(back(None), &current()), Ok(to_one.clone()));
    assert_eq!(of(back(Some(1)), &with_canary()), Ok(Plan { end_canary: true, ..to_one }));
    assert!(matches!(of(back(Some(3)), &current()), Err(ChangeRefusal::State(_))));
    assert_eq!(of(back(Some(4)), &current()), Err(ChangeRefusal::NoRevision(4)));
    assert_eq!(of(back(Some(2)), &current()), Ok(Plan::default()), "sent again, it changes nothing");
    let ping = Current { everyone: Some(1), had_before: vec![2, 3, 1], ..current() };
    assert!(matches!(of(back(None), &ping), Err(ChangeRefusal::State(_))), "never forward");
    let none = Current { everyone: None, ..current() };
    assert!(matches!(of(back(None), &none), Err(ChangeRefusal::State(_))));
    assert!(matches!(of(back(Some(1)), &none), Err(ChangeRefusal::State(_))));
}

#[test]
fn assigns_what_exists_to_who_has_it_not() {
    let assign = |revision, target| Action::Assign { revision, target, adds: false, force: false };
    let some = Target::Canary(Canary::by_hand(Selector::Share(2_000)));
    assert_eq!(of(assign(9, Target::Everyone), &current()), Err(ChangeRefusal::NoRevision(9)));
    let replaced = Plan { end_canary: true, start: Some(canary(3, 2_000)), ..Plan::default() };
    assert_eq!(of(assign(3, some.clone()), &with_canary()), Ok(replaced));
    assert_eq!(of(assign(2, some.clone()), &current()), Ok(Plan::default()));
    assert!(matches!(of(assign(2, some), &with_canary()), Err(ChangeRefusal::State(_))));
}

#[test]
fn waves_are_added_to_the_canary_of_the_same_revision() {
    let waves = |salt: &str, shares: &[u32]| Canary {
        salt: salt.to_owned(),
        waves: shares.iter().map(|&share| Selector::Share(share)).collect(),
        flow_share_bp: sockpilot_rollout::plan::ALL_FLOWS_BP,
    };
    let assign = |revision, canary, adds, current: &Current| {
        let target = Target::Canary(canary);
        of(Action::Assign { revision, target, adds, force: false }, current)
    };
    let begun = |canary| {
        let start = Some(Assignment { revision: 3, target: Target::Canary(canary) });
        Ok(Plan { end_canary: true, start, ..Plan::default() })
    };
    let running =
        Current { canary: Some(Assignment { revision: 3, target: Target::Canary(waves("s", &[100])) }), ..current() };
    assert_eq!(assign(3, waves("t", &[500]), true, &running), begun(waves("s", &[100, 500])));
    assert_eq!(assign(3, waves("t", &[100, 500]), true, &running), begun(waves("s", &[100, 500])), "the whole list");
    assert_eq!(assign(3, waves("t", &[100]), true, &running), Ok(Plan::default()), "sent again");
    let less = assign(3, waves("t", &[50]), true, &running);
    assert!(matches!(&less, Err(ChangeRefusal::State(why)) if why.contains("replace the waves")), "{less:?}");
    assert_eq!(assign(3, waves("t", &[50]), false, &running), begun(waves("t", &[50])));
    assert_eq!(assign(3, waves("t", &[100]), false, &running), Ok(Plan::default()), "sent again");
    assert_eq!(assign(3, waves("", &[100]), false, &running), begun(waves("", &[100])), "by hand: other nodes");
    let other = assign(1, waves("t", &[500]), true, &running).map(|plan| plan.start);
    let of_other = Some(Assignment { revision: 1, target: Target::Canary(waves("t", &[500])) });
    assert_eq!(other, Ok(of_other), "another revision begins with a salt of its own");
    let by_hand = with_canary();
    assert_eq!(assign(3, waves("t", &[2_000]), true, &by_hand), begun(waves("", &[1_000, 2_000])), "nobody leaves");
}

#[test]
fn deletes_all_assignments() {
    let gone = Plan { delete: true, end_everyone: true, end_canary: true, ..Plan::default() };
    assert_eq!(of(Action::Delete, &with_canary()), Ok(gone));
    assert_eq!(of(Action::Delete, &Current { deleted: true, ..current() }), Err(ChangeRefusal::Missing));
}
