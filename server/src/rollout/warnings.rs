//! What is to be known of a rollout that nothing forbids.

use std::collections::BTreeMap;

use sockpilot_judge::words::duration;
use sockpilot_policy::{compile::compile, facts::KernelFacts};
use sockpilot_proto::{
    convert::{kernel_facts_from_proto, snapshot_from_proto},
    v1,
};
use sockpilot_rollout::{
    machine::State,
    plan::{ALL_FLOWS_BP, Place},
};

use super::{
    evidence::SETTLE_S,
    limits::obstacles,
    preview::{Expected, expected},
    record::Rollout,
};
use crate::{
    change::{document::Document, notes::Warning, reach::counted, target::carries},
    fleet::{
        node::KnownNode,
        resolve::Revision,
        simulation::{Flows, SINCE_S},
    },
    store::{Error, Result, connection::PgConnection, control, layer, node, rollout_plan, sample, zone},
};

/// Nodes that a sentence names.
const NAMED_MAX: usize = 5;

/// All that is to be known of a rollout that is not over, as it is now; of one that goes back nothing.
///
/// # Errors
/// If the database fails.
pub async fn warnings(conn: &mut PgConnection, rollout: &Rollout) -> Result<Vec<Warning>> {
    if !matches!(rollout.machine.state, State::Draft | State::Running | State::Paused) {
        return Ok(vec![]);
    }
    let document = layer::document(&mut *conn, &rollout.policy, Some(rollout.revision)).await?;
    let labels = document.node_labels();
    let mut said = vec![];
    if rollout.machine.state == State::Draft {
        let obstacles = obstacles(&mut *conn, rollout).await?;
        said.extend(obstacles.into_iter().map(|(_, why)| format!("it could not start now: {why}")));
    }
    let seen = node::seen(&mut *conn).await?;
    let of_policy: Vec<_> = seen.iter().filter(|node| carries(&node.labels, &labels)).collect();
    let away: Vec<_> = of_policy.iter().filter(|node| !node.connected).map(|node| node.id.as_str()).collect();
    said.extend(unconnected(&away, of_policy.len()));
    let nodes = node::all(&mut *conn).await?;
    let nodes = nodes.into_iter().filter(|(_, node)| carries(&node.labels, &labels));
    said.extend(unable(&mut *conn, rollout, document, nodes).await?);
    said.extend(blind(&mut *conn).await?);
    said.extend(slow_gates(conn, rollout).await?);
    Ok(said.into_iter().map(|why| Warning::new("", why)).collect())
}

/// `a, b and 3 more`
fn named(nodes: &[&str]) -> String {
    match nodes.len().saturating_sub(NAMED_MAX) {
        0 => nodes.join(", "),
        more => format!("{} and {more} more", nodes[..NAMED_MAX].join(", ")),
    }
}

fn unconnected(away: &[&str], all: usize) -> Option<String> {
    let (is, it) = if away.len() == 1 {
        ("is", "it gets the revision when it is")
    } else {
        ("are", "they get the revision when they are")
    };
    let why =
        || format!("{} of {} that it is for {is} not connected ({}); {it}", away.len(), counted(all), named(away));
    (!away.is_empty()).then(why)
}

/// Nodes whose kernels cannot honour the revision, by what they would say.
async fn unable(
    conn: &mut PgConnection,
    rollout: &Rollout,
    document: Document,
    nodes: impl Iterator<Item = (String, KnownNode)>,
) -> Result<Vec<String>> {
    let layer = Revision::of(rollout.policy.clone(), rollout.revision, document).layer;
    let zones = zone::get(conn).await?.zones;
    let corrupt = |faults| Error::corrupt(format!("{}@{}", rollout.policy, rollout.revision), faults);
    let snapshot = snapshot_from_proto(&v1::Layers { layers: vec![layer], zones }).map_err(corrupt)?;
    // Many kernels are alike.
    let mut known: Vec<(KernelFacts, Option<String>)> = vec![];
    let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (id, node) in nodes {
        let facts = kernel_facts_from_proto(&node.kernel)
            .map_err(|faults| Error::corrupt(format!("kernel facts of nodes/{id}"), faults))?;
        let why = match known.iter().find(|(of, _)| *of == facts) {
            Some((_, why)) => why.clone(),
            None => {
                let first = compile(&snapshot, &facts, 0, 0).err().and_then(|violations| violations.into_iter().next());
                let why = first.map(|violation| format!("{}: {}", violation.fault.field, violation.fault.description));
                known.push((facts, why.clone()));
                why
            }
        };
        if let Some(why) = why {
            refused.entry(why).or_default().push(id);
        }
    }
    let sentence = |(why, ids): (String, Vec<String>)| {
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        format!("{} ({}) cannot honour it: {why}", counted(ids.len()), named(&ids))
    };
    Ok(refused.into_iter().map(sentence).collect())
}

/// That a limit holds nothing back because nothing is known.
async fn blind(conn: &mut PgConnection) -> Result<Option<String>> {
    let limited = rollout_plan::settings(&mut *conn).await?.message.max_flows_bp > 0;
    if !limited {
        return Ok(None);
    }
    let now_s = control::now(&mut *conn).await?.timestamp();
    let found = sample::recent(conn, Flows::default().ended_s(now_s), None, 1).await?;
    let why = || {
        let since = duration(SINCE_S.unsigned_abs());
        format!(
            "no connection was recorded in the last {since}, so how many it changes is not known, and the limit on that (max_flows_bp) holds \
             nothing back"
        )
    };
    Ok(found.samples.is_empty().then(why))
}

/// Gates that cannot pass in time at the present traffic, even if there is no harm.
async fn slow_gates(conn: &mut PgConnection, rollout: &Rollout) -> Result<Vec<String>> {
    let Rollout { plan, machine, gates, .. } = rollout;
    let place = machine.place;
    if plan.gates.is_empty() || plan.plan.flow_share_bp(place) == ALL_FLOWS_BP {
        return Ok(vec![]);
    }
    let deadline_s = plan.plan.wave(place).deadline_s;
    let (gates, left_s) = if gates.is_empty() {
        let Expected { gates, seen } =
            expected(conn, (&rollout.policy, rollout.revision), (plan, &rollout.salt), place).await?;
        if !seen {
            let why = "no connection of the policy was measured in the last hour; without any its gates have no data, and do not pass";
            return Ok(vec![why.to_owned()]);
        }
        (gates, deadline_s - i64::from(plan.plan.horizon_s) - SETTLE_S)
    } else {
        let now_s = control::now(conn).await?.timestamp();
        (gates.clone(), machine.step_s + deadline_s - now_s)
    };
    let slow = gates.iter().filter(|gate| i64::try_from(gate.needed_s).unwrap_or(i64::MAX) > left_s.max(0));
    Ok(slow.map(|gate| too_slow(gate, place, left_s, plan.plan.rolls_back_at_deadline)).collect())
}

fn too_slow(gate: &v1::GateResult, place: Place, left_s: i64, rolls_back: bool) -> String {
    let metric = gate.gate.as_ref().map_or("a gate", |gate| gate.metric.as_str());
    let then = if rolls_back { "rolled back" } else { "paused" };
    format!(
        "{metric} needs about {} at the present traffic until it can pass, and step {} of wave {} has {} for it, then it is {then}. Give the wave a \
         longer deadline or a greater share of connections, or the gate a greater margin",
        duration(gate.needed_s),
        place.step,
        place.wave.max(1),
        duration(left_s.max(0).unsigned_abs()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_those_of_the_nodes() {
        assert_eq!(unconnected(&[], 3), None);
        let one = unconnected(&["a"], 3).expect("one is away");
        assert_eq!(one, "1 of 3 nodes that it is for is not connected (a); it gets the revision when it is");
        let many = unconnected(&["a", "b", "c", "d", "e", "f", "g"], 9).expect("seven are away");
        assert!(
            many.starts_with("7 of 9 nodes that it is for are not connected (a, b, c, d, e and 2 more);"),
            "{many}"
        );
    }

    #[test]
    fn a_gate_that_is_too_slow_says_what_helps() {
        let gate = v1::Gate { metric: "srtt".to_owned(), margin_bp: 0 };
        let gate = v1::GateResult { gate: Some(gate), needed_s: 9_000, ..v1::GateResult::default() };
        let said = too_slow(&gate, Place { wave: 2, step: 1 }, 3_525, false);
        assert!(said.starts_with("srtt needs about 3 hours at the present traffic until it can pass"), "{said}");
        assert!(said.contains("step 1 of wave 2 has 59 minutes for it, then it is paused"), "{said}");
    }
}
