//! Policies and experiments as tables.

use crate::document::Document;
use crate::format::{self, NONE};
use crate::schema;
use crate::table::{Table, one_line};
use crate::tree::Tree;
use prost_reflect::DynamicMessage;
use sockpilot_proto::v1;

/// Buckets of an experiment; a basis point is one.
const BUCKETS: u32 = 10_000;

/// One line for each.
pub fn list(documents: &[Document]) -> String {
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
            Document::ZoneMap(_) => continue,
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
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if value != NONE && !value.is_empty() {
            text.push_str(&format!("{name:<12} {}\n", one_line(&value)));
        }
    };
    line("name", document.name().to_owned());
    line("revision", document.revision().to_string());
    match document {
        Document::Policy(p) => {
            line("description", format::or_none(&p.description));
            line("priority", p.priority.to_string());
            line("nodes", format::labels(&p.node_labels));
            line("created", format!("{} by {}", format::time(p.create_time.as_ref()), p.creator));
            text.push('\n');
            text.push_str(&rules(&p.rules));
        }
        Document::Experiment(e) => {
            line("state", state(e.state()).trim_start_matches(", ").to_owned());
            line("description", format::or_none(&e.description));
            line("owner", format::or_none(&e.owner));
            line("priority", e.priority.to_string());
            line("nodes", format::labels(&e.node_labels));
            line("created", format!("{} by {}", format::time(e.create_time.as_ref()), e.creator));
            line("match", match_line(e.r#match.as_ref()));
            line("salt", format::or_none(&e.salt));
            if e.if_unsupported() == v1::IfUnsupported::Skip {
                line("set", format!("as the arms say{}", unless(e.if_unsupported())));
            }
            text.push('\n');
            text.push_str(&arms(&e.arms));
        }
        Document::ZoneMap(map) => return zones(&map.zones),
    }
    text
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
    }
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
            set_line(arm.set.as_ref()),
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
mod tests {
    use super::*;

    fn policy() -> Document {
        Document::Policy(v1::Policy {
            name: "policies/web".to_owned(),
            revision: 3,
            description: "long paths".to_owned(),
            priority: 100,
            node_labels: [("role".to_owned(), "edge".to_owned())].into(),
            rules: vec![
                v1::Rule {
                    name: "far".to_owned(),
                    r#match: Some(v1::Match {
                        direction: v1::Direction::Active.into(),
                        remote_prefixes: vec!["10.2.0.0/16".to_owned()],
                        remote_ports: vec!["443".to_owned()],
                        not_same_prefix: Some(16),
                        ..v1::Match::default()
                    }),
                    set: Some(v1::Parameters {
                        initial_cwnd_packets: Some(40),
                        congestion_control: Some("bbr".to_owned()),
                        ecn: Some(true),
                        ..v1::Parameters::default()
                    }),
                    if_unsupported: v1::IfUnsupported::Skip.into(),
                    apply_to: v1::ApplyTo::NewAndEstablished.into(),
                },
                v1::Rule { name: "rest".to_owned(), ..v1::Rule::default() },
            ],
            create_time: Some(prost_types::Timestamp { seconds: 1_772_366_400, nanos: 0 }),
            creator: "ann@desk".to_owned(),
            ..v1::Policy::default()
        })
    }

    #[test]
    fn a_list_has_a_line_for_each() {
        assert_eq!(
            list(&[policy()]),
            "NAME          REVISION  PRIORITY  HAS      NODES      CREATED               BY        DESCRIPTION\n\
             policies/web         3       100  2 rules  role=edge  2026-03-01T12:00:00Z  ann@desk  long paths\n"
        );
    }

    #[test]
    fn one_policy_shows_its_rules() {
        assert_eq!(
            one(&policy()),
            "\
name         policies/web
revision     3
description  long paths
priority     100
nodes        role=edge
created      2026-03-01T12:00:00Z by ann@desk

RULE  MATCH                                                                                SET
far   direction active; remote_prefixes 10.2.0.0/16; not_same_prefix 16; remote_ports 443  initial_cwnd_packets 40, congestion_control bbr, ecn (open connections too) (without what a node's kernel cannot do)
rest  everything                                                                           nothing
"
        );
    }

    #[test]
    fn one_experiment_shows_who_owns_which_buckets() {
        let experiment = Document::Experiment(v1::Experiment {
            name: "experiments/rto".to_owned(),
            revision: 1,
            arms: vec![
                v1::Arm { name: "control".to_owned(), weight_bp: 9_000, first_bucket: None, set: None, withholds: false },
                v1::Arm {
                    name: "fast".to_owned(),
                    weight_bp: 1_000,
                    first_bucket: None,
                    set: Some(v1::Parameters { syn_rto_ms: Some(50), ..v1::Parameters::default() }),
                    withholds: false,
                },
            ],
            ..v1::Experiment::default()
        });
        let text = one(&experiment);
        assert!(
            text.ends_with(
                "ARM      WEIGHT  BUCKETS    SET\n\
                 control     90%  0-8999     nothing\n\
                 fast        10%  9000-9999  syn_rto_ms 50\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn what_no_arm_owns_is_nobodys() {
        let arm = |name: &str, first| v1::Arm { name: name.to_owned(), weight_bp: 50, first_bucket: first, set: None, withholds: false };
        let arms = vec![arm("control", Some(100)), arm("fast", Some(9_000))];
        assert_eq!(
            super::arms(&arms),
            "ARM      WEIGHT  BUCKETS     SET\n\
             control    0.5%  100-149     nothing\n\
             fast       0.5%  9000-9049   nothing\n\
             nobody      99%  the others  outside of the experiment\n"
        );
    }

    #[test]
    fn the_zone_map_has_a_line_for_each_zone() {
        let zone = |name: &str, prefixes: &[&str]| v1::Zone {
            name: name.to_owned(),
            region: "fra".to_owned(),
            prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
        };
        let zones = vec![zone("fra-1", &["10.1.0.0/16", "2001:db8::/32"]), zone("b", &["10.2.0.0/16"])];
        let map = Document::ZoneMap(v1::ZoneMap { zones, ..v1::ZoneMap::default() });
        assert_eq!(
            one(&map),
            "ZONE   REGION  PREFIXES\nfra-1  fra     10.1.0.0/16,2001:db8::/32\nb      fra     10.2.0.0/16\n"
        );
    }

    #[test]
    fn long_descriptions_are_cut() {
        assert_eq!(shorten(&"é".repeat(61)), "é".repeat(59) + "…");
        assert_eq!(shorten("a\nb"), "a");
    }
}
