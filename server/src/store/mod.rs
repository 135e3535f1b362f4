//! The only place that speaks SQL. One file per aggregate, each of free functions on a connection, so that they work in any
//! transaction; [`Store`] owns the pool and runs transactions, by name and with retry.
//!
//! Whatever asks the database may fail because the database does; `# Errors` says only what else there is.

pub mod access;
pub mod address;
pub mod assignment;
pub mod audit;
pub mod backup;
pub mod breaker;
mod cell;
pub mod choice;
pub mod confirmation;
pub mod connection;
pub mod control;
pub mod decision;
pub mod error;
pub mod examine;
pub mod experiment;
pub mod fault;
pub mod fleet;
pub mod flow;
mod former;
pub mod holder;
pub mod kill_switch;
pub mod known;
pub mod layer;
pub mod leader;
pub mod lineage;
pub mod measured;
pub mod member;
pub mod node;
pub mod node_view;
pub mod outcome;
pub mod partition;
pub mod recording;
pub mod removal;
pub mod request;
pub mod rollout;
pub mod rollout_nodes;
pub mod rollout_plan;
pub mod rollup;
pub mod sample;
mod schema;
pub mod server;
pub mod simulation;
pub mod standing;
pub mod status;
#[cfg(test)]
mod upgraded;
mod url;
mod wave;
pub mod zone;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use sqlx::{
    AssertSqlSafe, PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::sync::{Notify, watch};
use tracing::{Instrument, info_span};

pub use self::error::{Error, Result, same_etag};
use self::leader::Fence;
use self::{
    address::{Candidates, Located},
    connection::{PgConnection, Session},
    error::Operation,
};
use crate::metrics::Metrics;

/// How often a transaction is begun anew after it lost against another.
const ATTEMPTS_MAX: u32 = 5;
pub const CONNECTIONS_MAX: u32 = 16;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// Name under which commits that changed the generation are announced.
const CHANNEL: &str = "sockpilot_generation";
/// Of one transaction, not of the session: behind a pooler that belongs to others as well, and parameters at the start of a
/// connection are refused there.
const LIMITS: &str = "SET LOCAL statement_timeout = '30s'; SET LOCAL idle_in_transaction_session_timeout = '30s'";

/// Of changes: others wait while the database would plan their statements anew, which takes longer than carrying them out.
const PLANNED: &str = "SET LOCAL plan_cache_mode = force_generic_plan";

#[derive(Debug, Clone)]
pub struct Store {
    /// Of where the database is. Another one when it has moved: what is under way at the former place would wait for ever if that hangs.
    pool: Arc<watch::Sender<PgPool>>,
    candidates: Candidates,
    pooled: Arc<AtomicBool>,
    /// Where it is, and when it was started.
    located: Arc<Mutex<Option<(String, String)>>>,
    misplaced: Arc<Notify>,
    metrics: Metrics,
}

/// What becomes of a transaction whose work has succeeded.
#[derive(Debug)]
pub enum Settled<T> {
    /// Keep what it did.
    Commit(T),
    /// It was only asked what it would do.
    Discard(T),
}

/// What a transaction holds while it lasts.
#[derive(Debug, Clone, Copy)]
enum Holds {
    Nothing,
    /// All other changes wait for it.
    Changes,
    /// Nobody else becomes leader.
    Lease(Fence),
}

impl Store {
    /// A pool that connects when it is first used.
    #[must_use]
    pub fn new(candidates: Candidates, metrics: Metrics) -> Self {
        let pool = Arc::new(watch::Sender::new(pool(candidates.first().clone())));
        let (pooled, located, misplaced) = (Arc::default(), Arc::default(), Arc::default());
        Self { pool, candidates, pooled, located, misplaced, metrics }
    }

    /// Finds the database among the places where it may be, and whether sessions are pooled there.
    ///
    /// # Errors
    /// If none of them has it, or another one than before, or it was started anew: who was connected has missed that, and what was under way
    /// ends.
    pub async fn locate(&self) -> Result<()> {
        let Located { options, session, place, started } = self.candidates.locate().await?;
        if session == Session::Pooled {
            self.note_pooled();
        }
        let now = (place, started);
        let before = self.located.lock().unwrap_or_else(PoisonError::into_inner).replace(now.clone());
        if before.is_none_or(|before| before == now) {
            self.pool().set_connect_options(options);
            return Ok(());
        }
        self.connect_anew(options);
        Err(Error::Restarted)
    }

    /// What is under way on connections of now ends.
    fn connect_anew(&self, options: PgConnectOptions) {
        let former = self.pool.send_replace(pool(options));
        // Where nobody is there any more to say goodbye to, this takes until the kernel gives up.
        tokio::spawn(async move { former.close().await });
    }

    /// Sessions are not the connections'. Once seen they stay so: that a pooler was not noticed later proves nothing. Answers whether that
    /// is news.
    fn note_pooled(&self) -> bool {
        let news = !self.pooled.swap(true, Ordering::Relaxed);
        if news {
            tracing::info!(
                effect = "statements have no names, changes are found by looking",
                "database sessions are pooled"
            );
        }
        news
    }

    fn pool(&self) -> PgPool {
        self.pool.borrow().clone()
    }

    /// Does something at the place where the database is, as long as it is there.
    async fn here<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut pool = self.pool.subscribe();
        tokio::select! {
            biased;
            done = work => done,
            Ok(()) = pool.changed() => Err(Error::Restarted),
        }
    }

    fn session(&self) -> Session {
        if self.pooled.load(Ordering::Relaxed) { Session::Pooled } else { Session::Own }
    }

    /// Runs a transaction. One that lost against another, or its connection, is begun anew.
    ///
    /// # Errors
    /// Those of the work, and those of the database.
    pub async fn transact<T, F>(&self, name: &'static str, work: F) -> Result<T>
    where
        T: Send,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<Settled<T>>> + Send + Sync,
    {
        self.persist(name, Holds::Nothing, work).await
    }

    /// Runs a transaction for which all other changes wait from its beginning.
    ///
    /// # Errors
    /// Those of the work, and those of the database.
    pub async fn change<T, F>(&self, name: &'static str, work: F) -> Result<T>
    where
        T: Send,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<Settled<T>>> + Send + Sync,
    {
        self.persist(name, Holds::Changes, work).await
    }

    /// Runs a transaction for the whole fleet: it is refused unless the lease of `fence` still stands, and nobody can take the lease
    /// before the transaction has ended.
    ///
    /// # Errors
    /// [`Error::Deposed`]; those of the work, and those of the database.
    pub async fn transact_as_leader<T, F>(&self, fence: Fence, name: &'static str, work: F) -> Result<T>
    where
        T: Send,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<Settled<T>>> + Send + Sync,
    {
        self.persist(name, Holds::Lease(fence), work).await
    }

    async fn persist<T, F>(&self, name: &'static str, holds: Holds, work: F) -> Result<T>
    where
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<Settled<T>>>,
    {
        let mut attempt = 1;
        loop {
            let span = info_span!("transaction", otel.name = name, attempt);
            let result = self.here(self.attempt(name, holds, &work)).instrument(span).await;
            match result {
                Err(error) if error.is_conflict() && attempt < ATTEMPTS_MAX => {
                    tracing::debug!(transaction = name, attempt, "transaction conflict, begun anew");
                    attempt += 1;
                }
                result => return self.observed(result),
            }
        }
    }

    async fn attempt<T, F>(&self, name: &'static str, holds: Holds, work: &F) -> Result<T>
    where
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<Settled<T>>>,
    {
        let mut connection = match holds {
            Holds::Nothing | Holds::Lease(_) => self.begin(name, format!("BEGIN; {LIMITS}")).await?,
            Holds::Changes => {
                let mut connection = self.begin(name, format!("BEGIN; {LIMITS}; {PLANNED}; {}", control::LOCK)).await?;
                connection.hold_changes();
                connection
            }
        };
        if let Holds::Lease(fence) = holds {
            leader::hold(&mut connection, fence).await?;
        }
        match work(&mut connection).await? {
            Settled::Commit(value) => {
                connection.commit().await.during(name)?;
                Ok(value)
            }
            Settled::Discard(value) => {
                connection.rollback().await.during(name)?;
                Ok(value)
            }
        }
    }

    /// Runs reads that must see one state of the database.
    ///
    /// # Errors
    /// Those of the work, and those of the database.
    pub async fn read<T, F>(&self, name: &'static str, work: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>>,
    {
        let result = self.here(async {
            let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {LIMITS}");
            let mut connection = self.begin(name, begin).await?;
            let value = work(&mut connection).await?;
            connection.commit().await.during(name)?;
            Ok(value)
        });
        self.observed(result.instrument(info_span!("transaction", otel.name = name)).await)
    }

    /// A connection that the database has closed meanwhile, by a time limit of its own, is replaced: nothing was asked on it yet.
    async fn begin(&self, name: &'static str, statement: String) -> Result<PgConnection> {
        let pool = self.pool();
        let begin = || pool.begin_with(AssertSqlSafe(statement.clone()));
        // A limit on idle sessions ends many connections of the pool at once.
        let mut left = CONNECTIONS_MAX;
        let transaction = loop {
            match begin().await.during("begin") {
                Err(error) if error.is_of_connection() && left > 0 => left -= 1,
                begun => break begun?,
            }
        };
        Ok(PgConnection::new(transaction, self.session(), self.metrics.statements_of(name)))
    }

    fn observed<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            if error.is_of_database() && !error.is_stored_already() {
                self.metrics.database_errors.inc();
            }
            if error.is_read_only() {
                self.misplaced.notify_one();
            }
            // What locating it has missed. Connections of now would go on with the names that they know.
            if error.is_of_pooled_session() && self.note_pooled() {
                self.connect_anew(self.pool().connect_options().as_ref().clone());
            }
        }
        result
    }

    /// Waits until the database that was located takes no more changes.
    pub async fn misplaced(&self) {
        self.misplaced.notified().await;
    }

    /// Listens for commits that changed the generation. Where that cannot be done, none ever comes.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn listen(&self) -> Result<Listener> {
        if self.session() == Session::Pooled {
            return Ok(Listener(None));
        }
        let mut listener = PgListener::connect_with(&self.pool()).await.during("listen")?;
        // Whoever waits looks first whether the database is away.
        listener.eager_reconnect(false);
        match listener.listen(CHANNEL).await.during("listen") {
            Ok(()) => Ok(Listener(Some(listener))),
            Err(error) if error.is_unavailable() => Err(error),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    effect = "changes are found by looking",
                    "database notifications unavailable"
                );
                Ok(Listener(None))
            }
        }
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.pool().close().await;
    }
}

fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(ACQUIRE_TIMEOUT).connect_lazy_with(options)
}

/// Gets notifications of commits that changed the generation, by whichever server they were made.
#[derive(Debug)]
pub struct Listener(Option<PgListener>);

impl Listener {
    /// Waits for one; answers with the generation, if it says which. None is lost while this returns `Ok`.
    ///
    /// # Errors
    /// If the connection broke: notifications may be lost, listen again and look.
    pub async fn notified(&mut self) -> Result<Option<u64>> {
        let Some(listener) = &mut self.0 else { return std::future::pending().await };
        match listener.try_recv().await.during("listen")? {
            // Servers of an earlier version do not say.
            Some(notification) => Ok(notification.payload().parse().ok()),
            None => {
                let ended = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
                Err(Error::Database { operation: "listen", source: ended.into() })
            }
        }
    }
}
