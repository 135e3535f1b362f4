//! Flow reports: taken in once, whatever comes twice or late, and read back merged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use prost_types::Timestamp;
use sockpilot_proto::v1;
use sockpilot_stats::Distribution;
use tonic::Code;

use crate::{
    outcomes::execute,
    world::{World, eventually, fields, hello, hours_ago},
};

fn distribution(values: impl IntoIterator<Item = f64>) -> Option<v1::Distribution> {
    let mut distribution = Distribution::default();
    values.into_iter().for_each(|value| distribution.add(value));
    let moments = distribution.moments;
    Some(v1::Distribution {
        count: moments.count,
        mean: moments.mean,
        m2: moments.m2,
        min: moments.min,
        max: moments.max,
        sketch: distribution.sketch.to_bytes().into(),
    })
}

/// A second of an hour that is over and not long ago, so that outcomes of it are kept.
fn at(second: u64) -> u64 {
    static HOUR: LazyLock<u64> = LazyLock::new(|| hours_ago(2));
    *HOUR + second
}

/// A cell of `flows` flows whose connect times are 1,000, 2,000, … µs.
pub fn cell(choice: &str, interval_start_s: u64, flows: u64) -> v1::FlowCell {
    let times = (1..=flows).map(|number| 1_000.0 * number as f64);
    v1::FlowCell {
        interval_start_s,
        interval_length_s: 10,
        layer: "policies/p".to_owned(),
        revision: 1,
        choice: choice.to_owned(),
        direction: v1::Direction::Active.into(),
        size_class: v1::SizeClass::Small.into(),
        counts: Some(v1::FlowCounts {
            flows,
            established: flows,
            bytes_sent: 100 * flows,
            segments_out: 10 * flows,
            retransmits: flows,
            ..v1::FlowCounts::default()
        }),
        connect_time_us: distribution(times),
        ..v1::FlowCell::default()
    }
}

pub fn sample(local_port: u32) -> v1::FlowSample {
    v1::FlowSample {
        close_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        local_address: "192.0.2.1".to_owned(),
        local_port,
        remote_address: "2001:db8::1".to_owned(),
        remote_port: 443,
        direction: v1::Direction::Active.into(),
        outcome: v1::Outcome::Established.into(),
        attributions: vec![v1::Attribution { layer: "policies/p".to_owned(), revision: 1, choice: "all".to_owned() }],
        ..v1::FlowSample::default()
    }
}

pub fn report(sequence: u64, cells: Vec<v1::FlowCell>) -> v1::FlowReport {
    let records_total = 100 * sequence;
    v1::FlowReport {
        node_id: "n".to_owned(),
        boot_id: "boot-1".to_owned(),
        sequence,
        records_total,
        cells,
        ..Default::default()
    }
}

async fn send(world: &World, report: v1::FlowReport) -> u64 {
    world.nodes.clone().report_flows(report).await.expect("committed").into_inner().sequence
}

fn query() -> v1::QueryOutcomesRequest {
    v1::QueryOutcomesRequest { name: "policies/p".to_owned(), ..v1::QueryOutcomesRequest::default() }
}

async fn outcomes(world: &World, query: v1::QueryOutcomesRequest) -> Vec<v1::OutcomeRow> {
    world.fleet.clone().query_outcomes(query).await.expect("outcomes").into_inner().rows
}

async fn flows(world: &World) -> u64 {
    outcomes(world, query()).await.iter().filter_map(|row| row.counts.as_ref()).map(|counts| counts.flows).sum()
}

#[tokio::test]
async fn a_repeated_report_changes_nothing() {
    let mut world = World::new().await;
    world.create("p").await;
    let first = v1::FlowReport { samples: vec![sample(1), sample(2)], ..report(1, vec![cell("all", at(100), 5)]) };
    for _ in 0..3 {
        assert_eq!(send(&world, first.clone()).await, 1);
    }
    assert_eq!(flows(&world).await, 5);
    let samples =
        world.fleet.list_flow_samples(v1::ListFlowSamplesRequest::default()).await.expect("samples").into_inner();
    assert_eq!(samples.samples.len(), 2);
}

#[tokio::test]
async fn totals_grow_and_late_reports_change_nothing_that_is_newer() {
    let mut world = World::new().await;
    world.create("p").await;
    assert_eq!(send(&world, report(3, vec![cell("all", at(100), 9)])).await, 3);
    assert_eq!(send(&world, report(1, vec![cell("all", at(100), 4), cell("all", at(90), 2)])).await, 3, "late");
    assert_eq!(flows(&world).await, 11, "the newer total stays; what no newer report had is taken");
    assert_eq!(send(&world, report(4, vec![cell("all", at(100), 10)])).await, 4);
    assert_eq!(flows(&world).await, 12);
    let other_boot = v1::FlowReport { boot_id: "boot-2".to_owned(), ..report(1, vec![cell("all", at(100), 3)]) };
    assert_eq!(send(&world, other_boot).await, 1);
    let other_node = v1::FlowReport { node_id: "m".to_owned(), ..report(1, vec![cell("all", at(100), 5)]) };
    send(&world, other_node).await;
    assert_eq!(flows(&world).await, 20);
}

/// Every count has a column of its own.
#[tokio::test]
async fn counts_come_back_as_they_were_sent() {
    let mut world = World::new().await;
    world.create("p").await;
    let counts = v1::FlowCounts {
        flows: 33,
        established: 4,
        failed: 3,
        reset: 2,
        timed_out: 1,
        bytes_sent: 11,
        bytes_received: 12,
        segments_out: 13,
        segments_in: 14,
        retransmits: 15,
        syn_retransmits: 16,
        rtos: 17,
        set_failures: 18,
        still_open: 19,
        delivered_packets: 20,
        ce_marked_packets: 21,
        spurious_retransmits: 22,
        abandoned: 23,
    };
    send(&world, report(1, vec![v1::FlowCell { counts: Some(counts), ..cell("all", at(100), 10) }])).await;
    assert_eq!(outcomes(&world, query()).await[0].counts, Some(counts));
    let more = v1::FlowCounts { spurious_retransmits: 23, ce_marked_packets: 24, delivered_packets: 25, ..counts };
    send(&world, report(2, vec![v1::FlowCell { counts: Some(more), ..cell("all", at(100), 10) }])).await;
    assert_eq!(outcomes(&world, query()).await[0].counts, Some(more));
}

#[tokio::test]
async fn what_open_flows_did_counts_before_they_end() {
    let mut world = World::new().await;
    world.create("p").await;
    let counts = v1::FlowCounts { still_open: 3, bytes_sent: 50, ..v1::FlowCounts::default() };
    let open = v1::FlowCell { counts: Some(counts), connect_time_us: None, ..cell("all", at(100), 0) };
    send(&world, report(1, vec![open.clone(), cell("all", at(110), 2)])).await;
    let rows = outcomes(&world, query()).await;
    let sum = rows[0].counts.expect("counts");
    assert_eq!((rows.len(), sum.flows, sum.still_open, sum.bytes_sent), (1, 2, 3, 250));
    let nothing = v1::FlowCell { counts: Some(v1::FlowCounts::default()), ..open };
    let refused = world.nodes.report_flows(report(2, vec![nothing])).await.expect_err("refused");
    assert_eq!(fields(&refused), ["cells[0].counts.flows"]);
}

#[tokio::test]
async fn concurrent_copies_of_a_report_count_once() {
    let mut world = World::new().await;
    world.create("p").await;
    let copies =
        (0..8).map(|copy| send(&world, report(1 + copy % 2, vec![cell("all", at(100), 7), cell("other", at(100), 1)])));
    futures::future::join_all(copies).await;
    assert_eq!(flows(&world).await, 8);
}

/// Reports in any order, each cell with as many flows as its report has a number; and before each, what is noted of the source.
fn any_reports() -> impl Strategy<Value = Vec<(u64, BTreeSet<u64>, Noted)>> {
    let noted = prop_oneof![3 => Just(Noted::AsItIs), 1 => Just(Noted::Nothing), 1 => Just(Noted::TooEarly)];
    prop::collection::vec((1..12_u64, prop::collection::btree_set(0..6_u64, 0..4), noted), 12)
}

/// Of the latest cell of a source.
#[derive(Debug, Clone, Copy)]
enum Noted {
    AsItIs,
    /// By servers of an earlier version.
    Nothing,
    /// A server of an earlier version has taken in later ones.
    TooEarly,
}

#[tokio::test]
async fn cells_are_stored_once_whatever_is_noted_of_their_source() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut runner = TestRunner::deterministic();
    let mut expected = BTreeMap::new();
    for source in 0..20 {
        let reports = any_reports().new_tree(&mut runner).expect("reports").current();
        for (sequence, times, noted) in reports {
            let head = match noted {
                Noted::AsItIs => None,
                Noted::Nothing => Some("NULL".to_owned()),
                Noted::TooEarly => Some(at(5).to_string()),
            };
            if let Some(value) = head {
                let sql =
                    format!("UPDATE flow_report_head SET newest_start_s = {value} WHERE boot_id = 'boot-{source}'");
                execute(world.server.store(), sql).await;
            }
            let cells = times.iter().map(|time| cell("all", at(10 * time), sequence)).collect();
            send(&world, v1::FlowReport { boot_id: format!("boot-{source}"), ..report(sequence, cells) }).await;
            for time in times {
                let newest = expected.entry((source, time)).or_insert(sequence);
                *newest = sequence.max(*newest);
            }
        }
    }
    assert_eq!(flows(&world).await, expected.values().sum::<u64>());
    assert_eq!(world.server.metrics().database_errors.get(), 0);
}

#[tokio::test]
async fn totals_that_go_back_are_refused() {
    let mut world = World::new().await;
    world.create("p").await;
    send(&world, report(5, vec![cell("all", at(100), 1)])).await;
    let back = v1::FlowReport { records_total: 1, ..report(6, vec![cell("all", at(110), 1)]) };
    assert_eq!(fields(&world.nodes.report_flows(back).await.expect_err("refused")), ["records_total"]);
    assert_eq!(flows(&world).await, 1);
}

#[tokio::test]
async fn outcomes_are_merged_and_filtered() {
    let mut world = World::new().await;
    world.create("p").await;
    let mut late = cell("all", at(200), 10);
    late.size_class = v1::SizeClass::Huge.into();
    let cells = vec![cell("all", at(100), 10), cell("all", at(110), 20), late, cell("other", at(100), 1)];
    send(&world, report(1, cells)).await;
    let rows = outcomes(&world, query()).await;
    assert_eq!(rows.iter().map(|row| row.choice.as_str()).collect::<Vec<_>>(), ["all", "other"]);
    let connect = rows[0].connect_time_us.expect("times");
    assert_eq!((connect.count, connect.min, connect.max), (40, 1_000.0, 20_000.0));
    let mean = (55.0 + 210.0 + 55.0) * 1_000.0 / 40.0;
    assert!((connect.mean - mean).abs() < 1e-6, "{}", connect.mean);
    assert!((connect.p50 / 7_000.0 - 1.0).abs() < 0.15, "{}", connect.p50);
    assert!((rows[0].retransmit_ratio - 0.1).abs() < 1e-12);

    let time = |seconds: u64| Some(Timestamp { seconds: seconds.cast_signed(), nanos: 0 });
    let bounded = v1::QueryOutcomesRequest { start_time: time(at(110)), end_time: time(at(200)), ..query() };
    let rows = outcomes(&world, bounded).await;
    assert_eq!(rows.iter().filter_map(|row| row.counts).map(|counts| counts.flows).collect::<Vec<_>>(), [20]);
    let by_size = outcomes(&world, v1::QueryOutcomesRequest { by_size_class: true, ..query() }).await;
    let sizes: Vec<_> = by_size.iter().map(|row| (row.choice.as_str(), row.size_class())).collect();
    assert_eq!(sizes, [("all", v1::SizeClass::Small), ("all", v1::SizeClass::Huge), ("other", v1::SizeClass::Small)]);
    let passive = v1::QueryOutcomesRequest { direction: v1::Direction::Passive.into(), ..query() };
    assert!(outcomes(&world, passive).await.is_empty());
    assert!(outcomes(&world, v1::QueryOutcomesRequest { revision: 2, ..query() }).await.is_empty());
    let unknown = v1::QueryOutcomesRequest { name: "policies/none".to_owned(), ..query() };
    assert_eq!(world.fleet.query_outcomes(unknown).await.expect_err("unknown").code(), Code::NotFound);
    let unknown = v1::QueryOutcomesRequest { node: "nodes/none".to_owned(), ..query() };
    assert_eq!(world.fleet.query_outcomes(unknown).await.expect_err("unknown").code(), Code::NotFound);
}

#[tokio::test]
async fn a_node_shows_what_it_has_counted() {
    let mut world = World::new().await;
    let _node = world.connect(hello("n")).await;
    send(&world, v1::FlowReport { records_dropped: 3, ..report(2, vec![]) }).await;
    let node = world.node("n").await;
    assert_eq!((node.records_total, node.records_dropped), (200, 3));
    let of_node = outcomes_of_node(&mut world).await;
    assert_eq!(of_node, Err(Code::NotFound), "no such policy");
}

/// A node begins another aggregation when the fleet's clock went back; the clock of the database has gone back as well then.
#[tokio::test]
async fn what_a_node_has_counted_is_by_its_newest_aggregation_whatever_the_clock_says() {
    let mut world = World::new().await;
    let _node = world.connect(hello("n")).await;
    send(&world, report(2, vec![])).await;
    let later = "UPDATE flow_report_head SET first_at = first_at + interval '2 minutes'".to_owned();
    execute(world.server.store(), later).await;
    send(&world, v1::FlowReport { boot_id: "boot-1-1".to_owned(), records_total: 300, ..report(1, vec![]) }).await;
    assert_eq!(world.node("n").await.records_total, 300);
}

async fn outcomes_of_node(world: &mut World) -> Result<(), Code> {
    let request = v1::QueryOutcomesRequest { node: "nodes/n".to_owned(), ..query() };
    world.fleet.query_outcomes(request).await.map(|_| ()).map_err(|status| status.code())
}

#[tokio::test]
async fn samples_are_bounded_and_listed_newest_first() {
    let mut config = sockpilot_server::test_support::config().await;
    config.samples_max = 20;
    let mut world = World::of(config).await;
    let samples = (1..=60).map(sample).collect();
    send(&world, v1::FlowReport { samples, ..report(1, vec![]) }).await;
    let fleet = world.fleet.clone();
    eventually("the oldest are pruned", || {
        let mut fleet = fleet.clone();
        async move {
            let request = v1::ListFlowSamplesRequest { page_size: 200, ..Default::default() };
            fleet.list_flow_samples(request).await.expect("samples").into_inner().samples.len() == 20
        }
    })
    .await;
    let request = v1::ListFlowSamplesRequest { name: "policies/p".to_owned(), page_size: 15, ..Default::default() };
    let page = world.fleet.list_flow_samples(request.clone()).await.expect("a page").into_inner();
    assert_eq!((page.samples[0].local_port, page.samples[0].node.as_str()), (60, "nodes/n"));
    let request = v1::ListFlowSamplesRequest { page_token: page.next_page_token, ..request };
    let page = world.fleet.list_flow_samples(request).await.expect("a page").into_inner();
    assert_eq!((page.samples.len(), page.next_page_token.as_str()), (5, ""));
    let other = v1::ListFlowSamplesRequest { name: "policies/q".to_owned(), ..Default::default() };
    assert!(world.fleet.list_flow_samples(other).await.expect("a page").into_inner().samples.is_empty());
}

#[tokio::test]
async fn unsound_reports_are_refused_whole() {
    let mut world = World::new().await;
    world.create("p").await;
    let refused =
        async |report: v1::FlowReport| fields(&world.nodes.clone().report_flows(report).await.expect_err("refused"));
    assert_eq!(refused(v1::FlowReport::default()).await, ["boot_id", "node_id", "sequence"]);
    let mut bad = cell("Bad Choice", 101, 5);
    bad.layer = "p".to_owned();
    bad.revision = 0;
    bad.direction = 0;
    bad.size_class = 9;
    bad.counts.as_mut().expect("counts").failed = 1;
    bad.srtt_us = Some(v1::Distribution { count: 1, mean: f64::NAN, ..v1::Distribution::default() });
    bad.duration_us = distribution((0..6).map(f64::from));
    let mut sample = sample(70_000);
    sample.remote_address = "nowhere".to_owned();
    sample.close_time = None;
    sample.attributions[0].choice = String::new();
    let report_of_all = v1::FlowReport { samples: vec![sample], ..report(1, vec![cell("all", at(100), 5), bad]) };
    let expected = [
        "cells[1].choice",
        "cells[1].counts.flows",
        "cells[1].direction",
        "cells[1].duration_us",
        "cells[1].interval_start_s",
        "cells[1].layer",
        "cells[1].revision",
        "cells[1].size_class",
        "cells[1].srtt_us",
        "samples[0].attributions[0].choice",
        "samples[0].close_time",
        "samples[0].local_port",
        "samples[0].remote_address",
    ];
    assert_eq!(refused(report_of_all).await, expected);
    let twice = report(1, vec![cell("all", at(100), 5), cell("all", at(100), 5)]);
    assert_eq!(refused(twice).await, ["cells[1]"]);
    let many = (0..20_001).map(|number| v1::FlowCell { connect_time_us: None, ..cell("all", number * 10, 1) });
    assert_eq!(refused(report(1, many.collect())).await, ["cells"]);
    let huge = v1::FlowReport { boot_id: "b".repeat(17 << 20), ..report(1, vec![]) };
    assert_eq!(refused(huge).await, [""], "larger than 16 MiB");
    assert_eq!(flows(&world).await, 0, "nothing is stored");
    assert!(world.server.metrics().reports_rejected.get() >= 4);
}
