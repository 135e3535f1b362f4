//! The question what a connection gets and why, and the answer.

use std::net::IpAddr;

use sockpilot_policy::{
    address::{Family, ServicePath, address_bytes},
    bucket::BUCKETS,
    explain::{Asks, Explanation, LayerExplained, ParameterExplained, explain},
    facts::KernelFacts,
    fault::{Collector, Faults},
    layout::{FlowKey, LAYERS_MAX},
    model::{Direction, Group, Labels, LayerKind, LayerName},
    unit::on_node,
    validate::HANDSHAKE_RTT_US_MAX,
};
use sockpilot_proto::{
    convert::{kernel_facts_from_proto, snapshot_from_proto},
    v1,
};

use crate::{
    change::{names, target::carries, wave::Candidate},
    fleet::{
        explain_flow::{Question, State},
        resolve::{OnNode, Origin, ResolvedLayer},
    },
};

/// Reads a question. What does not say when it begins, begins now.
///
/// # Errors
/// All faults.
pub fn question(message: &v1::ExplainFlowRequest, now_s: u64) -> Result<Question, Faults> {
    let v1::ExplainFlowRequest {
        node,
        local_address,
        local_port,
        remote_address,
        remote_port,
        direction,
        service,
        handshake_rtt_us,
        silence_ms,
        overrides,
        begin_time,
    } = message;
    let mut faults = Collector::at("");
    let node_id = faults.field("node", |faults| faults.take(names::node(node))).filter(|id| !id.is_empty());
    let local = address("local_address", local_address, &mut faults);
    let remote = address("remote_address", remote_address, &mut faults);
    if let (Some(local), Some(remote)) = (local, remote)
        && local.is_ipv4() != remote.is_ipv4()
    {
        faults.add_at("remote_address", format!("{remote} is of another family than {local}; write two of one"));
    }
    let service = (!service.is_empty() && service != "/")
        .then(|| faults.field("service", |faults| faults.take(service.parse::<ServicePath>())))
        .flatten();
    if handshake_rtt_us.is_some_and(|rtt| !(1..=HANDSHAKE_RTT_US_MAX).contains(&rtt)) {
        faults.add_at(
            "handshake_rtt_us",
            format!("must be 1 to {HANDSHAKE_RTT_US_MAX} microseconds; leave it out if it is not known"),
        );
    }
    let family = if local.is_some_and(|local| local.is_ipv4()) { Family::Ipv4 } else { Family::Ipv6 };
    let key = FlowKey {
        local: local.map(address_bytes).unwrap_or_default(),
        remote: remote.map(address_bytes).unwrap_or_default(),
        local_port: port("local_port", *local_port, &mut faults),
        remote_port: port("remote_port", *remote_port, &mut faults),
        family: family.code(),
        direction: self::direction(*direction, &mut faults).code(),
        reserved: 0,
    };
    let overrides = self::overrides(overrides, &mut faults);
    let (handshake_rtt_us, silence_ms) = (*handshake_rtt_us, *silence_ms);
    let begin_s = begin_time.map_or(now_s, |time| u64::try_from(time.seconds).unwrap_or_default());
    faults.finish(Question { node_id, overrides, key, service, handshake_rtt_us, silence_ms, begin_s })
}

/// IPv4 seen through an IPv6 socket is IPv4.
fn address(field: &str, text: &str, faults: &mut Collector) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    if address.is_none() {
        faults.add_at(field, "is no address; write one like 10.0.0.1 or 2001:db8::1");
    }
    address
}

fn port(field: &str, port: u32, faults: &mut Collector) -> u16 {
    let read = u16::try_from(port).ok().filter(|port| *port > 0);
    if read.is_none() {
        faults.add_at(field, format!("is {port}; write 1 to 65535"));
    }
    read.unwrap_or_default()
}

fn direction(direction: i32, faults: &mut Collector) -> Direction {
    match v1::Direction::try_from(direction) {
        Ok(v1::Direction::Active) => Direction::Active,
        Ok(v1::Direction::Passive) => Direction::Passive,
        Ok(v1::Direction::Unspecified) | Err(_) => {
            let problem = if direction == 0 { "is missing".to_owned() } else { format!("{direction} is unknown") };
            let remedy = "write DIRECTION_ACTIVE if the node connects, DIRECTION_PASSIVE if it accepts";
            faults.add_at("direction", format!("{problem}; {remedy}"));
            Direction::Active
        }
    }
}

fn overrides(texts: &[String], faults: &mut Collector) -> Vec<(LayerName, u64)> {
    if texts.len() > LAYERS_MAX {
        faults.add_at("overrides", format!("has {} entries; a node holds {LAYERS_MAX} layers", texts.len()));
        return vec![];
    }
    let read = faults.each("overrides", texts, |faults, text| faults.take(names::revision_of(text)));
    for (index, entry) in read.iter().enumerate() {
        if let Some((name, _)) = entry
            && read[..index].iter().flatten().any(|(other, _)| other == name)
        {
            faults.add_at(&format!("overrides[{index}]"), format!("{name} stands here twice; remove one"));
        }
    }
    read.into_iter().flatten().collect()
}

/// Answers a question.
///
/// # Errors
/// What is stored that this version cannot read.
pub fn answer(question: &Question, state: &State) -> Result<v1::ExplainFlowResponse, Faults> {
    let State { fleet, node, overrides } = state;
    let nowhere = Labels::new();
    // The last position belongs to no share.
    let (share_position, labels) =
        node.as_ref().map_or((BUCKETS - 1, &nowhere), |node| (node.share_position, &node.labels));
    let candidate = Candidate { id: question.node_id.as_deref().unwrap_or_default(), share_position, labels };
    let facts: Option<KernelFacts> = node.as_ref().map(|node| kernel_facts_from_proto(&node.kernel)).transpose()?;
    let given = fleet.layers_with(&candidate, overrides);
    let message = fleet.message(&given);
    let snapshot = on_node(&snapshot_from_proto(&message)?, candidate.id);
    let Explanation { layers, parameters, refusals } =
        explain(&snapshot, &question.flow(), question.silence_ms, facts.as_ref());
    let layers = layers.into_iter().zip(&given).zip(&message.layers);
    let refusals = refusals.into_iter().map(|refusal| v1::RuleViolation {
        layer: refusal
            .layer
            .and_then(|index| message.layers.get(index))
            .map(|layer| layer.name.clone())
            .unwrap_or_default(),
        field: refusal.fault.field,
        description: refusal.fault.description,
    });
    Ok(v1::ExplainFlowResponse {
        generation: fleet.generation,
        layers: layers.map(|((explained, given), layer)| self::layer(explained, given, layer, labels)).collect(),
        parameters: parameters.into_iter().map(|explained| parameter(explained, &message.layers)).collect(),
        refusals: refusals.collect(),
    })
}

fn layer(
    explained: LayerExplained<'_>,
    given: &ResolvedLayer<'_>,
    layer: &v1::Layer,
    labels: &Labels,
) -> v1::ExplainedLayer {
    let LayerExplained { ended, asked, choice, choice_before, free_bucket, of_listener, group } = explained;
    let origin = match given.origin {
        Origin::Everyone => v1::LayerOrigin::Everyone,
        Origin::Canary => v1::LayerOrigin::Canary,
        Origin::Standby => v1::LayerOrigin::Standby,
        Origin::Override => v1::LayerOrigin::Override,
    };
    let mut notes = vec![];
    match (ended, given.origin) {
        (true, Origin::Standby) => notes.push("it stands by: it acts when the canary's lease has run out"),
        (true, _) => notes.push("its lease has run out: the last contact of the node with a server is too long ago"),
        (false, _) => {}
    }
    if !carries(labels, &given.revision.node_labels) {
        notes.push("its node_labels do not admit this node");
    }
    match (given.revision.name.kind, free_bucket, group) {
        (_, None, _) => {}
        (LayerKind::Experiment, Some(_), _) => {
            notes.push("its match holds, but no arm owns the connection's bucket, so it is outside of the experiment");
        }
        (LayerKind::Policy, Some(_), Some(_)) => {
            notes.push("nothing is set by it; the connection is measured beside those that the rollout is for");
        }
        (LayerKind::Policy, Some(_), None) => {
            notes.push("its match holds, but the connection's bucket is that of the policy's other revision");
        }
    }
    if of_listener {
        notes.push(
            "its services are asked of the cgroup in which the LISTENING socket was made: what a service accepts on a socket handed \
             to it (systemd socket activation) is of that socket's maker",
        );
    }
    let rules = asked.into_iter().map(|asked| {
        let unmet = asked.unmet.map(|unmet| (format!("{}.{}", asked.field, unmet.condition), unmet.why));
        let (field, description) = unmet.unwrap_or_default();
        let name = asked.name.map(ToString::to_string).unwrap_or_default();
        v1::ExplainedRule { name, matched: field.is_empty(), field, description }
    });
    let rollout = given.rollout.map(|OnNode { terms, flow_share_bp, unchanged }| v1::ExplainedRollout {
        name: terms.layer.name.clone(),
        group: group.map(Group::name).unwrap_or_default().to_owned(),
        flow_share_bp,
        unchanged,
    });
    v1::ExplainedLayer {
        layer: layer.name.clone(),
        revision: layer.revision,
        priority: layer.priority,
        origin: origin.into(),
        lease_ms: layer.lease_ms,
        matched: choice.is_some(),
        bucket: choice.as_ref().map_or(free_bucket, |choice| choice.bucket),
        choice: choice.map(|choice| choice.name.to_string()).unwrap_or_default(),
        choice_before: choice_before.map(|before| before.map(|choice| choice.name.to_string()).unwrap_or_default()),
        rules: rules.collect(),
        note: notes.join("; "),
        rollout,
    }
}

fn parameter(explained: ParameterExplained<'_>, layers: &[v1::Layer]) -> v1::ExplainedParameter {
    let ParameterExplained { parameter, winner, effective, note, caveats, open_too, losers } = explained;
    let value = |asks: Asks<'_>| {
        let Asks { layer, choice, field, value, note } = asks;
        let (layer, revision) = layers.get(layer).map(|layer| (layer.name.clone(), layer.revision)).unwrap_or_default();
        let (choice, requested) = (choice.to_string(), value.to_string());
        v1::ExplainedValue { layer, revision, choice, field, requested, note }
    };
    v1::ExplainedParameter {
        parameter: parameter.name.to_owned(),
        winner: winner.map(value),
        effective: effective.unwrap_or_default(),
        note,
        caveats,
        losers: losers.into_iter().map(value).collect(),
        open_too,
    }
}
