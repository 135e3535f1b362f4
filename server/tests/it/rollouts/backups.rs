//! Plans and settings go to another server; what is under way does not, and the backup says so.

use tonic::Code;

use super::*;
use crate::backups::{export, restored};

fn by_name(restored: &[v1::Restored]) -> Vec<(&str, v1::RestoreResult, &str)> {
    restored.iter().map(|one| (one.name.as_str(), one.result(), one.note.as_str())).collect()
}

#[tokio::test]
async fn plans_and_settings_go_to_another_server_and_rollouts_do_not() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let two = plan("mine", vec![baking(60, wave(of_nodes(&["a"]), &[])), baking(60, wave(None, &[]))]);
    fleet.store_plan(v1::RolloutPlan { description: "the first".to_owned(), ..two.clone() }).await;
    let settings =
        v1::RolloutSettings { default_plan: "rolloutPlans/mine".to_owned(), max_nodes_bp: 9_000, ..Default::default() };
    fleet.settings(settings).await;
    let begun = fleet.begin(two).await.name;
    // The whole of node a, so that nothing but the backup's word tells it from a canary by hand.
    fleet.comes_to(&begun, (1, 1), RolloutPhase::Baking).await;
    assert_eq!(fleet.having(2), ["a"]);
    let items = export(&fleet.world).await;

    let mut new = Fleet::empty(test_support::config().await).await;
    let answer = restored(&new.world, &items, false).await.expect("restored");
    let created = v1::RestoreResult::Created;
    let note = "rollouts/p-2 was under way and is not revived; all nodes have what everyone has. Begin it anew";
    let expected = [("rolloutPlans/mine", created, ""), ("rolloutSettings", created, ""), (POLICY, created, note)];
    assert_eq!(by_name(&answer), expected);
    assert_eq!(answer[0].revision, 2);
    let get = v1::GetRolloutPlanRequest { name: "rolloutPlans/mine".to_owned() };
    let of = async |fleet: &mut Fleet| {
        let plan = fleet.plans.get_rollout_plan(get.clone()).await.expect("a plan").into_inner();
        let settings = fleet.plans.get_rollout_settings(v1::GetRolloutSettingsRequest {}).await.expect("settings");
        let settings = v1::RolloutSettings { etag: String::new(), ..settings.into_inner() };
        (v1::RolloutPlan { etag: String::new(), ..plan }, settings)
    };
    assert_eq!(of(&mut new).await, of(&mut fleet).await, "with its maker and when it was made");
    assert_eq!(new.world.status(POLICY).await.assignments.len(), 1, "what everyone has");
    new.join(hello("a")).await;
    assert_eq!(new.having(2), [""; 0]);
    let none = new.rollouts.list_rollouts(v1::ListRolloutsRequest::default()).await.expect("listed").into_inner();
    assert_eq!(none.rollouts, []);

    // The same again changes nothing; what is otherwise here stays.
    let again = restored(&new.world, &items, false).await.expect("again");
    assert!(again.iter().all(|one| one.result() == v1::RestoreResult::Unchanged), "{again:?}");
    new.store_plan(plan("mine", vec![wave(None, &[])])).await;
    new.settings(v1::RolloutSettings { max_nodes_bp: 1, ..Default::default() }).await;
    let refused = restored(&new.world, &items, false).await.expect_err("otherwise");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let details = tonic_types::StatusExt::get_error_details(&refused);
    let subjects: Vec<_> =
        details.precondition_failure().expect("each").violations.iter().map(|of| of.subject.clone()).collect();
    assert_eq!(subjects, ["rolloutPlans/mine", "rolloutSettings"]);
    // It is begun anew.
    let request = v1::CreateRolloutRequest {
        policy: POLICY.to_owned(),
        break_glass: true,
        reason: "anew".to_owned(),
        ..Default::default()
    };
    let anew = new.rollouts.create_rollout(request).await.expect("begun").into_inner();
    assert_eq!(anew.revision, 2, "with all revisions");
}
