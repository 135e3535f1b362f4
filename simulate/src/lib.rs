//! What a change would do to connections that were recorded: the decision by the layers that are in force, and by those that would be.
//!
//! Pure, and independent of the order of the flows: the same flows and layers give the same answer, byte for byte, on a server and on
//! the machine of whoever has a file of recorded flows.
#![warn(missing_docs)]

mod alone;
mod asks;
mod breakdown;
mod notes;
mod places;
mod recorded;
mod tally;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use prost_types::Timestamp;
use sockpilot_policy::{
    given::Given,
    model::{LayerBody, Snapshot, Unit, Value, Zone},
    parameter::PARAMETERS,
    unit::on_node,
};
use sockpilot_proto::v1;

pub use self::{alone::simulate_alone, tally::Tally};
use self::{
    asks::Asks,
    breakdown::Breakdowns,
    notes::{Note, Notes},
    places::Places,
    recorded::Recorded,
    tally::Part,
};

/// Pairs of parameter and values that an answer has.
pub const CHANGES_MAX: usize = 100;
/// Keys of a breakdown that have a row of their own.
pub const ROWS_MAX: usize = 20;

/// What is asked of a node's connections, before and after a change, in the order of decision.
#[derive(Debug, Clone)]
pub struct Layers {
    /// What is in force now.
    pub before: Arc<Snapshot>,
    /// What would be; the same snapshot where the change does not reach the node.
    pub after: Arc<Snapshot>,
}

/// Decides about recorded flows by the layers of their nodes, which are asked for once for each node, by its id; `None`: the node is not
/// known.
///
/// # Errors
/// The first error that the layers of a node are.
pub fn simulate<E>(
    flows: &[v1::FlowSample],
    zones: &[Zone],
    layers_of: impl FnMut(&str) -> Result<Option<Layers>, E>,
) -> Result<v1::Simulation, E> {
    decide(flows, zones, layers_of).map(Found::into_answer)
}

/// As [`simulate`], but only how many connections are touched, by the id of their node.
///
/// # Errors
/// The first error that the layers of a node are.
pub fn touched_by_node<E>(
    flows: &[v1::FlowSample],
    layers_of: impl FnMut(&str) -> Result<Option<Layers>, E>,
) -> Result<BTreeMap<String, Tally>, E> {
    decide(flows, &[], layers_of).map(|found| found.breakdowns.into_nodes())
}

fn decide<'a, E>(
    flows: &[v1::FlowSample],
    zones: &'a [Zone],
    mut layers_of: impl FnMut(&str) -> Result<Option<Layers>, E>,
) -> Result<Found<'a>, E> {
    let mut found = Found::new(zones);
    // Kept to the end: places are remembered by snapshot.
    let mut all: Vec<Layers> = vec![];
    for (node, flows) in by_node(flows) {
        match layers_of(node.trim_start_matches("nodes/"))? {
            Some(layers) => {
                found.add_node(node, &layers, &flows);
                all.push(layers);
            }
            None => flows.iter().for_each(|flow| found.notes.add(Note::UnknownNode, flow.weight)),
        }
    }
    Ok(found)
}

/// The flows of each node, in an order that does not depend on the one in which they come: sums of weights depend on it.
fn by_node(flows: &[v1::FlowSample]) -> BTreeMap<&str, Vec<&v1::FlowSample>> {
    let mut nodes: BTreeMap<&str, Vec<&v1::FlowSample>> = BTreeMap::new();
    for flow in flows {
        nodes.entry(&flow.node).or_default().push(flow);
    }
    for flows in nodes.values_mut() {
        flows.sort_by(|a, b| {
            let key = |flow: &v1::FlowSample| {
                let end = flow.close_time.unwrap_or_default();
                (end.seconds, end.nanos, flow.local_port, flow.remote_port, flow.weight.to_bits())
            };
            let addresses = || (&a.local_address, &a.remote_address).cmp(&(&b.local_address, &b.remote_address));
            key(a).cmp(&key(b)).then_with(addresses)
        });
    }
    nodes
}

/// A slot, and the values before and after.
type Change<'a> = (usize, Option<&'a Value>, Option<&'a Value>);

/// What was found so far.
struct Found<'a> {
    total: Tally,
    /// The flows of each change, by kind.
    changes: BTreeMap<(usize, Option<String>, Option<String>), [Part; 2]>,
    breakdowns: Breakdowns<'a>,
    notes: Notes,
    places: Places,
    /// When the first and the last flow ended: seconds and nanoseconds.
    ends: Option<[(i64, i32); 2]>,
}

impl<'a> Found<'a> {
    fn new(zones: &'a [Zone]) -> Self {
        let breakdowns = Breakdowns::new(zones);
        let (total, changes, notes, places) = Default::default();
        Self { total, changes, breakdowns, notes, places, ends: None }
    }

    fn add_node(&mut self, node: &str, layers: &Layers, flows: &[&v1::FlowSample]) {
        let asks = Asks::of(layers);
        let id = node.trim_start_matches("nodes/");
        let (mut before, mut after) = (resolved(&layers.before, id), resolved(&layers.after, id));
        let same = Arc::ptr_eq(&layers.before, &layers.after);
        for flow in flows {
            match Recorded::read(flow) {
                Ok(recorded) => {
                    self.places.narrow(&layers.before, &mut before, &recorded);
                    self.places.narrow(&layers.after, &mut after, &recorded);
                    let given = Given::of(&before, &recorded.flow(), 0);
                    let changes =
                        if same { vec![] } else { differences(&given, &Given::of(&after, &recorded.flow(), 0)) };
                    self.notes.of_flow(&recorded, &asks, &given);
                    self.add(node, &recorded, &changes);
                }
                Err(why) => self.notes.add(why, flow.weight),
            }
        }
    }

    fn add(&mut self, node: &str, recorded: &Recorded<'_>, changes: &[Change<'_>]) {
        let (kind, weight) = (usize::from(recorded.matched()), recorded.weight());
        let touched = !changes.is_empty();
        self.total.add(kind, touched, weight);
        self.breakdowns.add(node, recorded, |tally| tally.add(kind, touched, weight));
        for (slot, before, after) in changes {
            let text = |value: &Option<&Value>| value.map(ToString::to_string);
            self.changes.entry((*slot, text(before), text(after))).or_default()[kind].add(weight);
        }
        let Timestamp { seconds, nanos } = recorded.end();
        let [first, last] = self.ends.unwrap_or([(seconds, nanos); 2]);
        self.ends = Some([first.min((seconds, nanos)), last.max((seconds, nanos))]);
    }

    fn into_answer(self) -> v1::Simulation {
        let Self { total, changes, breakdowns, notes, places: _, ends } = self;
        let change = |((slot, before, after), touched): (_, [Part; 2])| {
            let parameter = PARAMETERS.get::<usize>(slot).map_or("", |parameter| parameter.name).to_owned();
            v1::ParameterChange { parameter, before, after, share: Some(total.of(&touched).share()) }
        };
        let mut changes: Vec<_> = changes.into_iter().map(change).collect();
        let touched = |change: &v1::ParameterChange| change.share.map_or(0.0, |share| share.touched);
        // Stable: where as many are touched, in the order of the table.
        changes.sort_by(|a, b| touched(b).total_cmp(&touched(a)));
        let changes_left_out = u32::try_from(changes.len().saturating_sub(CHANGES_MAX)).unwrap_or(u32::MAX);
        changes.truncate(CHANGES_MAX);
        let [first_time, last_time] = match ends {
            Some(ends) => ends.map(|(seconds, nanos)| Some(Timestamp { seconds, nanos })),
            None => [None, None],
        };
        v1::Simulation {
            total: Some(total.share()),
            changes,
            changes_left_out,
            breakdowns: breakdowns.into_rows(),
            notes: notes.into_messages(),
            first_time,
            last_time,
        }
    }
}

/// A snapshot as it is on a node; copied only if it differs there.
fn resolved<'a>(snapshot: &'a Snapshot, node_id: &str) -> Cow<'a, Snapshot> {
    let by_node = snapshot.layers.iter().any(|layer| match &layer.body {
        LayerBody::Policy(_) => false,
        LayerBody::Experiment(comparison) => matches!(comparison.unit, Unit::Node | Unit::SaturationPair { .. }),
    });
    if by_node { Cow::Owned(on_node(snapshot, node_id)) } else { Cow::Borrowed(snapshot) }
}

/// The parameters whose values differ.
fn differences<'a>(before: &Given<'a>, after: &Given<'a>) -> Vec<Change<'a>> {
    let values = (0..PARAMETERS.len()).map(|slot| (slot, before.value(slot), after.value(slot)));
    values.filter(|(_, before, after)| before != after).collect()
}
