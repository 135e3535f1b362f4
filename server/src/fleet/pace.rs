//! How often nodes report: few often, many seldom, so that all together stay below what one server takes.

use std::time::Duration;

/// More seldom than that nobody reports, so that a rollout's gates see what it does.
pub const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Below it nodes report as they like.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// How long a node should wait from one report to the next, if so many nodes are connected and so many reports are taken in a second.
/// Zero: as it likes.
#[must_use]
pub fn interval(nodes: u64, reports_per_s: u32) -> Duration {
    let share = Duration::from_millis(nodes.saturating_mul(1_000) / u64::from(reports_per_s.max(1)));
    if share <= INTERVAL_MIN { Duration::ZERO } else { share.min(INTERVAL_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
