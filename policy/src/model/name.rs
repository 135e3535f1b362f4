//! What things are called.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// A policy's, experiment's, rule's or arm's id: 1 to 63 of a-z, 0-9 and '-', a letter first, no '-' last.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sound = (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "\"{text}\" is no id; use 1 to 63 characters of a-z, 0-9 and '-', a letter first and no '-' last"
            ))
        }
    }
}

/// What a layer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerKind {
    /// An experiment's epoch. Stands before a policy of equal priority.
    Experiment,
    /// A policy's revision.
    Policy,
}

impl LayerKind {
    /// The collection in resource names.
    #[must_use]
    pub fn collection(self) -> &'static str {
        match self {
            Self::Policy => "policies",
            Self::Experiment => "experiments",
        }
    }
}

/// The resource name of a policy or an experiment: `policies/{id}` or `experiments/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerName {
    /// Which collection.
    pub kind: LayerKind,
    /// Its id there.
    pub id: Id,
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.collection(), self.id)
    }
}

impl FromStr for LayerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (collection, id) = text.split_once('/').unwrap_or(("", text));
        let kind = match collection {
            "policies" => LayerKind::Policy,
            "experiments" => LayerKind::Experiment,
            _ => return Err(format!("\"{text}\" is no name; write policies/NAME or experiments/NAME")),
        };
        Ok(Self { kind, id: id.parse()? })
    }
}

/// Labels of nodes, or those that a selection asks for.
pub type Labels = BTreeMap<String, String>;
