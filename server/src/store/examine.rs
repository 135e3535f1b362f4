//! What a look at the database shows, without anything being written.

use super::{
    Store,
    error::{Error, Operation, Result},
    schema,
};

/// How a database is set up, as far as a server depends on it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Setup {
    /// As `server_version_num`: 150018 for 15.18.
    pub version: i32,
    /// Of the database's host, in seconds since 1970.
    pub now_s: f64,
    /// A standby: nothing can be written.
    pub in_recovery: bool,
    /// Settings by which what was acknowledged outlives a crash of the host: `fsync`, `full_page_writes`, `synchronous_commit`.
    pub fsync: bool,
    pub full_page_writes: bool,
    pub synchronous_commit: String,
    /// How many connections this role may open, of which how many are open.
    pub connections_max: i32,
    pub connections: i64,
    /// Of this database on the disk.
    pub bytes: i64,
}

/// The schema that a database has.
#[derive(Debug, PartialEq, Eq)]
pub enum Schema {
    /// This version's.
    Current,
    /// None, or an older one, which the server brings up to date when it starts.
    ToBeMade,
}

impl Store {
    /// Looks at the database.
    ///
    /// # Errors
    /// If it is away, or another one than those the address names.
    pub async fn examine(&self) -> Result<Setup> {
        self.locate().await?;
        let mut connection = self.pool().acquire().await.during("examine")?;
        let setup = sqlx::query_as(
            "SELECT current_setting('server_version_num')::int AS version,
                 extract(epoch FROM clock_timestamp())::float8 AS now_s,
                 pg_is_in_recovery() AS in_recovery,
                 current_setting('fsync')::bool AS fsync,
                 current_setting('full_page_writes')::bool AS full_page_writes,
                 current_setting('synchronous_commit') AS synchronous_commit,
                 current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS connections_max,
                 (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
                 pg_database_size(current_database()) AS bytes",
        );
        setup.persistent(false).fetch_one(&mut *connection).await.during("examine")
    }

    /// Looks at the schema.
    ///
    /// # Errors
    /// If it is one that this version does not know, or an older one that is not this role's to change.
    pub async fn examine_schema(&self) -> Result<Schema> {
        let mut connection = self.pool().acquire().await.during("examine")?;
        let current = schema::is_current(&mut connection).await?;
        Ok(if current { Schema::Current } else { Schema::ToBeMade })
    }
}

/// What a person has to mend, or how it failed.
#[must_use]
pub fn explained(error: &Error) -> String {
    error.fault().unwrap_or_else(|| sockpilot_settings::checkup::in_full(error))
}
