//! What people may ask of a rollout.

use crate::{
    advance::go_back,
    machine::{Act, Machine, Move, Phase, Promoted, State},
    plan::{Place, Plan},
};

/// What somebody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Begin.
    Start,
    /// Hold it where it is.
    Pause,
    /// Go on.
    Resume,
    /// Do not wait any longer with the present step.
    Promote {
        /// For the gates neither.
        force: bool,
    },
    /// Go to the first step of a wave.
    Jump {
        /// From 1.
        wave: usize,
        /// Forwards, over gates.
        force: bool,
    },
    /// It stays.
    Confirm,
    /// End it, with what everyone had before.
    RollBack,
}

/// Why it makes no sense now, and what does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// What a verb makes of a rollout; `None`: its effect is there already. `stands`: a completed rollout's revision is still everyone's.
///
/// # Errors
/// Why it makes no sense.
pub fn ask(plan: &Plan, machine: &Machine, verb: Verb, now_s: i64, stands: bool) -> Result<Option<Move>, Refused> {
    match (verb, machine.state) {
        (Verb::Start, State::Draft) => Ok(plain(machine.at(plan.first(), now_s), "it was started")),
        (Verb::Start, State::Running) => Ok(None),
        (Verb::Pause, State::Running) => Ok(plain(machine.into_state(State::Paused, now_s), "it was paused")),
        (Verb::Pause | Verb::RollBack, state) if is_there(verb, state) => Ok(None),
        (Verb::Resume, State::Paused) => {
            let to = Machine { step_s: now_s, ..machine.into_state(State::Running, now_s) };
            Ok(plain(to, "it was resumed"))
        }
        (Verb::Resume, State::Running) => Ok(None),
        (Verb::Promote { force }, State::Running | State::Paused) => promote(machine, force, now_s),
        (Verb::Jump { wave, force }, State::Running | State::Paused) => jump(plan, machine, wave, force, now_s),
        (Verb::Confirm, State::Running | State::Paused) => {
            Ok(machine.confirm_by_s.and_then(|_| plain(Machine { confirm_by_s: None, ..*machine }, "it was confirmed")))
        }
        (Verb::RollBack, State::Draft) => {
            Ok(plain(machine.into_state(State::RolledBack, now_s), "it was given up before it began"))
        }
        (Verb::RollBack, State::Running | State::Paused | State::RollbackFailed) => {
            Ok(Some(go_back(machine, now_s, "somebody rolled it back".to_owned())))
        }
        (Verb::RollBack, State::Completed) if stands => {
            Ok(Some(go_back(machine, now_s, "somebody rolled it back after it was completed".to_owned())))
        }
        (_, state) => Err(refused(verb, state)),
    }
}

fn plain(to: Machine, reason: &str) -> Option<Move> {
    Some(Move { to, act: Act::Nothing, reason: reason.to_owned() })
}

fn is_there(verb: Verb, state: State) -> bool {
    matches!((verb, state), (Verb::Pause, State::Paused) | (Verb::RollBack, State::RollingBack | State::RolledBack))
}

fn promote(machine: &Machine, force: bool, now_s: i64) -> Result<Option<Move>, Refused> {
    if machine.phase == Phase::Applying {
        return Err(Refused("the step has not begun; resume it, or break the glass if a freeze holds it".to_owned()));
    }
    let promoted = if force { Promoted::Gates } else { Promoted::Wait };
    let promoted = promoted.max(machine.promoted);
    if machine.state == State::Running && machine.promoted == promoted {
        return Ok(None);
    }
    let step_s = if machine.state == State::Paused { now_s } else { machine.step_s };
    let to = Machine { promoted, state: State::Running, step_s, ..*machine };
    Ok(plain(to, if force { "somebody forced the step" } else { "somebody ended the wait" }))
}

fn jump(plan: &Plan, machine: &Machine, wave: usize, force: bool, now_s: i64) -> Result<Option<Move>, Refused> {
    if wave == 0 || wave > plan.waves.len() {
        return Err(Refused(format!("there is no wave {wave}; it has waves 1 to {}", plan.waves.len())));
    }
    if wave > machine.place.wave && !force {
        return Err(Refused(format!(
            "wave {wave} comes after gates that have not passed; force it with a reason, or promote step by step"
        )));
    }
    Ok(plain(machine.at(Place { wave, step: 1 }, now_s), &format!("somebody sent it to wave {wave}")))
}

fn refused(verb: Verb, state: State) -> Refused {
    let remedy = match (verb, state) {
        (Verb::RollBack, State::Completed) => "everyone has another revision by now; roll back the newer rollout",
        (_, State::Draft) => "start it first",
        (_, State::Completed) => "it can be rolled back",
        (_, State::RollingBack) => "wait until it is rolled back, then begin another",
        (_, State::RolledBack | State::Superseded | State::RollbackFailed) => "begin another",
        (Verb::Start, _) => "resume it",
        (_, State::Running | State::Paused) => "look at its state",
    };
    Refused(format!("it is {}; {remedy}", state.word()))
}
