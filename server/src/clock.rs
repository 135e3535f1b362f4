//! The time of the fleet: the database's, because replicas have nothing else in common. Between two looks at it this server's
//! monotonic clock goes on from the last.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use chrono::{DateTime, TimeDelta, Utc};
use prost_types::Timestamp;

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

/// A time as it stands in messages.
#[must_use]
pub fn timestamp(at: DateTime<Utc>) -> Timestamp {
    Timestamp { seconds: at.timestamp(), nanos: at.timestamp_subsec_nanos().cast_signed() }
}

/// A second since 1970 as it stands in messages.
#[must_use]
pub fn second(second: i64) -> Timestamp {
    Timestamp { seconds: second, nanos: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

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
