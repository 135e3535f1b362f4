//! What a change made different, for the audit log. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// Paths that are written down of one change; the others are counted.
const PATHS_MAX: usize = 200;
/// Bytes of a value that is written down; of a longer one its length is.
const VALUE_BYTES_MAX: usize = 1_024;
/// Bytes of all together.
const BYTES_MAX: usize = 32 << 10;

/// In what something differs after a change: a JSON list of paths, each with what was there before and after. What is absent was or is not
/// there. Of a value that is too long there is its length (`before_bytes`, `after_bytes`); the last entry says how many paths are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference(String);

impl Difference {
    /// From one state to the next; `null`: it is not there.
    #[must_use]
    pub fn between(before: &Value, after: &Value) -> Self {
        let mut found = vec![];
        walk(String::new(), Some(before), Some(after), &mut found);
        let (mut entries, mut bytes) = (vec![], 0);
        for entry in &found {
            let text = entry.to_string();
            bytes += text.len() + 1;
            if entries.len() == PATHS_MAX || bytes > BYTES_MAX {
                break;
            }
            entries.push(text);
        }
        if found.len() > entries.len() {
            entries.push(json!({ "paths_left_out": found.len() - entries.len() }).to_string());
        }
        Self(format!("[{}]", entries.join(",")))
    }

    /// As it is written down.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

fn walk(path: String, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Value>) {
    let (before, after) = (before.filter(|value| !value.is_null()), after.filter(|value| !value.is_null()));
    if before == after {
        return;
    }
    let fields = before.into_iter().chain(after).all(Value::is_object);
    let lists = before.into_iter().chain(after).all(Value::is_array);
    let (old, new) = (parts(before), parts(after));
    if fields && old + new > 0 {
        let (before, after) = (members(before), members(after));
        for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            let path = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
            walk(path, before.get(key).copied(), after.get(key).copied(), found);
        }
        return;
    }
    if lists
        && old + new > 0
        && let (Some(old), Some(new)) = (named(before), named(after))
    {
        let (of_old, of_new): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (old.iter().copied().collect(), new.iter().copied().collect());
        for name in of_old.keys().chain(of_new.keys()).collect::<BTreeSet<_>>() {
            walk(format!("{path}[{name}]"), of_old.get(name).copied(), of_new.get(name).copied(), found);
        }
        let names = |list: &[(&str, &Value)]| list.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
        let (old, new) = (names(&old), names(&new));
        let kept = old.iter().filter(|name| of_new.contains_key(name.as_str()));
        if !kept.eq(new.iter().filter(|name| of_old.contains_key(name.as_str()))) {
            found.push(entry(&path, Some(&json!(old)), Some(&json!(new))));
        }
        return;
    }
    found.push(entry(&path, before, after));
}

fn parts(value: Option<&Value>) -> usize {
    match value {
        Some(Value::Object(fields)) => fields.len(),
        Some(Value::Array(elements)) => elements.len(),
        _ => 0,
    }
}

fn members(value: Option<&Value>) -> BTreeMap<&str, &Value> {
    value.and_then(Value::as_object).into_iter().flatten().map(|(key, value)| (key.as_str(), value)).collect()
}

/// The elements of a list by their names, so that one more at the beginning is no change of all others; `None` if they have none, or not
/// each its own. What is not there has no elements.
fn named(value: Option<&Value>) -> Option<Vec<(&str, &Value)>> {
    let list = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let named: Option<Vec<_>> = list.iter().map(|element| Some((element.get("name")?.as_str()?, element))).collect();
    named.filter(|named| named.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len() == named.len())
}

fn entry(path: &str, before: Option<&Value>, after: Option<&Value>) -> Value {
    let mut entry = Map::from_iter([("path".to_owned(), Value::from(path))]);
    for (key, value) in [("before", before), ("after", after)] {
        let Some(value) = value else { continue };
        match value.to_string().len() {
            bytes if bytes > VALUE_BYTES_MAX => entry.insert(format!("{key}_bytes"), bytes.into()),
            _ => entry.insert(key.to_owned(), value.clone()),
        };
    }
    Value::Object(entry)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn between(before: Value, after: Value) -> Value {
        serde_json::from_str(Difference::between(&before, &after).as_json()).expect("JSON")
    }

    #[test]
    fn only_what_differs_is_named() {
        let rule = |name: &str, ms: u64| json!({ "name": name, "set": { "synRtoMs": ms } });
        let before = json!({ "everyone": 1, "rules": [rule("a", 1), rule("b", 2)], "gone": true });
        let after = json!({ "everyone": 2, "rules": [rule("new", 9), rule("a", 1), rule("b", 3)] });
        let expected = json!([
            { "path": "everyone", "before": 1, "after": 2 },
            { "path": "gone", "before": true },
            { "path": "rules[b].set.synRtoMs", "before": 2, "after": 3 },
            { "path": "rules[new].name", "after": "new" },
            { "path": "rules[new].set.synRtoMs", "after": 9 },
        ]);
        assert_eq!(between(before, after), expected);
    }

    #[test]
    fn order_counts_and_lists_without_names_are_whole() {
        let [a, b] = ["a", "b"].map(|name| json!({ "name": name }));
        let found = between(json!({ "r": [a, b] }), json!({ "r": [b, a] }));
        assert_eq!(found, json!([{ "path": "r", "before": ["a", "b"], "after": ["b", "a"] }]));
        let found = between(json!({ "p": ["x"] }), json!({ "p": ["x", "y"] }));
        assert_eq!(found, json!([{ "path": "p", "before": ["x"], "after": ["x", "y"] }]));
        assert_eq!(between(Value::Null, json!({})), json!([{ "path": "", "after": {} }]));
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let long = "x".repeat(VALUE_BYTES_MAX);
        assert_eq!(
            between(json!({ "a": 1 }), json!({ "a": long })),
            json!([{ "path": "a", "before": 1, "after_bytes": VALUE_BYTES_MAX + 2 }])
        );
        let many: Map<String, Value> = (0..1_000).map(|number| (format!("k{number:04}"), number.into())).collect();
        let found = between(Value::Null, Value::Object(many));
        let entries = found.as_array().expect("a list");
        assert_eq!(entries.len(), PATHS_MAX + 1);
        assert_eq!(entries[PATHS_MAX], json!({ "paths_left_out": 1_000 - PATHS_MAX }));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<u8>().prop_map(Value::from),
            "[a-c]{0,3}".prop_map(Value::from),
            Just(Value::Bool(true)),
            "x{0,2000}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[a-c]|name", inner, 0..6).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_empty_if_nothing_differs_and_never_too_long(before in value(), after in value()) {
            let difference = Difference::between(&before, &after);
            prop_assert_eq!(difference.as_json() == "[]", before == after);
            prop_assert!(difference.as_json().len() <= BYTES_MAX + 64);
            prop_assert!(serde_json::from_str::<Value>(difference.as_json()).is_ok());
            let same = Difference::between(&after, &after);
            prop_assert_eq!(same.as_json(), "[]");
        }
    }
}
