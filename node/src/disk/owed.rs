//! What should be on disk and is not: noted when a write fails, tried again until one succeeds. Pure: time and randomness are
//! handed in.

use std::{
    fmt, io,
    time::{Duration, Instant},
};

use crate::backoff;

/// Waits do not grow any more after so many failures in a row: at most 4 s.
const FAILURES_MAX: u32 = 4;

/// What a daemon keeps in its state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The snapshot in force: without it, a machine begins with an older one.
    Snapshot,
    /// What the choices in flow records mean: without it, records that come after a restart have none.
    Choices,
    /// The aggregation: until it is written, records stay in the ring buffer.
    Outcomes,
    /// Canaries that the circuit breaker has ended: without it, a machine begins with them again.
    Trips,
    /// Files that nobody needs any more and that could not be deleted.
    Removals,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Snapshot, Self::Choices, Self::Outcomes, Self::Trips, Self::Removals];

    /// As servers, logs and metrics name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Choices => "choices",
            Self::Outcomes => "outcomes",
            Self::Trips => "trips",
            Self::Removals => "removals",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing that is not on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Debt {
    since: Instant,
    /// What the operating system said last.
    reason: String,
    failures: u32,
    due: Instant,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Owed {
    debts: [Option<Debt>; What::ALL.len()],
}

/// What others get to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotWritten {
    /// Everything that is owed.
    pub what: Vec<What>,
    /// Since when anything has been.
    pub since: Instant,
    /// What the operating system said of the oldest.
    pub reason: String,
}

/// What a try has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is owed from now on, or for another reason than before.
    Owed,
    /// It was owed and is written now.
    Settled,
    /// Nothing.
    Nothing,
}

impl Owed {
    /// Notes what came of a try. `random` is in [0, 1).
    pub fn note(&mut self, what: What, result: &io::Result<()>, now: Instant, random: f64) -> Change {
        let debt = &mut self.debts[what as usize];
        let Err(error) = result else {
            return if debt.take().is_some() { Change::Settled } else { Change::Nothing };
        };
        let reason = error.to_string();
        let change = match debt {
            Some(debt) if debt.reason == reason => Change::Nothing,
            _ => Change::Owed,
        };
        let (since, failures) = debt.as_ref().map_or((now, 0), |debt| (debt.since, debt.failures.saturating_add(1)));
        let due = now + backoff::delay(failures.min(FAILURES_MAX), random);
        *debt = Some(Debt { since, reason, failures, due });
        change
    }

    /// Whether it is too early to try this again.
    #[must_use]
    pub fn waits(&self, what: What, now: Instant) -> bool {
        self.debts[what as usize].as_ref().is_some_and(|debt| debt.due > now)
    }

    /// How long it has been owed; `None` if it is not.
    #[must_use]
    pub fn age(&self, what: What, now: Instant) -> Option<Duration> {
        self.debts[what as usize].as_ref().map(|debt| now.saturating_duration_since(debt.since))
    }

    /// Everything that is owed; `None` if nothing is.
    #[must_use]
    pub fn not_written(&self) -> Option<NotWritten> {
        let debts = What::ALL.into_iter().filter_map(|what| Some((what, self.debts[what as usize].as_ref()?)));
        let oldest = debts.clone().min_by_key(|(_, debt)| debt.since).map(|(_, debt)| debt)?;
        let what = debts.map(|(what, _)| what).collect();
        Some(NotWritten { what, since: oldest.since, reason: oldest.reason.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    }

    #[test]
    fn a_failed_write_is_owed_until_one_succeeds() {
        let (mut owed, start) = (Owed::default(), Instant::now());
        let later = start + Duration::from_secs(9);
        assert_eq!(owed.note(What::Snapshot, &Ok(()), start, 0.5), Change::Nothing);
        assert_eq!(owed.not_written(), None);
        assert_eq!(owed.note(What::Snapshot, &full(), start, 0.5), Change::Owed);
        assert_eq!(owed.note(What::Choices, &full(), later, 0.5), Change::Owed);
        assert_eq!(owed.note(What::Snapshot, &full(), later, 0.5), Change::Nothing, "it is known");
        let told = owed.not_written().expect("owed");
        assert_eq!((told.what, told.since), (vec![What::Snapshot, What::Choices], start));
        assert!(told.reason.contains("No space left"), "{}", told.reason);
        let other = Err(io::Error::from_raw_os_error(libc::EROFS));
        assert_eq!(owed.note(What::Choices, &other, later, 0.5), Change::Owed, "for another reason");
        assert_eq!(owed.age(What::Snapshot, later), Some(Duration::from_secs(9)));
        assert_eq!(owed.note(What::Snapshot, &Ok(()), later, 0.5), Change::Settled);
        assert_eq!(owed.note(What::Choices, &Ok(()), later, 0.5), Change::Settled);
        assert_eq!(owed.not_written(), None);
    }

    #[test]
    fn tries_come_ever_more_seldom_up_to_a_bound() {
        let (mut owed, now) = (Owed::default(), Instant::now());
        let mut waits = vec![];
        for _ in 0..7 {
            owed.note(What::Outcomes, &full(), now, 1.0);
            let waited = (0..).find(|ms| !owed.waits(What::Outcomes, now + Duration::from_millis(*ms)));
            waits.push(waited.expect("bounded"));
        }
        assert_eq!(waits, [250, 500, 1_000, 2_000, 4_000, 4_000, 4_000]);
        assert!(!owed.waits(What::Snapshot, now));
    }
}
