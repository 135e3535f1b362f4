//! Answers about rollouts that are not one of them.

use super::{gates, headline, phase, reason, state};
use crate::format::{self, NONE, count};
use crate::table::{Table, one_line};
use sockpilot_proto::v1;

/// What has become of it, in a line and its reason.
pub fn changed(rollout: &v1::Rollout, validate_only: bool) -> String {
    let would = if validate_only { "nothing was changed; it would be:\n" } else { "" };
    format!("{would}{}\n{}", headline(rollout), reason(rollout))
}

/// A line for each rollout.
pub fn list(rollouts: &[v1::Rollout]) -> String {
    let mut table =
        Table::new(&["NAME", "POLICY", "STATE", ">WAVE", ">STEP", ">SHARE", "PHASE", "SINCE", "UNTIL", "BY", "REASON"]);
    for rollout in rollouts {
        let waves = rollout.plan.as_ref().map_or(0, |plan| plan.waves.len());
        table.row(vec![
            rollout.name.clone(),
            revision(rollout),
            state(rollout.state()).to_owned(),
            part(rollout.wave, waves),
            part(rollout.step, super::steps(rollout)),
            if rollout.flow_share_bp == 0 { NONE.to_owned() } else { format::share(rollout.flow_share_bp) },
            phase(rollout.phase()).to_owned(),
            format::time(rollout.state_time.as_ref()),
            format::time(rollout.deadline_time.as_ref()),
            format::or_none(&rollout.creator),
            rollout.reason.clone(),
        ]);
    }
    table.render()
}

fn revision(rollout: &v1::Rollout) -> String {
    format!("{}@{}", rollout.policy, rollout.revision)
}

/// `2/3`
fn part(number: u32, all: usize) -> String {
    if number == 0 { NONE.to_owned() } else { format!("{number}/{all}") }
}

/// A line for each change of its state; with what it was decided on beneath it, if that is asked for.
pub fn transitions(transitions: &[v1::RolloutTransition], evidence: bool) -> String {
    let mut table = Table::new(&["TIME", "FROM", "TO", ">WAVE", ">STEP", "PHASE", "WHO", "REASON"]);
    let number = |number: u32| if number == 0 { NONE.to_owned() } else { number.to_string() };
    for transition in transitions {
        table.row(vec![
            format::time(transition.time.as_ref()),
            state(transition.from_state()).to_owned(),
            state(transition.to_state()).to_owned(),
            number(transition.wave),
            number(transition.step),
            phase(transition.phase()).to_owned(),
            format::or_none(&transition.actor),
            transition.reason.clone(),
        ]);
    }
    let mut text = table.render();
    for transition in transitions.iter().filter(|_| evidence) {
        let found = decided_on(transition);
        if !found.is_empty() {
            text.push_str(&format!("\n{}:\n{found}", format::time(transition.time.as_ref())));
        }
    }
    text
}

fn decided_on(transition: &v1::RolloutTransition) -> String {
    let mut text = String::new();
    for wave in &transition.waves {
        let v1::RolloutWaveStatus { wave, selector: _, nodes, in_force, pending, unavailable, refused, tripped } = wave;
        let counts = [
            (in_force, "in force"),
            (pending, "pending"),
            (unavailable, "unavailable"),
            (refused, "refused"),
            (tripped, "tripped"),
        ];
        let counts = counts.iter().filter(|(nodes, _)| **nodes > 0).map(|(nodes, word)| format!("{nodes} {word}"));
        let counts: Vec<String> = counts.collect();
        let counts = if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) };
        text.push_str(&format!("wave {wave}, {}{counts}\n", count(*nodes as usize, "node")));
    }
    let unknown = "a node".to_owned();
    for (trip, node) in
        transition.breaker_trips.iter().zip(transition.trip_nodes.iter().chain(std::iter::repeat(&unknown)))
    {
        let v1::BreakerTrip { layer, revision, canary_bad_ends, control_bad_ends, trip_time, rollout: _ } = trip;
        let at = format::time(trip_time.as_ref());
        let bad = format!("{canary_bad_ends} bad ends of connections of the canary, {control_bad_ends} of its control");
        text.push_str(&one_line(&format!("{node} ended {layer}@{revision} by its breaker at {at}: {bad}")));
        text.push('\n');
    }
    if !transition.gates.is_empty() {
        text.push_str(&gates::table(&transition.gates));
    }
    text
}

/// What became of each, or would become.
pub fn results(answer: &v1::BatchRolloutVerbResponse, validate_only: bool) -> String {
    if answer.results.is_empty() {
        return "no rollout is selected\n".to_owned();
    }
    let is = if validate_only { "WOULD BE" } else { "IS" };
    let mut table = Table::new(&["NAME", "POLICY", is, "REFUSED"]);
    for v1::BatchRolloutResult { name, refusal, rollout } in &answer.results {
        let rollout = rollout.clone().unwrap_or_default();
        let policy = if rollout.policy.is_empty() { NONE.to_owned() } else { revision(&rollout) };
        let becomes = if refusal.is_empty() { state(rollout.state()) } else { NONE };
        table.row(vec![name.clone(), policy, becomes.to_owned(), refusal.clone()]);
    }
    table.render()
}

/// How many of them refused.
pub fn refusals(answer: &v1::BatchRolloutVerbResponse) -> usize {
    answer.results.iter().filter(|result| !result.refusal.is_empty()).count()
}
