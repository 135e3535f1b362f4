//! Makes partitions ahead of time; drops what is older than is kept, and the oldest cells while outcomes take more of the disk than
//! they may.

use std::{fmt, time::Duration};

use super::Level;
use crate::{
    metrics::Metrics,
    store::{
        Result, Settled, Store, control,
        partition::{self, Partition},
        rollup,
    },
    task::{FleetTask, Scope, Spec, leader::Fence},
};

const PERIOD: Duration = Duration::from_secs(60);
const DAY_S: i64 = 86_400;
/// Partitions are there so long before they are needed.
const AHEAD_S: i64 = 2 * partition::LENGTH_S;

/// What is kept of outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Days for which cells of single nodes and minutes are kept.
    pub cells_days: u32,
    /// Days for which hours are kept.
    pub hours_days: u32,
    /// Days for which days are kept.
    pub days_days: u32,
    /// Bytes of the disk that outcomes may take, with their indexes; beyond it the oldest cells go early.
    pub bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cells_days: 14, hours_days: 90, days_days: 1_100, bytes_max: 20 << 30 }
    }
}

#[derive(Debug)]
pub struct Retention {
    pub store: Store,
    /// What is kept.
    pub limits: Limits,
    pub metrics: Metrics,
}

/// What a run did.
#[derive(Debug, Default)]
struct Done {
    made: usize,
    too_old: usize,
    too_big: usize,
    bytes: u64,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { made, too_old, too_big, bytes } = self;
        write!(
            f,
            "outcomes take {} MiB; made {made} partitions, dropped {too_old} for age, {too_big} for size",
            bytes >> 20
        )
    }
}

/// The partitions to drop: those that are too old, then the oldest while all together are too big. The one that is being written
/// stays. Pure.
fn to_drop(partitions: &[Partition], other_bytes: u64, limits: Limits, now_s: i64) -> (Vec<Partition>, Vec<Partition>) {
    let kept_from_s = now_s - i64::from(limits.cells_days) * DAY_S;
    let past: Vec<Partition> = partitions.iter().copied().filter(|one| one.end_s() + DAY_S / 24 <= now_s).collect();
    let (too_old, rest): (Vec<_>, Vec<_>) = past.into_iter().partition(|one| one.end_s() <= kept_from_s);
    let gone = |one: &Partition| too_old.contains(one);
    let mut bytes =
        partitions.iter().filter(|one| !gone(one)).map(|one| one.bytes.cast_unsigned()).sum::<u64>() + other_bytes;
    let mut too_big = vec![];
    for one in rest {
        if bytes <= limits.bytes_max {
            break;
        }
        bytes -= one.bytes.cast_unsigned();
        too_big.push(one);
    }
    (too_old, too_big)
}

impl FleetTask for Retention {
    fn spec(&self) -> Spec {
        Spec { name: "retention", period: PERIOD, retry_after: PERIOD, scope: Scope::Fleet }
    }

    async fn run(&mut self, fence: Fence) -> Result<String> {
        let now_s = self.store.read("look at the clock", |conn| Box::pin(control::now(conn))).await?.timestamp();
        let made = self.store.transact_as_leader(fence, "make partitions", move |conn| {
            let ahead = (0..=AHEAD_S / partition::LENGTH_S).map(move |number| now_s + number * partition::LENGTH_S);
            Box::pin(async move { Ok(Settled::Commit(partition::ensure(conn, ahead).await?)) })
        });
        let mut done = Done { made: made.await?, ..Done::default() };
        let (partitions, merged_bytes) = self.look().await?;
        let (too_old, too_big) = to_drop(&partitions, merged_bytes, self.limits, now_s);
        for partition in too_old.iter().chain(&too_big) {
            self.drop(fence, *partition).await?;
        }
        (done.too_old, done.too_big) = (too_old.len(), too_big.len());
        if done.too_big > 0 {
            tracing::warn!(
                partitions = done.too_big,
                bytes_max = self.limits.bytes_max,
                "outcomes over their disk limit, oldest cells dropped early"
            );
        }
        self.forget(fence, now_s).await?;
        let (partitions, merged_bytes) = self.look().await?;
        done.bytes = partitions.iter().map(|one| one.bytes.cast_unsigned()).sum::<u64>() + merged_bytes;
        self.metrics.outcome_bytes.set(i64::try_from(done.bytes).unwrap_or(i64::MAX));
        self.metrics.outcome_partitions.set(i64::try_from(partitions.len()).unwrap_or(i64::MAX));
        Ok(done.to_string())
    }
}

impl Retention {
    async fn look(&self) -> Result<(Vec<Partition>, u64)> {
        let look = self.store.read("measure outcomes", |conn| {
            Box::pin(async move { Ok((partition::list(&mut *conn).await?, rollup::bytes(conn).await?)) })
        });
        look.await.map(|(partitions, bytes)| (partitions, bytes.cast_unsigned()))
    }

    /// Drops a partition. What of it is not merged yet is merged first, while no report can change it.
    async fn drop(&self, fence: Fence, partition: Partition) -> Result<()> {
        let work = self.store.transact_as_leader(fence, "drop a partition", move |conn| {
            Box::pin(async move {
                partition::lock(&mut *conn, partition).await?;
                let stale =
                    rollup::stale_within(&mut *conn, Level::Minute, partition.start_s, partition.end_s()).await?;
                for minute in stale {
                    rollup::make(&mut *conn, minute).await?;
                }
                Ok(Settled::Commit(partition::drop(conn, partition).await?))
            })
        });
        work.await?;
        self.metrics.outcome_partitions_dropped.inc();
        tracing::info!(start_s = partition.start_s, bytes = partition.bytes, "flow cell partition dropped");
        Ok(())
    }

    async fn forget(&self, fence: Fence, now_s: i64) -> Result<()> {
        let Limits { cells_days, hours_days, days_days, bytes_max: _ } = self.limits;
        let kept = [(Level::Minute, cells_days), (Level::Hour, hours_days), (Level::Day, days_days)];
        for (level, days) in kept {
            let before_s = now_s - i64::from(days) * DAY_S;
            let work = self.store.transact_as_leader(fence, "forget outcomes", move |conn| {
                Box::pin(async move { Ok(Settled::Commit(rollup::forget(conn, level, before_s).await?)) })
            });
            work.await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_and_the_newest_stays() {
        let now_s = 1_000 * DAY_S + 100;
        let number =
            |number: i64| Partition { start_s: partition::start_of(now_s) - number * partition::LENGTH_S, bytes: 10 };
        let partitions: Vec<_> = (-2..9).rev().map(number).collect();
        let limits = Limits { cells_days: 2, bytes_max: u64::MAX, ..Limits::default() };
        assert_eq!(to_drop(&partitions, 0, limits, now_s), (vec![], vec![]));
        // Two days are eight partitions, and the one that is being written.
        let limits = Limits { cells_days: 1, ..limits };
        let (too_old, too_big) = to_drop(&partitions, 0, limits, now_s);
        assert_eq!((too_old, too_big), ((5..9).rev().map(number).collect(), vec![]));
        // Seven are left; with the rest they are 75 bytes.
        let limits = Limits { bytes_max: 60, ..limits };
        assert_eq!(to_drop(&partitions, 5, limits, now_s).1, [number(4), number(3)]);
        let limits = Limits { bytes_max: 0, ..limits };
        assert_eq!(to_drop(&partitions, 5, limits, now_s).1, [number(4), number(3), number(2)], "not the newest");
    }
}
