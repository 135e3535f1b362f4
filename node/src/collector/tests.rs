use tempfile::TempDir;

use super::*;
use crate::testing::{choice, record};

const NOW: Moment = Moment { wall_ns: 1_000_000_000_000, monotonic_ns: 5_000_000 };
const TABLES: Tables<'_> = Tables { identity: "first", made: false, position: 0, dropped: 0 };

fn open(home: &TempDir, tables: Tables<'_>, boot_id: &str) -> Collector {
    let directories = (home.path().join("books"), home.path().join("attributions"));
    Collector::open(directories, tables, boot_id.into(), "node".into(), 60).expect("usable")
}

fn fold(collector: &mut Collector, records: u64) {
    (0..records).for_each(|_| collector.fold(&record(), NOW, 0));
    collector.advance(collector.position() + records);
    collector.commit().expect("written");
}

fn next(collector: &mut Collector) -> Option<v1::FlowReport> {
    collector.next_report(NOW.wall_s(), 0).expect("written")
}

fn flows(report: &v1::FlowReport) -> u64 {
    report.cells.iter().map(|cell| cell.counts.unwrap_or_default().flows).sum()
}

#[test]
fn records_are_attributed_to_the_install_that_decided() {
    let home = tempfile::tempdir().expect("a directory");
    let mut collector = open(&home, TABLES, "a");
    collector.note_install(1, &[choice("far", 1)]).expect("written");
    collector.note_install(2, &[choice("far", 2), choice("near", 2)]).expect("written");
    let of = |install, id, choice_count| {
        let mut record = FlowRecord { install, choice_count, ..record() };
        record.choices[0] = id;
        record
    };
    // Known; known; an id that the install has not; an install that nobody knows; no choice at all.
    for record in [of(1, 1, 1), of(2, 2, 1), of(1, 2, 1), of(3, 1, 1), of(1, 0, 1), of(1, 1, 0)] {
        collector.fold(&record, NOW, 0);
    }
    let report = next(&mut collector).expect("new");
    let choices: Vec<_> = report.cells.iter().map(|cell| (cell.choice.as_str(), cell.revision)).collect();
    assert_eq!(choices, [("far", 1), ("near", 2)]);
    assert_eq!(report.records_total, 6);
    assert_eq!(collector.tally(), Tally { records: 6, unattributed: 3, flows_given_up: 0 });
    assert_eq!(report.samples.len(), 6);
    assert_eq!(report.samples[0].close_time, Some(prost_types::Timestamp { seconds: 999, nanos: 999_000_000 }));
}

#[test]
fn a_restarted_daemon_continues_the_book() {
    let home = tempfile::tempdir().expect("a directory");
    let mut collector = open(&home, TABLES, "a");
    collector.note_install(1, &[choice("far", 1)]).expect("written");
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
    collector.note_install(1, &[choice("far", 1)]).expect("written");
    fold(&mut collector, 3);
    drop(collector);
    // Other tables; then tables made anew that look the same.
    let second = Tables { identity: "second", dropped: 7, ..TABLES };
    let mut collector = open(&home, second, "b");
    assert_eq!((collector.boot_id(), collector.position()), ("b", 0));
    collector.note_install(1, &[choice("near", 1)]).expect("written");
    fold(&mut collector, 1);
    drop(collector);
    let mut collector = open(&home, Tables { made: true, ..second }, "c");
    let mut seen = Vec::new();
    while let Some(report) = collector.next_report(0, 9).expect("written") {
        seen.push((report.boot_id.clone(), flows(&report), report.records_dropped));
        collector.settle(&report.boot_id, report.sequence);
    }
    // The new book has lost two: seven were lost before it began.
    assert_eq!(seen, [("a".to_owned(), 3, 0), ("b".to_owned(), 1, 0), ("c".to_owned(), 0, 2)]);
    assert_eq!(fs::read_dir(home.path().join("books")).expect("readable").count(), 1);
}

#[test]
fn a_position_that_cannot_be_of_this_ring_buffer_begins_a_new_book() {
    let home = tempfile::tempdir().expect("a directory");
    let mut collector = open(&home, TABLES, "a");
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
        fs::write(home.path().join("books").join(name), bytes).expect("written");
    }
    assert_eq!(open(&home, TABLES, "d").boot_id(), "d");
    assert_eq!(fs::read_dir(home.path().join("books")).expect("readable").count(), 1);
}

#[test]
fn old_books_are_bounded() {
    let home = tempfile::tempdir().expect("a directory");
    for boot in 0..OLD_BOOKS_MAX + 3 {
        let identity = format!("tables-{boot}");
        let mut collector = open(&home, Tables { identity: &identity, ..TABLES }, &format!("boot-{boot:02}"));
        collector.note_install(1, &[choice("far", 1)]).expect("written");
        fold(&mut collector, 1);
    }
    let mut collector = open(&home, TABLES, "last");
    assert_eq!(collector.tally().flows_given_up, 1);
    assert_eq!(next(&mut collector).map(|report| report.boot_id), Some("boot-03".to_owned()));
}
