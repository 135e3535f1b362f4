//! The plans that are there from the start.

use sockpilot_proto::v1::{self, Selector, selector};

/// The plan of rollouts that name none, where the fleet has no default of its own.
pub const DEFAULT: &str = "rolloutPlans/one-node";

/// All of them. `gates` are those that make sense without knowing more.
#[must_use]
pub fn plans(gates: &[v1::Gate]) -> Vec<v1::RolloutPlan> {
    let share = |share_bp| Some(Selector { kind: Some(selector::Kind::ShareBp(share_bp)) });
    let wave = |selector, flow_shares_bp: &[u32], bake_s, min_flows| v1::RolloutWave {
        selector,
        flow_shares_bp: flow_shares_bp.to_vec(),
        bake_time: Some(prost_types::Duration { seconds: bake_s, nanos: 0 }),
        min_flows,
        max_unavailable_bp: 1_000,
        max_refused_bp: 0,
        deadline: Some(prost_types::Duration { seconds: bake_s + 6 * 3_600, nanos: 0 }),
    };
    let plan = |name: &str, description: &str, waves| v1::RolloutPlan {
        name: format!("rolloutPlans/{name}"),
        revision: 1,
        description: description.to_owned(),
        waves,
        gates: gates.to_vec(),
        ..v1::RolloutPlan::default()
    };
    let one_node = v1::RolloutWave {
        max_unavailable_bp: 10_000,
        // A node that cannot honour it holds it back, as its status says.
        max_refused_bp: 10_000,
        deadline: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        ..v1::RolloutWave::default()
    };
    vec![
        plan(
            "careful",
            "Few nodes first, on each few connections first, and time to look. For what many depend on.",
            vec![
                wave(share(500), &[100, 1_000, 5_000], 600, 1_000),
                wave(share(2_500), &[1_000, 5_000], 600, 1_000),
                wave(None, &[1_000, 5_000], 600, 1_000),
            ],
        ),
        v1::RolloutPlan {
            gates: vec![],
            no_breaker: true,
            on_deadline: v1::OnDeadline::Pause.into(),
            ..plan(
                "one-node",
                "Every node at once; one that cannot honour it holds it back. For the first minutes, and for machines that nobody depends on.",
                vec![one_node],
            )
        },
        plan(
            "quick",
            "A tenth of the nodes, on these a part of the connections first, then all. For what is easily undone.",
            vec![wave(share(1_000), &[1_000, 5_000], 60, 200), wave(None, &[5_000], 60, 200)],
        ),
    ]
}
