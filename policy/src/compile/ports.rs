//! The port tables: the mask of every port.

use std::collections::BTreeSet;

use super::masks::{self, Masks};
use crate::{address::PortRange, layout::PortTable, model::Match};

/// The table of one side. Between two neighbouring bounds of any range all ports have the same mask.
pub(super) fn table(masks: &mut Masks, matches: &[&Match], list: impl Fn(&Match) -> &Vec<PortRange>) -> Box<PortTable> {
    let mut bounds = BTreeSet::from([0_u32, 65_536]);
    for range in matches.iter().flat_map(|condition| list(condition)) {
        bounds.insert(u32::from(*range.ports().start()));
        bounds.insert(u32::from(*range.ports().end()) + 1);
    }
    let mut table = vec![0_u16; 65_536];
    let bounds: Vec<u32> = bounds.into_iter().collect();
    for pair in bounds.windows(2) {
        let port = pair[0] as u16;
        let mask = masks::of(matches, |condition| {
            list(condition).is_empty() || list(condition).iter().any(|range| range.ports().contains(&port))
        });
        table[pair[0] as usize..pair[1] as usize].fill(masks.id(mask));
    }
    let table: Box<[u16]> = table.into_boxed_slice();
    table.try_into().expect("the table has an entry for each of the 65,536 ports")
}
