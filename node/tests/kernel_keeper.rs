//! What is in force survives: the daemon, the machine, and an end at any step. Without any server.

mod common;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use aya::maps::{
    Map, MapData,
    lpm_trie::{Key, LpmTrie},
};
use common::{World, facts, remove_cgroup};
use prost::Message;
use sha2::{Digest, Sha256};
use sockpilot_node::{
    disk::StateDir,
    keeper::{Command, Handle, InForce, Keeper, channel},
    kernel::{self, Found, Kernel},
    metrics::Metrics,
    records::collector::{Collector, Tables},
    snapshot::{
        stored::{Snapshots, Stored},
        trips::Trips,
        version::Version,
    },
};
use sockpilot_proto::v1::{self, node_event::Event};
use tokio::{sync::oneshot, time::timeout};

/// One life of a daemon: from the start to the end of the keeper.
async fn life<T>(world: &World, home: &Path, live: impl AsyncFnOnce(Handle) -> T) -> (Found, T) {
    life_counted(world, home, Metrics::new(), live).await
}

async fn life_counted<T>(
    world: &World,
    home: &Path,
    metrics: Metrics,
    live: impl AsyncFnOnce(Handle) -> T,
) -> (Found, T) {
    let state = StateDir::open(home, &world.options.pin_dir).unwrap();
    let (kernel, found) = Kernel::open(&world.options).unwrap();
    let made = found == Found::Made;
    let tables =
        Tables { identity: kernel.identity(), made, position: kernel.ring_position(), dropped: 0, earlier: &[] };
    let directories = (state.journals(), state.attributions());
    let collector = Collector::open(directories, tables, "boot".into(), "node".into(), 60, 0).unwrap();
    let mut keeper = Keeper::new(kernel, facts(), collector, (Snapshots::of(&state), Trips::of(&state)), metrics);
    keeper.resume().unwrap();
    let (handle, ends) = channel();
    let lived = async {
        // Once the keeper has answered anything, it has said what is in force.
        settle(&handle).await;
        live(handle).await
    };
    let (lived, ()) = tokio::join!(lived, keeper.run(ends));
    (found, lived)
}

async fn settle(handle: &Handle) {
    let (answer, answered) = oneshot::channel();
    handle.commands.send(Command::Report { answer }).await.unwrap();
    answered.await.unwrap();
}

fn snapshot(generation: u64, cwnd: u32) -> v1::Snapshot {
    matching(generation, cwnd, v1::Match::default())
}

/// A snapshot that was damaged on the way.
fn damaged(generation: u64) -> v1::Snapshot {
    v1::Snapshot { layers: vec![0].into(), ..snapshot(generation, 20) }
}

/// A snapshot that needs a prefix in the kernel's tables.
fn to_somewhere(generation: u64) -> v1::Snapshot {
    matching(generation, 30, v1::Match { remote_prefixes: vec!["192.0.2.0/24".into()], ..Default::default() })
}

fn matching(generation: u64, cwnd: u32, matches: v1::Match) -> v1::Snapshot {
    let set = v1::Parameters { initial_cwnd_packets: Some(cwnd), ..Default::default() };
    of_layers("epoch", generation, vec![layer("web", generation, matches, set)])
}

fn layer(name: &str, revision: u64, matches: v1::Match, set: v1::Parameters) -> v1::Layer {
    let rule = v1::Rule { name: "all".into(), r#match: Some(matches), set: Some(set), ..Default::default() };
    let body = Some(v1::layer::Body::Policy(v1::PolicyLayer { rules: vec![rule] }));
    v1::Layer {
        name: format!("policies/{name}"),
        revision,
        priority: 1,
        lease_ms: 0,
        standby: false,
        ends_s: 0,
        rollout: None,
        body,
    }
}

fn of_layers(epoch: &str, generation: u64, layers: Vec<v1::Layer>) -> v1::Snapshot {
    let layers = v1::Layers { layers, ..Default::default() }.encode_to_vec();
    let content_hash = Sha256::digest(&layers).into();
    let version = Version { database_epoch: epoch.into(), generation, content_hash };
    v1::Snapshot { version: Some(version.to_proto()), layers: layers.into(), answer_within_ms: 0 }
}

/// Other entries in a table of prefixes, so that it is full: the kernel takes nothing more.
struct Crowd {
    table: LpmTrie<MapData, [u8; 20], u32>,
    entries: Vec<Key<[u8; 20]>>,
}

impl Crowd {
    fn new(world: &World, map: &str) -> Self {
        let pin = kernel::pins_of(&world.options).unwrap().join(map);
        let mut table = LpmTrie::try_from(Map::LpmTrie(MapData::from_pin(pin).unwrap())).unwrap();
        // Of a slot that no daemon fills, each with another address.
        let key = |number: u32| {
            let mut key = [0xff; 20];
            key[4..8].copy_from_slice(&number.to_be_bytes());
            Key::new(160, key)
        };
        let entries: Vec<_> = (0..u32::MAX).map(key).take_while(|key| table.insert(key, 0, 0).is_ok()).collect();
        assert!(!entries.is_empty());
        Self { table, entries }
    }

    fn make_room(&mut self, entries: usize) {
        for key in self.entries.drain(..entries) {
            self.table.remove(&key).unwrap();
        }
    }
}

/// Waits for what is told late.
async fn told_late(handle: &mut Handle) -> Event {
    let told = async {
        handle.late.changed().await.unwrap();
        handle.late.borrow_and_update().clone().unwrap()
    };
    timeout(Duration::from_secs(60), told).await.expect("in time")
}

#[tokio::test]
async fn what_the_kernel_did_not_take_is_tried_until_it_does_or_something_newer_comes() {
    let Some(world) = World::new("retry") else { return };
    let home = common::state_dir();
    let metrics = Metrics::new();
    let counted = metrics.clone();
    life_counted(&world, home.path(), metrics, async |mut handle| {
        assert!(matches!(offer(&handle, snapshot(1, 20)).await, Event::Ack(_)));
        let mut crowd = Crowd::new(&world, "REMOTE_NETS");
        let Event::Nack(nack) = offer(&handle, to_somewhere(2)).await else { panic!("no room") };
        let [violation] = nack.violations.as_slice() else { panic!("{nack:?}") };
        assert_eq!((violation.layer.as_str(), violation.field.as_str()), ("", ""));
        assert!(violation.description.contains("tries again"), "{violation:?}");
        // Two failures more, so that the second wait was planned as well.
        let tried = async {
            while counted.retries.get() < 2 {
                settle(&handle).await;
            }
        };
        timeout(Duration::from_secs(60), tried).await.expect("in time");
        assert_eq!((in_kernel(&world), generation(&handle)), (Some(1), Some(1)));
        // Refused for what it is: newer, so that nothing waits any more.
        assert!(matches!(offer(&handle, damaged(3)).await, Event::Nack(_)));
        let tries = counted.retries.get();

        assert!(matches!(offer(&handle, to_somewhere(4)).await, Event::Nack(_)));
        crowd.make_room(1_000);
        let Event::Ack(ack) = told_late(&mut handle).await else { panic!("there is room") };
        assert_eq!(ack.version.unwrap().generation, 4);
        assert_eq!((in_kernel(&world), generation(&handle)), (Some(4), Some(4)));
        assert!(counted.retries.get() > tries);
        assert!(matches!(offer(&handle, to_somewhere(4)).await, Event::Ack(_)), "in force");
    })
    .await;
}

async fn offer(handle: &Handle, snapshot: v1::Snapshot) -> Event {
    let (answer, answered) = oneshot::channel();
    handle.commands.send(Command::Offer { snapshot, received: Instant::now(), answer }).await.unwrap();
    answered.await.unwrap()
}

fn generation(handle: &Handle) -> Option<u64> {
    handle.in_force.borrow().as_ref().map(|in_force| in_force.version.generation)
}

fn in_kernel(world: &World) -> Option<u64> {
    Kernel::open(&world.options).unwrap().0.in_force().unwrap().map(|head| head.generation)
}

#[tokio::test]
async fn what_is_in_force_survives_daemon_and_machine() {
    let Some(world) = World::new("keeper") else { return };
    let home = common::state_dir();
    let (found, ()) = life(&world, home.path(), async |handle| {
        assert_eq!(generation(&handle), None);
        assert!(matches!(offer(&handle, snapshot(5, 20)).await, Event::Ack(_)));
        assert!(matches!(offer(&handle, snapshot(4, 20)).await, Event::Nack(_)), "older");
        assert!(matches!(offer(&handle, snapshot(5, 30)).await, Event::Nack(_)), "changed");
        assert!(matches!(offer(&handle, snapshot(5, 20)).await, Event::Ack(_)), "the same again");
        assert!(matches!(offer(&handle, damaged(6)).await, Event::Nack(_)), "damaged");
    })
    .await;
    assert_eq!((found, in_kernel(&world)), (Found::Made, Some(5)));

    // The next daemon knows what it adopts.
    let (found, known) = life(&world, home.path(), async |handle| generation(&handle)).await;
    assert_eq!((found, known), (Found::Adopted, Some(5)));

    // A daemon that was killed after the flip, before it had renamed the file.
    fs::rename(home.path().join("snapshot"), home.path().join("snapshot-coming")).unwrap();
    let (_, known) = life(&world, home.path(), async |handle| generation(&handle)).await;
    assert_eq!(known, Some(5));
    assert!(home.path().join("snapshot").exists());

    // The machine starts anew, the server is away: the last good snapshot comes back.
    Kernel::detach(&world.options).unwrap();
    let (found, known) = life(&world, home.path(), async |handle| generation(&handle)).await;
    assert_eq!((found, known, in_kernel(&world)), (Found::Made, Some(5), Some(5)));
}

/// Two policies; a node honours the first only with an even revision.
fn two(epoch: &str, generation: u64, a: u64, b: u64) -> v1::Snapshot {
    let cwnd = |packets| v1::Parameters { initial_cwnd_packets: Some(packets), ..Default::default() };
    let nowhere = v1::Parameters { congestion_control: Some("nosuchcc".into()), ..Default::default() };
    let of_a = if a.is_multiple_of(2) { cwnd(20) } else { nowhere };
    let (any, of_b) = (v1::Match::default, cwnd(30));
    of_layers(epoch, generation, vec![layer("a", a, any(), of_a), layer("b", b, any(), of_b)])
}

/// What an acknowledgement holds back: name, revision, revision in force.
fn held_back(answer: Event) -> Vec<(String, u64, u64)> {
    let Event::Ack(ack) = answer else { panic!("refused: {answer:?}") };
    assert!(ack.held_back.iter().flat_map(|held| &held.violations).all(|violation| violation.layer == "policies/a"));
    ack.held_back.into_iter().map(|held| (held.layer, held.revision, held.revision_in_force)).collect()
}

fn is_held_back(handle: &Handle) -> bool {
    handle.in_force.borrow().as_ref().is_some_and(|in_force| !in_force.held_back.is_empty())
}

#[tokio::test]
async fn what_is_held_back_stays_so_through_daemon_machine_and_database() {
    let Some(world) = World::new("held-back") else { return };
    let home = common::state_dir();
    let held = |revision, in_force| vec![("policies/a".to_owned(), revision, in_force)];
    life(&world, home.path(), async |handle| {
        assert_eq!(held_back(offer(&handle, two("epoch", 1, 1, 1)).await), held(1, 0));
        assert_eq!(held_back(offer(&handle, two("epoch", 2, 2, 1)).await), []);
        assert_eq!(held_back(offer(&handle, two("epoch", 3, 3, 2)).await), held(3, 2));
        assert_eq!(held_back(offer(&handle, two("epoch", 4, 5, 3)).await), held(5, 2));
        assert!(matches!(offer(&handle, damaged(5)).await, Event::Nack(_)), "as a whole");
    })
    .await;
    for machine_restarts in [false, true] {
        if machine_restarts {
            Kernel::detach(&world.options).unwrap();
        }
        let (_, known) = life(&world, home.path(), async |handle| {
            assert_eq!((in_kernel(&world), generation(&handle), is_held_back(&handle)), (Some(4), Some(4), true));
            held_back(offer(&handle, two("epoch", 4, 5, 3)).await)
        })
        .await;
        assert_eq!(known, held(5, 2), "the machine restarts: {machine_restarts}");
    }
    life(&world, home.path(), async |handle| {
        // Another database says something else by the same number, and this node has the old one's.
        assert_eq!(held_back(offer(&handle, two("restored", 1, 5, 1)).await), held(5, 2));
        assert_eq!(held_back(offer(&handle, two("restored", 2, 6, 1)).await), []);
        assert!(!is_held_back(&handle));
    })
    .await;
}

#[tokio::test]
async fn a_daemon_that_can_do_more_than_the_one_before_tries_what_is_held_back() {
    let Some(world) = World::new("held-before") else { return };
    let home = common::state_dir();
    life(&world, home.path(), async |handle| offer(&handle, two("epoch", 1, 2, 1)).await).await;
    // As if the daemon before could not honour the fourth revision.
    let state = StateDir::open(home.path(), &world.options.pin_dir).unwrap();
    let mut snapshots = Snapshots::of(&state);
    let before = snapshots.in_force().unwrap();
    let v1::Snapshot { version, layers, answer_within_ms: _ } = two("epoch", 1, 4, 1);
    let held = v1::HeldBack { layer: "policies/a".into(), revision: 4, revision_in_force: 2, violations: vec![] };
    let version = Version::from_proto(version.as_ref()).unwrap();
    let stored = Stored { version: version.clone(), offered: layers, held_back: vec![held], ..before };
    snapshots.came_into_force(stored, false);
    snapshots.settle().unwrap();
    drop(state);
    let (_, in_force) = life(&world, home.path(), async |handle| handle.in_force.borrow().clone()).await;
    assert_eq!(in_force, Some(InForce { version, held_back: vec![] }));
    let stored = Snapshots::of(&StateDir::open(home.path(), &world.options.pin_dir).unwrap()).in_force().unwrap();
    assert_eq!(stored.offered, stored.layers, "on disk too");
}

#[tokio::test]
async fn what_nobody_knows_stays_in_force_until_a_server_says_otherwise() {
    let Some(world) = World::new("foreign") else { return };
    let [first, second] = [common::state_dir(), common::state_dir()];
    life(&world, first.path(), async |handle| offer(&handle, snapshot(5, 20)).await).await;
    // The state directory is lost.
    let (found, known) = life(&world, second.path(), async |handle| {
        let known = generation(&handle);
        assert_eq!(in_kernel(&world), Some(5));
        assert!(matches!(offer(&handle, snapshot(3, 20)).await, Event::Ack(_)));
        known
    })
    .await;
    assert_eq!((found, known, in_kernel(&world)), (Found::Adopted, None, Some(3)));
}

#[tokio::test]
async fn what_is_acknowledged_is_what_is_attached_now() {
    let Some(world) = World::new("acknowledged") else { return };
    let home = common::state_dir();
    let web = world.options.cgroup.join("web.service");
    let of_web = |generation| {
        matching(generation, 20, v1::Match { services: vec!["/web.service".into()], ..Default::default() })
    };
    // Beside them stands what is to be told of parameters.
    let fields = |effective: &[v1::EffectiveValue]| {
        let unattached = effective.iter().filter(|value| value.effective == "not attached");
        unattached.map(|value| (value.field.clone(), value.requested.clone())).collect::<Vec<_>>()
    };
    let missing = [("rules[0].match.services[0]".to_owned(), "/web.service".to_owned())];
    life(&world, home.path(), async |mut handle| {
        let Event::Ack(ack) = offer(&handle, of_web(1)).await else { panic!("sound") };
        assert_eq!(fields(&ack.effective), missing);
        let told = async |handle: &mut Handle, there: bool| {
            let as_it_is =
                |ack: &Option<v1::Ack>| ack.as_ref().is_some_and(|ack| fields(&ack.effective).is_empty() == there);
            let told = timeout(Duration::from_secs(20), handle.acted_on.wait_for(as_it_is));
            told.await.expect("in time").unwrap().clone().unwrap()
        };
        for _ in 0..3 {
            fs::create_dir(&web).unwrap();
            told(&mut handle, true).await;
            remove_cgroup(&web);
            assert_eq!(fields(&told(&mut handle, false).await.effective), missing);
        }
        // A restart right before each of many changes.
        for generation in 2..20 {
            fs::create_dir(&web).unwrap();
            let Event::Ack(ack) = offer(&handle, of_web(generation)).await else { panic!("sound") };
            assert_eq!(fields(&ack.effective), []);
            remove_cgroup(&web);
        }
    })
    .await;
    // The next daemon knows, too, what the rules in force name.
    life(&world, home.path(), async |mut handle| {
        fs::create_dir(&web).unwrap();
        let attached = |ack: &Option<v1::Ack>| ack.as_ref().is_some_and(|ack| fields(&ack.effective).is_empty());
        timeout(Duration::from_secs(20), handle.acted_on.wait_for(attached)).await.expect("in time").unwrap();
    })
    .await;
    remove_cgroup(&web);
}
