//! Clocks: the kernel program writes monotonic time, people read wall-clock time, and outcomes are placed by the fleet's time,
//! which the server says. A wall clock may be hours off and may jump; the fleet's time is counted from the monotonic clock, so
//! it does neither.

use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};
use prost::Message;

/// A duration as it stands in messages.
#[must_use]
pub fn micros(took: Duration) -> u32 {
    u32::try_from(took.as_micros()).unwrap_or(u32::MAX)
}

/// One moment on both clocks, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Since 1970.
    pub wall_ns: u64,
    /// CLOCK_MONOTONIC.
    pub monotonic_ns: u64,
}

impl Moment {
    /// Now.
    ///
    /// # Errors
    /// If there is no monotonic clock.
    pub fn now() -> io::Result<Self> {
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        // Before 1970 is as good as 1970.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let monotonic_ns = monotonic.tv_sec().cast_unsigned() * 1_000_000_000 + monotonic.tv_nsec().cast_unsigned();
        Ok(Self { wall_ns: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX), monotonic_ns })
    }
}

/// What a server said of the time, and when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerTime {
    /// Since 1970.
    pub server_ns: u64,
    /// When that came.
    pub at: Moment,
}

impl ServerTime {
    /// How far this machine's wall clock is ahead; negative: behind. The way from the server is not taken into account.
    #[must_use]
    pub fn wall_ahead_ns(self) -> i64 {
        difference(self.at.wall_ns, self.server_ns)
    }
}

/// The fleet's time, as far as this machine knows it.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct FleetClock {
    /// How far it is ahead of CLOCK_MONOTONIC.
    #[prost(int64, tag = "1")]
    pub ahead_ns: i64,
    /// A server has said so; else it is this machine's wall clock, as it was when it was first looked at.
    #[prost(bool, tag = "2")]
    pub from_server: bool,
}

impl FleetClock {
    /// By this machine's wall clock.
    #[must_use]
    pub fn guessed(now: Moment) -> Self {
        Self { ahead_ns: difference(now.wall_ns, now.monotonic_ns), from_server: false }
    }

    /// As a server says.
    #[must_use]
    pub fn of_server(time: ServerTime) -> Self {
        Self { ahead_ns: difference(time.server_ns, time.at.monotonic_ns), from_server: true }
    }

    /// The fleet's time at a moment of the monotonic clock, in nanoseconds since 1970.
    #[must_use]
    pub fn time_ns(self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_add_signed(self.ahead_ns)
    }

    /// The same in seconds.
    #[must_use]
    pub fn time_s(self, monotonic_ns: u64) -> u64 {
        self.time_ns(monotonic_ns) / 1_000_000_000
    }
}

/// Clocks that are more than 292 years apart are that far apart.
fn difference(a_ns: u64, b_ns: u64) -> i64 {
    a_ns.checked_signed_diff(b_ns).unwrap_or(if a_ns > b_ns { i64::MAX } else { i64::MIN })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translates_monotonic_time() {
        let now = Moment { wall_ns: 1_000, monotonic_ns: 300 };
        let clock = FleetClock::guessed(now);
        assert_eq!([100, 300, 350, 0].map(|monotonic_ns| clock.time_ns(monotonic_ns)), [800, 1_000, 1_050, 700]);
        assert_eq!(FleetClock::guessed(Moment { wall_ns: 10, monotonic_ns: 300 }).time_ns(0), 0);
        let told = ServerTime { server_ns: 5_000, at: now };
        assert_eq!((FleetClock::of_server(told).time_ns(301), told.wall_ahead_ns()), (5_001, -4_000));
    }

    #[test]
    fn absurd_clocks_do_no_harm() {
        let half = i64::MAX.unsigned_abs();
        // As far apart as can be told, and no further.
        for (wall_ns, monotonic_ns, time_ns) in
            [(u64::MAX, 0, half), (0, u64::MAX, half), (u64::MAX, u64::MAX, u64::MAX)]
        {
            let clock = FleetClock::guessed(Moment { wall_ns, monotonic_ns });
            assert_eq!(clock.time_ns(monotonic_ns), time_ns, "{wall_ns} {monotonic_ns}");
        }
    }
}
