//! What experiments compare, and by what.

use sockpilot_policy::{
    fault::Collector,
    measure::{MARGIN_BP, Measure, Quantity, Role, Transform},
    model::{Comparison, HORIZON_S, Unit},
};

use super::{
    document::{arms_from_proto, if_unsupported_from_proto},
    known,
    matches::match_from_proto,
};
use crate::v1;

/// Reads what an experiment compares; what it says is validated by whoever has the whole.
#[must_use]
pub fn comparison_from_proto(message: &v1::ExperimentLayer, faults: &mut Collector) -> Comparison {
    let v1::ExperimentLayer {
        r#match,
        unit: _,
        salt,
        arms,
        if_unsupported,
        measures,
        horizon_s,
        peer_prefix: _,
        time_slot: _,
        saturation_pair: _,
        withholds,
    } = message;
    let measures = measures_from_proto(measures, faults);
    let named = |faults: &mut Collector| (!withholds.is_empty()).then(|| faults.take(withholds.parse())).flatten();
    Comparison {
        matches: match_from_proto(r#match.as_ref(), faults),
        unit: unit_from_proto(message, faults),
        salt: salt.clone(),
        arms: arms_from_proto(arms, faults),
        if_unsupported: if_unsupported_from_proto(*if_unsupported, faults),
        measures,
        horizon_s: if *horizon_s == 0 { HORIZON_S } else { *horizon_s },
        withholds: faults.field("withholds", named),
    }
}

fn unit_from_proto(message: &v1::ExperimentLayer, faults: &mut Collector) -> Unit {
    let v1::ExperimentLayer { unit, peer_prefix, time_slot, saturation_pair, .. } = message;
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    let of_kind: [(&str, bool, v1::Unit); 3] = [
        ("peer_prefix", peer_prefix.is_some(), v1::Unit::PeerPrefix),
        ("time_slot", time_slot.is_some(), v1::Unit::TimeSlot),
        ("saturation_pair", saturation_pair.is_some(), v1::Unit::SaturationPair),
    ];
    let kind: v1::Unit =
        known("unit", *unit, "UNIT_FLOW, UNIT_PEER_PREFIX, UNIT_NODE, UNIT_TIME_SLOT or UNIT_SATURATION_PAIR", faults);
    for (field, is_said, of) in of_kind {
        if is_said && kind != of {
            faults.add_at(field, format!("is for {} only; write that unit, or leave this out", of.as_str_name()));
        }
    }
    // Beyond a byte stays beyond the greatest length, so that validation reports it.
    let bits = |length: u32| u8::try_from(length).unwrap_or(u8::MAX);
    match kind {
        v1::Unit::Unspecified | v1::Unit::Flow => Unit::Flow,
        v1::Unit::Node => Unit::Node,
        v1::Unit::PeerPrefix => {
            let v1::PeerPrefix { ipv4_length, ipv6_length } = peer_prefix.unwrap_or_default();
            Unit::PeerPrefix { ipv4_bits: bits(or(ipv4_length, 24)), ipv6_bits: bits(or(ipv6_length, 48)) }
        }
        v1::Unit::TimeSlot => {
            let v1::TimeSlot { slot_s, washout_s } = time_slot.unwrap_or_default();
            Unit::TimeSlot { slot_s, washout_s }
        }
        v1::Unit::SaturationPair => {
            let v1::SaturationPair { low_bp, high_bp } = saturation_pair.unwrap_or_default();
            Unit::SaturationPair { low_bp: or(low_bp, 500), high_bp: or(high_bp, 9_500) }
        }
    }
}

pub(super) fn measures_from_proto(measures: &[v1::Measure], faults: &mut Collector) -> Vec<Measure> {
    faults.each("measures", measures, measure_from_proto).into_iter().flatten().collect()
}

/// Reads a measure; `None` with a fault.
pub fn measure_from_proto(faults: &mut Collector, message: &v1::Measure) -> Option<Measure> {
    let v1::Measure { quantity, per, role, margin_bp, transform } = message;
    let quantity: Option<Quantity> = faults.field("quantity", |faults| faults.take(quantity.parse()));
    let named = |faults: &mut Collector| (!per.is_empty()).then(|| faults.take(per.parse())).flatten();
    let per = faults.field("per", named);
    let transform = match transform {
        None | Some(v1::measure::Transform::Log(false)) => Transform::Itself,
        Some(v1::measure::Transform::Log(true)) => Transform::Log,
        Some(v1::measure::Transform::Cap(at)) => Transform::Cap(*at),
        Some(v1::measure::Transform::AtMost(at)) => Transform::AtMost(*at),
    };
    let role =
        match known("role", *role, "MEASURE_ROLE_SUCCESS, MEASURE_ROLE_GUARDRAIL or MEASURE_ROLE_DIAGNOSTIC", faults) {
            v1::MeasureRole::Success => Role::Success,
            v1::MeasureRole::Guardrail => {
                Role::Guardrail { margin_bp: if *margin_bp == 0 { MARGIN_BP } else { *margin_bp } }
            }
            v1::MeasureRole::Unspecified | v1::MeasureRole::Diagnostic => Role::Diagnostic,
        };
    if *margin_bp > 0 && !matches!(role, Role::Guardrail { .. }) {
        faults.add_at("margin_bp", "is for guardrails only; leave it out");
    }
    Some(Measure { quantity: quantity?, per, transform, role })
}

/// A measure as it stands on the wire.
#[must_use]
pub fn measure_to_proto(measure: &Measure) -> v1::Measure {
    let Measure { quantity, per, transform, role } = measure;
    let (role, margin_bp) = match role {
        Role::Success => (v1::MeasureRole::Success, 0),
        Role::Guardrail { margin_bp } => (v1::MeasureRole::Guardrail, *margin_bp),
        Role::Diagnostic => (v1::MeasureRole::Diagnostic, 0),
    };
    v1::Measure {
        quantity: quantity.name().to_owned(),
        per: per.map_or_else(String::new, |per| per.name().to_owned()),
        role: role.into(),
        margin_bp,
        transform: match transform {
            Transform::Itself => None,
            Transform::Log => Some(v1::measure::Transform::Log(true)),
            Transform::Cap(at) => Some(v1::measure::Transform::Cap(*at)),
            Transform::AtMost(at) => Some(v1::measure::Transform::AtMost(*at)),
        },
    }
}
