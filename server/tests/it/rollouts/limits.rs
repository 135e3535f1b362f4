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
    let broken = fleet.comes_to(&begun, (2, 1), RolloutPhase::Baking).await.broken_glass.expect("it is remembered");
    assert_eq!((broken.actor.as_str(), broken.reason.as_str()), ("unknown", "by a test"));
    let entries = async |fleet: &mut Fleet| {
        fleet.world.audit().await.into_iter().filter(|entry| entry.method == "StartRollout").count()
    };
    assert_eq!(entries(&mut fleet).await, 1);
    fleet.rollouts.start_rollout(start).await.expect("it is begun");
    assert_eq!(entries(&mut fleet).await, 1, "nothing was done");
    let told = fleet.transitions(&begun).await;
    let told: Vec<_> = told.iter().filter(|at| at.reason.contains("past freeze windows")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].reason, "it goes past freeze windows, locks and limits: by a test");
    fleet.pass(&begun, 60).await;
    fleet.reaches(&begun, RolloutState::Completed).await;

    refused(begins(&mut fleet, two()).await, "the great sale");
    assert_eq!(fleet.world.status(POLICY).await.assignments[0].revision, 2, "nothing is stored that was refused");
    let name = fleet.try_begin(two(), glass()).await.expect("with a reason");
    let broken = fleet.comes_to(&name, (1, 1), RolloutPhase::Baking).await.broken_glass.expect("it is remembered");
    assert_eq!(broken.reason, "by a test");
    let told = fleet.transitions(&name).await;
    let why = "it was started, past freeze windows, locks and limits: by a test";
    assert!(told.iter().any(|at| at.reason == why), "{told:?}");
    // What was answered for once holds for all steps.
    fleet.pass(&name, 60).await;
    fleet.comes_to(&name, (2, 1), RolloutPhase::Baking).await;
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

/// Nodes that another rollout's policy is not for do not have it.
#[tokio::test]
async fn only_nodes_of_its_policy_have_what_another_rollout_gives() {
    let mut fleet = Fleet::new(&[]).await;
    for (id, rack) in [("a", "1"), ("b", "2"), ("c", "2"), ("d", "2")] {
        fleet.join(in_zone(id, Some(rack))).await;
    }
    fleet.settings(v1::RolloutSettings { max_nodes_bp: 5_000, ..Default::default() }).await;
    // Its waves are all nodes, of which its policy is for one.
    let wide = plan("wide", vec![baking(60, wave(None, &[100]))]);
    let named = fleet.store_plan(wide).await;
    let mut other = other_policy();
    let policy = other.policy.as_mut().expect("a policy");
    policy.node_labels = [("rack".to_owned(), "1".to_owned())].into();
    other.rollout = Some(v1::RolloutOptions { plan: named, ..Default::default() });
    fleet.world.policies.create_policy(other).await.expect("for node a");
    let of = |ids: &[&str]| plan("mine", vec![baking(60, wave(of_nodes(ids), &[])), wave(None, &[])]);
    refused(begins(&mut fleet, of(&["b", "c"])).await, "with wave 1, 3 of 4 nodes");
    let begun = fleet.begin(of(&["b"])).await.name;
    fleet.comes_to(&begun, (1, 1), RolloutPhase::Baking).await;
}

/// Of 40 connections 10 are on node a.
async fn recorded(fleet: &Fleet) {
    for (node, connections) in [("a", 10), ("b", 30)] {
        let flows = (0..connections).map(|port| crate::simulate::flow(40_000 + port, 443, 1.0)).collect();
        crate::simulate::report(&fleet.world, node, 1, flows).await;
    }
}

#[tokio::test]
async fn few_connections_may_be_changed_before_the_last_step() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let at_most = |max_flows_bp| v1::RolloutSettings { max_flows_bp, ..Default::default() };
    let slow = || {
        let first = baking(60, wave(of_nodes(&["a"]), &[2_000]));
        plan("mine", vec![first, baking(60, wave(None, &[1_000]))])
    };
    fleet.settings(at_most(499)).await;
    // Where nothing was recorded nothing is known: it holds nothing back, and says so.
    let blind = fleet.begin(slow()).await;
    let said: Vec<_> = blind.warnings.iter().map(|warning| warning.description.as_str()).collect();
    assert!(said.iter().any(|said| said.contains("max_flows_bp) holds nothing back")), "{said:?}");
    fleet.rollouts.roll_back_rollout(verb(&blind.name)).await.expect("back");
    fleet.reaches(&blind.name, RolloutState::RolledBack).await;

    recorded(&fleet).await;
    let why =
        "step 1 of wave 1 would change 5.00% of connections, by 40 that were recorded in the last hour, and 4.99% may";
    refused(begins(&mut fleet, slow()).await, why);
    fleet.settings(at_most(2_499)).await;
    refused(begins(&mut fleet, slow()).await, "step 2 of wave 1 would change 25.00% of connections");
    fleet.settings(at_most(2_500)).await;
    refused(begins(&mut fleet, slow()).await, "step 1 of wave 2 would change 32.50% of connections");
    // A plan of a single step is no way around.
    let at_once = || plan("at-once", vec![wave(None, &[])]);
    refused(begins(&mut fleet, at_once()).await, "step 1 of wave 1 would change 100.00% of connections");
    fleet.settings(at_most(3_250)).await;
    let begun = fleet.begin(slow()).await;
    assert!(begun.warnings.iter().all(|warning| !warning.description.contains("max_flows_bp")), "{begun:?}");
    fleet.rollouts.roll_back_rollout(verb(&begun.name)).await.expect("back");
    fleet.reaches(&begun.name, RolloutState::RolledBack).await;
    let name = fleet.try_begin(at_once(), glass()).await.expect("with a reason");
    fleet.reaches(&name, RolloutState::Completed).await;
}

/// The preview says of all connections how many get something else, and nothing where the revision is everyone's.
#[tokio::test]
async fn a_preview_says_how_many_connections_change() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let named = fleet.store_plan(plan("mine", vec![baking(60, wave(None, &[100]))])).await;
    fleet.world.update("p", 2_000, crate::world::nobody()).await;
    let request =
        v1::CreateRolloutRequest { policy: POLICY.to_owned(), plan: named, validate_only: true, ..Default::default() };
    let preview = async |fleet: &mut Fleet| {
        let answer = fleet.rollouts.create_rollout(request.clone()).await.expect("an answer").into_inner();
        answer.preview.expect("a preview").flows
    };
    assert_eq!(preview(&mut fleet).await, None, "none were recorded");
    recorded(&fleet).await;
    let flows = preview(&mut fleet).await.expect("some were recorded");
    assert_eq!((flows.touched_share, flows.samples), (1.0, 40));
    assert!(flows.lower > 0.9 && flows.upper >= 1.0, "{flows:?}");
    assert_eq!(fleet.having(2), [""; 0], "asking changes nothing");
}
