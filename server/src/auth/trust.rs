//! What the database says of who may do what, as every replica has it in memory.

use std::{collections::HashMap, time::SystemTime};

use sockpilot_identity::{
    name::{Role, Who},
    peer::Peer,
};
use sockpilot_policy::model::Labels;

use super::{
    caller::{Bound, Caller, Node, Person, Proof},
    token::{self, Hash},
};

/// All that the database says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trust {
    /// Grows with every change.
    pub version: i64,
    /// By name.
    pub people: HashMap<String, (Role, Bound)>,
    /// By hash.
    pub tokens: HashMap<Hash, Held>,
    /// By `nodes/NODE` and `people/NAME`.
    pub revoked: HashMap<String, Revoked>,
    /// By node id.
    pub pinned: HashMap<String, Labels>,
}

/// A token that somebody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub holder: String,
    pub role: Role,
    pub bound: Bound,
    pub made: SystemTime,
    pub expires: SystemTime,
}

/// Somebody was shut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// What is older than this lets nobody in.
    pub at: SystemTime,
    /// Nothing does.
    pub shut_out: bool,
}

/// Why somebody is not let in. What exactly, the log says; callers are not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Revoked, or made before a revocation.
    Revoked,
    /// Its certificate or token has run out.
    Expired,
    /// No such token.
    NoToken,
    /// The certificate is of another trust domain.
    Domain,
    /// The certificate names nobody, or a server.
    Nameless,
    /// Nobody has said what this person may do.
    NoRole,
}

impl Refused {
    /// For logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::NoToken => "no_such_token",
            Self::Domain => "trust_domain",
            Self::Nameless => "nameless",
            Self::NoRole => "no_role",
        }
    }
}

impl Trust {
    /// Whether something that was made at a time lets its holder in.
    fn admits(&self, name: &str, made: SystemTime) -> Result<(), Refused> {
        let refused = self.revoked.get(name).is_some_and(|revoked| revoked.shut_out || made <= revoked.at);
        if refused { Err(Refused::Revoked) } else { Ok(()) }
    }

    /// Who somebody is by certificate, that TLS has found sound when the connection began.
    ///
    /// # Errors
    /// Why they are not let in.
    pub fn by_certificate(&self, peer: &Peer, domain: Option<&str>, now: SystemTime) -> Result<Caller, Refused> {
        let Peer { name, not_before, not_after } = peer;
        if domain.is_some_and(|domain| domain != name.domain) {
            return Err(Refused::Domain);
        }
        if now > *not_after {
            return Err(Refused::Expired);
        }
        match &name.who {
            Who::Server => Err(Refused::Nameless),
            Who::Node { id, labels } => {
                self.admits(&format!("nodes/{id}"), *not_before)?;
                Ok(Caller::Node(Node { id: id.clone(), labels: labels.clone() }))
            }
            Who::Person { name, role } => self.person((name, Proof::Certificate), *role, *not_before),
        }
    }

    /// A person of this name, whom what is the proof, made at `made`, calls so. What the table says goes before their own `role`.
    ///
    /// # Errors
    /// Why they are not let in.
    pub fn person(
        &self,
        (name, proof): (&str, Proof),
        role: Option<Role>,
        made: SystemTime,
    ) -> Result<Caller, Refused> {
        self.admits(&format!("people/{name}"), made)?;
        let said = role.map(|role| (role, Bound::default()));
        let (role, bound) = self.people.get(name).cloned().or(said).ok_or(Refused::NoRole)?;
        Ok(Caller::Person(Person { actor: name.to_owned(), proof, role, bound }))
    }

    /// Who has a token.
    ///
    /// # Errors
    /// Why they are not let in.
    pub fn by_token(&self, text: &str, now: SystemTime) -> Result<Caller, Refused> {
        let held = self.tokens.get(&token::hash(text)).ok_or(Refused::NoToken)?;
        if now > held.expires {
            return Err(Refused::Expired);
        }
        let Held { holder, role, bound, made, expires: _ } = held.clone();
        // Whoever is shut out has no use of their tokens either.
        self.admits(&format!("people/{holder}"), made)?;
        Ok(Caller::Person(Person { actor: format!("tokens/{holder}"), proof: Proof::Token, role, bound }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn peer(name: &str) -> Peer {
        Peer { name: name.parse().expect("a name"), not_before: at(100), not_after: at(200) }
    }

    fn refused(trust: &Trust, name: &str, now: u64) -> Refused {
        trust.by_certificate(&peer(name), Some("d"), at(now)).expect_err(name)
    }

    #[test]
    fn a_certificate_names_who_calls() {
        let trust = Trust::default();
        let caller = trust.by_certificate(&peer("spiffe://d/node/n/label/role/edge"), Some("d"), at(150));
        let labels = [("role".to_owned(), "edge".to_owned())].into();
        assert_eq!(caller, Ok(Caller::Node(Node { id: "n".to_owned(), labels })));
        assert_eq!(refused(&trust, "spiffe://e/node/n", 150), Refused::Domain);
        assert_eq!(refused(&trust, "spiffe://d/server", 150), Refused::Nameless);
        assert_eq!(refused(&trust, "spiffe://d/node/n", 201), Refused::Expired);
        assert_eq!(refused(&trust, "spiffe://d/person/ann", 150), Refused::NoRole);
    }

    #[test]
    fn the_table_goes_before_the_certificate() {
        let mut trust = Trust::default();
        trust.people.insert("ann".to_owned(), (Role::Viewer, Bound::default()));
        let caller = trust.by_certificate(&peer("spiffe://d/person/ann/role/admin"), None, at(150));
        assert!(matches!(caller, Ok(Caller::Person(Person { role: Role::Viewer, .. }))), "{caller:?}");
    }

    #[test]
    fn who_is_admitted_again_needs_something_newer() {
        let mut trust = Trust::default();
        let name = "spiffe://d/node/n";
        let mut revoke = |at_s, shut_out| {
            trust.revoked.insert("nodes/n".to_owned(), Revoked { at: at(at_s), shut_out });
            trust.by_certificate(&peer(name), None, at(150)).map(drop)
        };
        assert_eq!(revoke(50, true), Err(Refused::Revoked));
        assert_eq!(revoke(50, false), Ok(()));
        assert_eq!(revoke(100, false), Err(Refused::Revoked), "made in the second in which it was revoked");
        assert_eq!(revoke(150, false), Err(Refused::Revoked));
    }

    #[test]
    fn a_token_counts_until_it_runs_out() {
        let text = token::of_random([7; 32]);
        let held = Held {
            holder: "ci".to_owned(),
            role: Role::Operator,
            bound: Bound::default(),
            made: at(1),
            expires: at(200),
        };
        let mut trust = Trust { tokens: [(token::hash(&text), held)].into(), ..Trust::default() };
        assert!(trust.by_token(&text, at(200)).is_ok_and(|caller| caller.key().as_deref() == Some("tokens/ci")));
        assert_eq!(trust.by_token(&text, at(201)), Err(Refused::Expired));
        assert_eq!(trust.by_token(&text[1..], at(1)), Err(Refused::NoToken));
        trust.revoked.insert("people/ci".to_owned(), Revoked { at: at(50), shut_out: false });
        assert_eq!(trust.by_token(&text, at(100)), Err(Refused::Revoked));
    }
}
