//! How rollouts go.

pub mod answers;
pub mod gates;
pub mod preview;
#[cfg(test)]
pub mod tests;

use super::documents::{Lines, plans};
use crate::format::{self, NONE};
use crate::table::{Table, one_line};
use sockpilot_proto::v1::{self, OnDeadline, RolloutPhase, RolloutState};

/// Where a paragraph is broken.
const COLUMNS: usize = 120;

/// Everything about one.
pub fn one(rollout: &v1::Rollout) -> String {
    let mut text = format!("{}\n{}\n{}", headline(rollout), reason(rollout), about(rollout));
    text.push_str(&format!("\n{}", waves(rollout)));
    if !rollout.gates.is_empty() {
        text.push_str(&format!("\n{}", gates::table(&rollout.gates)));
    }
    text.push_str(&open(rollout));
    if !rollout.warnings.is_empty() {
        text.push_str("\nTo be known:\n");
        rollout.warnings.iter().for_each(|warning| text.push_str(&format!("  {}\n", one_line(&warning.description))));
    }
    text
}

/// `1204 open connections under earlier revisions on its nodes, by what they counted at …; 2 nodes do not say.`
fn open(rollout: &v1::Rollout) -> String {
    let unknown = match rollout.open_unknown_nodes {
        0 => String::new(),
        1 => "; 1 node does not say".to_owned(),
        nodes => format!("; {nodes} nodes do not say"),
    };
    if rollout.open_looked_time.is_none() {
        return String::new();
    }
    let open = format::count(rollout.open_on_earlier_revisions as usize, "open connection");
    let at = format::time(rollout.open_looked_time.as_ref());
    format!("\n{open} under earlier revisions on its nodes, as counted since {at}{unknown}.\n")
}

/// `rollouts/web-3: running, wave 2 of 3, step 1 of 3 (1% of connections), baking`
pub fn headline(rollout: &v1::Rollout) -> String {
    let state = state(rollout.state());
    let text = match (rollout.state(), rollout.phase()) {
        (RolloutState::Unspecified | RolloutState::Draft | RolloutState::Completed, _) => state.to_owned(),
        _ if rollout.wave == 0 => state.to_owned(),
        (RolloutState::Running, RolloutPhase::Unspecified) => format!("{state}, {}", place(rollout)),
        (RolloutState::Running, now) => format!("{state}, {}, {}", place(rollout), phase(now)),
        (RolloutState::Paused, _) => format!("{state} in {}", place(rollout)),
        (
            RolloutState::RollingBack
            | RolloutState::RolledBack
            | RolloutState::RollbackFailed
            | RolloutState::Superseded,
            _,
        ) => format!("{state} from {}", place(rollout)),
    };
    one_line(&format!("{}: {text}", rollout.name))
}

fn reason(rollout: &v1::Rollout) -> String {
    format::wrapped(&rollout.reason, COLUMNS)
}

/// `wave 2 of 3, step 1 of 3 (1% of connections)`
fn place(rollout: &v1::Rollout) -> String {
    let waves = rollout.plan.as_ref().map_or(0, |plan| plan.waves.len());
    let share = match rollout.flow_share_bp {
        0 => String::new(),
        10_000 => " (all connections)".to_owned(),
        share_bp => format!(" ({} of connections)", format::share(share_bp)),
    };
    format!("wave {}, step {}{share}", of(rollout.wave, waves), of(rollout.step, steps(rollout)))
}

/// `2 of 3`; of nobody knows how many: `2`.
fn of(number: u32, all: usize) -> String {
    if all == 0 { number.to_string() } else { format!("{number} of {all}") }
}

/// How many there are in its present wave.
fn steps(rollout: &v1::Rollout) -> usize {
    let waves = rollout.plan.as_ref().map_or(&[][..], |plan| &plan.waves);
    let wave = (rollout.wave as usize).checked_sub(1).and_then(|index| waves.get(index));
    wave.map_or(0, |wave| wave.flow_shares_bp.len() + 1)
}

fn about(rollout: &v1::Rollout) -> String {
    let mut lines = Lines::default();
    let (revision, good) = (rollout.revision, rollout.good_revision);
    let policy = match good {
        0 => format!("{}@{revision}; before it there was none", rollout.policy),
        good => format!("{}@{revision}; before it {}@{good}", rollout.policy, rollout.policy),
    };
    lines.add("policy", &policy);
    if let Some(plan) = &rollout.plan {
        lines.add("plan", &format!("{}@{}", plan.name, plan.revision));
    }
    lines.add("since", &format::time(rollout.state_time.as_ref()));
    if rollout.deadline_time.is_some() {
        lines.add("until", &format!("{}, then it {}", format::time(rollout.deadline_time.as_ref()), then(rollout)));
    }
    if rollout.confirm_deadline_time.is_some() {
        let until = format::time(rollout.confirm_deadline_time.as_ref());
        lines.add("confirm", &format!("until {until}, or it goes back by itself"));
    }
    lines.add(
        "created",
        &format!("{} by {}", format::time(rollout.create_time.as_ref()), format::or_none(&rollout.creator)),
    );
    lines
        .add("approved", &if rollout.approver.is_empty() { String::new() } else { format!("by {}", rollout.approver) });
    if let Some(v1::BrokenGlass { actor, reason, time }) = &rollout.broken_glass {
        let by = format!("by {actor} at {}: {reason}", format::time(time.as_ref()));
        lines.add("glass", &format!("broken {by} (past freeze windows, locks and limits)"));
    }
    lines.add("ended", &format::time(rollout.end_time.as_ref()));
    if rollout.state() == RolloutState::Draft {
        lines.add("digest", &hex(&rollout.digest));
    }
    lines.0
}

/// What becomes of it at its deadline.
fn then(rollout: &v1::Rollout) -> &'static str {
    let on_deadline = rollout.plan.as_ref().map_or(OnDeadline::Unspecified, v1::RolloutPlan::on_deadline);
    match (rollout.state(), on_deadline) {
        (RolloutState::RollingBack, _) => "has failed to roll back",
        (RolloutState::Running, OnDeadline::Pause | OnDeadline::Unspecified) => "pauses",
        _ => "rolls back",
    }
}

/// As it is typed.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All waves of its plan; those that have begun with their nodes.
fn waves(rollout: &v1::Rollout) -> String {
    let mut table = Table::new(&[
        ">WAVE",
        "FOR",
        "CONNECTIONS",
        ">NODES",
        ">IN FORCE",
        ">PENDING",
        ">UNAVAILABLE",
        ">REFUSED",
        ">TRIPPED",
    ]);
    let planned = rollout.plan.as_ref().map_or(&[][..], |plan| &plan.waves);
    let begun = rollout.waves.iter().map(|status| status.wave).max().unwrap_or_default();
    for wave in 1..=begun.max(planned.len() as u32) {
        let plan = planned.get(wave as usize - 1);
        let status = rollout.waves.iter().find(|status| status.wave == wave);
        let whom = status.map(|status| status.selector.clone()).filter(|selector| !selector.is_empty());
        let mut cells = vec![
            wave.to_string(),
            whom.or_else(|| plan.map(plans::whom)).unwrap_or_else(|| NONE.to_owned()),
            plan.map(|plan| steps_done(plan, wave, rollout)).unwrap_or_default(),
        ];
        cells.extend(counts(status));
        table.row(cells);
    }
    table.render()
}

fn counts(status: Option<&v1::RolloutWaveStatus>) -> [String; 6] {
    let Some(status) = status else { return [(); 6].map(|()| NONE.to_owned()) };
    let v1::RolloutWaveStatus { wave: _, selector: _, nodes, in_force, pending, unavailable, refused, tripped } =
        status;
    [nodes, in_force, pending, unavailable, refused, tripped].map(ToString::to_string)
}

/// The shares of a wave with the present one marked: `1%, [10%], all`.
fn steps_done(plan: &v1::RolloutWave, wave: u32, rollout: &v1::Rollout) -> String {
    let is_here = |step: u32| wave == rollout.wave && step == rollout.step && !is_over(rollout.state());
    let mark = |(step, share)| if is_here(step) { format!("[{share}]") } else { share };
    (1..).zip(plans::steps(plan)).map(mark).collect::<Vec<_>>().join(", ")
}

/// Whether nothing more becomes of it by itself or by anybody.
pub fn is_over(state: RolloutState) -> bool {
    match state {
        RolloutState::Unspecified
        | RolloutState::Draft
        | RolloutState::Running
        | RolloutState::Paused
        | RolloutState::RollingBack => false,
        RolloutState::Completed
        | RolloutState::RolledBack
        | RolloutState::Superseded
        | RolloutState::RollbackFailed => true,
    }
}

/// A state in words.
pub fn state(state: RolloutState) -> &'static str {
    match state {
        RolloutState::Unspecified => NONE,
        RolloutState::Draft => "draft",
        RolloutState::Running => "running",
        RolloutState::Paused => "paused",
        RolloutState::RollingBack => "rolling back",
        RolloutState::Completed => "completed",
        RolloutState::RolledBack => "rolled back",
        RolloutState::Superseded => "superseded",
        RolloutState::RollbackFailed => "rollback failed",
    }
}

/// A phase in words.
pub fn phase(phase: RolloutPhase) -> &'static str {
    match phase {
        RolloutPhase::Unspecified => NONE,
        RolloutPhase::Applying => "applying",
        RolloutPhase::Converging => "converging",
        RolloutPhase::Baking => "baking",
        RolloutPhase::Judging => "judging",
    }
}
