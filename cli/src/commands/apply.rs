//! `apply`: read everything, check everything, then send.

use crate::api::Change;
use crate::args::{Apply, Format};
use crate::client::Client;
use crate::document::{self, Document, Source};
use crate::failure::Failure;
use crate::format::{count, target};
use crate::output::{self, print};
use crate::walk::Problem;
use crate::yaml;
use std::io::Read;
use std::path::Path;

/// Reads all files, has the server check all documents if there are several, and only then changes anything.
pub async fn run(apply: &Apply, client: &Client, format: Format) -> Result<(), Failure> {
    let sources = read_all(apply)?;
    let change = Change::from(&apply.change);
    let mut before = Vec::new();
    for source in &sources {
        before.push(client.find(&source.document).await?);
    }
    if change.validate_only || sources.len() > 1 {
        let checked = check_all(apply, client, &sources, &change).await?;
        if change.validate_only {
            return show_plan(&before, &checked, apply, format);
        }
    }
    let mut after = Vec::new();
    for (source, before) in sources.iter().zip(&before) {
        let stored = client.apply(&source.document, apply.target(), &change).await.map_err(|f| in_file(source, f))?;
        if format == Format::Table {
            print(&format!("{}\n", result_line(before.as_ref(), &stored, apply)))?;
        }
        after.push(stored);
    }
    if format == Format::Table { Ok(()) } else { print(&output::documents(format, &after, |_| String::new())) }
}

/// Every document through the server's validation; all that is wrong in any of them at once.
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
        match client.apply(&source.document, apply.target(), &check).await.map_err(|f| in_file(source, f)) {
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

/// What a dry run shows.
fn show_plan(before: &[Option<Document>], checked: &[Document], apply: &Apply, format: Format) -> Result<(), Failure> {
    if format != Format::Table {
        return print(&output::documents(format, checked, |_| String::new()));
    }
    for (before, after) in before.iter().zip(checked) {
        let (name, revision, whom) = (after.name(), after.revision(), whom(apply));
        let sentence = match Effect::of(before.as_ref(), after) {
            Effect::Created => format!("{name}: would be created, revision {revision} for {whom}"),
            Effect::Revised => format!("{name}: would become revision {revision} for {whom}"),
            Effect::Given => format!("{name}: document unchanged, revision {revision} would be for {whom}"),
            Effect::Replaced => format!("{name}: would be replaced"),
            Effect::Nothing => unchanged(after),
        };
        print(&format!("{sentence}\n{}", document::diff(before.as_ref(), after)))?;
    }
    Ok(())
}

fn result_line(before: Option<&Document>, after: &Document, apply: &Apply) -> String {
    let (name, revision, whom) = (after.name(), after.revision(), whom(apply));
    match Effect::of(before, after) {
        Effect::Created => format!("{name}: created, revision {revision} for {whom}"),
        Effect::Revised => format!("{name}: revision {revision} for {whom}"),
        Effect::Given => format!("{name}: document unchanged, revision {revision} is now for {whom}"),
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

fn whom(apply: &Apply) -> String {
    apply.target().map_or_else(|| "everyone".to_owned(), |chosen| target(Some(&chosen)))
}

/// What applying a document comes to.
enum Effect {
    Created,
    Revised,
    /// The document was there already, but it was given to others than before.
    Given,
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
            Some(before) if before.etag() != after.etag() => Self::Given,
            Some(_) => Self::Nothing,
        }
    }
}

fn read_all(apply: &Apply) -> Result<Vec<Source>, Failure> {
    let mut sources: Vec<Source> = Vec::new();
    let mut faults = Vec::new();
    for path in &apply.files {
        let (file, text) = read_text(path)?;
        match yaml::parse(&text) {
            Ok(documents) => {
                for root in &documents {
                    match document::read(&file, root) {
                        Ok(source) => sources.push(source),
                        Err(problems) => faults.extend(problems.iter().map(|problem| problem_line(&file, problem))),
                    }
                }
            }
            Err(error) => faults.push(problem_line(
                &file,
                &Problem {
                    path: String::new(),
                    line: (error.line > 0).then_some(error.line),
                    description: error.description,
                },
            )),
        }
    }
    for (index, source) in sources.iter().enumerate() {
        let name = source.document.name();
        if sources[..index].iter().any(|other| other.document.name() == name) {
            faults.push(format!("{}: {name} is given twice", source.file));
        }
    }
    if apply.target().is_some() && sources.iter().any(|source| matches!(source.document, Document::ZoneMap(_))) {
        faults.push("a zone map is for everyone; apply it without --share, --nodes and --stage".to_owned());
    }
    match (faults.len(), sources.len()) {
        (0, 0) => Err(Failure::Input("there is no document in what was given".to_owned())),
        (0, _) => Ok(sources),
        (number, _) => {
            Err(Failure::Input(format!("{}, nothing was sent\n  {}", count(number, "fault"), faults.join("\n  "))))
        }
    }
}

fn read_text(path: &Path) -> Result<(String, String), Failure> {
    let stdin = path.as_os_str() == "-";
    let file = if stdin { "standard input".to_owned() } else { path.display().to_string() };
    let mut text = String::new();
    let limit = yaml::MAX_BYTES as u64 + 1;
    let read = if stdin {
        std::io::stdin().lock().take(limit).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|open| open.take(limit).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::Input(format!("{file} cannot be read: {error}")))?;
    Ok((file, text))
}

/// `web.yaml:12: rules[0].set: …`
fn problem_line(file: &str, problem: &Problem) -> String {
    let place = match problem.line {
        Some(line) => format!("{file}:{line}"),
        None => file.to_owned(),
    };
    match problem.path.as_str() {
        "" => format!("{place}: {}", problem.description),
        path => format!("{place}: {path}: {}", problem.description),
    }
}

/// A refusal with the places in the file.
fn in_file(source: &Source, failure: Failure) -> Failure {
    let Failure::Refused(mut refusal) = failure else { return failure };
    let lines: Vec<String> = refusal
        .violations
        .drain(..)
        .map(|(field, description)| problem_line(&source.file, &source.locate(&field, &description)))
        .collect();
    refusal.message = match lines.len() {
        0 => format!("{}: {}", source.document.name(), refusal.message),
        number => {
            format!("{}: refused for {}\n  {}", source.document.name(), count(number, "fault"), lines.join("\n  "))
        }
    };
    Failure::Refused(refusal)
}
