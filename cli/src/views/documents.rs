//! Policies and experiments as tables.

use crate::document::Document;
use crate::format::{self, NONE};
use crate::schema;
use crate::table::{Table, one_line};
use crate::tree::Tree;
use sockpilot_proto::v1;

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
                format::count(e.arms.len(), "arm"),
                &e.node_labels,
                e.create_time,
                &e.creator,
                &e.description,
            ),
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
        if value != NONE {
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
            line("description", format::or_none(&e.description));
            line("priority", e.priority.to_string());
            line("nodes", format::labels(&e.node_labels));
            line("created", format!("{} by {}", format::time(e.create_time.as_ref()), e.creator));
            line("match", match_line(e.r#match.as_ref()));
            line("salt", format::or_none(&e.salt));
            text.push('\n');
            text.push_str(&arms(&e.arms));
        }
    }
    text
}

fn rules(rules: &[v1::Rule]) -> String {
    let mut table = Table::new(&["RULE", "MATCH", "SET"]);
    for rule in rules {
        table.row(vec![rule.name.clone(), match_line(rule.r#match.as_ref()), set_line(rule.set.as_ref())]);
    }
    table.render()
}

fn arms(arms: &[v1::Arm]) -> String {
    let mut table = Table::new(&["ARM", ">WEIGHT", "BUCKETS", "SET"]);
    let mut next = 0;
    for arm in arms {
        let first = arm.first_bucket.unwrap_or(next);
        next = first.saturating_add(arm.weight_bp);
        table.row(vec![
            arm.name.clone(),
            format::share(arm.weight_bp),
            format!("{first}-{}", next.saturating_sub(1)),
            set_line(arm.set.as_ref()),
        ]);
    }
    table.render()
}

/// A match in one line: `active remote 10.0.0.0/8 to port 443`.
fn match_line(matches: Option<&v1::Match>) -> String {
    let Some(matches) = matches else { return "everything".to_owned() };
    let mut words = Vec::new();
    match matches.direction() {
        v1::Direction::Unspecified => {}
        v1::Direction::Active => words.push("active".to_owned()),
        v1::Direction::Passive => words.push("passive".to_owned()),
    }
    match matches.family() {
        v1::Family::Unspecified => {}
        v1::Family::Ipv4 => words.push("ipv4".to_owned()),
        v1::Family::Ipv6 => words.push("ipv6".to_owned()),
    }
    let mut list = |what: &str, values: &[String]| {
        if !values.is_empty() {
            words.push(format!("{what} {}", values.join(",")));
        }
    };
    list("local", &matches.local_prefixes);
    list("remote", &matches.remote_prefixes);
    list("local port", &matches.local_ports);
    list("remote port", &matches.remote_ports);
    list("service", &matches.services);
    if let Some(bits) = matches.same_prefix {
        words.push(format!("same /{bits}"));
    }
    if let Some(bits) = matches.not_same_prefix {
        words.push(format!("not same /{bits}"));
    }
    if words.is_empty() { "everything".to_owned() } else { words.join("; ") }
}

/// Parameters in one line: `syn_rto_ms 50, ecn`.
pub fn set_line(set: Option<&v1::Parameters>) -> String {
    let Some(set) = set else { return "nothing".to_owned() };
    let Tree::Map(fields) = Tree::from_message(&schema::dynamic("Parameters", set)) else { return NONE.to_owned() };
    let words: Vec<String> = fields
        .into_iter()
        .map(|(name, value)| match value {
            Tree::Bool(true) => name,
            Tree::Bool(false) => format!("{name} off"),
            Tree::Whole(number) => format!("{name} {number}"),
            Tree::Text(text) => format!("{name} {text}"),
            other => format!("{name} {other:?}"),
        })
        .collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
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
                },
                v1::Rule { name: "rest".to_owned(), r#match: None, set: None },
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

RULE  MATCH                                                      SET
far   active; remote 10.2.0.0/16; remote port 443; not same /16  initial_cwnd_packets 40, congestion_control bbr, ecn
rest  everything                                                 nothing
"
        );
    }

    #[test]
    fn one_experiment_shows_who_owns_which_buckets() {
        let experiment = Document::Experiment(v1::Experiment {
            name: "experiments/rto".to_owned(),
            revision: 1,
            arms: vec![
                v1::Arm { name: "control".to_owned(), weight_bp: 9_000, first_bucket: None, set: None },
                v1::Arm {
                    name: "fast".to_owned(),
                    weight_bp: 1_000,
                    first_bucket: None,
                    set: Some(v1::Parameters { syn_rto_ms: Some(50), ..v1::Parameters::default() }),
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
    fn long_descriptions_are_cut() {
        assert_eq!(shorten(&"é".repeat(61)), "é".repeat(59) + "…");
        assert_eq!(shorten("a\nb"), "a");
    }
}
