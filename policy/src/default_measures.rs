//! What to look at when nobody says: by the parameters that the arms set.

use crate::{
    measure::{MARGIN_BP, Measure, Quantity, Role, Transform},
    model::Parameters,
    parameter::{Action, PARAMETERS, Question},
};

const GUARDRAIL: Role = Role::Guardrail { margin_bp: MARGIN_BP };

/// The measures of an experiment that names none.
///
/// Where an arm sets something that acts in the handshake, whether and how soon connections come about is what it is to make better;
/// else how fast they deliver. What a gain may cost stands beside: retransmissions, waiting in queues, connections that fail.
#[must_use]
pub fn defaults<'a>(sets: impl Iterator<Item = &'a Parameters>) -> Vec<Measure> {
    let mut in_handshake = false;
    for (slot, _) in sets.flat_map(Parameters::iter) {
        in_handshake |= PARAMETERS.get(slot).is_some_and(|parameter| acts_in_handshake(parameter.action));
    }
    let log = |quantity, role| Measure { transform: Transform::Log, ..Measure::of(quantity, role) };
    let retransmitted = Measure { per: Some(Quantity::SegmentsOut), ..Measure::of(Quantity::Retransmits, GUARDRAIL) };
    if in_handshake {
        return vec![
            Measure::of(Quantity::Connected, Role::Success),
            log(Quantity::HandshakeUs, Role::Success),
            Measure::of(Quantity::SynRetransmits, Role::Diagnostic),
            retransmitted,
            Measure::of(Quantity::Unfinished, Role::Diagnostic),
        ];
    }
    vec![
        log(Quantity::DeliveryRateBps, Role::Success),
        log(Quantity::DurationUs, Role::Diagnostic),
        Measure::of(Quantity::Connected, GUARDRAIL),
        retransmitted,
        log(Quantity::QueueingUs, GUARDRAIL),
        log(Quantity::SrttUs, Role::Diagnostic),
        Measure::of(Quantity::Reset, Role::Diagnostic),
        Measure::of(Quantity::Unfinished, Role::Diagnostic),
    ]
}

fn acts_in_handshake(action: Action) -> bool {
    matches!(action, Action::Reply(Question::SynTimeout | Question::SynAckTimeout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Value;

    #[test]
    fn timers_of_the_handshake_are_judged_by_the_handshake() {
        let slot = |name: &str| PARAMETERS.iter().position(|parameter| parameter.name == name).expect("a parameter");
        let first = |name: &str| {
            let set = Parameters::default().with(slot(name), Value::Number(1));
            defaults([&Parameters::default(), &set].into_iter())[0].quantity
        };
        assert_eq!(first("syn_rto_ms"), Quantity::Connected);
        assert_eq!(first("initial_cwnd_packets"), Quantity::DeliveryRateBps);
    }
}
