//! Labels of a node, and the labels by which nodes are selected: `role=edge,zone=a`.

pub use sockpilot_policy::model::Labels;
use sockpilot_policy::validate::{self, LABELS_MAX};

/// Reads labels separated by commas. Spaces around keys and values and a comma at the end are nothing.
///
/// # Errors
/// The fault, with a remedy.
pub fn labels(text: &str) -> Result<Labels, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    merged(parts.map(|part| label(part).map(|label| Labels::from([label]))).collect::<Result<Vec<_>, _>>()?)
}

/// As [`labels`], for a selection, which has at least one: without any it would be of all nodes.
///
/// # Errors
/// The fault, with a remedy.
pub fn selection(text: &str) -> Result<Labels, String> {
    let labels = labels(text)?;
    if labels.is_empty() { Err("names no label; write KEY=VALUE".to_owned()) } else { Ok(labels) }
}

/// Labels that were given one after the other.
///
/// # Errors
/// If a key has two values, or there are too many.
pub fn merged(lists: impl IntoIterator<Item = Labels>) -> Result<Labels, String> {
    let mut all = Labels::new();
    for (key, value) in lists.into_iter().flatten() {
        match all.get(&key) {
            Some(other) if *other != value => {
                return Err(format!("\"{key}\" is \"{other}\" and \"{value}\"; give a label one value"));
            }
            _ => all.insert(key, value),
        };
    }
    let number = all.len();
    if number > LABELS_MAX { Err(format!("{number} labels are too many; give at most {LABELS_MAX}")) } else { Ok(all) }
}

fn label(text: &str) -> Result<(String, String), String> {
    let fault = |why: &str| format!("\"{}\" is no label; {why}", text.escape_debug());
    let (key, value) = text.split_once('=').ok_or_else(|| fault("write KEY=VALUE"))?;
    let (key, value) = (key.trim(), value.trim());
    validate::label(key, value).map_err(|why| fault(&why))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use sockpilot_policy::fault::Collector;

    use super::*;

    fn read(text: &str) -> Vec<String> {
        labels(text).expect(text).iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    #[test]
    fn spaces_and_commas_too_many_are_nothing() {
        assert_eq!(read("role=edge,zone=a"), ["role=edge", "zone=a"]);
        assert_eq!(read(" role = edge , zone=a ,"), ["role=edge", "zone=a"]);
        assert_eq!(read("a=b=c,d="), ["a=b=c", "d="]);
        assert_eq!(read("a=1,a=1"), ["a=1"]);
        for nothing in ["", " ", ",", " , "] {
            assert!(read(nothing).is_empty(), "{nothing:?}");
            assert!(selection(nothing).is_err(), "{nothing:?}");
        }
    }

    #[test]
    fn a_key_has_one_value() {
        let fault = labels("zone=a,role=edge,zone=b").expect_err("two values");
        assert!(fault.contains("\"zone\" is \"a\" and \"b\""), "{fault}");
        let given = ["a=1", "b=2", "a=3"].map(|text| labels(text).expect("sound"));
        assert!(merged(given).is_err());
    }

    #[test]
    fn what_is_read_here_the_server_takes() {
        let long = "ä".repeat(63);
        for good in [format!("{long}={long}"), "a=b c".to_owned(), "a/b.c=\u{1f600}".to_owned()] {
            let mut faults = Collector::at("labels");
            validate::labels(&labels(&good).expect("sound"), &mut faults);
            assert_eq!(faults.finish(()), Ok(()), "{good}");
        }
        let (key, value) = ("k".repeat(64), "v".repeat(64));
        for bad in ["role", "=x", "a b=c", "a=b\tc", &format!("{key}=1"), &format!("a={value}")] {
            assert!(labels(bad).is_err_and(|error| error.contains("is no label")), "{bad:?}");
        }
        let many: Vec<_> = (0..65).map(|n| format!("k{n}=v")).collect();
        assert!(labels(&many.join(",")).is_err_and(|error| error.contains("65 labels are too many")));
    }
}
