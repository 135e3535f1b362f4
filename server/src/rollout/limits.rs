//! What may keep a rollout from starting: freeze windows, locks between rollouts, and limits on how much may go wrong at once.

use std::collections::{BTreeMap, BTreeSet};

use sockpilot_policy::model::Labels;
use sockpilot_proto::{convert::policy_from_proto, v1};
use sockpilot_rollout::{
    freeze::holding,
    plan::{ALL_FLOWS_BP, Place},
};
use sockpilot_simulate::Tally;

use super::record::{Rollout, RolloutPlan};
use crate::{
    change::{
        document::Document,
        reach::Seen,
        target::{carries, one_node, percent},
    },
    fleet::preview::recent,
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
    let draft = Revised::read(&mut *conn, draft.clone()).await?;
    let mut others = vec![];
    for other in rollout::active(&mut *conn).await? {
        if other.policy != draft.rollout.policy && other.is_on_nodes() {
            others.push(Revised::read(&mut *conn, other).await?);
        }
    }
    found.extend(too_many(&settings.message, &draft, &nodes, &others));
    found.extend(lopsided(&settings.message, &draft, &nodes));
    found.extend(others.iter().filter_map(|other| locked(&draft, other, &nodes)));
    if settings.message.max_flows_bp > 0 {
        let Rollout { policy, revision, good_revision, .. } = &draft.rollout;
        let touched = recent(conn, policy, *revision, *good_revision).await?;
        found.extend(too_many_flows(settings.message.max_flows_bp, &draft, &nodes, &touched));
    }
    Ok(found)
}

/// A rollout, and what its revision says.
struct Revised {
    rollout: Rollout,
    /// Of the nodes that it is for.
    labels: Labels,
    /// The parameters in which it differs from what everyone had.
    touched: BTreeSet<&'static str>,
}

impl Revised {
    async fn read(conn: &mut PgConnection, rollout: Rollout) -> Result<Self> {
        let new = layer::document(&mut *conn, &rollout.policy, Some(rollout.revision)).await?;
        let labels = new.node_labels();
        let old = match rollout.good_revision {
            Some(good) => rules(layer::document(conn, &rollout.policy, Some(good)).await?),
            None => vec![],
        };
        let new = rules(new);
        let differs =
            new.iter().filter(|rule| !old.contains(rule)).chain(old.iter().filter(|rule| !new.contains(rule)));
        let touched = differs.flat_map(|rule| rule.1.iter().copied()).collect();
        Ok(Self { rollout, labels, touched })
    }

    /// The nodes that have it at a place.
    fn at<'a>(&self, place: Place, nodes: &'a [Seen]) -> impl Iterator<Item = &'a Seen> {
        let canary = self.rollout.plan.canary(place, &self.rollout.salt);
        let of = nodes.iter().filter(|node| carries(&node.labels, &self.labels));
        of.filter(move |node| canary.wave_of(&node.candidate()).is_some())
    }

    /// Waves that limits hold for: all but the last, which comes when the others have passed.
    fn bounded(&self) -> impl Iterator<Item = Place> {
        let waves = self.rollout.plan.selectors.len();
        (1..=(waves - 1).max(1)).map(|wave| Place { wave, step: 1 })
    }
}

/// Rules in their order, with what they set.
fn rules(document: Document) -> Vec<(String, BTreeSet<&'static str>)> {
    let Document::Policy(policy) = document else { return vec![] };
    let Ok(policy) = policy_from_proto(&policy, "") else { return vec![] };
    let of_rule = |rule: sockpilot_policy::model::Rule| {
        let names = rule.set.iter().filter_map(|(slot, _)| sockpilot_policy::parameter::PARAMETERS.get(slot));
        let names = names.map(|parameter| parameter.name).collect();
        (format!("{rule:?}"), names)
    };
    policy.rules.into_iter().map(of_rule).collect()
}

fn locked(draft: &Revised, other: &Revised, nodes: &[Seen]) -> Option<Obstacle> {
    let parameter = draft.touched.intersection(&other.touched).next()?;
    meet(&draft.labels, &other.labels, nodes).then(|| {
        let why = format!(
            "{} changes {parameter} on some of the same nodes, so that neither could be told from the other. Wait until it is over, or break the \
             glass with a reason",
            other.rollout.name
        );
        ("LOCK", why)
    })
}

/// Whether some node carries both sets of labels; without any node, whether one could.
fn meet(a: &Labels, b: &Labels, nodes: &[Seen]) -> bool {
    let of_both = |node: &Seen| carries(&node.labels, a) && carries(&node.labels, b);
    one_node(a, b) && (nodes.is_empty() || nodes.iter().any(of_both))
}

fn too_many(settings: &v1::RolloutSettings, draft: &Revised, nodes: &[Seen], others: &[Revised]) -> Option<Obstacle> {
    let most_bp = settings.max_nodes_bp;
    let given = others.iter().filter(|other| other.rollout.machine.place.wave > 0);
    let busy = given.flat_map(|other| other.at(other.rollout.machine.place, nodes));
    let busy: BTreeSet<&str> = busy.map(|node| node.id.as_str()).collect();
    let over = draft.bounded().find_map(|place| {
        let mut given = busy.clone();
        given.extend(draft.at(place, nodes).map(|node| node.id.as_str()));
        (most_bp > 0 && given.len() * 10_000 > nodes.len() * most_bp as usize).then_some((place.wave, given.len()))
    });
    let (wave, given) = over?;
    let (all, most) = (nodes.len(), percent(most_bp));
    let why = format!(
        "with wave {wave}, {given} of {all} nodes would have a revision that is not through, and {most}% may. Make the wave smaller, wait for other \
         rollouts, or break the glass with a reason"
    );
    Some(("BLAST_RADIUS", why))
}

fn lopsided(settings: &v1::RolloutSettings, draft: &Revised, nodes: &[Seen]) -> Option<Obstacle> {
    let (label, most_bp) = (&settings.failure_domain_label, settings.max_failure_domain_bp);
    if label.is_empty() || draft.rollout.plan.selectors.len() < 2 {
        return None;
    }
    let mut all: BTreeMap<&str, usize> = BTreeMap::new();
    for domain in nodes.iter().filter_map(|node| node.labels.get(label)) {
        *all.entry(domain.as_str()).or_default() += 1;
    }
    let over = draft.bounded().find_map(|place| {
        let mut given: BTreeMap<&str, usize> = BTreeMap::new();
        for domain in draft.at(place, nodes).filter_map(|node| node.labels.get(label)) {
            *given.entry(domain.as_str()).or_default() += 1;
        }
        // A single node of a small domain is always allowed.
        let over = |(domain, given): (&str, usize)| {
            let of = all.get(domain).copied().unwrap_or_default();
            (given > 1 && given * 10_000 > of * most_bp as usize).then_some((place.wave, domain.to_owned(), given, of))
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

/// Where nothing was recorded, nothing is known, and nothing is held back for it.
fn too_many_flows(
    most_bp: u32,
    draft: &Revised,
    nodes: &[Seen],
    touched: &BTreeMap<String, Tally>,
) -> Option<Obstacle> {
    let plan = &draft.rollout.plan;
    let last = plan.canary(Place { wave: plan.selectors.len(), step: 1 }, &draft.rollout.salt);
    // Of the whole fleet, of which connections are changed by wave.
    let all = touched.values().fold(Tally::default(), |sum, tally| sum.plus(tally));
    let mut by_wave = vec![0.0; plan.selectors.len()];
    for node in nodes.iter().filter(|node| carries(&node.labels, &draft.labels)) {
        if let (Some(wave), Some(tally)) = (last.wave_of(&node.candidate()), touched.get(&node.id)) {
            by_wave[wave] += tally.touched();
        }
    }
    let (place, share) = flows_at(plan, &by_wave, all.connections())
        .find(|(_, share)| share * f64::from(ALL_FLOWS_BP) > f64::from(most_bp) + ROUNDING_BP)?;
    let (recorded, most) = (all.share().recorded, percent(most_bp));
    let why = format!(
        "step {} of wave {} would change {:.2}% of connections, by {recorded} that were recorded in the last hour, and {most}% may be changed before the \
         last step. Make its share of connections or its wave smaller, or break the glass with a reason",
        place.step,
        place.wave,
        share * 100.0
    );
    Some(("BLAST_RADIUS", why))
}

/// Sums of weights are not exact to the last bit.
const ROUNDING_BP: f64 = 1e-6;

/// The share of all connections that each step changes, but for the last one, which comes when the others have passed; of a single step that one.
fn flows_at(plan: &RolloutPlan, by_wave: &[f64], all: f64) -> impl Iterator<Item = (Place, f64)> {
    let first = Place { wave: 1, step: 1 };
    let steps = std::iter::successors(Some(first), |place| plan.plan.next(*place));
    let bounded = steps.filter(move |place| *place == first || plan.plan.next(*place).is_some());
    bounded.filter(move |_| all > 0.0).map(move |place| {
        let before: f64 = by_wave[..place.wave - 1].iter().sum();
        let share = f64::from(plan.plan.flow_share_bp(place)) / f64::from(ALL_FLOWS_BP);
        (place, (before + by_wave[place.wave - 1] * share) / all)
    })
}
