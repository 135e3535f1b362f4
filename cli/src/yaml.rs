//! YAML as a tree that remembers where each value stands and how it was written.
//!
//! A plain scalar keeps its text: where the contract wants a string, `443` and `1.10` are taken as they stand in the file.

use crate::syntax;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};
use std::fmt;

/// Longest input accepted: several times what a server takes in one message.
pub const MAX_BYTES: usize = 16 << 20;

/// What all aliases of a text may come to, in values: some hundred bytes of them can stand for a million.
const ALIASED_MAX: usize = 10_000;

/// A value and the line on which it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// From 1.
    pub line: u64,
    /// What stands there.
    pub content: Content,
}

/// What a YAML value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Nothing, `~` or `null`.
    Null,
    /// A boolean as it was written.
    Bool(bool, String),
    /// A number as it was written.
    Number(String),
    /// A string.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(String, Node)>),
}

impl Content {
    /// What it is, for a message to a person.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(_, text) | Self::Number(text) => text.clone(),
            Self::Text(text) => format!("\"{text}\""),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// Why a text is no YAML.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {description}")]
pub struct SyntaxError {
    /// From 1; 0 if not known.
    pub line: u64,
    /// What is wrong.
    pub description: String,
}

/// Reads all documents of a text; empty ones are left out.
pub fn parse(text: &str) -> Result<Vec<Node>, SyntaxError> {
    if text.len() > MAX_BYTES {
        return Err(SyntaxError { line: 0, description: format!("longer than {MAX_BYTES} bytes") });
    }
    let options = serde_saphyr::options! {
        with_snippet: false,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: ALIASED_MAX },
    };
    let documents: Vec<Spanned<Raw>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| SyntaxError {
            line: error.location().map_or(0, |location| location.line()),
            description: syntax::describe(&error),
        })?;
    Ok(documents.into_iter().map(|raw| settle(raw, text)).collect())
}

/// A value as the parser hands it over.
enum Raw {
    Null,
    Bool(bool),
    Number,
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(String, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Number)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Raw, E> {
        Ok(Raw::Number)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Raw, E> {
        Ok(Raw::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Raw, E> {
        Ok(Raw::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            entries.push((key, map.next_value()?));
        }
        Ok(Raw::Map(entries))
    }

    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Raw, E> {
        Err(E::custom("binary values have no use here"))
    }
}

/// Gives plain scalars their text back.
fn settle(raw: Spanned<Raw>, source: &str) -> Node {
    let line = raw.referenced.line();
    let written = |location: Location| {
        let span = location.span();
        let begin = usize::try_from(span.byte_offset()?).ok()?;
        let end = begin.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
        source.get(begin..end).map(|text| text.trim().to_owned())
    };
    let content = match raw.value {
        Raw::Null => Content::Null,
        Raw::Bool(value) => Content::Bool(value, written(raw.defined).unwrap_or_else(|| value.to_string())),
        Raw::Number => Content::Number(written(raw.defined).unwrap_or_default()),
        Raw::Text(text) => Content::Text(text),
        Raw::List(items) => Content::List(items.into_iter().map(|item| settle(item, source)).collect()),
        Raw::Map(entries) => {
            Content::Map(entries.into_iter().map(|(key, value)| (key, settle(value, source))).collect())
        }
    };
    Node { line, content }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(node: &'a Node, key: &str) -> &'a Node {
        let Content::Map(entries) = &node.content else { panic!("no mapping: {node:?}") };
        &entries.iter().find(|(name, _)| name == key).unwrap_or_else(|| panic!("no {key}")).1
    }

    #[test]
    fn scalars_keep_their_text_and_line() {
        let documents = parse("a: 1.10\nb: yes\nc: \"443\"\nd:\ne: [443, 8000-8999]\n").unwrap();
        let root = &documents[0];
        assert_eq!(entry(root, "a"), &Node { line: 1, content: Content::Number("1.10".to_owned()) });
        assert_eq!(entry(root, "c"), &Node { line: 3, content: Content::Text("443".to_owned()) });
        assert_eq!(entry(root, "d").content, Content::Null);
        let Content::List(ports) = &entry(root, "e").content else { panic!("no list") };
        assert_eq!(ports[0].content, Content::Number("443".to_owned()));
        assert_eq!(ports[1].content, Content::Text("8000-8999".to_owned()));
        assert_eq!(ports[1].line, 5);
    }

    #[test]
    fn several_documents_count_lines_through() {
        let documents = parse("# first\na: 1\n---\n---\nb: 2\n").unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(entry(&documents[1], "b").line, 5);
    }

    #[test]
    fn an_alias_keeps_the_text_of_its_anchor() {
        let documents = parse("a: &x 0443\nb: *x\n").unwrap();
        assert_eq!(entry(&documents[0], "b").content, entry(&documents[0], "a").content);
        assert_eq!(entry(&documents[0], "b").line, 2);
    }

    #[test]
    fn faults_of_syntax_name_the_line() {
        assert_eq!(parse("a: 1\nb: [1, 2\n").unwrap_err().line, 2);
        assert_eq!(parse("a: 1\na: 2\n").unwrap_err().line, 2);
    }

    #[test]
    fn deep_nesting_is_refused_not_followed() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"- ".repeat(100_000)).is_err());
    }
}
