//! Between wire and domain types.
//!
//! Rules: input is validated here and nowhere else, as a whole, with the path of every fault. Messages are
//! destructured in full, so that a new field does not compile until somebody has decided what it means. Towards the wire
//! nothing can fail.

use std::str::FromStr;

use sockpilot_policy::{
    address::{Family, PortRange, Prefix, ServicePath},
    bucket::BUCKETS,
    facts::KernelFacts,
    fault::{Collector, Faults},
    model::{
        ApplyTo, Arm, Design, Direction, Experiment, Id, IfUnsupported, Labels, Layer, LayerBody, LayerKind, LayerName,
        Match, Parameters, Policy, Rule, Snapshot, Term, Value, Words, Zone, ZoneRelation,
    },
    validate,
};

use crate::v1;

mod experiment;

pub use experiment::{comparison_from_proto, measure_to_proto};

include!(concat!(env!("OUT_DIR"), "/parameters.rs"));

/// Reads and validates a policy document. Output-only fields, name and etag are not looked at.
///
/// # Errors
/// All faults, with paths that begin at `root`.
pub fn policy_from_proto(message: &v1::Policy, root: &str) -> Result<Policy, Faults> {
    let v1::Policy {
        name: _,
        uid: _,
        revision: _,
        etag: _,
        description,
        priority,
        node_labels,
        rules,
        create_time: _,
        creator: _,
        notes: _,
    } = message;
    let mut faults = Collector::at(root);
    let rules = rules_from_proto(rules, &mut faults);
    let policy =
        Policy { description: description.clone(), priority: *priority, node_labels: labels(node_labels), rules };
    validate::policy(&policy, &mut faults);
    faults.finish(policy)
}

/// Reads and validates an experiment document. Output-only fields, name and etag are not looked at; an empty salt becomes the
/// last part of the name.
///
/// # Errors
/// All faults, with paths that begin at `root`.
pub fn experiment_from_proto(message: &v1::Experiment, root: &str) -> Result<Experiment, Faults> {
    let v1::Experiment {
        name,
        uid: _,
        revision: _,
        etag: _,
        description,
        priority,
        node_labels,
        r#match,
        unit,
        salt,
        arms,
        create_time: _,
        creator: _,
        if_unsupported,
        notes: _,
        owner,
        state: _,
        measures,
        horizon_s,
        peer_prefix,
        time_slot,
        saturation_pair,
        withholds,
        duration_s,
        start_time: _,
        end_time: _,
        shipped_arm: _,
    } = message;
    let mut faults = Collector::at(root);
    let id = name.rsplit('/').next().unwrap_or_default();
    let words = Words { description: description.clone(), owner: owner.clone(), duration_s: *duration_s };
    let layer = v1::ExperimentLayer {
        r#match: r#match.clone(),
        unit: *unit,
        salt: if salt.is_empty() { id.to_owned() } else { salt.clone() },
        arms: arms.clone(),
        if_unsupported: *if_unsupported,
        measures: measures.clone(),
        horizon_s: *horizon_s,
        peer_prefix: *peer_prefix,
        time_slot: *time_slot,
        saturation_pair: *saturation_pair,
        withholds: withholds.clone(),
    };
    let design = Design {
        priority: *priority,
        node_labels: labels(node_labels),
        comparison: comparison_from_proto(&layer, &mut faults),
    };
    let experiment = Experiment { words, design };
    validate::experiment(&experiment, &mut faults);
    faults.finish(experiment)
}

/// Reads and validates what a server sends to a node, in the order of decision.
///
/// # Errors
/// All faults.
pub fn snapshot_from_proto(message: &v1::Layers) -> Result<Snapshot, Faults> {
    let v1::Layers { layers, zones } = message;
    let mut faults = Collector::at("");
    let layers = faults.each("layers", layers, layer_from_proto);
    let zones = zones_from_proto(zones, &mut faults);
    faults.finish(Snapshot { layers: layers.into_iter().flatten().collect(), zones })
}

/// Reads and validates a zone map. Name, etag and notes are not looked at.
///
/// # Errors
/// All faults, with paths that begin at `root`.
pub fn zone_map_from_proto(message: &v1::ZoneMap, root: &str) -> Result<Vec<Zone>, Faults> {
    let v1::ZoneMap { name: _, etag: _, zones, notes: _ } = message;
    let mut faults = Collector::at(root);
    let zones = zones_from_proto(zones, &mut faults);
    faults.finish(zones)
}

fn zones_from_proto(zones: &[v1::Zone], faults: &mut Collector) -> Vec<Zone> {
    let zones = faults.each("zones", zones, |faults, v1::Zone { name, region, prefixes }| Zone {
        name: id(name, faults),
        region: faults.field("region", |faults| faults.take(region.parse())).unwrap_or_else(stand_in),
        prefixes: parsed::<Prefix>("prefixes", prefixes, faults),
    });
    validate::zones(&zones, faults);
    zones
}

fn layer_from_proto(faults: &mut Collector, message: &v1::Layer) -> Option<Layer> {
    let v1::Layer { name, revision, priority, lease_ms, standby, ends_s, body } = message;
    let name: Option<LayerName> = faults.field("name", |faults| faults.take(name.parse()));
    let body = match (body, name.as_ref().map(|name| name.kind)) {
        (Some(v1::layer::Body::Policy(v1::PolicyLayer { rules })), Some(LayerKind::Policy) | None) => {
            faults.field("policy", |faults| {
                let rules = rules_from_proto(rules, faults);
                let document =
                    Policy { description: String::new(), priority: *priority, node_labels: Labels::new(), rules };
                validate::policy(&document, faults);
                Some(LayerBody::Policy(document.rules))
            })
        }
        (Some(v1::layer::Body::Experiment(experiment)), Some(LayerKind::Experiment) | None) => {
            faults.field("experiment", |faults| {
                let comparison = comparison_from_proto(experiment, faults);
                validate::comparison(&comparison, faults);
                Some(LayerBody::Experiment(Box::new(comparison)))
            })
        }
        (Some(_), Some(_)) => {
            faults.add("has a body that its name does not announce");
            None
        }
        (None, _) => {
            faults.add("has no body that this version understands; upgrade the node daemon");
            None
        }
    };
    let term = match (*standby, *lease_ms) {
        (false, 0) => Term::Always,
        (false, lease_ms) => Term::WhileHeard { lease_ms },
        (true, 0) => {
            faults.add_at("lease_ms", "is missing, though the layer stands by for one that has a lease");
            Term::Always
        }
        (true, lease_ms) => Term::AfterSilence { lease_ms },
    };
    let ends_s = (*ends_s > 0).then_some(*ends_s);
    Some(Layer { name: name?, revision: *revision, priority: *priority, term, ends_s, body: body? })
}

fn rules_from_proto(rules: &[v1::Rule], faults: &mut Collector) -> Vec<Rule> {
    faults.each("rules", rules, |faults, v1::Rule { name, r#match, set, if_unsupported, apply_to }| Rule {
        name: id(name, faults),
        matches: match_from_proto(r#match.as_ref(), faults),
        set: set.as_ref().map(parameters_from_proto).unwrap_or_default(),
        if_unsupported: if_unsupported_from_proto(*if_unsupported, faults),
        apply_to: apply_to_from_proto(*apply_to, faults),
    })
}

/// Arms by first bucket. Their positions in `arms` are in the fault paths, so the order is restored only after validation.
fn arms_from_proto(arms: &[v1::Arm], faults: &mut Collector) -> Vec<Arm> {
    let placed = arms.iter().filter(|arm| arm.first_bucket.is_some()).count();
    let mut next = 0_u32;
    let mut read = faults.each("arms", arms, |faults, v1::Arm { name, weight_bp, first_bucket, set, withholds }| {
        if first_bucket.is_none() && placed > 0 {
            faults.add_at("first_bucket", "is missing here but said for other arms; say it for all or for none");
        }
        if first_bucket.is_some_and(|first| first >= BUCKETS) {
            faults.add_at("first_bucket", format!("is beyond the last bucket; write 0 to {}", BUCKETS - 1));
        }
        let first_bucket = first_bucket.unwrap_or(next);
        next = first_bucket.saturating_add(*weight_bp);
        Arm {
            name: id(name, faults),
            first_bucket,
            weight_bp: *weight_bp,
            set: set.as_ref().map(parameters_from_proto).unwrap_or_default(),
            withholds: *withholds,
        }
    });
    if placed == arms.len() && are_apart(&read) {
        read.sort_by_key(|arm| arm.first_bucket);
    }
    read
}

/// Whether sorting cannot hide a fault whose path names a position.
fn are_apart(arms: &[Arm]) -> bool {
    let mut order: Vec<_> = arms.iter().collect();
    order.sort_by_key(|arm| arm.first_bucket);
    let mut free = 0;
    order.iter().all(|arm| {
        let fits = arm.first_bucket >= free && arm.weight_bp > 0;
        free = arm.first_bucket.saturating_add(arm.weight_bp);
        fits
    }) && free <= BUCKETS
}

fn match_from_proto(message: Option<&v1::Match>, faults: &mut Collector) -> Match {
    let Some(message) = message else { return Match::default() };
    let v1::Match {
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
    } = message;
    faults.field("match", |faults| Match {
        direction: direction_from_proto(*direction, faults),
        family: family_from_proto(*family, faults),
        local_prefixes: parsed::<Prefix>("local_prefixes", local_prefixes, faults),
        remote_prefixes: parsed::<Prefix>("remote_prefixes", remote_prefixes, faults),
        same_prefix: same_prefix.map(prefix_length),
        not_same_prefix: not_same_prefix.map(prefix_length),
        local_ports: parsed::<PortRange>("local_ports", local_ports, faults),
        remote_ports: parsed::<PortRange>("remote_ports", remote_ports, faults),
        services: parsed::<ServicePath>("services", services, faults),
        local_zones: parsed::<Id>("local_zones", local_zones, faults),
        remote_zones: parsed::<Id>("remote_zones", remote_zones, faults),
        zone_relation: zone_relation_from_proto(*zone_relation, faults),
        min_handshake_rtt_us: *min_handshake_rtt_us,
        max_handshake_rtt_us: *max_handshake_rtt_us,
    })
}

/// Values beyond a byte stay beyond the greatest length, so that validation reports them.
fn prefix_length(length: u32) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

fn parsed<T: FromStr<Err = String>>(name: &str, texts: &[String], faults: &mut Collector) -> Vec<T> {
    faults.each(name, texts, |faults, text| faults.take(text.parse())).into_iter().flatten().collect()
}

/// Reads an id; with a fault the walk goes on with a stand-in that can never reach a caller.
fn id(text: &str, faults: &mut Collector) -> Id {
    validate::id(text, faults).unwrap_or_else(stand_in)
}

fn stand_in() -> Id {
    "invalid".parse().expect("a sound id")
}

/// An enum's value; an unknown one is noted, and read as unspecified.
fn known<E: TryFrom<i32> + Default>(field: &str, number: i32, write: &str, faults: &mut Collector) -> E {
    E::try_from(number).unwrap_or_else(|_| {
        faults.add_at(field, format!("{number} is unknown here; write {write}"));
        E::default()
    })
}

fn if_unsupported_from_proto(number: i32, faults: &mut Collector) -> IfUnsupported {
    match known("if_unsupported", number, "REJECT or SKIP", faults) {
        v1::IfUnsupported::Unspecified | v1::IfUnsupported::Reject => IfUnsupported::Reject,
        v1::IfUnsupported::Skip => IfUnsupported::Skip,
    }
}

fn apply_to_from_proto(number: i32, faults: &mut Collector) -> ApplyTo {
    match known("apply_to", number, "NEW or NEW_AND_ESTABLISHED", faults) {
        v1::ApplyTo::Unspecified | v1::ApplyTo::New => ApplyTo::New,
        v1::ApplyTo::NewAndEstablished => ApplyTo::NewAndEstablished,
    }
}

fn zone_relation_from_proto(number: i32, faults: &mut Collector) -> Option<ZoneRelation> {
    match known("zone_relation", number, "ZONE_RELATION_SAME_ZONE or another", faults) {
        v1::ZoneRelation::Unspecified => None,
        v1::ZoneRelation::SameZone => Some(ZoneRelation::SameZone),
        v1::ZoneRelation::OtherZone => Some(ZoneRelation::OtherZone),
        v1::ZoneRelation::SameRegion => Some(ZoneRelation::SameRegion),
        v1::ZoneRelation::OtherRegion => Some(ZoneRelation::OtherRegion),
    }
}

fn direction_from_proto(number: i32, faults: &mut Collector) -> Option<Direction> {
    match known("direction", number, "DIRECTION_ACTIVE or DIRECTION_PASSIVE", faults) {
        v1::Direction::Unspecified => None,
        v1::Direction::Active => Some(Direction::Active),
        v1::Direction::Passive => Some(Direction::Passive),
    }
}

fn family_from_proto(number: i32, faults: &mut Collector) -> Option<Family> {
    match known("family", number, "FAMILY_IPV4 or FAMILY_IPV6", faults) {
        v1::Family::Unspecified => None,
        v1::Family::Ipv4 => Some(Family::Ipv4),
        v1::Family::Ipv6 => Some(Family::Ipv6),
    }
}

/// A direction as it stands on the wire.
#[must_use]
pub fn direction_to_proto(direction: Direction) -> v1::Direction {
    match direction {
        Direction::Active => v1::Direction::Active,
        Direction::Passive => v1::Direction::Passive,
    }
}

fn labels(labels: &std::collections::HashMap<String, String>) -> Labels {
    labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Reads what a node says of its kernel.
///
/// # Errors
/// All faults.
pub fn kernel_facts_from_proto(message: &v1::KernelFacts) -> Result<KernelFacts, Faults> {
    let v1::KernelFacts { release, hz, congestion_controls, wmem_max, rmem_max, sysctls } = message;
    let mut faults = Collector::at("kernel");
    if !(1..=10_000).contains(hz) {
        faults.add_at("hz", format!("is {hz}; write the timer ticks per second, 1 to 10000"));
    }
    if release.len() > 128 {
        faults.add_at("release", "is longer than 128 bytes; shorten it");
    }
    if congestion_controls.len() > 64 || congestion_controls.iter().any(|name| name.len() > 15) {
        faults.add_at("congestion_controls", "must be at most 64 names of at most 15 bytes");
    }
    if sysctls.len() > 64 || sysctls.keys().any(|name| name.len() > 64) {
        faults.add_at("sysctls", "must be at most 64 names of at most 64 bytes");
    }
    faults.finish(KernelFacts {
        release: release.clone(),
        hz: *hz,
        congestion_controls: congestion_controls.clone(),
        wmem_max: *wmem_max,
        rmem_max: *rmem_max,
        sysctls: sysctls.iter().map(|(name, value)| (name.clone(), *value)).collect(),
    })
}

/// What a node says of its kernel.
#[must_use]
pub fn kernel_facts_to_proto(facts: &KernelFacts) -> v1::KernelFacts {
    let KernelFacts { release, hz, congestion_controls, wmem_max, rmem_max, sysctls } = facts;
    v1::KernelFacts {
        release: release.clone(),
        hz: *hz,
        congestion_controls: congestion_controls.clone(),
        wmem_max: *wmem_max,
        rmem_max: *rmem_max,
        sysctls: sysctls.iter().map(|(name, value)| (name.clone(), *value)).collect(),
    }
}

fn number(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => Some(*number),
        Value::Name(_) => None,
    }
}

fn on(value: &Value) -> Option<bool> {
    number(value).map(|number| number != 0)
}

fn name(value: &Value) -> Option<String> {
    match value {
        Value::Name(name) => Some(name.clone()),
        Value::Number(_) => None,
    }
}
