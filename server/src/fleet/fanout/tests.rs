use std::task::{Context, Poll, Waker};

use sockpilot_proto::v1;

use super::*;
use crate::fleet::{
    mailbox::Letter,
    node::Sign,
    resolve::{Assigned, AuditHead, Revision},
};

fn fleet(generation: u64, revision: u64) -> Fleet {
    let name: sockpilot_policy::model::LayerName = "policies/p".parse().expect("a name");
    let layer = v1::Layer { name: name.to_string(), revision, ..v1::Layer::default() };
    let revision = Arc::new(Revision { name, revision, node_labels: Labels::new(), layer, refers_to_zones: false });
    let assigned = vec![Assigned { everyone: Some(revision), canary: None, rollout: None }];
    Fleet {
        epoch: Uuid::nil(),
        generation,
        lease_ms: 1_000,
        assigned,
        zones: Arc::default(),
        ends_s: Default::default(),
        off: Default::default(),
    }
}

fn attach(fanout: &Arc<Fanout>, generation: u64) -> Attachment {
    let node = Registration {
        node_id: "n".to_owned(),
        share_position: 0,
        labels: Labels::new(),
        daemon_version: String::new(),
        kernel: v1::KernelFacts::default(),
        in_force: None,
        held_back: vec![],
        server_id: Uuid::nil(),
        stream_id: Uuid::new_v4(),
        instance: None,
        address: String::new(),
        sign: Sign::default(),
    };
    let registered = Registered { epoch: Uuid::nil(), generation, refused: vec![], labels: Labels::new() };
    fanout.attach(&node, &registered, CancellationToken::new())
}

fn next(attachment: &Attachment) -> Option<Letter> {
    loop {
        match attachment.mailbox.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Letter::Heartbeat) => {}
            Poll::Ready(letter) => return Some(letter),
            Poll::Pending => return None,
        }
    }
}

fn generation(attachment: &Attachment) -> Option<u64> {
    match next(attachment)? {
        Letter::Delivery(delivery) => Some(delivery.version.generation),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_the_newest_waits() {
    let fanout = Arc::new(Fanout::new(Metrics::new()));
    let node = attach(&fanout, 1);
    for step in 1..=5 {
        fanout.publish(fleet(step, step), Instant::now(), 0);
    }
    assert_eq!(generation(&node), Some(5));
    fanout.publish(fleet(6, 5), Instant::now(), 0);
    assert_eq!(generation(&node), None, "the same content is nothing to send");
}

fn step(generation: u64) -> Step {
    let everyone = fleet(generation, generation).assigned.remove(0).everyone;
    let name = "policies/p".parse().expect("a name");
    let reached = Reached { epoch: Uuid::nil(), generation, audit: AuditHead::default() };
    Step { reached, name, everyone }
}

#[test]
fn what_was_read_before_a_step_takes_nothing_back() {
    let fanout = Arc::new(Fanout::new(Metrics::new()));
    let node = attach(&fanout, 1);
    assert!(!fanout.advance(&step(1)), "there is no state that it follows upon");
    fanout.publish(fleet(1, 1), Instant::now(), fanout.steps());
    assert_eq!(generation(&node), Some(1));
    let before = fanout.steps();
    assert!(fanout.advance(&step(2)) && !fanout.advance(&step(4)));
    assert_eq!(generation(&node), Some(2));
    fanout.publish(fleet(1, 1), Instant::now(), before);
    assert_eq!(generation(&node), None);
    assert!(!fanout.is_news(2) && fanout.is_news(3));
    fanout.publish(fleet(3, 3), Instant::now(), before);
    assert_eq!(generation(&node), Some(3), "it was read after others had changed something, too");
}

#[test]
fn no_node_is_served_from_before_its_registration() {
    let fanout = Arc::new(Fanout::new(Metrics::new()));
    fanout.publish(fleet(3, 1), Instant::now(), 0);
    let node = attach(&fanout, 4);
    assert_eq!(generation(&node), None);
    fanout.publish(fleet(4, 1), Instant::now(), 0);
    assert_eq!(generation(&node), Some(4));
}

#[test]
fn a_second_stream_takes_the_place() {
    let fanout = Arc::new(Fanout::new(Metrics::new()));
    fanout.publish(fleet(1, 1), Instant::now(), 0);
    let first = attach(&fanout, 1);
    let second = attach(&fanout, 1);
    assert_eq!(next(&first), Some(Letter::End(End::Superseded)));
    drop(first);
    assert_eq!(generation(&second), Some(1));
    assert_eq!(next(&second), None, "the end of the first does not end the second");
}

#[test]
fn a_silent_node_gets_no_heartbeat_but_its_end() {
    let mut fanout = Fanout::new(Metrics::new());
    fanout.began -= Duration::from_secs(60);
    let fanout = Arc::new(fanout);
    let node = attach(&fanout, 1);
    let beats = |silence_max| (0..TURNS).map(|turn| fanout.beat(turn, silence_max)).sum::<usize>();
    assert_eq!(beats(Duration::from_secs(30)), 1, "one turn is its own");
    assert_eq!(next(&node), None, "it goes on");
    node.mailbox.heard(0);
    assert_eq!(beats(Duration::from_secs(30)), 1);
    assert_eq!(next(&node), Some(Letter::End(End::Silent)));
}

#[test]
fn who_comes_while_it_drains_is_sent_away() {
    let fanout = Arc::new(Fanout::new(Metrics::new()));
    let before = attach(&fanout, 1);
    fanout.drain();
    for node in [before, attach(&fanout, 1)] {
        assert_eq!(next(&node), Some(Letter::End(End::Drained)));
    }
}
