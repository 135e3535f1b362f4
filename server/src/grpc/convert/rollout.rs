//! Rollouts, their plans and what switches off, as they stand on the wire.

use sockpilot_policy::fault::Collector;
use sockpilot_proto::v1;
use sockpilot_rollout::{
    plan::{Place, seconds},
    verb::Verb,
};
use uuid::Uuid;

use crate::{
    clock::{second, timestamp},
    rollout::{
        begin::Options,
        plans::plan_name,
        record::{COLLECTION, Glass, Rollout},
    },
    store::kill_switch::{EVERYTHING, Off},
};

/// The longest time until a confirmation, in seconds: 7 days.
const CONFIRM_S_MAX: i64 = 7 * 86_400;

/// Reads `rollouts/{rollout}`.
///
/// # Errors
/// The fault, with a remedy.
pub fn rollout_name(text: &str) -> Result<String, String> {
    let id =
        text.strip_prefix(COLLECTION).ok_or_else(|| format!("\"{text}\" is no rollout; write {COLLECTION}NAME"))?;
    id.parse::<sockpilot_policy::model::Id>().map(|_| text.to_owned())
}

/// Reads how a rollout is to go. The walk stands at its field.
pub fn options_from_proto(message: Option<&v1::RolloutOptions>, reason: &str, faults: &mut Collector) -> Options {
    let plain = v1::RolloutOptions::default();
    let v1::RolloutOptions { plan, draft, confirm_within, break_glass } = message.unwrap_or(&plain);
    if !plan.is_empty() {
        faults.field("plan", |faults| faults.take(plan_name(plan)));
    }
    if *break_glass && reason.is_empty() {
        faults.add_at("break_glass", "goes past limits, and needs a reason");
    }
    let confirm_within_s = confirm_within.as_ref().map(|within| seconds("confirm_within", Some(within), 0, faults));
    if confirm_within_s.is_some_and(|within_s| !(1..=CONFIRM_S_MAX).contains(&within_s)) {
        faults.add_at("confirm_within", "is none; write more than nothing, and at most 7 days");
    }
    let salt = Uuid::new_v4().simple().to_string();
    Options { plan: plan.clone(), draft: *draft, confirm_within_s, break_glass: *break_glass, salt }
}

/// A rollout.
#[must_use]
pub fn rollout_to_proto(rollout: &Rollout, waves: Vec<v1::RolloutWaveStatus>) -> v1::Rollout {
    let machine = &rollout.machine;
    let Place { wave, step } = machine.place;
    let at = |s: i64| Some(second(s));
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let runs = machine.state.is_active();
    v1::Rollout {
        name: rollout.name.clone(),
        etag: rollout.etag(),
        policy: rollout.policy.to_string(),
        revision: rollout.revision,
        good_revision: rollout.good_revision.unwrap_or_default(),
        plan: Some(rollout.plan.message.clone()),
        state: machine.state.to_proto().into(),
        wave: number(wave),
        step: number(step),
        phase: machine.phase.to_proto().into(),
        flow_share_bp: rollout.plan.plan.flow_share_bp(machine.place),
        reason: rollout.reason.clone(),
        state_time: at(machine.state_s),
        deadline_time: machine.deadline_s(&rollout.plan.plan).and_then(at),
        create_time: Some(timestamp(rollout.created_at)),
        end_time: rollout.ended_at.map(timestamp),
        creator: rollout.creator.clone(),
        digest: rollout.digest.clone().into(),
        approver: rollout.approver.clone(),
        confirm_deadline_time: machine.confirm_by_s.filter(|_| runs).and_then(at),
        waves,
        gates: rollout.gates.clone(),
        preview: None,
        open_on_earlier_revisions: 0,
        open_looked_time: None,
        open_unknown_nodes: 0,
        warnings: vec![],
        broken_glass: rollout.glass.as_ref().map(|Glass { actor, reason, since_s }| v1::BrokenGlass {
            actor: actor.clone(),
            reason: reason.clone(),
            time: at(*since_s),
        }),
    }
}

/// Reads a verb that many rollouts can be asked.
pub fn verb_from_proto(verb: i32, force: bool, faults: &mut Collector) -> Option<Verb> {
    match v1::RolloutVerb::try_from(verb) {
        Ok(v1::RolloutVerb::Start) => Some(Verb::Start),
        Ok(v1::RolloutVerb::Pause) => Some(Verb::Pause),
        Ok(v1::RolloutVerb::Resume) => Some(Verb::Resume),
        Ok(v1::RolloutVerb::Promote) => Some(Verb::Promote { force }),
        Ok(v1::RolloutVerb::RollBack) => Some(Verb::RollBack),
        Ok(v1::RolloutVerb::Confirm) => Some(Verb::Confirm),
        Ok(v1::RolloutVerb::Unspecified) | Err(_) => {
            faults.add_at("verb", "is none; write ROLLOUT_VERB_PAUSE, or another one");
            None
        }
    }
}

/// Reads what is to be switched: a policy, an experiment, or everything.
pub fn switch_target(target: &str, faults: &mut Collector) -> Option<String> {
    if target == EVERYTHING {
        return Some(target.to_owned());
    }
    let named = target.parse::<sockpilot_policy::model::LayerName>();
    faults.field("target", |faults| {
        faults.take(named.map(|name| name.to_string()).map_err(|why| format!("{why}; or {EVERYTHING} for everything")))
    })
}

/// Something that is off.
#[must_use]
pub fn off_to_proto(off: Off) -> v1::KillSwitch {
    let Off { target, reason, actor, since } = off;
    v1::KillSwitch { target, off: true, reason, actor, time: Some(timestamp(since)) }
}
