//! Which room of the server may use which: the table, and that it holds. ARCHITECTURE.md tells why.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// A room, its files (of several that fit, the longest says where a file belongs), and the rooms that it may use beside itself.
type Room = (&'static str, &'static [&'static str], &'static [&'static str]);

const ROOMS: [Room; 10] = [
    ("base", &["clock.rs", "metrics.rs", "metrics/"], &[]),
    ("auth", &["auth/"], &["base"]),
    ("domain", &["change/", "experiment/", "fleet/", "outcome/"], &["base", "auth"]),
    ("store", &["store/"], &["base", "auth", "domain"]),
    ("use cases", &USE_CASES, &["base", "auth", "domain", "store"]),
    ("fan-out", &["fleet/fanout.rs"], &["base", "domain"]),
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
const USE_CASES: [&str; 10] = [
    "change/access.rs",
    "change/apply.rs",
    "change/bounds.rs",
    "change/conclude.rs",
    "change/remove_node.rs",
    "change/restore.rs",
    "change/zone_map.rs",
    "experiment/draw.rs",
    "experiment/gather.rs",
    "fleet/register.rs",
];

/// What is done without being asked for.
const TASKS: [&str; 10] = [
    "auth/refresh.rs",
    "experiment/watch.rs",
    "fleet/recorder.rs",
    "fleet/refresh.rs",
    "outcome/retention.rs",
    "outcome/roll_up.rs",
    "task/janitor.rs",
    "task/memory.rs",
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut found) = (vec![root.clone()], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).expect("below it").to_str().expect("UTF-8").to_owned();
                let text = fs::read_to_string(&path).expect("readable");
                if !OUTSIDE.contains(&name.as_str()) && !is_test(&name) {
                    found.insert(name, code(&text));
                }
            }
        }
    }
    found
}

/// Files of tests: they are compiled for tests only.
fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs") || name == "store/upgraded.rs"
}

/// Without comments, and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn room_of(file: &str) -> &'static Room {
    let fits = |room: &Room| room.1.iter().filter(|place| file.starts_with(**place)).map(|place| place.len()).max();
    let best = ROOMS.iter().filter_map(|room| Some((fits(room)?, room))).max_by_key(|(length, _)| *length);
    best.unwrap_or_else(|| panic!("{file} is in no room; give it one in this table")).1
}

/// The paths that code names, of this crate: `crate::` and `super::`, in imports also behind braces.
fn paths(file: &str, text: &str) -> Vec<Vec<String>> {
    let mut module: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    if module.last() == Some(&"mod") {
        module.pop();
    }
    let mut found = vec![];
    for (start, up) in [("crate::", None), ("super::", Some(1)), ("super::super::", Some(2))] {
        for (at, _) in text.match_indices(start) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let base = match up {
                Some(up) if module.len() >= up => {
                    module[..module.len() - up].iter().map(|&name| name.to_owned()).collect()
                }
                Some(_) => continue,
                None => vec![],
            };
            tree(&mut text[at + start.len()..].chars().peekable(), &base, &mut found);
        }
    }
    found
}

/// One path or, in braces, several.
fn tree(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, base: &[String], found: &mut Vec<Vec<String>>) {
    let mut path = base.to_vec();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.next_if_eq(&'{').is_some() {
            while rest.peek().is_some_and(|c| *c != '}') {
                tree(rest, &path, found);
                while rest.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
            }
            rest.next();
            return;
        }
        let mut name = String::new();
        while let Some(c) = rest.next_if(|c| c.is_alphanumeric() || *c == '_' || *c == '*') {
            name.push(c);
        }
        path.push(name);
        if rest.next_if_eq(&':').is_none() || rest.next_if_eq(&':').is_none() {
            break;
        }
    }
    // `as` another name, or whatever else there is up to the next one.
    while rest.next_if(|c| !matches!(c, ',' | '}' | ';')).is_some() {}
    found.push(path);
}

/// The file that a path leads to: its longest beginning that is one.
fn target(path: &[String], sources: &BTreeMap<String, String>) -> Option<String> {
    (1..=path.len()).rev().find_map(|length| {
        let module = path[..length].join("/");
        [format!("{module}.rs"), format!("{module}/mod.rs")].into_iter().find(|file| sources.contains_key(file))
    })
}

#[test]
fn rooms_use_only_what_they_may() {
    let sources = sources();
    assert!(sources.len() > 60, "{} files", sources.len());
    let (mut wrong, mut arrows) = (vec![], 0);
    for (file, text) in &sources {
        let (room, _, may) = room_of(file);
        for path in paths(file, text) {
            let Some(used) = target(&path, &sources) else { continue };
            let (of, ..) = room_of(&used);
            arrows += usize::from(of != room);
            if of != room && !may.contains(of) {
                wrong.push(format!("{file} ({room}) uses {} ({of})", path.join("::")));
            }
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

#[test]
fn imports_are_read() {
    let read = |text| paths("fleet/a.rs", text).into_iter().map(|path| path.join("::")).collect::<Vec<_>>();
    let text =
        "use crate::{\n    change::{plan::{self, Action}, zones},\n    store::Error as E,\n};\nuse super::node::Node;";
    let expected = ["change::plan::self", "change::plan::Action", "change::zones", "store::Error", "fleet::node::Node"];
    assert_eq!(read(text), expected);
    assert_eq!(read("let x = crate::store::get(1); mycrate::y()"), ["store::get"]);
}
