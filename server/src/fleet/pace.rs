//! How often nodes say something, so that all together stay below what one server takes: few often and at once, many seldom and spread out.

use std::time::Duration;

/// Snapshots that a server sends in a second, at least.
const SENT_PER_S: u32 = 20_000;
/// An answer is not put off for longer.
const ANSWERS_WITHIN_MAX: Duration = Duration::from_secs(2);
/// More seldom than that nobody reports, so that a rollout's gates see what it does.
pub const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Below it nodes report as they like.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// How long a node should wait from one report to the next, if so many nodes are connected and so many reports are taken in a second.
/// Zero: as it likes.
#[must_use]
pub fn interval(nodes: u64, reports_per_s: u32) -> Duration {
    let all = one_each(nodes, reports_per_s);
    if all <= INTERVAL_MIN { Duration::ZERO } else { all.min(INTERVAL_MAX) }
}

/// Within which time nodes answer a change, if so many are connected. They do so in its second half: the first is for the change to go out to
/// all.
#[must_use]
pub fn answers_within(nodes: u64) -> Duration {
    (2 * one_each(nodes, SENT_PER_S)).min(ANSWERS_WITHIN_MAX)
}

/// How long it takes until each node had its turn.
fn one_each(nodes: u64, per_s: u32) -> Duration {
    Duration::from_millis(nodes.saturating_mul(1_000) / u64::from(per_s.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_nodes_the_longer_answers_are_spread() {
        let within_ms = |nodes| answers_within(nodes).as_millis();
        assert_eq!([1, 19, 1_000, 9_000, 1_000_000, u64::MAX].map(within_ms), [0, 0, 100, 900, 2_000, 2_000]);
    }

    #[test]
    fn all_together_stay_below_what_is_taken() {
        assert_eq!(interval(1, 500), Duration::ZERO);
        assert_eq!(interval(500, 500), Duration::ZERO);
        assert_eq!(interval(1_000, 500), Duration::from_secs(2));
        assert_eq!(interval(9_000, 500), Duration::from_secs(18));
        assert_eq!(interval(1_000_000, 500), INTERVAL_MAX);
        assert_eq!(interval(u64::MAX, 0), INTERVAL_MAX);
        for nodes in (600..30_000).step_by(700) {
            let every = interval(nodes, 500);
            assert!(nodes as f64 / every.as_secs_f64() <= 500.5, "{nodes} nodes every {every:?}");
        }
    }
}
