//! Two daemons with one node id: the one that was there is kept, the other is refused and shown.

use std::time::Duration;

use sockpilot_proto::v1::{self, node_event::Event, node_service_client::NodeServiceClient};
use sockpilot_server::{Config, store::Settled, test_support};
use tonic::{Code, Status, transport::Channel};

use crate::world::{TestNode, World, hello, layers, until};

fn of(instance: &str) -> v1::Hello {
    v1::Hello { instance: instance.to_owned(), ..hello("n") }
}

async fn refused(world: &World, hello: v1::Hello) -> Status {
    TestNode::open(world.nodes.clone(), hello).await.map(drop).expect_err("refused")
}

/// A node whose connection can be cut without a word, as by a machine that dies.
struct Remote {
    node: TestNode,
    runtime: tokio::runtime::Runtime,
}

impl Remote {
    async fn connect(world: &World, hello: v1::Hello) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let url = format!("http://{}", world.server.address());
        let open = async move {
            let channel = Channel::from_shared(url).expect("a URL").connect().await.expect("connected");
            TestNode::open(NodeServiceClient::new(channel), hello).await.expect("open")
        };
        let node = runtime.spawn(open).await.expect("no panic");
        Self { node, runtime }
    }

    async fn cut(self, world: &World) {
        let Self { node, runtime } = self;
        runtime.shutdown_background();
        until("it is noticed", async || listed(world).await.connected, |connected| !connected).await;
        drop(node);
    }
}

async fn listed(world: &World) -> v1::Node {
    let request = v1::ListNodesRequest::default();
    world.fleet.clone().list_nodes(request).await.expect("nodes").into_inner().nodes.swap_remove(0)
}

/// Time passes for the database.
async fn age(world: &World, column: &'static str) {
    age_in(world, "node", column).await;
}

async fn age_in(world: &World, table: &'static str, column: &'static str) {
    world
        .server
        .store()
        .transact("test", move |conn| {
            Box::pin(async move {
                let sql = format!("UPDATE {table} SET {column} = {column} - interval '50 seconds'");
                sqlx::query(sqlx::AssertSqlSafe(sql)).execute(conn).await.expect("updated");
                Ok(Settled::Commit(()))
            })
        })
        .await
        .expect("done");
}

#[tokio::test]
async fn the_daemon_that_was_there_is_kept_and_the_other_shown_as_long_as_it_calls() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut first = world.connect(of("machine-1")).await;
    let snapshot = first.take().await;
    for _ in 0..3 {
        let status = refused(&world, of("machine-2")).await;
        assert_eq!(status.code(), Code::AlreadyExists);
        assert!(status.message().contains("--node-id") && status.message().contains("127.0.0.1:"), "{status:?}");
    }
    first.quiet().await;
    let node = world.node("n").await;
    let conflict = node.conflict.expect("shown");
    assert!(node.connected && node.in_force == snapshot.version);
    assert!(node.address.starts_with("127.0.0.1:") && conflict.address.starts_with("127.0.0.1:"));
    assert!(conflict.first_time.is_some() && conflict.last_time.is_some());
    assert_eq!(world.server.metrics().node_conflicts.get(), 3);

    // The same daemon, or its successor, takes its own stream over at once; that ends no conflict.
    let mut again = world.connect(v1::Hello { in_force: snapshot.version, ..of("machine-1") }).await;
    assert_eq!(first.next().await.expect_err("ended").code(), Code::Aborted);
    again.quiet().await;
    assert!(world.node("n").await.conflict.is_some());
    // The other has stopped calling.
    age(&world, "conflict_at").await;
    assert_eq!(world.node("n").await.conflict, None);
}

#[tokio::test]
async fn a_broken_stream_does_not_give_the_id_away_but_an_end_in_order_does() {
    let mut world = World::new().await;
    let first = Remote::connect(&world, of("machine-1")).await;
    first.cut(&world).await;
    assert_eq!(refused(&world, of("machine-2")).await.code(), Code::AlreadyExists);
    let TestNode { events, mut stream } = world.connect(of("machine-1")).await;
    // It leaves in order: its side ends, then ours.
    drop(events);
    while stream.message().await.expect("in order").is_some() {}
    let fleet = world.server.store().clone();
    until(
        "the id is free",
        async || {
            fleet
                .read("test", |conn| {
                    Box::pin(async move {
                        Ok(sqlx::query_scalar::<_, i64>("SELECT count(*) FROM node WHERE instance IS NULL")
                            .fetch_one(conn)
                            .await
                            .expect("counted"))
                    })
                })
                .await
                .expect("read")
        },
        |free| *free == 1,
    )
    .await;
    let second = Remote::connect(&world, of("machine-2")).await;
    assert_eq!(refused(&world, of("machine-1")).await.code(), Code::AlreadyExists, "it is the other one now");
    // Nothing is heard of it any more, by whichever server it was.
    second.cut(&world).await;
    age(&world, "last_seen_at").await;
    let _third = world.connect(of("machine-3")).await;
    assert_eq!(world.node("n").await.conflict, None, "nobody is refused now");
}

#[tokio::test]
async fn replicas_agree_on_who_it_is() {
    let config = test_support::config().await;
    let world = World::of(config.clone()).await;
    let mut other = World::of(config.clone()).await;
    other.create("p").await;
    // All at once, through both: one gets it.
    let calls = (0..8).map(|number| {
        let nodes = if number % 2 == 0 { &world.nodes } else { &other.nodes };
        TestNode::open(nodes.clone(), of(&format!("machine-{number}")))
    });
    let (mut kept, refused): (Vec<_>, Vec<_>) =
        futures::future::join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!((kept.len(), refused.len()), (1, 7));
    for refused in refused {
        assert_eq!(refused.map(drop).expect_err("refused").code(), Code::AlreadyExists);
    }
    let mut node = kept.swap_remove(0).expect("kept");
    assert_eq!(layers(&node.take().await), ["policies/p@1"]);
    node.quiet().await;

    // Its server dies without a word to the database: the node goes to the other at once, an intruder waits.
    let instance = world.node_instance().await;
    let mut moved = other.connect(of(&instance)).await;
    assert_eq!(layers(&moved.snapshot().await), ["policies/p@1"]);
    assert_eq!(self::refused(&other, of("late")).await.code(), Code::AlreadyExists);
}

impl World {
    async fn node_instance(&self) -> String {
        let read = self.server.store().read("test", |conn| {
            Box::pin(
                async move { Ok(sqlx::query_scalar("SELECT instance FROM node").fetch_one(conn).await.expect("one")) },
            )
        });
        read.await.expect("read")
    }
}

#[tokio::test]
async fn reports_of_the_other_daemon_are_kept_out_until_the_id_is_its_own() {
    let mut world = World::new().await;
    world.create("p").await;
    let first = Remote::connect(&world, of("machine-1")).await;
    let report = |instance: &str, sequence| v1::FlowReport {
        node_id: "n".to_owned(),
        boot_id: "boot-1".to_owned(),
        sequence,
        records_total: sequence,
        instance: instance.to_owned(),
        ..v1::FlowReport::default()
    };
    world.nodes.report_flows(report("machine-1", 1)).await.expect("taken");
    let status = world.nodes.report_flows(report("machine-2", 9)).await.expect_err("refused");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("127.0.0.1:"), "{status:?}");
    assert_eq!(world.node("n").await.records_total, 1);
    // Whoever does not say who it is, is believed, as before there were instances.
    world.nodes.report_flows(report("", 2)).await.expect("taken");
    first.cut(&world).await;
    world.nodes.report_flows(report("machine-1", 3)).await.expect("taken without a stream, too");
    age(&world, "last_seen_at").await;
    let second = world.connect(of("machine-2")).await;
    world.nodes.report_flows(report("machine-2", 9)).await.expect("taken");
    assert_eq!(world.node("n").await.records_total, 9);
    drop(second);
}

#[tokio::test]
async fn an_outage_of_the_database_does_not_make_the_holder_stale() {
    // Nothing is written by itself.
    let config = Config { heartbeat: Duration::from_secs(3_600), ..test_support::config().await };
    let world = World::of(config).await;
    let first = world.connect(of("machine-1")).await;
    // As after an outage: long unheard of in the database, the server too, though the node has just said that it is there.
    age(&world, "last_seen_at").await;
    age_in(&world, "server", "seen_at").await;
    let node_time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    first.say(Event::Alive(v1::Alive { node_time, ..v1::Alive::default() })).await;
    until("that is heard", async || world.server.metrics().node_clocks_off.get(), |off| *off == 1).await;
    assert_eq!(refused(&world, of("machine-2")).await.code(), Code::AlreadyExists);
}

#[tokio::test]
async fn nodes_of_a_server_that_says_nothing_any_more_are_gone() {
    let config = test_support::config().await;
    let faults = config.faults.clone();
    let world = World::of(config.clone()).await;
    let node = world.connect(of("machine-1")).await;
    let other = World::of(Config { faults: test_support::FaultPoints::default(), ..config }).await;
    assert!(listed(&other).await.connected);
    faults.set("presence", test_support::Fault::Stall);
    // It may be about to say it once more.
    tokio::time::sleep(Duration::from_millis(50)).await;
    age(&world, "last_seen_at").await;
    until(
        "its lease is over",
        async || {
            age_in(&world, "server", "seen_at").await;
            listed(&other).await
        },
        |node| !node.connected,
    )
    .await;
    let last_s = listed(&other).await.last_seen_time.expect("a time").seconds;
    assert!(last_s < crate::world::now_s() - 20, "when its server was heard of last");
    // Its id is free, as that of any node that is gone.
    let _taken = other.connect(of("machine-2")).await;
    drop(node);
    until("it is there again", async || listed(&other).await.connected, |connected| *connected).await;
}

#[tokio::test]
async fn a_node_that_says_nothing_new_is_not_written() {
    let world = World::new().await;
    let mut node = world.connect(of("machine-1")).await;
    node.take().await;
    node.quiet().await;
    let written = || world.server.metrics().statements_of("record").get();
    let before = written();
    for _ in 0..3 {
        node.say(Event::Alive(v1::Alive::default())).await;
        node.quiet().await;
    }
    assert_eq!(written(), before);
    let clock = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    node.say(Event::Alive(v1::Alive { node_time: clock, ..v1::Alive::default() })).await;
    until("what is new is", async || written(), |now| *now > before).await;
    assert!(listed(&world).await.connected);
}

#[tokio::test]
async fn who_does_not_say_which_daemon_it_is_is_served_as_before() {
    let world = World::new().await;
    let mut old = world.connect(hello("n")).await;
    old.take().await;
    let mut new = world.connect(of("machine-1")).await;
    assert_eq!(old.next().await.expect_err("ended").code(), Code::Aborted);
    new.take().await;
    let mut old = world.connect(hello("n")).await;
    assert_eq!(new.next().await.expect_err("ended").code(), Code::Aborted);
    old.take().await;
}
