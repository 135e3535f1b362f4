//! Keeps the state of the fleet that nodes are served from newest: notified by the database, woken by changes made here, and
//! looking every few seconds all the same. The database may go away and come back at any time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use crate::{
    clock::Clock,
    fleet::fanout::Fanout,
    metrics::Metrics,
    store::{
        Error, Listener, Result, Settled, Store, control,
        fleet::{self, Revisions},
    },
    task::{Scope, Spec, Task},
};

const RETRY_AFTER: Duration = Duration::from_millis(250);
/// So many connections in a row may be closed before the database counts as away.
const ENDED_MAX: u32 = 3;

#[derive(Debug)]
pub struct Refresh {
    store: Store,
    fanout: Arc<Fanout>,
    clock: Clock,
    metrics: Metrics,
    lease: Duration,
    poll: Duration,
    database_up: watch::Sender<bool>,
    /// What was read before.
    revisions: Revisions,
    /// While the database answers.
    listener: Option<Listener>,
    /// Why the database refuses this server, as it was said last.
    said: Option<String>,
}

impl Refresh {
    /// `lease` is that of canary and experiment layers, `poll` how often to look without a notification; `database_up` says whether the
    /// database answers.
    /// `clock` is set to the database's with every look.
    #[must_use]
    pub fn new(
        store: Store,
        fanout: Arc<Fanout>,
        clock: Clock,
        metrics: Metrics,
        lease: Duration,
        poll: Duration,
        database_up: watch::Sender<bool>,
    ) -> Self {
        let (revisions, listener, said) = (Revisions::default(), None, None);
        Self { store, fanout, clock, metrics, lease, poll, database_up, revisions, listener, said }
    }

    /// Notifications may have been lost: it listens anew, and looks.
    fn away(&mut self, error: &Error) {
        self.listener = None;
        let fault = error.fault();
        // Said once, and again when it becomes another thing.
        if self.database_up.send_replace(false) || self.said != fault {
            let (error, fault) = (error as &dyn std::error::Error, fault.as_deref());
            let effect = "nodes keep what they have, calls answer UNAVAILABLE";
            match fault {
                Some(fault) => tracing::error!(error, fault, effect, "database refuses this server"),
                None => tracing::error!(error, effect, "database unavailable"),
            }
        }
        self.said = fault;
        self.metrics.database_up.set(0);
    }

    async fn load(&mut self) -> Result<u64> {
        if self.listener.is_none() {
            self.store.locate().await?;
            adopt(&self.store, self.lease).await?;
            self.listener = Some(self.store.listen().await?);
        }
        let (known, steps) = (self.revisions.clone(), self.fanout.steps());
        let loaded = self.store.read("load fleet", |conn| Box::pin(fleet::load(conn, known))).await?;
        let age = Duration::try_from_secs_f64(loaded.age_s).unwrap_or_default();
        let committed = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        self.revisions = loaded.revisions;
        let (at, time) = loaded.clock;
        self.clock.set(at, time);
        let generation = loaded.fleet.generation;
        self.fanout.publish(loaded.fleet, committed, steps);
        Ok(generation)
    }
}

impl Task for Refresh {
    fn spec(&self) -> Spec {
        Spec { name: "refresh", period: self.poll, retry_after: RETRY_AFTER, scope: Scope::Server }
    }

    async fn activated(&mut self) {
        let Self { listener, fanout, store, .. } = self;
        let notified = async {
            match listener {
                // Of a change that was made here, nodes have been served already.
                Some(listener) => loop {
                    match listener.notified().await {
                        Ok(Some(generation)) if fanout.knows(generation) => {}
                        notified => break notified.map(drop),
                    }
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            notified = notified => match notified {
                Ok(()) => {}
                // Closed by a time limit of the database's own, or an outage: the next connection tells.
                Err(error) if error.is_of_connection() => self.listener = None,
                Err(error) => self.away(&error),
            },
            // Another host may be the one that takes changes.
            () = store.misplaced() => self.listener = None,
            () = fanout.stale.notified() => {}
        }
    }

    async fn run(&mut self) -> Result<String> {
        let mut ended = 0;
        let loaded = loop {
            match self.load().await {
                Err(error) if error.is_of_connection() && ended < ENDED_MAX => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "database connection ended");
                    (self.listener, ended) = (None, ended + 1);
                }
                loaded => break loaded,
            }
        };
        let generation = loaded.inspect_err(|error| self.away(error))?;
        if !self.database_up.send_replace(true) {
            tracing::info!("database answers");
        }
        self.metrics.database_up.set(1);
        Ok(format!("generation {generation}"))
    }
}

/// Makes the database this server's: another epoch if it is not where its epoch was made. Answers with its clock.
///
/// # Errors
/// If the database fails.
pub async fn adopt(store: &Store, lease: Duration) -> Result<DateTime<Utc>> {
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    let (moved, now) = store
        .transact("adopt", move |conn| {
            Box::pin(async move {
                let moved = control::adopt(&mut *conn, lease_ms).await?;
                Ok(Settled::Commit((moved, control::get(conn).await?.now)))
            })
        })
        .await?;
    if moved {
        tracing::info!("database new or restored, new epoch");
    }
    Ok(now)
}
