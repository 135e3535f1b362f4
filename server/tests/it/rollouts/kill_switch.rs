//! Off, past every rollout, and on again.

use tonic::Code;

use super::*;
use crate::world::{experiment, fields};

async fn switch(fleet: &mut Fleet, target: &str, off: bool) -> v1::KillSwitch {
    let reason = "the pager".to_owned();
    let request = v1::SetKillSwitchRequest { target: target.to_owned(), off, reason, ..Default::default() };
    fleet.switches.set_kill_switch(request).await.expect("switched").into_inner()
}

async fn listed(fleet: &mut Fleet) -> Vec<String> {
    let listed = fleet.switches.list_kill_switches(v1::ListKillSwitchesRequest {}).await.expect("listed");
    listed.into_inner().kill_switches.into_iter().map(|off| off.target).collect()
}

fn names(layers: &[v1::Layer]) -> Vec<&str> {
    layers.iter().map(|layer| layer.name.as_str()).collect()
}

#[tokio::test]
async fn one_policy_or_everything_is_off_and_on_again() {
    let mut fleet = Fleet::new(&["a"]).await;
    fleet.world.create("q").await;
    let create = v1::CreateExperimentRequest {
        experiment: Some(experiment("e")),
        target: crate::world::everyone(),
        ..Default::default()
    };
    fleet.world.experiments.create_experiment(create).await.expect("created");
    let all = ["experiments/e", "policies/p", "policies/q"];
    fleet.node("a").has("all", |layers| names(layers) == all).await;

    let tried = v1::SetKillSwitchRequest {
        target: "-".to_owned(),
        off: true,
        reason: "only asked".to_owned(),
        validate_only: true,
        ..Default::default()
    };
    fleet.switches.set_kill_switch(tried).await.expect("possible");
    assert_eq!(listed(&mut fleet).await, [""; 0]);
    let said = switch(&mut fleet, POLICY, true).await;
    assert_eq!((said.off, said.reason.as_str(), said.time.is_some()), (true, "the pager", true));
    fleet.node("a").has("all but one", |layers| names(layers) == ["experiments/e", "policies/q"]).await;
    let audit = fleet.world.audit().await.len();
    switch(&mut fleet, POLICY, true).await;
    assert_eq!(fleet.world.audit().await.len(), audit, "it is off");
    switch(&mut fleet, "-", true).await;
    fleet.node("a").has("nothing", |layers| layers.is_empty()).await;
    assert_eq!(listed(&mut fleet).await, ["-", POLICY]);
    // What comes while everything is off waits.
    fleet.world.update("q", 2_000, crate::world::everyone()).await;
    switch(&mut fleet, "-", false).await;
    let layers = fleet.node("a").has("all but one", |layers| layers.len() == 2).await;
    assert_eq!((names(&layers), layers[1].revision), (vec!["experiments/e", "policies/q"], 2));
    let said = switch(&mut fleet, POLICY, false).await;
    assert!(!said.off && said.time.is_none());
    fleet.node("a").has("all", |layers| names(layers) == all).await;
    let entry = fleet.world.audit().await.remove(0);
    assert_eq!((entry.method.as_str(), entry.name.as_str()), ("SetKillSwitch", POLICY));
    switch(&mut fleet, "experiments/e", true).await;
    fleet.node("a").has("the policies", |layers| names(layers) == all[1..]).await;

    let silent = v1::SetKillSwitchRequest { target: "x".to_owned(), off: true, ..Default::default() };
    let wrong = fleet.switches.set_kill_switch(silent).await.expect_err("refused");
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert_eq!(fields(&wrong), ["reason", "target"]);
}

/// What is off has no nodes. That is no empty wave: nothing goes on unseen.
#[tokio::test]
async fn a_rollout_holds_while_its_policy_is_off() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let waves = vec![baking(60, wave(of_nodes(&["a"]), &[])), baking(60, wave(None, &[]))];
    let begun = fleet.begin(plan("mine", waves)).await.name;
    fleet.comes_to(&begun, (1, 1), RolloutPhase::Baking).await;
    switch(&mut fleet, POLICY, true).await;
    fleet.node("a").has("nothing", |layers| layers.is_empty()).await;
    fleet.pass(&begun, 61).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    let held = fleet.get(&begun).await;
    assert_eq!((held.state(), held.wave, held.phase()), (RolloutState::Running, 1, RolloutPhase::Baking));
    assert!(held.reason.contains("switched off by") && held.reason.contains("the pager"), "{}", held.reason);
    switch(&mut fleet, POLICY, false).await;
    fleet.comes_to(&begun, (2, 1), RolloutPhase::Baking).await;
    assert_eq!(fleet.having(2), ["a", "b"]);
    switch(&mut fleet, "-", true).await;
    fleet.pass(&begun, 3_700).await;
    let paused = fleet.reaches(&begun, RolloutState::Paused).await;
    assert!(paused.reason.contains("not decided in time"), "{}", paused.reason);
    // Going back is possible all the same.
    fleet.rollouts.roll_back_rollout(verb(&begun)).await.expect("back");
    fleet.reaches(&begun, RolloutState::RolledBack).await;
    switch(&mut fleet, "-", false).await;
    fleet.node("a").has("what it had", |layers| layers.len() == 1 && layers[0].revision == 1).await;
}
