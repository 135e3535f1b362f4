//! Keeps the state of the fleet that nodes are served from newest: told by the database, nudged by changes made here, and
//! looking every few seconds all the same. The database may go away and come back at any time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    fanout::Fanout,
    metrics::Metrics,
    store::{
        Error, Listener, Result, Settled, Store, control,
        fleet::{self, Revisions},
    },
    task::{Scope, Spec, Task},
};

const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The task.
#[derive(Debug)]
pub struct Refresh {
    store: Store,
    fanout: Arc<Fanout>,
    metrics: Metrics,
    lease: Duration,
    poll: Duration,
    database_up: watch::Sender<bool>,
    /// What was read before.
    revisions: Revisions,
    /// While the database answers.
    listener: Option<Listener>,
}

impl Refresh {
    /// `lease` is that of canary and experiment layers, `poll` how often to look without being told; `database_up` is told whether the
    /// database answers.
    #[must_use]
    pub fn new(
        store: Store,
        fanout: Arc<Fanout>,
        metrics: Metrics,
        lease: Duration,
        poll: Duration,
        database_up: watch::Sender<bool>,
    ) -> Self {
        let (revisions, listener) = (Revisions::default(), None);
        Self { store, fanout, metrics, lease, poll, database_up, revisions, listener }
    }

    /// Notifications may have been lost: it listens anew, and looks.
    fn away(&mut self, error: &Error) {
        self.listener = None;
        if self.database_up.send_replace(false) {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "the database is away; nodes keep what they have, calls answer UNAVAILABLE"
            );
        }
        self.metrics.database_up.set(0);
    }

    async fn load(&mut self) -> Result<u64> {
        if self.listener.is_none() {
            adopt(&self.store, self.lease).await?;
            self.listener = Some(self.store.listen().await?);
        }
        let known = self.revisions.clone();
        let loaded = self.store.read("load fleet", |conn| Box::pin(fleet::load(conn, known))).await?;
        let age = Duration::try_from_secs_f64(loaded.age_s).unwrap_or_default();
        let committed = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        self.revisions = loaded.revisions;
        let generation = loaded.fleet.generation;
        self.fanout.publish(loaded.fleet, committed);
        Ok(generation)
    }
}

impl Task for Refresh {
    fn spec(&self) -> Spec {
        Spec { name: "refresh", period: self.poll, retry_after: RETRY_AFTER, scope: Scope::Server }
    }

    async fn activated(&mut self) {
        let Self { listener, fanout, .. } = self;
        let heard = async {
            match listener {
                Some(listener) => listener.heard().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            heard = heard => if let Err(error) = heard { self.away(&error) },
            () = fanout.stale.notified() => {}
        }
    }

    async fn run(&mut self) -> Result<String> {
        let generation = self.load().await.inspect_err(|error| self.away(error))?;
        if !self.database_up.send_replace(true) {
            tracing::info!("the database answers");
        }
        self.metrics.database_up.set(1);
        Ok(format!("generation {generation}"))
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
