//! A backup as a file: a head that says how many documents follow, so that one that was cut short is noticed; then the zone map,
//! every revision, and after the revisions of each policy and experiment its history.

use crate::schema;
use crate::tree::Tree;
use crate::walk::{Lines, Problem, Walk};
use crate::yaml::{self, Content, Node};
use prost_reflect::DynamicMessage;
use prost_types::Timestamp;
use sockpilot_proto::v1::{self, backup_item::Item};

/// What stands in the head's place of a kind.
const HEAD: &str = "Backup";

/// What else stands in a backup.
const KINDS: [&str; 6] = ["ZoneMap", "RolloutPlan", "RolloutSettings", "Policy", "Experiment", "History"];

/// One item, and where its fields stand in the file.
#[derive(Debug)]
pub struct BackupEntry {
    pub item: v1::BackupItem,
    /// Where its fields stand.
    pub lines: Lines,
    /// Where it begins.
    pub line: u64,
}

/// As a file. `now` is when it was taken.
pub fn to_yaml(items: &[v1::BackupItem], now: Timestamp) -> String {
    let text = |text: &str| Tree::Text(text.to_owned());
    let head = Tree::Map(vec![
        ("kind".to_owned(), text(HEAD)),
        ("taken".to_owned(), text(&Timestamp { nanos: 0, ..now }.to_string())),
        ("documents".to_owned(), Tree::Whole(items.len() as u64)),
    ]);
    let documents = items.iter().filter_map(|v1::BackupItem { item }| {
        let (kind, message) = match item.as_ref()? {
            Item::ZoneMap(map) => ("ZoneMap", schema::dynamic("ZoneMap", map)),
            Item::Policy(policy) => ("Policy", schema::dynamic("Policy", policy)),
            Item::Experiment(experiment) => ("Experiment", schema::dynamic("Experiment", experiment)),
            Item::History(history) => ("History", schema::dynamic("History", history)),
            Item::RolloutPlan(plan) => ("RolloutPlan", schema::dynamic("RolloutPlan", plan)),
            Item::RolloutSettings(settings) => ("RolloutSettings", schema::dynamic("RolloutSettings", settings)),
        };
        let mut fields = vec![("kind".to_owned(), text(kind))];
        if let Tree::Map(rest) = Tree::from_message(&message) {
            fields.extend(rest);
        }
        Some(Tree::Map(fields))
    });
    std::iter::once(head).chain(documents).map(|tree| tree.to_yaml()).collect::<Vec<_>>().join("---\n")
}

/// Reads a file that [`to_yaml`] has written.
pub fn read(text: &str) -> Result<Vec<BackupEntry>, Vec<Problem>> {
    let mut problems = Vec::new();
    let (mut head, mut entries) = (None, Vec::new());
    for (skipped, part) in parts(text) {
        match yaml::parse(part) {
            Ok(documents) => {
                for root in documents {
                    match document(&root, skipped) {
                        Ok(Part::Head(documents)) if head.is_none() && entries.is_empty() => head = Some(documents),
                        Ok(Part::Head(_)) => {
                            problems
                                .push(problem(root.line + skipped, "a second backup begins here; restore one by one"));
                        }
                        Ok(Part::Item(entry)) => entries.push(*entry),
                        Err(found) => problems.extend(found),
                    }
                }
            }
            Err(error) => {
                let line = if error.line > 0 { error.line + skipped } else { error.line };
                problems.push(Problem::from(yaml::SyntaxError { line, ..error }));
            }
        }
    }
    let read = entries.len() as u64;
    match head {
        _ if !problems.is_empty() => Err(problems),
        Some(said) if said == read => Ok(entries),
        Some(said) => {
            let text = format!(
                "the head says {said} documents, and there are {read}: it was cut short or edited; mend `documents` if that is meant"
            );
            Err(vec![problem(1, text)])
        }
        None => {
            Err(vec![problem(1, "is no backup: it does not begin with kind: Backup, as sockpilot backup prints it")])
        }
    }
}

/// A document of the file.
enum Part {
    /// How many others follow.
    Head(u64),
    /// One of them.
    Item(Box<BackupEntry>),
}

/// The documents one by one, each with the number of lines before it: a whole history is longer than what is parsed at once.
fn parts(text: &str) -> Vec<(u64, &str)> {
    let (mut parts, mut begin, mut line, mut first) = (Vec::new(), 0, 0, 0);
    let mut at = 0;
    for content in text.split_inclusive('\n') {
        if content.trim_end() == "---" && at > begin {
            parts.push((first, &text[begin..at]));
            (begin, first) = (at, line);
        }
        at += content.len();
        line += 1;
    }
    parts.push((first, &text[begin..]));
    parts
}

fn document(root: &Node, skipped: u64) -> Result<Part, Vec<Problem>> {
    let line = root.line + skipped;
    let Content::Map(entries) = &root.content else {
        return Err(vec![problem(line, format!("must be a mapping, not {}", root.content.describe()))]);
    };
    let get = |wanted: &str| entries.iter().find(|(key, _)| key == wanted).map(|(_, node)| &node.content);
    let kind = match get("kind") {
        Some(Content::Text(kind)) => kind.as_str(),
        _ => "",
    };
    if kind == HEAD {
        return match get("documents") {
            Some(Content::Number(number)) if number.parse::<u64>().is_ok() => {
                Ok(Part::Head(number.parse().unwrap_or_default()))
            }
            _ => Err(vec![problem(line, "documents: missing; the head says how many documents follow")]),
        };
    }
    let Some(kind) = KINDS.into_iter().find(|known| *known == kind) else {
        return Err(vec![problem(line, format!("kind: must be one of {} in a backup", KINDS.join(", ")))]);
    };
    let fields: Vec<(String, Node)> = entries.iter().filter(|(key, _)| key != "kind").cloned().collect();
    let descriptor = schema::message(kind);
    let mut walk = Walk::of_whole();
    let value = walk.fields(&fields, &descriptor);
    if !walk.problems.is_empty() {
        let moved = |problem: Problem| Problem { line: problem.line.map(|line| line + skipped), ..problem };
        return Err(walk.problems.into_iter().map(moved).collect());
    }
    let odd = |error: &dyn std::fmt::Display| vec![problem(line, format!("cannot be read: {error}"))];
    let message =
        DynamicMessage::deserialize(descriptor, serde_json::Value::Object(value)).map_err(|error| odd(&error))?;
    let item = match kind {
        "ZoneMap" => message.transcode_to().map(Item::ZoneMap),
        "Policy" => message.transcode_to().map(Item::Policy),
        "Experiment" => message.transcode_to().map(Item::Experiment),
        "RolloutPlan" => message.transcode_to().map(Item::RolloutPlan),
        "RolloutSettings" => message.transcode_to().map(Item::RolloutSettings),
        _ => message.transcode_to().map(Item::History),
    };
    let item = v1::BackupItem { item: Some(item.map_err(|error| odd(&error))?) };
    Ok(Part::Item(Box::new(BackupEntry { item, lines: walk.lines.moved(skipped), line })))
}

fn problem(line: u64, description: impl Into<String>) -> Problem {
    Problem { path: String::new(), line: Some(line), description: description.into() }
}

/// What the server says about a field of an item, in terms of the file.
pub fn locate(entries: &[BackupEntry], field: &str, description: &str) -> Problem {
    let description = description.to_owned();
    let found = field.strip_prefix("items[").and_then(|rest| rest.split_once(']'));
    let Some((entry, rest)) = found.and_then(|(n, rest)| Some((entries.get(n.parse::<usize>().ok()?)?, rest))) else {
        return Problem { path: field.to_owned(), line: None, description };
    };
    let rest = rest.trim_start_matches('.');
    let path = rest.split_once('.').map_or("", |(_, path)| path);
    let whole = ["policy", "experiment", "zone_map", "rollout_plan", "rollout_settings", "history"];
    let path = if whole.contains(&rest) { "" } else { path };
    Problem { path: path.to_owned(), line: entry.lines.find(path).or(Some(entry.line)), description }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<v1::BackupItem> {
        let moment = Some(Timestamp { seconds: 1_772_366_400, nanos: 123_456_000 });
        let rule = v1::Rule { name: "all".to_owned(), ..v1::Rule::default() };
        let policy = v1::Policy {
            name: "policies/p".to_owned(),
            uid: "u".to_owned(),
            revision: 3,
            description: "two\n---\nlines".to_owned(),
            create_time: moment,
            creator: "ann".to_owned(),
            rules: vec![rule],
            ..v1::Policy::default()
        };
        let target = v1::Target { kind: Some(v1::target::Kind::Everyone(v1::target::Everyone {})) };
        let assignment = v1::Assignment {
            revision: 3,
            target: Some(target),
            start_time: moment,
            end_time: moment,
            ..v1::Assignment::default()
        };
        let history = v1::History {
            name: "policies/p".to_owned(),
            deleted: true,
            assignments: vec![assignment],
            rollout: "rollouts/p-3".to_owned(),
        };
        let wave = v1::RolloutWave { flow_shares_bp: vec![100], ..v1::RolloutWave::default() };
        let plan = v1::RolloutPlan {
            name: "rolloutPlans/mine".to_owned(),
            revision: 2,
            waves: vec![wave],
            create_time: moment,
            ..v1::RolloutPlan::default()
        };
        let settings = v1::RolloutSettings { max_nodes_bp: 2_500, ..v1::RolloutSettings::default() };
        let zones =
            vec![v1::Zone { name: "a".to_owned(), region: "r".to_owned(), prefixes: vec!["10.0.0.0/8".to_owned()] }];
        let zones = Item::ZoneMap(v1::ZoneMap { zones, ..v1::ZoneMap::default() });
        let items = [zones, Item::Policy(policy), Item::History(history)].into_iter();
        let items = items.chain([Item::RolloutPlan(plan), Item::RolloutSettings(settings)]);
        items.map(|item| v1::BackupItem { item: Some(item) }).collect()
    }

    fn text() -> String {
        to_yaml(&items(), Timestamp { seconds: 1_772_366_400, nanos: 5 })
    }

    fn said(text: &str) -> String {
        let problems = read(text).expect_err("faulty");
        problems.iter().map(|p| format!("{}: {}: {}", p.line.unwrap_or_default(), p.path, p.description)).collect()
    }

    #[test]
    fn what_was_written_reads_back_to_the_nanosecond() {
        let text = text();
        assert!(text.starts_with("kind: Backup\ntaken: "), "{text}");
        let read: Vec<_> = read(&text).expect(&text).into_iter().map(|entry| entry.item).collect();
        assert_eq!(read, items(), "{text}");
    }

    #[test]
    fn a_backup_that_was_cut_short_is_noticed() {
        let text = text();
        let cut = &text[..text.rfind("---\n").expect("documents")];
        assert!(said(cut).contains("the head says 5 documents, and there are 4"), "{}", said(cut));
        assert!(said("kind: Policy\nname: policies/p\n").contains("is no backup"));
        assert!(said("").contains("is no backup"));
    }

    #[test]
    fn faults_are_found_where_they_stand() {
        let odd = text().replace("revision: 3\ndescription", "revisionn: 3\ndescription");
        let line = odd.lines().position(|line| line == "revisionn: 3").expect("the line") + 1;
        assert!(said(&odd).starts_with(&format!("{line}: revisionn: no such field")), "{}", said(&odd));
        let text = text();
        let entries = read(&text).expect("sound");
        let found = locate(&entries, "items[1].policy.rules[0].set", "is odd");
        let line = text.lines().position(|line| line == "- name: all").expect("the rule") + 1;
        assert_eq!((found.path.as_str(), found.line), ("rules[0].set", Some(line as u64)), "{text}");
        assert_eq!(locate(&entries, "items[2]", "is odd").line, Some(entries[2].line));
    }
}
