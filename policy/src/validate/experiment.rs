//! What is particular about experiments: the unit, the measures, and what arms withhold.

use crate::{
    bucket::BUCKETS,
    fault::Collector,
    measure::{COLUMNS_MAX, Columns, MEASURES_MAX, Measure, Role, Transform},
    model::{Arm, LayerKind, LayerName, Unit},
};

/// The longest slot of time: a day.
const SLOT_S_MAX: u32 = 86_400;

/// Checks what is randomised; the collector stands at the experiment.
pub(super) fn unit(unit: Unit, arms: &[Arm], horizon_s: u32, faults: &mut Collector) {
    match unit {
        Unit::Flow | Unit::Node => {}
        Unit::PeerPrefix { ipv4_bits, ipv6_bits } => faults.field("peer_prefix", |faults| {
            if !(1..=32).contains(&ipv4_bits) {
                faults.add_at("ipv4_length", format!("is {ipv4_bits}; write 1 to 32, or leave it out for 24"));
            }
            if !(1..=128).contains(&ipv6_bits) {
                faults.add_at("ipv6_length", format!("is {ipv6_bits}; write 1 to 128, or leave it out for 48"));
            }
        }),
        Unit::TimeSlot { slot_s, washout_s } => {
            faults.field("time_slot", |faults| {
                let least = u64::from(washout_s) + u64::from(horizon_s) + 1;
                if slot_s > SLOT_S_MAX || u64::from(slot_s) < least {
                    let why = "washout and horizon must pass within a slot";
                    faults.add_at("slot_s", format!("is {slot_s}; write {least} to {SLOT_S_MAX} seconds: {why}"));
                }
                if washout_s == 0 {
                    faults.add_at("washout_s", "is 0; write at least 1 second: nodes' clocks are not equal");
                }
            });
            let halves = arms.iter().all(|arm| arm.weight_bp == BUCKETS / 2 && arm.first_bucket % (BUCKETS / 2) == 0);
            if arms.len() != 2 || !halves {
                faults
                    .add_at("arms", "of slots of time must be two of 5000 basis points: slots are given out in pairs");
            }
        }
        Unit::SaturationPair { low_bp, high_bp } => {
            faults.field("saturation_pair", |faults| {
                if low_bp == 0 || high_bp >= BUCKETS || low_bp >= high_bp {
                    let wanted = "0 < low_bp < high_bp < 10000, as 500 and 9500";
                    faults.add_at("low_bp", format!("is {low_bp}, and high_bp is {high_bp}; write {wanted}"));
                }
            });
            if arms.len() != 2 {
                faults.add_at("arms", "of a saturation pair must be two: the control, then what is tried");
            }
        }
    }
}

/// Checks by what arms are compared; the collector stands at the experiment.
pub(super) fn measures(measures: &[Measure], faults: &mut Collector) {
    if measures.len() > MEASURES_MAX {
        faults.add_at("measures", format!("has {} entries; write at most {MEASURES_MAX}", measures.len()));
    }
    faults.each("measures", measures, |faults, Measure { quantity, per, transform, role }| {
        if let Transform::Cap(at) | Transform::AtMost(at) = transform
            && !(at.is_finite() && *at > 0.0)
        {
            faults.add_at("transform", format!("has the bound {at}; write a number greater than 0"));
        }
        if per.is_some() && *transform != Transform::Itself {
            faults.add_at("per", "cannot stand beside a transform; leave one of them out");
        }
        if per.is_some_and(|per| per == *quantity || !per.is_always_known()) {
            faults.add_at(
                "per",
                format!(
                    "cannot be {}; write segments_out, bytes_sent or another that adds up",
                    per.map_or("", |per| per.name())
                ),
            );
        }
        if let Role::Guardrail { margin_bp } = role
            && !(1..=BUCKETS).contains(margin_bp)
        {
            faults.add_at(
                "margin_bp",
                format!("is {margin_bp}; write 1 to {BUCKETS} basis points of the control's mean"),
            );
        }
    });
    for (index, measure) in measures.iter().enumerate() {
        let same = |other: &&Measure| other.to_string() == measure.to_string();
        if measures[..index].iter().any(|other| same(&other)) {
            faults.add_at(&format!("measures[{index}]"), format!("is {measure} again; write each measure once"));
        }
    }
    let Columns { attempts, established, estimators: _ } = Columns::of(measures);
    if attempts.len().max(established.len()) > COLUMNS_MAX {
        faults.add_at("measures", format!("need more than {COLUMNS_MAX} sums of established connections; write fewer"));
    }
}

/// Checks what arms withhold; the collector stands at the experiment.
pub(super) fn holdback(policy: Option<&LayerName>, arms: &[Arm], faults: &mut Collector) {
    let withholding = arms.iter().filter(|arm| arm.withholds).count();
    match policy {
        None if withholding > 0 => {
            faults.add_at("withholds", "is missing, though an arm withholds; write the policy: policies/NAME");
        }
        None => {}
        Some(name) if name.kind != LayerKind::Policy => {
            faults.add_at("withholds", format!("is {name}; only a policy can be withheld: policies/NAME"));
        }
        Some(_) if withholding == 0 || withholding == arms.len() => {
            faults
                .add_at("withholds", "needs arms that withhold it and arms that do not; say `withholds: true` in some");
        }
        Some(_) => faults
            .each("arms", arms, |faults, arm| {
                if arm.withholds && !arm.set.is_empty() {
                    faults.add_at("set", "is not empty, though the arm withholds a policy; leave it out");
                }
            })
            .clear(),
    }
}
