//! Where addresses are.

use sockpilot_policy::{
    address::Prefix,
    fault::{Collector, Faults},
    model::Zone,
    validate,
};

use super::{id, parsed, stand_in};
use crate::v1;

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

pub(super) fn zones_from_proto(zones: &[v1::Zone], faults: &mut Collector) -> Vec<Zone> {
    let zones = faults.each("zones", zones, |faults, v1::Zone { name, region, prefixes }| Zone {
        name: id(name, faults),
        region: faults.field("region", |faults| faults.take(region.parse())).unwrap_or_else(stand_in),
        prefixes: parsed::<Prefix>("prefixes", prefixes, faults),
    });
    validate::zones(&zones, faults);
    zones
}
