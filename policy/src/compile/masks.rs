//! Masks over the rules, each kept once.

use std::collections::HashMap;

use crate::{
    layout::{MASK_WORDS, Mask},
    model::Match,
};

/// All masks of one generation.
pub(super) struct Masks {
    rules: usize,
    table: Vec<Mask>,
    ids: HashMap<Mask, u16>,
}

impl Masks {
    pub(super) fn new(rules: usize) -> Self {
        let empty = [0; MASK_WORDS];
        Self { rules, table: vec![empty], ids: HashMap::from([(empty, 0)]) }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn into_table(self) -> Vec<Mask> {
        self.table
    }

    /// The id of a mask. Beyond 65,535 masks ids repeat; [`super::compile`] refuses long before.
    pub(super) fn id(&mut self, mask: Mask) -> u16 {
        *self.ids.entry(mask).or_insert_with(|| {
            self.table.push(mask);
            (self.table.len() - 1) as u16
        })
    }

    /// The id of the mask of the rules for which a condition holds.
    pub(super) fn where_(&mut self, matches: &[&Match], holds: impl Fn(&Match) -> bool) -> u16 {
        debug_assert_eq!(self.rules, matches.len());
        self.id(of(matches, holds))
    }
}

/// The mask of the rules for which a condition holds.
pub(super) fn of(matches: &[&Match], holds: impl Fn(&Match) -> bool) -> Mask {
    let mut mask = [0; MASK_WORDS];
    for (rule, _) in matches.iter().enumerate().filter(|(_, condition)| holds(condition)) {
        set(&mut mask, rule);
    }
    mask
}

/// Adds a rule to a mask.
pub(super) fn set(mask: &mut Mask, rule: usize) {
    mask[rule / 64] |= 1 << (rule % 64);
}
