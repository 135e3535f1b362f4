//! Keeps what is generated from the table of parameters fresh: run with `SOCKPILOT_UPDATE=1` to write it anew.

use std::{env, fs, path::Path};

use sockpilot_policy::reference;

#[test]
fn wire_message_is_fresh() {
    check("../proto/proto/sockpilot/v1/parameters.proto", &reference::parameters_proto());
}

#[test]
fn reference_page_is_fresh() {
    check("../docs/parameters.md", &reference::parameters_page());
}

#[test]
fn experiments_page_is_fresh() {
    check("../docs/experiments.md", &reference::experiments_page());
}

fn check(path: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if env::var_os("SOCKPILOT_UPDATE").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{} is out of date: run the tests with SOCKPILOT_UPDATE=1", path.display());
}
