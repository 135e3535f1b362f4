//! What a connection gets in the end: [`crate::decide`] at both moments at which the kernel program sets something.

use crate::{
    decide::{Decision, Flow, decide},
    layout::ACTIVE,
    model::{Direction, LayerBody, Snapshot, Value},
    parameter::{Action, PARAMETERS, Parameter, Phase},
    validate::only_direction,
};

/// The decisions about a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given<'a> {
    direction: Direction,
    /// Without the handshake's time: of what is set before it is over.
    pub before: Decision<'a>,
    /// With it, if it is known and makes a difference.
    later: Option<Decision<'a>>,
}

impl<'a> Given<'a> {
    /// Decides about a flow, as [`decide`] has it.
    #[must_use]
    pub fn of(snapshot: &'a Snapshot, flow: &Flow<'_>, silence_ms: u64) -> Self {
        let before = decide(snapshot, &Flow { handshake_rtt_us: None, ..*flow }, silence_ms);
        let again = flow.handshake_rtt_us.is_some() && asks_handshake(snapshot);
        let later = again.then(|| decide(snapshot, flow, silence_ms));
        let direction = if flow.key.direction == ACTIVE { Direction::Active } else { Direction::Passive };
        Self { direction, before, later }
    }

    /// With all that is known of the connection.
    #[must_use]
    pub fn after(&self) -> &Decision<'a> {
        self.later.as_ref().unwrap_or(&self.before)
    }

    /// The decision by which a parameter goes.
    #[must_use]
    pub fn decision(&self, slot: usize) -> &Decision<'a> {
        // What is set at both moments stays as it was set first, unless it is set again.
        match moments(&PARAMETERS[slot], self.direction) {
            (true, false) => &self.before,
            (true, true) if self.after().values[slot].is_none() => &self.before,
            (_, true) | (false, false) => self.after(),
        }
    }

    /// Whether a parameter acts on connections of this direction at all.
    #[must_use]
    pub fn acts(&self, slot: usize) -> bool {
        moments(&PARAMETERS[slot], self.direction) != (false, false)
    }

    /// The value of a parameter that acts, if a choice sets one.
    #[must_use]
    pub fn value(&self, slot: usize) -> Option<&'a Value> {
        self.decision(slot).values[slot].filter(|_| self.acts(slot)).map(|(value, _)| value)
    }
}

/// Whether a match of a snapshot asks for the handshake's time.
#[must_use]
pub fn asks_handshake(snapshot: &Snapshot) -> bool {
    snapshot.layers.iter().any(|layer| match &layer.body {
        LayerBody::Policy(rules) => rules.iter().any(|rule| rule.matches.asks_handshake()),
        LayerBody::Experiment(comparison) => comparison.matches.asks_handshake(),
    })
}

/// Whether the kernel program sets a parameter before, and when, a connection of this direction is established.
fn moments(parameter: &Parameter, direction: Direction) -> (bool, bool) {
    let action = parameter.action;
    if only_direction(action).is_some_and(|only| only != direction) {
        return (false, false);
    }
    let Action::Option { phases, .. } = action else { return (true, false) };
    let in_phase = |phase: Phase| phases & phase as u8 != 0;
    match direction {
        Direction::Active => (in_phase(Phase::Connect), in_phase(Phase::ActiveEstablished)),
        Direction::Passive => (false, in_phase(Phase::PassiveEstablished)),
    }
}
