//! What the gates of a step are judged on.

use std::collections::BTreeMap;

use sockpilot_judge::acts_in_handshake;
use sockpilot_policy::model::Parameters;
use sockpilot_proto::{cell::measured_to_proto, convert::policy_from_proto, v1};

use super::record::Rollout;
use crate::{
    change::document::Document,
    store::{
        Result,
        connection::PgConnection,
        experiment, layer,
        measured::{self, NodePeriod},
        rollout_nodes,
    },
};

/// How long after their horizon connections are waited for, in seconds: a node looks at those that are open every ten seconds and reports
/// every second, if it is not told otherwise, and a look takes a while where there are many. Less would miss the slow ones, and so let harm
/// pass; more lets it last. (Experiments have time, so they wait longer.)
pub(super) const SETTLE_S: i64 = 15;
/// Before a step with all connections: as much of the time as after it, and at most so much, in seconds.
const BEFORE_S_MAX: i64 = 3_600;

/// The evidence, and how many connections of the canary are in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub evidence: v1::RolloutEvidence,
    pub flows: u64,
}

/// Puts together what was measured of the present step: of connections whose horizon has passed. `None`: none can have been yet.
///
/// # Errors
/// If the database fails.
pub async fn gather(conn: &mut PgConnection, rollout: &Rollout, now_s: i64) -> Result<Option<Measured>> {
    let Some(from_s) = rollout.machine.in_force_s else { return Ok(None) };
    let plan = &rollout.plan.plan;
    let to_s = now_s - i64::from(plan.horizon_s) - SETTLE_S;
    if to_s <= from_s {
        return Ok(None);
    }
    let (comparison, flows) = match rollout.is_of_shares() {
        true => split(&mut *conn, rollout, (from_s, to_s)).await?,
        false => nodes(&mut *conn, rollout, (from_s, to_s)).await?,
    };
    let place = rollout.machine.place;
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let evidence = v1::RolloutEvidence {
        rollout: rollout.name.clone(),
        wave: number(place.wave),
        step: number(place.step),
        gates: rollout.plan.message.gates.clone(),
        false_alarm_bp: plan.false_alarm_bp,
        steps: number(plan.judged_steps()),
        measures: rollout.plan.measures(),
        horizon_s: plan.horizon_s,
        duration_s: u32::try_from(to_s - from_s).unwrap_or(u32::MAX),
        unchanged: place.wave == 0,
        // Only connections beside each other are adjusted by the handshake.
        handshake_differs: rollout.is_of_shares() && handshake_differs(conn, rollout).await?,
        comparison: Some(comparison),
    };
    Ok(Some(Measured { evidence, flows }))
}

type Comparison = v1::rollout_evidence::Comparison;

async fn split(conn: &mut PgConnection, rollout: &Rollout, (from_s, to_s): (i64, i64)) -> Result<(Comparison, u64)> {
    let revision = rollout.revision.cast_signed();
    let found = experiment::measured_between(conn, &rollout.name, revision, (from_s, to_s)).await?;
    let part = |name: &str| found.get(name);
    let flows = part("canary").map_or(0, |measured| measured.attempts.count);
    let split = v1::SplitEvidence {
        canary: part("canary").map(measured_to_proto),
        control: part("control").map(measured_to_proto),
    };
    Ok((Comparison::Split(split), flows))
}

/// By node, before and after the step began.
async fn nodes(conn: &mut PgConnection, rollout: &Rollout, (from_s, to_s): (i64, i64)) -> Result<(Comparison, u64)> {
    let before_s = from_s - (to_s - from_s).min(BEFORE_S_MAX);
    let revision = rollout.revision.cast_signed();
    let found = measured::by_node(&mut *conn, &rollout.name, revision, (before_s, from_s, to_s)).await?;
    let members: BTreeMap<String, i16> = rollout_nodes::members(conn, &rollout.policy).await?.into_iter().collect();
    let wave = i16::try_from(rollout.machine.place.wave).unwrap_or(i16::MAX);
    let (mut nodes, mut flows) = (vec![], 0);
    for (node_id, NodePeriod { before, with, without }) in found {
        let reached = match members.get(&node_id) {
            Some(of) if *of == wave => true,
            Some(_) => continue,
            None => false,
        };
        let after = if reached { with } else { without };
        flows += if reached { after.attempts } else { 0 };
        nodes.push(v1::NodeEvidence {
            node: format!("nodes/{node_id}"),
            reached,
            before: Some(before),
            after: Some(after),
        });
    }
    Ok((Comparison::Nodes(v1::NodesEvidence { nodes }), flows))
}

/// Whether the revisions differ in what acts before a connection is established. All that is not known counts as a difference.
async fn handshake_differs(conn: &mut PgConnection, rollout: &Rollout) -> Result<bool> {
    if rollout.machine.place.wave == 0 {
        return Ok(false);
    }
    let mut sets = vec![];
    for revision in [Some(rollout.revision), rollout.good_revision] {
        let Some(revision) = revision else { return Ok(true) };
        let Document::Policy(policy) = layer::document(&mut *conn, &rollout.policy, Some(revision)).await? else {
            return Ok(true);
        };
        let Ok(policy) = policy_from_proto(&policy, "") else { return Ok(true) };
        sets.push(policy.rules.into_iter().map(|rule| (rule.matches, early(&rule.set))).collect::<Vec<_>>());
    }
    Ok(sets.first() != sets.last())
}

/// Of what a rule sets, what acts in the handshake.
fn early(set: &Parameters) -> Vec<(usize, String)> {
    let early = set.iter().filter(|(slot, _)| acts_in_handshake(*slot));
    early.map(|(slot, value)| (slot, value.to_string())).collect()
}
