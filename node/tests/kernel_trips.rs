//! What has ended stays ended: a canary that the circuit breaker has ended, and one on a node without a server, through restarts of
//! the daemon and of the machine. Without any server.

mod common;

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData};
use common::{World, facts};
use prost::Message;
use sha2::{Digest, Sha256};
use sockpilot_node::{
    disk::StateDir,
    keeper::{Command, Handle, Keeper, channel},
    kernel::{self, Found, Kernel, Probe},
    metrics::Metrics,
    records::collector::{Collector, Tables},
    snapshot::{stored::Snapshots, trips::Trips, version::Version},
};
use sockpilot_policy::{
    bucket::{flow_bucket, salt},
    layout::{Breaker, FlowKey},
    parameter::slot_by_name,
};
use sockpilot_proto::v1::{self, node_event::Event};
use tokio::{sync::oneshot, time::timeout};

const LEASE_MS: u32 = 600_000;
const CANARY: u32 = 40;
const STANDBY: u32 = 20;

/// One life of a daemon.
async fn life<T>(world: &World, home: &Path, live: impl AsyncFnOnce(Handle) -> T) -> T {
    let state = StateDir::open(home, &world.options.pin_dir).unwrap();
    let (kernel, found) = Kernel::open(&world.options).unwrap();
    let position = kernel.ring_position();
    let tables = Tables { identity: kernel.identity(), made: found == Found::Made, position, dropped: 0, earlier: &[] };
    let directories = (state.journals(), state.attributions());
    let collector = Collector::open(directories, tables, "boot".into(), "node".into(), 60, 0).unwrap();
    let kept = (Snapshots::of(&state), Trips::of(&state));
    let mut keeper = Keeper::new(kernel, facts(), collector, kept, Metrics::new());
    keeper.resume().unwrap();
    let (handle, ends) = channel();
    let lived = async {
        settle(&handle).await;
        live(handle).await
    };
    tokio::join!(lived, keeper.run(ends)).0
}

/// Everyone's revision 1, and the canary 2 beside it.
fn snapshot(generation: u64, lease_ms: u32, rollout: &v1::LayerRollout) -> v1::Snapshot {
    let layer = |revision, standby, cwnd| {
        let set = v1::Parameters { initial_cwnd_packets: Some(cwnd), ..Default::default() };
        let rule = v1::Rule { name: "all".into(), set: Some(set), ..Default::default() };
        let body = Some(v1::layer::Body::Policy(v1::PolicyLayer { rules: vec![rule] }));
        let (name, rollout) = ("policies/web".to_owned(), Some(rollout.clone()));
        v1::Layer { name, revision, priority: 1, lease_ms, standby, ends_s: 0, rollout, body }
    };
    let layers = vec![layer(rollout.revision, false, CANARY), layer(1, true, STANDBY)];
    let layers = v1::Layers { layers, ..Default::default() }.encode_to_vec();
    let content_hash = Sha256::digest(&layers).into();
    let version = Version { database_epoch: "epoch".into(), generation, content_hash };
    v1::Snapshot { version: Some(version.to_proto()), layers: layers.into(), answer_within_ms: 0 }
}

fn rollout(flow_share_bp: u32) -> v1::LayerRollout {
    v1::LayerRollout {
        name: "rollouts/wide".into(),
        salt: "salt".into(),
        revision: 2,
        flow_share_bp,
        breaker_ppm: 1_000,
        ..Default::default()
    }
}

async fn offer(handle: &Handle, snapshot: v1::Snapshot) {
    let (answer, answered) = oneshot::channel();
    handle.commands.send(Command::Offer { snapshot, received: Instant::now(), answer }).await.unwrap();
    assert!(matches!(answered.await.unwrap(), Event::Ack(_)));
}

/// Waits until the keeper has done what was asked before.
async fn settle(handle: &Handle) {
    let (answer, answered) = oneshot::channel();
    handle.commands.send(Command::Report { answer }).await.unwrap();
    answered.await.unwrap();
}

/// There was contact with a server.
async fn contact(handle: &Handle) {
    handle.contact.send_modify(|_| ());
    settle(handle).await;
}

/// The window that a connection of the canary's share gets now.
fn decided(world: &World) -> u32 {
    let ports = (1..).map(|port| FlowKey { local_port: port, ..FlowKey::default() });
    let flow = ports.into_iter().find(|flow| flow_bucket(salt("salt"), flow) < 500).unwrap();
    // With one mask for all rules of all layers, that of no service is the first.
    let stamp = Probe::open(&world.options).unwrap().decide(&flow, 1, None).unwrap();
    stamp.values[slot_by_name("initial_cwnd_packets").unwrap()]
}

fn map(world: &World, name: &str) -> Map {
    let pin = kernel::pins_of(&world.options).unwrap().join(name);
    Map::Array(MapData::from_pin(pin).unwrap())
}

/// As the kernel program does, where the daemon does not look.
fn trip(world: &World) {
    let breakers: Array<_, [u8; size_of::<Breaker>()]> = Array::try_from(map(world, "BREAKERS")).unwrap();
    let used = (0..breakers.len()).filter(|at| breakers.get(at, 0).unwrap()[..8] != [0; 8]).collect::<Vec<_>>();
    let [position] = used[..] else { panic!("{used:?}") };
    let mut trips: Array<_, u64> = Array::try_from(map(world, "TRIPS")).unwrap();
    trips.set(position, 7_000_000_000, 0).unwrap();
}

async fn told(handle: &mut Handle) -> Vec<v1::BreakerTrip> {
    let told = handle.breaker_trips.wait_for(|trips| !trips.is_empty());
    timeout(Duration::from_secs(20), told).await.expect("in time").unwrap().clone()
}

#[tokio::test]
async fn a_tripped_canary_stays_ended_and_told() {
    let Some(world) = World::new("trips") else { return };
    let home = common::state_dir();
    let expected = |trips: &[v1::BreakerTrip]| {
        let [trip] = trips else { panic!("{trips:?}") };
        assert_eq!((trip.layer.as_str(), trip.rollout.as_str(), trip.revision), ("policies/web", "rollouts/wide", 2));
    };
    life(&world, home.path(), async |mut handle| {
        offer(&handle, snapshot(1, LEASE_MS, &rollout(500))).await;
        assert_eq!(decided(&world), CANARY);
        trip(&world);
        assert_eq!(decided(&world), STANDBY, "at once, in the kernel");
        expected(&told(&mut handle).await);
    })
    .await;
    for machine_restarts in [false, true] {
        if machine_restarts {
            Kernel::detach(&world.options).unwrap();
        }
        life(&world, home.path(), async |mut handle| {
            expected(&told(&mut handle).await);
            contact(&handle).await;
            assert_eq!(decided(&world), STANDBY, "the machine restarts: {machine_restarts}");
        })
        .await;
    }
    life(&world, home.path(), async |mut handle| {
        // A server that does not know yet, and offers a greater share.
        offer(&handle, snapshot(2, LEASE_MS, &rollout(10_000))).await;
        expected(&told(&mut handle).await);
        assert_eq!(decided(&world), STANDBY);
        offer(&handle, snapshot(3, LEASE_MS, &v1::LayerRollout { revision: 3, ..rollout(500) })).await;
        assert_eq!(decided(&world), CANARY, "another revision");
        let over = handle.breaker_trips.wait_for(Vec::is_empty);
        timeout(Duration::from_secs(20), over).await.expect("in time").unwrap();
    })
    .await;
    assert!(!home.path().join("trips").exists() || std::fs::read(home.path().join("trips")).unwrap().is_empty());
}

/// A restart is no word from a server.
#[tokio::test]
async fn a_node_without_a_server_returns_to_what_everyone_has() {
    let Some(world) = World::new("cut-off") else { return };
    let home = common::state_dir();
    life(&world, home.path(), async |handle| offer(&handle, snapshot(1, 300, &rollout(500))).await).await;
    thread::sleep(Duration::from_millis(400));
    assert_eq!(decided(&world), STANDBY);
    for machine_restarts in [false, true] {
        if machine_restarts {
            Kernel::detach(&world.options).unwrap();
        }
        let found = life(&world, home.path(), async |_| decided(&world)).await;
        assert_eq!(found, STANDBY, "the machine restarts: {machine_restarts}");
    }
    // With a lease that no restart outlasts, too: what is known of the last contact goes with the machine.
    life(&world, home.path(), async |handle| offer(&handle, snapshot(2, LEASE_MS, &rollout(500))).await).await;
    assert_eq!(life(&world, home.path(), async |_| decided(&world)).await, CANARY, "the contact was a moment ago");
    Kernel::detach(&world.options).unwrap();
    life(&world, home.path(), async |handle| {
        assert_eq!(decided(&world), STANDBY);
        contact(&handle).await;
        assert_eq!(decided(&world), CANARY, "and a word from a server is one");
    })
    .await;
}
