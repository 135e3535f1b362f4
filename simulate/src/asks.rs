//! What layers ask of connections that recorded flows may not say.

use std::collections::BTreeSet;

use sockpilot_policy::{
    given::asks_handshake,
    model::{LayerBody, Match, Snapshot, Unit},
};

use crate::Layers;

/// What the layers of a node ask, before or after the change.
#[derive(Debug)]
pub(crate) struct Asks<'a> {
    /// For services.
    pub(crate) services: bool,
    /// For services that nothing that is in force names.
    new_services: BTreeSet<&'a str>,
    /// For the handshake's time.
    pub(crate) handshake: bool,
    /// For the time of day.
    pub(crate) time: bool,
}

impl<'a> Asks<'a> {
    pub(crate) fn of(layers: &'a Layers) -> Self {
        let (before, after) = (services(&layers.before), services(&layers.after));
        let any = |of: fn(&Snapshot) -> bool| of(&layers.before) || of(&layers.after);
        Self {
            services: !(before.is_empty() && after.is_empty()),
            new_services: after.difference(&before).copied().collect(),
            handshake: any(asks_handshake),
            time: any(asks_time),
        }
    }

    /// Whether a flow that is recorded as of this control group may be of one beneath that only the change names.
    pub(crate) fn may_be_new(&self, service: &str) -> bool {
        let beneath =
            |path: &&str| path.strip_prefix(service.trim_end_matches('/')).is_some_and(|p| p.starts_with('/'));
        !service.is_empty() && self.new_services.iter().any(beneath)
    }
}

fn services(snapshot: &Snapshot) -> BTreeSet<&str> {
    matches(snapshot).flat_map(|condition| &condition.services).map(|service| service.as_str()).collect()
}

fn matches(snapshot: &Snapshot) -> impl Iterator<Item = &Match> {
    snapshot.layers.iter().flat_map(|layer| match &layer.body {
        LayerBody::Policy(rules) => rules.iter().map(|rule| &rule.matches).collect::<Vec<_>>(),
        LayerBody::Experiment(comparison) => vec![&comparison.matches],
    })
}

fn asks_time(snapshot: &Snapshot) -> bool {
    let slots = |body: &LayerBody| match body {
        LayerBody::Policy(_) => false,
        LayerBody::Experiment(comparison) => matches!(comparison.unit, Unit::TimeSlot { .. }),
    };
    snapshot.layers.iter().any(|layer| slots(&layer.body))
}
