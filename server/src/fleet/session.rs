//! One stream of one node: what to send it, and what its answers mean. Pure; `grpc::stream` does the sending.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use sockpilot_policy::fault::{Collector, Faults};
use sockpilot_proto::v1;
use uuid::Uuid;

use super::{
    node::{Confirmation, SnapshotRefusal, Version},
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

/// A content and the database epoch that it was sent under. Equal content is sent again under another epoch: what nodes have is
/// compared with generations of the epoch that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Of {
    epoch: Uuid,
    hash: [u8; 32],
}

impl From<Version> for Of {
    fn from(Version { epoch, generation: _, hash }: Version) -> Self {
        Self { epoch, hash }
    }
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
        let of = in_force.map(Of::from);
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
        self.in_force == Some(Of { epoch: delivery.version.epoch, hash: delivery.content.hash })
    }

    /// Decides about what the node must enforce; what is to be sent goes `now`.
    pub fn decide(&mut self, delivery: &Delivery, now: Instant) -> SendDecision {
        let hash = delivery.content.hash;
        let of = Of { epoch: delivery.version.epoch, hash };
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
        self.in_force = Some(version.into());
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
            if self.expected == Some(version.into()) {
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
mod tests {
    use super::*;

    fn version(generation: u64, hash: u8) -> Version {
        Version { epoch: Uuid::nil(), generation, hash: [hash; 32] }
    }

    fn delivery(generation: u64, hash: u8) -> Delivery {
        let revisions = [("policies/p".to_owned(), u64::from(hash))].into();
        let content = Content::new([hash; 32], vec![hash].into(), revisions);
        let (version, now) = (version(generation, hash), Instant::now());
        Delivery { version, content: Arc::new(content), committed: now, known: now }
    }

    fn decide(session: &mut Session, delivery: &Delivery) -> SendDecision {
        session.decide(delivery, Instant::now())
    }

    fn sends(session: &mut Session, generation: u64, hash: u8) -> bool {
        matches!(decide(session, &delivery(generation, hash)), SendDecision::Send)
    }

    fn fresh() -> Session {
        Session::new("n".to_owned(), Instant::now(), None, vec![], vec![])
    }

    fn violation(layer: &str, field: &str) -> Vec<v1::RuleViolation> {
        vec![v1::RuleViolation { layer: layer.to_owned(), field: field.to_owned(), description: "no".to_owned() }]
    }

    #[test]
    fn sends_each_content_once() {
        let mut session = fresh();
        assert!(sends(&mut session, 1, 7));
        assert_eq!(decide(&mut session, &delivery(2, 7)), SendDecision::Nothing, "same content, newer generation");
        let acknowledged = session.ack(version(1, 7), vec![], vec![]).expect("it was sent");
        assert_eq!(*acknowledged.confirmation.revisions, [("policies/p".to_owned(), 7)]);
        let way = acknowledged.way.expect("measured");
        assert!(acknowledged.committed == way.committed && way.known <= way.sent);
        let again = session.ack(version(1, 7), vec![], vec![]).expect("it may come again");
        assert_eq!(again.way, None, "measured once");
        assert!(sends(&mut session, 3, 8));
    }

    #[test]
    fn what_was_committed_before_the_node_came_is_not_measured() {
        let mut session = fresh();
        let before = delivery(1, 7);
        session.opened += std::time::Duration::from_secs(1);
        assert!(!session.has(&before));
        assert!(matches!(decide(&mut session, &before), SendDecision::Send));
        assert_eq!(session.ack(before.version, vec![], vec![]).expect("it was sent").way, None);
        assert!(session.has(&before) && !session.has(&delivery(2, 8)));
    }

    #[test]
    fn what_is_in_force_is_written_down_and_not_sent() {
        let mut session = Session::new("n".to_owned(), Instant::now(), Some(version(3, 7)), vec![], vec![]);
        let SendDecision::InForce(confirmation) = decide(&mut session, &delivery(9, 7)) else { panic!("in force") };
        assert_eq!((confirmation.version, confirmation.effective), (version(3, 7), None));
        let again = session.ack(version(3, 7), vec![], vec![]).expect("cgroups come and go");
        assert_eq!((again.confirmation.effective, again.way), (Some(vec![]), None));
        assert_eq!(decide(&mut session, &delivery(10, 7)), SendDecision::Nothing);
    }

    #[test]
    fn equal_content_is_sent_once_more_under_another_epoch() {
        let mut session = Session::new("n".to_owned(), Instant::now(), Some(version(9, 7)), vec![], vec![]);
        let of_next = |generation| {
            let delivery = delivery(generation, 7);
            Delivery { version: Version { epoch: Uuid::max(), ..delivery.version }, ..delivery }
        };
        assert!(matches!(decide(&mut session, &of_next(2)), SendDecision::Send));
        assert_eq!(decide(&mut session, &of_next(3)), SendDecision::Nothing);
        session.ack(of_next(2).version, vec![], vec![]).expect("sent");
        assert_eq!(decide(&mut session, &of_next(4)), SendDecision::Nothing);
    }

    #[test]
    fn what_is_refused_is_not_sent_again_but_something_else_is() {
        let mut session = fresh();
        assert!(sends(&mut session, 1, 1));
        session.ack(version(1, 1), vec![], vec![]).expect("sent");
        assert!(sends(&mut session, 2, 2));
        session.nack(version(2, 2), violation("policies/p", "rules[0]")).expect("sent");
        assert!(matches!(decide(&mut session, &delivery(3, 2)), SendDecision::Withhold(_)));
        assert_eq!(decide(&mut session, &delivery(4, 1)), SendDecision::Nothing, "the last good is still in force");
        assert!(sends(&mut session, 5, 3));
        let mut later = Session::new("n".to_owned(), Instant::now(), None, vec![], vec![([2; 32], vec![])]);
        assert!(matches!(decide(&mut later, &delivery(6, 2)), SendDecision::Withhold(_)), "nor on another stream");
    }

    #[test]
    fn going_back_while_the_answer_is_on_its_way_is_sent() {
        let mut session = fresh();
        assert!(sends(&mut session, 1, 1));
        session.ack(version(1, 1), vec![], vec![]).expect("sent");
        assert!(sends(&mut session, 2, 2));
        assert!(sends(&mut session, 3, 1), "the node may have the second in force by now");
        session.nack(version(2, 2), violation("policies/p", "rules[0]")).expect("sent");
        assert_eq!(decide(&mut session, &delivery(4, 1)), SendDecision::Nothing);
    }

    #[test]
    fn a_refused_version_is_no_refused_content() {
        let mut session = fresh();
        assert!(sends(&mut session, 1, 1));
        let refusal = session.nack(version(1, 1), violation("", "")).expect("sent");
        assert!(!refusal.remember);
        assert_eq!(decide(&mut session, &delivery(1, 1)), SendDecision::Nothing, "not again on this stream");
        assert!(sends(&mut Session::new("n".to_owned(), Instant::now(), None, vec![], vec![]), 1, 1));
    }

    #[test]
    fn what_a_node_tried_again_by_itself_is_in_force() {
        let mut session = fresh();
        assert!(sends(&mut session, 1, 1));
        assert!(!session.nack(version(1, 1), violation("", "")).expect("sent").remember);
        let again = session.ack(version(1, 1), vec![], vec![]).expect("sent, and not settled by the refusal");
        assert_eq!(
            (again.confirmation.version, again.way),
            (version(1, 1), None),
            "not measured: the wait was the node's"
        );
        assert_eq!(decide(&mut session, &delivery(2, 1)), SendDecision::Nothing);
        assert!(sends(&mut session, 3, 2));
    }

    fn held(layer: &str, revision: u64) -> Vec<v1::HeldBack> {
        vec![v1::HeldBack {
            layer: layer.to_owned(),
            revision,
            revision_in_force: 0,
            violations: violation(layer, "f"),
        }]
    }

    #[test]
    fn what_is_in_force_but_for_a_layer_is_not_sent_again() {
        let mut session = fresh();
        assert!(sends(&mut session, 1, 7));
        let Acknowledged { confirmation, .. } =
            session.ack(version(1, 7), vec![], held("policies/p", 7)).expect("it was sent");
        assert_eq!(confirmation.held_back, held("policies/p", 7));
        assert_eq!(decide(&mut session, &delivery(2, 7)), SendDecision::Nothing);
        let Acknowledged { confirmation, .. } =
            session.ack(version(1, 7), vec![], vec![]).expect("the node has tried it again");
        assert_eq!(confirmation.held_back, []);

        let mut back = Session::new("n".to_owned(), Instant::now(), Some(version(1, 7)), held("policies/p", 7), vec![]);
        let SendDecision::InForce(confirmation) = decide(&mut back, &delivery(3, 7)) else { panic!("in force") };
        assert_eq!(confirmation.held_back, held("policies/p", 7));
    }

    #[test]
    fn only_what_was_sent_can_be_held_back() {
        let mut session = fresh();
        assert!(sends(&mut session, 1, 7));
        for (held, field) in [(held("policies/q", 7), "layer"), (held("policies/p", 6), "revision")] {
            let Err(AckError::HeldBack(faults)) = session.ack(version(1, 7), vec![], held.clone()) else {
                panic!("taken")
            };
            assert_eq!(faults.as_slice()[0].field, format!("ack.held_back[0].{field}"));
            let mut back = Session::new("n".to_owned(), Instant::now(), Some(version(1, 7)), held, vec![]);
            assert!(sends(&mut back, 2, 7), "a hello that makes no sense is not believed");
        }
    }

    #[test]
    fn an_answer_to_nothing_is_unknown() {
        assert_eq!(fresh().ack(version(1, 1), vec![], vec![]), Err(AckError::Unknown(UnknownAnswer)));
        assert_eq!(fresh().nack(version(1, 1), vec![]), Err(UnknownAnswer));
    }
}
