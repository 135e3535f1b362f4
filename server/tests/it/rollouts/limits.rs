//! What keeps a rollout from starting, each in words of its own, and the glass that can be broken.

use super::*;
use crate::world::now_s;

fn in_zone(id: &str, rack: Option<&str>) -> v1::Hello {
    let labels = rack.map(|rack| ("rack".to_owned(), rack.to_owned()));
    v1::Hello { labels: labels.into_iter().collect(), ..hello(id) }
}

fn glass() -> v1::RolloutOptions {
    v1::RolloutOptions { break_glass: true, ..v1::RolloutOptions::default() }
}

fn now() -> v1::FreezeWindow {
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    v1::FreezeWindow {
        description: "the great sale".to_owned(),
        start_time: at(now_s() - 60),
        end_time: at(now_s() + 3_600),
        ..v1::FreezeWindow::default()
    }
}

async fn begins(fleet: &mut Fleet, plan: v1::RolloutPlan) -> Result<Response<String>, Status> {
    fleet.try_begin(plan, v1::RolloutOptions::default()).await.map(Response::new)
}

#[tokio::test]
async fn nothing_begins_in_a_freeze_but_with_broken_glass() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let two = || plan("mine", vec![baking(60, wave(of_nodes(&["a"]), &[])), baking(60, wave(None, &[]))]);
    let begun = fleet.begin(two()).await.name;
    fleet.comes_to(&begun, (1, 1), RolloutPhase::Baking).await;
    let frozen = v1::RolloutSettings { freeze_windows: vec![now()], ..Default::default() };
    fleet.settings(frozen).await;
    fleet.pass(&begun, 60).await;
    let held = fleet.comes_to(&begun, (2, 1), RolloutPhase::Applying).await;
    assert_eq!(held.reason, "nothing may begin now: the great sale");
    assert_eq!(fleet.having(2), ["a"], "what runs holds where it is");
    refused(fleet.rollouts.promote_rollout(verb(&begun)).await, "the step has not begun");
    // The step that is held is begun past the freeze.
    let start = v1::RolloutVerbRequest { break_glass: true, ..verb(&begun) };
    fleet.rollouts.start_rollout(start.clone()).await.expect("begun");
    fleet.comes_to(&begun, (2, 1), RolloutPhase::Baking).await;
    let entries = async |fleet: &mut Fleet| {
        fleet.world.audit().await.into_iter().filter(|entry| entry.method == "StartRollout").count()
    };
    assert_eq!(entries(&mut fleet).await, 1);
    fleet.rollouts.start_rollout(start).await.expect("it is begun");
    assert_eq!(entries(&mut fleet).await, 1, "nothing was done");
    fleet.pass(&begun, 60).await;
    fleet.reaches(&begun, RolloutState::Completed).await;

    refused(begins(&mut fleet, two()).await, "the great sale");
    assert_eq!(fleet.world.status(POLICY).await.assignments[0].revision, 2, "nothing is stored that was refused");
    let name = fleet.try_begin(two(), glass()).await.expect("with a reason");
    fleet.comes_to(&name, (1, 1), RolloutPhase::Baking).await;
    // Going back is never frozen.
    fleet.rollouts.roll_back_rollout(verb(&name)).await.expect("back");
    fleet.reaches(&name, RolloutState::RolledBack).await;
    fleet.settings(v1::RolloutSettings::default()).await;
    fleet.begin(two()).await;
}

/// Two rollouts that change the same parameter could not be told apart.
#[tokio::test]
async fn rollouts_of_the_same_parameter_lock_each_other_out() {
    let mut fleet = Fleet::new(&["a"]).await;
    fleet.world.create("q").await;
    let slow = || plan("mine", vec![baking(60, wave(of_nodes(&["a"]), &[])), wave(None, &[])]);
    let first = fleet.begin(slow()).await.name;
    fleet.world.update("q", 2_000, crate::world::nobody()).await;
    let of_q = |draft| v1::CreateRolloutRequest {
        policy: "policies/q".to_owned(),
        plan: "rolloutPlans/mine".to_owned(),
        draft,
        ..Default::default()
    };
    let why = refused(fleet.rollouts.create_rollout(of_q(false)).await, "rollouts/p-2 changes syn_rto_ms");
    assert!(why.message().contains("break the glass") || format!("{why:?}").contains("break the glass"));
    let waits = fleet.rollouts.create_rollout(of_q(true)).await.expect("a draft").into_inner();
    refused(fleet.rollouts.start_rollout(verb(&waits.name)).await, "rollouts/p-2 changes syn_rto_ms");

    // Another parameter is nobody's business.
    let set = v1::Parameters { nodelay: Some(true), syn_rto_ms: Some(1_000), ..Default::default() };
    let rule = v1::Rule { name: "all".to_owned(), set: Some(set), ..v1::Rule::default() };
    let r = v1::Policy { name: "policies/r".to_owned(), rules: vec![rule], ..v1::Policy::default() };
    let request = v1::CreatePolicyRequest {
        policy: Some(v1::Policy { node_labels: [("zone".to_owned(), "b".to_owned())].into(), ..r }),
        rollout: Some(v1::RolloutOptions { plan: "rolloutPlans/mine".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    fleet.world.policies.create_policy(request).await.expect("on other nodes");
    fleet.rollouts.roll_back_rollout(verb(&first)).await.expect("back");
    fleet.reaches(&first, RolloutState::RolledBack).await;
    fleet.rollouts.start_rollout(verb(&waits.name)).await.expect("now it may");
}

#[tokio::test]
async fn few_nodes_may_have_what_is_not_through() {
    let mut fleet = Fleet::new(&["a", "b", "c", "d"]).await;
    fleet.settings(v1::RolloutSettings { max_nodes_bp: 2_500, ..Default::default() }).await;
    let of = |ids: &[&str]| plan("mine", vec![baking(60, wave(of_nodes(ids), &[])), wave(None, &[])]);
    refused(begins(&mut fleet, of(&["a", "b"])).await, "with wave 1, 2 of 4 nodes");
    refused(begins(&mut fleet, plan("at-once", vec![wave(None, &[])])).await, "with wave 1, 4 of 4 nodes");
    let begun = fleet.begin(of(&["a"])).await.name;
    fleet.comes_to(&begun, (1, 1), RolloutPhase::Baking).await;
    fleet.pass(&begun, 60).await;
    fleet.reaches(&begun, RolloutState::Completed).await;
    let name = fleet.try_begin(of(&["a", "b"]), glass()).await.expect("with a reason");
    fleet.comes_to(&name, (1, 1), RolloutPhase::Baking).await;
    // Those of other rollouts count.
    fleet.world.policies.create_policy(other_policy()).await.expect_err("two of four have another one");
}

fn other_policy() -> v1::CreatePolicyRequest {
    let set = v1::Parameters { nodelay: Some(true), ..Default::default() };
    let rule = v1::Rule { name: "all".to_owned(), set: Some(set), ..v1::Rule::default() };
    v1::CreatePolicyRequest {
        policy: Some(v1::Policy { name: "policies/q".to_owned(), rules: vec![rule], ..v1::Policy::default() }),
        rollout: Some(v1::RolloutOptions { plan: "rolloutPlans/mine".to_owned(), ..Default::default() }),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_wave_has_few_of_a_failure_domain() {
    let mut fleet = Fleet::new(&[]).await;
    for (id, rack) in [("a", Some("1")), ("b", Some("1")), ("c", Some("2")), ("d", Some("2")), ("e", None)] {
        fleet.join(in_zone(id, rack)).await;
    }
    let settings = v1::RolloutSettings {
        failure_domain_label: "rack".to_owned(),
        max_failure_domain_bp: 5_000,
        ..Default::default()
    };
    fleet.settings(settings).await;
    let of = |ids: &[&str]| plan("mine", vec![baking(60, wave(of_nodes(ids), &[])), wave(None, &[])]);
    let why = "wave 1 would have 2 of the 2 nodes with rack=1, and 50% of one may be in it";
    refused(begins(&mut fleet, of(&["a", "b", "e"])).await, why);
    let begun = fleet.begin(of(&["a", "c", "e"])).await;
    fleet.comes_to(&begun.name, (1, 1), RolloutPhase::Baking).await;
}
