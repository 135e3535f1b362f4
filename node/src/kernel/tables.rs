//! Filling the tables of one slot, and putting it in force.

use std::collections::HashMap;

use sockpilot_policy::{
    compile::{PrefixEntry, Tables},
    layout::{
        Active, ChoiceTable, MASK_WORDS, MaskTable, NAME_BYTES, NAMES_MAX, RuleTable, USED_LIVE, USED_REPLIES,
        USED_REQUESTS,
    },
    parameter::{Kind, PARAMETERS, REPLY_MASK, REQUEST_MASK},
};

use super::{
    KernelError, Map,
    breakers::{self, Armed},
    pins::Maps,
    plain::Plain,
};

/// Prefix length in bits with the slot before it, slot, address: the key of the prefix tables.
type NetKey = [u8; 24];

/// What is known of a slot's prefix tables.
#[derive(Debug, Default)]
pub(super) struct Known {
    local: Option<HashMap<NetKey, u32>>,
    remote: Option<HashMap<NetKey, u32>>,
}

/// Writes everything that belongs to a generation into an idle slot, and reads it back.
pub(super) fn fill(
    maps: &Maps,
    slot: u32,
    tables: &Tables,
    breakers: &[Armed],
    known: &mut Known,
) -> Result<(), KernelError> {
    let names = name_positions(maps, tables)?;
    let mut masks = MaskTable::zeroed();
    masks[..tables.masks.len() * MASK_WORDS].copy_from_slice(tables.masks.as_flattened());
    maps.masks.set_checked(slot, &masks)?;
    let mut rules = RuleTable::zeroed();
    rules[..tables.rules.len()].copy_from_slice(&tables.rules);
    rules.iter_mut().for_each(|rule| rule.breaker = breakers::of_rule(breakers, rule.breaker));
    maps.rules.set_checked(slot, &rules)?;
    maps.choices.set_checked(slot, &choices(tables, &names, breakers))?;
    maps.local_ports.set_checked(slot, &tables.local_ports)?;
    maps.remote_ports.set_checked(slot, &tables.remote_ports)?;
    nets(&maps.local_nets, slot, &tables.local_prefixes, &mut known.local)?;
    nets(&maps.remote_nets, slot, &tables.remote_prefixes, &mut known.remote)?;
    maps.generations.set_checked(slot, &tables.head)
}

/// Whether a slot was filled from the same matches: then masks have the same meaning.
pub(super) fn holds(maps: &Maps, slot: u32, tables: &Tables) -> Result<bool, KernelError> {
    let (head, masks) = (maps.generations.get_at(slot.bytes())?, maps.masks.get_at(slot.bytes())?);
    let same = masks.starts_with(tables.masks.as_flattened());
    Ok(same && head.install == tables.head.install)
}

/// Flips: from here on every new connection is decided by this slot.
pub(super) fn put_in_force(maps: &Maps, slot: u32, tables: &Tables) -> Result<(), KernelError> {
    let before: Active = maps.active.get(0)?;
    let sets = |mask, flag| if tables.head.parameters & mask == 0 { 0 } else { flag };
    let live = if tables.head.live == 0 { 0 } else { USED_LIVE };
    let used = before.used | sets(REQUEST_MASK, USED_REQUESTS) | sets(REPLY_MASK, USED_REPLIES) | live;
    maps.active.set_checked(0, &Active { slot_plus_one: slot + 1, used, ..before })
}

/// The position in the kernel's table of each name of these tables. New ones are added at its end.
fn name_positions(maps: &Maps, tables: &Tables) -> Result<Vec<u32>, KernelError> {
    let mut table = maps.names.get(0)?;
    let (held, _) = table.as_chunks_mut::<NAME_BYTES>();
    let mut used = held.iter().position(|name| name[0] == 0).unwrap_or(NAMES_MAX);
    let mut positions = Vec::with_capacity(tables.names.len());
    for name in &tables.names {
        let position = match held[..used].iter().position(|known| known == name) {
            Some(position) => position,
            None => {
                *held.get_mut(used).ok_or(KernelError::Names)? = *name;
                used += 1;
                used - 1
            }
        };
        positions.push(position as u32);
    }
    maps.names.set_checked(0, &table)?;
    Ok(positions)
}

/// The choices, with names and breakers as they are in the kernel's tables.
fn choices(tables: &Tables, names: &[u32], breakers: &[Armed]) -> Box<ChoiceTable> {
    let mut choices = ChoiceTable::zeroed();
    choices[..tables.choices.len()].copy_from_slice(&tables.choices);
    choices.iter_mut().for_each(|choice| choice.breaker = breakers::of_choice(breakers, choice.breaker));
    for (slot, _) in PARAMETERS.iter().enumerate().filter(|(_, parameter)| matches!(parameter.kind, Kind::Name)) {
        for choice in choices.iter_mut().filter(|choice| choice.parameters & 1 << slot != 0) {
            choice.values[slot] = names.get(choice.values[slot] as usize).copied().unwrap_or_default();
        }
    }
    choices
}

/// Makes a slot's part of a prefix table hold these entries and no others.
fn nets(
    map: &Map<u32>,
    slot: u32,
    entries: &[PrefixEntry],
    known: &mut Option<HashMap<NetKey, u32>>,
) -> Result<(), KernelError> {
    let wanted: HashMap<NetKey, u32> = entries.iter().map(|entry| (net_key(slot, entry), entry.value)).collect();
    // Taken out while it is changed: after an error what the kernel holds is unknown again.
    let held = match known.take() {
        Some(held) => held,
        None => held_nets(map, slot)?,
    };
    for key in held.keys().filter(|key| !wanted.contains_key(*key)) {
        map.delete(key)?;
    }
    for (key, mask) in wanted.iter().filter(|(key, mask)| held.get(*key) != Some(*mask)) {
        map.set_at(key, mask)?;
        if *map.get_at(key)? != *mask {
            return Err(KernelError::ReadBack(map.name));
        }
    }
    *known = Some(wanted);
    Ok(())
}

/// What the kernel holds of a slot.
fn held_nets(map: &Map<u32>, slot: u32) -> Result<HashMap<NetKey, u32>, KernelError> {
    let mut held = HashMap::new();
    let mut key: Option<NetKey> = None;
    loop {
        let mut next: NetKey = [0; 24];
        if !map.next_key(key.as_ref().map(|key| &key[..]), &mut next)? {
            return Ok(held);
        }
        if next[4..8] == slot.to_ne_bytes() {
            held.insert(next, *map.get_at(&next)?);
        }
        key = Some(next);
    }
}

fn net_key(slot: u32, entry: &PrefixEntry) -> NetKey {
    let mut key = [0; 24];
    key[..4].copy_from_slice((32 + u32::from(entry.length)).bytes());
    key[4..8].copy_from_slice(slot.bytes());
    key[8..].copy_from_slice(&entry.address);
    key
}
