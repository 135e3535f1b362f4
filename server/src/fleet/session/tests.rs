use uuid::Uuid;

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
    assert_eq!((again.confirmation.version, again.way), (version(1, 1), None), "not measured: the wait was the node's");
    assert_eq!(decide(&mut session, &delivery(2, 1)), SendDecision::Nothing);
    assert!(sends(&mut session, 3, 2));
}

fn held(layer: &str, revision: u64) -> Vec<v1::HeldBack> {
    vec![v1::HeldBack { layer: layer.to_owned(), revision, revision_in_force: 0, violations: violation(layer, "f") }]
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
        let Err(AckError::HeldBack(faults)) = session.ack(version(1, 7), vec![], held.clone()) else { panic!("taken") };
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
