//! Where the ends of a connection are. A map of zones has ten thousand prefixes, a rule on zones goes through all of them, and many
//! connections have an address in common.

use std::{borrow::Cow, collections::HashMap, net::IpAddr, sync::Arc};

use sockpilot_policy::model::{Snapshot, Zone, zone_of};

use crate::recorded::Recorded;

/// Zones by snapshot and address, each with that address only.
#[derive(Debug, Default)]
pub(crate) struct Places(HashMap<(*const Snapshot, IpAddr), Option<Zone>>);

impl Places {
    /// Leaves a snapshot, or what it is on a node, the zones in which a connection's ends are: of its map, nothing else matters.
    pub(crate) fn narrow(&mut self, snapshot: &Arc<Snapshot>, on_node: &mut Cow<'_, Snapshot>, flow: &Recorded<'_>) {
        if !snapshot.zones.is_empty() {
            let ends = [flow.local, flow.remote].map(|address| self.zone(snapshot, address));
            on_node.to_mut().zones = ends.into_iter().flatten().collect();
        }
    }

    fn zone(&mut self, snapshot: &Arc<Snapshot>, address: IpAddr) -> Option<Zone> {
        let look = || {
            let Zone { name, region, prefixes: _ } = zone_of(&snapshot.zones, address)?.clone();
            Some(Zone { name, region, prefixes: address.to_string().parse().into_iter().collect() })
        };
        self.0.entry((Arc::as_ptr(snapshot), address)).or_insert_with(look).clone()
    }
}
