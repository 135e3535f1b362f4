//! One stream of one node: what to send it, and what its answers mean. Pure; `grpc::stream` does the sending.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use sockpilot_policy::fault::{Collector, Faults};
use sockpilot_proto::v1;

use super::{
    node::{Confirmation, Of, SnapshotRefusal, Version},
    propagation::Way,
    resolve::Content,
};

/// How many sent snapshots an answer is looked for among. A node answers in order, and only the newest waits for it.
const SENT_MAX: usize = 8;

/// What a node must enforce now.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Under which version it is sent.
    pub version: Version,
    pub content: Arc<Content>,
    /// When the generation was committed.
    pub committed: Instant,
    /// When this server knew.
    pub known: Instant,
}

/// What to do about a delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum SendDecision {
    Send,
    /// The node has it in force already; write that down.
    InForce(Confirmation),
    /// The node has refused the content before; write down what that means for the layers now.
    Withhold(SnapshotRefusal),
    /// Nothing: the node has it or will have it.
    Nothing,
}

/// A node has a snapshot in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Acknowledged {
    /// Write this down.
    pub confirmation: Confirmation,
    /// When its content was committed.
    pub committed: Instant,
    /// How it came there, if the node was there to get it when it was committed, and has said so for the first time.
    pub way: Option<Way>,
}

/// Why an answer cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is to a snapshot that was not sent on this stream, or long ago")]
pub struct UnknownAnswer;

/// Why an acknowledgement cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// It says nothing to this server.
    #[error(transparent)]
    Unknown(#[from] UnknownAnswer),
    /// It holds back what was not sent.
    #[error(transparent)]
    HeldBack(Faults),
}

/// The state of a stream.
#[derive(Debug)]
pub struct Session {
    node_id: String,
    /// When the stream was.
    opened: Instant,
    /// What the node said is in force when it connected, until that is written down or gone.
    at_hello: Option<(Version, Vec<v1::HeldBack>)>,
    /// Content that the node enforces, as far as known.
    in_force: Option<Of>,
    /// Content that the node will enforce once it has answered everything.
    expected: Option<Of>,
    refused: HashMap<[u8; 32], Vec<v1::RuleViolation>>,
    sent: VecDeque<Sent>,
}

#[derive(Debug)]
struct Sent {
    delivery: Delivery,
    /// When the transport took it.
    at: Instant,
    answered: bool,
}

impl Session {
    /// A stream that has just said hello, and what is in force, but for what is held back.
    #[must_use]
    pub fn new(
        node_id: String,
        opened: Instant,
        in_force: Option<Version>,
        held_back: Vec<v1::HeldBack>,
        refused: Vec<([u8; 32], Vec<v1::RuleViolation>)>,
    ) -> Self {
        let of = in_force.as_ref().map(Version::of);
        Self {
            node_id,
            opened,
            at_hello: in_force.map(|version| (version, held_back)),
            in_force: of,
            expected: of,
            refused: refused.into_iter().collect(),
            sent: VecDeque::new(),
        }
    }

    /// Whether the node has it in force.
    #[must_use]
    pub fn has(&self, delivery: &Delivery) -> bool {
        self.in_force == Some(delivery.version.of())
    }

    /// Decides about what the node must enforce; what is to be sent goes `now`.
    pub fn decide(&mut self, delivery: &Delivery, now: Instant) -> SendDecision {
        let (of, hash) = (delivery.version.of(), delivery.version.hash);
        let revisions = || delivery.content.revisions.clone();
        let senseless = |(_, held_back): &(Version, Vec<_>)| check(held_back, &delivery.content).is_err();
        if self.expected == Some(of) && !self.at_hello.as_ref().is_some_and(senseless) {
            // The same content under an older generation is in force as well.
            return match self.at_hello.take() {
                Some((version, held_back)) => {
                    // The node may acknowledge it once more, when it acts on other cgroups than before or holds less back.
                    let delivery = Delivery { version, ..delivery.clone() };
                    self.remember(Sent { delivery, at: now, answered: true });
                    let (node_id, revisions) = (self.node_id.clone(), revisions());
                    SendDecision::InForce(Confirmation { node_id, version, revisions, held_back, effective: None })
                }
                None => SendDecision::Nothing,
            };
        }
        if let Some(violations) = self.refused.get(&hash) {
            return SendDecision::Withhold(SnapshotRefusal {
                node_id: self.node_id.clone(),
                hash,
                revisions: revisions(),
                violations: violations.clone(),
                remember: false,
            });
        }
        self.at_hello = None;
        self.expected = Some(of);
        self.remember(Sent { delivery: delivery.clone(), at: now, answered: false });
        SendDecision::Send
    }

    fn remember(&mut self, sent: Sent) {
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(sent);
    }

    /// The node has a snapshot in force, but for what it holds back.
    ///
    /// # Errors
    /// If it was not sent, or something is held back that was not.
    pub fn ack(
        &mut self,
        version: Version,
        effective: Vec<v1::EffectiveValue>,
        held_back: Vec<v1::HeldBack>,
    ) -> Result<Acknowledged, AckError> {
        let sent = self.sent.iter_mut().find(|sent| sent.delivery.version == version).ok_or(UnknownAnswer)?;
        check(&held_back, &sent.delivery.content).map_err(AckError::HeldBack)?;
        let first = !std::mem::replace(&mut sent.answered, true);
        let revisions = sent.delivery.content.revisions.clone();
        let Delivery { committed, known, .. } = sent.delivery;
        let way = (first && committed >= self.opened).then_some(Way { committed, known, sent: sent.at });
        self.in_force = Some(version.of());
        let effective = Some(effective);
        let confirmation = Confirmation { node_id: self.node_id.clone(), version, revisions, held_back, effective };
        Ok(Acknowledged { confirmation, committed, way })
    }

    /// The node refuses a snapshot; what it had stays in force.
    ///
    /// # Errors
    /// If it was not sent.
    pub fn nack(
        &mut self,
        version: Version,
        violations: Vec<v1::RuleViolation>,
    ) -> Result<SnapshotRefusal, UnknownAnswer> {
        let sent = self.sent.iter_mut().find(|sent| sent.delivery.version == version).ok_or(UnknownAnswer)?;
        sent.answered = true;
        let revisions = sent.delivery.content.revisions.clone();
        let hash = version.hash;
        // What is wrong with a version, or went wrong this once, is not wrong with the content.
        let remember = violations.is_empty() || !violations.iter().all(is_of_delivery);
        if remember {
            self.refused.insert(hash, violations.clone());
            if self.expected == Some(version.of()) {
                self.expected = self.in_force;
            }
        }
        Ok(SnapshotRefusal { node_id: self.node_id.clone(), hash, revisions, violations, remember })
    }
}

/// Whether all that is held back is of this content.
fn check(held_back: &[v1::HeldBack], content: &Content) -> Result<(), Faults> {
    let mut faults = Collector::at("ack");
    for (index, v1::HeldBack { layer, revision, .. }) in held_back.iter().enumerate() {
        let sent = content.revisions.iter().find(|(name, _)| name == layer).map(|(_, revision)| revision);
        match sent {
            Some(sent) if sent == revision => {}
            Some(sent) => {
                let problem =
                    format!("is {revision}, but the snapshot has revision {sent}; say which one is held back");
                faults.add_at(&format!("held_back[{index}].revision"), problem);
            }
            None => faults.add_at(&format!("held_back[{index}].layer"), "is not in the snapshot; name a layer of it"),
        }
    }
    faults.finish(())
}

/// About the snapshot as a whole and nothing in it: it came too late, or the tables could not be filled.
fn is_of_delivery(violation: &v1::RuleViolation) -> bool {
    violation.layer.is_empty() && violation.field.is_empty()
}

#[cfg(test)]
mod tests;
