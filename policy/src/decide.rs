//! The meaning of policies and experiments, rule by rule and without tables.
//!
//! This is what the compiled tables and the kernel program are checked against, and what explains a connection afterwards.

use crate::{
    address::{bytes_address, common_prefix},
    bucket::{flow_bucket, salt},
    layout::{FlowKey, IPV4, PARAMETER_SLOTS},
    model::{Arm, Id, Layer, LayerBody, Match, Parameters, Unit, Value},
};

/// What a connection gets, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The choice of each layer that matched, in the order of priority.
    pub choices: Vec<Choice<'a>>,
    /// By slot: the value that won, and the position in `choices` of the layer that set it.
    pub values: [Option<(&'a Value, usize)>; PARAMETER_SLOTS],
}

/// What one layer chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<'a> {
    /// Position of the layer among those decided over.
    pub layer: usize,
    /// The rule's or the arm's name.
    pub name: &'a Id,
    /// The flow's bucket, if the layer is an experiment.
    pub bucket: Option<u32>,
    /// What the choice sets.
    pub set: &'a Parameters,
}

/// Decides what a flow gets from layers in order of priority.
///
/// `service` is the socket's cgroup below the node's own, if it is known; `silence_ms` the time since the node heard of a
/// server: layers whose lease is shorter take no part.
#[must_use]
pub fn decide<'a>(layers: &'a [Layer], flow: &FlowKey, service: Option<&str>, silence_ms: u64) -> Decision<'a> {
    let choices: Vec<_> = layers
        .iter()
        .enumerate()
        .filter(|(_, layer)| layer.lease_ms.is_none_or(|lease_ms| silence_ms <= u64::from(lease_ms)))
        .filter_map(|(index, layer)| choose(index, layer, flow, service))
        .collect();
    let mut values = [None; PARAMETER_SLOTS];
    for (position, choice) in choices.iter().enumerate() {
        for (slot, value) in choice.set.iter() {
            values[slot].get_or_insert((value, position));
        }
    }
    Decision { choices, values }
}

fn choose<'a>(index: usize, layer: &'a Layer, flow: &FlowKey, service: Option<&str>) -> Option<Choice<'a>> {
    match &layer.body {
        LayerBody::Policy(rules) => {
            let rule = rules.iter().find(|rule| matches(&rule.matches, flow, service))?;
            Some(Choice { layer: index, name: &rule.name, bucket: None, set: &rule.set })
        }
        LayerBody::Experiment { matches: condition, unit: Unit::Flow, salt: text, arms } => {
            if !matches(condition, flow, service) {
                return None;
            }
            let bucket = flow_bucket(salt(text), flow);
            let arm = arm_of(arms, bucket)?;
            Some(Choice { layer: index, name: &arm.name, bucket: Some(bucket), set: &arm.set })
        }
    }
}

/// The arm that owns a bucket. Arms of a validated experiment own every bucket.
#[must_use]
pub fn arm_of(arms: &[Arm], bucket: u32) -> Option<&Arm> {
    arms.iter().find(|arm| (arm.first_bucket..arm.first_bucket.saturating_add(arm.weight_bp)).contains(&bucket))
}

/// Whether all conditions of a match hold for a flow.
#[must_use]
pub fn matches(condition: &Match, flow: &FlowKey, service: Option<&str>) -> bool {
    let Match {
        direction,
        family,
        local_prefixes,
        remote_prefixes,
        same_prefix,
        not_same_prefix,
        local_ports,
        remote_ports,
        services,
    } = condition;
    let (local, remote) = (bytes_address(flow.local), bytes_address(flow.remote));
    let common = common_prefix(flow);
    let bits = if flow.family == IPV4 { 32 } else { 128 };
    direction.is_none_or(|direction| direction.code() == flow.direction)
        && family.is_none_or(|family| family.code() == flow.family)
        && (local_prefixes.is_empty() || local_prefixes.iter().any(|prefix| prefix.contains(local)))
        && (remote_prefixes.is_empty() || remote_prefixes.iter().any(|prefix| prefix.contains(remote)))
        && same_prefix.is_none_or(|length| length <= bits && common >= length)
        && not_same_prefix.is_none_or(|length| length <= bits && common < length)
        && (local_ports.is_empty() || local_ports.iter().any(|range| range.ports().contains(&flow.local_port)))
        && (remote_ports.is_empty() || remote_ports.iter().any(|range| range.ports().contains(&flow.remote_port)))
        && (services.is_empty() || service.is_some_and(|path| services.iter().any(|service| service.holds_for(path))))
}
