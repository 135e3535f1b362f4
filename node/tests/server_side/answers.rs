//! What the daemon answers to snapshots, and in which order.

use std::time::Duration;

use sockpilot_node::{keeper::Command, link::answers::wait};
use sockpilot_proto::v1::{self, node_event::Event, server_event::Event as ServerEvent};
use tonic::Status;

use super::world::{World, in_force, next, server_event, soon, version};

#[tokio::test]
async fn snapshots_are_answered_one_by_one_and_the_next_hello_says_what_is_in_force() {
    let mut world = World::new().await;
    let mut connected = world.stream();
    let (mut events, outgoing, hello) = world.accept().await;
    assert_eq!((hello.node_id.as_str(), hello.labels["rack"].as_str(), hello.in_force), ("node", "7", None));
    assert!(hello.kernel.is_some_and(|kernel| kernel.hz >= 100 && !kernel.congestion_controls.is_empty()));

    for generation in 1..=3 {
        let snapshot = v1::Snapshot {
            version: Some(version(generation).to_proto()),
            layers: Default::default(),
            answer_within_ms: 0,
        };
        soon(outgoing.send(server_event(ServerEvent::Snapshot(snapshot)))).await.expect("open");
        let Command::Offer { snapshot, answer, .. } = world.command().await else { panic!("no offer") };
        world.ends.set_in_force(Some(in_force(generation)));
        let ack = v1::Ack {
            version: snapshot.version,
            effective: vec![],
            apply_us: 1,
            held_back: vec![],
            stages: None,
            put_off_us: 0,
        };
        answer.send(Event::Ack(ack)).expect("awaited");
        let Some(Event::Ack(ack)) = next(&mut events).await else { panic!("no answer") };
        assert_eq!(ack.version, Some(version(generation).to_proto()));
    }
    soon(connected.wait_for(|connected| *connected)).await.expect("alive");

    // The server goes: the node calls again and says what it has.
    outgoing.send(Err(Status::unavailable("going down"))).await.expect("open");
    drop((events, outgoing));
    soon(connected.wait_for(|connected| !connected)).await.expect("alive");
    let (_, _, hello) = soon(async {
        // The connection itself still stands, so no new socket has to be exempt.
        let (mut events, outgoing) = world.streams.recv().await.expect("a stream");
        let Some(Event::Hello(hello)) = next(&mut events).await else { panic!("no hello first") };
        (events, outgoing, hello)
    })
    .await;
    assert_eq!(hello.in_force, Some(version(3).to_proto()));
    assert_eq!(hello.held_back, in_force(3).held_back);
}

#[tokio::test]
async fn an_answer_that_is_put_off_goes_before_the_next() {
    let mut world = World::new().await;
    world.stream();
    let (mut events, outgoing, _) = world.accept().await;
    let ack = |generation| Event::Ack(v1::Ack { version: Some(version(generation).to_proto()), ..Default::default() });
    // As long as it may take, so that each comes because of the next.
    for (generation, answer_within_ms) in [(1, u32::MAX), (2, u32::MAX), (3, 0)] {
        let version = Some(version(generation).to_proto());
        let snapshot = v1::Snapshot { version, layers: Default::default(), answer_within_ms };
        soon(outgoing.send(server_event(ServerEvent::Snapshot(snapshot)))).await.expect("open");
        let Command::Offer { answer, .. } = world.command().await else { panic!("no offer") };
        answer.send(ack(generation)).expect("awaited");
    }
    for (generation, was_put_off) in [(1, true), (2, true), (3, false)] {
        let Some(Event::Ack(answer)) = next(&mut events).await else { panic!("no answer") };
        assert_eq!(
            (answer.put_off_us > 0, Event::Ack(v1::Ack { put_off_us: 0, ..answer })),
            (was_put_off, ack(generation))
        );
    }
}

#[tokio::test]
async fn a_refusal_is_told_at_once() {
    let mut world = World::new().await;
    world.stream();
    let (mut events, outgoing, _) = world.accept().await;
    let version = Some(version(1).to_proto());
    let snapshot = v1::Snapshot { version: version.clone(), layers: Default::default(), answer_within_ms: u32::MAX };
    soon(outgoing.send(server_event(ServerEvent::Snapshot(snapshot)))).await.expect("open");
    let Command::Offer { answer, .. } = world.command().await else { panic!("no offer") };
    let nack = Event::Nack(v1::Nack { version, violations: vec![] });
    answer.send(nack.clone()).expect("awaited");
    // Sooner than an acknowledgement would be.
    let told = tokio::time::timeout(wait(Duration::MAX, 0.0), next(&mut events)).await;
    assert_eq!(told, Ok(Some(nack)));
}

#[test]
fn acknowledgements_wait_for_half_of_their_time_and_a_share_of_the_rest() {
    let within = Duration::from_millis(900);
    assert_eq!([0.0, 0.5, 1.0].map(|share| wait(within, share).as_millis()), [450, 675, 900]);
    assert_eq!(wait(Duration::ZERO, 0.7), Duration::ZERO);
    assert_eq!(wait(Duration::MAX, 1.0), Duration::from_secs(5), "whatever a server asks for");
}

#[tokio::test]
async fn what_comes_into_force_later_is_told_on_its_stream_or_by_the_next_hello() {
    let mut world = World::new().await;
    world.stream();
    let (mut events, outgoing, _) = world.accept().await;
    let nack = |generation| Event::Nack(v1::Nack { version: Some(version(generation).to_proto()), violations: vec![] });
    let ack = |generation| Event::Ack(v1::Ack { version: Some(version(generation).to_proto()), ..Default::default() });
    for (generation, before, answer, after, expected) in [
        (1, None, nack(1), Some(ack(1)), vec![nack(1), ack(1)]),
        (2, None, nack(2), None, vec![nack(2)]),
        // What was settled before the next was looked at is told before it.
        (3, Some(ack(2)), nack(3), None, vec![ack(2), nack(3)]),
    ] {
        let snapshot = v1::Snapshot {
            version: Some(version(generation).to_proto()),
            layers: Default::default(),
            answer_within_ms: 0,
        };
        soon(outgoing.send(server_event(ServerEvent::Snapshot(snapshot)))).await.expect("open");
        let Command::Offer { answer: answers, .. } = world.command().await else { panic!("no offer") };
        before.into_iter().for_each(|late| world.ends.answer_late(late));
        answers.send(answer).expect("awaited");
        after.into_iter().for_each(|late| world.ends.answer_late(late));
        for expected in expected {
            assert_eq!(next(&mut events).await, Some(expected));
        }
    }

    // The third comes into force when another stream has said what was in force before.
    outgoing.send(Err(Status::unavailable("going down"))).await.expect("open");
    drop((events, outgoing));
    let (streams, ends) = (&mut world.streams, &world.ends);
    let mut hellos = async || {
        let (mut events, outgoing) = soon(streams.recv()).await.expect("a stream");
        let Some(Event::Hello(hello)) = next(&mut events).await else { panic!("no hello first") };
        (hello.in_force, events, outgoing)
    };
    let (known, _events, outgoing) = hellos().await;
    assert_eq!(known, None);
    soon(outgoing.send(server_event(ServerEvent::Heartbeat(v1::Heartbeat::default())))).await.expect("open");
    ends.set_in_force(Some(in_force(3)));
    ends.answer_late(ack(3));
    assert_eq!(hellos().await.0, Some(version(3).to_proto()));
}

#[tokio::test]
async fn what_comes_to_act_on_other_cgroups_is_acknowledged_once_more() {
    let mut world = World::new().await;
    world.ends.set_in_force(Some(in_force(3)));
    let _connected = world.stream();
    let (mut events, _outgoing, _) = world.accept().await;
    let acknowledged = |generation, note: &str| {
        let value = v1::EffectiveValue { note: note.to_owned(), ..v1::EffectiveValue::default() };
        v1::Ack {
            version: Some(version(generation).to_proto()),
            effective: vec![value],
            apply_us: 0,
            held_back: vec![],
            stages: None,
            put_off_us: 0,
        }
    };
    let mut acks = async || loop {
        if let Some(Event::Ack(ack)) = next(&mut events).await {
            return ack;
        }
    };
    // What the server has not offered it need not know.
    world.ends.set_acted_on(Some(acknowledged(2, "older")));
    for note in ["absent", "there"] {
        let now = acknowledged(3, note);
        world.ends.set_acted_on(Some(now.clone()));
        assert_eq!(acks().await, now);
    }
}
