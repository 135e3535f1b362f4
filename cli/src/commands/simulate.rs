//! `simulate`: by a server, or by the same code here.

use crate::args::{Format, Simulate};
use crate::client::Client;
use crate::commands::apply::in_file;
use crate::commands::sources::{self, problem_line};
use crate::commands::warn;
use crate::document::{Document, Source};
use crate::failure::Failure;
use crate::output::{self, print};
use crate::{schema, views};
use prost_reflect::DynamicMessage;
use prost_types::Duration;
use sockpilot_proto::convert::{experiment_from_proto, layer_of_experiment, layer_of_policy, policy_from_proto};
use sockpilot_proto::v1::{self, simulate_change_request::Change};
use sockpilot_simulate::simulate_alone;
use std::path::Path;

/// Largest file of recorded connections; more than a server gives.
const FLOWS_BYTES_MAX: u64 = 512 << 20;
/// Faults of such a file that are told.
const FAULTS_MAX: usize = 10;

/// Does what the command line says.
pub async fn run(asked: &Simulate, client: &Client, format: Format) -> Result<(), Failure> {
    match &asked.flows {
        Some(flows) => without_server(asked, flows, format),
        None => by_server(asked, client, format).await,
    }
}

async fn by_server(asked: &Simulate, client: &Client, format: Format) -> Result<(), Failure> {
    let source = asked.file.as_deref().map(one).transpose()?;
    let (what, change) = match (&source, &asked.name) {
        (Some(source), _) => (source.document.name().to_owned(), change(source)?),
        (None, name) => {
            let name = name.as_ref().map(ToString::to_string).unwrap_or_default();
            (name.clone(), Change::Revision(name))
        }
    };
    let request = v1::SimulateChangeRequest {
        change: Some(change),
        target: asked.target(),
        since: asked.since.map(|since| since.try_into().unwrap_or(Duration { seconds: i64::MAX, nanos: 0 })),
        node_labels: asked.labels.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect(),
        max_flows: asked.max_flows.unwrap_or_default(),
        ..v1::SimulateChangeRequest::default()
    };
    let answer = client.simulate(request).await.map_err(|failure| match &source {
        Some(source) => in_file(source, failure),
        None => failure,
    })?;
    warn(&answer.warnings);
    print(&output::message(format, "SimulateChangeResponse", &answer, |answer| {
        views::simulation::answer(&what, answer)
    }))
}

/// The one document of a file.
fn one(path: &Path) -> Result<Source, Failure> {
    let mut sources = sources::read_all(&[path.to_owned()], false)?;
    match (sources.pop(), sources.is_empty()) {
        (Some(source), true) => Ok(source),
        _ => Err(Failure::Input(format!("{} has several documents; simulate one at a time", path.display()))),
    }
}

fn change(source: &Source) -> Result<Change, Failure> {
    match &source.document {
        Document::Policy(policy) => Ok(Change::Policy(policy.clone())),
        Document::Experiment(experiment) => Ok(Change::Experiment(experiment.clone())),
        Document::ZoneMap(_) => {
            Err(Failure::Input("a zone map cannot be simulated; name a policy or an experiment".to_owned()))
        }
        other @ (Document::RolloutPlan(_) | Document::RolloutSettings(_)) => {
            let why = format!("{} cannot be simulated; name a policy or an experiment", other.name());
            Err(Failure::Input(why))
        }
    }
}

fn without_server(asked: &Simulate, flows: &Path, format: Format) -> Result<(), Failure> {
    let file = asked.file.as_deref().ok_or_else(|| Failure::Input("--flows wants a document: -f FILE".to_owned()))?;
    let candidate = one(file)?;
    change(&candidate)?;
    let against = if asked.against.is_empty() { vec![] } else { sources::read_all(&asked.against, false)? };
    let map = zone_map(asked.zones.as_deref())?;
    let mut before = vec![];
    let mut after = vec![layer(&candidate)?];
    for source in &against {
        let layer = layer(source)?;
        if source.document.name() != candidate.document.name() {
            after.push(layer.clone());
        }
        before.push(layer);
    }
    let simulation = simulate_alone(&read_flows(flows)?, before, after, &map);
    // Each document was checked by itself; together they cannot be more wrong.
    let simulation = simulation.map_err(|faults| Failure::Input(faults.to_string()))?;
    let what = candidate.document.name();
    print(&output::message(format, "Simulation", &simulation, |simulation| {
        views::simulation::simulation(what, simulation)
    }))
}

fn zone_map(path: Option<&Path>) -> Result<v1::ZoneMap, Failure> {
    let Some(path) = path else { return Ok(v1::ZoneMap::default()) };
    match one(path)?.document {
        Document::ZoneMap(map) => Ok(map),
        other => Err(Failure::Input(format!("{}: {} is no zone map", path.display(), other.name()))),
    }
}

/// What nodes get of a document.
fn layer(source: &Source) -> Result<v1::Layer, Failure> {
    let wrong = |text: String| Failure::Input(format!("{}: {text}", source.file));
    let (labels, faults) = match &source.document {
        Document::Policy(policy) => (&policy.node_labels, policy_from_proto(policy, "").err()),
        Document::Experiment(experiment) => (&experiment.node_labels, experiment_from_proto(experiment, "").err()),
        Document::ZoneMap(_) => return Err(wrong("give the zone map as --zones".to_owned())),
        Document::RolloutPlan(_) | Document::RolloutSettings(_) => {
            return Err(wrong("says nothing of connections; leave it out".to_owned()));
        }
    };
    if let Some(faults) = faults {
        let lines = faults.as_slice().iter().map(|fault| {
            let problem = source.locate(&fault.field, &fault.description);
            problem_line(&source.file, &problem)
        });
        return Err(sources::refused(&lines.collect::<Vec<_>>()));
    }
    let name = source.document.name();
    if !labels.is_empty() {
        let labels = crate::format::labels(labels);
        return Err(wrong(format!(
            "{name} is for nodes with {labels}, and recorded connections do not say what labels their nodes have; ask a server, or leave \
             node_labels out and take the connections of such nodes only"
        )));
    }
    let parsed = name.parse().map_err(wrong)?;
    Ok(match source.document.clone() {
        Document::Policy(policy) => layer_of_policy(policy, &parsed, 0),
        Document::Experiment(experiment) => layer_of_experiment(experiment, &parsed, 0),
        Document::ZoneMap(_) | Document::RolloutPlan(_) | Document::RolloutSettings(_) => v1::Layer::default(),
    })
}

fn read_flows(path: &Path) -> Result<Vec<v1::FlowSample>, Failure> {
    let (file, text) = sources::read_at_most(path, FLOWS_BYTES_MAX + 1)?;
    if text.len() as u64 > FLOWS_BYTES_MAX {
        return Err(Failure::Input(format!("{file} has more than {} MiB; give a part of it", FLOWS_BYTES_MAX >> 20)));
    }
    flows_of(&file, &text)
}

/// Recorded connections, one a line, in the proto JSON mapping.
pub fn flows_of(file: &str, text: &str) -> Result<Vec<v1::FlowSample>, Failure> {
    let descriptor = schema::message("FlowSample");
    let (mut flows, mut faults) = (vec![], vec![]);
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let mut json = serde_json::Deserializer::from_str(line);
        let read =
            DynamicMessage::deserialize(descriptor.clone(), &mut json).and_then(|message| json.end().map(|()| message));
        match read.map_err(|error| error.to_string()).and_then(|m| m.transcode_to().map_err(|error| error.to_string()))
        {
            Ok(flow) => flows.push(flow),
            Err(why) => faults.push(format!("{file}:{}: no recorded connection: {why}", index + 1)),
        }
        if faults.len() == FAULTS_MAX {
            break;
        }
    }
    if faults.is_empty() { Ok(flows) } else { Err(sources::refused(&faults)) }
}
