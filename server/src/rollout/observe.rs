//! What is known of a rollout now.

use sockpilot_judge::gates::{self, Judgement, StepVerdict};
use sockpilot_proto::v1::{self, GateVerdict};
use sockpilot_rollout::{
    advance::{Gates, Nodes, Seen},
    freeze::holding,
    machine::{Phase, State},
};

use super::{
    evidence::{self, Measured},
    record::Rollout,
};
use crate::{
    change::reach::Seen as Node,
    store::{
        Error, Result, breaker,
        connection::PgConnection,
        control,
        kill_switch::{self, EVERYTHING},
        node, rollout_nodes,
        rollout_nodes::{Asked, WaveCount},
        rollout_plan, status,
    },
};

/// What is known, and what it was drawn from.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    pub seen: Seen,
    pub waves: Vec<v1::RolloutWaveStatus>,
    pub gates: Vec<v1::GateResult>,
    /// By node.
    pub trips: Vec<(String, v1::BreakerTrip)>,
}

/// Looks at a rollout. Freeze windows hold those of which nobody has broken the glass.
///
/// # Errors
/// If the database fails.
pub async fn observe(conn: &mut PgConnection, rollout: &Rollout) -> Result<Observed> {
    let now = control::now(&mut *conn).await?;
    let counts = counts(&mut *conn, rollout).await?;
    let refused = counts.iter().any(|count| count.refused > 0);
    let complaint = match refused {
        true => status::canary_tally(&mut *conn, &rollout.policy, rollout.revision).await?.complaint,
        false => None,
    };
    let trips = breaker::of(&mut *conn, &rollout.name).await?;
    let hold = match off(&mut *conn, rollout).await? {
        Some(off) => Some(off),
        None if rollout.glass.is_some() => None,
        None => frozen(&mut *conn, now).await?,
    };
    let (gates, results, flows) = judged(&mut *conn, rollout, now.timestamp()).await?;
    let behind = match rollout.machine.state {
        State::RollingBack => rollout_nodes::behind(conn, &rollout.policy, rollout.revision).await?,
        _ => 0,
    };
    let seen = Seen {
        now_s: now.timestamp(),
        nodes: counts.iter().fold(Nodes::default(), add),
        complaint,
        trip: trips.first().map(trip),
        flows,
        gates,
        hold,
        behind: behind.cast_unsigned(),
    };
    let waves = counts.iter().map(|count| of_wave(rollout, count)).collect();
    Ok(Observed { seen, waves, gates: results, trips })
}

/// How far the nodes of a rollout are, by wave.
///
/// # Errors
/// If the database fails.
pub async fn waves(conn: &mut PgConnection, rollout: &Rollout) -> Result<Vec<v1::RolloutWaveStatus>> {
    let counts = counts(conn, rollout).await?;
    Ok(counts.iter().map(|count| of_wave(rollout, count)).collect())
}

/// Connections that are open under other revisions of the policy, on the nodes that have been given this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OnOthers {
    pub connections: u64,
    /// The oldest look of these nodes; `None`: none has looked.
    pub looked_at: Option<chrono::DateTime<chrono::Utc>>,
    /// Nodes that do not say.
    pub unknown_nodes: u32,
}

/// Counts them, as nodes have last looked.
///
/// # Errors
/// If the database fails.
pub async fn open_on_others(conn: &mut PgConnection, rollout: &Rollout) -> Result<OnOthers> {
    let Rollout { policy, revision, .. } = rollout;
    let found = rollout_nodes::open(conn, policy, *revision).await?;
    let name = policy.to_string();
    let mut all = OnOthers::default();
    for said in found {
        let Some((open, looked_at)) = said else {
            all.unknown_nodes += 1;
            continue;
        };
        let others = open.under.iter().filter(|under| under.layer == name && under.revision != *revision);
        all.connections = others.map(|under| under.connections).fold(all.connections, u64::saturating_add);
        all.looked_at = Some(all.looked_at.map_or(looked_at, |oldest| oldest.min(looked_at)));
    }
    Ok(all)
}

/// Whether the rollout's policy is switched off, in words.
async fn off(conn: &mut PgConnection, rollout: &Rollout) -> Result<Option<String>> {
    let policy = rollout.policy.to_string();
    let off = kill_switch::list(conn).await?;
    let off = off.into_iter().find(|off| off.target == policy || off.target == EVERYTHING);
    Ok(off.map(|off| format!("it is switched off by {} ({}); switch it on first", off.actor, off.reason)))
}

async fn frozen(conn: &mut PgConnection, now: chrono::DateTime<chrono::Utc>) -> Result<Option<String>> {
    let settings = rollout_plan::settings(conn).await?;
    Ok(holding(&settings.windows, now).map(|window| format!("nothing may begin now: {}", window.description)))
}

async fn counts(conn: &mut PgConnection, rollout: &Rollout) -> Result<Vec<WaveCount>> {
    let Rollout { name, policy, revision, step_generation, machine, .. } = rollout;
    if machine.place.wave > 0 {
        let (revision, step_generation, wave) = (*revision, *step_generation, machine.place.wave);
        return rollout_nodes::waves(conn, Asked { name, policy, revision, wave, step_generation }).await;
    }
    let canary = rollout.plan.canary(machine.place, &rollout.salt);
    let nodes = node::seen(&mut *conn).await?;
    let compared: Vec<String> = nodes
        .iter()
        .filter(|node| canary.wave_of(&node.candidate()).is_some())
        .map(|node: &Node| node.id.clone())
        .collect();
    Ok(vec![rollout_nodes::current(conn, &compared, *step_generation).await?])
}

fn add(nodes: Nodes, count: &WaveCount) -> Nodes {
    let [total, in_force, pending, unavailable, refused] =
        [count.nodes, count.in_force, count.pending, count.unavailable, count.refused].map(i64::cast_unsigned);
    Nodes {
        total: nodes.total + total,
        in_force: nodes.in_force + in_force,
        pending: nodes.pending + pending,
        unavailable: nodes.unavailable + unavailable,
        refused: nodes.refused + refused,
    }
}

fn of_wave(rollout: &Rollout, count: &WaveCount) -> v1::RolloutWaveStatus {
    let WaveCount { wave, nodes, in_force, pending, unavailable, refused, tripped } = *count;
    let number = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
    let at = usize::try_from(wave).unwrap_or_default();
    let selector = at.checked_sub(1).and_then(|at| rollout.plan.selectors.get(at)).and_then(Option::as_ref);
    v1::RolloutWaveStatus {
        wave: u32::from(wave.unsigned_abs()),
        selector: selector.map_or_else(|| "all nodes".to_owned(), ToString::to_string),
        nodes: number(nodes),
        in_force: number(in_force),
        pending: number(pending),
        unavailable: number(unavailable),
        refused: number(refused),
        tripped: number(tripped),
    }
}

fn trip((node_id, trip): &(String, v1::BreakerTrip)) -> String {
    let v1::BreakerTrip { canary_bad_ends, control_bad_ends, .. } = trip;
    format!(
        "the circuit breaker of nodes/{node_id} has ended it: {canary_bad_ends} bad ends of its connections, {control_bad_ends} of the \
         control's, which are as many"
    )
}

/// What the gates say, each for itself, and how many connections of the canary were measured.
async fn judged(conn: &mut PgConnection, rollout: &Rollout, now_s: i64) -> Result<(Gates, Vec<v1::GateResult>, u64)> {
    let watched = matches!(rollout.machine.phase, Phase::Baking | Phase::Judging);
    let runs = matches!(rollout.machine.state, State::Running | State::Paused);
    if rollout.plan.gates.is_empty() || !watched || !runs {
        return Ok((Gates::Pass, vec![], 0));
    }
    let Some(Measured { evidence, flows }) = evidence::gather(conn, rollout, now_s).await? else {
        let horizon_s = rollout.plan.plan.horizon_s;
        let why = format!("no connection of this step is older than the horizon of {horizon_s} s yet");
        return Ok((Gates::Wait(why), vec![], 0));
    };
    let judgement =
        gates::gates(&evidence).map_err(|error| Error::corrupt(format!("what {} measured", rollout.name), error))?;
    Ok((said(&judgement), judgement.results, flows))
}

fn said(judgement: &Judgement) -> Gates {
    let reasons = |verdicts: &[GateVerdict]| {
        let of = judgement.results.iter().filter(|result| verdicts.contains(&result.verdict()));
        of.map(|result| result.reason.as_str()).collect::<Vec<_>>().join(" ")
    };
    match judgement.step {
        StepVerdict::GoOn => Gates::Pass,
        StepVerdict::RollBack => Gates::Fail(reasons(&[GateVerdict::Fail])),
        StepVerdict::Wait => Gates::Wait(reasons(&[GateVerdict::Inconclusive, GateVerdict::NoData])),
    }
}
