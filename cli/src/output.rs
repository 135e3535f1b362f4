//! Where answers go.

use crate::args::Format;
use crate::document::Document;
use crate::failure::Failure;
use crate::name;
use crate::schema;
use crate::tree::Tree;
use prost_reflect::{DynamicMessage, SerializeOptions, Value};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::io::{ErrorKind, Write};

/// Writes to standard output. A reader that went away, such as `head`, is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// One message in the wanted form.
pub fn message<M: prost::Message>(format: Format, name: &str, value: &M, table: impl FnOnce(&M) -> String) -> String {
    match format {
        Format::Table => table(value),
        Format::Json => json(&Json(&schema::dynamic(name, value))),
        Format::Jsonl => entries(name, &schema::dynamic(name, value)).iter().map(line).collect(),
        Format::Yaml => Tree::from_message(&schema::dynamic(name, value)).to_yaml(),
    }
}

/// A list of messages in the wanted form.
pub fn messages<M: prost::Message>(
    format: Format,
    name: &str,
    values: &[M],
    table: impl FnOnce(&[M]) -> String,
) -> String {
    let all = || values.iter().map(|value| schema::dynamic(name, value)).collect::<Vec<_>>();
    match format {
        Format::Table => table(values),
        Format::Json => json(&all().iter().map(Json).collect::<Vec<_>>()),
        Format::Jsonl => all().iter().map(line).collect(),
        Format::Yaml => Tree::List(all().iter().map(Tree::from_message).collect()).to_yaml(),
    }
}

/// One document in the wanted form.
pub fn document(format: Format, value: &Document, table: impl FnOnce(&Document) -> String) -> String {
    match format {
        Format::Table => table(value),
        Format::Json => json(&Json(&value.dynamic())),
        Format::Jsonl => line(&value.dynamic()),
        Format::Yaml => value.to_yaml(),
    }
}

/// Documents in the wanted form: JSON as the API's list messages have them, YAML as several documents.
pub fn documents(format: Format, values: &[Document], table: impl FnOnce(&[Document]) -> String) -> String {
    match format {
        Format::Table => table(values),
        Format::Json => json(&Listing(values)),
        Format::Jsonl => values.iter().map(|value| line(&value.dynamic())).collect(),
        Format::Yaml => values.iter().map(Document::to_yaml).collect::<Vec<_>>().join("---\n"),
    }
}

fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value).expect("messages of the contract can always be written as JSON");
    text + "\n"
}

/// On a line of its own.
fn line(message: &DynamicMessage) -> String {
    serde_json::to_string(&Json(message)).expect("messages of the contract can always be written as JSON") + "\n"
}

/// What a list has: of the API's list messages the first field. Anything else is its own entry.
fn entries(name: &str, message: &DynamicMessage) -> Vec<DynamicMessage> {
    let list = message.get_field_by_number(1).filter(|_| name.starts_with("List"));
    let list = list.as_deref().and_then(Value::as_list);
    let entries = list.map(|list| list.iter().filter_map(Value::as_message).cloned().collect());
    entries.unwrap_or_else(|| vec![message.clone()])
}

/// A message in the proto JSON mapping, with fields that have their default value, so that a script finds a zero.
struct Json<'a>(&'a DynamicMessage);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize_with_options(serializer, &SerializeOptions::new().skip_default_fields(false))
    }
}

/// `{"policies": [...], "experiments": [...]}`, and what else is among them.
struct Listing<'a>(&'a [Document]);

impl Serialize for Listing<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, kind) in [("policies", "Policy"), ("experiments", "Experiment")] {
            let entries: Vec<DynamicMessage> =
                self.0.iter().filter(|document| document.kind() == kind).map(Document::dynamic).collect();
            map.serialize_entry(key, &entries.iter().map(Json).collect::<Vec<_>>())?;
        }
        let plans: Vec<DynamicMessage> =
            self.0.iter().filter(|document| document.kind() == "RolloutPlan").map(Document::dynamic).collect();
        if !plans.is_empty() {
            map.serialize_entry(name::PLANS, &plans.iter().map(Json).collect::<Vec<_>>())?;
        }
        for one in self.0.iter().filter(|document| document.is_the_only_one()) {
            map.serialize_entry(one.name(), &Json(&one.dynamic()))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sockpilot_proto::v1;

    #[test]
    fn json_is_the_proto_mapping_and_keeps_zeros() {
        let count = v1::RevisionCount { revision: 3, state: v1::LayerState::InForce.into(), nodes: 0 };
        assert_eq!(
            message(Format::Json, "RevisionCount", &count, |_| String::new()),
            "{\n  \"revision\": \"3\",\n  \"state\": \"LAYER_STATE_IN_FORCE\",\n  \"nodes\": 0\n}\n"
        );
    }

    #[test]
    fn of_a_list_each_entry_has_a_line() {
        let node = |name: &str| v1::Member { node: name.to_owned(), ..v1::Member::default() };
        let list = v1::ListMembersResponse { members: vec![node("nodes/a"), node("nodes/b")], ..Default::default() };
        let text = message(Format::Jsonl, "ListMembersResponse", &list, |_| String::new());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].starts_with("{\"node\":\"nodes/b\",\"wave\":0"), "{text}");
        let count = v1::RevisionCount { revision: 3, ..v1::RevisionCount::default() };
        assert_eq!(message(Format::Jsonl, "RevisionCount", &count, |_| String::new()).lines().count(), 1);
        let none = v1::ListMembersResponse::default();
        assert_eq!(message(Format::Jsonl, "ListMembersResponse", &none, |_| String::new()), "");
    }

    #[test]
    fn absent_parameters_stay_absent_in_json() {
        let set = v1::Parameters { syn_rto_ms: Some(50), ..v1::Parameters::default() };
        assert_eq!(message(Format::Json, "Parameters", &set, |_| String::new()), "{\n  \"synRtoMs\": 50\n}\n");
    }

    #[test]
    fn yaml_has_short_enums_and_plain_numbers() {
        let status = v1::LayerStatus {
            name: "policies/web".to_owned(),
            counts: vec![v1::RevisionCount { revision: 3, state: v1::LayerState::InForce.into(), nodes: 2 }],
            ..v1::LayerStatus::default()
        };
        assert_eq!(
            message(Format::Yaml, "LayerStatus", &status, |_| String::new()),
            "name: policies/web\ncounts:\n- revision: 3\n  state: in_force\n  nodes: 2\n"
        );
    }

    #[test]
    fn a_listing_has_both_collections() {
        let policy = Document::Policy(v1::Policy { name: "policies/a".to_owned(), ..v1::Policy::default() });
        let text = documents(Format::Json, &[policy], |_| String::new());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["policies"][0]["name"], "policies/a");
        assert_eq!(value["experiments"], serde_json::json!([]));
    }
}
