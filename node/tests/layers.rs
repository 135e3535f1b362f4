//! Which folder of the daemon may use which, that the files of policy and kernel program are layers too, and how large a file
//! is. ARCHITECTURE.md tells why.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

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
const PURE: [&str; 10] = [
    "backoff.rs",
    "disk/owed.rs",
    "records/aggregation.rs",
    "records/aggregation/coalesce.rs",
    "records/aggregation/report.rs",
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

fn sources(root: &str) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let (mut folders, mut found) = (vec![root.clone()], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).expect("below it").to_str().expect("UTF-8").to_owned();
                let is_test = name.ends_with("/tests.rs") || name.contains("/tests/") || name == "testing.rs";
                if !is_test {
                    found.insert(name, fs::read_to_string(&path).expect("readable"));
                }
            }
        }
    }
    found
}

/// Without comments, and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that code names, of this crate: `crate::` and `super::`, in imports also behind braces.
fn paths(file: &str, text: &str) -> Vec<Vec<String>> {
    let mut module: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    if matches!(module.last(), Some(&"mod" | &"lib" | &"main")) {
        module.pop();
    }
    let mut found = vec![];
    for (start, up) in [("crate::", 0), ("super::", 1), ("super::super::", 2)] {
        for (at, _) in text.match_indices(start) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') || up > module.len() {
                continue;
            }
            let base: &[&str] = if up == 0 { &[] } else { &module[..module.len() - up] };
            let base: Vec<String> = base.iter().map(|&name| name.to_owned()).collect();
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

/// What each file uses of its crate. What a file says of the modules that it is made of is left out: they are parts of it.
fn uses(sources: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let of = |(file, text): (&String, &String)| {
        let targets = paths(file, &code(text)).into_iter().filter_map(|path| target(&path, sources));
        targets.filter(|used| used != file).map(|used| (file.clone(), used)).collect::<Vec<_>>()
    };
    sources.iter().flat_map(of).collect()
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

#[test]
fn imports_are_read() {
    let read = |text| paths("keeper/a.rs", text).into_iter().map(|path| path.join("::")).collect::<Vec<_>>();
    let text = "use crate::{\n    disk::{owed::{self, What}, file},\n    facts,\n};\nuse super::channel::Ends;";
    let expected = ["disk::owed::self", "disk::owed::What", "disk::file", "facts", "keeper::channel::Ends"];
    assert_eq!(read(text), expected);
    assert_eq!(read("let x = crate::facts::read(); mycrate::y()"), ["facts::read"]);
}
