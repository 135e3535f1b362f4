//! What people ask of rollouts, in every state, one by one and many at once; and previews, which change nothing.

use tonic::Code;

use super::*;
use crate::world::{everyone, fields};

/// Node `a`, then all; a minute each.
fn slow(id: &str) -> v1::RolloutPlan {
    plan(id, vec![baking(60, wave(of_nodes(&["a"]), &[100])), baking(60, wave(None, &[]))])
}

async fn draft(fleet: &mut Fleet, plan: v1::RolloutPlan) -> v1::Rollout {
    fleet.begin_with(plan, v1::RolloutOptions { draft: true, ..Default::default() }).await
}

fn jump(name: &str, wave: u32, force: bool) -> v1::RolloutVerbRequest {
    v1::RolloutVerbRequest { wave, force, ..verb(name) }
}

#[tokio::test]
async fn a_draft_is_started_or_given_up() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let made = draft(&mut fleet, slow("mine")).await;
    assert_eq!((made.state(), made.reason.as_str()), (RolloutState::Draft, "it waits to be started"));
    let name = made.name.as_str();
    for answer in [
        fleet.rollouts.pause_rollout(verb(name)).await,
        fleet.rollouts.resume_rollout(verb(name)).await,
        fleet.rollouts.promote_rollout(verb(name)).await,
        fleet.rollouts.confirm_rollout(verb(name)).await,
        fleet.rollouts.jump_rollout(jump(name, 1, false)).await,
    ] {
        refused(answer, "it is a draft; start it first");
    }
    let tried = v1::RolloutVerbRequest { validate_only: true, ..verb(name) };
    let said = fleet.rollouts.start_rollout(tried).await.expect("it could be").into_inner();
    assert_eq!((said.state(), fleet.get(name).await.state()), (RolloutState::Running, RolloutState::Draft));
    assert_eq!(fleet.having(2).len(), 0);
    let stale = v1::RolloutVerbRequest { etag: "r99".to_owned(), ..verb(name) };
    assert_eq!(fleet.rollouts.start_rollout(stale).await.expect_err("stale").code(), Code::Aborted);
    let read = v1::RolloutVerbRequest { etag: made.etag.clone(), ..verb(name) };
    fleet.rollouts.start_rollout(read).await.expect("started");
    fleet.node("a").has_share(2, 100).await;
    fleet.rollouts.start_rollout(verb(name)).await.expect("its effect is there");
    fleet.rollouts.roll_back_rollout(verb(name)).await.expect("back");
    fleet.reaches(name, RolloutState::RolledBack).await;

    let other = draft(&mut fleet, slow("mine")).await;
    fleet.rollouts.roll_back_rollout(verb(&other.name)).await.expect("given up");
    let ended = fleet.get(&other.name).await;
    assert_eq!((ended.state(), ended.reason.as_str()), (RolloutState::RolledBack, "it was given up before it began"));
    let late = draft(&mut fleet, slow("mine")).await;
    fleet.pass(&late.name, 8 * 86_400).await;
    fleet.reaches(&late.name, RolloutState::RolledBack).await;
}

#[tokio::test]
async fn it_is_paused_resumed_promoted_and_sent_to_waves() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let begun = fleet.begin(slow("mine")).await;
    let name = begun.name.as_str();
    fleet.comes_to(name, (1, 1), RolloutPhase::Baking).await;
    let paused = fleet.rollouts.pause_rollout(verb(name)).await.expect("paused").into_inner();
    assert_eq!(paused.state(), RolloutState::Paused);
    let again = fleet.rollouts.pause_rollout(verb(name)).await.expect("it is").into_inner();
    assert_eq!(again.etag, paused.etag, "its effect is there");
    refused(fleet.rollouts.start_rollout(verb(name)).await, "it is paused; resume it");
    fleet.pass(name, 120).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    assert_eq!(fleet.get(name).await.step, 1, "it stays where it is");
    assert_eq!(fleet.having(2), ["a"], "and nodes keep what they have");
    fleet.rollouts.resume_rollout(verb(name)).await.expect("resumed");
    fleet.comes_to(name, (1, 2), RolloutPhase::Baking).await;
    fleet.rollouts.resume_rollout(verb(name)).await.expect("its effect is there");

    fleet.rollouts.promote_rollout(verb(name)).await.expect("without the wait");
    fleet.comes_to(name, (2, 1), RolloutPhase::Baking).await;
    assert_eq!(fleet.having(2), ["a", "b"]);
    refused(fleet.rollouts.jump_rollout(jump(name, 3, true)).await, "it has waves 1 to 2");
    assert_eq!(fields(&fleet.rollouts.jump_rollout(jump(name, 0, false)).await.expect_err("none")), ["wave"]);
    let silent = v1::RolloutVerbRequest { reason: String::new(), ..jump(name, 2, true) };
    assert_eq!(fields(&fleet.rollouts.jump_rollout(silent).await.expect_err("no reason")), ["force"]);
    fleet.rollouts.jump_rollout(jump(name, 1, false)).await.expect("backwards always");
    fleet.comes_to(name, (1, 1), RolloutPhase::Baking).await;
    fleet.node("b").has("what it had", |layers| layers.len() == 1 && layers[0].revision == 1).await;
    fleet.rollouts.pause_rollout(verb(name)).await.expect("paused");
    refused(fleet.rollouts.jump_rollout(jump(name, 2, false)).await, "force it with a reason");
    fleet.rollouts.jump_rollout(jump(name, 2, true)).await.expect("forced, while paused");
    fleet.comes_to(name, (2, 1), RolloutPhase::Baking).await;
    fleet.pass(name, 60).await;
    fleet.reaches(name, RolloutState::Completed).await;
    for answer in [
        fleet.rollouts.pause_rollout(verb(name)).await,
        fleet.rollouts.promote_rollout(verb(name)).await,
        fleet.rollouts.start_rollout(verb(name)).await,
    ] {
        refused(answer, "it is completed; it can be rolled back");
    }
    // Every change of it has its row, with who and why.
    let all = fleet.transitions(name).await;
    assert!(all.iter().all(|at| !at.reason.is_empty() && !at.actor.is_empty() && at.time.is_some()), "{all:?}");
    let mut state = RolloutState::Draft;
    for at in &all {
        assert_eq!(at.from_state(), state, "none is missing: {all:?}");
        state = at.to_state();
    }
    assert_eq!(state, RolloutState::Completed);
    let asked = all.iter().filter(|at| at.reason.ends_with(": by a test")).count();
    assert!(asked >= 6, "{all:?}");
}

#[tokio::test]
async fn what_is_completed_is_rolled_back_while_it_stands() {
    let mut fleet = Fleet::new(&["a"]).await;
    let quick = || plan("mine", vec![wave(None, &[])]);
    let second = fleet.begin(quick()).await.name;
    fleet.reaches(&second, RolloutState::Completed).await;
    let third = fleet.begin(slow("slow")).await.name;
    fleet.comes_to(&third, (1, 1), RolloutPhase::Baking).await;
    refused(fleet.rollouts.roll_back_rollout(verb(&second)).await, "rollouts/p-3 is on its way");
    fleet.rollouts.roll_back_rollout(verb(&third)).await.expect("back");
    fleet.reaches(&third, RolloutState::RolledBack).await;
    fleet.rollouts.roll_back_rollout(verb(&third)).await.expect("its effect is there");
    refused(fleet.rollouts.resume_rollout(verb(&third)).await, "it is rolled back; begin another");

    fleet.rollouts.roll_back_rollout(verb(&second)).await.expect("it stands");
    fleet.node("a").has("revision 1", |layers| layers.len() == 1 && layers[0].revision == 1).await;
    let ended = fleet.reaches(&second, RolloutState::RolledBack).await;
    assert!(ended.end_time.is_some());

    let fourth = fleet.begin(quick()).await.name;
    fleet.reaches(&fourth, RolloutState::Completed).await;
    let fifth = fleet.begin(quick()).await.name;
    fleet.reaches(&fifth, RolloutState::Completed).await;
    refused(fleet.rollouts.roll_back_rollout(verb(&fourth)).await, "everyone has another revision by now");
}

#[tokio::test]
async fn without_a_confirmation_in_time_it_goes_back() {
    let mut fleet = Fleet::new(&["a"]).await;
    let within = || v1::RolloutOptions { confirm_within: Some(duration(600)), ..Default::default() };
    let begun = fleet.begin_with(plan("mine", vec![wave(None, &[])]), within()).await;
    fleet.node("a").has("revision 2", |layers| layers.iter().any(|layer| layer.revision == 2)).await;
    let waits = fleet.comes_to(&begun.name, (1, 1), RolloutPhase::Judging).await;
    assert_eq!(waits.reason, "it waits to be confirmed");
    assert!(waits.confirm_deadline_time.is_some() && waits.confirm_deadline_time == waits.deadline_time, "{waits:?}");
    fleet.pass(&begun.name, 601).await;
    fleet.reaches(&begun.name, RolloutState::RolledBack).await;
    fleet.node("a").has("revision 1", |layers| layers.len() == 1 && layers[0].revision == 1).await;
    let why = fleet.transitions(&begun.name).await;
    assert!(why.iter().any(|at| at.reason == "nobody confirmed it in time"), "{why:?}");

    let begun = fleet.begin_with(plan("mine", vec![wave(None, &[])]), within()).await;
    fleet.comes_to(&begun.name, (1, 1), RolloutPhase::Judging).await;
    fleet.rollouts.confirm_rollout(verb(&begun.name)).await.expect("confirmed");
    fleet.reaches(&begun.name, RolloutState::Completed).await;
    refused(fleet.rollouts.confirm_rollout(verb(&begun.name)).await, "it is completed");
}

#[tokio::test]
async fn a_newer_revision_takes_its_place() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let second = fleet.begin(slow("mine")).await.name;
    fleet.comes_to(&second, (1, 1), RolloutPhase::Baking).await;
    let third = fleet.begin(slow("mine")).await;
    let ended = fleet.get(&second).await;
    assert_eq!((ended.state(), ended.reason.as_str()), (RolloutState::Superseded, "rollouts/p-3 took its place"));
    assert_eq!(third.good_revision, 1, "what everyone has, not what was tried");
    fleet.node("a").has_share(3, 100).await;
    refused(fleet.rollouts.resume_rollout(verb(&second)).await, "it is superseded; begin another");

    // Past the rollout, by hand.
    let assign = v1::AssignRevisionRequest {
        name: POLICY.to_owned(),
        revision: 2,
        target: everyone(),
        reason: "now".to_owned(),
        ..v1::AssignRevisionRequest::default()
    };
    let tried = v1::AssignRevisionRequest { validate_only: true, ..assign.clone() };
    fleet.world.assignments.assign_revision(tried).await.expect("possible");
    assert_eq!(fleet.get(&third.name).await.state(), RolloutState::Running, "it was only tried");
    fleet.world.assignments.assign_revision(assign).await.expect("assigned");
    let ended = fleet.get(&third.name).await;
    assert_eq!((ended.state(), ended.reason.as_str()), (RolloutState::Superseded, "somebody decided past the rollout"));
    fleet.node("a").has("revision 2", |layers| layers.len() == 1 && layers[0].revision == 2).await;

    let fourth = fleet.begin(slow("mine")).await.name;
    fleet.comes_to(&fourth, (1, 1), RolloutPhase::Baking).await;
    let back = v1::RollbackRevisionRequest { name: POLICY.to_owned(), ..v1::RollbackRevisionRequest::default() };
    fleet.world.assignments.rollback_revision(back).await.expect("rolled back");
    assert_eq!(fleet.get(&fourth).await.state(), RolloutState::Superseded);
    fleet.node("a").has("revision 2", |layers| layers.len() == 1 && layers[0].revision == 2).await;

    // What was tried does not stay beside an A/A of what follows.
    let fifth = fleet.begin(slow("mine")).await.name;
    fleet.comes_to(&fifth, (1, 1), RolloutPhase::Baking).await;
    let gates = vec![gate("resets")];
    let sixth = fleet.begin(v1::RolloutPlan { aa_first: true, gates, ..slow("aa") }).await;
    assert_eq!(sixth.wave, 0);
    fleet.node("a").has("what everyone has", |layers| layers.len() == 1 && layers[0].revision == 2).await;
}

#[tokio::test]
async fn the_same_request_is_answered_once() {
    let mut fleet = Fleet::new(&["a"]).await;
    let begun = fleet.begin(slow("mine")).await.name;
    let request_id = "0b1c2d3e-0000-4000-8000-000000000001".to_owned();
    let pause = v1::RolloutVerbRequest { request_id, ..verb(&begun) };
    let first = fleet.rollouts.pause_rollout(pause.clone()).await.expect("paused").into_inner();
    fleet.rollouts.resume_rollout(verb(&begun)).await.expect("resumed");
    let (audit, rows) = (fleet.world.audit().await.len(), fleet.transitions(&begun).await.len());
    let again = fleet.rollouts.pause_rollout(pause.clone()).await.expect("answered").into_inner();
    assert_eq!((again.state(), again.etag), (RolloutState::Paused, first.etag));
    assert_eq!(fleet.world.audit().await.len(), audit);
    assert!(fleet.transitions(&begun).await.iter().skip(rows).all(|at| at.to_state() != RolloutState::Paused));
    assert_ne!(fleet.get(&begun).await.state(), RolloutState::Paused);
    let other = fleet.rollouts.resume_rollout(pause).await.expect_err("another request");
    assert_eq!(other.code(), Code::InvalidArgument);
}

/// Whom each wave would have, and what would change for them.
#[tokio::test]
async fn a_preview_changes_nothing() {
    let mut fleet = Fleet::new(&["a", "b", "c"]).await;
    fleet.world.update("p", 2_000, crate::world::nobody()).await;
    let named = fleet.store_plan(slow("mine")).await;
    let before = (fleet.world.audit().await.len(), fleet.world.status(POLICY).await);
    let create = v1::CreateRolloutRequest { policy: POLICY.to_owned(), plan: named, ..Default::default() };
    let tried = v1::CreateRolloutRequest { validate_only: true, ..create.clone() };
    let said = fleet.rollouts.create_rollout(tried).await.expect("possible").into_inner();
    let preview = said.preview.expect("a preview");
    let waves: Vec<_> = preview.waves.iter().map(|wave| (wave.wave, wave.nodes.clone(), wave.node_count)).collect();
    let names = |ids: &[&str]| ids.iter().map(|id| format!("nodes/{id}")).collect::<Vec<_>>();
    assert_eq!(waves, [(1, names(&["a"]), 1), (2, names(&["b", "c"]), 2)]);
    assert_eq!(preview.differences, ["rule all: syn_rto_ms from 1000 to 2000"]);
    assert_eq!((fleet.world.audit().await.len(), fleet.world.status(POLICY).await), before);
    let none = v1::GetRolloutRequest { name: "rollouts/p-2".to_owned() };
    assert_eq!(fleet.rollouts.get_rollout(none).await.expect_err("none").code(), Code::NotFound);
    assert_eq!(fleet.having(2).len(), 0);
    let stale = v1::CreateRolloutRequest { etag: "other".to_owned(), ..create.clone() };
    assert_eq!(fleet.rollouts.create_rollout(stale).await.expect_err("stale").code(), Code::Aborted);
    let made = fleet.rollouts.create_rollout(create.clone()).await.expect("made").into_inner();
    assert_eq!((made.state(), made.preview), (RolloutState::Running, None));
    let again = fleet.rollouts.create_rollout(create.clone()).await.expect("it is on its way").into_inner();
    assert_eq!(again.name, made.name);
    let first = v1::CreateRolloutRequest { revision: 1, ..create };
    let first = fleet.rollouts.create_rollout(first).await.expect("back to the first: the newer one is superseded");
    assert_eq!(first.into_inner().name, "rollouts/p-1-2", "it was rolled out when the policy was made");
}

/// One verb for many: each answers for itself.
#[tokio::test]
async fn a_verb_for_many_names_who_refuses() {
    let mut fleet = Fleet::new(&["a"]).await;
    for id in ["q", "r"] {
        fleet.world.create(id).await;
    }
    let named = fleet.store_plan(slow("mine")).await;
    for (id, draft) in [("p", false), ("q", false), ("r", true)] {
        fleet.world.update(id, 2_000, crate::world::nobody()).await;
        let request = v1::CreateRolloutRequest {
            policy: format!("policies/{id}"),
            plan: named.clone(),
            draft,
            break_glass: true,
            reason: "at once".to_owned(),
            ..Default::default()
        };
        fleet.rollouts.create_rollout(request).await.expect("made");
    }
    let batch = |verb: v1::RolloutVerb| v1::BatchRolloutVerbRequest { verb: verb.into(), ..Default::default() };
    let said = |answer: v1::BatchRolloutVerbResponse| -> Vec<(String, bool)> {
        answer
            .results
            .into_iter()
            .map(|result| (result.name.replace("rollouts/", ""), result.refusal.is_empty()))
            .collect()
    };
    let expected = [("p-2", true), ("q-2", true), ("r-2", false)].map(|(name, done)| (name.to_owned(), done));
    let tried = v1::BatchRolloutVerbRequest { validate_only: true, ..batch(v1::RolloutVerb::Pause) };
    let answer = fleet.rollouts.batch_rollout_verb(tried).await.expect("possible").into_inner();
    assert_eq!(said(answer), expected);
    assert_eq!(fleet.get("rollouts/p-2").await.state(), RolloutState::Running, "it was only tried");
    let answer = fleet.rollouts.batch_rollout_verb(batch(v1::RolloutVerb::Pause)).await.expect("done").into_inner();
    assert!(answer.results[2].refusal.contains("it is a draft"), "{answer:?}");
    assert_eq!(said(answer), expected);
    assert_eq!(fleet.get("rollouts/q-2").await.state(), RolloutState::Paused);

    let one = v1::BatchRolloutVerbRequest {
        policies: vec!["policies/q".to_owned()],
        states: vec![RolloutState::Paused.into()],
        ..batch(v1::RolloutVerb::Resume)
    };
    let answer = fleet.rollouts.batch_rollout_verb(one).await.expect("done").into_inner();
    assert_eq!(said(answer), [("q-2".to_owned(), true)]);
    // A refused start is not in the log as if it had been one.
    let start = batch(v1::RolloutVerb::Start);
    let answer = fleet.rollouts.batch_rollout_verb(start).await.expect("done").into_inner();
    assert!(answer.results[2].refusal.contains("syn_rto_ms"), "{answer:?}");
    let methods: Vec<_> = fleet.world.audit().await.into_iter().map(|entry| entry.method).collect();
    assert!(!methods.contains(&"StartRollout".to_owned()), "{methods:?}");
    let wrong = v1::BatchRolloutVerbRequest { force: true, policies: vec!["x".to_owned()], ..Default::default() };
    let wrong = fields(&fleet.rollouts.batch_rollout_verb(wrong).await.expect_err("refused"));
    assert_eq!(wrong, ["force", "policies[0]", "verb"]);
}

/// What is approved is what it says, by somebody else.
#[tokio::test]
async fn somebody_else_approves_what_he_has_read() {
    let mut fleet = Fleet::new(&["a"]).await;
    let plan = v1::RolloutPlan { needs_approval: true, ..slow("mine") };
    let made = fleet.begin(plan).await;
    let name = made.name.as_str();
    assert_eq!((made.state(), made.digest.len()), (RolloutState::Draft, 32));
    assert!(made.reason.contains("somebody else must approve it"), "{}", made.reason);
    refused(fleet.rollouts.start_rollout(verb(name)).await, "approval of somebody else");
    let approve = |digest: &prost::bytes::Bytes| v1::ApproveRolloutRequest {
        name: name.to_owned(),
        digest: digest.clone(),
        ..Default::default()
    };
    refused(fleet.rollouts.approve_rollout(approve(&made.digest)).await, "by the same person");
    let other = prost::bytes::Bytes::from_static(b"something else");
    let wrong = fleet.rollouts.approve_rollout(by("eve", approve(&other))).await.expect_err("not that");
    assert_eq!(wrong.code(), Code::Aborted);
    let none = fleet.rollouts.approve_rollout(by("eve", approve(&prost::bytes::Bytes::new()))).await;
    assert_eq!(fields(&none.expect_err("nothing")), ["digest"]);
    let approved = fleet.rollouts.approve_rollout(by("eve", approve(&made.digest))).await.expect("approved");
    assert_eq!(approved.into_inner().approver, "eve");
    fleet.rollouts.start_rollout(verb(name)).await.expect("started");
    fleet.comes_to(name, (1, 1), RolloutPhase::Baking).await;
    refused(fleet.rollouts.approve_rollout(by("eve", approve(&made.digest))).await, "only a draft is approved");

    // A changed plan has another digest, and breaking the glass needs nobody.
    let plan = v1::RolloutPlan { needs_approval: true, description: "other".to_owned(), ..slow("mine") };
    let made = fleet.begin(plan).await;
    assert_ne!(made.digest, approved_digest(&fleet, name).await);
    let glass = v1::RolloutVerbRequest { break_glass: true, ..verb(&made.name) };
    let silent = v1::RolloutVerbRequest { reason: String::new(), ..glass.clone() };
    assert_eq!(fields(&fleet.rollouts.start_rollout(silent).await.expect_err("no reason")), ["break_glass"]);
    fleet.rollouts.start_rollout(glass).await.expect("started");
}

async fn approved_digest(fleet: &Fleet, name: &str) -> prost::bytes::Bytes {
    fleet.get(name).await.digest
}
