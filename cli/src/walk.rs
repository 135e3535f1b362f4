//! From a YAML tree to a message: walks the tree beside the descriptor and notes everything that does not fit.
//!
//! The result is JSON in the canonical mapping (<https://protobuf.dev/programming-guides/json/>), which `prost-reflect`
//! turns into the message. More is accepted than the canonical mapping has: short enum values, and plain scalars where a
//! string is wanted.

use crate::parse;
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
                let fields = field_names(descriptor, self.path.is_empty()).join(", ");
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
                let description = unknown(key, &field_names(descriptor, at_root), "field");
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
            Kind::Message(descriptor) if descriptor.full_name() == "google.protobuf.Duration" => self.duration(node),
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

    /// As people type it, or as the canonical mapping has it.
    fn duration(&mut self, node: &Node) -> Value {
        if let Content::Text(text) | Content::Number(text) = &node.content {
            if let Ok(duration) = parse::duration(text) {
                return Value::String(format!("{}s", duration.as_secs()));
            }
            let canonical = text.strip_suffix('s').and_then(|number| number.parse::<f64>().ok());
            if canonical.is_some_and(|seconds| seconds.is_finite() && seconds >= 0.0) {
                return Value::String(text.clone());
            }
        }
        let text = format!("must be a duration as 90s, 10m, 1h30m or 2d, not {}", node.content.describe());
        self.fault(node.line, text);
        Value::Null
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

/// The fields that a file may have, in a document itself or deeper.
fn field_names(descriptor: &MessageDescriptor, at_root: bool) -> Vec<String> {
    descriptor
        .fields()
        .map(|field| field.name().to_owned())
        .filter(|name| !(at_root && schema::OUTPUT_ONLY.contains(&name.as_str())))
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
mod tests;
