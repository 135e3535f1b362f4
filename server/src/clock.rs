//! The time of the fleet: the database's, because replicas have nothing else in common. Between two looks at it this server's
//! monotonic clock goes on from the last.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use chrono::{DateTime, TimeDelta, Utc};
use prost_types::Timestamp;
use sockpilot_proto::v1;

/// A node's clock that is off by more than this is worth a word: wider than any delay of a network that works.
pub const OFFSET_MS_MAX: u64 = 2_000;

/// The database's clock, as far as this server knows it. Clones are one clock.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Mutex<Reading>>);

/// What the database's clock said at a moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    time: DateTime<Utc>,
}

impl Clock {
    /// A clock that was just read.
    #[must_use]
    pub fn new(at: Instant, time: DateTime<Utc>) -> Self {
        Self(Arc::new(Mutex::new(Reading { at, time })))
    }

    /// Notes what the database's clock said.
    pub fn set(&self, at: Instant, time: DateTime<Utc>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Reading { at, time };
    }

    /// The database's time at a moment.
    #[must_use]
    pub fn time_at(&self, moment: Instant) -> DateTime<Utc> {
        let Reading { at, time } = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        time + TimeDelta::from_std(moment.saturating_duration_since(at)).unwrap_or_default()
    }
}

/// How far a node's clock was ahead of ours when it gave this sign of life; negative: behind. In ms; `None` if it does not say.
#[must_use]
pub fn offset_ms(sign: &v1::Alive, now: DateTime<Utc>) -> Option<i64> {
    let now_ms = now.timestamp_millis();
    let sent_ms = millis(sign.node_time.as_ref()?)?;
    // It was half a round trip on its way; a first sign, which answers nothing, is taken as it comes.
    let round_trip_ms = sign.heard_server_time.as_ref().and_then(millis).map_or(0, |heard_ms| {
        let held_ms = i64::try_from(sign.heard_before_us / 1_000).unwrap_or(i64::MAX);
        now_ms.saturating_sub(heard_ms).saturating_sub(held_ms).max(0)
    });
    Some(sent_ms.saturating_add(round_trip_ms / 2).saturating_sub(now_ms))
}

/// Since 1970; `None` for what is no time.
fn millis(time: &Timestamp) -> Option<i64> {
    let sound = (0..1_000_000_000).contains(&time.nanos);
    sound.then(|| time.seconds.checked_mul(1_000)?.checked_add(i64::from(time.nanos) / 1_000_000)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds: ms.div_euclid(1_000), nanos: (ms.rem_euclid(1_000) * 1_000_000) as i32 })
    }

    #[test]
    fn an_offset_is_what_the_way_does_not_explain() {
        let now = DateTime::from_timestamp_millis(1_000_000).expect("a time");
        let first = |node_ms| v1::Alive { node_time: at(node_ms), ..v1::Alive::default() };
        assert_eq!(offset_ms(&v1::Alive::default(), now), None);
        assert_eq!(offset_ms(&first(1_000_000), now), Some(0));
        assert_eq!(offset_ms(&first(-9_000_000), now), Some(-10_000_000));
        // Our heartbeat of 997 s took 1 s, lay there for 1 s, and the answer took 1 s.
        let sign = |node_ms| v1::Alive { heard_server_time: at(997_000), heard_before_us: 1_000_000, ..first(node_ms) };
        assert_eq!(offset_ms(&sign(999_000), now), Some(0));
        assert_eq!(offset_ms(&sign(8_199_000), now), Some(7_200_000));
        for nonsense in [
            v1::Alive { heard_server_time: at(2_000_000), ..first(1_000_000) },
            v1::Alive { heard_server_time: at(1), heard_before_us: u64::MAX, ..first(1_000_000) },
        ] {
            assert_eq!(offset_ms(&nonsense, now), Some(0));
        }
        let no_time = v1::Alive { node_time: Some(Timestamp { seconds: i64::MAX, nanos: -1 }), ..v1::Alive::default() };
        assert_eq!(offset_ms(&no_time, now), None);
    }

    #[test]
    fn the_clock_goes_on_between_two_looks() {
        let start = Instant::now();
        let time = DateTime::from_timestamp_millis(5_000).expect("a time");
        let clock = Clock::new(start, time);
        let later = start + std::time::Duration::from_millis(1_500);
        assert_eq!(clock.time_at(later).timestamp_millis(), 6_500);
        clock.set(later, time);
        assert_eq!(clock.time_at(later).timestamp_millis(), 5_000, "the database's clock was put back");
    }
}
