//! Both clocks, read together: the kernel program writes monotonic time, people read wall-clock time.

use std::{
    io,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};

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

    /// The wall-clock time of another moment, which may lie somewhat after this one.
    #[must_use]
    pub fn wall_ns_of(self, monotonic_ns: u64) -> u64 {
        if monotonic_ns <= self.monotonic_ns {
            self.wall_ns.saturating_sub(self.monotonic_ns - monotonic_ns)
        } else {
            self.wall_ns.saturating_add(monotonic_ns - self.monotonic_ns)
        }
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn wall_s(self) -> u64 {
        self.wall_ns / 1_000_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translates_monotonic_time() {
        let now = Moment { wall_ns: 1_000, monotonic_ns: 300 };
        assert_eq!([100, 300, 350, 0].map(|monotonic_ns| now.wall_ns_of(monotonic_ns)), [800, 1_000, 1_050, 700]);
        assert_eq!(Moment { wall_ns: 10, monotonic_ns: 300 }.wall_ns_of(0), 0);
    }
}
