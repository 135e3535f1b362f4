//! Handshake times: a few bounds cut the axis into pieces.

use std::collections::BTreeSet;

use crate::{layout::HANDSHAKE_BOUNDS_MAX, model::Match};

/// All bounds that rules name, ascending.
pub(super) fn bounds(matches: &[&Match]) -> Vec<u32> {
    let named = matches.iter().flat_map(|condition| [condition.min_handshake_rtt_us, condition.max_handshake_rtt_us]);
    named.flatten().collect::<BTreeSet<_>>().into_iter().collect()
}

/// The bounds as the kernel holds them.
pub(super) fn held(bounds: &[u32]) -> [u32; HANDSHAKE_BOUNDS_MAX] {
    let mut held = [u32::MAX; HANDSHAKE_BOUNDS_MAX];
    for (held, bound) in held.iter_mut().zip(bounds) {
        *held = *bound;
    }
    held
}

/// Whether a match admits the times of a piece: 0 is an unknown time, the others reach `piece - 1` bounds.
pub(super) fn admits(condition: &Match, piece: usize, bounds: &[u32]) -> bool {
    let Some(reached) = piece.checked_sub(1) else { return !condition.asks_handshake() };
    // All times of a piece fare alike; its least one stands for them.
    let time = reached.checked_sub(1).map_or(0, |last| bounds.get(last).copied().unwrap_or(u32::MAX));
    condition.min_handshake_rtt_us.is_none_or(|min| time >= min)
        && condition.max_handshake_rtt_us.is_none_or(|max| time < max)
}
