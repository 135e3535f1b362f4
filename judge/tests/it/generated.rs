//! Keeps the page fresh that is generated from the table of metrics: run with `SOCKPILOT_UPDATE=1` to write it anew.

use std::{env, fs, path::Path};

use sockpilot_judge::gates::{NODES_MIN, SHARES_FROM, reference};
use sockpilot_stats::Level;

#[test]
fn rollouts_page_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rollouts.md");
    let expected = reference::rollouts_page();
    if env::var_os("SOCKPILOT_UPDATE").is_some() {
        fs::write(&path, &expected).expect("written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{} is out of date: run the tests with SOCKPILOT_UPDATE=1", path.display());
}

#[test]
fn numbers_in_prose_are_those_of_the_code() {
    let page = reference::rollouts_page();
    let numbers = format!("Before {SHARES_FROM} connections\n  on both sides (of shares) or {} (of", Level::FIRST_LOOK);
    assert!(page.contains(&numbers));
    assert!(page.contains(&format!("at least {NODES_MIN} nodes on either side")));
}
