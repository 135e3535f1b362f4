//! Plans and settings: kept by name, revision and etag, and refused with the field that is wrong.

use tonic::Code;

use super::*;
use crate::world::fields;

async fn listed(fleet: &mut Fleet) -> Vec<(String, u64)> {
    let (mut all, mut page_token) = (vec![], String::new());
    loop {
        let request = v1::ListRolloutPlansRequest { page_size: 2, page_token };
        let page = fleet.plans.list_rollout_plans(request).await.expect("a page").into_inner();
        all.extend(page.plans.into_iter().map(|plan| (plan.name.replace("rolloutPlans/", ""), plan.revision)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

async fn read(fleet: &mut Fleet, name: &str) -> Result<v1::RolloutPlan, Status> {
    let request = v1::GetRolloutPlanRequest { name: name.to_owned() };
    fleet.plans.get_rollout_plan(request).await.map(Response::into_inner)
}

fn update(plan: v1::RolloutPlan) -> v1::UpdateRolloutPlanRequest {
    v1::UpdateRolloutPlanRequest { plan: Some(plan), ..Default::default() }
}

#[tokio::test]
async fn plans_are_made_changed_and_deleted() {
    let mut fleet = Fleet::new(&[]).await;
    let built_in = [("careful", 1), ("one-node", 1), ("quick", 1)].map(|(name, at)| (name.to_owned(), at));
    assert_eq!(listed(&mut fleet).await, built_in);

    let mine = plan("mine", vec![wave(of_nodes(&["a"]), &[100]), wave(None, &[])]);
    let create = v1::CreateRolloutPlanRequest { plan: Some(mine.clone()), ..Default::default() };
    let tried = v1::CreateRolloutPlanRequest { validate_only: true, ..create.clone() };
    fleet.plans.create_rollout_plan(tried).await.expect("possible");
    assert_eq!(read(&mut fleet, &mine.name).await.expect_err("only tried").code(), Code::NotFound);
    let made = fleet.plans.create_rollout_plan(create.clone()).await.expect("made").into_inner();
    assert_eq!((made.revision, &made.waves), (1, &mine.waves));
    assert_eq!(fleet.plans.create_rollout_plan(create).await.expect_err("twice").code(), Code::AlreadyExists);

    let same = fleet.plans.update_rollout_plan(update(mine.clone())).await.expect("the same").into_inner();
    assert_eq!(same, made, "nothing is changed by the same");
    let words = v1::RolloutPlan { description: "ours".to_owned(), etag: made.etag.clone(), ..mine.clone() };
    let changed = fleet.plans.update_rollout_plan(update(words.clone())).await.expect("changed").into_inner();
    assert_eq!((changed.revision, changed.etag == made.etag), (2, false));
    let stale = v1::RolloutPlan { description: "theirs".to_owned(), ..words };
    assert_eq!(fleet.plans.update_rollout_plan(update(stale)).await.expect_err("stale").code(), Code::Aborted);
    let missing = plan("other", vec![wave(None, &[])]);
    assert_eq!(fleet.plans.update_rollout_plan(update(missing)).await.expect_err("none").code(), Code::NotFound);

    let delete = |etag: &str| v1::DeleteRolloutPlanRequest {
        name: mine.name.clone(),
        etag: etag.to_owned(),
        ..Default::default()
    };
    fleet.settings(v1::RolloutSettings { default_plan: mine.name.clone(), ..Default::default() }).await;
    refused(fleet.plans.delete_rollout_plan(delete("")).await, "is the fleet's default");
    fleet.settings(v1::RolloutSettings::default()).await;
    let stale = fleet.plans.delete_rollout_plan(delete(&made.etag)).await.expect_err("stale");
    assert_eq!(stale.code(), Code::Aborted);
    fleet.plans.delete_rollout_plan(delete(&changed.etag)).await.expect("deleted");
    assert_eq!(listed(&mut fleet).await, built_in);
}

#[tokio::test]
async fn what_is_there_from_the_start_is_changed_not_deleted() {
    let mut fleet = Fleet::new(&[]).await;
    let quick = read(&mut fleet, "rolloutPlans/quick").await.expect("there");
    assert!(quick.gates.len() > 2 && quick.waves.len() == 2 && !quick.etag.is_empty(), "{quick:?}");
    let delete = v1::DeleteRolloutPlanRequest { name: quick.name.clone(), ..Default::default() };
    assert_eq!(fields(&fleet.plans.delete_rollout_plan(delete).await.expect_err("refused")), ["name"]);
    let slower = v1::RolloutPlan { horizon_s: 30, ..quick };
    let changed = fleet.plans.update_rollout_plan(update(slower)).await.expect("changed").into_inner();
    assert_eq!((changed.revision, changed.horizon_s), (2, 30));
    assert_eq!(listed(&mut fleet).await.len(), 3);
}

#[tokio::test]
async fn faults_name_the_field() {
    let mut fleet = Fleet::new(&[]).await;
    let mut wrong = async |plan: v1::RolloutPlan| {
        let request = v1::CreateRolloutPlanRequest { plan: Some(plan), ..Default::default() };
        fields(&fleet.plans.create_rollout_plan(request).await.expect_err("refused"))
    };
    assert_eq!(wrong(plan("p", vec![])).await, ["plan.waves"]);
    assert_eq!(wrong(plan("P", vec![wave(None, &[])])).await, ["plan.name"]);
    let shares = plan("p", vec![wave(None, &[100, 100, 5_001])]);
    assert_eq!(wrong(shares).await, ["plan.waves[0].flow_shares_bp[1]", "plan.waves[0].flow_shares_bp[2]"]);
    assert_eq!(wrong(plan("p", vec![wave(None, &[]), wave(of_nodes(&["a"]), &[])])).await, ["plan.waves[1]"]);
    let short = v1::RolloutWave { deadline: Some(duration(5)), ..baking(5, wave(None, &[])) };
    assert_eq!(wrong(plan("p", vec![short])).await, ["plan.waves[0].deadline"]);
    let gates = vec![gate("speed"), gate("srtt"), gate("srtt")];
    let gates = v1::RolloutPlan { gates, ..plan("p", vec![wave(None, &[])]) };
    assert_eq!(wrong(gates).await, ["plan.gates[0].metric", "plan.gates[2].metric"]);
    let both = v1::RolloutPlan { no_breaker: true, breaker_ppm: 1, ..plan("p", vec![wave(None, &[])]) };
    assert_eq!(wrong(both).await, ["plan.breaker_ppm"]);
    let twice = vec![wave(of_nodes(&["a"]), &[]), wave(of_nodes(&["a"]), &[])];
    assert_eq!(wrong(plan("p", twice)).await, ["plan.waves[1].selector.nodes.nodes"]);

    let mut wrong = async |settings: v1::RolloutSettings| {
        let request = v1::UpdateRolloutSettingsRequest { settings: Some(settings), ..Default::default() };
        fields(&fleet.plans.update_rollout_settings(request).await.expect_err("refused"))
    };
    let window = v1::FreezeWindow { weekdays: vec![8], time_zone: "Mars/Base".to_owned(), ..Default::default() };
    let settings = v1::RolloutSettings {
        max_nodes_bp: 10_001,
        max_failure_domain_bp: 1,
        freeze_windows: vec![window],
        ..Default::default()
    };
    let found = wrong(settings).await;
    for field in ["max_nodes_bp", "failure_domain_label", "freeze_windows[0].weekdays", "freeze_windows[0].time_zone"] {
        assert!(found.contains(&format!("settings.{field}")), "{field} in {found:?}");
    }
    assert_eq!(
        wrong(v1::RolloutSettings { default_plan: "x".to_owned(), ..Default::default() }).await,
        ["settings.default_plan"]
    );
    let none = v1::RolloutSettings { default_plan: "rolloutPlans/none".to_owned(), ..Default::default() };
    let request = v1::UpdateRolloutSettingsRequest { settings: Some(none), ..Default::default() };
    assert_eq!(fleet.plans.update_rollout_settings(request).await.expect_err("none").code(), Code::NotFound);
    let options = v1::RolloutOptions {
        break_glass: true,
        confirm_within: Some(duration(8 * 86_400)),
        plan: "x".to_owned(),
        ..Default::default()
    };
    let request = v1::UpdatePolicyRequest {
        policy: Some(policy("p", 2_000)),
        rollout: Some(options),
        ..v1::UpdatePolicyRequest::default()
    };
    let wrong = fields(&fleet.world.policies.update_policy(request).await.expect_err("refused"));
    assert_eq!(wrong, ["rollout.break_glass", "rollout.confirm_within", "rollout.plan"]);
}

/// A changed plan is that of rollouts that begin later.
#[tokio::test]
async fn a_rollout_keeps_the_plan_with_which_it_began() {
    let mut fleet = Fleet::new(&["a"]).await;
    let begun = fleet.begin(plan("mine", vec![baking(60, wave(None, &[]))])).await;
    fleet.store_plan(plan("mine", vec![wave(None, &[100])])).await;
    let kept = fleet.get(&begun.name).await.plan.expect("a plan");
    assert_eq!((kept.revision, kept.waves.len(), kept.waves[0].flow_shares_bp.len()), (1, 1, 0));
}
