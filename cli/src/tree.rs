//! A message as an ordered tree, for YAML: fields in the contract's order and spelling, short enum values, plain numbers.

use crate::format;
use crate::schema;
use prost_reflect::{DynamicMessage, Kind, MapKey, ReflectMessage, Value};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// An ordered value.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Whole(u64),
    /// A number with a fraction.
    Float(f64),
    /// A string.
    Text(String),
    /// A sequence.
    List(Vec<Tree>),
    /// A mapping.
    Map(Vec<(String, Tree)>),
}

impl Tree {
    /// All fields of a message that are set.
    pub fn from_message(message: &DynamicMessage) -> Self {
        if message.descriptor().package_name() == "google.protobuf" {
            return match serde_json::to_value(message) {
                Ok(serde_json::Value::String(text)) => Self::Text(readable(text)),
                Ok(other) => Self::Text(other.to_string()),
                Err(error) => Self::Text(error.to_string()),
            };
        }
        Self::Map(
            message
                .fields()
                .map(|(field, value)| (field.name().to_owned(), Self::from_value(value, &field.kind())))
                .collect(),
        )
    }

    fn from_value(value: &Value, kind: &Kind) -> Self {
        match value {
            Value::Bool(value) => Self::Bool(*value),
            Value::I32(value) => Self::Float(f64::from(*value)),
            Value::I64(value) => Self::Text(value.to_string()),
            Value::U32(value) => Self::Whole(u64::from(*value)),
            Value::U64(value) => Self::Whole(*value),
            Value::F32(value) => Self::Float(f64::from(*value)),
            Value::F64(value) => Self::Float(*value),
            Value::String(text) => Self::Text(text.clone()),
            Value::Bytes(bytes) => Self::Text(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
            Value::EnumNumber(number) => match kind {
                Kind::Enum(descriptor) => Self::Text(match descriptor.get_value(*number) {
                    Some(value) => schema::short_enum(descriptor, value.name()),
                    None => number.to_string(),
                }),
                _ => Self::Text(number.to_string()),
            },
            Value::Message(message) => Self::from_message(message),
            Value::List(items) => Self::List(items.iter().map(|item| Self::from_value(item, kind)).collect()),
            Value::Map(entries) => {
                let kind = match kind {
                    Kind::Message(entry) => entry.map_entry_value_field().kind(),
                    other => other.clone(),
                };
                let mut entries: Vec<(String, Self)> =
                    entries.iter().map(|(key, value)| (key_text(key), Self::from_value(value, &kind))).collect();
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                Self::Map(entries)
            }
        }
    }

    /// As a YAML document.
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("a tree of plain values can always be written")
    }
}

/// A duration of whole seconds as people type it; all else as the canonical mapping has it.
fn readable(text: String) -> String {
    let seconds = text.strip_suffix('s').and_then(|number| number.parse().ok());
    seconds.map_or(text, format::duration_s)
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::String(text) => text.clone(),
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(value) => value.to_string(),
        MapKey::I64(value) => value.to_string(),
        MapKey::U32(value) => value.to_string(),
        MapKey::U64(value) => value.to_string(),
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Whole(value) => serializer.serialize_u64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}
