//! Which room of the server may use which: the table, and that it holds. ARCHITECTURE.md tells why.

use std::{collections::BTreeMap, path::Path};

use sockpilot_sources::{code, read, uses};

/// A room, its files (of several that fit, the longest says where a file belongs), and the rooms that it may use beside itself.
type Room = (&'static str, &'static [&'static str], &'static [&'static str]);

const ROOMS: [Room; 10] = [
    ("base", &["clock.rs", "metrics.rs", "metrics/"], &[]),
    ("auth", &["auth/"], &["base"]),
    ("domain", &["change/", "experiment/", "fleet/", "outcome/", "rollout/"], &["base", "auth"]),
    ("store", &["store/"], &["base", "auth", "domain"]),
    ("use cases", &USE_CASES, &["base", "auth", "domain", "store"]),
    ("fan-out", &["fleet/fanout.rs", "fleet/mailbox.rs"], &["base", "domain"]),
    ("task frame", &["task/"], &["base", "store"]),
    ("tasks", &TASKS, &["base", "auth", "domain", "store", "use cases", "fan-out", "task frame"]),
    ("grpc", &["grpc/"], &["base", "auth", "domain", "store", "use cases", "fan-out", "tasks"]),
    (
        "process",
        &["process/"],
        &["base", "auth", "domain", "store", "use cases", "fan-out", "task frame", "tasks", "grpc"],
    ),
];

/// They make changes, in the transaction of whoever calls them.
const USE_CASES: [&str; 22] = [
    "change/access.rs",
    "change/apply.rs",
    "change/bounds.rs",
    "change/conclude.rs",
    "change/planned.rs",
    "change/record_flows.rs",
    "change/remove_node.rs",
    "change/restore.rs",
    "change/zone_map.rs",
    "experiment/draw.rs",
    "experiment/gather.rs",
    "fleet/preview.rs",
    "fleet/register.rs",
    "rollout/begin.rs",
    "rollout/drive.rs",
    "rollout/evidence.rs",
    "rollout/kill_switch.rs",
    "rollout/limits.rs",
    "rollout/observe.rs",
    "rollout/preview.rs",
    "rollout/verbs.rs",
    "rollout/warnings.rs",
];

/// What is done without being asked for.
const TASKS: [&str; 12] = [
    "auth/refresh.rs",
    "experiment/watch.rs",
    "fleet/heartbeats.rs",
    "fleet/recorder.rs",
    "fleet/recording_refresh.rs",
    "fleet/refresh.rs",
    "outcome/retention.rs",
    "outcome/roll_up.rs",
    "rollout/controller.rs",
    "task/janitor.rs",
    "task/presence.rs",
    "task/reload.rs",
];

/// Words that stand in some rooms only.
const WORDS: [(&str, &[&str]); 3] = [
    ("sqlx::", &["store"]),
    ("tonic::", &["grpc"]),
    ("tokio::", &["store", "fan-out", "task frame", "tasks", "grpc", "process", "base", "auth"]),
];

/// What no pure code does: it has no clock, draws nothing, waits for nothing, and reads no file.
const IMPURE: [&str; 7] =
    ["Instant::now(", "SystemTime::now(", "Utc::now(", "Uuid::new_v4(", "Uuid::now_v7(", ".await", "std::fs"];

/// The root and the binary put it together; tests stand beside.
const OUTSIDE: [&str; 3] = ["lib.rs", "main.rs", "test_support.rs"];

fn sources() -> BTreeMap<String, String> {
    let mut sources = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    sources.retain(|name, _| !OUTSIDE.contains(&name.as_str()) && !is_test(name));
    sources.into_iter().map(|(name, text)| (name, code(&text))).collect()
}

/// Files of tests: they are compiled for tests only.
fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.ends_with("/fuzz.rs") || name == "store/upgraded.rs"
}

fn room_of(file: &str) -> &'static Room {
    let fits = |room: &Room| room.1.iter().filter(|place| file.starts_with(**place)).map(|place| place.len()).max();
    let best = ROOMS.iter().filter_map(|room| Some((fits(room)?, room))).max_by_key(|(length, _)| *length);
    best.unwrap_or_else(|| panic!("{file} is in no room; give it one in this table")).1
}

#[test]
fn rooms_use_only_what_they_may() {
    let sources = sources();
    assert!(sources.len() > 60, "{} files", sources.len());
    let (mut wrong, mut arrows) = (vec![], 0);
    for (file, used) in uses(&sources) {
        let ((room, _, may), (of, ..)) = (room_of(&file), room_of(&used));
        arrows += usize::from(of != room);
        if of != room && !may.contains(of) {
            wrong.push(format!("{file} ({room}) uses {used} ({of})"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(arrows > 150, "only {arrows} uses were seen; the reader is broken");
}

#[test]
fn the_table_has_no_circle_and_no_dead_rows() {
    let sources = sources();
    for (index, (room, places, may)) in ROOMS.iter().enumerate() {
        for used in *may {
            assert!(
                ROOMS[..index].iter().any(|(name, ..)| name == used),
                "{room} may use {used}, which is not below it"
            );
        }
        for place in *places {
            assert!(sources.keys().any(|file| file.starts_with(place)), "{room} has {place}, which is not there");
        }
    }
}

#[test]
fn words_stand_in_their_rooms() {
    for (file, text) in sources() {
        let (room, ..) = room_of(&file);
        for (word, rooms) in WORDS {
            assert!(!text.contains(word) || rooms.contains(room), "{file} ({room}) has {word}");
        }
        let impure = IMPURE.iter().find(|word| *room == "domain" && text.contains(**word));
        assert_eq!(impure, None, "{file} is not pure");
    }
}
