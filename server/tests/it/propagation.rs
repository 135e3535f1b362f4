//! How long each stage of a change took on its way to a node, and which nodes are behind.

use sockpilot_proto::v1::{self, node_event::Event};

use crate::world::{TestNode, World, everyone, hello, until};

const STAGES: [&str; 7] = ["known", "queued", "wire", "node_wait", "node_compile", "node_write", "node_install"];

/// A value on the server's page.
fn counted(world: &World, name: &str) -> f64 {
    let page = world.server.metrics().text();
    let line = page.lines().find_map(|line| line.strip_prefix("sockpilot_server_")?.strip_prefix(name));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
}

fn of_stages(world: &World, what: &str) -> Vec<f64> {
    let name = |stage: &&str| counted(world, &format!("propagation_stage_seconds_{what}{{stage=\"{stage}\"}}"));
    STAGES.iter().map(name).collect()
}

async fn acknowledge(node: &mut TestNode, stages: Option<v1::ApplyStages>) {
    let snapshot = node.snapshot().await;
    node.say(Event::Ack(v1::Ack { version: snapshot.version, stages, ..v1::Ack::default() })).await;
}

async fn acknowledged(world: &World, acks: u64) {
    until("it is acknowledged", async || world.server.metrics().acks.get(), |known| *known == acks).await;
}

fn told(us: u32) -> Option<v1::ApplyStages> {
    Some(v1::ApplyStages { wait_us: us, compile_us: 2, write_us: 3, install_us: 4 })
}

#[tokio::test]
async fn stages_add_up_to_the_whole_and_nobody_lengthens_them() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    acknowledge(&mut node, told(1)).await;
    acknowledged(&world, 1).await;
    assert_eq!(counted(&world, "propagation_seconds_count"), 0.0, "it was committed before the node came");

    world.update("p", 1_001, everyone()).await;
    acknowledge(&mut node, told(1)).await;
    acknowledged(&world, 2).await;
    assert_eq!(of_stages(&world, "count"), [1.0; 7]);
    let (stages, whole) = (of_stages(&world, "sum"), counted(&world, "propagation_seconds_sum"));
    assert!((stages.iter().sum::<f64>() - whole).abs() < 1e-9, "{stages:?}, but {whole}");
    assert_eq!(stages[3..], [1e-6, 2e-6, 3e-6, 4e-6], "as the node says");

    world.update("p", 1_002, everyone()).await;
    acknowledge(&mut node, told(u32::MAX)).await;
    acknowledged(&world, 3).await;
    assert_eq!(of_stages(&world, "count"), [1.0; 7], "more than an hour, of less than a second");
    assert_eq!(counted(&world, "propagation_stages_absurd_total"), 1.0);
    assert_eq!(counted(&world, "propagation_seconds_count"), 2.0);

    world.update("p", 1_003, everyone()).await;
    acknowledge(&mut node, None).await;
    acknowledged(&world, 4).await;
    assert_eq!(of_stages(&world, "count"), [2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0], "a daemon that does not say");
}

#[tokio::test]
async fn a_node_is_behind_until_it_has_the_newest() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    let behind = async |nodes: f64| {
        let now = async || counted(&world, "nodes_behind{for_more_than_s=\"0\"}");
        until("so many nodes are behind", now, |found| *found == nodes).await;
        counted(&world, "behind_max_seconds")
    };
    let snapshot = node.snapshot().await;
    let age_s = behind(1.0).await;
    assert!(age_s > 0.0, "{age_s}");
    node.ack(&snapshot).await;
    assert_eq!(behind(0.0).await, 0.0);
    drop(node);
}
