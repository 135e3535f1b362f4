//! What a server sends to a node.

use sockpilot_policy::{
    fault::{Collector, Faults},
    model::{Labels, Layer, LayerBody, LayerKind, LayerName, Policy, Snapshot, Term},
    validate,
};

use super::{
    comparison_from_proto,
    document::rules_from_proto,
    rollout::{self, rollout_from_proto},
    zones::zones_from_proto,
};
use crate::v1;

/// Reads and validates what a server sends to a node, in the order of decision.
///
/// # Errors
/// All faults.
pub fn snapshot_from_proto(message: &v1::Layers) -> Result<Snapshot, Faults> {
    let v1::Layers { layers, zones } = message;
    let mut faults = Collector::at("");
    let layers = faults.each("layers", layers, layer_from_proto);
    let layers: Vec<_> =
        layers.into_iter().enumerate().filter_map(|(position, layer)| Some((position, layer?))).collect();
    rollout::alike(&layers, &mut faults);
    let zones = zones_from_proto(zones, &mut faults);
    faults.finish(Snapshot { layers: layers.into_iter().map(|(_, layer)| layer).collect(), zones })
}

fn layer_from_proto(faults: &mut Collector, message: &v1::Layer) -> Option<Layer> {
    let v1::Layer { name, revision, priority, lease_ms, standby, ends_s, rollout, body } = message;
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
        (false, lease_ms) => Term::WhileInContact { lease_ms },
        (true, 0) => {
            faults.add_at("lease_ms", "is missing, though the layer stands by for one that has a lease");
            Term::Always
        }
        (true, lease_ms) => Term::AfterSilence { lease_ms },
    };
    let ends_s = (*ends_s > 0).then_some(*ends_s);
    let rollout = rollout_from_proto(rollout.as_ref(), name.as_ref().map(|name| name.kind), term, faults);
    Some(Layer { name: name?, revision: *revision, priority: *priority, term, ends_s, rollout, body: body? })
}
