//! What is said of a connection on a node where a rollout has a share.

use super::*;

fn question(local_port: u32) -> v1::ExplainFlowRequest {
    v1::ExplainFlowRequest {
        node: "nodes/a".to_owned(),
        local_address: "10.1.0.1".to_owned(),
        local_port,
        remote_address: "10.2.0.1".to_owned(),
        remote_port: 443,
        direction: v1::Direction::Active.into(),
        ..v1::ExplainFlowRequest::default()
    }
}

/// By its bucket a connection is the canary's, its control's, or neither's: one layer says which, and the other why not.
#[tokio::test]
async fn a_connection_is_told_whose_it_is() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let begun = fleet.begin(plan("mine", vec![baking(60, wave(of_nodes(&["a"]), &[2_500])), wave(None, &[])])).await;
    fleet.comes_to(&begun.name, (1, 1), RolloutPhase::Baking).await;
    let mut seen = std::collections::BTreeMap::new();
    for port in 40_000..40_040 {
        let answer = fleet.world.fleet.explain_flow(question(port)).await.expect("an answer").into_inner();
        let of = |layer: &v1::ExplainedLayer| {
            let rollout = layer.rollout.clone().expect("both layers are in the rollout");
            assert_eq!((&rollout.name, rollout.flow_share_bp), (&begun.name, 2_500));
            (layer.revision, layer.bucket.expect("a bucket"), layer.matched, rollout.group)
        };
        let layers: Vec<_> = answer.layers.iter().map(of).collect();
        let [mine, other] = match layers.as_slice() {
            [a, b] if a.2 => [a, b],
            [a, b] => [b, a],
            _ => panic!("two layers: {layers:?}"),
        };
        let expected = match mine.1 {
            0..2_500 => (2, "canary"),
            2_500..5_000 => (1, "control"),
            _ => (1, "rest"),
        };
        assert_eq!((mine.0, mine.3.as_str()), expected, "{answer:?}");
        assert_eq!((other.1, other.2, other.3.as_str()), (mine.1, false, ""));
        let notes: Vec<_> = answer.layers.iter().filter(|layer| !layer.matched).map(|layer| &layer.note).collect();
        assert!(notes[0].contains("the policy's other revision"), "{notes:?}");
        *seen.entry(mine.3.clone()).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "all three were among them: {seen:?}");
    // Where it has not come to.
    let elsewhere = v1::ExplainFlowRequest { node: "nodes/b".to_owned(), ..question(40_000) };
    let answer = fleet.world.fleet.explain_flow(elsewhere).await.expect("an answer").into_inner();
    assert_eq!(answer.layers[0].rollout, None, "nothing is measured there");
}
