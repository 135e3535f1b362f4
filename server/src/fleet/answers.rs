//! When nodes answer a change: not all at once while it still goes out to others, but spread over as long as it takes to go out to all.

/// Snapshots that a server sends in a second, at least.
const SENT_PER_S: u64 = 20_000;
/// An answer is not put off for longer.
const WITHIN_MAX_MS: u32 = 1_000;

/// Within which time nodes answer, if so many are connected.
#[must_use]
pub fn within_ms(nodes: u64) -> u32 {
    let all_sent_ms = nodes.saturating_mul(1_000) / SENT_PER_S;
    u32::try_from(all_sent_ms).unwrap_or(u32::MAX).min(WITHIN_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_nodes_the_longer() {
        assert_eq!([1, 19, 1_000, 9_000, 1_000_000, u64::MAX].map(within_ms), [0, 0, 50, 450, 1_000, 1_000]);
    }
}
