use tempfile::TempDir;

use sockpilot_outcomes::testing::record;

use super::{super::measuring::Measuring, *};
use crate::testing::choice;

const NOW: Moment = Moment { wall_ns: 1_000_000_000_000, monotonic_ns: 5_000_000 };
const TABLES: Tables<'_> = Tables { identity: "first", made: false, position: 0, dropped: 0, earlier: &[] };

fn open(home: &TempDir, tables: Tables<'_>, boot_id: &str) -> Collector {
    let directories = (home.path().join("aggregations"), home.path().join("attributions"));
    Collector::open(directories, tables, boot_id.into(), "node".into(), 60, 100).expect("usable")
}

fn fold(collector: &mut Collector, records: u64) {
    (0..records).for_each(|_| collector.fold(&record(), &HashMap::new(), NOW, 0));
    collector.advance(collector.position() + records);
    collector.commit().expect("written");
}

fn next(collector: &mut Collector) -> Option<v1::FlowReport> {
    collector.next_report(1_000, 0).expect("written")
}

fn flows(report: &v1::FlowReport) -> u64 {
    report.cells.iter().map(|cell| cell.counts.unwrap_or_default().flows).sum()
}

#[test]
fn records_are_attributed_to_the_install_that_decided() {
    let home = tempfile::tempdir().expect("a directory");
    let mut collector = open(&home, TABLES, "a");
    collector.note_install(1, &[choice("far", 1).into()]).expect("written");
    collector.note_install(2, &[choice("far", 2).into(), choice("near", 2).into()]).expect("written");
    let of = |install, id, choice_count| {
        let mut record = FlowRecord { install, choice_count, ..record() };
        record.choices[0] = id;
        record
    };
    // Known; known; an id that the install has not; an install that nobody knows; no choice at all.
    for record in [of(1, 1, 1), of(2, 2, 1), of(1, 2, 1), of(3, 1, 1), of(1, 0, 1), of(1, 1, 0)] {
        collector.fold(&record, &HashMap::new(), NOW, 0);
    }
    let report = next(&mut collector).expect("new");
    let choices: Vec<_> = report.cells.iter().map(|cell| (cell.choice.as_str(), cell.revision)).collect();
    assert_eq!(choices, [("far", 1), ("near", 2)]);
    assert_eq!(report.records_total, 6);
    assert_eq!(collector.tally(), Tally { records: 6, unattributed: 3, ..Tally::default() });
    assert_eq!(report.samples.len(), 6);
    assert_eq!(report.samples[0].close_time, Some(prost_types::Timestamp { seconds: 999, nanos: 999_000_000 }));
}

#[test]
fn a_restarted_daemon_continues_the_book() {
    let home = tempfile::tempdir().expect("a directory");
    let mut collector = open(&home, TABLES, "a");
    collector.note_install(1, &[choice("far", 1).into()]).expect("written");
    fold(&mut collector, 3);
    let sent = next(&mut collector).expect("new");
    drop(collector);
    let mut collector = open(&home, TABLES, "b");
    assert_eq!((collector.boot_id(), collector.position()), ("a", 3));
    fold(&mut collector, 2);
    let again = next(&mut collector).expect("new");
    assert_eq!((flows(&again), again.records_total), (5, 5));
    assert!(again.sequence > sent.sequence);
}

#[test]
fn old_tables_are_reported_first_and_under_their_own_id() {
    let home = tempfile::tempdir().expect("a directory");
    let mut collector = open(&home, TABLES, "a");
    collector.note_install(1, &[choice("far", 1).into()]).expect("written");
    fold(&mut collector, 3);
    drop(collector);
    // Other tables; then tables made anew that look the same.
    let second = Tables { identity: "second", dropped: 7, ..TABLES };
    let mut collector = open(&home, second, "b");
    assert_eq!((collector.boot_id(), collector.position()), ("b", 0));
    collector.note_install(1, &[choice("near", 1).into()]).expect("written");
    fold(&mut collector, 1);
    drop(collector);
    let mut collector = open(&home, Tables { made: true, ..second }, "c");
    let mut seen = Vec::new();
    while let Some(report) = collector.next_report(0, 9).expect("written") {
        seen.push((report.boot_id.clone(), flows(&report), report.records_dropped));
        collector.settle(&report.boot_id, report.sequence);
    }
    // The new aggregation has lost two: seven were lost before it began.
    assert_eq!(seen, [("a".to_owned(), 3, 0), ("b".to_owned(), 1, 0), ("c".to_owned(), 0, 2)]);
    assert_eq!(fs::read_dir(home.path().join("aggregations")).expect("readable").count(), 1);
}

#[test]
fn a_position_that_cannot_be_of_this_ring_buffer_begins_a_new_book() {
    let home = tempfile::tempdir().expect("a directory");
    let mut collector = open(&home, TABLES, "a");
    // One that holds nothing is forgotten.
    collector.note_install(1, &[choice("far", 1).into()]).expect("written");
    fold(&mut collector, 1);
    collector.advance(RING_BYTES as u64 + 1);
    collector.commit().expect("written");
    drop(collector);
    assert_eq!(open(&home, TABLES, "b").boot_id(), "b");
    assert_eq!(open(&home, Tables { position: 5, ..TABLES }, "c").boot_id(), "a");
    assert_eq!(open(&home, Tables { position: RING_BYTES as u64 + 2, ..TABLES }, "d").boot_id(), "d");
}

#[test]
fn damaged_books_do_not_stop_the_daemon() {
    let home = tempfile::tempdir().expect("a directory");
    drop(open(&home, TABLES, "a"));
    for (name, bytes) in [("a", &b"damaged"[..]), ("b", b""), ("c.new", b"half")] {
        fs::write(home.path().join("aggregations").join(name), bytes).expect("written");
    }
    assert_eq!(open(&home, TABLES, "d").boot_id(), "d");
    assert_eq!(fs::read_dir(home.path().join("aggregations")).expect("readable").count(), 1);
}

#[test]
fn old_books_are_bounded() {
    let home = tempfile::tempdir().expect("a directory");
    for boot in 0..OLD_AGGREGATIONS_MAX + 3 {
        let identity = format!("tables-{boot}");
        let mut collector = open(&home, Tables { identity: &identity, ..TABLES }, &format!("boot-{boot:02}"));
        collector.note_install(1, &[choice("far", 1).into()]).expect("written");
        fold(&mut collector, 1);
    }
    let mut collector = open(&home, TABLES, "last");
    assert_eq!(collector.tally().flows_evicted, 1);
    assert_eq!(next(&mut collector).map(|report| report.boot_id), Some("boot-03".to_owned()));
}

/// What a server says when the monotonic clock is at `monotonic_s`.
fn server_time(server_s: u64, monotonic_s: u64, wall_s: u64) -> ServerTime {
    let at = Moment { wall_ns: wall_s * 1_000_000_000, monotonic_ns: monotonic_s * 1_000_000_000 };
    ServerTime { server_ns: server_s * 1_000_000_000, at }
}

fn ended(monotonic_s: u64) -> FlowRecord {
    FlowRecord { end_ns: monotonic_s * 1_000_000_000, ..record() }
}

/// Flows that a server has after these reports, by the beginning of their interval: a later total replaces an earlier.
fn on_server(reports: &[v1::FlowReport]) -> Vec<(u64, u64)> {
    let mut cells = std::collections::BTreeMap::new();
    for report in reports {
        for cell in &report.cells {
            let key = (cell.interval_start_s, report.boot_id.clone(), cell.choice.clone());
            cells.insert(key, cell.counts.unwrap_or_default().flows);
        }
    }
    let mut by_start = std::collections::BTreeMap::new();
    for ((start_s, ..), flows) in cells {
        *by_start.entry(start_s).or_default() += flows;
    }
    by_start.into_iter().collect()
}

/// Reports everything, as a server that answers does.
fn all(collector: &mut Collector, now_s: u64) -> Vec<v1::FlowReport> {
    let mut reports = vec![];
    while let Some(report) = collector.next_report(now_s, 0).expect("written") {
        collector.settle(&report.boot_id, report.sequence);
        reports.push(report);
    }
    reports
}

#[test]
fn outcomes_are_placed_by_the_servers_clock_whatever_the_own_one_does() {
    for wall_s in [9_000, 100_000, 200_000] {
        let home = tempfile::tempdir().expect("a directory");
        let mut collector = open(&home, TABLES, "a");
        collector.note_install(1, &[choice("far", 1).into()]).expect("written");
        // Nobody has said the time yet: two flows, two minutes apart.
        let now = server_time(0, 500, wall_s).at;
        collector.fold(&ended(300), &HashMap::new(), now, 0);
        collector.fold(&ended(420), &HashMap::new(), now, 0);
        collector.note_server_time(server_time(100_080, 500, wall_s)).expect("written");
        // The own clock jumps; a third flow; the daemon is killed and goes on.
        let jumped = Moment { wall_ns: 7, ..server_time(0, 560, 0).at };
        collector.fold(&ended(541), &HashMap::new(), jumped, 0);
        collector.advance(3);
        collector.commit().expect("written");
        let mut reports = vec![next(&mut collector).expect("new")];
        drop(collector);
        let mut collector = open(&home, TABLES, "b");
        collector.fold(&ended(542), &HashMap::new(), jumped, 0);
        collector.note_server_time(server_time(100_141, 561, wall_s)).expect("written");
        collector.fold(&ended(601), &HashMap::new(), jumped, 0);
        reports.extend(all(&mut collector, 100_200));
        // Of the first two, only the minute is known in which they would have ended by the own clock.
        let placed = on_server(&reports);
        let flows: u64 = placed.iter().map(|(_, flows)| flows).sum();
        assert_eq!((flows, placed.last()), (5, Some(&(100_140, 1))), "{placed:?}");
        assert!(placed.contains(&(100_080, 2)), "{placed:?}");
        for (number, (start_s, _)) in placed.iter().take(2).enumerate() {
            let ended_s = 99_880 + 120 * number as u64;
            assert!(start_s.abs_diff(ended_s) <= 60 + 60, "{placed:?}");
        }
    }
}

#[test]
fn a_clock_that_goes_back_behind_what_was_reported_begins_another_book() {
    let home = tempfile::tempdir().expect("a directory");
    let mut collector = open(&home, TABLES, "a");
    collector.note_install(1, &[choice("far", 1).into()]).expect("written");
    collector.note_server_time(server_time(20_000, 100, 20_000)).expect("written");
    collector.fold(&ended(100), &HashMap::new(), server_time(0, 100, 0).at, 0);
    collector.advance(1);
    collector.commit().expect("written");
    let mut reports = all(&mut collector, 20_000);
    // Confirmed, and closed two minutes later.
    reports.extend(all(&mut collector, 20_200));
    for (part, server_s) in [(1, 10_000), (2, 4_000)] {
        collector.note_server_time(server_time(server_s, 300, 20_000)).expect("written");
        assert_eq!(collector.boot_id(), format!("a-{part}"));
        collector.fold(&ended(300), &HashMap::new(), server_time(0, 300, 0).at, 0);
        collector.advance(1 + part);
        collector.commit().expect("written");
        reports.extend(all(&mut collector, server_s));
        reports.extend(all(&mut collector, server_s + 200));
        drop(collector);
        collector = open(&home, TABLES, "z");
        assert_eq!((collector.boot_id(), collector.position()), (format!("a-{part}").as_str(), 1 + part));
        reports.extend(all(&mut collector, server_s + 200));
    }
    assert_eq!(on_server(&reports), [(3_960, 1), (9_960, 1), (19_980, 1)]);
    assert_eq!(reports.last().map(|report| report.records_total), Some(3), "totals go on");
    assert!(reports.iter().all(|report| report.instance == "first"));
}

#[test]
fn a_report_that_cannot_be_written_down_comes_whole_when_it_can() {
    let home = tempfile::tempdir().expect("a directory");
    let aggregations = home.path().join("aggregations");
    let mut collector = open(&home, TABLES, "a");
    collector.note_install(1, &[choice("far", 1).into()]).expect("written");
    collector.fold(&record(), &HashMap::new(), NOW, 0);
    // The file is gone, and another cannot be made.
    fs::remove_dir_all(&aggregations).expect("there");
    fs::write(&aggregations, b"").expect("in the way");
    for _ in 0..3 {
        collector.next_report(1_000, 0).expect_err("cannot be written");
        collector.settle_aggregations().expect_err("cannot be written");
        collector.fold(&record(), &HashMap::new(), NOW, 0);
    }
    fs::remove_file(&aggregations).expect("there");
    collector.settle_aggregations().expect("written");
    let first = next(&mut collector).expect("new");
    assert_eq!((first.sequence, first.samples.len(), flows(&first)), (1, 1, 1));
    collector.settle("a", 1);
    let second = next(&mut collector).expect("new");
    assert_eq!((second.sequence, second.samples.len(), flows(&second)), (2, 3, 4));
    drop(collector);
    assert_eq!(open(&home, TABLES, "b").boot_id(), "a");
}

#[test]
fn a_book_begins_where_nothing_can_be_written() {
    let home = tempfile::tempdir().expect("a directory");
    let aggregations = home.path().join("aggregations");
    fs::create_dir_all(aggregations.join("a.new/x")).expect("made");
    let mut collector = open(&home, TABLES, "a");
    collector.note_install(1, &[choice("far", 1).into()]).expect("written");
    collector.fold(&record(), &HashMap::new(), NOW, 0);
    collector.advance(1);
    collector.commit().expect_err("in the way");
    fs::remove_dir_all(aggregations.join("a.new")).expect("there");
    collector.commit().expect("written");
    drop(collector);
    assert_eq!(open(&home, TABLES, "b").position(), 1);
}

#[test]
fn a_connection_of_a_rollout_is_measured_as_its_group_too() {
    let home = tempfile::tempdir().expect("a directory");
    let mut collector = open(&home, TABLES, "a");
    let measures = vec![v1::Measure { quantity: "bad_end".into(), ..v1::Measure::default() }];
    let rollout = v1::LayerRollout { measures, ..v1::LayerRollout::default() };
    let measuring = Arc::new(Measuring::of_rollout(&rollout).expect("it measures"));
    let of = |name: &str, measured_only| {
        let group = Choice { layer: "rollouts/a".into(), revision: 8, name: "control".into() };
        Meaning { choice: choice(name, 7), measured_only, measured: Some((Arc::new(group), Arc::clone(&measuring))) }
    };
    collector.note_install(1, &[of("far", false), of("near", true)]).expect("written");
    for id in [1, 2, 2] {
        let mut record = FlowRecord { install: 1, choice_count: 1, ..record() };
        record.choices[0] = id;
        collector.fold(&record, &HashMap::new(), NOW, 0);
    }
    let report = next(&mut collector).expect("new");
    let cells = report.cells.iter().map(|cell| {
        let connections = cell.measured.as_ref().map(|measured| measured.attempts.clone().unwrap_or_default().count);
        let flows = cell.counts.map(|counts| counts.flows);
        (cell.layer.as_str(), cell.revision, cell.choice.as_str(), flows, connections)
    });
    let mut cells: Vec<_> = cells.collect();
    cells.sort_unstable();
    assert_eq!(cells, [("policies/web", 7, "far", Some(1), None), ("rollouts/a", 8, "control", None, Some(3))]);
    assert_eq!(collector.tally().unattributed, 0);
}
