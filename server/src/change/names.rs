//! Resource names as they stand in requests.

use sockpilot_policy::{
    fault::Collector,
    model::{LayerKind, LayerName},
    validate::node_id,
};
use uuid::Uuid;

/// A name that may say `@revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revisioned {
    /// Without the revision.
    pub name: LayerName,
    /// Which; `None`: the newest.
    pub revision: Option<u64>,
}

/// Reads `policies/{policy}@{revision}` or `experiments/{experiment}@{revision}`.
///
/// # Errors
/// The fault, with a remedy.
pub fn revision_of(text: &str) -> Result<(LayerName, u64), String> {
    let name: LayerName = text.split_once('@').map_or(text, |(name, _)| name).parse()?;
    match revisioned(name.kind, text)? {
        Revisioned { name, revision: Some(revision) } => Ok((name, revision)),
        Revisioned { name, revision: None } => Err(format!("says no revision; write {name}@1")),
    }
}

/// Reads a name of one collection.
///
/// # Errors
/// The fault, with a remedy.
pub fn layer_of(kind: LayerKind, text: &str) -> Result<LayerName, String> {
    let name: LayerName = text.parse()?;
    if name.kind == kind {
        Ok(name)
    } else {
        Err(format!("\"{text}\" is none of {0}; write {0}/NAME", kind.collection()))
    }
}

/// Reads a name that may say `@revision`.
///
/// # Errors
/// The fault, with a remedy.
pub fn revisioned(kind: LayerKind, text: &str) -> Result<Revisioned, String> {
    let Some((name, revision)) = text.split_once('@') else {
        return Ok(Revisioned { name: layer_of(kind, text)?, revision: None });
    };
    let name = layer_of(kind, name)?;
    let number = revision.parse().ok().filter(|number| *number > 0 && !revision.starts_with('+'));
    match number {
        Some(number) => Ok(Revisioned { name, revision: Some(number) }),
        None => Err(format!("\"{revision}\" is no revision; write {name}@1 or leave it out for the newest")),
    }
}

/// Reads `nodes/{node}`; empty is all of them.
///
/// # Errors
/// The fault, with a remedy.
pub fn node(text: &str) -> Result<String, String> {
    match text.strip_prefix("nodes/") {
        _ if text.is_empty() => Ok(String::new()),
        Some(id) => node_id(id),
        None => Err("is no node; write nodes/NAME, or nothing for all".to_owned()),
    }
}

/// Reads `nodes/{node}`.
///
/// # Errors
/// The fault, with a remedy.
pub fn one_node(text: &str) -> Result<String, String> {
    let id = text.strip_prefix("nodes/").ok_or("is no node; write nodes/NODE")?;
    node_id(id)
}

/// Longest free text of a request.
const TEXT_CHARS_MAX: usize = 1_000;

/// Checks free text.
pub fn text(field: &str, text: &str, faults: &mut Collector) {
    if text.chars().count() > TEXT_CHARS_MAX {
        faults.add_at(field, format!("is longer than {TEXT_CHARS_MAX} characters; shorten it"));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        faults.add_at(field, "has control characters; remove them");
    }
}

/// Reads a request id; empty is none.
pub fn request_id(text: &str, faults: &mut Collector) -> Option<Uuid> {
    if text.is_empty() {
        return None;
    }
    let id = text.parse().ok().filter(|id: &Uuid| !id.is_nil());
    if id.is_none() {
        faults.add_at("request_id", "is no UUID; make a random one for each change, or leave it out");
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_revisions() {
        let read = |text| revisioned(LayerKind::Policy, text).ok().map(|read| (read.name.to_string(), read.revision));
        assert_eq!(read("policies/p"), Some(("policies/p".to_owned(), None)));
        assert_eq!(read("policies/p@7"), Some(("policies/p".to_owned(), Some(7))));
        for bad in ["policies/p@", "policies/p@0", "policies/p@+1", "policies/p@x", "experiments/p", "policies/P", "p"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_override_says_its_revision() {
        let read = |text| revision_of(text).map(|(name, revision)| format!("{name}@{revision}"));
        for good in ["policies/p@7", "experiments/e@1"] {
            assert_eq!(read(good).as_deref(), Ok(good));
        }
        for bad in ["policies/p", "policies/p@", "policies/p@0", "p@1", "nodes/n@1", ""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn node_ids_are_as_the_contract_says() {
        for good in ["a", "0", "web-1.example", &"a".repeat(63)] {
            assert!(node_id(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "A", "a b", "ä", "a/b", &"a".repeat(64)] {
            assert!(node_id(bad).is_err(), "{bad}");
        }
        assert_eq!(node("nodes/a"), Ok("a".to_owned()));
        assert!(node("a").is_err());
    }
}
