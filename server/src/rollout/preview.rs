//! What a rollout would do, before it begins.

use sockpilot_judge::gates::{self, Present};
use sockpilot_policy::{
    model::{LayerName, Rule},
    parameter::PARAMETERS,
};
use sockpilot_proto::{cell::size_class_from_proto, convert::policy_from_proto, v1};
use sockpilot_rollout::plan::{ALL_FLOWS_BP, Place};
use sockpilot_simulate::Tally;

use super::{
    begin::{self, Held, Options},
    record::RolloutPlan,
};
use crate::{
    change::{document::Document, reach::Seen, target::carries, wave::Selector},
    fleet::preview::recent,
    outcome::query::Filter,
    store::{Result, connection::PgConnection, control, layer, node, outcome},
};

/// Names of nodes in a preview.
const NAMES_MAX: usize = 10_000;
/// How long before now the traffic is looked at, in seconds.
const LOOK_BACK_S: i64 = 3_600;

/// Says it.
///
/// # Errors
/// If there is no such policy, revision or plan, or the database fails.
pub async fn preview(
    conn: &mut PgConnection,
    policy: &LayerName,
    revision: u64,
    options: &Options,
) -> Result<v1::RolloutPreview> {
    let plan = begin::plan(&mut *conn, &options.plan).await?;
    let document = layer::document(&mut *conn, policy, Some(revision)).await?;
    let nodes = node::seen(&mut *conn).await?;
    let labels = document.node_labels();
    let of_policy: Vec<&Seen> = nodes.iter().filter(|node| carries(&node.labels, &labels)).collect();
    let waves = waves(&plan, &options.salt, &of_policy);
    let good = Held::of(&mut *conn, policy).await?.everyone;
    let before = match good {
        Some(everyone) => Some(layer::document(&mut *conn, policy, Some(everyone)).await?),
        None => None,
    };
    let differences = differences(before.as_ref(), &document);
    let first = Place { wave: 1, step: 1 };
    let gates = expected(&mut *conn, (policy, revision), (&plan, &options.salt), first).await?.gates;
    let flows = flows(recent(conn, policy, revision, good).await?.values());
    Ok(v1::RolloutPreview { waves, differences, flows, gates })
}

/// Of all nodes, also of those that the policy is not for.
fn flows<'a>(touched: impl Iterator<Item = &'a Tally>) -> Option<v1::PreviewFlows> {
    let all = touched.fold(Tally::default(), |sum, tally| sum.plus(tally));
    let v1::TouchedShare { share: touched_share, lower, upper, recorded: samples, .. } = all.share();
    (samples > 0).then_some(v1::PreviewFlows { touched_share, lower, upper, samples })
}

fn waves(plan: &RolloutPlan, salt: &str, nodes: &[&Seen]) -> Vec<v1::PreviewWave> {
    let last = plan.selectors.len();
    let canary = plan.canary(Place { wave: last, step: 1 }, salt);
    let mut members: Vec<Vec<&Seen>> = vec![vec![]; last];
    for node in nodes {
        if let Some(at) = canary.wave_of(&node.candidate()) {
            members[at].push(node);
        }
    }
    let mut named = 0;
    let wave = |(at, (selector, of)): (usize, (&Option<Selector>, &Vec<&Seen>))| {
        let room = NAMES_MAX.saturating_sub(named).min(of.len());
        named += room;
        v1::PreviewWave {
            wave: u32::try_from(at + 1).unwrap_or(u32::MAX),
            selector: selector.as_ref().map_or_else(|| "all nodes".to_owned(), ToString::to_string),
            nodes: of[..room].iter().map(|node| format!("nodes/{}", node.id)).collect(),
            node_count: u32::try_from(of.len()).unwrap_or(u32::MAX),
        }
    };
    plan.selectors.iter().zip(&members).enumerate().map(wave).collect()
}

/// By rule and parameter, in words.
fn differences(before: Option<&Document>, after: &Document) -> Vec<String> {
    let rules = |document: Option<&Document>| match document {
        Some(Document::Policy(policy)) => policy_from_proto(policy, "").map(|policy| policy.rules).unwrap_or_default(),
        _ => vec![],
    };
    let (old, new) = (rules(before), rules(Some(after)));
    let named = |rules: &[Rule], rule: &Rule| rules.iter().find(|other| other.name == rule.name).cloned();
    let mut said = vec![];
    for rule in &new {
        match named(&old, rule) {
            None => said.push(format!("rule {} is new", rule.name)),
            Some(before) => said.extend(of_rule(&before, rule)),
        }
    }
    said.extend(old.iter().filter(|rule| named(&new, rule).is_none()).map(|rule| format!("rule {} goes", rule.name)));
    let order = |rules: &[Rule], others: &[Rule]| -> Vec<String> {
        let both = rules.iter().filter(|rule| others.iter().any(|other| other.name == rule.name));
        both.map(|rule| rule.name.to_string()).collect()
    };
    if order(&old, &new) != order(&new, &old) {
        said.push("rules are asked in another order".to_owned());
    }
    said
}

fn of_rule(before: &Rule, after: &Rule) -> Vec<String> {
    let mut said = vec![];
    if before.matches != after.matches {
        said.push(format!("rule {} is for other connections", after.name));
    }
    if before.apply_to != after.apply_to || before.if_unsupported != after.if_unsupported {
        said.push(format!("rule {} is applied otherwise", after.name));
    }
    for (slot, parameter) in PARAMETERS.iter().enumerate() {
        let (old, new) = (before.set.get(slot), after.set.get(slot));
        if old != new {
            let word = |value: Option<&sockpilot_policy::model::Value>| {
                value.map_or_else(|| "nothing".to_owned(), ToString::to_string)
            };
            said.push(format!("rule {}: {} from {} to {}", after.name, parameter.name, word(old), word(new)));
        }
    }
    said
}

/// How long gates take.
#[derive(Debug)]
pub struct Expected {
    pub gates: Vec<v1::GateResult>,
    /// Whether any connection of the policy was seen that says so.
    pub seen: bool,
}

/// How long each gate takes in a step with a share of connections, if they are spread evenly over the nodes of the policy.
///
/// # Errors
/// If the database fails.
pub async fn expected(
    conn: &mut PgConnection,
    (policy, revision): (&LayerName, u64),
    (plan, salt): (&RolloutPlan, &str),
    place: Place,
) -> Result<Expected> {
    if plan.gates.is_empty() {
        return Ok(Expected { gates: vec![], seen: true });
    }
    let labels = layer::document(&mut *conn, policy, Some(revision)).await?.node_labels();
    let nodes = node::seen(&mut *conn).await?;
    let of_policy: Vec<&Seen> = nodes.iter().filter(|node| carries(&node.labels, &labels)).collect();
    let canary = plan.canary(place, salt);
    let of_wave =
        of_policy.iter().filter(|node| canary.wave_of(&node.candidate()) == Some(place.wave.max(1) - 1)).count();
    let share_of_nodes = of_wave as f64 / of_policy.len().max(1) as f64;
    let now_s = control::now(&mut *conn).await?.timestamp();
    let filter = Filter {
        name: policy.clone(),
        revision: 0,
        start_s: Some(now_s - LOOK_BACK_S),
        since_s: None,
        end_s: Some(now_s),
        direction: 0,
        node_id: String::new(),
        by_size_class: true,
    };
    let found = outcome::query(conn, &filter).await?.rows;
    let seen: Vec<_> =
        found.into_iter().filter_map(|(key, sums)| Some((size_class_from_proto(key.size_class)?, sums))).collect();
    let any = !seen.is_empty();
    let canary_share = share_of_nodes * f64::from(plan.plan.flow_share_bp(place)) / f64::from(ALL_FLOWS_BP);
    let gates = gates::preview(&plan.gates, &Present { seen, seconds: LOOK_BACK_S as f64, canary_share });
    Ok(Expected { gates, seen: any })
}
