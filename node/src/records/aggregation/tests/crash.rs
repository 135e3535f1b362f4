//! The daemon is killed between any two steps, in the middle of a write, with answers lost on the way: nothing is lost and
//! nothing is counted twice.

use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use sockpilot_proto::v1;

use super::*;
use crate::records::journal::Journal;

/// The pinned ring buffer: outlives the daemon. Positions are indices.
#[derive(Default)]
struct Ring {
    /// When each record's flow ended.
    ended_s: Vec<u64>,
    released: u64,
}

/// Keeps to the contract of `ReportFlows`.
#[derive(Default)]
struct Server {
    sequence: u64,
    records_total: u64,
    flows: HashMap<(u64, String), u64>,
}

impl Server {
    fn commit(&mut self, report: &v1::FlowReport) -> u64 {
        if report.sequence > self.sequence {
            self.sequence = report.sequence;
            self.records_total = report.records_total;
            for cell in &report.cells {
                let key = (cell.interval_start_s, cell.choice.clone());
                self.flows.insert(key, cell.counts.unwrap_or_default().flows);
            }
        }
        self.sequence
    }
}

struct Daemon {
    aggregation: Aggregation,
    journal: Journal,
}

/// Where the daemon is killed, if at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kill {
    No,
    Before,
    /// In the middle of writing the entry: that share of it, in percent, is in the file.
    Torn(u64),
    AfterWriting,
    AfterSending,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    FlowsEnd(u8),
    Read { kill: Kill, max: u8 },
    Report { kill: Kill, receipt_lost: bool },
    TimePasses(u8),
    Rewrite,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kill = || {
        prop_oneof![
            4 => Just(Kill::No),
            1 => Just(Kill::Before),
            1 => (0..100_u64).prop_map(Kill::Torn),
            1 => Just(Kill::AfterWriting),
            1 => Just(Kill::AfterSending),
        ]
    };
    let step = prop_oneof![
        3 => (1..20_u8).prop_map(Step::FlowsEnd),
        4 => (kill(), 1..20_u8).prop_map(|(kill, max)| Step::Read { kill, max }),
        4 => (kill(), any::<bool>()).prop_map(|(kill, receipt_lost)| Step::Report { kill, receipt_lost }),
        2 => (1..90_u8).prop_map(Step::TimePasses),
        1 => Just(Step::Rewrite),
    ];
    prop::collection::vec(step, 0..80)
}

struct World {
    _home: TempDir,
    path: PathBuf,
    ring: Ring,
    server: Server,
    now_s: u64,
    cells_max: usize,
    daemon: Daemon,
}

impl World {
    fn new(cells_max: usize) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("aggregation");
        let aggregation = Aggregation { cells_max, ..Aggregation::new(head()) };
        let journal = Journal::create(&path, &aggregation.checkpoint()).expect("written");
        let daemon = Daemon { aggregation, journal };
        Self { _home: home, path, ring: Ring::default(), server: Server::default(), now_s: 1_000, cells_max, daemon }
    }

    /// The old process is gone with all it had in memory; a new one starts.
    fn restart(&mut self) {
        let (journal, entries) = Journal::open(&self.path).expect("readable");
        let aggregation = Aggregation { cells_max: self.cells_max, ..Aggregation::replay(entries).expect("sound") };
        assert!(aggregation.head().position >= self.ring.released, "released before written");
        self.ring.released = aggregation.head().position;
        self.daemon = Daemon { aggregation, journal };
    }

    /// Whether the entry was written and the daemon is still alive.
    fn write(&mut self, kill: Kill) -> bool {
        let Daemon { aggregation, journal } = &mut self.daemon;
        let before = journal.length();
        journal.append(&aggregation.entry()).expect("written");
        let written = journal.length() - before;
        if let Kill::Torn(percent) = kill {
            let file = std::fs::File::options().write(true).open(&self.path).expect("there");
            file.set_len(before + written * percent / 100).expect("cut");
        } else {
            aggregation.written();
        }
        let killed = matches!(kill, Kill::Torn(_) | Kill::AfterWriting);
        if killed {
            self.restart();
        }
        !killed
    }

    fn read(&mut self, kill: Kill, max: usize) {
        let from = self.ring.released as usize;
        let to = self.ring.ended_s.len().min(from + max);
        for (index, ended_s) in self.ring.ended_s[from..to].iter().enumerate() {
            let choices = [choice(["near", "far"][(from + index) % 2], 1)];
            self.daemon.aggregation.fold(&Flow::of(&record()), &choices, *ended_s, 60);
        }
        self.daemon.aggregation.advance(to as u64);
        if kill == Kill::Before {
            self.restart();
        } else if self.write(kill) {
            self.ring.released = to as u64;
        }
    }

    fn report(&mut self, kill: Kill, receipt_lost: bool) {
        self.daemon.aggregation.close(self.now_s);
        let Some(report) = self.daemon.aggregation.next_report("node", vec![]) else { return };
        if kill == Kill::Before {
            self.restart();
        } else if self.write(kill) {
            let sequence = self.server.commit(&report);
            if kill == Kill::AfterSending {
                self.restart();
            } else if !receipt_lost {
                self.daemon.aggregation.settle(sequence);
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::FlowsEnd(number) => self.ring.ended_s.extend(std::iter::repeat_n(self.now_s, number.into())),
            Step::Read { kill, max } => self.read(kill, max.into()),
            Step::Report { kill, receipt_lost } => self.report(kill, receipt_lost),
            Step::TimePasses(seconds) => self.now_s += u64::from(seconds),
            Step::Rewrite => {
                let Daemon { aggregation, journal } = &mut self.daemon;
                journal.rewrite(&aggregation.checkpoint()).expect("written");
                aggregation.written();
            }
        }
    }

    /// Everything is read and reported, without further trouble.
    fn finish(&mut self) {
        self.restart();
        self.read(Kill::No, usize::MAX - self.ring.ended_s.len());
        while !self.daemon.aggregation.is_settled() {
            self.report(Kill::No, false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_counted_twice(steps in steps()) {
        let mut world = World::new(CELLS_MAX);
        steps.into_iter().for_each(|step| world.step(step));
        world.finish();
        let flows = world.ring.ended_s.len() as u64;
        prop_assert_eq!(world.server.flows.values().sum::<u64>(), flows);
        prop_assert_eq!(world.server.records_total, flows);
    }

    #[test]
    fn with_little_room_what_is_lost_is_counted(steps in steps()) {
        let mut world = World::new(6);
        steps.into_iter().for_each(|step| world.step(step));
        world.finish();
        let flows = world.ring.ended_s.len() as u64;
        let reported = world.server.flows.values().sum::<u64>();
        let lost = world.daemon.aggregation.head().flows_evicted;
        prop_assert!(reported <= flows && reported + lost >= flows, "{} {} {}", reported, lost, flows);
        prop_assert_eq!(world.server.records_total, flows);
    }
}
