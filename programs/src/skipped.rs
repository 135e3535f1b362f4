//! How a test says that this machine does not allow it.

use std::{
    env,
    fmt::Display,
    fs::OpenOptions,
    io::{self, Write},
    thread,
};

/// Names the file into which every skipped test writes a line; `make test` prints it at the end.
const SKIPPED: &str = "SOCKPILOT_SKIPPED";

/// Says that the test which calls this is skipped, wholly or in part, and why: at once, and at the end of `make test`.
///
/// # Panics
/// If it cannot be said, for then it would be skipped silently.
pub fn skipped(why: impl Display) {
    let line = format!("{}: skipped, because {why}\n", thread::current().name().unwrap_or("a test"));
    // Not by `eprintln!`: libtest hides that for tests that pass.
    io::stderr().write_all(line.as_bytes()).expect("standard error");
    if let Some(path) = env::var_os(SKIPPED).filter(|path| !path.is_empty()) {
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.unwrap_or_else(|error| panic!("{SKIPPED} is {}, which cannot be written: {error}", path.display()));
    }
}
