//! `apply`: read everything, check everything, then send.

mod lines;

use crate::api::{Change, Way};
use crate::args::{self, Apply, Format};
use crate::client::Client;
use crate::commands::rollout::{previewed, wait};
use crate::commands::sources::{self, problem_line};
use crate::document::{self, Document, Source};
use crate::failure::Failure;
use crate::format::count;
use crate::name::LayerName;
use crate::output::{self, print};
use crate::views::rollout::preview;
use lines::Effect;
use sockpilot_proto::v1::{self, target::Kind};

/// Reads all files, has the server check all documents if there are several, and only then changes anything.
pub async fn run(apply: &Apply, client: &Client, format: Format) -> Result<(), Failure> {
    let mut sources = sources::read_all(&apply.files, apply.recursive)?;
    fits(apply, &sources)?;
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
        let checked = check_all(apply, client, &sources, &before, &change).await?;
        if change.validate_only {
            return show_plan(&sources, &before, &checked, apply, client, format).await;
        }
    }
    let mut after = Vec::new();
    for (source, before) in sources.iter().zip(&before) {
        let answer = client.apply(&source.document, way(apply, &source.document), &change).await;
        let stored = answer.map_err(|failure| interrupted(in_file(source, failure), &sources, after.len()))?;
        if format == Format::Table {
            print(&format!("{}\n", lines::done(&Effect::of(before.as_ref(), &stored), &stored, apply)))?;
        }
        warn(source, &stored);
        after.push(stored);
    }
    if format != Format::Table {
        print(&output::documents(format, &after, |_| String::new()))?;
    }
    let rollouts: Vec<String> = after.iter().filter_map(rollout).map(str::to_owned).collect();
    match apply.rollout.wait {
        Some(timeout) if !rollouts.is_empty() => wait::run(&rollouts, timeout, client, format).await,
        _ => Ok(()),
    }
}

/// Whether what was said on the command line can be said of these documents.
fn fits(apply: &Apply, sources: &[Source]) -> Result<(), Failure> {
    let refused = |text: String| Err(sources::refused(&[text]));
    let for_everyone = sources.iter().find(|source| !source.document.is_for_nodes());
    if let Some(source) = for_everyone.filter(|_| apply.part().is_some()) {
        let kind = source.document.kind();
        return refused(format!("a {kind} is for everyone; apply it without --share, --nodes and --stage"));
    }
    let has_policy = sources.iter().any(|source| matches!(source.document, Document::Policy(_)));
    if let Some(option) = apply.rollout.said().filter(|_| !has_policy) {
        return refused(format!("{option} is about rollouts of policies, and there is no policy in what was given"));
    }
    let is_past_rollouts = apply.target().is_some_and(|target| !matches!(target.kind, Some(Kind::Nobody(_))));
    if has_policy && is_past_rollouts && apply.change.reason.is_empty() {
        return Err(args::past_rollouts(if apply.share.is_some() { "--share" } else { "--nodes" }));
    }
    Ok(())
}

/// How a document is to reach nodes.
fn way(apply: &Apply, document: &Document) -> Way {
    match document {
        Document::Policy(_) => {
            let rollout = apply.rollout.said().map(|_| apply.rollout.options());
            Way { target: apply.target(), rollout, beside: None }
        }
        _ => Way { target: apply.part(), ..Way::default() },
    }
}

/// The rollout that a change has begun, or found under way.
fn rollout(answer: &Document) -> Option<&str> {
    answer.notes().map(|notes| notes.rollout.as_str()).filter(|rollout| !rollout.is_empty())
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
    before: &[Option<Document>],
    change: &Change,
) -> Result<Vec<Document>, Failure> {
    let check = Change { validate_only: true, ..change.clone() };
    let made: Vec<&str> =
        sources.iter().zip(before).filter(|(_, b)| b.is_none()).map(|(s, _)| s.document.name()).collect();
    let mut checked = Vec::new();
    let mut refused: Option<Failure> = None;
    for source in sources {
        let (document, way) = without_plans(source, apply, &made);
        let way = Way { beside: beside(source, sources), ..way };
        let answer = client.apply(&document, way, &check).await;
        match answer.map_err(|failure| in_file(source, failure)) {
            Ok(answer) => checked.push(with_default_plan(answer, &source.document)),
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

/// What is checked instead of what refers to a plan that is made in the same go, which no server knows yet.
fn without_plans(source: &Source, apply: &Apply, made: &[&str]) -> (Document, Way) {
    let (mut document, mut way) = (source.document.clone(), way(apply, &source.document));
    let forget = |plan: &mut String| {
        if made.contains(&plan.as_str()) {
            plan.clear();
        }
    };
    if let Document::RolloutSettings(settings) = &mut document {
        forget(&mut settings.default_plan);
    }
    way.rollout.iter_mut().for_each(|options| forget(&mut options.plan));
    (document, way)
}

fn with_default_plan(mut answer: Document, given: &Document) -> Document {
    if let (Document::RolloutSettings(answer), Document::RolloutSettings(given)) = (&mut answer, given) {
        answer.default_plan.clone_from(&given.default_plan);
    }
    answer
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
            Document::Experiment(_) | Document::Policy(_) | Document::RolloutPlan(_) | Document::RolloutSettings(_) => {
            }
        }
    }
    (beside != v1::Beside::default()).then_some(beside)
}

/// What a dry run shows.
async fn show_plan(
    sources: &[Source],
    before: &[Option<Document>],
    checked: &[Document],
    apply: &Apply,
    client: &Client,
    format: Format,
) -> Result<(), Failure> {
    for (source, answer) in sources.iter().zip(checked) {
        warn(source, answer);
    }
    if format != Format::Table {
        return print(&output::documents(format, checked, |_| String::new()));
    }
    for (before, after) in before.iter().zip(checked) {
        let effect = Effect::of(before.as_ref(), after);
        let sentence = lines::planned(&effect, after, apply);
        print(&format!("{sentence}\n{}", document::diff(before.as_ref(), after)))?;
        if matches!(effect, Effect::Assigned | Effect::Nothing) {
            show_preview(after, apply, client).await?;
        }
    }
    Ok(())
}

/// What the rollout of a policy would do that is stored already; nothing if everyone has it, or it is under way.
async fn show_preview(document: &Document, apply: &Apply, client: &Client) -> Result<(), Failure> {
    let is_policy = matches!(document, Document::Policy(_));
    if !is_policy || apply.target().is_some() || rollout(document).is_some() {
        return Ok(());
    }
    let name: LayerName = document.name().parse().map_err(Failure::Input)?;
    let revision = document.revision();
    let is_everyones = |assignment: &v1::Assignment| {
        let target = assignment.target.as_ref().and_then(|target| target.kind.as_ref());
        assignment.revision == revision && matches!(target, Some(Kind::Everyone(_)))
    };
    if client.status(&name).await?.assignments.iter().any(is_everyones) {
        return Ok(());
    }
    let name = LayerName { revision: Some(revision), ..name };
    let answer = previewed(&name, apply.rollout.options(), &apply.change.reason, client).await?;
    print(&format!("\n{}", preview::one(&answer)))
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
