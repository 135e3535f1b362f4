//! Names as people type them.

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
    text.parse().and_then(without_revision)
}

fn without_revision(name: LayerName) -> Result<LayerName, String> {
    match name.revision {
        None => Ok(name),
        Some(_) => Err(format!("leave the revision away: {}", name.resource())),
    }
}

/// The collection of plans of rollouts.
pub const PLANS: &str = "rolloutPlans";
/// The name of what holds for all rollouts.
pub const SETTINGS: &str = "rolloutSettings";

/// A plan's full name; the collection may be left out.
pub fn plan(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        _ if text.is_empty() => Err("the name is missing".to_owned()),
        None => Ok(format!("{PLANS}/{text}")),
        Some((PLANS, "")) => Err("the id after the / is missing".to_owned()),
        Some((PLANS, _)) => Ok(text.to_owned()),
        Some(_) => Err(format!("a plan's name begins with {PLANS}/")),
    }
}

/// A policy without a revision; the collection may be left out.
pub fn policy(text: &str) -> Result<LayerName, String> {
    bare_of(Collection::Policies, text)
}

/// A policy, or one revision of it; the collection may be left out.
pub fn policy_revision(text: &str) -> Result<LayerName, String> {
    of(Collection::Policies, text)
}

/// Of one collection, without a revision; the collection may be left out, because it can be no other.
pub fn bare_of(collection: Collection, text: &str) -> Result<LayerName, String> {
    of(collection, text).and_then(without_revision)
}

/// Of one collection, which may be left out, because it can be no other.
pub fn of(collection: Collection, text: &str) -> Result<LayerName, String> {
    let prefix = collection.as_str();
    let full = if text.contains('/') { text.to_owned() } else { format!("{prefix}/{text}") };
    let name: LayerName = full.parse()?;
    if name.collection == collection { Ok(name) } else { Err(format!("write {prefix}/{}", name.id)) }
}

/// A rollout, by itself or by its policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolloutName {
    /// `rollouts/{rollout}`
    Itself(String),
    /// The one of this policy that is not over.
    Of(LayerName),
}

impl FromStr for RolloutName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("rollouts/") {
            Some("") => Err("the id after the / is missing".to_owned()),
            Some(_) => Ok(Self::Itself(text.to_owned())),
            None => policy(text).map(Self::Of),
        }
    }
}

/// What a kill switch is about, as in the contract.
pub fn switched(text: &str) -> Result<String, String> {
    match text {
        "all" => Ok("-".to_owned()),
        text => bare(text).map(|name| name.resource()).map_err(|why| format!("{why}, or all")),
    }
}

/// What `delete` is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletable {
    /// A policy or an experiment.
    Layer(LayerName),
    /// A node that is gone: `nodes/{node}`.
    Node(String),
    /// `rolloutPlans/{plan}`
    Plan(String),
}

impl fmt::Display for Deletable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(name) => name.fmt(f),
            Self::Node(name) | Self::Plan(name) => name.fmt(f),
        }
    }
}

impl FromStr for Deletable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kind: fn(String) -> Self = match text.split_once('/') {
            Some(("nodes" | PLANS, "")) => return Err("the id after the / is missing".to_owned()),
            Some(("nodes", _)) => Self::Node,
            Some((PLANS, _)) => Self::Plan,
            _ => return Ok(Self::Layer(bare(text)?)),
        };
        Ok(kind(text.to_owned()))
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
    /// All plans of rollouts.
    Plans,
    /// One: `rolloutPlans/{plan}`.
    Plan(String),
    /// What holds for all rollouts.
    RolloutSettings,
}

impl FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "zones" | "zoneMap" => return Ok(Self::Zones),
            PLANS => return Ok(Self::Plans),
            SETTINGS => return Ok(Self::RolloutSettings),
            _ if text.starts_with("rolloutPlans/") => return plan(text).map(Self::Plan),
            _ => {}
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
        assert_eq!("rolloutPlans/slow".parse(), Ok(Deletable::Plan("rolloutPlans/slow".to_owned())));
        for wrong in ["nodes/", "rolloutPlans/", "policies/x@2", "x"] {
            assert!(wrong.parse::<Deletable>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_selection_is_a_collection_or_a_name() {
        assert_eq!("experiments".parse(), Ok(Selection::All(Collection::Experiments)));
        assert_eq!("zones".parse(), Ok(Selection::Zones));
        assert_eq!("zoneMap".parse(), Ok(Selection::Zones));
        assert!(matches!("policies/x@2".parse(), Ok(Selection::One(_))));
        assert_eq!("rolloutPlans".parse(), Ok(Selection::Plans));
        assert_eq!("rolloutPlans/careful".parse(), Ok(Selection::Plan("rolloutPlans/careful".to_owned())));
        assert_eq!("rolloutSettings".parse(), Ok(Selection::RolloutSettings));
    }

    #[test]
    fn a_rollout_is_named_by_itself_or_by_its_policy() {
        let of = |text: &str| RolloutName::Of(text.parse().unwrap());
        assert_eq!("rollouts/web-3".parse(), Ok(RolloutName::Itself("rollouts/web-3".to_owned())));
        assert_eq!("policies/web".parse(), Ok(of("policies/web")));
        assert_eq!("web".parse(), Ok(of("policies/web")));
        for wrong in ["", "rollouts/", "experiments/e", "policies/web@2", "nodes/a"] {
            assert!(wrong.parse::<RolloutName>().is_err(), "{wrong}");
        }
        assert_eq!(plan("quick"), Ok("rolloutPlans/quick".to_owned()));
        assert!(plan("policies/quick").is_err() && plan("rolloutPlans/").is_err());
    }

    #[test]
    fn everything_can_be_turned_off_by_one_word() {
        assert_eq!(switched("all"), Ok("-".to_owned()));
        assert_eq!(switched("experiments/e"), Ok("experiments/e".to_owned()));
        for wrong in ["-", "web", "policies/web@2", "nodes/a"] {
            assert!(switched(wrong).is_err(), "{wrong}");
        }
    }
}
