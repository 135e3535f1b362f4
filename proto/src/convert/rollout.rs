//! What a rollout asks of a node.

use sockpilot_policy::{
    fault::Collector,
    model::{HORIZON_S, Id, Layer, LayerKind, Part, Rollout, Term},
    validate,
};

use super::{experiment::measures_from_proto, stand_in};
use crate::v1;

/// Reads and validates what a rollout asks of a layer; the collector stands at the layer.
pub(super) fn rollout_from_proto(
    message: Option<&v1::LayerRollout>,
    kind: Option<LayerKind>,
    term: Term,
    faults: &mut Collector,
) -> Option<Rollout> {
    let v1::LayerRollout { name, salt, revision, flow_share_bp, measures, horizon_s, breaker_ppm, unchanged } =
        message?;
    if kind == Some(LayerKind::Experiment) {
        faults.add_at("rollout", "is for policies only; leave it out");
    }
    faults.field("rollout", |faults| {
        let name = faults.field("name", |faults| faults.take(id(name))).unwrap_or_else(stand_in);
        let rollout = Rollout {
            name,
            salt: salt.clone(),
            revision: *revision,
            share_bp: *flow_share_bp,
            measures: measures_from_proto(measures, faults),
            horizon_s: if *horizon_s == 0 { HORIZON_S } else { *horizon_s },
            breaker_ppm: *breaker_ppm,
            unchanged: *unchanged,
            tripped: false,
            part: Part::default(),
        };
        validate::rollout(&rollout, term, faults);
        Some(rollout)
    })
}

fn id(name: &str) -> Result<Id, String> {
    let id = name.strip_prefix("rollouts/").ok_or_else(|| format!("\"{name}\" is no name; write rollouts/NAME"))?;
    id.parse()
}

/// Checks that a policy's revisions on a node, by position in the snapshot, are asked the same.
pub(super) fn alike(layers: &[(usize, Layer)], faults: &mut Collector) {
    for (at, (position, layer)) in layers.iter().enumerate() {
        let Some((first, other)) = layers[..at].iter().find(|(_, other)| other.name == layer.name) else { continue };
        if layer.rollout != other.rollout {
            faults.add_at(
                &format!("layers[{position}].rollout"),
                format!("is another one than that of layers[{first}], of the same policy; write the same at both"),
            );
        }
    }
}
