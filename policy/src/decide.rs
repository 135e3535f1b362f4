//! The meaning of policies and experiments, rule by rule and without tables.
//!
//! This is what the compiled tables and the kernel program are checked against, and what explains a connection afterwards.

use crate::{
    address::{bytes_address, common_prefix},
    bucket::{flow_bucket, salt},
    layout::{FlowKey, IPV4, PARAMETER_SLOTS},
    model::{
        ApplyTo, Group, Id, Layer, LayerBody, LayerName, Match, Parameters, Portion, Rule, Snapshot, Term, Value, Zone,
        ZoneRelation, zone_of,
    },
    unit::{arm_of, bucket_of},
};

/// What a connection gets, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The choice of each layer that matched, in the order of priority.
    pub choices: Vec<Choice<'a>>,
    /// By slot: the value that won, and the position in `choices` of the layer that set it.
    pub values: [Option<(&'a Value, usize)>; PARAMETER_SLOTS],
    /// The parameters whose winner is for connections that are open already too, as a mask over the slots.
    pub live: u64,
}

/// What one layer chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<'a> {
    /// Position of the layer among those decided over.
    pub layer: usize,
    /// The rule's or the arm's name.
    pub name: &'a Id,
    /// The flow's bucket, if the layer is an experiment, or of a policy of which a rollout has a share of the flows.
    pub bucket: Option<u32>,
    /// What the choice sets.
    pub set: &'a Parameters,
    /// Whether connections that are open already get it too.
    pub apply_to: ApplyTo,
    /// As what a rollout of the policy measures the flow.
    pub group: Option<Group>,
    /// The flow is only measured: nothing is set, because it is in the control of a policy that nobody had before, or only the policy's
    /// other revision matches it.
    pub measured_only: bool,
}

/// A connection as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow<'a> {
    /// Who talks to whom.
    pub key: FlowKey,
    /// The socket's cgroup below the node's own.
    pub service: Option<&'a str>,
    /// How long the handshake took; `None` before it is over.
    pub handshake_rtt_us: Option<u32>,
    /// When it begins: a second of the fleet's time, since 1970; `None`: not known.
    pub begin_s: Option<u64>,
}

/// Decides what a flow gets, of a snapshot that was [resolved](crate::unit::on_node) for its node.
///
/// `silence_ms` is the time since the last contact with a server: layers whose lease is shorter take no part.
#[must_use]
pub fn decide<'a>(snapshot: &'a Snapshot, flow: &Flow<'_>, silence_ms: u64) -> Decision<'a> {
    let Snapshot { layers, zones } = snapshot;
    let (mut choices, mut withheld): (Vec<Choice<'a>>, Vec<&LayerName>) = (vec![], vec![]);
    for (index, layer) in layers.iter().enumerate() {
        if withheld.contains(&&layer.name) {
            continue;
        }
        let Some(portion) = portion(layer, flow, silence_ms) else { continue };
        let Some(choice) = choose(index, layer, portion, flow, zones) else { continue };
        withheld.extend(withholds(layer, choice.name));
        choices.push(choice);
    }
    let (mut values, mut live) = ([None; PARAMETER_SLOTS], 0);
    for (position, choice) in choices.iter().enumerate() {
        for (slot, value) in choice.set.iter() {
            if values[slot].is_none() {
                values[slot] = Some((value, position));
                live |= u64::from(choice.apply_to == ApplyTo::NewAndEstablished) << slot;
            }
        }
    }
    Decision { choices, values, live }
}

/// Whether a layer acts on flows that begin now, with the last contact with a server so long ago, be it on a share of them.
#[must_use]
pub fn acts(layer: &Layer, flow: &Flow<'_>, silence_ms: u64) -> bool {
    !ended(layer, flow) && (layer.holds(silence_ms) || portions(layer).len() > 1 && stands_by(layer))
}

fn ended(layer: &Layer, flow: &Flow<'_>) -> bool {
    layer.ends_s.is_some_and(|ends_s| flow.begin_s.is_none_or(|begin_s| begin_s >= ends_s))
}

fn stands_by(layer: &Layer) -> bool {
    matches!(layer.term, Term::AfterSilence { .. })
}

fn portions(layer: &Layer) -> &[Portion] {
    layer.rollout.as_ref().map_or(&[], |rollout| &rollout.part.portions)
}

/// The portion of a layer that a flow is in that begins now; `None`: the layer does not act on it.
fn portion<'a>(layer: &'a Layer, flow: &Flow<'_>, silence_ms: u64) -> Option<&'a Portion> {
    let (holds, portions, stands_by) = (layer.holds(silence_ms), portions(layer), stands_by(layer));
    if ended(layer, flow) {
        return None;
    }
    let first = portions.first().unwrap_or(&Portion::WHOLE);
    match (stands_by, holds) {
        (true, true) => Some(first),
        (false, false) => None,
        _ if portions.is_empty() => (!stands_by).then_some(first),
        _ => {
            let bucket = rollout_bucket(layer, flow)?;
            portions.iter().skip(usize::from(stands_by)).find(|portion| portion.has(bucket))
        }
    }
}

/// The flow's bucket in the rollout of a policy.
#[must_use]
pub fn rollout_bucket(layer: &Layer, flow: &Flow<'_>) -> Option<u32> {
    layer.rollout.as_ref().map(|rollout| flow_bucket(salt(&rollout.salt), &flow.key))
}

/// The policy that a choice withholds.
fn withholds<'a>(layer: &'a Layer, choice: &Id) -> Option<&'a LayerName> {
    let LayerBody::Experiment(comparison) = &layer.body else { return None };
    let arm = comparison.arms.iter().find(|arm| arm.name == *choice)?;
    comparison.withholds.as_ref().filter(|_| arm.withholds)
}

fn choose<'a>(
    index: usize,
    layer: &'a Layer,
    portion: &Portion,
    flow: &Flow<'_>,
    zones: &[Zone],
) -> Option<Choice<'a>> {
    match &layer.body {
        LayerBody::Policy(rules) => {
            let Portion { group, sets, .. } = *portion;
            let bucket =
                rollout_bucket(layer, flow).filter(|_| portions(layer).iter().any(|portion| !portion.is_whole()));
            let nothing = Choice {
                layer: index,
                name: &layer.name.id,
                bucket,
                set: &Parameters::NONE,
                apply_to: ApplyTo::New,
                group,
                measured_only: false,
            };
            match rules.iter().find(|rule| matches(&rule.matches, flow, zones)) {
                Some(Rule { name, set, apply_to, .. }) if sets => {
                    Some(Choice { name, set, apply_to: *apply_to, ..nothing })
                }
                Some(rule) => Some(Choice { name: &rule.name, measured_only: true, ..nothing }),
                None => {
                    let others = layer.rollout.as_ref().map_or(&[][..], |rollout| &rollout.part.others);
                    let (name, _) = others.iter().find(|(_, condition)| matches(condition, flow, zones))?;
                    Some(Choice { name, measured_only: true, ..nothing })
                }
            }
        }
        LayerBody::Experiment(comparison) => {
            if !matches(&comparison.matches, flow, zones) {
                return None;
            }
            let bucket = bucket_of(comparison, &flow.key, flow.begin_s)?;
            let arm = arm_of(&comparison.arms, bucket)?;
            Some(Choice {
                layer: index,
                name: &arm.name,
                bucket: Some(bucket),
                set: &arm.set,
                apply_to: ApplyTo::New,
                group: None,
                measured_only: false,
            })
        }
    }
}

/// Whether all conditions of a match hold for a flow.
#[must_use]
pub fn matches(condition: &Match, flow: &Flow<'_>, zones: &[Zone]) -> bool {
    let Flow { key: flow, service, handshake_rtt_us, begin_s: _ } = flow;
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
        local_zones,
        remote_zones,
        zone_relation,
        min_handshake_rtt_us,
        max_handshake_rtt_us,
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
        && (local_zones.is_empty() || zone_of(zones, local).is_some_and(|zone| local_zones.contains(&zone.name)))
        && (remote_zones.is_empty() || zone_of(zones, remote).is_some_and(|zone| remote_zones.contains(&zone.name)))
        && zone_relation.is_none_or(|relation| {
            let both = zone_of(zones, local).zip(zone_of(zones, remote));
            both.is_some_and(|(local, remote)| relates(relation, local, remote))
        })
        && min_handshake_rtt_us.is_none_or(|min| handshake_rtt_us.is_some_and(|rtt| rtt >= min))
        && max_handshake_rtt_us.is_none_or(|max| handshake_rtt_us.is_some_and(|rtt| rtt < max))
}

/// Whether two zones relate so.
#[must_use]
pub fn relates(relation: ZoneRelation, local: &Zone, remote: &Zone) -> bool {
    match relation {
        ZoneRelation::SameZone => local.name == remote.name,
        ZoneRelation::OtherZone => local.name != remote.name,
        ZoneRelation::SameRegion => local.region == remote.region,
        ZoneRelation::OtherRegion => local.region != remote.region,
    }
}
