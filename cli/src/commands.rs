//! One function for each command: ask the server, print the answer.

mod access;
mod apply;
mod audit;
mod doctor;
mod experiment;
pub mod pki;
mod restore;
mod rollout;
pub mod simulate;
mod sources;
mod switch;
mod watch;

use crate::api::Change;
use crate::args::{Arguments, ChangeArguments, Command, Explain, Format, Get, Nodes, NodesTask, Outcomes, Server};
use crate::backup;
use crate::client::Client;
use crate::document::Document;
use crate::failure::Failure;
use crate::format;
use crate::name::{Collection, Selection};
use crate::output::{self, print};
use crate::views;
use prost_types::Duration;
use sockpilot_proto::v1;
use std::time::SystemTime;

impl From<&ChangeArguments> for Change {
    fn from(arguments: &ChangeArguments) -> Self {
        Self { reason: arguments.reason.clone(), validate_only: arguments.dry_run, force: false }
    }
}

/// Does what the command line says. `now` stands in backups.
pub async fn run(arguments: Arguments, client: &Client, now: SystemTime) -> Result<(), Failure> {
    let format = arguments.output;
    match arguments.command {
        Command::Apply(apply) => apply::run(&apply, client, format).await,
        Command::Get(get) => show_documents(&get, client, format).await,
        Command::Status(status) => match (&status.name, status.watch) {
            (name, true) => {
                let look = async || {
                    let text = watch::show(name.as_ref(), client, format).await?;
                    Ok(watch::Look { text, is_last: false })
                };
                watch::run(look, watch::PERIOD, format).await
            }
            (name, false) => print(&watch::show(name.as_ref(), client, format).await?),
        },
        Command::Outcomes(outcomes) => show_outcomes(&outcomes, client, format).await,
        Command::Explain(explain) => {
            let answer = client.explain(question(&explain)).await?;
            print(&output::message(format, "ExplainFlowResponse", &answer, views::explanation::answer))
        }
        Command::Samples(samples) => {
            let name = samples.name.map(|name| name.resource()).unwrap_or_default();
            let (node, limit) = (samples.node.unwrap_or_default(), samples.limit as usize);
            let answer = client.samples(name, node, samples.recorded, limit).await?;
            warn(&answer.warnings);
            print(&output::message(format, "ListFlowSamplesResponse", &answer, |a| views::fleet::samples(&a.samples)))
        }
        Command::Simulate(asked) => simulate::run(&asked, client, format).await,
        Command::Nodes(Nodes { task: Some(NodesTask::Record(record)), .. }) => {
            let change = (&record.change).into();
            let (duration, per_second) = (record.duration.unwrap_or_default(), record.per_second);
            let recording = client.record(&record.node, duration, per_second, &change).await?;
            print(&output::message(format, "Recording", &recording, |recording| {
                views::fleet::recording_changed(recording, change.validate_only)
            }))
        }
        Command::Nodes(nodes) => {
            let answer = client.nodes(nodes.labels.into_iter().flatten().collect()).await?;
            warn(&answer.warnings);
            let off = if format == Format::Table { client.off().await? } else { Vec::new() };
            print(&output::message(format, "ListNodesResponse", &answer, |a| {
                views::fleet::nodes(&a.nodes) + &views::switches::notice(&off)
            }))
        }
        Command::Assign(assign) => {
            let change = Change { force: assign.force, ..(&assign.change).into() };
            let (name, replace) = (&assign.name, assign.replace_waves);
            let status = client.assign(name, assign.revision, assign.target(), replace, &change).await?;
            show_change(&status, format, &change)
        }
        Command::Members(members) => {
            let answer = client.members(&members.name, members.wave.unwrap_or_default()).await?;
            warn(&answer.warnings);
            print(&output::message(format, "ListMembersResponse", &answer, |a| views::status::members(&a.members)))
        }
        Command::Promote(promote) => {
            let change = Change { force: promote.force, ..(&promote.change).into() };
            show_change(&client.promote(&promote.name, &change).await?, format, &change)
        }
        Command::Rollback(rollback) => {
            let change = (&rollback.change).into();
            let revision = rollback.to_revision.unwrap_or_default();
            show_change(&client.roll_back(&rollback.name, revision, &change).await?, format, &change)
        }
        Command::Rollout(rollout) => rollout::run(&rollout, client, format).await,
        Command::Off(off) => switch::off(&off, client, format).await,
        Command::On(on) => switch::on(&on, client, format).await,
        Command::Experiment(experiment) => experiment::run(&experiment, client, format).await,
        Command::Delete(delete) => {
            client.delete(&delete.name, &(&delete.change).into()).await?;
            let done = if delete.change.dry_run { "would be deleted" } else { "deleted" };
            match format {
                Format::Table => print(&format!("{}: {done}\n", delete.name)),
                Format::Json | Format::Jsonl | Format::Yaml => print("{}\n"),
            }
        }
        Command::Audit(audit) => audit::run(audit, client, format).await,
        Command::Access(access) => access::run(&access, client, format).await,
        Command::Pki(pki) => pki::run(&pki, now),
        Command::Doctor => doctor::run(client, format).await,
        Command::Server(Server::Tasks) => {
            let answer = client.servers().await?;
            print(&output::message(format, "ListServersResponse", &answer, |a| views::servers::tasks(&a.servers)))
        }
        Command::Backup => print(&backup::to_yaml(&client.export().await?, now.into())),
        Command::Restore(restore) => restore::run(&restore, client, format).await,
    }
}

async fn show_documents(get: &Get, client: &Client, format: Format) -> Result<(), Failure> {
    match (&get.selection, get.revisions) {
        (Some(Selection::One(name)), false) => {
            let documents = prepared(get, format, vec![client.get(name).await?]);
            print(&output::document(format, &documents[0], views::documents::one))
        }
        (Some(Selection::One(name)), true) if name.revision.is_none() => {
            let revisions = prepared(get, format, client.revisions(name).await?);
            print(&output::documents(format, &revisions, views::documents::list))
        }
        (Some(Selection::Zones | Selection::RolloutSettings | Selection::Plan(_)), false) => {
            let document = match &get.selection {
                Some(Selection::Plan(name)) => client.plan(name).await?,
                Some(Selection::RolloutSettings) => Document::RolloutSettings(client.rollout_settings().await?),
                _ => client.zone_map().await?,
            };
            let documents = prepared(get, format, vec![document]);
            print(&output::document(format, &documents[0], views::documents::one))
        }
        (Some(Selection::Plans), false) => {
            let documents = prepared(get, format, client.plans().await?);
            print(&output::documents(format, &documents, views::documents::list))
        }
        (_, true) => Err(Failure::Input("--revisions wants one name: policies/NAME or experiments/NAME".to_owned())),
        (selection, false) => {
            let collections = match selection {
                Some(Selection::All(collection)) => vec![*collection],
                _ => Collection::ALL.to_vec(),
            };
            let mut documents = Vec::new();
            if selection.is_none() && format == Format::Yaml {
                // First, because the others refer to it.
                let map = client.zone_map().await?;
                let settings = Document::RolloutSettings(client.rollout_settings().await?);
                documents.extend((!map.is_empty()).then_some(map));
                documents.extend(client.plans().await?);
                documents.extend((!settings.is_empty()).then_some(settings));
            }
            for collection in collections {
                documents.extend(client.list(collection).await?);
            }
            let documents = prepared(get, format, documents);
            print(&output::documents(format, &documents, views::documents::list))
        }
    }
}

/// Documents for printing. An etag is of one state of one server: in YAML, which is for applying, only whoever asks gets it.
fn prepared(get: &Get, format: Format, mut documents: Vec<Document>) -> Vec<Document> {
    if format == Format::Yaml && !get.etag {
        documents.iter_mut().for_each(Document::forget_etag);
    }
    documents
}

/// What the server has to say beside its answer.
fn warn(warnings: &[v1::Warning]) {
    for v1::Warning { field: _, description } in warnings {
        eprintln!("warning: {description}");
    }
}

async fn show_outcomes(outcomes: &Outcomes, client: &Client, format: Format) -> Result<(), Failure> {
    let revision = experiment::revision(&outcomes.name, outcomes.revision)?;
    let request = v1::QueryOutcomesRequest {
        name: outcomes.name.resource(),
        revision,
        // By the server's clock: this machine's may be off.
        since: outcomes.since.map(|since| since.try_into().unwrap_or(Duration { seconds: i64::MAX, nanos: 0 })),
        node: outcomes.node.clone().unwrap_or_default(),
        by_size_class: outcomes.by_size,
        ..v1::QueryOutcomesRequest::default()
    };
    let answer = client.outcomes(request).await?;
    warn(&answer.warnings);
    let choice = match outcomes.name.collection {
        Collection::Policies => "RULE",
        Collection::Experiments => "ARM",
    };
    print(&output::message(format, "QueryOutcomesResponse", &answer, |a| {
        views::outcomes::table(a, choice, outcomes.by_size)
    }))
}

fn question(explain: &Explain) -> v1::ExplainFlowRequest {
    let direction = if explain.passive { v1::Direction::Passive } else { v1::Direction::Active };
    let silence = explain.silence.unwrap_or_default();
    v1::ExplainFlowRequest {
        node: explain.node.clone().unwrap_or_default(),
        local_address: explain.local.ip().to_string(),
        local_port: explain.local.port().into(),
        remote_address: explain.remote.ip().to_string(),
        remote_port: explain.remote.port().into(),
        direction: direction.into(),
        service: explain.service.clone(),
        handshake_rtt_us: explain.rtt,
        silence_ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
        overrides: explain.overrides.iter().map(ToString::to_string).collect(),
        begin_time: explain.at,
    }
}

/// What a change has led to, or would lead to.
fn show_change(status: &v1::LayerStatus, format: Format, change: &Change) -> Result<(), Failure> {
    if change.validate_only && format == Format::Table {
        print("nothing was changed; it would be:\n")?;
    }
    print(&output::message(format, "LayerStatus", status, |status| {
        views::status::table(std::slice::from_ref(status))
    }))?;
    let notes = status.notes.clone().unwrap_or_default();
    warn(&notes.warnings);
    match notes.reach.filter(|reach| format == Format::Table && reach.nodes < reach.total_nodes) {
        Some(nodes) => print(&format!("\nfor {}\n", format::reach(&nodes))),
        None => Ok(()),
    }
}
