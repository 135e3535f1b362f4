//! Names of policies and experiments as people type them.

use std::fmt;
use std::str::FromStr;

/// Policies or experiments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collection {
    /// `policies/`
    Policies,
    /// `experiments/`
    Experiments,
}

impl Collection {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Policies, Self::Experiments];

    /// As in names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policies => "policies",
            Self::Experiments => "experiments",
        }
    }

    /// As in `kind:` of a file.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Policies => "Policy",
            Self::Experiments => "Experiment",
        }
    }
}

/// `policies/web`, `experiments/syn-rto@2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerName {
    /// Which collection.
    pub collection: Collection,
    /// The id there. Whether it is well formed is for the server to say.
    pub id: String,
    /// After the `@`.
    pub revision: Option<u64>,
}

impl LayerName {
    /// Without the revision.
    pub fn resource(&self) -> String {
        format!("{}/{}", self.collection.as_str(), self.id)
    }
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.collection.as_str(), self.id)?;
        self.revision.map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

impl FromStr for LayerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((collection, rest)) = text.split_once('/') else {
            return Err(format!("write policies/{text} or experiments/{text}"));
        };
        let Some(collection) = Collection::ALL.into_iter().find(|c| c.as_str() == collection) else {
            return Err("a name begins with policies/ or experiments/".to_owned());
        };
        let (id, revision) = match rest.split_once('@') {
            None => (rest, None),
            Some((id, revision)) => match revision.parse::<u64>() {
                Ok(number) if number > 0 => (id, Some(number)),
                _ => return Err(format!("\"{revision}\" is no revision; write a number from 1 after the @")),
            },
        };
        if id.is_empty() {
            return Err("the id after the / is missing".to_owned());
        }
        Ok(Self { collection, id: id.to_owned(), revision })
    }
}

/// A name without a revision, for commands that are about the whole history.
pub fn bare(text: &str) -> Result<LayerName, String> {
    let name: LayerName = text.parse()?;
    match name.revision {
        None => Ok(name),
        Some(_) => Err(format!("leave the revision away: {}", name.resource())),
    }
}

/// What `delete` is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletable {
    /// A policy or an experiment.
    Layer(LayerName),
    /// A node that is gone: `nodes/{node}`.
    Node(String),
}

impl fmt::Display for Deletable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(name) => name.fmt(f),
            Self::Node(name) => name.fmt(f),
        }
    }
}

impl FromStr for Deletable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("nodes/") {
            Some("") => Err("the id after the / is missing".to_owned()),
            Some(_) => Ok(Self::Node(text.to_owned())),
            None => Ok(Self::Layer(bare(text)?)),
        }
    }
}

/// What `get` is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of a collection.
    All(Collection),
    /// One.
    One(LayerName),
    /// The zone map.
    Zones,
}

impl FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "zones" || text == "zoneMap" {
            return Ok(Self::Zones);
        }
        match Collection::ALL.into_iter().find(|c| c.as_str() == text) {
            Some(collection) => Ok(Self::All(collection)),
            None => Ok(Self::One(text.parse()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_print() {
        for text in ["policies/web", "experiments/syn-rto@2"] {
            assert_eq!(text.parse::<LayerName>().unwrap().to_string(), text);
        }
        assert_eq!("policies/web@3".parse::<LayerName>().unwrap().resource(), "policies/web");
    }

    #[test]
    fn wrong_names_say_what_to_write() {
        assert_eq!("web".parse::<LayerName>().unwrap_err(), "write policies/web or experiments/web");
        assert_eq!("nodes/a".parse::<LayerName>().unwrap_err(), "a name begins with policies/ or experiments/");
        assert_eq!("policies/".parse::<LayerName>().unwrap_err(), "the id after the / is missing");
        for wrong in ["policies/a@", "policies/a@0", "policies/a@-1", "policies/a@x"] {
            assert!(wrong.parse::<LayerName>().is_err(), "{wrong}");
        }
        assert_eq!(bare("policies/web@3").unwrap_err(), "leave the revision away: policies/web");
    }

    #[test]
    fn layers_and_nodes_can_be_deleted() {
        assert_eq!("nodes/a".parse(), Ok(Deletable::Node("nodes/a".to_owned())));
        assert!(matches!("policies/x".parse(), Ok(Deletable::Layer(_))));
        for wrong in ["nodes/", "policies/x@2", "x"] {
            assert!(wrong.parse::<Deletable>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_selection_is_a_collection_or_a_name() {
        assert_eq!("experiments".parse(), Ok(Selection::All(Collection::Experiments)));
        assert_eq!("zones".parse(), Ok(Selection::Zones));
        assert_eq!("zoneMap".parse(), Ok(Selection::Zones));
        assert!(matches!("policies/x@2".parse(), Ok(Selection::One(_))));
    }
}
