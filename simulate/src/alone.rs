//! Without a server: layers that everyone has.

use std::sync::Arc;

use sockpilot_policy::{
    fault::Faults,
    model::{Snapshot, sort_layers},
};
use sockpilot_proto::{
    convert::{snapshot_from_proto, zone_map_from_proto},
    v1,
};

use crate::{Layers, simulate};

/// What a change would do to recorded flows where every node has the same layers, in whatever order they are given.
///
/// # Errors
/// All faults of layers and zones.
pub fn simulate_alone(
    flows: &[v1::FlowSample],
    before: Vec<v1::Layer>,
    after: Vec<v1::Layer>,
    map: &v1::ZoneMap,
) -> Result<v1::Simulation, Faults> {
    let snapshot = |layers| -> Result<Arc<Snapshot>, Faults> {
        let mut snapshot = snapshot_from_proto(&v1::Layers { layers, zones: map.zones.clone() })?;
        sort_layers(&mut snapshot.layers);
        Ok(Arc::new(snapshot))
    };
    let layers = Layers { before: snapshot(before)?, after: snapshot(after)? };
    simulate(flows, &zone_map_from_proto(map, "zones")?, |_| Ok(Some(layers.clone())))
}
