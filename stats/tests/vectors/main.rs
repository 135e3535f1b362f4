//! Runs all vectors of this folder: published numbers, which the engine has to give to the digits that were published. To add
//! one, drop a file here; README.md says how it looks.

mod methods;

use std::{fs, path::Path};

use serde_json::Value;

/// What differs between what was found and what was expected, by its path.
fn differences(path: &str, found: &Value, expected: &Value, tolerance: &Value, into: &mut Vec<String>) {
    match expected {
        Value::Object(fields) => {
            for (name, expected) in fields {
                differences(&format!("{path}.{name}"), &found[name], expected, tolerance, into);
            }
        }
        Value::Array(items) => {
            if found.as_array().is_none_or(|found| found.len() != items.len()) {
                into.push(format!("{path} is {found}, not {expected}"));
            }
            for (at, expected) in items.iter().enumerate() {
                differences(&format!("{path}[{at}]"), &found[at], expected, tolerance, into);
            }
        }
        Value::Number(_) if is_close(found, expected, tolerance) => {}
        _ if found == expected => {}
        _ => into.push(format!("{path} is {found}, not {expected} (tolerance {tolerance})")),
    }
}

fn is_close(found: &Value, expected: &Value, tolerance: &Value) -> bool {
    let (Some(found), Some(expected)) = (found.as_f64(), expected.as_f64()) else { return false };
    let allowed = match tolerance["relative"].as_f64() {
        Some(relative) => relative * expected.abs(),
        None => tolerance.as_f64().unwrap_or_default(),
    };
    (found - expected).abs() <= allowed
}

/// Runs the vectors of a file, which holds one or a list; says what is wrong, and how many there were.
fn run(path: &Path) -> (usize, Vec<String>) {
    let text = fs::read_to_string(path).expect("a file of vectors");
    let parsed: Value = match serde_json::from_str(&text) {
        Ok(parsed) => parsed,
        Err(error) => return (0, vec![format!("it is no JSON: {error}")]),
    };
    let vectors = parsed.as_array().cloned().unwrap_or_else(|| vec![parsed]);
    let mut wrong = Vec::new();
    for (at, vector) in vectors.iter().enumerate() {
        let method = vector["method"].as_str().unwrap_or_default();
        let name = format!("vector {at} ({method}, {})", vector["source"].as_str().unwrap_or("no source"));
        let is_whole = vector["tolerance"].is_number() || vector["tolerance"]["relative"].is_number();
        if !is_whole || vector["expected"].is_null() {
            wrong.push(format!("{name}: expected and tolerance are needed"));
            continue;
        }
        match methods::run(method, &vector["input"]) {
            Err(error) => wrong.push(format!("{name}: {error}")),
            Ok(found) => {
                let mut list = Vec::new();
                differences("", &found, &vector["expected"], &vector["tolerance"], &mut list);
                wrong.extend(list.into_iter().map(|line| format!("{name}: {line}")));
            }
        }
    }
    (vectors.len(), wrong)
}

#[test]
fn all_vectors_agree() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let entries = fs::read_dir(folder).expect("the folder of vectors").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect();
    files.sort();
    let (mut count, mut wrong) = (0, Vec::new());
    for file in &files {
        let (here, list) = run(file);
        count += here;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        wrong.extend(list.into_iter().map(|line| format!("{name}: {line}")));
    }
    assert!(wrong.is_empty(), "{} of {count} vectors:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 40, "only {count} vectors in {} files", files.len());
}

#[test]
fn a_file_that_asks_for_what_there_is_not_is_named() {
    let folder = std::env::temp_dir().join(format!("sockpilot-vectors-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("odd.json");
    fs::write(&file, r#"{"method": "guess", "input": {}, "expected": 1, "tolerance": 0}"#).expect("a file");
    let (count, wrong) = run(&file);
    fs::remove_dir_all(&folder).expect("the folder");
    assert_eq!(count, 1);
    assert!(wrong[0].contains("no method \"guess\"; there are contrast, clustered_mean"), "{wrong:?}");
}
