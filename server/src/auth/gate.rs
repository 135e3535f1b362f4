//! Says of a call who makes it, by all that is known.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use sockpilot_policy::model::Labels;

use super::{
    caller::{Caller, Node, Proof},
    connections::{Connection, Connections, Secured},
    limits::{Limiter, Limits},
    oidc::{Oidc, Unbelieved},
    token,
    trust::{Refused, Trust},
};

/// Labels that nodes do not say themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Pinned {
    /// Those that are pinned for the node; all others it may.
    #[default]
    ByNode,
    /// These, too, whether they are pinned for it or not.
    Keys(BTreeSet<String>),
    /// None at all.
    All,
}

/// What is fixed when the server starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// The trust domain of names in certificates; `None`: any that an authority signs.
    pub domain: Option<String>,
    pub pinned: Pinned,
    pub limits: Limits,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Gate {
    pub rules: Rules,
    pub connections: Arc<Connections>,
    pub limiter: Limiter,
    /// Of an identity provider, if there is one.
    pub oidc: Option<Oidc>,
    trust: RwLock<Arc<Trust>>,
}

impl Gate {
    /// With these rules, and nothing known yet.
    #[must_use]
    pub fn new(rules: Rules, oidc: Option<Oidc>) -> Self {
        Self { rules, oidc, ..Self::default() }
    }

    /// What the database says.
    #[must_use]
    pub fn trust(&self) -> Arc<Trust> {
        self.trust.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who calls. What they bear with the call goes before the connection's certificate.
    ///
    /// # Errors
    /// Why they are not let in.
    pub fn caller(&self, connection: &Connection, bearer: Option<&str>, now: SystemTime) -> Result<Caller, Refused> {
        let Some(secured) = &connection.secured else { return Ok(Caller::Anyone) };
        let trust = self.trust();
        match (bearer, secured) {
            (Some(bearer), _) if token::is_ours(bearer) => trust.by_token(bearer, now),
            (Some(bearer), _) => {
                let oidc = self.oidc.as_ref().ok_or(Refused::NoToken)?;
                let named = oidc.check(bearer, now).map_err(|unbelieved| match unbelieved {
                    Unbelieved::Other => Refused::NoToken,
                    Unbelieved::Expired => Refused::Expired,
                })?;
                trust.person((&named.name, Proof::IdentityProvider), named.role, named.made)
            }
            (None, Secured::Nobody) => Ok(Caller::Nobody),
            (None, Secured::Nameless(_)) => Err(Refused::Nameless),
            (None, Secured::Peer(peer)) => trust.by_certificate(peer, self.rules.domain.as_deref(), now),
        }
    }

    /// The labels of a node that says `said`, as far as its certificate and the rules decide; and what it said in vain.
    #[must_use]
    pub fn labels(&self, node: &Node, said: Labels) -> (Labels, Vec<String>) {
        let may_say = |key: &String| match &self.rules.pinned {
            Pinned::ByNode => true,
            Pinned::Keys(keys) => !keys.contains(key),
            Pinned::All => false,
        };
        let in_vain = |(key, value): &(String, String)| match node.labels.get(key) {
            Some(pinned) => pinned != value,
            None => !may_say(key),
        };
        let (vain, mut labels): (Vec<_>, Labels) = {
            let (vain, rest): (Vec<_>, Vec<_>) = said.into_iter().partition(in_vain);
            (vain.into_iter().map(|(key, _)| key).collect(), rest.into_iter().collect())
        };
        labels.extend(node.labels.clone());
        (labels, vain)
    }

    /// The database says something new: connections of those who are not let in any more are cut. Answers how many, and with the nodes
    /// whose labels were pinned otherwise.
    pub fn learn(&self, trust: Trust, now: SystemTime) -> (usize, Vec<String>) {
        let trust = Arc::new(trust);
        let before = std::mem::replace(&mut *self.trust.write().unwrap_or_else(PoisonError::into_inner), trust.clone());
        let nodes: BTreeSet<_> = before.pinned.keys().chain(trust.pinned.keys()).collect();
        let otherwise = nodes.into_iter().filter(|node| before.pinned.get(*node) != trust.pinned.get(*node));
        let otherwise = otherwise.cloned().collect();
        let domain = self.rules.domain.as_deref();
        let cut = self.connections.cut(|connection| match &connection.secured {
            // One without a role stays: it may bear a token.
            Some(Secured::Peer(peer)) => trust.by_certificate(peer, domain, now) != Err(Refused::Revoked),
            _ => true,
        });
        (cut, otherwise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_node_cannot_label_itself_into_a_canary() {
        let node = Node { id: "n".to_owned(), labels: labels(&[("role", "core")]) };
        let said = labels(&[("role", "canary"), ("rack", "7"), ("zone", "a")]);
        let found = |pinned| Gate::new(Rules { pinned, ..Rules::default() }, None).labels(&node, said.clone());
        assert_eq!(
            found(Pinned::ByNode),
            (labels(&[("role", "core"), ("rack", "7"), ("zone", "a")]), vec!["role".to_owned()])
        );
        let keys = Pinned::Keys(["zone".to_owned()].into());
        assert_eq!(found(keys).0, labels(&[("role", "core"), ("rack", "7")]));
        assert_eq!(found(Pinned::All).0, labels(&[("role", "core")]));
    }
}
