//! From a YAML tree to a message: walks the tree beside the descriptor and notes everything that does not fit.
//!
//! The result is JSON in the canonical mapping (<https://protobuf.dev/programming-guides/json/>), which `prost-reflect`
//! turns into the message. More is accepted than the canonical mapping has: short enum values, and plain scalars where a
//! string is wanted.

use crate::schema;
use crate::yaml::{Content, Node, SyntaxError};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One thing wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field: `rules[2].match.remote_prefixes[0]`; empty for the document as a whole.
    pub path: String,
    /// From 1; `None` if not known.
    pub line: Option<u64>,
    /// What is wrong and what would be right.
    pub description: String,
}

impl From<SyntaxError> for Problem {
    fn from(SyntaxError { line, description }: SyntaxError) -> Self {
        Self { path: String::new(), line: (line > 0).then_some(line), description }
    }
}

/// Where each field of a document stands in its file.
#[derive(Debug, Default, Clone)]
pub struct Lines(BTreeMap<String, u64>);

impl Lines {
    /// The same, if so many lines stand before.
    pub fn moved(self, lines: u64) -> Self {
        Self(self.0.into_iter().map(|(path, line)| (path, line + lines)).collect())
    }

    /// The line of a field or, if the field is not in the file, of the nearest field around it.
    pub fn find(&self, path: &str) -> Option<u64> {
        let mut path = path;
        loop {
            if let Some(line) = self.0.get(path) {
                return Some(*line);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

/// A walk under way.
#[derive(Debug, Default)]
pub struct Walk {
    path: String,
    /// Whether fields that the server writes are read too, as in a backup.
    whole: bool,
    /// Found so far.
    pub problems: Vec<Problem>,
    /// Seen so far.
    pub lines: Lines,
}

impl Walk {
    /// Reads what the server has written, too.
    pub fn of_whole() -> Self {
        Self { whole: true, ..Self::default() }
    }

    /// Notes a problem of the value where the walk is.
    fn fault(&mut self, line: u64, description: impl Into<String>) {
        self.problems.push(Problem { path: self.path.clone(), line: Some(line), description: description.into() });
    }

    fn step<T>(&mut self, suffix: &str, line: u64, walk: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.push_str(suffix);
        self.lines.0.entry(self.path.clone()).or_insert(line);
        let result = walk(self);
        self.path.truncate(length);
        result
    }

    fn in_field<T>(&mut self, name: &str, line: u64, walk: impl FnOnce(&mut Self) -> T) -> T {
        let suffix = if self.path.is_empty() { name.to_owned() } else { format!(".{name}") };
        self.step(&suffix, line, walk)
    }

    /// A mapping as a message; what does not fit is left out and noted.
    pub fn message(&mut self, node: &Node, descriptor: &MessageDescriptor) -> Value {
        match &node.content {
            Content::Map(entries) => Value::Object(self.fields(entries, descriptor)),
            Content::Null => Value::Object(Map::new()),
            other => {
                let fields = field_names(descriptor).join(", ");
                self.fault(node.line, format!("must be a mapping of {fields}, not {}", other.describe()));
                Value::Null
            }
        }
    }

    /// The entries of a mapping as the fields of a message.
    pub fn fields(&mut self, entries: &[(String, Node)], descriptor: &MessageDescriptor) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut chosen: BTreeMap<String, String> = BTreeMap::new();
        let at_root = self.path.is_empty();
        for (key, node) in entries {
            let Some(field) = descriptor.get_field_by_name(key).or_else(|| descriptor.get_field_by_json_name(key))
            else {
                let description = unknown(key, &field_names(descriptor), "field");
                self.in_field(key, node.line, |walk| walk.fault(node.line, description));
                continue;
            };
            if at_root && !self.whole && schema::OUTPUT_ONLY.contains(&field.name()) {
                continue;
            }
            let value = self.in_field(field.name(), node.line, |walk| {
                if fields.contains_key(field.json_name()) {
                    walk.fault(node.line, format!("given twice, as {} and as {}", field.name(), field.json_name()));
                }
                if let Some(other) = group(&field).and_then(|group| chosen.insert(group, field.name().to_owned()))
                    && other != field.name()
                {
                    walk.fault(node.line, format!("{other} is given too; write one of the two"));
                }
                walk.field(node, &field)
            });
            fields.insert(field.json_name().to_owned(), value);
        }
        fields
    }

    fn field(&mut self, node: &Node, field: &FieldDescriptor) -> Value {
        match &node.content {
            Content::Null if field.is_list() => Value::Array(Vec::new()),
            Content::Null if field.is_map() => Value::Object(Map::new()),
            Content::List(items) if field.is_list() => {
                let mut values = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    values.push(self.step(&format!("[{index}]"), item.line, |walk| walk.single(item, &field.kind())));
                }
                Value::Array(values)
            }
            Content::Map(entries) if field.is_map() => {
                let Kind::Message(entry) = field.kind() else { return Value::Null };
                let kind = entry.map_entry_value_field().kind();
                let mut values = Map::new();
                for (key, item) in entries {
                    let value = self.in_field(key, item.line, |walk| walk.single(item, &kind));
                    values.insert(key.clone(), value);
                }
                Value::Object(values)
            }
            other if field.is_list() => {
                self.fault(node.line, format!("must be a list, not {}; write [...]", other.describe()));
                Value::Null
            }
            other if field.is_map() => {
                self.fault(node.line, format!("must be a mapping of key: value, not {}", other.describe()));
                Value::Null
            }
            _ => self.single(node, &field.kind()),
        }
    }

    fn single(&mut self, node: &Node, kind: &Kind) -> Value {
        match kind {
            // Times are texts in the canonical mapping.
            Kind::Message(descriptor) if descriptor.package_name() == "google.protobuf" => {
                self.single(node, &Kind::String)
            }
            Kind::Message(descriptor) => self.message(node, descriptor),
            Kind::Enum(descriptor) => {
                if let Content::Text(text) = &node.content
                    && let Some(name) = schema::full_enum(descriptor, text)
                {
                    return Value::String(name);
                }
                let values = schema::short_enums(descriptor);
                let description = match &node.content {
                    Content::Text(text) => unknown(text, &values, "value"),
                    other => format!("must be one of {}, not {}", values.join(", "), other.describe()),
                };
                self.fault(node.line, description);
                Value::Null
            }
            Kind::String => match &node.content {
                Content::Text(text) | Content::Number(text) | Content::Bool(_, text) => Value::String(text.clone()),
                Content::Null => Value::String(String::new()),
                other => {
                    self.fault(node.line, format!("must be a text, not {}", other.describe()));
                    Value::Null
                }
            },
            Kind::Bool => match &node.content {
                Content::Bool(value, _) => Value::Bool(*value),
                other => {
                    self.fault(node.line, format!("must be true or false, not {}", other.describe()));
                    Value::Null
                }
            },
            Kind::Uint32 => self.whole_number(node, u64::from(u32::MAX)),
            Kind::Uint64 => self.whole_number(node, u64::MAX),
            Kind::Double => self.number(node),
            other => {
                self.fault(node.line, format!("has the type {other:?}, which cannot be given in a file"));
                Value::Null
            }
        }
    }

    fn whole_number(&mut self, node: &Node, max: u64) -> Value {
        if let Content::Number(text) | Content::Text(text) = &node.content
            && let Ok(number) = text.parse::<u64>()
            && number <= max
        {
            return Value::from(number);
        }
        self.fault(node.line, format!("must be a whole number from 0 to {max}, not {}", node.content.describe()));
        Value::Null
    }

    fn number(&mut self, node: &Node) -> Value {
        if let Content::Number(text) | Content::Text(text) = &node.content
            && let Ok(number) = text.parse::<f64>()
            && number.is_finite()
        {
            return Value::from(number);
        }
        self.fault(node.line, format!("must be a number, not {}", node.content.describe()));
        Value::Null
    }
}

/// The name of the group of fields, of which one at most may be given, that a field is of.
fn group(field: &FieldDescriptor) -> Option<String> {
    let group = field.containing_oneof()?;
    // A field that may be absent is a group of its own, which nobody has named.
    (group.fields().len() > 1).then(|| group.name().to_owned())
}

/// The fields that a file may have.
fn field_names(descriptor: &MessageDescriptor) -> Vec<String> {
    descriptor
        .fields()
        .map(|field| field.name().to_owned())
        .filter(|name| !schema::OUTPUT_ONLY.contains(&name.as_str()))
        .collect()
}

/// What to say about a word that is none of the known ones.
pub fn unknown(word: &str, known: &[String], what: &str) -> String {
    let lower = word.to_ascii_lowercase();
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(name, &lower), strsim::jaro_winkler(name, &lower), name))
        .filter(|(distance, likeness, name)| *distance <= 1 + name.len() / 4 || *likeness > 0.88)
        .min_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    match nearest {
        Some((_, _, name)) => format!("no such {what} as \"{word}\"; did you mean {name}?"),
        None => format!("no such {what} as \"{word}\"; known: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn walk(text: &str) -> (Value, Walk) {
        let documents = yaml::parse(text).unwrap();
        let mut walk = Walk::default();
        let value = walk.message(&documents[0], &schema::message("Policy"));
        (value, walk)
    }

    #[track_caller]
    fn faults(text: &str, expected: &[&str]) {
        let (_, walk) = walk(text);
        let found: Vec<String> = walk
            .problems
            .iter()
            .map(|p| format!("{}: {}: {}", p.line.unwrap_or_default(), p.path, p.description))
            .collect();
        // What is expected is what each begins with: which fields are known changes with the contract.
        let alike = found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e));
        assert!(alike, "found: {found:#?}, expected: {expected:#?}");
    }

    #[test]
    fn both_spellings_and_short_enums_become_canonical_json() {
        let (value, walk) = walk(
            "name: web\nnodeLabels: {role: edge, version: 1.10}\nrules:\n- name: a\n  match:\n    direction: active\n    \
             family: FAMILY_IPV6\n    remote_ports: [443, 8000-8999]\n    same_prefix: 44\n  set: {syn_rto_ms: 50, ecn: true}\n",
        );
        assert_eq!(walk.problems, []);
        assert_eq!(
            value,
            serde_json::json!({
                "name": "web",
                "nodeLabels": {"role": "edge", "version": "1.10"},
                "rules": [{
                    "name": "a",
                    "match": {
                        "direction": "DIRECTION_ACTIVE",
                        "family": "FAMILY_IPV6",
                        "remotePorts": ["443", "8000-8999"],
                        "samePrefix": 44,
                    },
                    "set": {"synRtoMs": 50, "ecn": true},
                }],
            })
        );
    }

    #[test]
    fn every_misfit_is_found_at_once_with_path_and_line() {
        faults(
            "name: web\npriorty: 3\nrules:\n- name: a\n  match:\n    direction: activ\n    remote_prefix: 10.0.0.0/8\n    \
             remote_ports: 443\n  set:\n    syn_rto_ms: 50ms\n    ecn: 1\n- just text\n",
            &[
                "2: priorty: no such field as \"priorty\"; did you mean priority?",
                "6: rules[0].match.direction: no such value as \"activ\"; did you mean active?",
                "7: rules[0].match.remote_prefix: no such field as \"remote_prefix\"; did you mean remote_prefixes?",
                "8: rules[0].match.remote_ports: must be a list, not 443; write [...]",
                "10: rules[0].set.syn_rto_ms: must be a whole number from 0 to 4294967295, not \"50ms\"",
                "11: rules[0].set.ecn: must be true or false, not 1",
                "12: rules[1]: must be a mapping of name, match, set,",
            ],
        );
    }

    #[test]
    fn a_word_like_nothing_known_lists_what_is_known() {
        faults("rules:\n- zebra: 1\n", &["2: rules[0].zebra: no such field as \"zebra\"; known: name, match, set,"]);
    }

    #[test]
    fn the_same_field_in_both_spellings_is_a_fault() {
        faults(
            "node_labels: {a: b}\nnodeLabels: {a: c}\n",
            &["2: node_labels: given twice, as node_labels and as nodeLabels"],
        );
    }

    #[test]
    fn numbers_that_do_not_fit_are_faults() {
        for text in ["-1", "4294967296", "1.5", "[1]"] {
            let (_, walk) = walk(&format!("priority: {text}\n"));
            assert_eq!(walk.problems.len(), 1, "{text}");
        }
    }

    #[test]
    fn of_fields_that_exclude_each_other_one_is_given() {
        let text = "measures:\n- {quantity: srtt_us, cap: 2.5e6}\n- {quantity: srtt_us, cap: many}\n\
                    - {quantity: srtt_us, cap: 1, log: true}\n- {quantity: srtt_us, log: true}\n\
                    - {quantity: srtt_us, at_most: inf}\n- {quantity: srtt_us, role: guard}\nunit: flows\n";
        let mut walk = Walk::default();
        walk.message(&yaml::parse(text).unwrap()[0], &schema::message("Experiment"));
        let found: Vec<_> =
            walk.problems.iter().map(|p| (p.line.unwrap_or_default(), p.description.as_str())).collect();
        let expected = [
            (3, "must be a number, not \"many\""),
            (4, "cap is given too; write one of the two"),
            (6, "must be a number, not \"inf\""),
            (7, "no such value as \"guard\"; did you mean guardrail?"),
            (8, "no such value as \"flows\"; did you mean flow?"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn output_only_fields_are_read_over() {
        let (value, walk) = walk("name: web\nuid: x\nrevision: 7\ncreate_time: 2026-01-01T00:00:00Z\ncreator: me\n");
        assert_eq!(walk.problems, []);
        assert_eq!(value, serde_json::json!({"name": "web"}));
    }

    #[test]
    fn a_line_is_found_for_fields_that_are_missing_too() {
        let (_, walk) = walk("name: web\nrules:\n- name: a\n  match:\n    direction: active\n");
        assert_eq!(walk.lines.find("rules[0].match.direction"), Some(5));
        assert_eq!(walk.lines.find("rules[0].match.remote_prefixes[0]"), walk.lines.find("rules[0].match"));
        assert_eq!(walk.lines.find("rules[0].set"), Some(3));
        assert_eq!(walk.lines.find("description"), None);
    }
}
