//! Who calls.

use serde::{Deserialize, Serialize};
use sockpilot_identity::name::Role;
use sockpilot_policy::model::{Labels, LayerName};

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Whoever reaches a server without TLS. They say themselves who they are.
    Anyone,
    /// They have shown nothing.
    Nobody,
    /// The daemon of a node, by its certificate.
    Node(Node),
    /// A person, or a program of theirs.
    Person(Person),
}

/// A node, by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: String,
    /// Pinned in the certificate.
    pub labels: Labels,
}

/// A person, or a program of theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// As the audit log has them.
    pub actor: String,
    /// By what that is known.
    pub proof: Proof,
    pub role: Role,
    pub bound: Bound,
}

/// By what it is known who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    Certificate,
    /// One that the server made.
    Token,
    /// A token of an identity provider.
    IdentityProvider,
}

impl Proof {
    /// As the audit log has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Token => "token",
            Self::IdentityProvider => "identity_provider",
        }
    }
}

/// What an operator is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bound {
    /// Names must begin so; empty: any.
    pub name_prefix: String,
    /// A policy's `node_labels` must have all of these.
    pub node_labels: Labels,
}

impl Bound {
    /// Whether it binds to nothing.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether something of this name is within it.
    #[must_use]
    pub fn has_name(&self, name: &LayerName) -> bool {
        name.id.as_str().starts_with(&self.name_prefix)
    }

    /// Whether what is for nodes with these labels only is within it.
    #[must_use]
    pub fn has_nodes(&self, node_labels: &Labels) -> bool {
        self.node_labels.iter().all(|(key, value)| node_labels.get(key) == Some(value))
    }
}

impl Caller {
    /// What limits are counted by; `None`: nobody is told from others.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        match self {
            Self::Anyone | Self::Nobody => None,
            Self::Node(node) => Some(format!("nodes/{}", node.id)),
            Self::Person(person) => Some(person.actor.clone()),
        }
    }

    /// By what it is known who it is; nothing: it says so itself.
    #[must_use]
    pub fn proof(&self) -> Option<Proof> {
        match self {
            Self::Anyone | Self::Nobody => None,
            Self::Node(_) => Some(Proof::Certificate),
            Self::Person(person) => Some(person.proof),
        }
    }

    /// What a person may do.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        match self {
            Self::Person(person) => Some(person.role),
            Self::Anyone | Self::Nobody | Self::Node(_) => None,
        }
    }

    /// What binds it; nothing binds most.
    #[must_use]
    pub fn bound(&self) -> Option<&Bound> {
        match self {
            Self::Person(person) if !person.bound.is_none() && person.role != Role::Admin => Some(&person.bound),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_holds_for_names_and_nodes() {
        let name = |text: &str| text.parse::<LayerName>().expect("a name");
        let bound =
            Bound { name_prefix: "web-".to_owned(), node_labels: [("role".to_owned(), "edge".to_owned())].into() };
        assert!(bound.has_name(&name("policies/web-1")) && !bound.has_name(&name("policies/we")));
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert!(bound.has_nodes(&labels(&[("role", "edge"), ("zone", "a")])));
        assert!(!bound.has_nodes(&labels(&[("role", "core")])) && !bound.has_nodes(&labels(&[])));
        assert!(Bound::default().is_none() && Bound::default().has_nodes(&labels(&[])));
    }
}
