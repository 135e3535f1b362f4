//! The prefix tables: from the longest matching prefix to the zone, and to the mask of the rules that address and zone do not
//! exclude.

use std::collections::BTreeMap;

use super::{
    masks::{self, Masks},
    zones::ZoneTable,
};
use crate::{
    address::{Family, Prefix},
    layout::{MASK_WORDS, Mask},
    model::{Id, Match},
};

/// One entry of a prefix table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixEntry {
    /// Network order; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// Bits of it, 0..=128.
    pub length: u8,
    /// Mask, zone and region, as [`crate::layout::ZONE_SHIFT`] says.
    pub value: u32,
}

/// What a match says of one of the two addresses.
pub(super) struct Side {
    pub prefixes: fn(&Match) -> &Vec<Prefix>,
    pub zones: fn(&Match) -> &Vec<Id>,
}

/// The local address.
pub(super) const LOCAL: Side =
    Side { prefixes: |condition| &condition.local_prefixes, zones: |condition| &condition.local_zones };
/// The remote address.
pub(super) const REMOTE: Side =
    Side { prefixes: |condition| &condition.remote_prefixes, zones: |condition| &condition.remote_zones };

/// Where the IPv4 addresses lie among the IPv6 ones.
const MAPPED: ([u8; 16], u8) = ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], 96);

/// A prefix in the 128-bit space.
type Key = ([u8; 16], u8);

/// What stands at one prefix: the rules that name it, and the zone it belongs to (0: none of its own).
#[derive(Default)]
struct Own {
    rules: Vec<usize>,
    zone: usize,
}

/// What holds inside a prefix.
#[derive(Clone, Copy)]
struct Inside {
    /// The rules that name this prefix or one around it, or no prefix at all.
    rules: Mask,
    zone: usize,
}

/// The table of one side, and the mask of an address in none of its prefixes. A longer prefix carries what holds in the shorter
/// ones around it, so that one look-up of the longest suffices.
pub(super) fn table(masks: &mut Masks, matches: &[&Match], side: &Side, zones: &ZoneTable) -> (Vec<PrefixEntry>, u16) {
    let by_zone: Vec<Mask> = (0..=zones.len())
        .map(|zone| masks::of(matches, |condition| zones.admits((side.zones)(condition), zone)))
        .collect();
    let outside = Inside { rules: masks::of(matches, |condition| (side.prefixes)(condition).is_empty()), zone: 0 };
    let no_prefix = masks.id(both(&outside.rules, &by_zone[0]));
    let mut entries = Vec::new();
    for family in [Family::Ipv6, Family::Ipv4] {
        let own = own(matches, side, zones, family);
        for (address, length, inside) in nested(own, outside) {
            let mask = masks.id(both(&inside.rules, &by_zone[inside.zone]));
            entries.push(PrefixEntry { address, length, value: zones.value(mask, inside.zone) });
        }
    }
    // Without this entry an IPv4 address would fall into an IPv6 prefix as short as ::/0.
    if !entries.is_empty() && !entries.iter().any(|entry| (entry.address, entry.length) == MAPPED) {
        entries.push(PrefixEntry { address: MAPPED.0, length: MAPPED.1, value: zones.value(no_prefix, 0) });
    }
    (entries, no_prefix)
}

/// What stands at each prefix of a family, by (address, length): a prefix comes right before those it contains.
fn own(matches: &[&Match], side: &Side, zones: &ZoneTable, family: Family) -> BTreeMap<Key, Own> {
    let mut own: BTreeMap<Key, Own> = BTreeMap::new();
    for (rule, condition) in matches.iter().enumerate() {
        for prefix in (side.prefixes)(condition).iter().filter(|prefix| prefix.family() == family) {
            own.entry(prefix.mapped()).or_default().rules.push(rule);
        }
    }
    for (prefix, zone) in zones.prefixes().filter(|(prefix, _)| prefix.family() == family) {
        own.entry(prefix.mapped()).or_default().zone = zone;
    }
    own
}

fn nested(own: BTreeMap<Key, Own>, outside: Inside) -> Vec<([u8; 16], u8, Inside)> {
    let mut around: Vec<([u8; 16], u8, Inside)> = Vec::new();
    let mut all = Vec::with_capacity(own.len());
    for ((address, length), Own { rules, zone }) in own {
        while around.last().is_some_and(|(outer, bits, _)| !contains(outer, *bits, &address)) {
            around.pop();
        }
        let mut inside = around.last().map_or(outside, |(_, _, inside)| *inside);
        rules.into_iter().for_each(|rule| masks::set(&mut inside.rules, rule));
        if zone != 0 {
            inside.zone = zone;
        }
        around.push((address, length, inside));
        all.push((address, length, inside));
    }
    all
}

fn both(a: &Mask, b: &Mask) -> Mask {
    let mut mask = [0; MASK_WORDS];
    for (word, (a, b)) in mask.iter_mut().zip(a.iter().zip(b)) {
        *word = a & b;
    }
    mask
}

fn contains(outer: &[u8; 16], bits: u8, address: &[u8; 16]) -> bool {
    (u128::from_be_bytes(*outer) ^ u128::from_be_bytes(*address)).leading_zeros() >= u32::from(bits)
}
