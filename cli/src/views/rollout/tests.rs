//! How rollouts look.

use super::*;
use prost_types::{Duration, Timestamp};
use sockpilot_proto::v1::{Gate, GateResult, GateVerdict, RolloutWave, RolloutWaveStatus, Selector, selector};

fn time(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: 1_772_366_400 + seconds, nanos: 0 })
}

fn wave(selector: Option<selector::Kind>, shares: &[u32]) -> RolloutWave {
    RolloutWave {
        selector: selector.map(|kind| Selector { kind: Some(kind) }),
        flow_shares_bp: shares.to_vec(),
        bake_time: Some(Duration { seconds: 600, nanos: 0 }),
        min_flows: 5_000,
        max_unavailable_bp: 500,
        ..RolloutWave::default()
    }
}

pub fn plan() -> v1::RolloutPlan {
    v1::RolloutPlan {
        name: "rolloutPlans/careful".to_owned(),
        revision: 2,
        description: "for changes that may do harm".to_owned(),
        waves: vec![
            wave(Some(selector::Kind::ShareBp(100)), &[100, 1_000]),
            wave(Some(selector::Kind::ShareBp(1_000)), &[1_000]),
            wave(None, &[]),
        ],
        gates: vec![
            Gate { metric: "resets".to_owned(), margin_bp: 50 },
            Gate { metric: "srtt".to_owned(), margin_bp: 0 },
        ],
        aa_first: true,
        needs_approval: true,
        create_time: time(0),
        creator: "ann@desk".to_owned(),
        ..v1::RolloutPlan::default()
    }
}

fn gate(metric: &str, verdict: GateVerdict, harm: [f64; 3], margin: f64) -> GateResult {
    let [harm_at_least, harm, harm_at_most] = harm;
    GateResult {
        gate: Some(Gate { metric: metric.to_owned(), margin_bp: 0 }),
        verdict: verdict.into(),
        comparison: "canary against control".to_owned(),
        control: 0.0031,
        canary: 0.0033,
        harm,
        harm_at_least,
        harm_at_most,
        margin,
        n_control: 12_040,
        n_canary: 11_960,
        ..GateResult::default()
    }
}

/// Of every kind something.
pub fn example() -> v1::Rollout {
    let status = |wave, nodes, in_force, refused| RolloutWaveStatus {
        wave,
        selector: String::new(),
        nodes,
        in_force,
        pending: nodes - in_force - refused,
        refused,
        tripped: refused,
        ..RolloutWaveStatus::default()
    };
    let inconclusive = GateResult {
        reason: "srtt is 41.10 ms in the canary: worse by 2%, which may be anything from -1% to 6%".to_owned(),
        needed_s: 2_700,
        unit: "us".to_owned(),
        control: 40_300.0,
        canary: 41_100.0,
        ..gate("srtt", GateVerdict::Inconclusive, [-0.01, 0.02, 0.06], 0.05)
    };
    v1::Rollout {
        name: "rollouts/web-3".to_owned(),
        policy: "policies/web".to_owned(),
        revision: 4,
        good_revision: 3,
        plan: Some(plan()),
        state: RolloutState::Running.into(),
        wave: 2,
        step: 1,
        phase: RolloutPhase::Judging.into(),
        flow_share_bp: 1_000,
        reason: "waits for srtt".to_owned(),
        state_time: time(60),
        deadline_time: time(3_660),
        create_time: time(0),
        creator: "ann@desk".to_owned(),
        approver: "bob@desk".to_owned(),
        confirm_deadline_time: time(600),
        waves: vec![status(1, 2, 2, 0), status(2, 20, 18, 1)],
        gates: vec![
            gate("resets", GateVerdict::Pass, [-0.003, 0.0002, 0.004], 0.005),
            inconclusive,
            GateResult {
                reason: "timeouts: nothing can be said yet".to_owned(),
                ..gate("timeouts", GateVerdict::NoData, [f64::NEG_INFINITY, 0.0, f64::INFINITY], 0.005)
            },
        ],
        open_on_earlier_revisions: 1_204,
        open_looked_time: time(170),
        open_unknown_nodes: 1,
        warnings: vec![v1::Warning {
            field: String::new(),
            description: "1 of 22 nodes that it is for is not connected (n)".to_owned(),
        }],
        broken_glass: Some(v1::BrokenGlass {
            actor: "eve@desk".to_owned(),
            reason: "the sale can wait".to_owned(),
            time: time(5),
        }),
        ..v1::Rollout::default()
    }
}

/// With texts that want to be something else, and numbers that are none.
fn hostile() -> v1::Rollout {
    let text = || "x\n\u{1b}[2Jy".to_owned();
    let mut rollout = example();
    (rollout.name, rollout.policy, rollout.reason, rollout.creator) = (text(), text(), text(), text());
    (rollout.wave, rollout.step, rollout.state, rollout.phase) = (u32::MAX, 0, 99, 99);
    rollout.waves = vec![RolloutWaveStatus { wave: 7, selector: text(), ..RolloutWaveStatus::default() }];
    for (gate, number) in rollout.gates.iter_mut().zip([f64::NAN, f64::INFINITY, f64::MAX]) {
        (gate.harm, gate.harm_at_most, gate.margin, gate.control) = (number, number, number, -number);
        (gate.comparison, gate.reason, gate.unit) = (text(), text(), text());
        gate.gate = None;
    }
    rollout
}

#[test]
fn a_rollout_shows_its_waves_and_what_its_gates_say() {
    assert_eq!(one(&example()), include_str!("tests/one.txt"));
}

#[test]
fn the_terminal_gets_no_orders() {
    let mut preview = hostile();
    preview.preview = Some(v1::RolloutPreview {
        differences: vec!["a\n\u{7}".to_owned()],
        gates: preview.gates.clone(),
        flows: Some(v1::PreviewFlows { touched_share: f64::NAN, ..Default::default() }),
        waves: vec![v1::PreviewWave { nodes: vec!["\u{1b}".to_owned()], ..Default::default() }],
    });
    let texts = [
        one(&hostile()),
        one(&v1::Rollout::default()),
        preview::one(&preview),
        answers::list(&[hostile()]),
        answers::changed(&hostile(), true),
    ];
    for text in texts {
        assert!(text.chars().all(|c| !c.is_control() || c == '\n'), "{text:?}");
        assert!(!text.contains("NaN") && text.lines().all(|line| line.chars().count() < 600), "{text}");
    }
}

#[test]
fn a_headline_says_where_it_is_or_how_it_ended() {
    let at = |state: RolloutState| headline(&v1::Rollout { state: state.into(), ..example() });
    let place = "wave 2 of 3, step 1 of 2 (10% of connections)";
    assert_eq!(at(RolloutState::Running), format!("rollouts/web-3: running, {place}, judging"));
    assert_eq!(at(RolloutState::Paused), format!("rollouts/web-3: paused in {place}"));
    assert_eq!(at(RolloutState::RolledBack), format!("rollouts/web-3: rolled back from {place}"));
    assert_eq!(at(RolloutState::Completed), "rollouts/web-3: completed");
    assert_eq!(at(RolloutState::Draft), "rollouts/web-3: draft");
    let last = v1::Rollout { wave: 3, step: 1, flow_share_bp: 10_000, ..example() };
    assert_eq!(headline(&last), "rollouts/web-3: running, wave 3 of 3, step 1 of 1 (all connections), judging");
}

#[test]
fn a_draft_shows_what_is_to_be_approved_and_one_that_is_over_no_place() {
    let draft = v1::Rollout {
        state: RolloutState::Draft.into(),
        digest: vec![0x0a, 0xff].into(),
        wave: 0,
        waves: Vec::new(),
        ..example()
    };
    assert!(one(&draft).contains("\ndigest       0aff\n"), "{}", one(&draft));
    assert!(one(&draft).contains("until        2026-03-01T13:01:00Z, then it rolls back\n"));
    let over = v1::Rollout { state: RolloutState::RolledBack.into(), end_time: time(90), ..example() };
    assert!(!one(&over).contains('[') || one(&over).contains("FROM, TO"), "{}", one(&over));
    assert!(one(&over).contains("10% of nodes  10%, all  "), "no step is marked: {}", one(&over));
}

#[test]
fn every_state_is_over_or_not() {
    let over: Vec<RolloutState> =
        (0..=8).filter_map(|number| RolloutState::try_from(number).ok()).filter(|state| is_over(*state)).collect();
    let expected =
        [RolloutState::Completed, RolloutState::RolledBack, RolloutState::Superseded, RolloutState::RollbackFailed];
    assert_eq!(over, expected);
}

#[test]
fn rollouts_have_a_line_each() {
    let done = v1::Rollout {
        name: "rollouts/web-2".to_owned(),
        state: RolloutState::Completed.into(),
        wave: 3,
        step: 1,
        phase: RolloutPhase::Unspecified.into(),
        flow_share_bp: 0,
        deadline_time: None,
        reason: String::new(),
        ..example()
    };
    assert_eq!(
        answers::list(&[example(), done]),
        "NAME            POLICY          STATE      WAVE  STEP  SHARE  PHASE    SINCE                 UNTIL                 BY        REASON\n\
         rollouts/web-3  policies/web@4  running     2/3   1/2    10%  judging  2026-03-01T12:01:00Z  2026-03-01T13:01:00Z  ann@desk  waits for srtt\n\
         rollouts/web-2  policies/web@4  completed   3/3   1/1      -  -        2026-03-01T12:01:00Z  -                     ann@desk\n"
    );
}

#[test]
fn every_change_of_its_state_says_who_and_why() {
    let transition = v1::RolloutTransition {
        time: time(0),
        from_state: RolloutState::Running.into(),
        to_state: RolloutState::RollingBack.into(),
        wave: 1,
        step: 2,
        phase: RolloutPhase::Baking.into(),
        actor: "controllers/rollouts".to_owned(),
        reason: "the breaker tripped on nodes/a".to_owned(),
        gates: vec![gate("resets", GateVerdict::Fail, [0.006, 0.01, 0.014], 0.005)],
        waves: vec![RolloutWaveStatus { wave: 1, nodes: 2, in_force: 1, tripped: 1, ..RolloutWaveStatus::default() }],
        breaker_trips: vec![v1::BreakerTrip {
            layer: "policies/web".to_owned(),
            revision: 4,
            canary_bad_ends: 29,
            control_bad_ends: 6,
            trip_time: time(-1),
            ..v1::BreakerTrip::default()
        }],
        trip_nodes: vec!["nodes/a".to_owned()],
    };
    let line = "\
TIME                  FROM     TO            WAVE  STEP  PHASE   WHO                   REASON
2026-03-01T12:00:00Z  running  rolling back     1     2  baking  controllers/rollouts  the breaker tripped on nodes/a
";
    assert_eq!(answers::transitions(std::slice::from_ref(&transition), false), line);
    let text = answers::transitions(&[transition], true);
    let evidence = "
2026-03-01T12:00:00Z:
wave 1, 2 nodes: 1 in force, 1 tripped
nodes/a ended policies/web@4 by its breaker at 2026-03-01T11:59:59Z: 29 bad ends of connections of the canary, 6 of its control
GATE    VERDICT  CONTROL  CANARY     HARM            FROM, TO  MARGIN";
    assert!(text.starts_with(&format!("{line}{evidence}")), "{text}");
}

#[test]
fn a_preview_names_nodes_differences_connections_and_durations() {
    let wave = |wave, selector: &str, nodes: u32| v1::PreviewWave {
        wave,
        selector: selector.to_owned(),
        nodes: (1..=nodes).map(|number| format!("nodes/n{number}")).collect(),
        node_count: nodes,
    };
    let expected = GateResult { needed_s: 5_400, ..gate("resets", GateVerdict::NoData, [0.0; 3], 0.005) };
    let preview = v1::RolloutPreview {
        waves: vec![wave(1, "1% of nodes", 2), wave(2, "10% of nodes", 14), wave(3, "all nodes", 0)],
        differences: vec!["far: initial_cwnd_packets 20 becomes 30".to_owned()],
        flows: Some(v1::PreviewFlows { touched_share: 0.032, lower: 0.03, upper: 0.034, samples: 9_120 }),
        gates: vec![expected],
    };
    let rollout = v1::Rollout { preview: Some(preview), ..example() };
    assert_eq!(preview::one(&rollout), include_str!("tests/preview.txt"));
    let unknown = v1::Rollout { preview: Some(v1::RolloutPreview::default()), good_revision: 0, ..example() };
    let text = preview::one(&unknown);
    assert!(text.starts_with("policies/web@4 in the place of nothing, by rolloutPlans/careful@2:\n"), "{text}");
    assert!(text.contains("No connections were recorded in the last hour"), "{text}");
}

#[test]
fn of_many_each_says_what_became_of_it() {
    let done = v1::BatchRolloutResult {
        name: "rollouts/web-3".to_owned(),
        refusal: String::new(),
        rollout: Some(v1::Rollout { state: RolloutState::Paused.into(), ..example() }),
    };
    let refused = v1::BatchRolloutResult {
        name: "rollouts/db-1".to_owned(),
        refusal: "is a draft; start it".to_owned(),
        rollout: None,
    };
    let answer = v1::BatchRolloutVerbResponse { results: vec![done, refused] };
    assert_eq!(
        answers::results(&answer, true),
        "NAME            POLICY          WOULD BE  REFUSED\n\
         rollouts/web-3  policies/web@4  paused\n\
         rollouts/db-1   -               -         is a draft; start it\n"
    );
    assert_eq!(answers::refusals(&answer), 1);
    assert_eq!(answers::results(&v1::BatchRolloutVerbResponse::default(), false), "no rollout is selected\n");
}
