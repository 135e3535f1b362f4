//! What an experiment randomises: from a connection, a node or a moment to a bucket, and to the group by which outcomes of units that
//! have several connections are told apart.

use crate::{
    bucket::{
        BUCKETS, GROUPS, WHOLE_FLOW, bucket, group, is_saturated, node_hash, peer_prefix, salt, slot_bucket, unit_hash,
    },
    layout::{BucketKey, FlowKey},
    model::{Arm, Comparison, LayerBody, Snapshot, Unit},
    rollout,
};

/// What is told of so late is put into a later interval, but no later than this.
const LATE_S_MAX: u64 = 86_400;

/// What of a flow the bucket is made of.
#[must_use]
pub fn key(unit: Unit) -> BucketKey {
    match unit {
        Unit::PeerPrefix { ipv4_bits, ipv6_bits } => peer_prefix(ipv4_bits, ipv6_bits),
        Unit::Flow | Unit::Node | Unit::TimeSlot { .. } | Unit::SaturationPair { .. } => WHOLE_FLOW,
    }
}

/// What a snapshot means on one node: where the node decides which arm its connections get, or how large the arms are, the arms have
/// the buckets that they have there; layers of a policy in a rollout have the part that they have there. Everything else stays as it is; on a node it may be asked twice.
#[must_use]
pub fn on_node(snapshot: &Snapshot, node_id: &str) -> Snapshot {
    let mut snapshot = snapshot.clone();
    rollout::resolve(&mut snapshot.layers);
    for layer in &mut snapshot.layers {
        if let LayerBody::Experiment(comparison) = &mut layer.body {
            comparison.arms = arms_on_node(comparison, node_id);
            if matches!(comparison.unit, Unit::Node | Unit::SaturationPair { .. }) {
                comparison.unit = Unit::Flow;
            }
        }
    }
    snapshot
}

/// The arms with the buckets that they have on a node.
#[must_use]
pub fn arms_on_node(comparison: &Comparison, node_id: &str) -> Vec<Arm> {
    let Comparison { unit, salt: text, arms, .. } = comparison;
    let hash = node_hash(salt(text), node_id);
    match unit {
        Unit::Flow | Unit::PeerPrefix { .. } | Unit::TimeSlot { .. } => arms.clone(),
        Unit::Node => {
            let own = arm_of(arms, bucket(hash)).map(|arm| &arm.name);
            let own = arms.iter().position(|arm| Some(&arm.name) == own).unwrap_or(0);
            let anybody = arm_of(arms, bucket(hash)).is_some();
            let placed = arms.iter().enumerate().map(|(position, arm)| {
                let (first_bucket, weight_bp) = match position.cmp(&own) {
                    _ if !anybody => (BUCKETS, 0),
                    std::cmp::Ordering::Less => (0, 0),
                    std::cmp::Ordering::Equal => (0, BUCKETS),
                    std::cmp::Ordering::Greater => (BUCKETS, 0),
                };
                Arm { first_bucket, weight_bp, ..arm.clone() }
            });
            placed.collect()
        }
        Unit::SaturationPair { low_bp, high_bp } => {
            let share = if is_saturated(salt(text), group(hash)) { *high_bp } else { *low_bp };
            let bounds = [0, BUCKETS.saturating_sub(share), BUCKETS];
            let placed = arms.iter().enumerate().map(|(position, arm)| {
                let first_bucket = bounds.get(position).copied().unwrap_or(BUCKETS);
                let end = bounds.get(position + 1).copied().unwrap_or(BUCKETS);
                Arm { first_bucket, weight_bp: end - first_bucket, ..arm.clone() }
            });
            placed.collect()
        }
    }
}

/// The arm that owns a bucket. One that nobody owns is outside of the experiment.
#[must_use]
pub fn arm_of(arms: &[Arm], bucket: u32) -> Option<&Arm> {
    arms.iter().find(|arm| (arm.first_bucket..arm.first_bucket.saturating_add(arm.weight_bp)).contains(&bucket))
}

/// The bucket of a connection that begins at this second of the fleet's time, on a node for which the arms were [resolved](on_node).
/// `None`: the unit is a slot of time, and the time is not known.
#[must_use]
pub fn bucket_of(comparison: &Comparison, flow: &FlowKey, begin_s: Option<u64>) -> Option<u32> {
    let salt = salt(&comparison.salt);
    match comparison.unit {
        Unit::TimeSlot { slot_s, .. } => Some(slot_bucket(salt, begin_s? / u64::from(slot_s.max(1)))),
        unit => Some(bucket(unit_hash(salt, flow, &key(unit)))),
    }
}

/// The group of the unit that a connection belongs to: below [`crate::bucket::GROUPS`], but of slots of time the number of the slot.
/// `None`: each connection is a unit.
#[must_use]
pub fn group_of(comparison: &Comparison, flow: &FlowKey, begin_s: u64, node_id: &str) -> Option<u32> {
    let salt = salt(&comparison.salt);
    match comparison.unit {
        Unit::Flow => None,
        Unit::PeerPrefix { .. } => Some(group(unit_hash(salt, flow, &key(comparison.unit)))),
        Unit::Node | Unit::SaturationPair { .. } => Some(group(node_hash(salt, node_id))),
        // 32 bits of slots of a minute are 8,000 years.
        Unit::TimeSlot { slot_s, .. } => Some((begin_s / u64::from(slot_s.max(1))) as u32),
    }
}

/// Whether a connection that begins then counts: not in the washout of a slot of time, and not so late in it that its horizon is in the
/// next one.
#[must_use]
pub fn counts(comparison: &Comparison, begin_s: u64) -> bool {
    let Unit::TimeSlot { slot_s, washout_s } = comparison.unit else { return true };
    let within = begin_s % u64::from(slot_s.max(1));
    within >= u64::from(washout_s) && within + u64::from(comparison.horizon_s) < u64::from(slot_s)
}

/// Whether a connection that began then has the arm of its slot of time. If not, the node has learned since that its clock was wrong.
#[must_use]
pub fn is_in_its_slot(comparison: &Comparison, arm: &str, begin_s: u64) -> bool {
    let Unit::TimeSlot { slot_s, .. } = comparison.unit else { return true };
    let bucket = slot_bucket(salt(&comparison.salt), begin_s / u64::from(slot_s.max(1)));
    arm_of(&comparison.arms, bucket).is_some_and(|own| own.name.as_str() == arm)
}

/// Groups that a node may report of connections that began before `end_s`, and not long before `start_s`: the first and the last of them.
/// `None`: none, because each connection is a unit.
#[must_use]
pub fn groups_of(comparison: &Comparison, node_id: &str, (start_s, end_s): (u64, u64)) -> Option<(u32, u32)> {
    match comparison.unit {
        Unit::Flow => None,
        Unit::PeerPrefix { .. } => Some((0, GROUPS - 1)),
        Unit::Node | Unit::SaturationPair { .. } => {
            let own = group(node_hash(salt(&comparison.salt), node_id));
            Some((own, own))
        }
        Unit::TimeSlot { slot_s, .. } => {
            let slot = |second: u64| (second / u64::from(slot_s.max(1))) as u32;
            Some((slot(start_s.saturating_sub(LATE_S_MAX)), slot(end_s.saturating_sub(1))))
        }
    }
}
