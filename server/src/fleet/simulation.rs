//! The question what a change would do to recorded flows, what the answer is made of, and the answer. `sockpilot_simulate` decides
//! and counts.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use sockpilot_policy::{
    fault::Faults,
    model::{Labels, LayerName, Snapshot},
};
use sockpilot_proto::{
    convert::{snapshot_from_proto, zone_map_from_proto},
    v1,
};
use sockpilot_simulate::{Layers, Tally, simulate, touched_by_node};

use super::resolve::{Fleet, Key, Revision};
use crate::{
    change::{
        document::Document,
        notes::Warning,
        reach::{self, Seen},
        target::{Target, carries},
        wave::Candidate,
    },
    clock::second,
};

/// Recorded flows that are used if nobody says how many.
pub const FLOWS: u32 = 20_000;
/// Recorded flows that are used at most.
pub const FLOWS_MAX: u32 = 100_000;
/// How far back recorded flows are looked for if nobody says so.
pub const SINCE_S: i64 = 3_600;

/// A question, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    pub name: LayerName,
    pub change: Change,
    /// Whom it would be for; never nobody.
    pub target: Target,
    pub flows: Flows,
}

/// What is asked about.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one lives for each question")]
pub enum Change {
    /// Something new.
    Document(Document),
    /// A revision that is stored.
    Stored(u64),
}

/// Which recorded flows.
#[derive(Debug, Clone, PartialEq)]
pub struct Flows {
    /// Those that ended since then, in seconds since 1970; `None`: `since_s`.
    pub start_s: Option<i64>,
    /// Those that ended in the time before now.
    pub since_s: i64,
    /// Those that ended before; `None`: now.
    pub end_s: Option<i64>,
    /// Of nodes with these labels.
    pub node_labels: Labels,
    pub max: usize,
}

impl Default for Flows {
    /// Of the last hour.
    fn default() -> Self {
        let (start_s, end_s, node_labels) = (None, None, Labels::new());
        Self { start_s, since_s: SINCE_S, end_s, node_labels, max: FLOWS as usize }
    }
}

impl Flows {
    /// The time in which they ended.
    #[must_use]
    pub fn ended_s(&self, now_s: i64) -> Range<i64> {
        // What ended in this second is there, too.
        let end_s = self.end_s.unwrap_or(now_s.saturating_add(1));
        self.start_s.unwrap_or(now_s.saturating_sub(self.since_s))..end_s
    }
}

/// What the answer is made of.
#[derive(Debug)]
pub struct State {
    /// What is assigned.
    pub fleet: Fleet,
    /// What would be given.
    pub document: Document,
    /// As a node would get it.
    pub candidate: Arc<Revision>,
    pub nodes: Vec<Seen>,
    pub flows: Vec<v1::FlowSample>,
    /// When they ended.
    pub ended_s: Range<i64>,
    /// There are, or were, more of that time.
    pub cut: bool,
    pub flows_read: u64,
}

/// What is answered, but for the warnings.
#[derive(Debug)]
pub struct Answer {
    pub response: v1::SimulateChangeResponse,
    pub warnings: Vec<Warning>,
}

/// Answers a question. Ten thousands of flows are decided about twice: not on a thread that serves streams.
///
/// # Errors
/// What is stored that this version cannot read.
pub fn answer(question: &Question, state: &State) -> Result<Answer, Faults> {
    let State { fleet, document: _, candidate, nodes, flows, ended_s, cut, flows_read } = state;
    let after = fleet.assigning(candidate.clone(), &question.target);
    let layers_of = layers_of(fleet, &after, nodes);
    let map = v1::ZoneMap { zones: fleet.zones.zones.clone(), ..v1::ZoneMap::default() };
    let simulation = simulate(flows, &zone_map_from_proto(&map, "zones")?, layers_of)?;
    let response = v1::SimulateChangeResponse {
        simulation: Some(simulation),
        generation: fleet.generation,
        start_time: Some(second(ended_s.start)),
        end_time: Some(second(ended_s.end)),
        cut: *cut,
        flows_read: *flows_read,
        warnings: vec![],
    };
    Ok(Answer { response, warnings: warnings(question, state) })
}

/// How many connections of each node would get something else if everyone had the candidate, where everyone has `before` of its policy now, and
/// nobody anything else. Takes as long as [`answer`].
///
/// # Errors
/// What is stored that this version cannot read.
pub fn touched(before: Option<Arc<Revision>>, state: &State) -> Result<BTreeMap<String, Tally>, Faults> {
    let State { fleet, candidate, nodes, flows, .. } = state;
    let after = fleet.assigning(candidate.clone(), &Target::Everyone);
    let before = match before {
        Some(before) => fleet.assigning(before, &Target::Everyone),
        None => fleet.without(&candidate.name),
    };
    touched_by_node(flows, layers_of(&before, &after, nodes))
}

/// What a node is asked before and after; the same snapshot where it is the same.
fn layers_of<'a>(
    before: &'a Fleet,
    after: &'a Fleet,
    nodes: &'a [Seen],
) -> impl FnMut(&str) -> Result<Option<Layers>, Faults> + 'a {
    let known: BTreeMap<&str, &Seen> = nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut snapshots = Snapshots::default();
    move |node| {
        let Some(seen) = known.get(node) else { return Ok(None) };
        let node = seen.candidate();
        Ok(Some(Layers { before: snapshots.of(before, &node)?, after: snapshots.of(after, &node)? }))
    }
}

/// The snapshots in use, so that nodes with equal layers share one.
#[derive(Default)]
struct Snapshots(HashMap<Key, Arc<Snapshot>>);

impl Snapshots {
    fn of(&mut self, fleet: &Fleet, node: &Candidate<'_>) -> Result<Arc<Snapshot>, Faults> {
        let layers = fleet.layers_of(node);
        let key = fleet.key(&layers);
        if let Some(snapshot) = self.0.get(&key) {
            return Ok(snapshot.clone());
        }
        let snapshot = Arc::new(snapshot_from_proto(&fleet.message(&layers))?);
        self.0.insert(key, snapshot.clone());
        Ok(snapshot)
    }
}

fn warnings(question: &Question, state: &State) -> Vec<Warning> {
    let State { fleet, document, nodes, flows, .. } = state;
    let labels = document.node_labels();
    let mut warnings = vec![];
    if let Some((field, why)) = reach::for_none(document.field(), &question.target, &labels, nodes) {
        warnings.push(Warning::new(&field, why));
    }
    for zone in fleet.zones.lacks(document) {
        let why = format!("there is no zone {zone}, so no connection is in it; add it to the zone map first");
        warnings.push(Warning::new(document.field(), why));
    }
    let asked = &question.flows.node_labels;
    if !nodes.is_empty() && !nodes.iter().any(|node| carries(&node.labels, asked)) {
        warnings.push(Warning::new("node_labels", reach::near(asked, nodes)));
    } else if flows.is_empty() {
        let why = "no recorded flow ended in that time; ask about a longer one, or see what `ListFlowSamples` has";
        warnings.push(Warning::new("", why));
    }
    warnings
}
