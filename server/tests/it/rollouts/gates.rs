//! Gates, by what played nodes have measured: they let a step go on, send it back, or have it wait.

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use sockpilot_stats::CoMoments;

use super::*;
use crate::{reports::report, world::now_s};

/// How many connections a cell has.
const MANY: u64 = 4_000;

/// Connections of which one in so many failed.
fn measured(one_in: u64) -> v1::Measured {
    let (mut attempts, mut established) = (CoMoments::new(1), CoMoments::new(1));
    for at in 0..MANY {
        let failed = at.is_multiple_of(one_in);
        attempts.add(&[f64::from(u8::from(failed))]).expect("a row");
        if !failed {
            // The covariate: what is known of the peer before.
            established.add(&[10.0 + (at % 7) as f64]).expect("a row");
        }
    }
    let message = |moments: CoMoments| Some(v1::CoMoments { count: moments.count, mean: moments.mean, m2: moments.m2 });
    v1::Measured { attempts: message(attempts), established: message(established), ..v1::Measured::default() }
}

/// A minute of one part of a rollout's connections, so many seconds ago.
fn cell(rollout: &v1::Rollout, part: &str, before_s: i64, measured: v1::Measured) -> v1::FlowCell {
    v1::FlowCell {
        interval_start_s: (now_s() / 10 * 10 - before_s).cast_unsigned(),
        interval_length_s: 10,
        layer: rollout.name.clone(),
        revision: rollout.revision,
        choice: part.to_owned(),
        direction: v1::Direction::Active.into(),
        measured: Some(measured),
        ..v1::FlowCell::default()
    }
}

async fn send(fleet: &Fleet, node: &str, sequence: u64, cells: Vec<v1::FlowCell>) {
    let report = v1::FlowReport { node_id: node.to_owned(), ..report(sequence, cells) };
    fleet.world.nodes.clone().report_flows(report).await.expect("committed");
}

/// One node with half of its connections, then all nodes; judged by failures to connect.
fn judged(id: &str) -> v1::RolloutPlan {
    let first = v1::RolloutWave { min_flows: 1_000, ..baking(120, wave(of_nodes(&["a"]), &[5_000])) };
    v1::RolloutPlan {
        gates: vec![v1::Gate { margin_bp: 500, ..gate("connect_failures") }],
        horizon_s: 60,
        ..plan(id, vec![first, wave(None, &[])])
    }
}

/// In the first step, with so many seconds of it behind it.
async fn baked(fleet: &mut Fleet, plan: v1::RolloutPlan) -> v1::Rollout {
    let begun = fleet.begin(plan).await;
    fleet.comes_to(&begun.name, (1, 1), RolloutPhase::Baking).await;
    fleet.pass(&begun.name, 600).await;
    begun
}

#[tokio::test]
async fn a_pass_goes_on() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let begun = baked(&mut fleet, judged("mine")).await;
    let terms = fleet.node("a").has_share(2, 5_000).await.rollout.expect("terms");
    assert_eq!((terms.measures.len(), terms.measures[0].quantity.as_str()), (1, "failed"));
    let other = fleet.node("b").layers()[0].rollout.clone().expect("terms: what it measures is compared");
    assert_eq!((other.flow_share_bp, other.measures), (0, terms.measures));

    // Connections whose horizon has not passed, those of another step and those of others count for nothing.
    let early = cell(&begun, "canary", 20, measured(2));
    let before = cell(&begun, "canary", 900, measured(2));
    send(&fleet, "a", 1, vec![early, before]).await;
    let seen = fleet.comes_to(&begun.name, (1, 1), RolloutPhase::Baking).await;
    assert!(seen.reason.contains("0 of 1000 connections"), "{}", seen.reason);
    let alike = ["canary", "control"].map(|part| cell(&begun, part, 300, measured(100)));
    send(&fleet, "a", 2, alike.to_vec()).await;
    fleet.node("a").has_share(2, 10_000).await;
    let passed = fleet.transitions(&begun.name).await;
    let passed = passed.iter().find(|at| at.phase() == RolloutPhase::Applying && at.step == 2).expect("it went on");
    let result = &passed.gates[0];
    assert_eq!((result.verdict(), result.n_canary, result.n_control), (v1::GateVerdict::Pass, MANY, MANY));
    assert!(result.harm_at_most < result.margin && result.comparison == "canary against control", "{result:?}");
    assert_eq!(passed.reason, "the step has passed");
}

#[tokio::test]
async fn a_fail_goes_back_and_says_what_was_seen() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let begun = baked(&mut fleet, judged("mine")).await;
    let cells = vec![cell(&begun, "canary", 300, measured(5)), cell(&begun, "control", 300, measured(100))];
    send(&fleet, "a", 1, cells).await;
    let ended = fleet.reaches(&begun.name, RolloutState::RolledBack).await;
    assert_eq!((ended.wave, ended.step), (1, 1), "in the first step");
    let back = fleet.transitions(&begun.name).await;
    let back = back.iter().find(|at| at.to_state() == RolloutState::RollingBack).expect("it went back");
    let result = &back.gates[0];
    assert_eq!(result.verdict(), v1::GateVerdict::Fail);
    assert!((result.control - 0.01).abs() < 1e-9 && (result.canary - 0.2).abs() < 1e-9, "{result:?}");
    assert!(result.harm_at_least > result.margin && result.n_canary == MANY, "{result:?}");
    assert_eq!(back.reason, result.reason);
    assert!(back.reason.contains("20.0%") && back.reason.contains("1.00%"), "{}", back.reason);
    fleet.node("a").has("what was good", |layers| layers.len() == 1 && layers[0].revision == 1).await;
    let entry = fleet.world.audit().await.into_iter().find(|entry| entry.actor == "controllers/rollouts");
    let entry = entry.expect("an entry");
    assert_eq!((entry.method.as_str(), &entry.reason), ("RollbackRevision", &back.reason));
    let evidence: serde_json::Value = serde_json::from_str(&entry.request_json).expect("JSON");
    assert_eq!(evidence["gates"], serde_json::json!([back.reason]));
}

/// Whoever ends the wait does not end the safety: without a measurement nothing passes.
#[tokio::test]
async fn a_promoted_step_waits_for_its_gates() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let begun = fleet.begin(judged("mine")).await;
    fleet.comes_to(&begun.name, (1, 1), RolloutPhase::Baking).await;
    fleet.rollouts.promote_rollout(verb(&begun.name)).await.expect("promoted");
    let seen = fleet.comes_to(&begun.name, (1, 1), RolloutPhase::Judging).await;
    assert!(seen.reason.contains("horizon of 60 s"), "{}", seen.reason);
    fleet.pass(&begun.name, 600).await;
    let no_data = |rollout: &v1::Rollout| rollout.gates.first().is_some_and(|gate| gate.n_canary == 0);
    let seen = fleet.until("it has looked", &begun.name, no_data).await;
    assert_eq!((seen.phase(), seen.gates[0].verdict()), (RolloutPhase::Judging, v1::GateVerdict::NoData));
    let forced = v1::RolloutVerbRequest { force: true, ..verb(&begun.name) };
    fleet.rollouts.promote_rollout(forced).await.expect("forced");
    fleet.node("a").has_share(2, 10_000).await;
    let forced = fleet.transitions(&begun.name).await.into_iter().map(|at| at.reason).collect::<Vec<_>>();
    assert!(forced.iter().any(|why| why.contains("somebody forced the step: by a test")), "{forced:?}");
}

/// First, what everyone has is compared with itself: if that differs, what is measured cannot be believed.
#[tokio::test]
async fn an_aa_comes_first_and_gives_nobody_anything() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let plan = v1::RolloutPlan { aa_first: true, ..judged("mine") };
    let begun = fleet.begin(plan.clone()).await;
    fleet.comes_to(&begun.name, (0, 1), RolloutPhase::Baking).await;
    let unchanged = |layers: &[v1::Layer]| layers[0].rollout.as_ref().is_some_and(|terms| terms.unchanged);
    let layers = fleet.node("a").has("the A/A", unchanged).await;
    assert_eq!(
        (layers.len(), layers[0].revision, layers[0].rollout.as_ref().map(|t| t.flow_share_bp)),
        (1, 1, Some(5_000))
    );
    assert!(!unchanged(&fleet.node("b").layers()), "only where the first wave will be");
    assert_eq!(fleet.having(2).len(), 0);
    fleet.pass(&begun.name, 600).await;
    let cells = vec![cell(&begun, "canary", 300, measured(5)), cell(&begun, "control", 300, measured(100))];
    send(&fleet, "a", 1, cells).await;
    fleet.reaches(&begun.name, RolloutState::RolledBack).await;
    let back = fleet.transitions(&begun.name).await;
    let back = back.iter().find(|at| at.to_state() == RolloutState::RollingBack).expect("it went back");
    assert!(
        back.reason.contains("differs from itself") && back.reason.contains("Nothing was changed"),
        "{}",
        back.reason
    );
    fleet.node("a").has("no terms", |layers| layers[0].rollout.is_none()).await;

    let begun = fleet.begin(plan).await;
    fleet.comes_to(&begun.name, (0, 1), RolloutPhase::Baking).await;
    fleet.pass(&begun.name, 600).await;
    let alike = ["canary", "control"].map(|part| cell(&begun, part, 300, measured(100)));
    send(&fleet, "a", 2, alike.to_vec()).await;
    fleet.node("a").has_share(3, 5_000).await;
    assert_eq!(fleet.get(&begun.name).await.wave, 1);
}

/// Where a node has the revision for all connections, the nodes that are not reached yet are the control; with too few of them, only life is
/// asked for.
#[tokio::test]
async fn a_step_of_all_connections_is_judged_by_nodes() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let first = v1::RolloutWave { min_flows: 1_000, ..baking(120, wave(of_nodes(&["a"]), &[])) };
    let plan = v1::RolloutPlan { waves: vec![first, baking(60, wave(None, &[]))], ..judged("mine") };
    let begun = baked(&mut fleet, plan).await;
    send(&fleet, "a", 1, vec![cell(&begun, "canary", 300, measured(5))]).await;
    send(&fleet, "b", 1, vec![cell(&begun, "control", 300, measured(100))]).await;
    fleet.until("the second wave", &begun.name, |rollout| rollout.wave == 2).await;
    let passed = fleet.transitions(&begun.name).await;
    let passed = passed.iter().find(|at| at.wave == 2).expect("it went on");
    assert_eq!(passed.gates[0].comparison, "difference in differences by node");
    assert_ne!(passed.gates[0].verdict(), v1::GateVerdict::Pass, "two nodes cannot tell: {:?}", passed.gates[0]);
}

/// What a look says depends on what was measured, and not on the order in which it came.
#[tokio::test]
async fn the_same_evidence_always_gives_the_same_verdict() {
    let mut fleet = Fleet::new(&["a", "b"]).await;
    let begun = baked(&mut fleet, judged("mine")).await;
    let mut runner = TestRunner::deterministic();
    let cells: Vec<_> = (0..12_i64)
        .flat_map(|at| {
            ["canary", "control"].map(|part| cell(&begun, part, 200 + 10 * at, measured(90 + at.unsigned_abs())))
        })
        .collect();
    let shuffled = Just(cells).prop_shuffle().new_tree(&mut runner).expect("some").current();
    for (sequence, some) in (1..).zip(shuffled.chunks(5)) {
        send(&fleet, "a", sequence, some.to_vec()).await;
    }
    let store = fleet.store();
    let at_s = now_s();
    let mut looks = vec![];
    for _ in 0..3 {
        let name = begun.name.clone();
        let gathered = store.read("gather", move |conn| {
            Box::pin(async move {
                let rollout = sockpilot_server::store::rollout::get(&mut *conn, &name).await?;
                let machine = sockpilot_rollout::machine::Machine {
                    place: sockpilot_rollout::plan::Place { wave: 1, step: 1 },
                    in_force_s: Some(at_s - 600),
                    ..rollout.machine
                };
                let rollout = sockpilot_server::rollout::record::Rollout { machine, ..rollout };
                sockpilot_server::rollout::evidence::gather(conn, &rollout, at_s).await
            })
        });
        let measured = gathered.await.expect("gathered").expect("something");
        let judged = sockpilot_judge::gates::gates(&measured.evidence).expect("judged");
        looks.push((measured, judged));
    }
    assert_eq!(looks[0].0.flows, 12 * MANY);
    assert_eq!(looks[0].1.results[0].verdict(), v1::GateVerdict::Pass);
    assert!(looks.windows(2).all(|two| two[0] == two[1]));
}
