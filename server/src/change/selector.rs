//! Selectors of waves as they stand in messages and in stored plans.

use std::collections::BTreeSet;

use sockpilot_policy::{bucket::BUCKETS, fault::Collector, model::Labels, validate};
use sockpilot_proto::v1::{self, selector};

use super::{
    names,
    wave::{Selector, conflict},
};

/// Reads a share. The walk stands where its field is.
pub fn share(share_bp: u32, faults: &mut Collector) -> Selector {
    if !(1..BUCKETS).contains(&share_bp) {
        faults
            .add_at("share_bp", format!("is {share_bp}; write 1 to {} basis points, or target everyone", BUCKETS - 1));
    }
    Selector::Share(share_bp)
}

/// Reads labels. The walk stands where their field is.
pub fn labelled(message: &v1::target::NodeLabels, faults: &mut Collector) -> Selector {
    let labels: Labels = message.labels.clone().into_iter().collect();
    faults.field("node_labels", |faults| {
        if labels.is_empty() {
            faults.add_at("labels", "is empty; name at least one label, or target everyone");
        }
        faults.field("labels", |faults| validate::labels(&labels, faults));
    });
    Selector::Labels(labels)
}

/// Reads and checks the selector of a wave that comes after others. The walk stands at its field.
pub fn next_wave(message: &v1::Selector, before: &[Selector], faults: &mut Collector) -> Option<Selector> {
    let selector = selector_from_proto(message, faults)?;
    if let Some((field, why)) = conflict(&selector, before) {
        faults.add_at(field, why);
    }
    Some(selector)
}

/// Reads and checks a selector. The walk stands at its field.
fn selector_from_proto(message: &v1::Selector, faults: &mut Collector) -> Option<Selector> {
    match &message.kind {
        Some(selector::Kind::ShareBp(share_bp)) => Some(share(*share_bp, faults)),
        Some(selector::Kind::NodeLabels(message)) => Some(labelled(message, faults)),
        Some(selector::Kind::Nodes(v1::selector::Nodes { nodes })) => Some(faults.field("nodes", |faults| {
            if nodes.is_empty() {
                faults.add_at("nodes", "is empty; name at least one node, or leave the wave out");
            }
            let mut ids = BTreeSet::new();
            faults.each("nodes", nodes, |faults, name| {
                let Some(id) = faults.take(names::one_node(name)) else { return };
                if !ids.insert(id) {
                    faults.add(format!("{name} stands here twice; leave one out"));
                }
            });
            Selector::Nodes(ids)
        })),
        None => {
            faults.add("says nothing; write share_bp, node_labels or nodes");
            None
        }
    }
}

/// As it stands on the wire.
#[must_use]
pub fn selector_to_proto(selector: &Selector) -> v1::Selector {
    let kind = match selector {
        Selector::Share(share_bp) => selector::Kind::ShareBp(*share_bp),
        Selector::Labels(labels) => {
            selector::Kind::NodeLabels(v1::target::NodeLabels { labels: labels.clone().into_iter().collect() })
        }
        Selector::Nodes(ids) => {
            selector::Kind::Nodes(v1::selector::Nodes { nodes: ids.iter().map(|id| format!("nodes/{id}")).collect() })
        }
    };
    v1::Selector { kind: Some(kind) }
}
