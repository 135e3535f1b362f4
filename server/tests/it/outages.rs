//! Postgres dies and comes back: streams stay, calls say so, nothing is lost.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sockpilot_proto::v1;
use sockpilot_server::{
    Config, Database,
    test_support::{self, OwnPostgres},
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::world::{World, channel, eventually, hello, layers, policy, until};

fn signal(postgres: &OwnPostgres, signal: Signal) {
    let pid = postgres.get().pid().expect("it runs");
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("signalled");
}

/// Sends an update until it is committed; answers how often it was told to come again.
async fn update_until_committed(world: &World, syn_rto_ms: u32) -> u32 {
    let mut refusals = 0;
    let request_id = uuid::Uuid::new_v4().to_string();
    loop {
        let policy = Some(policy("p", syn_rto_ms));
        let request = v1::UpdatePolicyRequest { policy, request_id: request_id.clone(), ..Default::default() };
        match world.policies.clone().update_policy(request).await {
            Ok(_) => return refusals,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
        refusals += 1;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn streams_outlive_a_restart_of_postgres() {
    let postgres = OwnPostgres::start();
    let address = postgres.get().address();
    let config = Config { heartbeat: std::time::Duration::from_millis(200), ..Config::new(Database::At(address)) };
    let mut world = World::of(config).await;
    let health = HealthClient::new(channel(&world.server).await);
    let status = async || {
        let check = HealthCheckRequest { service: String::new() };
        health.clone().check(check).await.expect("an answer").into_inner().status()
    };
    until("it serves", &status, |status| *status == ServingStatus::Serving).await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    let mut last = node.take().await;

    for (round, how) in [Signal::SIGINT, Signal::SIGKILL, Signal::SIGQUIT].into_iter().enumerate() {
        signal(&postgres, how);
        let seen_down = world.server.metrics().clone();
        until("the outage is noticed", async || seen_down.database_up.get(), |up| *up == 0).await;
        until("health says so", &status, |status| *status == ServingStatus::NotServing).await;
        let syn_rto_ms = 2_000 + u32::try_from(round).expect("few");
        update_until_committed(&world, syn_rto_ms).await;
        let next = node.take().await;
        assert_eq!(layers(&next), [format!("policies/p@{}", round + 2)], "on the same stream");
        assert!(next.version.as_ref().map(|v| v.generation) > last.version.as_ref().map(|v| v.generation));
        assert_eq!(next.version.as_ref().map(|v| &v.database_epoch), last.version.as_ref().map(|v| &v.database_epoch));
        last = next;
        until("it serves again", &status, |status| *status == ServingStatus::Serving).await;
    }
    let fleet = world.fleet.clone();
    eventually("the acknowledgement is written", || {
        let (mut fleet, version) = (fleet.clone(), last.version.clone());
        async move {
            let nodes = fleet.list_nodes(v1::ListNodesRequest::default()).await.expect("nodes").into_inner().nodes;
            nodes[0].in_force == version && nodes[0].connected
        }
    })
    .await;
    assert_eq!(world.audit().await.len(), 4, "each change once, though sent again and again");
    world.server.stop().await;
}

#[tokio::test]
async fn an_acknowledgement_during_an_outage_is_written_later() {
    let postgres = OwnPostgres::start();
    let config = Config {
        heartbeat: std::time::Duration::from_millis(200),
        ..Config::new(Database::At(postgres.get().address()))
    };
    let mut world = World::of(config).await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    let snapshot = node.snapshot().await;
    signal(&postgres, Signal::SIGKILL);
    node.ack(&snapshot).await;
    until("it is heard", async || world.server.metrics().acks.get(), |acks| *acks == 1).await;
    let state = async || {
        let request = v1::ListNodesRequest::default();
        let nodes =
            world.fleet.clone().list_nodes(request).await.map(|nodes| nodes.into_inner().nodes).unwrap_or_default();
        nodes.first().and_then(|node| node.in_force.clone())
    };
    until("it is written", state, |in_force| *in_force == snapshot.version).await;
    world.server.stop().await;
}

#[tokio::test]
async fn a_private_postgres_keeps_its_data() {
    let directory = test_support::directory();
    let config = Config::new(Database::Embedded { state_dir: directory.path().to_owned() });
    let mut world = World::of(config.clone()).await;
    world.create("p").await;
    let mut second = World::of(config.clone()).await;
    assert!(second.server.embedded().expect("private").pid().is_none(), "it uses the one that runs");
    assert_eq!(second.status("policies/p").await.latest_revision, 1);
    second.server.stop().await;
    world.update("p", 2_000, None).await;
    let pid = world.server.embedded().expect("private").pid().expect("its own");
    world.server.stop().await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "stopped");
    let mut world = World::of(config).await;
    assert_eq!(world.status("policies/p").await.latest_revision, 2);
    world.server.stop().await;
}

#[tokio::test]
async fn a_database_made_anew_has_a_new_epoch() {
    let mut epochs = vec![];
    for _ in 0..2 {
        let mut world = World::new().await;
        world.create("p").await;
        let mut node = world.connect(hello("n")).await;
        epochs.push(node.take().await.version.expect("a version").database_epoch);
    }
    assert_ne!(epochs[0], epochs[1]);
}
