//! Keeps what is generated from the table of quantities fresh: run with `SOCKPILOT_UPDATE=1` to write it anew. And holds the table to its
//! promise: a quantity stands in few files.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use sockpilot_outcomes::reference;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn wire_messages_are_fresh() {
    check("proto/proto/sockpilot/v1/outcomes.proto", &reference::outcomes_proto());
}

#[test]
fn reference_page_is_fresh() {
    check("docs/outcomes.md", &reference::outcomes_page());
}

fn check(path: &str, expected: &str) {
    let path = root().join(path);
    if env::var_os("SOCKPILOT_UPDATE").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{} is out of date: run the tests with SOCKPILOT_UPDATE=1", path.display());
}

/// What one touches to add a quantity: the kernel's record and who writes it, its twin in C, and the table; beside these, single
/// recorded flows, and what experiments measure, if these are to have it. Tests, generated documents and released migrations are not counted.
const TOUCHED: [&str; 9] = [
    "ebpf/src/open.rs",
    "ebpf/src/record.rs",
    "node/src/records/sample.rs",
    "outcomes/src/measured.rs",
    "outcomes/src/quantity.rs",
    "policy/src/layout/connection.rs",
    "policy/src/measure.rs",
    "proto/proto/sockpilot/v1/flow.proto",
    "tests/c/layout.h",
];

#[test]
fn a_quantity_stands_in_few_files() {
    for quantity in ["ce_marked_packets", "spurious_retransmits", "delivered_packets"] {
        let mut found = BTreeSet::new();
        look(&root(), quantity, &mut found);
        let beyond: Vec<_> = found.iter().filter(|path| !TOUCHED.contains(&path.as_str())).collect();
        assert!(beyond.is_empty(), "{quantity} stands in {beyond:?}, too; let it follow from the table");
        assert!(found.contains("outcomes/src/quantity.rs"));
    }
}

/// Files of code that have the word, but for tests and what is generated.
fn look(directory: &Path, word: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let relative = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let name = relative.rsplit('/').next().unwrap_or_default();
        let skipped = name.starts_with('.')
            || ["target", "migrations", "docs"].contains(&name)
            || (relative.contains("tests")
                && !relative.ends_with(".h")
                && relative != "tests"
                && relative != "tests/c")
            || ["testing.rs", "outcomes.proto", "sums.rs", "former.rs"].contains(&name);
        if skipped {
            continue;
        }
        if path.is_dir() {
            look(&path, word, found);
        } else if ["rs", "h", "proto", "sql"].iter().any(|kind| path.extension().is_some_and(|found| found == *kind))
            && fs::read_to_string(&path).unwrap_or_default().contains(word)
        {
            found.insert(relative);
        }
    }
}
