//! How the daemon keeps its stream.

use std::time::Duration;

use sockpilot_node::metrics::Metrics;
use sockpilot_proto::v1::{self, node_event::Event, server_event::Event as ServerEvent};
use tokio::{sync::watch, time::timeout};
use tonic::Status;

use super::world::{World, next, server_event, soon, soon_after_a_refusal};

#[tokio::test]
async fn with_another_certificate_the_stream_moves_without_a_gap() {
    let mut world = World::new().await;
    let (channels, channel) = watch::channel(world.channel.clone());
    let mut connected = world.stream_by(channel, Metrics::new());
    let (mut before, outgoing, _) = world.accept().await;
    let heartbeat = || server_event(ServerEvent::Heartbeat(v1::Heartbeat::default()));
    soon(outgoing.send(heartbeat())).await.expect("open");
    soon(connected.wait_for(|connected| *connected)).await.expect("alive");
    channels.send_replace(world.channel.clone());
    let (mut events, _outgoing) = soon(world.streams.recv()).await.expect("a second stream");
    assert!(matches!(next(&mut events).await, Some(Event::Hello(_))));
    // Only now that the second stands, the first ends; and nobody was told of a loss.
    while soon(before.message()).await.is_ok_and(|event| event.is_some()) {}
    assert!(*connected.borrow() && !connected.has_changed().expect("alive"));
}

#[tokio::test]
async fn a_node_that_is_refused_says_so_and_asks_slowly() {
    let mut world = World::new().await;
    let metrics = Metrics::new();
    let mut connected = world.stream_counted(metrics.clone());
    let (events, outgoing, _) = world.accept().await;
    outgoing.send(Err(Status::invalid_argument("hello.labels: key \"a b\""))).await.expect("open");
    soon(async {
        while metrics.refused.get() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    drop((events, outgoing));
    // What is only away would be called again within a quarter of a second.
    assert!(timeout(Duration::from_secs(3), world.streams.recv()).await.is_err(), "asked again at once");
    let (_events, outgoing) = soon_after_a_refusal(world.streams.recv()).await.expect("asked again");
    soon(outgoing.send(server_event(ServerEvent::Heartbeat(v1::Heartbeat::default())))).await.expect("open");
    soon(connected.wait_for(|connected| *connected)).await.expect("alive");
    assert_eq!(metrics.refused.get(), 0);
}

#[tokio::test]
async fn the_stream_ends_when_told_to() {
    let mut world = World::new().await;
    let connected = world.stream();
    let (mut events, _outgoing, _) = world.accept().await;
    world.stop.cancel();
    assert!(soon(events.message()).await.is_ok_and(|event| event.is_none()) || connected.has_changed().is_err());
}

#[tokio::test]
async fn a_canary_that_the_breaker_has_ended_is_told_at_once_and_in_each_sign_of_life() {
    let mut world = World::new().await;
    let trip = |rollout: &str| v1::BreakerTrip { rollout: rollout.into(), revision: 2, ..v1::BreakerTrip::default() };
    world.ends.set_trips(vec![trip("rollouts/a")]);
    world.stream();
    let (mut events, _outgoing, hello) = world.accept().await;
    assert_eq!(hello.alive.map(|alive| alive.breaker_trips), Some(vec![trip("rollouts/a")]));
    world.ends.set_trips(vec![trip("rollouts/a"), trip("rollouts/b")]);
    // Signs of life come every five seconds.
    let told = timeout(Duration::from_secs(4), next(&mut events)).await.expect("at once");
    let Some(Event::Alive(alive)) = told else { panic!("{told:?}") };
    assert_eq!(alive.breaker_trips, [trip("rollouts/a"), trip("rollouts/b")]);
}
