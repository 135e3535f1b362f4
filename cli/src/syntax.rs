//! What the YAML library complains of, in words for whoever wrote the file: the library speaks to programmers.

use serde_saphyr::Error;
use serde_saphyr::budget::BudgetBreach;

const TOO_DEEP: &str = "lists and mappings stand too deep in each other";

/// What is wrong, and what would be right.
pub fn describe(error: &Error) -> String {
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => describe(error),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("{key} stands here twice; remove one of the two"),
        Error::DuplicateMappingKey { key: None, .. } => "a key stands here twice; remove one of the two".to_owned(),
        Error::NullIntoString { .. } => {
            "a key is missing, or null; write a word, in quotes if it is null or ~".to_owned()
        }
        Error::Eof { .. } => "the text ends too early; something was begun and not ended".to_owned(),
        Error::Unexpected { .. }
        | Error::ContainerEndMismatch { .. }
        | Error::UnexpectedSequenceEnd { .. }
        | Error::UnexpectedMappingEnd { .. }
        | Error::UnexpectedContainerEndWhileReadingKeyNode { .. }
        | Error::UnexpectedContainerEndWhileSkippingNode { .. } => {
            "a key must be a word or a number; lists and mappings stand behind the colon only".to_owned()
        }
        Error::MergeValueNotMapOrSeqOfMaps { .. } => {
            "<< takes a mapping or a list of mappings, by an alias: <<: *name".to_owned()
        }
        Error::MergeKeyNotAllowed { .. } => "<< is not taken here; write the fields out".to_owned(),
        Error::UnknownAnchor { .. } => "the alias (*name) has no anchor (&name) before it".to_owned(),
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "the alias (*name) stands inside its own anchor".to_owned()
        }
        Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "the aliases come to too much; write some of it out".to_owned()
        }
        Error::FoldedBlockScalarMustIndentContent { .. } => {
            "the lines of a text after > or | must be indented".to_owned()
        }
        Error::NonFiniteFloat { value, .. } => format!("{value} is no finite number"),
        Error::InvalidBinaryBase64 { .. } | Error::BinaryNotUtf8 { .. } => {
            "binary values have no use here; write a text".to_owned()
        }
        Error::InvalidScalar { .. }
        | Error::InvalidBooleanStrict { .. }
        | Error::TaggedScalarCannotDeserializeIntoString { .. }
        | Error::QuotingRequired { .. } => {
            "the value is not what its tag (!!…) says; leave the tag out, and write texts in quotes".to_owned()
        }
        Error::InvalidUtf8Input => "the text is not UTF-8; save it as such".to_owned(),
        Error::Budget { breach, .. } => budget(breach),
        // The parser's own bound, which has no kind of its own.
        Error::ExternalMessage { msg, .. } | Error::Message { msg, .. } if msg.contains("recursion limit") => {
            TOO_DEEP.to_owned()
        }
        // The parser's own words, which are about the text.
        Error::ExternalMessage { msg, .. } | Error::Message { msg, .. } => msg.clone(),
        // Includes, properties and types are not used here.
        _ => "cannot be read; write plain mappings, lists and values".to_owned(),
    }
}

fn budget(breach: &BudgetBreach) -> String {
    match breach {
        BudgetBreach::Depth { .. } => TOO_DEEP.to_owned(),
        BudgetBreach::Aliases { .. } | BudgetBreach::Anchors { .. } | BudgetBreach::AliasAnchorRatio { .. } => {
            "has too many aliases; write some of it out".to_owned()
        }
        BudgetBreach::SequenceUnbalanced => "a list or a mapping is ended that was not begun".to_owned(),
        _ => "is too large for one file; cut it into several".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::yaml;

    #[test]
    fn the_two_that_people_meet_most_say_what_to_do() {
        let said = |text: &str| {
            let error = yaml::parse(text).expect_err(text);
            (error.line, error.description)
        };
        assert_eq!(said("a: 1\nb: 2\na: 3\n"), (3, "a stands here twice; remove one of the two".to_owned()));
        let missing = "a key is missing, or null; write a word, in quotes if it is null or ~".to_owned();
        assert_eq!(said("a: 1\n~: 2\n"), (2, missing.clone()));
        assert_eq!(said("null: 2\n"), (1, missing));
    }

    #[test]
    fn nothing_speaks_of_the_library() {
        let faulty = [
            "a: 1\na: 2",
            "{a: 1, a: 2}",
            "- {x: 1, 'x': 2}",
            "~: 1",
            "null: 1",
            "? \n: 1",
            ": 1",
            "? [a]\n: 1",
            "? {a: 1}\n: 1",
            "[a]: 1",
            "{[a, b]: 1}",
            "a: [1",
            "a: {b: 1",
            "a: 'x",
            "a: \"x",
            "a: \"\\q\"",
            "a: b: c",
            "a:\n\t- b",
            "a: 1\n b: 2",
            "- a\nb: 1",
            "a: *x",
            "a: &x\n  b: *x",
            "<<: 1",
            "<<: [1]",
            "a: !!binary %%",
            "a: !!binary //8=",
            "!!binary //8=: 1",
            "a: !!int x",
            "a: !!bool 3",
            "a: !!float x",
            "!!int x: 1",
            "a: !foo b",
            "a: !include b",
            "a: .nan",
            "a: .inf",
            "a: 1e999",
            ".nan: 1",
            "a: >\nb",
            "a: |\nb",
            "%YAML 9.9\n---\na: 1",
            "%FOO\n---\na: 1",
            "%TAG\n---\na: 1",
            "a: `b",
            "a: @b",
            "a: %b",
            "]",
            "}",
            "a: ]",
            "a: 1\n...\nb: 1",
            "--- a\n--- b: [",
            "a: ${B}",
            "\u{0}",
            "a: \u{1}",
            "&a &b c: 1",
            "a: &",
            "a: *",
            "? a\n? a",
            "a: !!null x",
            "!!null x: 1",
            "true: 1\ntrue: 2",
            "1: a\n1: b",
            "a: !!map [1]",
            "a: !!seq {b: 1}",
            "a: !!set {b: 1}",
            "a: !!timestamp x",
            "a: !!str [1]",
        ];
        let leaks = [
            "option",
            "policy",
            "deserial",
            "serde",
            "saphyr",
            "str>",
            "&str",
            "string",
            "enum",
            "struct",
            "unit",
            "::",
            "scalar into",
            "robotic",
            "internal",
            "u64",
            "i64",
            "f64",
            "budget",
            "limit",
            "event",
        ];
        for text in faulty.iter().map(|text| (*text).to_owned()).chain(["[".repeat(100_000), "- ".repeat(100_000)]) {
            let shown: String = text.chars().take(40).collect();
            if let Err(error) = yaml::parse(&text) {
                let said = error.description.to_lowercase();
                let leaked: Vec<_> = leaks.iter().filter(|word| said.contains(**word)).collect();
                assert!(leaked.is_empty() && !said.is_empty(), "{shown:?}: {said}: {leaked:?}");
                println!("{shown:?}: {}", error.description);
            }
        }
    }
}
