//! The prefix tables: from the longest matching prefix to the mask of the rules that it does not exclude.

use std::collections::BTreeMap;

use super::masks::{self, Masks};
use crate::{
    address::{Family, Prefix},
    layout::Mask,
    model::Match,
};

/// One entry of a prefix table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixEntry {
    /// Network order; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// Bits of it, 0..=128.
    pub length: u8,
    /// The mask.
    pub mask: u16,
}

/// Where the IPv4 addresses lie among the IPv6 ones.
const MAPPED: ([u8; 16], u8) = ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], 96);

/// The table of one side, and the mask of an address in none of its prefixes. A longer prefix carries the rules of the shorter
/// ones around it, so that one look-up of the longest suffices.
pub(super) fn table(
    masks: &mut Masks,
    matches: &[&Match],
    list: impl Fn(&Match) -> &Vec<Prefix>,
) -> (Vec<PrefixEntry>, u16) {
    let anywhere = masks::of(matches, |condition| list(condition).is_empty());
    let no_prefix = masks.id(anywhere);
    let mut entries = Vec::new();
    for family in [Family::Ipv6, Family::Ipv4] {
        let own = own_rules(matches, &list, family);
        entries.extend(nested(masks, own, anywhere));
    }
    // Without this entry an IPv4 address would fall into an IPv6 prefix as short as ::/0.
    if !entries.is_empty() && !entries.iter().any(|entry| (entry.address, entry.length) == MAPPED) {
        entries.push(PrefixEntry { address: MAPPED.0, length: MAPPED.1, mask: no_prefix });
    }
    (entries, no_prefix)
}

/// The rules that name each prefix of a family, by (address, length): a prefix stands right before those it contains.
fn own_rules(
    matches: &[&Match],
    list: &impl Fn(&Match) -> &Vec<Prefix>,
    family: Family,
) -> BTreeMap<([u8; 16], u8), Vec<usize>> {
    let mut own: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (rule, condition) in matches.iter().enumerate() {
        for prefix in list(condition).iter().filter(|prefix| prefix.family() == family) {
            own.entry(prefix.mapped()).or_default().push(rule);
        }
    }
    own
}

fn nested(masks: &mut Masks, own: BTreeMap<([u8; 16], u8), Vec<usize>>, anywhere: Mask) -> Vec<PrefixEntry> {
    let mut around: Vec<([u8; 16], u8, Mask)> = Vec::new();
    let mut entries = Vec::with_capacity(own.len());
    for ((address, length), rules) in own {
        while around.last().is_some_and(|(outer, bits, _)| !contains(outer, *bits, &address)) {
            around.pop();
        }
        let mut mask = around.last().map_or(anywhere, |(_, _, mask)| *mask);
        rules.into_iter().for_each(|rule| masks::set(&mut mask, rule));
        entries.push(PrefixEntry { address, length, mask: masks.id(mask) });
        around.push((address, length, mask));
    }
    entries
}

fn contains(outer: &[u8; 16], bits: u8, address: &[u8; 16]) -> bool {
    (u128::from_be_bytes(*outer) ^ u128::from_be_bytes(*address)).leading_zeros() >= u32::from(bits)
}
