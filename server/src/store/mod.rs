//! The only place that speaks SQL. One file per aggregate, each of free functions on a connection, so that they work in any
//! transaction; [`Store`] owns the pool and runs transactions, by name and with retry.

pub mod address;
pub mod assignment;
pub mod audit;
pub mod backup;
pub mod change;
pub mod confirmation;
pub mod control;
pub mod error;
pub mod explain;
pub mod fleet;
pub mod flow;
pub mod known;
pub mod layer;
pub mod node;
pub mod outcome;
pub mod request;
pub mod sample;
pub mod zone;

use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

use self::error::Operation;
pub use self::error::{Error, Result};
use crate::metrics::Metrics;

/// The schema. Changes are new files in `migrations/`; a database with a newer schema than this is refused.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// How often a transaction is begun anew after it lost against another.
const ATTEMPTS_MAX: u32 = 5;
const CONNECTIONS_MAX: u32 = 16;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// Name under which commits that changed the generation are announced.
const CHANNEL: &str = "sockpilot_generation";

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
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

impl Store {
    /// A pool that connects when it is first used.
    #[must_use]
    pub fn new(options: PgConnectOptions, metrics: Metrics) -> Self {
        let options = options
            .application_name("sockpilot-server")
            .options([("statement_timeout", "30s"), ("idle_in_transaction_session_timeout", "30s")]);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options);
        Self { pool, metrics }
    }

    /// Brings the schema up to date.
    ///
    /// # Errors
    /// If the database is away, or has a schema that this version does not know.
    pub async fn migrate(&self) -> Result<()> {
        let mut connection = self.pool.acquire().await.during("migrate")?;
        // A migration of much data takes its time.
        sqlx::query("SET statement_timeout = 0").execute(&mut *connection).await.during("migrate")?;
        let done = MIGRATIONS.run(&mut *connection).await.map_err(|source| Error::Migration { source });
        connection.close().await.during("migrate")?;
        done
    }

    /// Runs a transaction. One that lost against another is begun anew.
    ///
    /// # Errors
    /// Those of the work, and those of the database.
    pub async fn transact<T, F>(&self, name: &'static str, work: F) -> Result<T>
    where
        T: Send,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<Settled<T>>> + Send + Sync,
    {
        let mut attempt = 1;
        loop {
            let result = self.attempt(name, &work).await;
            match result {
                Err(error) if error.is_conflict() && attempt < ATTEMPTS_MAX => {
                    tracing::debug!(transaction = name, attempt, "transaction lost against another, begun anew");
                    attempt += 1;
                }
                result => return self.observed(result),
            }
        }
    }

    async fn attempt<T, F>(&self, name: &'static str, work: &F) -> Result<T>
    where
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<Settled<T>>>,
    {
        let mut connection = self.pool.acquire().await.during("acquire")?;
        let mut transaction = connection.begin().await.during(name)?;
        match work(&mut transaction).await? {
            Settled::Commit(value) => {
                transaction.commit().await.during(name)?;
                Ok(value)
            }
            Settled::Discard(value) => {
                transaction.rollback().await.during(name)?;
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
        let result = async {
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
            let mut transaction = self.pool.begin_with(begin).await.during("begin")?;
            let value = work(&mut transaction).await?;
            transaction.commit().await.during(name)?;
            Ok(value)
        };
        self.observed(result.await)
    }

    fn observed<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && error.is_of_database()
        {
            self.metrics.database_errors.inc();
        }
        result
    }

    /// Listens for commits that changed the generation.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn listen(&self) -> Result<Listener> {
        let mut listener = PgListener::connect_with(&self.pool).await.during("listen")?;
        listener.listen(CHANNEL).await.during("listen")?;
        Ok(Listener(listener))
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Hears of commits that changed the generation, by whichever server they were made.
#[derive(Debug)]
pub struct Listener(PgListener);

impl Listener {
    /// Waits for one. None is lost while this returns `Ok`.
    ///
    /// # Errors
    /// If the connection broke: notifications may be lost, listen again and look.
    pub async fn heard(&mut self) -> Result<()> {
        match self.0.try_recv().await.during("listen")? {
            Some(_) => Ok(()),
            None => Err(Error::Database { operation: "listen", source: sqlx::Error::PoolClosed }),
        }
    }
}
