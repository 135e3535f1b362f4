//! Does what was decided: gives nodes the next step, or what they had before, and writes down how it came to that.

use sockpilot_proto::v1;
use sockpilot_rollout::{
    advance::{advance, waits_for},
    machine::{Act, Machine, Move, State},
};

use super::{
    observe::{Observed, observe},
    record::Rollout,
};
use crate::{
    change::{
        apply::{Change, apply},
        author::Author,
        plan::Action,
        target::Target,
    },
    store::{Result, connection::PgConnection, control, rollout},
};

/// As the audit log names the controller.
pub const TASK: &str = "rollouts";
/// Moves at one look: one for each phase of an empty wave, and what follows.
const MOVES_MAX: usize = 8;

/// Has a rollout go on as far as it can now. `author` makes the changes; without one, the controller does.
///
/// # Errors
/// If somebody else was faster, or the database fails.
pub async fn drive(conn: &mut PgConnection, author: Option<&Author>, mut rollout: Rollout) -> Result<Rollout> {
    for _ in 0..MOVES_MAX {
        if !rollout.machine.state.is_active() {
            break;
        }
        let observed = observe(&mut *conn, &rollout).await?;
        let Some(made) = advance(&rollout.plan.plan, &rollout.machine, &observed.seen) else {
            return wait(conn, rollout, observed).await;
        };
        let own = Author::Controller { task: TASK, reason: made.reason.clone(), evidence: evidence(&observed) };
        rollout = carry_out(&mut *conn, author.unwrap_or(&own), rollout, &made, Some(observed)).await?;
    }
    Ok(rollout)
}

/// Notes what it waits for, so that people and their tools see it.
async fn wait(conn: &mut PgConnection, rollout: Rollout, observed: Observed) -> Result<Rollout> {
    if !observed.gates.is_empty() && observed.gates != rollout.gates {
        rollout::note_gates(conn, &rollout.name, &observed.gates).await?;
    }
    let reason = match rollout.machine.state {
        State::Draft | State::Running | State::RollingBack => {
            waits_for(&rollout.plan.plan, &rollout.machine, &observed.seen)
        }
        _ => rollout.reason.clone(),
    };
    Ok(Rollout { reason, gates: observed.gates, ..rollout })
}

/// What a controller's change is based on, as JSON.
fn evidence(observed: &Observed) -> serde_json::Value {
    let Observed { seen, gates, trips, .. } = observed;
    serde_json::json!({
        "nodes": { "total": seen.nodes.total, "inForce": seen.nodes.in_force, "refused": seen.nodes.refused },
        "connections": seen.flows,
        "gates": gates.iter().map(|gate| gate.reason.as_str()).collect::<Vec<_>>(),
        "trips": trips.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>(),
    })
}

/// Does what a move asks for, and writes it down.
///
/// # Errors
/// If somebody else was faster, or the database fails.
pub async fn carry_out(
    conn: &mut PgConnection,
    author: &Author,
    rollout: Rollout,
    made: &Move,
    observed: Option<Observed>,
) -> Result<Rollout> {
    let Move { to, act, reason } = made;
    control::lock(&mut *conn).await?;
    let before = control::get(&mut *conn).await?.generation;
    if let Some(action) = action(&rollout, to, *act) {
        let change = Change { name: rollout.policy.clone(), action, etag: String::new(), sent: None };
        apply(&mut *conn, author, &change).await?;
    }
    let mut after = Rollout { machine: *to, reason: reason.clone(), ..rollout.clone() };
    if let Some(observed) = &observed
        && !observed.gates.is_empty()
    {
        after.gates.clone_from(&observed.gates);
    }
    if to.place != rollout.machine.place {
        after.gates.clear();
    }
    // What nodes measure may change without an assignment that does.
    let mut generation = control::get(&mut *conn).await?.generation;
    if generation == before && asks(&rollout) != asks(&after) {
        generation = control::bump(&mut *conn).await?;
    }
    if *act == Act::Assign {
        after.step_generation = generation.cast_unsigned();
    }
    after.version = rollout::update(&mut *conn, &after).await?;
    rollout::note(conn, &after.name, &transition(&rollout, &after, author, observed)).await?;
    Ok(after)
}

/// What nodes are told of a rollout.
pub(super) fn asks(rollout: &Rollout) -> Option<v1::LayerRollout> {
    let terms = rollout.is_on_nodes().then(|| rollout.terms());
    let nothing = |layer: &v1::LayerRollout| layer.measures.is_empty();
    terms
        .map(|terms| v1::LayerRollout { unchanged: terms.unchanged.is_some(), ..terms.layer })
        .filter(|layer| !nothing(layer))
}

fn action(rollout: &Rollout, to: &Machine, act: Act) -> Option<Action> {
    let Rollout { revision, good_revision, plan, salt, .. } = rollout;
    let everyone = Action::Assign { revision: *revision, target: Target::Everyone, adds: false, force: true };
    match act {
        Act::Nothing => None,
        Act::Assign if to.place.wave == 0 => None,
        Act::Assign if plan.plan.is_immediate(to.place) => Some(everyone),
        Act::Assign => Some(Action::Stage { revision: *revision, canary: plan.canary(to.place, salt) }),
        Act::GiveEveryone => Some(everyone),
        Act::GoBack => Some(Action::Withdraw { revision: *revision, good: *good_revision }),
    }
}

/// The row of a transition.
#[must_use]
pub fn transition(
    before: &Rollout,
    after: &Rollout,
    author: &Author,
    observed: Option<Observed>,
) -> v1::RolloutTransition {
    let Machine { state, place, phase, .. } = after.machine;
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let (mut gates, mut waves, mut trips) = (vec![], vec![], vec![]);
    if let Some(observed) = observed {
        (gates, waves, trips) = (observed.gates, observed.waves, observed.trips);
    }
    let (trip_nodes, breaker_trips) = trips.into_iter().map(|(node, trip)| (format!("nodes/{node}"), trip)).unzip();
    let said = match author {
        Author::Person { reason, .. } if !reason.is_empty() => format!("{}: {reason}", after.reason),
        _ => after.reason.clone(),
    };
    v1::RolloutTransition {
        time: None,
        from_state: before.machine.state.to_proto().into(),
        to_state: state.to_proto().into(),
        wave: number(place.wave),
        step: number(place.step),
        phase: phase.to_proto().into(),
        actor: author.actor(),
        reason: said,
        gates,
        waves,
        breaker_trips,
        trip_nodes,
    }
}
