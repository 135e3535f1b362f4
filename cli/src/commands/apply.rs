//! `apply`: read everything, check everything, then send.

use crate::api::Change;
use crate::args::{Apply, Format};
use crate::client::Client;
use crate::commands::sources::{self, problem_line};
use crate::document::{self, Document, Source};
use crate::failure::Failure;
use crate::format::{count, reach, target};
use crate::output::{self, print};
use sockpilot_proto::v1;

/// Reads all files, has the server check all documents if there are several, and only then changes anything.
pub async fn run(apply: &Apply, client: &Client, format: Format) -> Result<(), Failure> {
    let mut sources = sources::read_all(&apply.files, apply.recursive)?;
    if apply.target().is_some() && sources.iter().any(|source| matches!(source.document, Document::ZoneMap(_))) {
        let text = "a zone map is for everyone; apply it without --share, --nodes and --stage".to_owned();
        return Err(sources::refused(&[text]));
    }
    let change = Change::from(&apply.change);
    let mut before = Vec::new();
    for source in &mut sources {
        let found = client.find(&source.document).await?;
        if found.is_none() {
            // It is about something that is not here any more, or of another server; there is nothing that it could guard.
            source.document.forget_etag();
        }
        before.push(found);
    }
    if change.validate_only || sources.len() > 1 {
        let checked = check_all(apply, client, &sources, &change).await?;
        if change.validate_only {
            return show_plan(&sources, &before, &checked, apply, format);
        }
    }
    let mut after = Vec::new();
    for (source, before) in sources.iter().zip(&before) {
        let answer = client.apply(&source.document, apply.target(), &change, None).await;
        let stored = answer.map_err(|failure| interrupted(in_file(source, failure), &sources, after.len()))?;
        if format == Format::Table {
            print(&format!("{}\n", result_line(before.as_ref(), &stored, apply)))?;
        }
        warn(source, &stored);
        after.push(stored);
    }
    if format == Format::Table { Ok(()) } else { print(&output::documents(format, &after, |_| String::new())) }
}

/// What the server has to say of a document, where it stands in its file.
fn warn(source: &Source, answer: &Document) {
    for v1::Warning { field, description } in answer.notes().into_iter().flat_map(|notes| &notes.warnings) {
        let problem = source.locate(field, description);
        // What is not in the file was said on the command line.
        let line = if field.starts_with("target") { description.clone() } else { problem_line(&source.file, &problem) };
        eprintln!("warning: {}: {line}", source.document.name());
    }
}

/// A failure in the middle of several documents says what was done and what was not.
fn interrupted(failure: Failure, sources: &[Source], done: usize) -> Failure {
    if sources.len() == 1 {
        return failure;
    }
    let names = |sources: &[Source]| match sources.iter().map(|source| source.document.name()).collect::<Vec<_>>() {
        none if none.is_empty() => "none".to_owned(),
        names => names.join(", "),
    };
    let (stored, rest) = sources.split_at(done);
    let (failed, rest) = rest.split_at(1);
    // A call without an answer may have been made.
    let (verb, failed) = match failure {
        Failure::Unreachable(_) => ("perhaps applied", names(failed)),
        _ => ("refused", names(failed)),
    };
    let text = format!(
        "applied: {}; {verb}: {failed}; not applied: {}; the same again goes on there",
        names(stored),
        names(rest)
    );
    failure.with(&text)
}

/// Every document through the server's validation, beside the others; all that is wrong in any of them at once.
async fn check_all(
    apply: &Apply,
    client: &Client,
    sources: &[Source],
    change: &Change,
) -> Result<Vec<Document>, Failure> {
    let check = Change { validate_only: true, ..change.clone() };
    let mut checked = Vec::new();
    let mut refused: Option<Failure> = None;
    for source in sources {
        let answer = client.apply(&source.document, apply.target(), &check, beside(source, sources)).await;
        match answer.map_err(|failure| in_file(source, failure)) {
            Ok(document) => checked.push(document),
            Err(Failure::Refused(mut refusal)) => {
                if let Some(Failure::Refused(first)) = refused {
                    refusal.message = format!("{first}\n{}", refusal.message);
                }
                refused = Some(Failure::Refused(refusal));
            }
            Err(failure) => return Err(failure),
        }
    }
    refused.map_or(Ok(checked), Err)
}

/// What a document is to be checked with: the zones that it may name, and for an experiment the others.
fn beside(source: &Source, sources: &[Source]) -> Option<v1::Beside> {
    let mut beside = v1::Beside::default();
    for Source { document, .. } in sources {
        match document {
            Document::ZoneMap(map) => beside.zone_map = Some(map.clone()),
            Document::Experiment(other) if matches!(source.document, Document::Experiment(_)) => {
                if document.name() != source.document.name() {
                    beside.experiments.push(other.clone());
                }
            }
            Document::Experiment(_) | Document::Policy(_) => {}
        }
    }
    (beside != v1::Beside::default()).then_some(beside)
}

/// What a dry run shows.
fn show_plan(
    sources: &[Source],
    before: &[Option<Document>],
    checked: &[Document],
    apply: &Apply,
    format: Format,
) -> Result<(), Failure> {
    for (source, answer) in sources.iter().zip(checked) {
        warn(source, answer);
    }
    if format != Format::Table {
        return print(&output::documents(format, checked, |_| String::new()));
    }
    for (before, after) in before.iter().zip(checked) {
        let (name, revision, whom) = (after.name(), after.revision(), whom(apply, after));
        let sentence = match Effect::of(before.as_ref(), after) {
            Effect::Created => format!("{name}: would be created, revision {revision} for {whom}"),
            Effect::Revised => format!("{name}: would become revision {revision} for {whom}"),
            Effect::Mended => format!("{name}: other words, would stay at revision {revision}"),
            Effect::Assigned => format!("{name}: document unchanged, revision {revision} would be for {whom}"),
            Effect::Replaced => format!("{name}: would be replaced"),
            Effect::Nothing => unchanged(after),
        };
        print(&format!("{sentence}\n{}", document::diff(before.as_ref(), after)))?;
    }
    Ok(())
}

fn result_line(before: Option<&Document>, after: &Document, apply: &Apply) -> String {
    let (name, revision, whom) = (after.name(), after.revision(), whom(apply, after));
    match Effect::of(before, after) {
        Effect::Created => format!("{name}: created, revision {revision} for {whom}"),
        Effect::Revised => format!("{name}: revision {revision} for {whom}"),
        Effect::Mended => format!("{name}: other words, still revision {revision}"),
        Effect::Assigned => format!("{name}: document unchanged, revision {revision} is now for {whom}"),
        Effect::Replaced => format!("{name}: replaced"),
        Effect::Nothing => unchanged(after),
    }
}

fn unchanged(document: &Document) -> String {
    match document.revision() {
        0 => format!("{}: unchanged", document.name()),
        revision => format!("{}: unchanged at revision {revision}", document.name()),
    }
}

/// `everyone`, `role=edge: 3 of 40 nodes`.
fn whom(apply: &Apply, answer: &Document) -> String {
    let chosen = apply.target();
    let whom = chosen.as_ref().map_or_else(|| "everyone".to_owned(), |chosen| target(Some(chosen)));
    match answer.notes().and_then(|notes| notes.reach).filter(|r| chosen.is_some() || r.nodes < r.total_nodes) {
        Some(nodes) => format!("{whom}: {}", reach(&nodes)),
        None => whom,
    }
}

/// What applying a document comes to.
enum Effect {
    Created,
    Revised,
    /// An experiment with other words.
    Mended,
    /// The document was there already, but it was given to others than before.
    Assigned,
    /// There is one of its kind, without revisions.
    Replaced,
    Nothing,
}

impl Effect {
    fn of(before: Option<&Document>, after: &Document) -> Self {
        match before {
            _ if matches!(after, Document::ZoneMap(_)) => {
                if document::diff(before, after).is_empty() {
                    Self::Nothing
                } else {
                    Self::Replaced
                }
            }
            None => Self::Created,
            Some(before) if before.revision() != after.revision() => Self::Revised,
            Some(before) if !document::diff(Some(before), after).is_empty() => Self::Mended,
            Some(before) if before.etag() != after.etag() => Self::Assigned,
            Some(_) => Self::Nothing,
        }
    }
}

/// A refusal with the places in the file.
pub(super) fn in_file(source: &Source, failure: Failure) -> Failure {
    let Failure::Refused(mut refusal) = failure else { return failure };
    let lines: Vec<String> = refusal
        .violations
        .drain(..)
        .map(|(field, description)| problem_line(&source.file, &source.locate(&field, &description)))
        .collect();
    refusal.message = match lines.len() {
        // The server begins with the name where it has one.
        0 if refusal.message.starts_with(source.document.name()) => refusal.message,
        0 => format!("{}: {}", source.document.name(), refusal.message),
        number => {
            format!("{}: refused for {}\n  {}", source.document.name(), count(number, "fault"), lines.join("\n  "))
        }
    };
    Failure::Refused(refusal)
}
