//! What tests ask of rollouts.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use sockpilot_proto::v1::{
    self, RolloutState, kill_switch_service_client::KillSwitchServiceClient,
    rollout_plan_service_client::RolloutPlanServiceClient, rollout_service_client::RolloutServiceClient, selector,
};

use crate::{
    admin::Admin,
    wait::{eventually, pass},
};

/// How often the server is asked.
const LOOK: Duration = Duration::from_millis(200);

/// A wave of named nodes (none: of all), with these shares of their connections first.
#[must_use]
pub fn wave(nodes: &[&str], flow_shares_bp: &[u32], bake_s: i64, min_flows: u64) -> v1::RolloutWave {
    let nodes: Vec<_> = nodes.iter().map(|node| format!("nodes/{node}")).collect();
    let selector = (!nodes.is_empty())
        .then_some(v1::Selector { kind: Some(selector::Kind::Nodes(v1::selector::Nodes { nodes })) });
    v1::RolloutWave {
        selector,
        flow_shares_bp: flow_shares_bp.to_vec(),
        bake_time: Some(prost_types::Duration { seconds: bake_s, nanos: 0 }),
        min_flows,
        ..v1::RolloutWave::default()
    }
}

/// A gate.
#[must_use]
pub fn gate(metric: &str, margin_bp: u32) -> v1::Gate {
    v1::Gate { metric: metric.to_owned(), margin_bp }
}

/// Stores a plan; `id` is the last part of its name.
///
/// # Errors
/// What the server says.
pub fn create_plan(admin: &Admin, id: &str, plan: v1::RolloutPlan) -> Result<v1::RolloutPlan> {
    let request = v1::CreateRolloutPlanRequest {
        plan: Some(plan),
        plan_id: id.to_owned(),
        reason: "a test".to_owned(),
        ..v1::CreateRolloutPlanRequest::default()
    };
    Ok(admin.call(RolloutPlanServiceClient::new(admin.channel()).create_rollout_plan(request))?)
}

/// Stores a policy, and rolls it out by a plan; says the rollout's name.
///
/// # Errors
/// What the server says.
pub fn roll_out(admin: &Admin, policy: v1::Policy, plan: &str) -> Result<v1::Rollout> {
    let name = policy.name.clone();
    let request = v1::UpdatePolicyRequest {
        policy: Some(policy),
        allow_missing: true,
        reason: "a test".to_owned(),
        rollout: Some(v1::RolloutOptions { plan: format!("rolloutPlans/{plan}"), ..v1::RolloutOptions::default() }),
        ..v1::UpdatePolicyRequest::default()
    };
    admin.call(admin.policies().update_policy(request))?;
    newest(admin, &name)
}

/// The newest rollout of a policy.
///
/// # Errors
/// What the server says, or if there is none.
pub fn newest(admin: &Admin, policy: &str) -> Result<v1::Rollout> {
    let request = v1::ListRolloutsRequest { policy: policy.to_owned(), ..v1::ListRolloutsRequest::default() };
    let listed = admin.call(RolloutServiceClient::new(admin.channel()).list_rollouts(request))?;
    listed.rollouts.into_iter().next().context("no rollout")
}

/// How far a rollout is.
///
/// # Errors
/// What the server says.
pub fn rollout(admin: &Admin, name: &str) -> Result<v1::Rollout> {
    let request = v1::GetRolloutRequest { name: name.to_owned() };
    Ok(admin.call(RolloutServiceClient::new(admin.channel()).get_rollout(request))?)
}

/// Waits until a rollout is in a state; `look` is asked in between, and what it says ends the waiting.
///
/// # Errors
/// If it comes into another final state, or not into this one in time.
pub fn wait_for(
    admin: &Admin,
    name: &str,
    state: RolloutState,
    patience: Duration,
    mut look: impl FnMut(&v1::Rollout) -> Result<()>,
) -> Result<v1::Rollout> {
    let mut spoilt = None;
    let found = eventually(&format!("{name} is {}", state.as_str_name()), patience, || {
        let rollout = rollout(admin, name)?;
        if rollout.state() == state || is_over(rollout.state()) {
            return Ok(rollout);
        }
        if let Err(error) = look(&rollout) {
            spoilt = Some(error);
            return Ok(rollout);
        }
        pass(LOOK)?;
        bail!(
            "{} wave {} step {} {}: {}",
            rollout.state().as_str_name(),
            rollout.wave,
            rollout.step,
            rollout.phase().as_str_name(),
            rollout.reason
        )
    })?;
    if let Some(error) = spoilt {
        return Err(error);
    }
    ensure!(found.state() == state, "{name} is {}: {}", found.state().as_str_name(), found.reason);
    Ok(found)
}

fn is_over(state: RolloutState) -> bool {
    matches!(
        state,
        RolloutState::Completed | RolloutState::RolledBack | RolloutState::Superseded | RolloutState::RollbackFailed
    )
}

/// All that a rollout went through, oldest first.
///
/// # Errors
/// What the server says.
pub fn transitions(admin: &Admin, name: &str) -> Result<Vec<v1::RolloutTransition>> {
    let request =
        v1::ListRolloutTransitionsRequest { parent: name.to_owned(), page_size: 200, page_token: String::new() };
    let mut listed =
        admin.call(RolloutServiceClient::new(admin.channel()).list_rollout_transitions(request))?.transitions;
    listed.reverse();
    Ok(listed)
}

/// From the first assignment to a node until the way back began.
///
/// # Errors
/// If it did not begin.
pub fn detected_after(transitions: &[v1::RolloutTransition]) -> Result<Duration> {
    let at = |found: Option<&v1::RolloutTransition>| {
        let time = found.and_then(|found| found.time).context("no such transition")?;
        Ok::<_, anyhow::Error>(SystemTime::try_from(time)?)
    };
    let applied = at(transitions.iter().find(|moved| moved.phase() == v1::RolloutPhase::Converging))?;
    let back = at(transitions.iter().find(|moved| moved.to_state() == RolloutState::RollingBack))?;
    Ok(back.duration_since(applied)?)
}

/// Switches a policy off, or on again.
///
/// # Errors
/// What the server says.
pub fn switch(admin: &Admin, target: &str, off: bool) -> Result<v1::KillSwitch> {
    let request = v1::SetKillSwitchRequest {
        target: target.to_owned(),
        off,
        reason: "a test".to_owned(),
        ..v1::SetKillSwitchRequest::default()
    };
    Ok(admin.call(KillSwitchServiceClient::new(admin.channel()).set_kill_switch(request))?)
}
