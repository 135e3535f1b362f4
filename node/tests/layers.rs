//! Which folder of the daemon may use which, that the files of policy and kernel program are layers too, and how large a file
//! is. ARCHITECTURE.md tells why.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use sockpilot_sources::{code, read, uses};

/// A room, its files or folders, and the rooms that it may use beside itself.
type Room = (&'static str, &'static [&'static str], &'static [&'static str]);

const ROOMS: [Room; 8] = [
    ("base", &["backoff.rs", "clock.rs", "facts.rs", "metrics.rs"], &[]),
    ("disk", &["disk/"], &["base"]),
    ("kernel", &["kernel/"], &[]),
    ("records", &["records/"], &["base", "disk"]),
    ("snapshot", &["snapshot/"], &["disk", "kernel", "records"]),
    ("keeper", &["keeper/"], &["base", "disk", "kernel", "records", "snapshot"]),
    ("link", &["link/"], &["base", "disk", "kernel", "records", "keeper"]),
    ("process", &["process/"], &["base", "disk", "kernel", "records", "snapshot", "keeper", "link"]),
];

/// Words that stand in some places only.
const WORDS: [(&str, &[&str]); 4] = [
    ("aya::", &["kernel/"]),
    ("tonic::", &["link/"]),
    ("libc::", &["kernel/", "process/inspect"]),
    ("nix::", &["kernel/", "process/inspect", "disk/state_dir.rs", "clock.rs", "facts.rs"]),
];

/// Files that decide: time and randomness are arguments, and they wait for nothing and read no file.
const PURE: [&str; 11] = [
    "backoff.rs",
    "disk/owed.rs",
    "records/aggregation.rs",
    "records/aggregation/coalesce.rs",
    "records/aggregation/report.rs",
    "records/on_request.rs",
    "records/sample.rs",
    "snapshot/answer.rs",
    "snapshot/holding_back.rs",
    "snapshot/plan.rs",
    "snapshot/version.rs",
];
const IMPURE: [&str; 7] =
    ["Instant::now(", "SystemTime::now(", "Moment::now(", "rand::random(", ".await", "std::fs", "    fs::"];

/// The two rivers of the keeper: policy in does not know how records are read, nor records out what is in force.
const RIVERS: [(&str, &str); 2] = [("keeper/recorder.rs", "enforcer"), ("keeper/enforcer", "collector::")];

const LINES_MAX: usize = 400;
/// The table of parameters is one table.
const TABLES: [&str; 1] = ["parameter/table.rs"];

/// Without tests.
fn sources(root: &str) -> BTreeMap<String, String> {
    let mut sources = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(root));
    sources.retain(|name, _| {
        !(name.ends_with("/tests.rs") || name.contains("/tests/") || matches!(name.as_str(), "fuzz.rs" | "testing.rs"))
    });
    sources
}

fn room_of(file: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|(_, places, _)| places.iter().any(|place| file.starts_with(place)))
}

#[test]
fn rooms_use_only_what_they_may() {
    let sources = sources("src");
    assert!(sources.len() > 50, "{} files", sources.len());
    let outside = |file: &str| matches!(file, "lib.rs" | "main.rs");
    let homeless: Vec<_> = sources.keys().filter(|file| room_of(file).is_none() && !outside(file)).collect();
    assert_eq!(homeless, [""; 0], "give them a room in this table");
    let (mut wrong, mut arrows) = (vec![], 0);
    for (file, used) in uses(&sources) {
        let (Some((room, _, may)), Some((of, ..))) = (room_of(&file), room_of(&used)) else { continue };
        arrows += usize::from(of != room);
        if of != room && !may.contains(of) {
            wrong.push(format!("{file} ({room}) uses {used} ({of})"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(arrows > 50, "only {arrows} uses were seen; the reader is broken");
}

#[test]
fn the_table_has_no_circle_and_no_dead_rows() {
    let sources = sources("src");
    let used: BTreeSet<_> =
        uses(&sources).iter().filter_map(|(file, used)| Some((room_of(file)?.0, room_of(used)?.0))).collect();
    for (index, (room, places, may)) in ROOMS.iter().enumerate() {
        for of in *may {
            assert!(ROOMS[..index].iter().any(|(name, ..)| name == of), "{room} may use {of}, which is not below it");
            assert!(used.contains(&(*room, *of)), "{room} may use {of}, and does not");
        }
        for place in *places {
            assert!(sources.keys().any(|file| file.starts_with(place)), "{room} has {place}, which is not there");
        }
    }
    for file in PURE {
        assert!(sources.contains_key(file), "{file} is not there");
    }
}

#[test]
fn words_stand_in_their_rooms() {
    for (file, text) in sources("src") {
        let text = code(&text);
        for (word, places) in WORDS {
            let names = text.match_indices(word).any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric()));
            assert!(!names || places.iter().any(|place| file.starts_with(place)), "{file} has {word}");
        }
        let impure = IMPURE.iter().find(|word| PURE.contains(&file.as_str()) && text.contains(**word));
        assert_eq!(impure, None, "{file} is not pure");
        for (place, word) in RIVERS {
            assert!(!file.starts_with(place) || !text.contains(word), "{file} has {word}");
        }
    }
}

/// A module's own files are its parts, so what they take from it is no arrow.
#[test]
fn files_of_policy_and_kernel_program_form_no_circle() {
    for (root, least) in [("../policy/src", 40), ("../ebpf/src", 40)] {
        let sources = sources(root);
        let module = |file: &str| file.split(['/', '.']).next().unwrap_or_default().to_owned();
        let arrows: BTreeSet<(String, String)> = uses(&sources)
            .into_iter()
            .map(|(file, used)| (module(&file), module(&used)))
            .filter(|(from, to)| from != to)
            .collect();
        assert!(arrows.len() > least, "only {} uses were seen in {root}; the reader is broken", arrows.len());
        let mut left: BTreeSet<_> = sources.keys().map(|file| module(file)).collect();
        loop {
            let free = |one: &String| !arrows.iter().any(|(from, to)| from == one && left.contains(to));
            let Some(lowest) = left.iter().find(|one| free(one)).cloned() else { break };
            left.remove(&lowest);
        }
        assert!(left.is_empty(), "in {root} these are in circles, or above one: {left:?}");
    }
}

#[test]
fn files_are_small() {
    for root in ["src", "../policy/src", "../ebpf/src"] {
        for (file, text) in sources(root) {
            let lines = text.lines().count();
            assert!(lines <= LINES_MAX || TABLES.contains(&file.as_str()), "{file} has {lines} lines; split it");
        }
    }
}
