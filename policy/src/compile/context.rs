//! The dimensions with few values, as one: direction and family, relation of the zones, piece of the handshake time.
//!
//! One table for their product costs some kilobytes and saves the kernel program two masks in every step.

use super::{
    handshake,
    masks::{self, Masks},
    zones,
};
use crate::{
    layout::{CONTEXTS, HANDSHAKE_PIECES, MASK_WORDS, Mask, ZONE_RELATIONS},
    model::Match,
};

/// The table.
pub(super) fn table(masks: &mut Masks, matches: &[&Match], bounds: &[u32]) -> [u16; CONTEXTS] {
    let sides: [Mask; 4] = std::array::from_fn(|side| {
        let (family, direction) = ((side / 2) as u8, (side % 2) as u8);
        masks::of(matches, |condition| {
            condition.family.is_none_or(|asked| asked.code() == family)
                && condition.direction.is_none_or(|asked| asked.code() == direction)
        })
    });
    let relations: [Mask; ZONE_RELATIONS] =
        std::array::from_fn(|relation| masks::of(matches, |condition| zones::admits_relation(condition, relation)));
    let pieces: [Mask; HANDSHAKE_PIECES] =
        std::array::from_fn(|piece| masks::of(matches, |condition| handshake::admits(condition, piece, bounds)));
    std::array::from_fn(|at| {
        let (piece, rest) = (at % HANDSHAKE_PIECES, at / HANDSHAKE_PIECES);
        let (relation, side) = (rest % ZONE_RELATIONS, rest / ZONE_RELATIONS);
        masks.id(std::array::from_fn::<u64, MASK_WORDS, _>(|word| {
            sides[side][word] & relations[relation][word] & pieces[piece][word]
        }))
    })
}
