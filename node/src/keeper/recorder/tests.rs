use std::fs;

use sockpilot_outcomes::testing::record;
use tempfile::TempDir;

use super::*;
use crate::records::collector::Tables;

/// A ring buffer of records that are all alike.
#[derive(Debug, Default)]
struct Ring {
    released: u64,
    written: u64,
    /// Records shown since the beginning, those that were shown twice too.
    shown: u64,
    broken: bool,
}

impl RecordRing for Ring {
    fn identity(&self) -> &str {
        "tables"
    }

    fn position(&self) -> u64 {
        self.released
    }

    fn peek(&mut self, max: usize, each: &mut dyn FnMut(&FlowRecord)) -> u64 {
        let to = self.written.min(self.released + max as u64);
        for _ in self.released..to {
            self.shown += 1;
            each(&record());
        }
        to
    }

    fn release(&mut self, position: u64) {
        self.released = position;
    }
}

impl RecordSource for Ring {
    fn rings(&mut self) -> Vec<&mut dyn RecordRing> {
        vec![self]
    }

    fn attached_paths(&self) -> HashMap<u32, String> {
        HashMap::new()
    }

    fn counters(&self) -> Result<[u64; COUNTERS], KernelError> {
        if self.broken { Err(KernelError::Names) } else { Ok([0; COUNTERS]) }
    }

    fn refusals(&self) -> Result<Vec<(usize, i32, u64)>, KernelError> {
        Ok(vec![])
    }
}

fn begin(home: &TempDir) -> (Recorder, Writes) {
    let tables = Tables { identity: "tables", made: false, position: 0, dropped: 0, earlier: &[] };
    let directories = (home.path().join("books"), home.path().join("attributions"));
    let collector = Collector::open(directories, tables, "a".into(), "node".into(), 60, 100).expect("usable");
    (Recorder::new(collector, Metrics::new()), Writes::new(Metrics::new()))
}

#[test]
fn all_records_are_folded_once_and_released_whatever_their_number() {
    let home = tempfile::tempdir().expect("a directory");
    let (mut recorder, mut writes) = begin(&home);
    let batch = BATCH_MAX as u64;
    for records in [0, 1, batch - 1, batch, batch + 1, 3 * batch] {
        let mut ring = Ring { released: recorder.collector.position(), ..Ring::default() };
        ring.written = ring.released + records;
        let before = recorder.collector.tally().records;
        recorder.drain(&mut ring, &mut writes);
        assert_eq!((ring.released, ring.shown), (ring.written, records));
        assert_eq!(recorder.collector.tally().records - before, records);
    }
    assert!(!writes.is_owed(What::Outcomes));
}

#[test]
fn nothing_is_released_that_is_not_written_down_and_nothing_is_folded_twice() {
    let home = tempfile::tempdir().expect("a directory");
    let (mut recorder, mut writes) = begin(&home);
    let journals = home.path().join("books");
    let mut ring = Ring { written: 5, ..Ring::default() };
    // A file where the directory should be takes no journal.
    fs::remove_dir_all(&journals).expect("removed");
    fs::write(&journals, "").expect("written");
    for _ in 0..3 {
        recorder.drain(&mut ring, &mut writes);
        assert_eq!((ring.released, ring.shown), (0, 5));
        assert!(writes.is_owed(What::Outcomes));
    }
    ring.written = 7;
    fs::remove_file(&journals).expect("removed");
    recorder.drain(&mut ring, &mut writes);
    assert_eq!((ring.released, ring.shown), (7, 7));
    assert_eq!(recorder.collector.tally().records, 7);
    assert!(!writes.is_owed(What::Outcomes));
}

#[test]
fn without_the_kernels_counters_there_is_no_report_and_none_is_lost() {
    let home = tempfile::tempdir().expect("a directory");
    let (mut recorder, mut writes) = begin(&home);
    let mut ring = Ring { written: 2, broken: true, ..Ring::default() };
    assert_eq!(recorder.report(&mut ring, &mut writes), None);
    ring.broken = false;
    let report = recorder.report(&mut ring, &mut writes).expect("new");
    assert_eq!((report.sequence, report.records_total), (1, 2));
    recorder.confirm(&report.boot_id, report.sequence);
    assert_eq!(recorder.report(&mut ring, &mut writes), None);
}
