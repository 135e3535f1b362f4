//! How many connections still run under an earlier revision, as nodes have counted.

use super::*;
use crate::world::now_s;

fn says(under: &[(&str, u64, u64)]) -> node_event::Event {
    let of = |&(layer, revision, connections): &(&str, u64, u64)| {
        let layer = layer.to_owned();
        v1::OpenUnder { layer, revision, connections }
    };
    let under = under.iter().map(of).collect();
    let open = v1::OpenConnections { looked_before_ms: 4_000, under, left_out: 0 };
    node_event::Event::Alive(v1::Alive { open: Some(open), ..v1::Alive::default() })
}

#[tokio::test]
async fn connections_under_earlier_revisions_are_counted_on_its_nodes() {
    let mut fleet = Fleet::new(&["a", "b", "c"]).await;
    let two = plan("mine", vec![baking(60, wave(of_nodes(&["a", "b"]), &[])), baking(60, wave(None, &[]))]);
    let name = fleet.begin(two).await.name;
    let first = fleet.comes_to(&name, (1, 1), RolloutPhase::Baking).await;
    assert_eq!((first.open_on_earlier_revisions, first.open_looked_time, first.open_unknown_nodes), (0, None, 2));

    fleet.node("a").tell(says(&[(POLICY, 1, 7), (POLICY, 2, 100), ("policies/q", 1, 1_000)])).await;
    fleet.node("c").tell(says(&[(POLICY, 1, 10_000)])).await;
    let seen = fleet.until("node a says", &name, |rollout| rollout.open_on_earlier_revisions > 0).await;
    assert_eq!((seen.open_on_earlier_revisions, seen.open_unknown_nodes), (7, 1), "of its nodes, by its policy");
    let looked = seen.open_looked_time.expect("it has looked").seconds;
    assert!((3..60).contains(&(now_s() - looked)), "when it looked, not when it said so: {looked}");

    fleet.node("b").tell(says(&[(POLICY, 1, 20)])).await;
    fleet.node("a").tell(says(&[(POLICY, 1, 3), (POLICY, 2, 104)])).await;
    let seen = fleet.until("they become fewer", &name, |rollout| rollout.open_on_earlier_revisions == 23).await;
    assert_eq!(seen.open_unknown_nodes, 0);
    // Also when it is over.
    fleet.pass(&name, 60).await;
    fleet.comes_to(&name, (2, 1), RolloutPhase::Baking).await;
    fleet.pass(&name, 60).await;
    let over = fleet.reaches(&name, RolloutState::Completed).await;
    assert_eq!((over.open_on_earlier_revisions, over.open_unknown_nodes), (10_023, 0), "of all nodes now");
    // A daemon that does not look any more says so.
    fleet.node("c").tell(node_event::Event::Alive(v1::Alive::default())).await;
    let seen = fleet.until("node c is silent", &name, |rollout| rollout.open_unknown_nodes == 1).await;
    assert_eq!(seen.open_on_earlier_revisions, 23);
}
