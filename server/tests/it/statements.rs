//! How much a change asks of the database: other changes wait meanwhile, and each statement is a round trip.

use std::time::Duration;

use sockpilot_server::{Config, test_support};

use crate::world::{World, everyone, hello, layers, nobody, share};

/// Reads the fleet only when something says so.
async fn world() -> World {
    World::of(Config { poll: Duration::from_secs(3_600), ..test_support::config().await }).await
}

/// Statements of transactions of a name.
fn statements(world: &World, transaction: &'static str) -> u64 {
    world.server.metrics().statements_of(transaction).get()
}

#[tokio::test]
async fn a_change_of_a_policy_takes_few_statements() {
    let mut world = world().await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    node.take().await;
    for (target, most) in [(everyone(), 2), (nobody(), 2), (share(10_000 - 1), 4), (everyone(), 7), (None, 66)] {
        let before = statements(&world, "UpdatePolicy");
        world.update("p", 1_000 + u32::try_from(before).expect("few"), target.clone()).await;
        let took = statements(&world, "UpdatePolicy") - before;
        assert!(took <= most, "{took} statements for {target:?}, and {most} were enough");
    }
}

#[tokio::test]
async fn the_fleet_is_not_read_for_what_is_changed_here() {
    let mut world = world().await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    node.take().await;
    world.update("p", 999, everyone()).await;
    node.take().await;
    // What the database told of that may still be on its way.
    node.quiet().await;
    let before = statements(&world, "load fleet");
    for step in 1..=30 {
        world.update("p", 1_000 + step, everyone()).await;
        node.take().await;
    }
    node.quiet().await;
    assert_eq!(statements(&world, "load fleet"), before);
}

#[tokio::test]
async fn what_is_changed_here_reaches_nodes_although_nobody_reads_the_fleet() {
    let config = test_support::config().await;
    let faults = config.faults.clone();
    let mut world = World::of(config).await;
    world.create("p").await;
    world.create("q").await;
    let mut node = world.connect(hello("n")).await;
    while layers(&node.take().await).len() < 2 {}
    faults.set("refresh", test_support::Fault::Stall);
    // It may have begun.
    node.quiet().await;
    for step in 1..=3 {
        world.update("p", 1_000 + step, everyone()).await;
        assert_eq!(layers(&node.take().await), [format!("policies/p@{}", step + 1), "policies/q@1".to_owned()]);
    }
}
