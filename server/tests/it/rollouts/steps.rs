//! What nodes get in each step, and what makes it go on.

use tonic::Code;

use super::*;

/// Nobody named a plan: the default one gives it to everyone, and completes when all have confirmed it.
#[tokio::test]
async fn without_a_target_it_is_rolled_out_by_the_default_plan() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    fleet.node("b").now(Manners::Silent);
    let request = v1::UpdatePolicyRequest { policy: Some(policy("p", 2_000)), ..v1::UpdatePolicyRequest::default() };
    let stored = fleet.world.policies.update_policy(request.clone()).await.expect("stored").into_inner();
    let name = stored.notes.expect("notes").rollout;
    assert_eq!(name, "rollouts/p-2");
    let begun = fleet.get(&name).await;
    assert_eq!((begun.plan.expect("one").name.as_str(), begun.good_revision), ("rolloutPlans/one-node", 1));
    fleet.node("a").has("revision 2", |layers| layers[0].revision == 2).await;
    let done = fleet.reaches(&name, RolloutState::Completed).await;
    assert!(done.end_time.is_some() && done.deadline_time.is_none(), "{done:?}");
    // The same again has nothing to roll out.
    let again = fleet.world.policies.update_policy(request).await.expect("stored").into_inner();
    assert_eq!((again.revision, again.notes.map(|notes| notes.rollout)), (2, Some(String::new())));

    let mine = plan("mine", vec![wave(of_nodes(&["a"]), &[]), wave(None, &[])]);
    let default_plan = fleet.store_plan(mine).await;
    fleet.settings(v1::RolloutSettings { default_plan: default_plan.clone(), ..Default::default() }).await;
    let request = v1::UpdatePolicyRequest { policy: Some(policy("p", 3_000)), ..v1::UpdatePolicyRequest::default() };
    let stored = fleet.world.policies.update_policy(request).await.expect("stored").into_inner();
    let begun = fleet.get(&stored.notes.expect("notes").rollout).await;
    assert_eq!(begun.plan.expect("one").name, default_plan, "the fleet's own default");
}

/// Two waves, the first with a share of connections: who has what, in each step.
#[tokio::test]
async fn each_step_gives_nodes_their_share() {
    let mut fleet = Fleet::new(&["a", "b", "c"]).await;
    let first = baking(10, wave(of_nodes(&["a"]), &[1_000]));
    let plan = plan("mine", vec![first, baking(10, wave(None, &[2_000]))]);
    let plan = v1::RolloutPlan { gates: vec![], breaker_ppm: 77, horizon_s: 7, ..plan };
    let begun = fleet.begin(plan).await;
    let name = begun.name.clone();

    let layer = fleet.node("a").has_share(2, 1_000).await;
    let terms = layer.rollout.clone().expect("terms");
    assert_eq!((terms.name.as_str(), terms.revision, terms.unchanged), (name.as_str(), 2, false));
    assert_eq!((terms.breaker_ppm, terms.horizon_s, layer.lease_ms > 0), (77, 7, true));
    let beside: Vec<_> = fleet.node("a").layers().into_iter().map(|layer| (layer.revision, layer.standby)).collect();
    assert!(beside.contains(&(1, true)), "what everyone has stands by: {beside:?}");
    assert_eq!(fleet.having(2), ["a"]);
    let seen = fleet.comes_to(&name, (1, 1), RolloutPhase::Baking).await;
    assert_eq!((seen.flow_share_bp, seen.waves[0].nodes, seen.waves[0].in_force), (1_000, 1, 1));
    assert!(seen.reason.contains("of 10 s"), "{}", seen.reason);
    fleet.pass(&name, 10).await;

    fleet.node("a").has_share(2, 0).await;
    let now = fleet.comes_to(&name, (1, 2), RolloutPhase::Baking).await;
    assert_eq!((now.flow_share_bp, fleet.having(2)), (10_000, vec!["a"]));
    fleet.pass(&name, 10).await;

    for id in ["b", "c"] {
        let other = fleet.node(id).has_share(2, 2_000).await.rollout.expect("terms");
        assert_eq!(other.salt, terms.salt);
    }
    fleet.node("a").has_share(2, 0).await;
    fleet.comes_to(&name, (2, 1), RolloutPhase::Baking).await;
    fleet.pass(&name, 10).await;
    fleet.comes_to(&name, (2, 2), RolloutPhase::Baking).await;
    let seen = fleet.get(&name).await;
    let counts: Vec<_> = seen.waves.iter().map(|wave| (wave.wave, wave.nodes, wave.in_force)).collect();
    assert_eq!(counts, [(1, 1, 1), (2, 2, 2)]);
    fleet.pass(&name, 10).await;
    fleet.reaches(&name, RolloutState::Completed).await;
    for node in &fleet.nodes {
        let layers = node.has("only it", |layers| layers.len() == 1 && layers[0].lease_ms == 0).await;
        assert_eq!((layers[0].revision, &layers[0].rollout), (2, &None));
    }
    let places: Vec<_> = fleet.transitions(&name).await.iter().map(|at| (at.wave, at.step, at.phase())).collect();
    let mut steps = places.clone();
    steps.dedup_by_key(|at| (at.0, at.1));
    assert_eq!(steps.iter().map(|at| (at.0, at.1)).collect::<Vec<_>>(), [(1, 1), (1, 2), (2, 1), (2, 2)]);
}

/// What a node has confirmed before says nothing of the step.
#[tokio::test]
async fn only_a_confirmation_of_the_step_itself_counts() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let begun = fleet.begin(plan("mine", vec![wave(of_nodes(&["a"]), &[100, 200]), wave(None, &[])])).await;
    // Without bake time it goes as fast as nodes confirm.
    fleet.reaches(&begun.name, RolloutState::Completed).await;

    fleet.node("a").now(Manners::Silent);
    let begun = fleet.begin(plan("mine", vec![baking(10, wave(of_nodes(&["a"]), &[100, 200])), wave(None, &[])])).await;
    fleet.node("a").has_share(3, 100).await;
    let seen = fleet.comes_to(&begun.name, (1, 1), RolloutPhase::Converging).await;
    assert_eq!((seen.waves[0].pending, seen.waves[0].in_force), (1, 0));
    assert!(seen.reason.contains("1 has not answered"), "{}", seen.reason);
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    assert_eq!(fleet.get(&begun.name).await.phase(), RolloutPhase::Converging, "nobody has confirmed it");
    fleet.node("a").now(Manners::Confirms);
    fleet.comes_to(&begun.name, (1, 1), RolloutPhase::Baking).await;
    fleet.node("a").now(Manners::Silent);
    fleet.pass(&begun.name, 10).await;
    fleet.node("a").has_share(3, 200).await;
    let seen = fleet.comes_to(&begun.name, (1, 2), RolloutPhase::Converging).await;
    assert_eq!(seen.waves[0].pending, 1, "it has the revision in force, for another share");
    // The deadline of the step: it is paused, and says why.
    fleet.pass(&begun.name, 3_700).await;
    let paused = fleet.reaches(&begun.name, RolloutState::Paused).await;
    assert!(paused.reason.contains("not decided in time"), "{}", paused.reason);
    // Nobody decides.
    fleet.pass(&begun.name, 8 * 86_400).await;
    fleet.node("a").now(Manners::Confirms);
    let ended = fleet.reaches(&begun.name, RolloutState::RolledBack).await;
    assert_eq!(ended.good_revision, 2);
    fleet.node("a").has("what it had", |layers| layers.len() == 1 && layers[0].revision == 2).await;
    let words: Vec<_> = fleet.transitions(&begun.name).await.into_iter().map(|at| at.reason).collect();
    assert!(words.iter().any(|why| why.contains("nobody decided in time")), "{words:?}");
}

#[tokio::test]
async fn refusals_beyond_what_the_plan_allows_roll_it_back() {
    let mut fleet = Fleet::new(&["a", "b", "c"]).await;
    fleet.node("b").now(Manners::HoldsBack);
    let allowed = v1::RolloutWave { max_refused_bp: 5_000, ..wave(of_nodes(&["a", "b"]), &[]) };
    let begun = fleet.begin(plan("mine", vec![baking(10, allowed), baking(10, wave(None, &[]))])).await;
    let seen = fleet.comes_to(&begun.name, (1, 1), RolloutPhase::Baking).await;
    assert_eq!((seen.waves[0].refused, seen.waves[0].in_force), (1, 1), "one of two is allowed");
    fleet.pass(&begun.name, 10).await;
    let ended = fleet.reaches(&begun.name, RolloutState::RolledBack).await;
    assert_eq!((ended.wave, fleet.having(2).len()), (2, 0), "one of three is not");
    let back = fleet.transitions(&begun.name).await;
    let back = back.iter().find(|at| at.to_state() == RolloutState::RollingBack).expect("it went back");
    assert!(back.reason.contains("1 of 3 nodes refuses it") && back.reason.contains("congestion"), "{}", back.reason);
    assert_eq!(back.actor, "controllers/rollouts");

    fleet.node("b").now(Manners::Confirms);
    fleet.node("a").now(Manners::Refuses);
    let begun = fleet.begin(plan("mine", vec![baking(10, wave(of_nodes(&["a"]), &[100])), wave(None, &[])])).await;
    fleet.until("it goes back", &begun.name, |rollout| rollout.state() != RolloutState::Running).await;
    fleet.node("a").now(Manners::Confirms);
    fleet.reaches(&begun.name, RolloutState::RolledBack).await;
    assert_eq!(fleet.world.status(POLICY).await.assignments.len(), 1);
}

/// The kernel of one node has ended the canary by itself.
#[tokio::test]
async fn a_breaker_that_trips_rolls_it_back() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let begun = fleet.begin(plan("mine", vec![baking(600, wave(of_nodes(&["a"]), &[1_000])), wave(None, &[])])).await;
    fleet.comes_to(&begun.name, (1, 1), RolloutPhase::Baking).await;
    // What is paused is watched all the same.
    fleet.rollouts.pause_rollout(verb(&begun.name)).await.expect("paused");
    let trip = v1::BreakerTrip {
        layer: POLICY.to_owned(),
        revision: 2,
        rollout: begun.name.clone(),
        canary_bad_ends: 41,
        control_bad_ends: 3,
        trip_time: None,
    };
    let alive = v1::Alive { breaker_trips: vec![trip.clone()], ..v1::Alive::default() };
    fleet.node("a").tell(node_event::Event::Alive(alive)).await;
    fleet.reaches(&begun.name, RolloutState::RolledBack).await;
    let back = fleet.transitions(&begun.name).await;
    let back = back.iter().find(|at| at.to_state() == RolloutState::RollingBack).expect("it went back");
    assert!(back.reason.contains("41 bad ends") && back.reason.contains("nodes/a"), "{}", back.reason);
    assert_eq!((&back.breaker_trips, &back.trip_nodes), (&vec![trip], &vec!["nodes/a".to_owned()]));
    assert_eq!(back.from_state(), RolloutState::Paused);
    fleet.node("a").has("what it had", |layers| layers.len() == 1 && layers[0].revision == 1).await;
    let entry = fleet.world.audit().await.into_iter().find(|entry| entry.actor == "controllers/rollouts");
    let evidence: serde_json::Value = serde_json::from_str(&entry.expect("an entry").request_json).expect("JSON");
    assert_eq!(evidence["trips"], serde_json::json!(["a"]));
}

/// A node that does not go back in time is named as such; what it had is assigned to it.
#[tokio::test]
async fn a_node_that_does_not_go_back_is_a_failure() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let begun = fleet.begin(plan("mine", vec![baking(60, wave(of_nodes(&["a"]), &[])), wave(None, &[])])).await;
    fleet.comes_to(&begun.name, (1, 1), RolloutPhase::Baking).await;
    fleet.node("a").now(Manners::Silent);
    fleet.rollouts.roll_back_rollout(verb(&begun.name)).await.expect("it goes back");
    let seen = fleet.get(&begun.name).await;
    assert_eq!((seen.state(), seen.reason.as_str()), (RolloutState::RollingBack, "1 node has not confirmed it"));
    fleet.pass(&begun.name, 700).await;
    let failed = fleet.reaches(&begun.name, RolloutState::RollbackFailed).await;
    assert!(failed.reason.contains("Look at this node") && failed.end_time.is_some(), "{}", failed.reason);
    // Asked again, it waits again.
    fleet.node("a").now(Manners::Confirms);
    fleet.rollouts.roll_back_rollout(verb(&begun.name)).await.expect("again");
    fleet.reaches(&begun.name, RolloutState::RolledBack).await;
}

#[tokio::test]
async fn a_policy_that_nobody_had_is_rolled_out_and_back_to_nothing() {
    let mut fleet = Fleet::new(&["a"]).await;
    let named = fleet.store_plan(plan("mine", vec![baking(10, wave(None, &[100]))])).await;
    let request = v1::CreatePolicyRequest {
        policy: Some(policy("q", 1_500)),
        rollout: Some(v1::RolloutOptions { plan: named, ..Default::default() }),
        ..v1::CreatePolicyRequest::default()
    };
    let made = fleet.world.policies.create_policy(request).await.expect("made").into_inner();
    let name = made.notes.expect("notes").rollout;
    let of_q = |layers: &[v1::Layer]| layers.iter().filter(|layer| layer.name == "policies/q").count();
    fleet.node("a").has("it", |layers| of_q(layers) == 1).await;
    fleet.comes_to(&name, (1, 1), RolloutPhase::Baking).await;
    fleet.rollouts.roll_back_rollout(verb(&name)).await.expect("it goes back");
    fleet.reaches(&name, RolloutState::RolledBack).await;
    fleet.node("a").has("nothing of it", |layers| of_q(layers) == 0).await;
    let unknown = v1::CreateRolloutRequest { policy: "policies/none".to_owned(), ..Default::default() };
    assert_eq!(fleet.rollouts.create_rollout(unknown).await.expect_err("none").code(), Code::NotFound);
}
