//! The question what a change would do to recorded flows.

use prost_types::Duration;
use sockpilot_policy::{
    fault::{Collector, Faults},
    model::{Labels, LayerKind, LayerName},
    validate,
};
use sockpilot_proto::v1::{self, simulate_change_request::Change as Asked};

use super::{
    outcome::{seconds, span_s},
    target::target_from_proto,
};
use crate::{
    change::{document::Document, names, target::Target},
    fleet::simulation::{Change, FLOWS, FLOWS_MAX, Flows, Question, SINCE_S},
};

/// Reads a question.
///
/// # Errors
/// All faults.
pub fn question(message: v1::SimulateChangeRequest) -> Result<Question, Faults> {
    let v1::SimulateChangeRequest { change, target, start_time, end_time, since, node_labels, max_flows } = message;
    let mut faults = Collector::at("");
    let change = match change {
        Some(Asked::Policy(policy)) => {
            document(LayerKind::Policy, &policy.name.clone(), Document::Policy(policy), &mut faults)
        }
        Some(Asked::Experiment(experiment)) => {
            let name = experiment.name.clone();
            document(LayerKind::Experiment, &name, Document::Experiment(experiment), &mut faults)
        }
        Some(Asked::Revision(text)) => faults
            .field("revision", |faults| faults.take(names::revision_of(&text)))
            .map(|(name, number)| (name, Change::Stored(number))),
        None => {
            faults.add_at("policy", "is missing; send a policy, an experiment, or a revision as policies/NAME@N");
            None
        }
    };
    let kind = change.as_ref().map(|(name, _)| name.kind);
    let target = faults.field("target", |faults| {
        let target = target_from_proto(target.as_ref(), faults);
        match (&target, kind) {
            (Target::Nobody, _) => {
                faults
                    .add("is nobody, so nothing would change; leave it out for everyone, or name a part of the nodes");
            }
            (_, Some(LayerKind::Experiment)) => target.of_experiment(faults),
            _ => {}
        }
        target
    });
    let times = (start_time, end_time, since);
    let flows = flows(times, node_labels.into_iter().collect(), max_flows, &mut faults);
    let (change, target, flows) = faults.finish((change, target, flows))?;
    let (name, change) = change.ok_or_else(|| Faults::one("policy", "is missing"))?;
    Ok(Question { name, change, target, flows })
}

/// Checks a document under its name; with a stand-in if that is unsound.
fn document(kind: LayerKind, stated: &str, document: Document, faults: &mut Collector) -> Option<(LayerName, Change)> {
    let name = faults
        .field(document.field(), |faults| faults.field("name", |faults| faults.take(names::layer_of(kind, stated))));
    let text = name.as_ref().map_or_else(|| format!("{}/unnamed", kind.collection()), LayerName::to_string);
    let document = document.to_be_stored(&text);
    document.check(faults);
    Some((name?, Change::Document(document)))
}

type Times = (Option<prost_types::Timestamp>, Option<prost_types::Timestamp>, Option<Duration>);

fn flows((start, end, since): Times, node_labels: Labels, max_flows: u32, faults: &mut Collector) -> Flows {
    let (start_s, end_s) = (seconds("start_time", start, faults), seconds("end_time", end, faults));
    if start.is_some() && since.is_some() {
        faults.add_at("since", "stands beside start_time; leave one of them out");
    }
    if let (Some(start_s), Some(end_s)) = (start_s, end_s)
        && start_s > end_s
    {
        faults.add_at("end_time", "is before start_time; swap them");
    }
    let since_s = since.and_then(|since| span_s("since", since, faults)).unwrap_or(SINCE_S);
    faults.field("node_labels", |faults| validate::labels(&node_labels, faults));
    if max_flows > FLOWS_MAX {
        faults.add_at("max_flows", format!("is {max_flows}; write at most {FLOWS_MAX}"));
    }
    let max = if max_flows == 0 { FLOWS } else { max_flows } as usize;
    Flows { start_s, since_s, end_s, node_labels, max }
}
