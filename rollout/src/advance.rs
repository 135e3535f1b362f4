//! What a rollout does next by itself, from what was seen.

use crate::{
    machine::{Act, Machine, Move, Phase, Promoted, State},
    plan::Plan,
};

/// What is known of a rollout now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Seconds since 1970.
    pub now_s: i64,
    /// Of the waves up to the present one.
    pub nodes: Nodes,
    /// What one of those that refuse it says.
    pub complaint: Option<String>,
    /// What the circuit breaker of a node says.
    pub trip: Option<String>,
    /// Connections of the canary that were measured in the present step.
    pub flows: u64,
    /// What the gates say of the present step.
    pub gates: Gates,
    /// Why no step may begin now.
    pub hold: Option<String>,
    /// Of a rollout that goes back: connected nodes that have not confirmed it.
    pub behind: u64,
}

/// Nodes that are to have the present step, or an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Nodes {
    /// All of these.
    pub total: u64,
    /// They have read it back from their kernel tables.
    pub in_force: u64,
    /// They are connected and have not answered.
    pub pending: u64,
    /// They are not connected.
    pub unavailable: u64,
    /// They cannot honour it.
    pub refused: u64,
}

/// What the gates say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Gates {
    /// Nothing stands in the way.
    #[default]
    Pass,
    /// Harm is shown: what was seen.
    Fail(String),
    /// Not known yet: what is awaited.
    Wait(String),
}

/// What comes next; `None`: nothing, for now. [`waits_for`] says what it waits for.
#[must_use]
pub fn advance(plan: &Plan, machine: &Machine, seen: &Seen) -> Option<Move> {
    let now_s = seen.now_s;
    match machine.state {
        State::Draft => overdue(plan, machine, now_s).then(|| Move {
            to: machine.into_state(State::RolledBack, now_s),
            act: Act::Nothing,
            reason: "nobody started it in time; nothing was given to any node".to_owned(),
        }),
        State::Running | State::Paused => {
            if let Some(why) = harm(plan, machine, seen).or_else(|| unconfirmed(machine, now_s)) {
                return Some(go_back(machine, now_s, why));
            }
            match machine.state {
                State::Paused => overdue(plan, machine, now_s)
                    .then(|| go_back(machine, now_s, "it was paused, and nobody decided in time".to_owned())),
                _ => run(plan, machine, seen),
            }
        }
        State::RollingBack if seen.behind == 0 => Some(Move {
            to: machine.into_state(State::RolledBack, now_s),
            act: Act::Nothing,
            reason: "every connected node has confirmed what everyone had before".to_owned(),
        }),
        State::RollingBack => overdue(plan, machine, now_s).then(|| Move {
            to: machine.into_state(State::RollbackFailed, now_s),
            act: Act::Nothing,
            reason: format!(
                "{} not confirmed what everyone had before; it is assigned to {}. Look at {}",
                have(seen.behind),
                if seen.behind == 1 { "it" } else { "them" },
                if seen.behind == 1 { "this node" } else { "these nodes" }
            ),
        }),
        State::Completed | State::RolledBack | State::Superseded | State::RollbackFailed => None,
    }
}

fn overdue(plan: &Plan, machine: &Machine, now_s: i64) -> bool {
    machine.deadline_s(plan).is_some_and(|deadline_s| now_s >= deadline_s)
}

fn unconfirmed(machine: &Machine, now_s: i64) -> Option<String> {
    machine.confirm_by_s.filter(|confirm_by_s| now_s >= *confirm_by_s).map(|_| "nobody confirmed it in time".to_owned())
}

/// The way back.
pub(crate) fn go_back(machine: &Machine, now_s: i64, reason: String) -> Move {
    // An A/A gave nobody anything.
    let act = if machine.place.wave == 0 { Act::Nothing } else { Act::GoBack };
    Move { to: machine.into_state(State::RollingBack, now_s), act, reason }
}

/// What must not go on, whoever has paused or promoted it.
fn harm(plan: &Plan, machine: &Machine, seen: &Seen) -> Option<String> {
    if let Some(trip) = &seen.trip {
        return Some(trip.clone());
    }
    // Before the step is applied, what was seen is of the one before, which has passed.
    if machine.phase == Phase::Applying {
        return None;
    }
    let Seen { nodes, complaint, gates, .. } = seen;
    if over(nodes.refused, plan.wave(machine.place).max_refused_bp, nodes.total) {
        let complaint = complaint.as_deref().unwrap_or("they do not say why");
        let refuse = if nodes.refused == 1 { "refuses" } else { "refuse" };
        return Some(format!("{} of {} {refuse} it: {complaint}", nodes.refused, counted(nodes.total)));
    }
    match gates {
        Gates::Fail(why) if machine.place.wave == 0 => Some(format!(
            "what everyone has differs from itself, so what is measured cannot be believed: {why}. Nothing was changed"
        )),
        Gates::Fail(_) if machine.promoted == Promoted::Gates => None,
        Gates::Fail(why) => Some(why.clone()),
        Gates::Pass | Gates::Wait(_) => None,
    }
}

/// Whether a part of all is more than a share of it in basis points.
fn over(part: u64, share_bp: u32, all: u64) -> bool {
    part.saturating_mul(10_000) > all.saturating_mul(u64::from(share_bp))
}

fn run(plan: &Plan, machine: &Machine, seen: &Seen) -> Option<Move> {
    let now_s = seen.now_s;
    let step = |phase, reason: &str| {
        Some(Move { to: machine.into_phase(phase, now_s), act: Act::Nothing, reason: reason.to_owned() })
    };
    match machine.phase {
        Phase::Applying if seen.hold.is_none() => {
            let to = Machine { step_s: now_s, ..machine.into_phase(Phase::Converging, now_s) };
            Some(Move { to, act: Act::Assign, reason: beginning(plan, machine) })
        }
        Phase::Applying => {
            overdue(plan, machine, now_s).then(|| go_back(machine, now_s, "it was held back too long".to_owned()))
        }
        _ if is_dark(seen) => late(plan, machine, seen),
        Phase::Converging if has_converged(plan, machine, seen) => Some(Move {
            to: Machine { in_force_s: Some(now_s), ..machine.into_phase(Phase::Baking, now_s) },
            act: Act::Nothing,
            reason: format!(
                "{} of {} {} it in force",
                seen.nodes.in_force,
                counted(seen.nodes.total),
                if seen.nodes.in_force == 1 { "has" } else { "have" }
            ),
        }),
        Phase::Baking if has_baked(plan, machine, seen) => step(Phase::Judging, "time and connections are there"),
        Phase::Judging if may_go_on(machine, seen) => go_on(plan, machine, seen),
        Phase::Converging | Phase::Baking | Phase::Judging => late(plan, machine, seen),
    }
}

fn beginning(plan: &Plan, machine: &Machine) -> String {
    let share_bp = plan.flow_share_bp(machine.place);
    let share = f64::from(share_bp) / 100.0;
    match machine.place.wave {
        0 => format!("what everyone has is compared with itself on {share}% of connections"),
        wave => format!("wave {wave} begins with {share}% of connections"),
    }
}

/// What is switched off has no nodes, which says nothing of the step.
fn is_dark(seen: &Seen) -> bool {
    seen.nodes.total == 0 && seen.hold.is_some()
}

/// Refusals are counted for themselves.
fn has_converged(plan: &Plan, machine: &Machine, seen: &Seen) -> bool {
    let Seen { nodes, .. } = seen;
    let wave = plan.wave(machine.place);
    !over(nodes.pending + nodes.unavailable, wave.max_unavailable_bp, nodes.total)
}

fn has_baked(plan: &Plan, machine: &Machine, seen: &Seen) -> bool {
    let wave = plan.wave(machine.place);
    let baked = machine.in_force_s.is_some_and(|since_s| seen.now_s - since_s >= wave.bake_s);
    let enough = seen.flows >= wave.min_flows;
    // A wave without nodes has nothing to wait for.
    (baked && enough) || machine.promoted > Promoted::No || seen.nodes.total == 0
}

fn may_go_on(machine: &Machine, seen: &Seen) -> bool {
    seen.gates == Gates::Pass || machine.promoted == Promoted::Gates || seen.nodes.total == 0
}

fn go_on(plan: &Plan, machine: &Machine, seen: &Seen) -> Option<Move> {
    let now_s = seen.now_s;
    let why = if machine.promoted == Promoted::Gates { "somebody forced it" } else { "the step has passed" };
    if let Some(next) = plan.next(machine.place) {
        return Some(Move { to: machine.at(next, now_s), act: Act::Nothing, reason: why.to_owned() });
    }
    if machine.confirm_by_s.is_some() {
        return None;
    }
    let reason = "everyone has it".to_owned();
    Some(Move { to: machine.into_state(State::Completed, now_s), act: Act::GiveEveryone, reason })
}

fn late(plan: &Plan, machine: &Machine, seen: &Seen) -> Option<Move> {
    let now_s = seen.now_s;
    // What only a person's confirmation is lacking has a deadline of its own.
    let passed = machine.phase == Phase::Judging && may_go_on(machine, seen) && !is_dark(seen);
    if passed || now_s < machine.step_s + plan.wave(machine.place).deadline_s {
        return None;
    }
    let why = format!("not decided in time: {}", waits_for(plan, machine, seen));
    if plan.rolls_back_at_deadline {
        return Some(go_back(machine, now_s, why));
    }
    Some(Move { to: machine.into_state(State::Paused, now_s), act: Act::Nothing, reason: why })
}

/// What it waits for, in words.
#[must_use]
pub fn waits_for(plan: &Plan, machine: &Machine, seen: &Seen) -> String {
    let Seen { nodes, flows, gates, hold, .. } = seen;
    let wave = plan.wave(machine.place);
    match (machine.state, machine.phase) {
        (State::Draft, _) if plan.needs_approval => "somebody else must approve it, then it can be started".to_owned(),
        (State::Draft, _) => "it waits to be started".to_owned(),
        (State::Paused, _) => "it waits for somebody to resume it or roll it back".to_owned(),
        (State::RollingBack, _) => format!("{} not confirmed it", have(seen.behind)),
        (State::Running, Phase::Applying) => hold.clone().unwrap_or_default(),
        (State::Running, _) if is_dark(seen) => hold.clone().unwrap_or_default(),
        (State::Running, Phase::Converging) => {
            let Nodes { total, pending, unavailable, .. } = *nodes;
            let (has, is) = (if pending == 1 { "has" } else { "have" }, if unavailable == 1 { "is" } else { "are" });
            format!("of {}, {pending} {has} not answered and {unavailable} {is} away", counted(total))
        }
        (State::Running, Phase::Baking) => {
            let baked_s = machine.in_force_s.map_or(0, |since_s| seen.now_s - since_s);
            format!("{baked_s} of {} s, and {flows} of {} connections", wave.bake_s, wave.min_flows)
        }
        (State::Running, Phase::Judging) => match gates {
            Gates::Wait(why) => why.clone(),
            _ if machine.confirm_by_s.is_some() => "it waits to be confirmed".to_owned(),
            _ => String::new(),
        },
        (State::Completed | State::RolledBack | State::Superseded | State::RollbackFailed, _) => String::new(),
    }
}

/// `1 node has`, `5 nodes have`.
fn have(nodes: u64) -> String {
    format!("{} {}", counted(nodes), if nodes == 1 { "has" } else { "have" })
}

fn counted(nodes: u64) -> String {
    if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") }
}
