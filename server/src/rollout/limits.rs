//! What may keep a rollout from starting: freeze windows, locks between rollouts, and limits on how much may go wrong at once.

use std::collections::{BTreeMap, BTreeSet};

use sockpilot_policy::model::{Labels, LayerName};
use sockpilot_proto::{convert::policy_from_proto, v1};
use sockpilot_rollout::{freeze::holding, plan::Place};

use super::record::Rollout;
use crate::{
    change::{
        document::Document,
        reach::Seen,
        target::{carries, one_node, percent},
    },
    store::{Result, connection::PgConnection, control, layer, node, rollout, rollout_plan},
};

/// A kind of obstacle, and a sentence with the remedy.
pub type Obstacle = (&'static str, String);

/// All that stands in the way of starting a rollout now.
///
/// # Errors
/// If the database fails.
pub async fn obstacles(conn: &mut PgConnection, draft: &Rollout) -> Result<Vec<Obstacle>> {
    let settings = rollout_plan::settings(&mut *conn).await?;
    let now = control::now(&mut *conn).await?;
    let mut found = vec![];
    if let Some(window) = holding(&settings.windows, now) {
        let why = format!("nothing may begin now: {}. Wait, or break the glass with a reason", window.description);
        found.push(("FREEZE", why));
    }
    let nodes = node::seen(&mut *conn).await?;
    let others: Vec<_> = rollout::active(&mut *conn).await?;
    let others: Vec<_> =
        others.into_iter().filter(|other| other.policy != draft.policy && other.is_on_nodes()).collect();
    let labels = layer::document(&mut *conn, &draft.policy, Some(draft.revision)).await?.node_labels();
    found.extend(too_many(&settings.message, draft, &labels, &nodes, &others));
    found.extend(lopsided(&settings.message, draft, &labels, &nodes));
    // Two revisions are read and compared for it.
    let touched = if others.is_empty() { BTreeSet::new() } else { touched(&mut *conn, draft).await? };
    for other in &others {
        let theirs = self::touched(&mut *conn, other).await?;
        let their_labels = layer::document(&mut *conn, &other.policy, Some(other.revision)).await?.node_labels();
        if let Some(parameter) = touched.intersection(&theirs).next()
            && meet(&labels, &their_labels, &nodes)
        {
            let why = format!(
                "{} changes {parameter} on some of the same nodes, so that neither could be told from the other. Wait until it is over, or break the \
                 glass with a reason",
                other.name
            );
            found.push(("LOCK", why));
        }
    }
    Ok(found)
}

/// Waves that limits hold for: all but the last, which comes when the others have passed.
fn bounded(rollout: &Rollout) -> std::ops::RangeInclusive<usize> {
    let waves = rollout.plan.selectors.len();
    1..=(waves - 1).max(1)
}

/// The nodes of a wave and those before it.
fn up_to<'a>(rollout: &Rollout, wave: usize, labels: &Labels, nodes: &'a [Seen]) -> Vec<&'a Seen> {
    let canary = rollout.plan.canary(Place { wave, step: 1 }, &rollout.salt);
    let of = nodes.iter().filter(|node| carries(&node.labels, labels));
    of.filter(|node| canary.wave_of(&node.candidate()).is_some()).collect()
}

fn too_many(
    settings: &v1::RolloutSettings,
    draft: &Rollout,
    labels: &Labels,
    nodes: &[Seen],
    others: &[Rollout],
) -> Option<Obstacle> {
    let most_bp = settings.max_nodes_bp;
    let given = others.iter().filter(|other| other.machine.place.wave > 0);
    let canaries: Vec<_> = given.map(|other| other.plan.canary(other.machine.place, &other.salt)).collect();
    let elsewhere = |node: &Seen| canaries.iter().any(|canary| canary.wave_of(&node.candidate()).is_some());
    let busy: BTreeSet<&str> = nodes.iter().filter(|node| elsewhere(node)).map(|node| node.id.as_str()).collect();
    let over = bounded(draft).find_map(|wave| {
        let mut given = busy.clone();
        given.extend(up_to(draft, wave, labels, nodes).iter().map(|node| node.id.as_str()));
        (most_bp > 0 && given.len() * 10_000 > nodes.len() * most_bp as usize).then_some((wave, given.len()))
    });
    let (wave, given) = over?;
    let (all, most) = (nodes.len(), percent(most_bp));
    let why = format!(
        "with wave {wave}, {given} of {all} nodes would have a revision that is not through, and {most}% may. Make the wave smaller, wait for other \
         rollouts, or break the glass with a reason"
    );
    Some(("BLAST_RADIUS", why))
}

fn lopsided(settings: &v1::RolloutSettings, draft: &Rollout, labels: &Labels, nodes: &[Seen]) -> Option<Obstacle> {
    let (label, most_bp) = (&settings.failure_domain_label, settings.max_failure_domain_bp);
    if label.is_empty() || draft.plan.selectors.len() < 2 {
        return None;
    }
    let mut all: BTreeMap<&str, usize> = BTreeMap::new();
    for domain in nodes.iter().filter_map(|node| node.labels.get(label)) {
        *all.entry(domain.as_str()).or_default() += 1;
    }
    let over = bounded(draft).find_map(|wave| {
        let mut given: BTreeMap<&str, usize> = BTreeMap::new();
        for domain in up_to(draft, wave, labels, nodes).into_iter().filter_map(|node| node.labels.get(label)) {
            *given.entry(domain.as_str()).or_default() += 1;
        }
        // A single node of a small domain is always allowed.
        let over = |(domain, given): (&str, usize)| {
            let of = all.get(domain).copied().unwrap_or_default();
            (given > 1 && given * 10_000 > of * most_bp as usize).then_some((wave, domain.to_owned(), given, of))
        };
        given.into_iter().find_map(over)
    });
    let (wave, domain, given, of) = over?;
    let most = percent(most_bp);
    let why = format!(
        "wave {wave} would have {given} of the {of} nodes with {label}={domain}, and {most}% of one may be in it. Make the wave smaller, or break the \
         glass with a reason"
    );
    Some(("BLAST_RADIUS", why))
}

/// Whether some node carries both sets of labels; without any node, whether one could.
fn meet(a: &Labels, b: &Labels, nodes: &[Seen]) -> bool {
    let of_both = |node: &Seen| carries(&node.labels, a) && carries(&node.labels, b);
    one_node(a, b) && (nodes.is_empty() || nodes.iter().any(of_both))
}

/// The parameters in which a rollout's revision differs from what everyone had.
async fn touched(conn: &mut PgConnection, rollout: &Rollout) -> Result<BTreeSet<&'static str>> {
    let new = rules(&mut *conn, &rollout.policy, Some(rollout.revision)).await?;
    let old = match rollout.good_revision {
        Some(good) => rules(conn, &rollout.policy, Some(good)).await?,
        None => vec![],
    };
    let differs = new.iter().filter(|rule| !old.contains(rule)).chain(old.iter().filter(|rule| !new.contains(rule)));
    Ok(differs.flat_map(|rule| rule.1.iter().copied()).collect())
}

/// Rules in their order, with what they set.
type Set = (String, BTreeSet<&'static str>);

async fn rules(conn: &mut PgConnection, policy: &LayerName, revision: Option<u64>) -> Result<Vec<Set>> {
    let Document::Policy(policy) = layer::document(conn, policy, revision).await? else { return Ok(vec![]) };
    let Ok(policy) = policy_from_proto(&policy, "") else { return Ok(vec![]) };
    let of_rule = |rule: sockpilot_policy::model::Rule| {
        let names = rule.set.iter().filter_map(|(slot, _)| sockpilot_policy::parameter::PARAMETERS.get(slot));
        let names = names.map(|parameter| parameter.name).collect();
        (format!("{rule:?}"), names)
    };
    Ok(policy.rules.into_iter().map(of_rule).collect())
}
