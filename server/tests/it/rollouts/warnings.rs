//! What is to be known of a rollout that nothing forbids, and who is told of its changes.

use super::*;

fn said(rollout: &v1::Rollout) -> Vec<&str> {
    rollout.warnings.iter().map(|warning| warning.description.as_str()).collect()
}

#[tokio::test]
async fn nodes_that_are_away_or_cannot_honour_it_are_named() {
    let mut fleet = Fleet::new(&["a"]).await;
    // Its kernel has another congestion control than the others.
    let mut odd = hello("odd");
    odd.kernel.as_mut().expect("facts").congestion_controls = vec!["reno".to_owned()];
    fleet.join(odd).await;
    drop(fleet.world.connect(hello("away")).await.take().await);
    let of_all = fleet.store_plan(plan("mine", vec![baking(60, wave(None, &[100]))])).await;
    let set = v1::Parameters { congestion_control: Some("cubic".to_owned()), ..Default::default() };
    let rule = v1::Rule { name: "all".to_owned(), set: Some(set), ..v1::Rule::default() };
    let request = v1::CreatePolicyRequest {
        policy: Some(v1::Policy { name: "policies/q".to_owned(), rules: vec![rule], ..v1::Policy::default() }),
        rollout: Some(v1::RolloutOptions { plan: of_all, draft: true, ..Default::default() }),
        ..Default::default()
    };
    let made = fleet.world.policies.create_policy(request).await.expect("made").into_inner();
    let name = made.notes.expect("notes").rollout;
    let what = "1 of 3 nodes that it is for is not connected (away); it gets the revision when it is";
    let draft = fleet.until("it is seen to be away", &name, |rollout| said(rollout).contains(&what)).await;
    let unable = said(&draft).into_iter().find(|said| said.contains("cannot honour it")).expect("one cannot");
    assert!(unable.starts_with("1 node (odd) cannot honour it: rules[0].set.congestion_control: "), "{unable}");
    assert_eq!(said(&draft).len(), 2, "{draft:?}");
    // What would keep a draft from starting.
    fleet.settings(v1::RolloutSettings { max_nodes_bp: 100, ..Default::default() }).await;
    let draft = fleet.get(&name).await;
    assert!(said(&draft)[0].starts_with("it could not start now: with wave 1, 3 of 3 nodes"), "{draft:?}");
    let over = fleet.rollouts.roll_back_rollout(verb(&name)).await.expect("given up").into_inner();
    assert_eq!(over.warnings, [], "of what is over nothing is to be known");
}

#[tokio::test]
async fn gates_without_connections_are_said_to_wait_for_nothing() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let gated = v1::RolloutPlan {
        gates: vec![gate("srtt")],
        ..plan("mine", vec![baking(60, wave(of_nodes(&["a"]), &[100])), wave(None, &[])])
    };
    let begun = fleet.begin(gated).await;
    let expected = "no connection of the policy was measured in the last hour; without any its gates have no data, and do not pass";
    assert_eq!(said(&begun), [expected]);
}

/// Who has approved, forced or broken something stands in the rollout's own history and in the audit log, which can be asked by its name.
#[tokio::test]
async fn every_decision_can_be_looked_up_by_the_rollouts_name() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let two = v1::RolloutPlan {
        needs_approval: true,
        ..plan("mine", vec![baking(600, wave(of_nodes(&["a"]), &[100])), baking(600, wave(None, &[]))])
    };
    let made = fleet.begin(two).await;
    let name = made.name.clone();
    let approve = v1::ApproveRolloutRequest {
        name: name.clone(),
        digest: made.digest,
        reason: "read it".to_owned(),
        ..Default::default()
    };
    fleet.rollouts.approve_rollout(by("ann", approve)).await.expect("approved");
    let because = |reason: &str| v1::RolloutVerbRequest { reason: reason.to_owned(), ..verb(&name) };
    fleet.rollouts.start_rollout(by("bob", because("go"))).await.expect("started");
    fleet.comes_to(&name, (1, 1), RolloutPhase::Baking).await;
    let force = v1::RolloutVerbRequest { force: true, ..because("no time") };
    fleet.rollouts.promote_rollout(by("cid", force)).await.expect("forced");
    fleet.comes_to(&name, (1, 2), RolloutPhase::Baking).await;
    let jump = v1::RolloutVerbRequest { force: true, wave: 2, ..because("the night is short") };
    fleet.rollouts.jump_rollout(by("dan", jump)).await.expect("jumped");
    fleet.comes_to(&name, (2, 1), RolloutPhase::Baking).await;
    fleet.rollouts.roll_back_rollout(by("eve", because("it burns"))).await.expect("back");
    fleet.reaches(&name, RolloutState::RolledBack).await;

    let told = fleet.transitions(&name).await;
    for (actor, reason) in [
        ("ann", "it was approved: read it"),
        ("bob", "it was started: go"),
        ("cid", "somebody forced the step: no time"),
        ("dan", "somebody sent it to wave 2: the night is short"),
        ("eve", "somebody rolled it back: it burns"),
        ("controllers/rollouts", "every connected node has confirmed what everyone had before"),
    ] {
        assert!(told.iter().any(|at| (at.actor.as_str(), at.reason.as_str()) == (actor, reason)), "{reason}: {told:?}");
    }
    let request = v1::ListAuditEntriesRequest { name, ..Default::default() };
    let entries = fleet.world.fleet.list_audit_entries(request).await.expect("listed").into_inner().entries;
    let entries: Vec<_> =
        entries.iter().map(|entry| (entry.method.as_str(), entry.actor.as_str(), entry.reason.as_str())).collect();
    let expected = [
        ("RollBackRollout", "eve", "it burns"),
        ("JumpRollout", "dan", "the night is short"),
        ("PromoteRollout", "cid", "no time"),
        ("StartRollout", "bob", "go"),
        ("ApproveRollout", "ann", "read it"),
    ];
    assert_eq!(entries, expected);
    for name in ["rolloutPlans/mine", "rolloutSettings"] {
        let request = v1::ListAuditEntriesRequest { name: name.to_owned(), ..Default::default() };
        fleet.world.fleet.list_audit_entries(request).await.expect("these can be asked for, too");
    }
}
