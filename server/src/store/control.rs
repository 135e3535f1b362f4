//! The one row of `control`: database epoch, generation, lease.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    connection::PgConnection,
    error::{Operation, Result},
};

/// Once for each transaction, as the first statement of those that begin with it.
pub(super) const LOCK: &str = "SELECT 1 FROM control FOR UPDATE";

/// Where the database stands.
#[derive(Debug, Clone, Copy, PartialEq, sqlx::FromRow)]
pub struct Control {
    /// Another one means that generations may have gone back.
    pub database_epoch: Uuid,
    /// Grows with every change of anything a node may enforce.
    pub generation: i64,
    /// Lease of canary and experiment layers.
    pub lease_ms: i64,
    /// How long ago the generation was made.
    pub age_s: f64,
    /// The database's clock.
    pub now: DateTime<Utc>,
}

/// Reads the row.
pub async fn get(conn: &mut PgConnection) -> Result<Control> {
    sqlx::query_as(
        "SELECT database_epoch, generation, lease_ms, \
             extract(epoch FROM clock_timestamp() - changed_at)::float8 AS age_s, \
             clock_timestamp() AS now FROM control",
    )
    .fetch_one(conn)
    .await
    .during("control.get")
}

/// The database's time.
pub async fn now(conn: &mut PgConnection) -> Result<DateTime<Utc>> {
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(conn).await.during("control.now")
}

/// Makes every other change wait until this transaction ends, so that changes see each other and commit in the order of
/// their generations.
pub async fn lock(conn: &mut PgConnection) -> Result<()> {
    if !conn.hold_changes() {
        sqlx::query(LOCK).execute(conn).await.during("control.lock")?;
    }
    Ok(())
}

/// Makes the next generation, and announces it with the commit.
pub async fn bump(conn: &mut PgConnection) -> Result<i64> {
    let (generation,) = sqlx::query_as(
        "WITH bumped AS (
             UPDATE control SET generation = generation + 1, changed_at = clock_timestamp() RETURNING generation
         )
         SELECT generation FROM bumped, pg_notify('sockpilot_generation', generation::text)",
    )
    .fetch_one(conn)
    .await
    .during("control.bump")?;
    Ok(generation)
}

/// Begins another epoch, made for another place if one is given. Answers with both.
pub(super) async fn begin_epoch(conn: &mut PgConnection, origin: Option<&str>) -> Result<(Uuid, String)> {
    sqlx::query_as(
        "UPDATE control SET database_epoch = gen_random_uuid(), origin = coalesce($1, origin) RETURNING database_epoch, origin",
    )
    .bind(origin)
    .fetch_one(conn)
    .await
    .during("control.begin_epoch")
}

/// Sets the lease. Another one is in every snapshot, so it makes a generation.
pub(super) async fn set_lease(conn: &mut PgConnection, lease_ms: i64) -> Result<()> {
    let query = sqlx::query("UPDATE control SET lease_ms = $1 WHERE lease_ms <> $1").bind(lease_ms);
    let set = query.execute(&mut *conn).await.during("control.set_lease")?;
    if set.rows_affected() > 0 {
        bump(conn).await?;
    }
    Ok(())
}
