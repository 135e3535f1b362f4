//! What a server sends, and what stands on the disk, whoever wrote it there.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use sockpilot_fuzz::{Bound, Shape, Target, messages};
use sockpilot_policy::{
    address::address_bytes,
    decide::Flow,
    explain::explain,
    facts::values_to_try,
    layout::{ACTIVE, FlowKey, IPV4, PASSIVE},
    readings::Readings,
};
use sockpilot_proto::v1::{self, server_event::Event};
use tempfile::TempDir;

use crate::{
    clock::{FleetClock, Moment},
    disk::StateDir,
    link::stream::server_time,
    records::{
        aggregation::Aggregation,
        attribution::Attributions,
        journal::{Head, Journal, JournalEntry, KeptCell},
    },
    snapshot::{
        holding_back::settle,
        plan,
        stored::{Snapshots, Stored},
        trips::Trips,
        version::Version,
    },
    testing::facts,
};

const KIB: usize = 1 << 10;
const NODE: &str = "web-1";

fn version(content: &[u8]) -> Version {
    Version {
        content_hash: Sha256::digest(content).into(),
        ..Version::from_proto(Some(&messages::version())).expect("one")
    }
}

/// Some layers, of which each can be decided about alone.
fn snapshots() -> Vec<(String, Vec<u8>)> {
    let all = messages::layers();
    let of = |units: v1::Unit| {
        let time_slot = (units == v1::Unit::TimeSlot).then_some(v1::TimeSlot { slot_s: 600, washout_s: 60 });
        let saturation_pair = (units == v1::Unit::SaturationPair).then_some(v1::SaturationPair::default());
        let mut design = v1::ExperimentLayer { unit: units.into(), time_slot, saturation_pair, ..messages::design() };
        if units == v1::Unit::TimeSlot {
            // Slots are given out in pairs.
            for (arm, first_bucket) in design.arms.iter_mut().zip([0, 5_000]) {
                (arm.weight_bp, arm.first_bucket) = (5_000, Some(first_bucket));
            }
        }
        let body = Some(v1::layer::Body::Experiment(design));
        v1::Layers { layers: vec![v1::Layer { body, ..all.layers[0].clone() }], zones: vec![] }
    };
    let units = [v1::Unit::Node, v1::Unit::TimeSlot, v1::Unit::SaturationPair];
    let mut seeds: Vec<_> = units.map(|unit| (unit.as_str_name().to_lowercase(), of(unit))).into();
    seeds.push(("all".to_owned(), all));
    seeds.into_iter().map(|(name, layers)| (name, layers.encode_to_vec())).collect()
}

/// From what comes by the stream to tables for the kernel, what is refused held back.
///
/// A rule is a few bytes on the wire and has a bit in each of the seven masks of every entry; an empty layer is 2 bytes and a refusal
/// with its words, once for each attempt.
#[test]
fn fuzz_node_snapshot() {
    let before = messages::layers();
    let target = Target::new("node-snapshot", Shape::Wire, Bound { per_byte: 3_000, fixed: 8 << 20 });
    target.seeds(snapshots()).run(|bytes| {
        let (version, content) = (version(bytes), Bytes::copy_from_slice(bytes));
        let Ok((message, unknown)) = plan::read(&version, &content) else { return false };
        let settled = settle(
            message,
            unknown,
            || before.clone(),
            |layers| {
                let snapshot = plan::understand(layers, NODE)?;
                plan::plan(&version, layers, &snapshot, &facts(), &Readings::default(), 1)
            },
        );
        settled.is_ok_and(|settled| settled.held_back.is_empty())
    });
}

/// What the same rules mean, in words: the meaning is what the tables are tested against.
#[test]
fn fuzz_policy_meaning() {
    let target = Target::new("policy-meaning", Shape::Wire, Bound { per_byte: 3_000, fixed: 8 << 20 });
    let address = |last| address_bytes([10, 1, 0, last].into());
    let flow = |direction, service, handshake_rtt_us| Flow {
        key: FlowKey {
            local: address(1),
            remote: address(2),
            local_port: 40_000,
            remote_port: 443,
            family: IPV4,
            direction,
            reserved: 0,
        },
        service,
        handshake_rtt_us,
        begin_s: Some(1_800_000_000),
    };
    let flows = [flow(ACTIVE, Some("/system.slice/web.service"), None), flow(PASSIVE, None, Some(90_000))];
    target.seeds(snapshots()).run(|bytes| {
        let Ok(message) = v1::Layers::decode(bytes) else { return false };
        let Ok(snapshot) = plan::understand(&message, NODE) else { return false };
        drop(values_to_try(&snapshot, &facts()));
        for flow in &flows {
            drop(explain(&snapshot, flow, 0, Some(&facts())));
            drop(explain(&snapshot, flow, u64::MAX, None));
        }
        true
    });
}

/// Everything else that a server says on the stream.
#[test]
fn fuzz_node_server_event() {
    let heartbeat = Event::Heartbeat(v1::Heartbeat {
        server_time: Some(messages::NOW),
        recording: Some(v1::RecordingWanted { flows_per_s: 50, left_ms: 3_600_000 }),
    });
    let snapshot = Event::Snapshot(v1::Snapshot {
        version: Some(messages::version()),
        layers: Bytes::from_static(b"x"),
        answer_within_ms: 30,
    });
    let encoded = |event| v1::ServerEvent { event: Some(event) }.encode_to_vec();
    let target = Target::new("node-server-event", Shape::Wire, Bound { per_byte: 4, fixed: KIB });
    let target = target.seed("heartbeat", encoded(heartbeat)).seed("snapshot", encoded(snapshot));
    target.run(|bytes| {
        let Ok(event) = v1::ServerEvent::decode(bytes) else { return false };
        if let Some(time) = server_time(&event) {
            let clock = FleetClock::of_server(time);
            let _ = (time.wall_ahead_ns(), clock.time_s(0), clock.time_s(u64::MAX));
            let _ = FleetClock::guessed(Moment { wall_ns: u64::MAX, monotonic_ns: 0 }).time_ns(time.server_ns);
        }
        match event.event {
            Some(Event::Snapshot(v1::Snapshot { version, .. })) => Version::from_proto(version.as_ref()).is_ok(),
            event => event.is_some(),
        }
    });
}

/// A directory with what a daemon leaves there.
struct Home {
    state: StateDir,
    directory: TempDir,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let state = StateDir::open(&directory.path().join("state"), &directory.path().join("pins")).expect("free");
        Self { state, directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }
}

/// The snapshot with which a machine begins.
///
/// What is held back is two empty lists of texts for two bytes.
#[test]
fn fuzz_node_stored_snapshot() {
    let home = Home::new();
    let content = Bytes::from(messages::layers().encode_to_vec());
    let stored =
        Stored { version: version(&content), offered: content.clone(), layers: content, install: 1, held_back: vec![] };
    let violation =
        v1::RuleViolation { layer: "policies/web".into(), field: "rules[0]".into(), description: "no".into() };
    let held = v1::HeldBack {
        layer: "policies/web".into(),
        revision: 2,
        violations: vec![violation],
        ..v1::HeldBack::default()
    };
    let held = Stored { layers: Bytes::from_static(b""), held_back: vec![held], ..stored.clone() };
    let seed = |stored: &Stored| {
        Snapshots::of(&home.state).write_coming(stored).expect("written");
        fs::read(home.file("snapshot-coming")).expect("there")
    };
    let (whole, held) = (seed(&stored), seed(&held));
    let target = Target::new("node-stored-snapshot", Shape::Wire, Bound { per_byte: 300, fixed: 16 * KIB });
    target.seed("whole", whole).seed("held", held).run(|bytes| {
        fs::write(home.file("snapshot"), bytes).expect("written");
        Snapshots::of(&home.state).in_force().is_some()
    });
}

/// Small files beside it: circuit breakers that have acted, and what choices mean.
///
/// A choice is two bytes, and has a name of its own, a layer that it shares and what is measured of it.
#[test]
fn fuzz_node_kept_meanings() {
    let home = Home::new();
    let directory = home.directory.path().join("attributions");
    let install = 7;
    let seed = |layers: v1::Layers| {
        let bytes = layers.encode_to_vec();
        let version = version(&bytes);
        let snapshot = plan::understand(&layers, NODE).expect("sound");
        let plan = plan::plan(&version, &layers, &snapshot, &facts(), &Readings::default(), install).expect("sound");
        let mut attributions = Attributions::open(directory.clone(), "tables", &[]).expect("a directory");
        attributions.put(install, &plan.choices).expect("written");
        fs::read(directory.join(install.to_string())).expect("there")
    };
    let bytes = seed(messages::layers());
    let target = Target::new("node-kept-meanings", Shape::Wire, Bound { per_byte: 1_000, fixed: 32 * KIB });
    target.seed("choices", bytes).run(|bytes| {
        fs::write(directory.join(install.to_string()), bytes).expect("written");
        fs::write(home.file("trips"), bytes).expect("written");
        drop(Trips::of(&home.state));
        Attributions::read_one(&directory, "tables", install).is_ok()
    });
}

/// Entries of a journal without their frame, whose checksum no mutation would pass.
#[derive(Clone, PartialEq, Message)]
struct Entries {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<JournalEntry>,
}

/// Two of them.
fn entries() -> [JournalEntry; 2] {
    let head = Head { boot_id: "boot".into(), tables: "tables".into(), position: 4_096, ..Head::default() };
    let kept = KeptCell { id: 1, sent: true, cell: Some(messages::cell()) };
    let entry = JournalEntry { head: Some(head), cells: vec![kept], removed: vec![] };
    let gone = JournalEntry { cells: vec![], removed: vec![1], ..entry.clone() };
    [entry, gone]
}

/// What is counted and not reported yet. An empty cell is 4 bytes here.
#[test]
fn fuzz_node_journal_entries() {
    let target = Target::new("node-journal-entries", Shape::Wire, Bound { per_byte: 2_000, fixed: 16 * KIB });
    let entries = Entries { entries: entries().into() };
    target.seed("two", entries.encode_to_vec()).run(|bytes| {
        let Ok(Entries { entries }) = Entries::decode(bytes) else { return false };
        let Ok(mut aggregation) = Aggregation::replay(entries) else { return false };
        let _ = (aggregation.flows(), aggregation.next_part(), aggregation.is_ahead_of(u64::MAX, 60));
        aggregation.clock(Moment { wall_ns: 1, monotonic_ns: 2 });
        aggregation.note_dropped(3);
        drop((aggregation.entry(), aggregation.checkpoint()));
        true
    });
}

/// The same as a file: a torn entry at the end is cut off.
#[test]
fn fuzz_node_journal_file() {
    let home = Home::new();
    let path = home.file("journal");
    let mut framed = vec![];
    for entry in entries() {
        drop(Journal::create(&path, &entry).expect("written"));
        framed.extend(fs::read(&path).expect("there"));
    }
    let target = Target::new("node-journal-file", Shape::Bytes, Bound { per_byte: 2_000, fixed: 16 * KIB });
    target.seed("two", framed).run(|bytes| {
        fs::write(&path, bytes).expect("written");
        Journal::open(&path).is_ok_and(|(_, entries)| !entries.is_empty())
    });
}
