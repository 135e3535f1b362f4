//! Keeps the state of the fleet that nodes are served from newest: notified by the database, woken by changes made here, and
//! looking every few seconds all the same. The database may go away and come back at any time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::{sync::watch, time::timeout};

use crate::{
    clock::Clock,
    fleet::fanout::Fanout,
    metrics::Metrics,
    store::{
        Error, Listener, Result, Settled, Store, control,
        fleet::{self, Revisions},
        lineage::{self, Seen},
    },
    task::{Scope, Spec, Task},
};

const RETRY_AFTER: Duration = Duration::from_millis(250);
/// So many connections in a row may be closed before the database counts as away.
const ENDED_MAX: u32 = 3;
/// A database that says nothing for so long is looked for elsewhere. Longer than changes wait for each other.
const SILENCE_MAX: Duration = Duration::from_secs(10);

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
    /// How far the database's history was seen.
    seen: Option<Seen>,
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
        let (revisions, seen, listener, said) = (Revisions::default(), None, None, None);
        Self { store, fanout, clock, metrics, lease, poll, database_up, revisions, seen, listener, said }
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

    /// How far the database's history was seen: what was changed through this server is served without being read.
    fn seen(&self) -> Option<Seen> {
        let seen = self.seen.clone()?;
        Some(match self.fanout.reached() {
            Some(reached) => seen.reaching(reached),
            None => seen,
        })
    }

    async fn adopt(&mut self) -> Result<()> {
        let (seen, _) = adopt(&self.store, self.lease, self.seen()).await?;
        self.seen = Some(seen);
        Ok(())
    }

    async fn load(&mut self) -> Result<u64> {
        if self.listener.is_none() {
            self.store.locate().await?;
            within(self.adopt()).await?;
            self.listener = Some(within(self.store.listen()).await?);
        }
        let (loaded, steps) = loop {
            let (known, steps, seen) = (self.revisions.clone(), self.fanout.steps(), self.seen());
            let read = within(self.store.read("load fleet", |conn| {
                Box::pin(async move {
                    let (seen, broken) = lineage::look(&mut *conn, seen.as_ref()).await?;
                    Ok((fleet::load(conn, known).await?, seen, broken))
                })
            }));
            let (loaded, seen, broken) = read.await?;
            // Behind a pooler or a proxy a database takes the place of another without a word.
            if broken.is_some() {
                within(self.adopt()).await?;
                continue;
            }
            self.seen = Some(seen);
            break (loaded, steps);
        };
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
                // Of a change that is made here, nodes have been served already, or will be in a moment.
                Some(listener) => loop {
                    match listener.notified().await {
                        Ok(Some(generation)) if !fanout.is_news(generation) => {}
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

/// A connection to a machine that is gone does not end by itself.
async fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(SILENCE_MAX, work).await.unwrap_or(Err(Error::Silent))
}

/// Makes the database this server's: another epoch if its history does not go on from where it was made, or from what was `seen` of it.
/// Answers with how far it goes, and its clock.
///
/// # Errors
/// If the database fails.
pub async fn adopt(store: &Store, lease: Duration, seen: Option<Seen>) -> Result<(Seen, DateTime<Utc>)> {
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    let (seen, broken, now) = store
        .transact("adopt", move |conn| {
            let seen = seen.clone();
            Box::pin(async move {
                let (seen, broken) = lineage::adopt(&mut *conn, lease_ms, seen.as_ref()).await?;
                Ok(Settled::Commit((seen, broken, control::now(conn).await?)))
            })
        })
        .await?;
    match broken {
        Some(broken) if broken.is_new() => tracing::info!("database new, new epoch"),
        Some(broken) => tracing::warn!(
            %broken,
            effect = "nodes follow the database as it is; compare `sockpilot audit` with what was acknowledged",
            "database history broken, new epoch"
        ),
        None => {}
    }
    Ok((seen, now))
}
