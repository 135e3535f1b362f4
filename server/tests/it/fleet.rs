//! Lists of nodes, health, reflection and metrics.

use std::time::Duration;

use sockpilot_proto::v1;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::world::{World, channel, hello, layers, until};

#[tokio::test]
async fn nodes_are_listed_by_labels_and_pages() {
    let mut world = World::new().await;
    let mut streams = vec![];
    for (id, zone) in [("a", "x"), ("b", "y"), ("c", "x"), ("d", "x")] {
        streams.push(
            world.connect(v1::Hello { labels: [("zone".to_owned(), zone.to_owned())].into(), ..hello(id) }).await,
        );
    }
    let labels = [("zone".to_owned(), "x".to_owned())].into();
    let request = v1::ListNodesRequest { labels, page_size: 2, page_token: String::new() };
    let page = world.fleet.list_nodes(request.clone()).await.expect("a page").into_inner();
    let names = |page: &v1::ListNodesResponse| page.nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&page), ["nodes/a", "nodes/c"]);
    assert_eq!(page.nodes[0].kernel, hello("a").kernel);
    assert!(page.nodes[0].share_position < 10_000);
    let request = v1::ListNodesRequest { page_token: page.next_page_token, ..request };
    let page = world.fleet.list_nodes(request).await.expect("a page").into_inner();
    assert_eq!((names(&page), page.next_page_token.as_str()), (vec!["nodes/d".to_owned()], ""));
}

#[tokio::test]
async fn health_says_serving() {
    let world = World::new().await;
    let client = HealthClient::new(channel(&world.server).await);
    for service in ["", "sockpilot.v1.PolicyService", "sockpilot.v1.ZoneService", "sockpilot.v1.NodeService"] {
        let check = async || {
            let request = HealthCheckRequest { service: service.to_owned() };
            client.clone().check(request).await.expect("an answer").into_inner().status()
        };
        until("it serves", check, |status| *status == ServingStatus::Serving).await;
    }
}

#[tokio::test]
async fn metrics_are_served() {
    let mut config = sockpilot_server::test_support::config().await;
    config.metrics_listen = Some(([127, 0, 0, 1], 0).into());
    let mut world = World::of(config).await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    node.take().await;
    until("it is acknowledged", async || world.server.metrics().acks.get(), |acks| *acks == 1).await;
    let mut socket = TcpStream::connect(world.server.metrics_address().expect("served")).await.expect("connected");
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.expect("sent");
    let mut page = String::new();
    socket.read_to_string(&mut page).await.expect("a page");
    for line in [
        "sockpilot_server_nodes_connected 1",
        "sockpilot_server_snapshots_sent_total 1",
        "sockpilot_server_acks_total 1",
    ] {
        assert!(page.contains(line), "{line} in {page}");
    }
}

fn delete(name: &str) -> v1::DeleteNodeRequest {
    v1::DeleteNodeRequest { name: name.to_owned(), reason: "scrapped".to_owned(), ..v1::DeleteNodeRequest::default() }
}

async fn listed(world: &World, id: &str) -> v1::Node {
    let nodes =
        world.fleet.clone().list_nodes(v1::ListNodesRequest::default()).await.expect("nodes").into_inner().nodes;
    nodes.into_iter().find(|node| node.name == format!("nodes/{id}")).expect("the node is known")
}

async fn names(world: &World) -> Vec<String> {
    let nodes =
        world.fleet.clone().list_nodes(v1::ListNodesRequest::default()).await.expect("nodes").into_inner().nodes;
    nodes.into_iter().map(|node| node.name).collect()
}

#[tokio::test]
async fn a_node_that_is_gone_can_be_forgotten_and_comes_back() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    node.take().await;
    let status = world.fleet.delete_node(delete("nodes/n")).await.expect_err("it is connected");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("stop its daemon first"), "{status:?}");
    drop(node);
    until("it is gone", async || listed(&world, "n").await.connected, |connected| !connected).await;
    world
        .fleet
        .delete_node(v1::DeleteNodeRequest { validate_only: true, ..delete("nodes/n") })
        .await
        .expect("possible");
    assert_eq!(names(&world).await, ["nodes/n"], "only asked");
    world.fleet.delete_node(delete("nodes/n")).await.expect("forgotten");
    assert!(names(&world).await.is_empty());
    assert!(world.status("policies/p").await.counts.is_empty(), "nobody is counted that is not there");
    let status = world.fleet.delete_node(delete("nodes/n")).await.expect_err("it is forgotten");
    assert_eq!(status.code(), Code::NotFound);
    let entry = world.audit().await.remove(0);
    assert_eq!(
        (entry.method.as_str(), entry.name.as_str(), entry.reason.as_str()),
        ("DeleteNode", "nodes/n", "scrapped")
    );
    let mut node = world.connect(hello("n")).await;
    assert_eq!(layers(&node.take().await), ["policies/p@1"]);
    assert_eq!(names(&world).await, ["nodes/n"]);
}

#[tokio::test]
async fn nodes_that_are_silent_for_long_are_forgotten() {
    let config = sockpilot_server::test_support::config().await;
    let world = World::of(sockpilot_server::Config { forget_nodes_after: None, ..config.clone() }).await;
    drop(world.connect(hello("gone")).await);
    until("it is gone", async || listed(&world, "gone").await.connected, |connected| !connected).await;
    world.server.stop().await;
    let forgetful = sockpilot_server::Config { forget_nodes_after: Some(Duration::ZERO), ..config };
    let world = World::of(forgetful).await;
    let _here = world.connect(hello("here")).await;
    until("it is forgotten", async || names(&world).await, |names| names == &["nodes/here"]).await;
    assert_eq!(world.server.metrics().nodes_forgotten.get(), 1);
}
