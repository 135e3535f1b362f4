//! What experiments measure: stored once, merged exactly, refused where it cannot be, and judged the same however often.

use prost::Message;
use sockpilot_judge::judge;
use sockpilot_policy::bucket;
use sockpilot_proto::v1::{self, MeasureRole};
use sockpilot_stats::CoMoments;

use crate::{
    outcomes::{execute, number, roll_up},
    reports::report,
    world::{World, everyone, experiment, fields, hello, hours_ago},
};

const NAME: &str = "experiments/e";

/// With one column of attempts (connected) and three of established connections (round-trip time, whether it is known, covariate).
async fn world() -> World {
    world_of(|experiment| experiment).await
}

async fn world_of(design: impl FnOnce(v1::Experiment) -> v1::Experiment) -> World {
    let mut world = World::new().await;
    let measure = |quantity: &str, role: MeasureRole| v1::Measure {
        quantity: quantity.to_owned(),
        role: role.into(),
        ..v1::Measure::default()
    };
    let measures = vec![measure("connected", MeasureRole::Guardrail), measure("srtt_us", MeasureRole::Success)];
    let experiment = Some(design(v1::Experiment { measures, horizon_s: 1, ..experiment("e") }));
    let request = v1::CreateExperimentRequest { experiment, target: everyone(), ..Default::default() };
    world.experiments.create_experiment(request).await.expect("created");
    world
}

/// Connections of which every tenth is not established, with round-trip times that depend on the seed.
fn measured(n: u64, seed: u64) -> v1::Measured {
    let (mut attempts, mut established) = (CoMoments::new(1), CoMoments::new(3));
    for at in 0..n {
        let yes = !(at + seed).is_multiple_of(10);
        attempts.add(&[f64::from(u8::from(yes))]).expect("a row");
        if yes {
            let us = 1_000.0 + 0.1 * ((at * 7_919 + seed * 104_729) % 5_003) as f64;
            established.add(&[us, 1.0, us.ln()]).expect("a row");
        }
    }
    let message = |moments: CoMoments| Some(v1::CoMoments { count: moments.count, mean: moments.mean, m2: moments.m2 });
    v1::Measured { attempts: message(attempts), established: message(established), unfinished: n / 20, groups: vec![] }
}

fn cell(arm: &str, start_s: u64, measured: v1::Measured) -> v1::FlowCell {
    v1::FlowCell {
        interval_start_s: start_s,
        interval_length_s: 10,
        layer: NAME.to_owned(),
        revision: 1,
        choice: arm.to_owned(),
        direction: v1::Direction::Active.into(),
        measured: Some(measured),
        ..v1::FlowCell::default()
    }
}

async fn send(world: &World, node: &str, sequence: u64, cells: Vec<v1::FlowCell>) {
    let report = v1::FlowReport { node_id: node.to_owned(), ..report(sequence, cells) };
    world.nodes.clone().report_flows(report).await.expect("committed");
}

async fn results(world: &World) -> v1::ExperimentResults {
    let request = v1::GetExperimentResultsRequest { name: NAME.to_owned(), revision: 0 };
    world.experiments.clone().get_experiment_results(request).await.expect("results").into_inner()
}

/// Attempts of treatment and control.
async fn attempts(world: &World) -> (u64, u64) {
    let results = results(world).await;
    let of = |name: &str| results.arms.iter().find(|arm| arm.arm == name).expect("the arm").attempts;
    (of("treatment"), of("control"))
}

/// Counts exactly, numbers but for rounding.
fn assert_same(before: &v1::ExperimentResults, after: &v1::ExperimentResults) {
    assert_eq!(before.arms, after.arms);
    assert_eq!(before.measures.len(), after.measures.len());
    let close = |a: f64, b: f64| assert!((a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-3), "{a} {b}");
    for (before, after) in before.measures.iter().zip(&after.measures) {
        assert_eq!(
            (&before.title, &before.no_answer, before.standing),
            (&after.title, &after.no_answer, after.standing)
        );
        close(before.control, after.control);
        close(before.value, after.value);
        let (Some(before), Some(after)) = (before.absolute, after.absolute) else {
            panic!("an effect: {before:?} {after:?}")
        };
        close(before.effect, after.effect);
        close(before.standard_error, after.standard_error);
        close(before.lower, after.lower);
    }
    assert_eq!(before.verdict.as_ref().map(|v| v.kind), after.verdict.as_ref().map(|v| v.kind));
}

/// The same connections, as those of one group of units.
fn in_group(group: u32, measured: v1::Measured) -> v1::Measured {
    let sums = |moments: &Option<v1::CoMoments>| {
        let moments = moments.clone().unwrap_or_default();
        (moments.count, moments.mean.iter().map(|mean| mean * moments.count as f64).collect::<Vec<_>>())
    };
    let (attempts, attempt_sums) = sums(&measured.attempts);
    let (established, established_sums) = sums(&measured.established);
    let groups = vec![v1::MeasuredGroup { group, attempts, established, attempt_sums, established_sums }];
    v1::Measured { groups, ..measured }
}

/// Whatever a node reports, it is of its own units, and of slots that there were.
#[tokio::test]
async fn groups_that_cannot_be_are_left_out() {
    let start_s = hours_ago(2);
    let own = bucket::group(bucket::node_hash(bucket::salt("e"), "n"));
    let slot = u32::try_from(start_s / 60).expect("a slot");
    let slots = v1::TimeSlot { slot_s: 60, washout_s: 1 };
    let cases = [
        (v1::Unit::Flow, None, vec![None], vec![Some(0)]),
        (v1::Unit::PeerPrefix, None, vec![Some(0), Some(255)], vec![None, Some(256), Some(u32::MAX)]),
        (v1::Unit::Node, None, vec![Some(own)], vec![None, Some(own ^ 1), Some(256)]),
        (
            v1::Unit::TimeSlot,
            Some(slots),
            vec![Some(slot), Some(slot - 60)],
            vec![None, Some(0), Some(slot + 1), Some(u32::MAX)],
        ),
    ];
    for (unit, time_slot, sound, absurd) in cases {
        let world = world_of(|experiment| v1::Experiment { unit: unit.into(), time_slot, ..halves(experiment) }).await;
        let of = |group: Option<u32>| match group {
            Some(group) => in_group(group, measured(40, 1)),
            None => measured(40, 1),
        };
        let mut expected = 0;
        for (sequence, (group, is_sound)) in
            sound.iter().map(|group| (group, true)).chain(absurd.iter().map(|group| (group, false))).enumerate()
        {
            // Cells of their own, so that none replaces another.
            let cell = cell("treatment", start_s + 10 * (sequence as u64 % 6), of(*group));
            send(&world, "n", sequence as u64 + 1, vec![cell]).await;
            expected += if is_sound { 40 } else { 0 };
            assert_eq!(attempts(&world).await.0, expected, "{unit:?} {group:?}");
        }
        world.server.stop().await;
    }
}

/// Slots of time are told apart by the clock.
#[tokio::test]
async fn a_node_whose_clock_is_off_is_left_out_of_slots_and_shown() {
    let slots = Some(v1::TimeSlot { slot_s: 60, washout_s: 1 });
    let world = world_of(|experiment| v1::Experiment {
        unit: v1::Unit::TimeSlot.into(),
        time_slot: slots,
        ..halves(experiment)
    })
    .await;
    let start_s = hours_ago(2);
    let slot = u32::try_from(start_s / 60).expect("a slot");
    let (_right, _off) = (world.connect(hello("right")).await, world.connect(hello("off")).await);
    let store = world.server.store().clone();
    execute(&store, "UPDATE node SET clock_offset_ms = CASE node_id WHEN 'off' THEN -2001 ELSE 1999 END".to_owned())
        .await;
    for (node, expected) in [("right", 40), ("off", 40)] {
        send(&world, node, 1, vec![cell("treatment", start_s, in_group(slot, measured(40, 1)))]).await;
        assert_eq!(attempts(&world).await.0, expected, "{node}");
    }
    let said = results(&world).await.warnings;
    assert!(said.iter().any(|said| said.starts_with("1 node is left out because of a clock")), "{said:?}");
    world.server.stop().await;
}

fn halves(experiment: v1::Experiment) -> v1::Experiment {
    let arms =
        experiment.arms.iter().map(|arm| v1::Arm { weight_bp: 5_000, first_bucket: None, ..arm.clone() }).collect();
    v1::Experiment { arms, ..experiment }
}

#[tokio::test]
async fn a_later_total_replaces_and_the_same_report_changes_nothing() {
    let world = world().await;
    let start_s = hours_ago(2);
    send(&world, "n", 2, vec![cell("treatment", start_s, measured(40, 1)), cell("control", start_s, measured(400, 2))])
        .await;
    for _ in 0..2 {
        send(&world, "n", 1, vec![cell("treatment", start_s, measured(10, 1))]).await;
    }
    assert_eq!(attempts(&world).await, (40, 400), "an earlier total replaces nothing");
    for _ in 0..2 {
        send(&world, "n", 3, vec![cell("treatment", start_s, measured(50, 1))]).await;
    }
    assert_eq!(attempts(&world).await, (50, 400));
    send(&world, "m", 1, vec![cell("treatment", start_s, measured(5, 3))]).await;
    assert_eq!(attempts(&world).await, (55, 400));
    world.server.stop().await;
}

#[tokio::test]
async fn what_is_merged_says_the_same_as_cells_and_late_ones_count() {
    let world = world().await;
    let begin_s = hours_ago(6);
    for (number, node) in ["n", "m"].into_iter().enumerate() {
        let cells = (0..60_u64).flat_map(|at| {
            let (start_s, seed) = (begin_s + at * 240 + 10 * (at % 6), at + 100 * number as u64);
            [cell("treatment", start_s, measured(12, seed)), cell("control", start_s, measured(108, seed + 7))]
        });
        send(&world, node, 1, cells.collect()).await;
    }
    let store = world.server.store().clone();
    execute(&store, "DELETE FROM flow_rollup; DELETE FROM flow_rollup_made".to_owned()).await;
    let of_cells = results(&world).await;
    assert_eq!(attempts(&world).await, (2 * 60 * 12, 2 * 60 * 108));
    assert!(of_cells.measures.iter().any(|row| row.absolute.is_some()), "{of_cells:?}");
    let stale = "INSERT INTO flow_rollup_stale SELECT DISTINCT 60, interval_start_s / 60 * 60 FROM flow_cell ON CONFLICT DO NOTHING";
    execute(&store, stale.to_owned()).await;
    roll_up(&store).await;
    assert!(number(&store, "SELECT count(*) FROM flow_rollup_made WHERE length_s = 3600").await >= 4);
    let merged = results(&world).await;
    assert_same(&of_cells, &merged);

    send(&world, "late", 1, vec![cell("control", begin_s + 50, measured(30, 5))]).await;
    assert_eq!(attempts(&world).await, (1_440, 12_990), "from cells, until it is merged");
    let before = results(&world).await;
    roll_up(&store).await;
    assert_same(&before, &results(&world).await);
    // Nothing of whole hours is read from cells.
    execute(&store, "DELETE FROM flow_cell".to_owned()).await;
    assert_same(&before, &results(&world).await);
    world.server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_measured_is_refused_with_its_field() {
    let world = world().await;
    let start_s = hours_ago(2);
    let spoiled = |spoil: fn(&mut v1::Measured)| {
        let mut measured = measured(40, 1);
        spoil(&mut measured);
        cell("treatment", start_s, measured)
    };
    let group = |attempts, sum| v1::MeasuredGroup {
        group: 1,
        attempts,
        established: 36,
        attempt_sums: vec![sum],
        established_sums: vec![1.0; 3],
    };
    let mut cases = vec![
        spoiled(|measured| measured.attempts.as_mut().expect("some").mean[0] = f64::NAN),
        spoiled(|measured| measured.attempts.as_mut().expect("some").m2[0] = f64::INFINITY),
        spoiled(|measured| measured.established.as_mut().expect("some").m2[0] = -1.0),
        spoiled(|measured| measured.established.as_mut().expect("some").m2[1] = 1e12),
        spoiled(|measured| measured.established.as_mut().expect("some").mean[0] = 1e19),
        spoiled(|measured| measured.established.as_mut().expect("some").m2.truncate(2)),
        spoiled(|measured| measured.established.as_mut().expect("some").count = 41),
        spoiled(|measured| measured.unfinished = 41),
        cell("treatment", start_s, v1::Measured::default()),
        v1::FlowCell { size_class: v1::SizeClass::Small.into(), ..cell("treatment", start_s, measured(4, 1)) },
        v1::FlowCell {
            counts: Some(v1::FlowCounts { flows: 1, ..Default::default() }),
            ..cell("treatment", start_s, measured(4, 1))
        },
    ];
    for groups in [vec![group(39, 36.0)], vec![group(40, f64::NAN)], vec![group(40, 36.0), group(40, 36.0)]] {
        cases.push(cell("treatment", start_s, v1::Measured { groups, ..measured(40, 1) }));
    }
    let many = (0..3_000).map(|group| v1::MeasuredGroup {
        group,
        attempt_sums: vec![0.0],
        established_sums: vec![0.0; 3],
        ..Default::default()
    });
    let mut many: Vec<_> = many.collect();
    many[0] = v1::MeasuredGroup { group: 0, ..group(40, 36.0) };
    cases.push(cell("treatment", start_s, v1::Measured { groups: many, ..measured(40, 1) }));
    for (number, case) in cases.into_iter().enumerate() {
        let sound = cell("control", start_s, measured(40, 2));
        let sent = world.nodes.clone().report_flows(report(1 + number as u64, vec![sound, case.clone()])).await;
        let refused = sent.expect_err(&format!("case {number}"));
        let found = fields(&refused);
        assert!(found.iter().all(|field| field.starts_with("cells[1].")), "{number}: {found:?}");
    }
    assert_eq!(attempts(&world).await, (0, 0), "a report is taken in as a whole or not at all");
    world.server.stop().await;
}

#[tokio::test]
async fn what_measures_something_else_is_left_out_and_counted() {
    let world = world().await;
    let start_s = hours_ago(2);
    let sound = cell("treatment", start_s, measured(40, 1));
    let mut wide = cell("treatment", start_s + 10, measured(40, 1));
    let moments = wide.measured.as_mut().and_then(|measured| measured.attempts.as_mut()).expect("some");
    (moments.mean, moments.m2) = (vec![0.9, 0.0], vec![3.6, 0.0, 0.0]);
    let unknown = v1::FlowCell { revision: 9, ..cell("treatment", start_s, measured(40, 1)) };
    let policy = v1::FlowCell { layer: "policies/p".to_owned(), ..cell("treatment", start_s, measured(40, 1)) };
    let nobody = v1::FlowCell { layer: "experiments/other".to_owned(), ..cell("treatment", start_s, measured(40, 1)) };
    let stranger = cell("stranger", start_s, measured(40, 1));
    send(&world, "n", 1, vec![wide, unknown, policy, nobody, stranger, sound]).await;
    assert_eq!(world.server.metrics().cells_foreign.get(), 4);
    let all = results(&world).await;
    assert_eq!(all.arms.iter().map(|arm| arm.attempts).sum::<u64>(), 40, "an arm that is none is nobody's: {all:?}");
    world.server.stop().await;
}

#[tokio::test]
async fn every_stored_verdict_is_drawn_again_to_the_same_bytes() {
    let mut world = world().await;
    let start_s = hours_ago(2);
    let cells = (0..20_u64).flat_map(|at| {
        let start_s = start_s + 10 * at;
        [cell("treatment", start_s, measured(100, at)), cell("control", start_s, measured(900, at + 50))]
    });
    send(&world, "n", 1, cells.collect()).await;
    let force = |name: &str| v1::ConcludeExperimentRequest { name: name.to_owned(), ..Default::default() };
    for _ in 0..2 {
        let ended = world.experiments.conclude_experiment(force(NAME)).await.expect("concluded").into_inner();
        assert!(ended.verdict.is_some());
    }
    let list = v1::ListVerdictsRequest { parent: NAME.to_owned(), ..Default::default() };
    let verdicts = world.experiments.list_verdicts(list).await.expect("listed").into_inner().verdicts;
    assert!(verdicts.len() >= 2, "each that was asked for: {}", verdicts.len());
    for verdict in &verdicts {
        let again = judge(verdict.evidence.as_ref().expect("evidence")).expect("it is sound");
        assert_eq!(
            again.encode_to_vec(),
            verdict.results.as_ref().expect("results").encode_to_vec(),
            "{}",
            verdict.name
        );
    }
    assert!(verdicts[0].results.as_ref().is_some_and(|results| results.arms.iter().all(|arm| arm.attempts > 0)));
    // Page by page, newest first.
    let page = |page_token| v1::ListVerdictsRequest { parent: NAME.to_owned(), page_size: 1, page_token };
    let first = world.experiments.list_verdicts(page(String::new())).await.expect("listed").into_inner();
    let second = world.experiments.list_verdicts(page(first.next_page_token)).await.expect("listed").into_inner();
    assert_eq!([&first.verdicts[0].name, &second.verdicts[0].name], [&verdicts[0].name, &verdicts[1].name]);
    world.server.stop().await;
}
