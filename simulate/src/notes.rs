//! What recorded flows do not say, and what is left out.

use std::collections::BTreeMap;

use sockpilot_policy::{decide::Decision, given::Given};
use sockpilot_proto::v1;

use crate::{asks::Asks, recorded::Recorded};

/// What is to be known of some flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Note {
    UnknownNode,
    StillOpen,
    NoWeight,
    Unreadable,
    UnknownService,
    NewService,
    UnknownHandshake,
    UnknownBegin,
    OtherChoice,
}

impl Note {
    fn description(self) -> &'static str {
        match self {
            Self::UnknownNode => "left out: their nodes are not known any more, nor which layers those have",
            Self::StillOpen => "left out: they were still open when they were recorded, and count when they end",
            Self::NoWeight => "left out: they do not say how many connections they stand for (recorded by an old node)",
            Self::Unreadable => "left out: addresses, ports, direction or end cannot be read",
            Self::UnknownService => {
                "do not say of which service they are: no condition on services was taken to hold for them"
            }
            Self::NewService => {
                "may be of a service that only the change names, and were taken not to be: services are recorded once a rule that is in \
                 force names them"
            }
            Self::UnknownHandshake => {
                "do not say how long their handshake took: no condition on that was taken to hold for them"
            }
            Self::UnknownBegin => {
                "do not say how long they lasted: they were taken to be of the slot of time in which they ended"
            }
            Self::OtherChoice => {
                "had other rules or arms when they were recorded than those that are in force now: what they would have now is compared"
            }
        }
    }
}

/// How many flows each note is about, and how many connections these stand for.
#[derive(Debug, Default)]
pub(crate) struct Notes(BTreeMap<Note, (u64, f64)>);

impl Notes {
    pub(crate) fn add(&mut self, note: Note, weight: f64) {
        let (recorded, connections) = self.0.entry(note).or_default();
        *recorded += 1;
        // Of what cannot be read that may be anything.
        if weight.is_finite() && !matches!(note, Note::NoWeight | Note::StillOpen) {
            *connections += weight.max(0.0);
        }
    }

    /// What is to be known of a flow that counts. `before`: what is in force now says so of it.
    pub(crate) fn of_flow(&mut self, flow: &Recorded<'_>, asks: &Asks<'_>, before: &Given<'_>) {
        let v1::FlowSample { service, handshake_rtt_us, duration_us, .. } = flow.sample;
        let established = !matches!(flow.sample.outcome(), v1::Outcome::Failed | v1::Outcome::Abandoned);
        let holds = [
            (Note::UnknownService, asks.services && service.is_empty()),
            (Note::NewService, asks.may_be_new(service)),
            (Note::UnknownHandshake, asks.handshake && established && *handshake_rtt_us == 0),
            (Note::UnknownBegin, asks.time && *duration_us == 0),
            (Note::OtherChoice, !had(flow.sample, before.after())),
        ];
        holds.into_iter().filter(|(_, holds)| *holds).for_each(|(note, _)| self.add(note, flow.weight()));
    }

    pub(crate) fn into_messages(self) -> Vec<v1::SimulationNote> {
        let message = |(note, (recorded, connections)): (Note, _)| v1::SimulationNote {
            recorded,
            connections,
            description: note.description().to_owned(),
        };
        self.0.into_iter().map(message).collect()
    }
}

/// Whether a flow had these choices. Revisions are not asked: another one may say the same.
fn had(sample: &v1::FlowSample, decision: &Decision<'_>) -> bool {
    let had = sample.attributions.iter().map(|had| had.choice.as_str());
    had.eq(decision.choices.iter().map(|choice| choice.name.as_str()))
}
