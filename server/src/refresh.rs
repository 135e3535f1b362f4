//! Keeps the state of the fleet that nodes are served from newest: told by the database, nudged by changes made here, and
//! looking every few seconds all the same. The database may go away and come back at any time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    fanout::Fanout,
    metrics::Metrics,
    store::{
        Listener, Result, Settled, Store, control,
        fleet::{self, Revisions},
    },
};

const RETRY_AFTER: Duration = Duration::from_millis(250);
/// So many connections in a row may be closed before the database counts as away.
const ENDED_MAX: u32 = 3;

/// The task's dependencies.
#[derive(Debug)]
pub struct Refresh {
    /// The database.
    pub store: Store,
    /// The nodes.
    pub fanout: Arc<Fanout>,
    /// What is counted.
    pub metrics: Metrics,
    /// Lease of canary and experiment layers.
    pub lease: Duration,
    /// How often to look without being told.
    pub poll: Duration,
    /// Told whether the database answers.
    pub database_up: watch::Sender<bool>,
}

impl Refresh {
    /// Runs until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = self.keep_fresh() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn keep_fresh(&self) {
        let mut revisions = Revisions::default();
        let (mut said, mut ended) = (None, 0);
        loop {
            let mut followed = false;
            let error = match self.follow(&mut revisions, &mut followed).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            // Closed by a time limit of the database's own, or an outage: the next connections tell.
            ended = if followed { 1 } else { ended + 1 };
            if ended <= ENDED_MAX && error.is_of_connection() {
                tracing::debug!(error = &error as &dyn std::error::Error, "a connection of the database has ended");
                continue;
            }
            let fault = error.fault();
            // Said once, and again when it becomes another thing.
            if self.database_up.send_replace(false) || said != fault {
                let (error, fault) = (&error as &dyn std::error::Error, fault.as_deref());
                let what = if fault.is_some() { "the database refuses this server" } else { "the database is away" };
                tracing::error!(error, fault, "{what}; nodes keep what they have, calls answer UNAVAILABLE");
            }
            said = fault;
            self.metrics.database_up.set(0);
            sleep(RETRY_AFTER).await;
        }
    }

    /// Follows the database until it fails; `followed` once it was read.
    async fn follow(&self, revisions: &mut Revisions, followed: &mut bool) -> Result<std::convert::Infallible> {
        self.store.locate().await?;
        adopt(&self.store, self.lease).await?;
        let mut listener = self.store.listen().await?;
        loop {
            self.load(revisions).await?;
            *followed = true;
            if !self.database_up.send_replace(true) {
                tracing::info!("the database answers");
            }
            self.metrics.database_up.set(1);
            self.wait(&mut listener).await?;
        }
    }

    async fn wait(&self, listener: &mut Listener) -> Result<()> {
        tokio::select! {
            heard = listener.heard() => heard,
            () = self.store.misplaced() => self.store.locate().await,
            () = self.fanout.stale.notified() => Ok(()),
            () = sleep(self.poll) => Ok(()),
        }
    }

    async fn load(&self, revisions: &mut Revisions) -> Result<()> {
        let known = revisions.clone();
        let loaded = self.store.read("load fleet", |conn| Box::pin(fleet::load(conn, known))).await?;
        let age = Duration::try_from_secs_f64(loaded.age_s).unwrap_or_default();
        let committed = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        *revisions = loaded.revisions;
        self.fanout.publish(loaded.fleet, committed);
        Ok(())
    }
}

/// Makes the database this server's: another epoch if it is not where its epoch was made.
///
/// # Errors
/// If the database fails.
pub async fn adopt(store: &Store, lease: Duration) -> Result<()> {
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    let moved = store
        .transact("adopt", move |conn| {
            Box::pin(async move { Ok(Settled::Commit(control::adopt(conn, lease_ms).await?)) })
        })
        .await?;
    if moved {
        tracing::info!("the database is new or was restored; it has a new epoch");
    }
    Ok(())
}
