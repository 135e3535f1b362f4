//! How the daemon reports what has become of connections.

use std::time::Duration;

use sockpilot_node::{keeper::Command, metrics::Metrics};
use tokio::time::timeout;
use tonic::Code;

use super::world::{SELDOM, SELDOM_MS, World, report, soon};

#[tokio::test]
async fn a_report_is_sent_until_it_is_answered_and_only_then_settled() {
    let mut world = World::new().await;
    let connected = world.reporter();
    world.failures.lock().expect("not poisoned").extend([Code::Unavailable, Code::ResourceExhausted]);
    // Policy first: nothing is asked for before the stream stands.
    assert!(timeout(Duration::from_millis(50), world.ends.next_command()).await.is_err());
    connected.send_replace(true);
    world.hand_out(Some(report(1))).await;
    let settled = world.command().await;
    assert!(matches!(settled, Command::Confirm { boot_id, sequence: 1 } if boot_id == "boot"));
    let sent: Vec<_> = [world.reports.recv().await, world.reports.recv().await, world.reports.recv().await].into();
    assert_eq!(sent, vec![Some(report(1)); 3]);
}

#[tokio::test]
async fn what_the_server_will_never_take_is_let_go() {
    let mut world = World::new().await;
    world.failures.lock().expect("not poisoned").extend([Code::InvalidArgument]);
    world.reporter().send_replace(true);
    world.hand_out(Some(report(1))).await;
    assert!(matches!(world.command().await, Command::Confirm { sequence: 1, .. }));
    world.hand_out(None).await;
    world.hand_out(Some(report(2))).await;
    assert!(matches!(world.command().await, Command::Confirm { sequence: 2, .. }));
    assert_eq!(world.reports.recv().await.map(|report| report.sequence), Some(1));
    assert_eq!(world.reports.recv().await.map(|report| report.sequence), Some(2));
}

#[tokio::test]
async fn the_server_says_how_long_to_wait_after_a_report() {
    let mut world = World::new().await;
    let metrics = Metrics::new();
    world.reporter_counted(metrics.clone()).send_replace(true);
    for (sequence, about_s) in [(1, 0.005), (SELDOM, f64::from(SELDOM_MS) / 1e3), (SELDOM + 1, 0.005)] {
        world.hand_out(Some(report(sequence))).await;
        assert!(matches!(world.command().await, Command::Confirm { .. }));
        let waits = async {
            while (metrics.report_interval.get() / about_s - 1.0).abs() > 0.11 {
                tokio::task::yield_now().await;
            }
        };
        soon(waits).await;
    }
}

#[tokio::test]
async fn the_end_brings_a_last_report() {
    let mut world = World::new().await;
    let connected = world.reporter();
    connected.send_replace(true);
    world.hand_out(None).await;
    world.stop.cancel();
    // One may have been asked for already when the end came.
    while let Command::Report { answer } = world.command().await {
        let _ = answer.send(Some(report(9)));
    }
    assert_eq!(soon(world.reports.recv()).await, Some(report(9)));
}
