//! Who makes a change, and what is written down of it.

use serde_json::Value;

use sockpilot_identity::name::Role;
use uuid::Uuid;

use crate::auth::caller::{Bound, Proof};

/// How the audit log's names of controllers begin.
pub const CONTROLLERS: &str = "controllers/";

/// Who changes something, and why.
#[derive(Debug, Clone, PartialEq)]
pub enum Author {
    /// Somebody who sent a request.
    Person {
        /// As the request names them.
        actor: String,
        /// By what they are known; nothing: they say so themselves.
        proof: Option<Proof>,
        /// What they may do; nothing: nobody was asked.
        role: Option<Role>,
        reason: String,
        request_id: Option<Uuid>,
        /// The request, as JSON.
        request_json: String,
        /// What they may change; nothing: all of it.
        bound: Bound,
    },
    /// A task of a server that decides by itself, for the fleet.
    Controller {
        /// The task's name.
        task: &'static str,
        reason: String,
        /// What it has seen that made it decide so.
        evidence: Value,
    },
}

impl Author {
    /// As the audit log names them. No request may claim a name that begins with [`CONTROLLERS`].
    #[must_use]
    pub fn actor(&self) -> String {
        match self {
            Self::Person { actor, .. } => actor.clone(),
            Self::Controller { task, .. } => format!("{CONTROLLERS}{task}"),
        }
    }

    /// What binds the author, if anything does.
    #[must_use]
    pub fn bound(&self) -> Option<&Bound> {
        match self {
            Self::Person { bound, .. } if !bound.is_none() => Some(bound),
            Self::Person { .. } | Self::Controller { .. } => None,
        }
    }

    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Person { reason, .. } | Self::Controller { reason, .. } => reason,
        }
    }

    /// By what it is known who they are, as the audit log has it.
    #[must_use]
    pub fn proof(&self) -> &'static str {
        match self {
            Self::Person { proof, .. } => proof.map_or("nothing", Proof::as_str),
            Self::Controller { .. } => "server",
        }
    }

    /// What they may do, as the audit log has it; empty: nobody was asked.
    #[must_use]
    pub fn role(&self) -> &'static str {
        match self {
            Self::Person { role: Some(role), .. } => role.as_str(),
            Self::Person { role: None, .. } | Self::Controller { .. } => "",
        }
    }

    /// The id of the request; empty: it had none.
    #[must_use]
    pub fn request_id(&self) -> String {
        match self {
            Self::Person { request_id: Some(id), .. } => id.to_string(),
            Self::Person { request_id: None, .. } | Self::Controller { .. } => String::new(),
        }
    }

    /// On what the change is based: the request, or the evidence. JSON.
    #[must_use]
    pub fn basis_json(&self) -> String {
        match self {
            Self::Person { request_json, .. } => request_json.clone(),
            Self::Controller { evidence, .. } => evidence.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_told_from_a_person() {
        let (reason, evidence) = ("it is over".to_owned(), serde_json::json!({ "flows": 7 }));
        let author = Author::Controller { task: "rollout", reason, evidence };
        let audited = (author.actor(), author.proof(), author.reason(), author.basis_json());
        assert_eq!(audited, ("controllers/rollout".to_owned(), "server", "it is over", "{\"flows\":7}".to_owned()));
    }
}
