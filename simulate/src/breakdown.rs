//! Connections by what they have in common.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use sockpilot_policy::model::{Direction, Zone, zone_of};
use sockpilot_proto::v1::{self, SimulationDimension as Dimension};

use crate::{ROWS_MAX, recorded::Recorded, tally::Tally};

const DIMENSIONS: [Dimension; 5] =
    [Dimension::Zones, Dimension::Port, Dimension::Service, Dimension::Rtt, Dimension::Node];

/// What is not known, or not there.
const NONE: &str = "-";

/// Classes of round-trip times: up to so many microseconds, exclusively, and what that is called.
const RTT_CLASSES: [(u32, &str); 10] = [
    (100, "<100us"),
    (300, "100us-300us"),
    (1_000, "300us-1ms"),
    (3_000, "1ms-3ms"),
    (10_000, "3ms-10ms"),
    (30_000, "10ms-30ms"),
    (100_000, "30ms-100ms"),
    (300_000, "100ms-300ms"),
    (1_000_000, "300ms-1s"),
    (u32::MAX, ">=1s"),
];

/// A key, and before it where its row stands, if not by what is in it.
type Key = (usize, String);

/// Tallies by key, in the order of [`DIMENSIONS`].
pub(crate) struct Breakdowns<'a> {
    tallies: [BTreeMap<Key, Tally>; DIMENSIONS.len()],
    zones: &'a [Zone],
    /// A map of zones is long, and many connections have an address in common.
    known: HashMap<IpAddr, &'a str>,
}

impl<'a> Breakdowns<'a> {
    pub(crate) fn new(zones: &'a [Zone]) -> Self {
        Self { tallies: Default::default(), zones, known: HashMap::new() }
    }

    /// Adds a flow to its row of each dimension.
    pub(crate) fn add(&mut self, node: &str, flow: &Recorded<'_>, add: impl Fn(&mut Tally)) {
        let zones = format!("{} > {}", self.zone(flow.local), self.zone(flow.remote));
        let port = match flow.direction {
            Direction::Active => format!("remote {}", flow.sample.remote_port),
            Direction::Passive => format!("local {}", flow.sample.local_port),
        };
        let service = if flow.sample.service.is_empty() { NONE } else { &flow.sample.service };
        let rtt = rtt_class(flow.sample.handshake_rtt_us);
        let keys = [(0, zones), (0, port), (0, service.to_owned()), rtt, (0, node.to_owned())];
        for (tallies, key) in self.tallies.iter_mut().zip(keys) {
            add(tallies.entry(key).or_default());
        }
    }

    fn zone(&mut self, address: IpAddr) -> &'a str {
        let zones = self.zones;
        self.known.entry(address).or_insert_with(|| zone_of(zones, address).map_or(NONE, |zone| zone.name.as_str()))
    }

    /// Tallies by the id of the node.
    pub(crate) fn into_nodes(self) -> BTreeMap<String, Tally> {
        let [_, _, _, _, nodes] = self.tallies;
        nodes.into_iter().map(|((_, node), tally)| (node.trim_start_matches("nodes/").to_owned(), tally)).collect()
    }

    pub(crate) fn into_rows(self) -> Vec<v1::Breakdown> {
        let dimensions = DIMENSIONS.into_iter().zip(self.tallies);
        dimensions
            .map(|(dimension, tallies)| v1::Breakdown { dimension: dimension.into(), rows: rows(tallies) })
            .collect()
    }
}

fn rtt_class(rtt_us: u32) -> Key {
    if rtt_us == 0 {
        return (RTT_CLASSES.len(), NONE.to_owned());
    }
    let class = RTT_CLASSES.iter().position(|(below, _)| rtt_us < *below).unwrap_or(RTT_CLASSES.len() - 1);
    (class, RTT_CLASSES[class].1.to_owned())
}

fn rows(tallies: BTreeMap<Key, Tally>) -> Vec<v1::BreakdownRow> {
    let mut tallies: Vec<_> = tallies.into_iter().collect();
    // Stable: what is equal stays in the order of keys.
    tallies.sort_by(|((a_place, _), a), ((b_place, _), b)| {
        let most = b.touched().total_cmp(&a.touched()).then_with(|| b.connections().total_cmp(&a.connections()));
        a_place.cmp(b_place).then(most)
    });
    let rest = tallies.split_off(tallies.len().min(ROWS_MAX));
    let row = |((_, key), tally): (Key, Tally)| v1::BreakdownRow { key, keys: 1, share: Some(tally.share()) };
    let mut rows: Vec<_> = tallies.into_iter().map(row).collect();
    if !rest.is_empty() {
        let tally = rest.iter().fold(Tally::default(), |sum, (_, tally)| sum.plus(tally));
        let keys = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        rows.push(v1::BreakdownRow { key: String::new(), keys, share: Some(tally.share()) });
    }
    rows
}
