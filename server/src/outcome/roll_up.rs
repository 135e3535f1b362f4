//! Merges cells of all nodes by minute, hour and day, when these are over; and again when a late report has changed them.

use std::time::Duration;

use super::{Bucket, Level};
use crate::{
    store::{Result, Settled, Store, rollup},
    task::{FleetTask, Scope, Spec, leader::Fence},
};

/// How long after its end a minute waits for reports of it.
const GRACE_S: i64 = 15;
const PERIOD: Duration = Duration::from_secs(10);
/// Stretches of time that one run merges, of each level; a run that finds more is followed by another at once.
const BUCKETS_MAX: i64 = 500;

#[derive(Debug)]
pub struct RollUp {
    pub store: Store,
}

impl FleetTask for RollUp {
    fn spec(&self) -> Spec {
        Spec { name: "roll-up", period: PERIOD, retry_after: PERIOD, scope: Scope::Fleet }
    }

    async fn run(&mut self, fence: Fence) -> Result<String> {
        let mut made = [0; 3];
        // Shortest first: each marks the next longer one.
        for (level, made) in Level::ALL.into_iter().zip(&mut made) {
            loop {
                let found = self.stale(level).await?;
                for bucket in &found {
                    make(&self.store, fence, *bucket).await?;
                }
                *made += found.len();
                if (found.len() as i64) < BUCKETS_MAX {
                    break;
                }
            }
        }
        let [minutes, hours, days] = made;
        Ok(format!("merged {minutes} minutes, {hours} hours, {days} days"))
    }
}

impl RollUp {
    async fn stale(&self, level: Level) -> Result<Vec<Bucket>> {
        let found = self.store.read("find stale outcomes", |conn| {
            Box::pin(async move { rollup::stale(conn, level, GRACE_S, BUCKETS_MAX).await })
        });
        found.await
    }
}

/// Each in a transaction of its own: what is done stays done.
async fn make(store: &Store, fence: Fence, bucket: Bucket) -> Result<usize> {
    let work = store.transact_as_leader(fence, "roll up", move |conn| {
        Box::pin(async move { Ok(Settled::Commit(rollup::make(conn, bucket).await?)) })
    });
    work.await
}
