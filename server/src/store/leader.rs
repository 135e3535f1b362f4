//! The lease of the replica that acts for the fleet.

use std::time::Duration;

use uuid::Uuid;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};

/// What a write for the fleet must show: the epoch of the writer's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    pub epoch: i64,
}

/// Takes the lease if it is free, or renews it if it is this server's. Returns its epoch, or nothing if another server has it.
pub async fn take(conn: &mut PgConnection, server_id: Uuid, lease: Duration) -> Result<Option<i64>> {
    sqlx::query_scalar(
        "UPDATE leader SET server_id = $1, until = clock_timestamp() + make_interval(secs => $2),
             epoch = CASE WHEN server_id = $1 AND until > clock_timestamp() THEN epoch ELSE epoch + 1 END
         WHERE server_id = $1 OR until <= clock_timestamp()
         RETURNING epoch",
    )
    .bind(server_id)
    .bind(lease.as_secs_f64())
    .fetch_optional(conn)
    .await
    .during("leader.take")
}

/// Gives the lease back, if this server has it.
pub async fn resign(conn: &mut PgConnection, server_id: Uuid) -> Result<()> {
    let query = sqlx::query("UPDATE leader SET server_id = NULL, until = '-infinity' WHERE server_id = $1");
    query.bind(server_id).execute(conn).await.during("leader.resign")?;
    Ok(())
}

/// Keeps the lease from changing hands until the transaction ends.
///
/// # Errors
/// [`Error::Deposed`] if it has changed hands already; or if the database fails.
pub async fn hold(conn: &mut PgConnection, fence: Fence) -> Result<()> {
    let query = sqlx::query("SELECT FROM leader WHERE epoch = $1 FOR SHARE").bind(fence.epoch);
    let held = query.fetch_optional(conn).await.during("leader.hold")?;
    held.map(drop).ok_or(Error::Deposed { epoch: fence.epoch })
}
