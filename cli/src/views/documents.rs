//! Documents as tables.

pub mod plans;

use crate::document::Document;
use crate::format::{self, NONE};
use crate::schema;
use crate::table::{Table, one_line};
use crate::tree::Tree;
use crate::views::amount;
use crate::views::experiment::role;
use prost_reflect::DynamicMessage;
use sockpilot_proto::v1;

/// Buckets of an experiment; a basis point is one.
const BUCKETS: u32 = 10_000;

/// One line for each policy and experiment; of plans, if there are others than these.
pub fn list(documents: &[Document]) -> String {
    let plans = documents.iter().filter_map(|document| match document {
        Document::RolloutPlan(plan) => Some(plan),
        _ => None,
    });
    if !documents.is_empty() && plans.clone().count() == documents.len() {
        return plans::list(plans);
    }
    let mut table = Table::new(&["NAME", ">REVISION", ">PRIORITY", "HAS", "NODES", "CREATED", "BY", "DESCRIPTION"]);
    for document in documents {
        let (priority, has, labels, created, creator, description) = match document {
            Document::Policy(p) => (
                p.priority,
                format::count(p.rules.len(), "rule"),
                &p.node_labels,
                p.create_time,
                &p.creator,
                &p.description,
            ),
            Document::Experiment(e) => (
                e.priority,
                format!("{}{}", format::count(e.arms.len(), "arm"), state(e.state())),
                &e.node_labels,
                e.create_time,
                &e.creator,
                &e.description,
            ),
            Document::ZoneMap(_) | Document::RolloutPlan(_) | Document::RolloutSettings(_) => continue,
        };
        table.row(vec![
            document.name().to_owned(),
            document.revision().to_string(),
            priority.to_string(),
            has,
            format::labels(labels),
            format::time(created.as_ref()),
            format::or_none(creator),
            shorten(description),
        ]);
    }
    table.render()
}

/// Everything about one.
pub fn one(document: &Document) -> String {
    let mut lines = Lines::default();
    let mut line = |name: &str, value: String| lines.add(name, &value);
    line("name", document.name().to_owned());
    line("revision", document.revision().to_string());
    match document {
        Document::Policy(p) => {
            line("description", format::or_none(&p.description));
            line("priority", p.priority.to_string());
            line("nodes", format::labels(&p.node_labels));
            line("created", format!("{} by {}", format::time(p.create_time.as_ref()), p.creator));
            format!("{}\n{}", lines.0, rules(&p.rules))
        }
        Document::Experiment(e) => {
            line("state", course(e));
            line("description", format::or_none(&e.description));
            line("owner", format::or_none(&e.owner));
            line("priority", e.priority.to_string());
            line("nodes", format::labels(&e.node_labels));
            line("created", format!("{} by {}", format::time(e.create_time.as_ref()), e.creator));
            line("match", match_line(e.r#match.as_ref()));
            line("unit", unit(e));
            line("salt", format::or_none(&e.salt));
            line("withholds", format::or_none(&e.withholds));
            line("horizon", if e.horizon_s == 0 { NONE.to_owned() } else { amount::seconds(e.horizon_s.into()) });
            if e.if_unsupported() == v1::IfUnsupported::Skip {
                line("set", format!("as the arms say{}", unless(e.if_unsupported())));
            }
            let measures = if e.measures.is_empty() { String::new() } else { format!("\n{}", measures(&e.measures)) };
            format!("{}\n{}{measures}", lines.0, arms(&e.arms))
        }
        Document::ZoneMap(map) => zones(&map.zones),
        Document::RolloutPlan(plan) => plans::one(plan),
        Document::RolloutSettings(settings) => plans::settings(settings),
    }
}

/// Names and values, a line each; without those that say nothing.
#[derive(Default)]
pub struct Lines(pub String);

impl Lines {
    pub fn add(&mut self, name: &str, value: &str) {
        if value != NONE && !value.is_empty() {
            self.0.push_str(&format!("{name:<12} {}\n", one_line(value)));
        }
    }
}

fn zones(zones: &[v1::Zone]) -> String {
    let mut table = Table::new(&["ZONE", "REGION", "PREFIXES"]);
    for zone in zones {
        table.row(vec![zone.name.clone(), format::or_none(&zone.region), zone.prefixes.join(",")]);
    }
    table.render()
}

fn rules(rules: &[v1::Rule]) -> String {
    let mut table = Table::new(&["RULE", "MATCH", "SET"]);
    for rule in rules {
        table.row(vec![
            rule.name.clone(),
            match_line(rule.r#match.as_ref()),
            set_line(rule.set.as_ref()) + beside(rule.apply_to()) + unless(rule.if_unsupported()),
        ]);
    }
    table.render()
}

/// What stands behind the number of arms.
fn state(state: v1::ExperimentState) -> &'static str {
    match state {
        v1::ExperimentState::Unspecified => "",
        v1::ExperimentState::Draft => ", draft",
        v1::ExperimentState::Running => ", running",
        v1::ExperimentState::Stopped => ", stopped",
        v1::ExperimentState::Concluded => ", concluded",
    }
}

/// `running since … until …, planned for 3d00h`, `stopped, arm fast was shipped`.
fn course(e: &v1::Experiment) -> String {
    let mut text = state(e.state()).trim_start_matches(", ").to_owned();
    for (word, time) in [("since", &e.start_time), ("until", &e.end_time)] {
        if time.is_some() && e.state() == v1::ExperimentState::Running {
            text.push_str(&format!(" {word} {}", format::time(time.as_ref())));
        }
    }
    if e.duration_s > 0 {
        text.push_str(&format!(", planned for {}", amount::seconds(e.duration_s.into())));
    }
    if !e.shipped_arm.is_empty() {
        text.push_str(&format!(", arm {} was shipped", e.shipped_arm));
    }
    text
}

/// What is randomised, with what belongs to it.
fn unit(e: &v1::Experiment) -> String {
    match e.unit() {
        v1::Unit::Unspecified | v1::Unit::Flow => String::new(),
        v1::Unit::Node => "node".to_owned(),
        v1::Unit::PeerPrefix => {
            let lengths = e.peer_prefix.unwrap_or_default();
            let or = |length, default| if length == 0 { default } else { length };
            format!("peer_prefix, /{} and /{}", or(lengths.ipv4_length, 24), or(lengths.ipv6_length, 48))
        }
        v1::Unit::TimeSlot => {
            let slot = e.time_slot.unwrap_or_default();
            let [length, washout] = [slot.slot_s, slot.washout_s].map(|s| amount::seconds(s.into()));
            format!("time_slot of {length}, of which {washout} are left out")
        }
        v1::Unit::SaturationPair => {
            let pair = e.saturation_pair.unwrap_or_default();
            let or = |share, default| format::share(if share == 0 { default } else { share });
            format!("saturation_pair of {} and {}", or(pair.low_bp, 500), or(pair.high_bp, 9_500))
        }
    }
}

/// In the words of a file.
fn measures(measures: &[v1::Measure]) -> String {
    let mut table = Table::new(&["MEASURE", "OF EACH CONNECTION", "FOR"]);
    for measure in measures {
        let v1::Measure { quantity, per, transform, .. } = measure;
        let by = if per.is_empty() { quantity.clone() } else { format!("{quantity} / {per}") };
        let transform = match transform {
            Some(v1::measure::Transform::Cap(cap)) => format!("cap {cap}"),
            Some(v1::measure::Transform::Log(true)) => "log".to_owned(),
            Some(v1::measure::Transform::AtMost(most)) => format!("at_most {most}"),
            Some(v1::measure::Transform::Log(false)) | None => "as it is".to_owned(),
        };
        table.row(vec![by, transform, role(measure)]);
    }
    table.render()
}

fn arms(arms: &[v1::Arm]) -> String {
    let mut table = Table::new(&["ARM", ">WEIGHT", "BUCKETS", "SET"]);
    let (mut next, mut owned) = (0, 0_u32);
    for arm in arms {
        owned = owned.saturating_add(arm.weight_bp);
        let first = arm.first_bucket.unwrap_or(next);
        next = first.saturating_add(arm.weight_bp);
        table.row(vec![
            arm.name.clone(),
            format::share(arm.weight_bp),
            format!("{first}-{}", next.saturating_sub(1)),
            set_line(arm.set.as_ref()) + if arm.withholds { " (withholds)" } else { "" },
        ]);
    }
    let free = BUCKETS.saturating_sub(owned);
    if free > 0 {
        let outside = "outside of the experiment".to_owned();
        table.row(vec!["nobody".to_owned(), format::share(free), "the others".to_owned(), outside]);
    }
    table.render()
}

/// A match in one line, in the words of a file: `direction active; remote_ports 443,8000-8999`.
fn match_line(matches: Option<&v1::Match>) -> String {
    let words = matches.map(|matches| words(&schema::dynamic("Match", matches))).unwrap_or_default();
    if words.is_empty() { "everything".to_owned() } else { words.join("; ") }
}

/// Parameters in one line: `syn_rto_ms 50, ecn`.
fn set_line(set: Option<&v1::Parameters>) -> String {
    let words = set.map(|set| words(&schema::dynamic("Parameters", set))).unwrap_or_default();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

/// What is said beside a set that open connections get too.
fn beside(apply_to: v1::ApplyTo) -> &'static str {
    match apply_to {
        v1::ApplyTo::Unspecified | v1::ApplyTo::New => "",
        v1::ApplyTo::NewAndEstablished => " (open connections too)",
    }
}

/// What is said beside a set that need not be honoured as a whole.
fn unless(if_unsupported: v1::IfUnsupported) -> &'static str {
    match if_unsupported {
        v1::IfUnsupported::Unspecified | v1::IfUnsupported::Reject => "",
        v1::IfUnsupported::Skip => " (without what a node's kernel cannot do)",
    }
}

/// Every field that is set, with its value.
fn words(message: &DynamicMessage) -> Vec<String> {
    let Tree::Map(fields) = Tree::from_message(message) else { return Vec::new() };
    fields
        .into_iter()
        .map(|(name, value)| match value {
            Tree::Bool(true) => name,
            value => format!("{name} {}", word(value)),
        })
        .collect()
}

fn word(value: Tree) -> String {
    match value {
        Tree::Bool(value) => if value { "on" } else { "off" }.to_owned(),
        Tree::Whole(number) => number.to_string(),
        Tree::Float(number) => number.to_string(),
        Tree::Text(text) => text,
        Tree::List(items) => items.into_iter().map(word).collect::<Vec<_>>().join(","),
        Tree::Map(entries) => {
            entries.into_iter().map(|(key, value)| format!("{key}={}", word(value))).collect::<Vec<_>>().join(",")
        }
    }
}

/// The beginning of a long text.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= LONGEST {
        line.to_owned()
    } else {
        line.chars().take(LONGEST - 1).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests;
