//! One replica at a time acts for the fleet: the one that has the lease, a row in the database, on the database's clock.
//!
//! A lease alone does not do: a leader may stall between looking at it and writing. So each lease has an **epoch**, which grows
//! with every change of the holder, and whatever a [`FleetTask`] writes is fenced by its epoch
//! ([`Store::transact_as_leader`]): the transaction locks the row, so no other replica can become leader before it has ended,
//! and is refused if another one has become it already.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use uuid::Uuid;

use super::{Scope, Spec, Task};
pub use crate::store::leader::Fence;
use crate::store::{Result, Settled, Store, leader};

/// A task that one replica runs for the whole fleet.
pub trait FleetTask: Send + 'static {
    /// What is fixed about it; the scope is [`Scope::Fleet`].
    fn spec(&self) -> Spec;

    /// As [`Task::activated`].
    fn activated(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// As [`Task::run`]. All writes go through the fence.
    ///
    /// # Errors
    /// If it must be tried again.
    fn run(&mut self, fence: Fence) -> impl Future<Output = Result<String>> + Send;
}

/// A task of the fleet as a task of this replica: it runs while this replica leads.
#[derive(Debug)]
pub struct Led<T> {
    task: T,
    leadership: watch::Receiver<Option<HeldLease>>,
}

impl<T: FleetTask> Task for Led<T> {
    fn spec(&self) -> Spec {
        self.task.spec()
    }

    async fn activated(&mut self) {
        let Self { task, leadership } = self;
        tokio::select! {
            () = task.activated() => {}
            // Without a sender the server is about to end.
            changed = leadership.changed() => if changed.is_err() { std::future::pending().await },
        }
    }

    async fn run(&mut self) -> Result<String> {
        let held = *self.leadership.borrow_and_update();
        match held.and_then(|held| held.fence(Instant::now())) {
            Some(fence) => self.task.run(fence).await,
            None => Ok("another server leads".to_owned()),
        }
    }
}

/// A lease, as far as this replica knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLease {
    epoch: i64,
    /// Counted from before the database was asked, so never later than there.
    until: Instant,
}

impl HeldLease {
    fn fence(self, now: Instant) -> Option<Fence> {
        (now < self.until).then_some(Fence { epoch: self.epoch })
    }
}

/// The task that takes the lease and keeps it.
#[derive(Debug)]
pub struct Leadership {
    store: Store,
    server_id: Uuid,
    lease: Duration,
    held: watch::Sender<Option<HeldLease>>,
}

impl Leadership {
    /// Without the lease.
    #[must_use]
    pub fn new(store: Store, server_id: Uuid, lease: Duration) -> Self {
        Self { store, server_id, lease, held: watch::Sender::new(None) }
    }

    /// Makes a task of the fleet one of this replica.
    pub fn led<T: FleetTask>(&self, task: T) -> Led<T> {
        Led { task, leadership: self.held.subscribe() }
    }
}

impl Task for Leadership {
    fn spec(&self) -> Spec {
        // Two renewals may fail before the lease is lost.
        Spec { name: "leader", period: self.lease / 3, retry_after: self.lease / 6, scope: Scope::Server }
    }

    async fn run(&mut self) -> Result<String> {
        let (server_id, lease) = (self.server_id, self.lease);
        let until = Instant::now() + lease;
        let taken = self.store.transact("lead", move |conn| {
            Box::pin(async move { Ok(Settled::Commit(leader::take(conn, server_id, lease).await?)) })
        });
        let held = taken.await?.map(|epoch| HeldLease { epoch, until });
        let epoch = held.map(|held| held.epoch);
        self.held.send_if_modified(|known| {
            let before = std::mem::replace(known, held).map(|held| held.epoch);
            if before != epoch {
                match epoch {
                    Some(epoch) => tracing::info!(epoch, "leadership taken"),
                    None => tracing::info!(epoch = before, "leadership lost"),
                }
            }
            before != epoch
        });
        Ok(epoch.map_or_else(|| "another server leads".to_owned(), |epoch| format!("leads, epoch {epoch}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_ran_out_is_none() {
        let now = Instant::now();
        let held = HeldLease { epoch: 3, until: now + Duration::from_secs(1) };
        assert_eq!(held.fence(now), Some(Fence { epoch: 3 }));
        assert_eq!(held.fence(held.until), None);
    }
}
