//! Which nodes record their flows one by one, because somebody asked for it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::{
    connection::PgConnection,
    error::{Operation, Result},
};
use crate::fleet::recording::Wanted;

/// So long after the end, what a node could not report before is still taken.
const GRACE_S: f64 = 3_600.0;

/// That a node records.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Recording {
    pub node_id: String,
    pub flows_per_s: i32,
    pub started_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
    pub actor: String,
    pub reason: String,
}

/// What these nodes record now.
pub async fn of_nodes(conn: &mut PgConnection, node_ids: &[String]) -> Result<HashMap<String, Recording>> {
    let rows: Vec<Recording> =
        sqlx::query_as("SELECT * FROM flow_recording WHERE node_id = ANY($1) AND ends_at > now()")
            .bind(node_ids)
            .fetch_all(conn)
            .await
            .during("recording.of_nodes")?;
    Ok(rows.into_iter().map(|row| (row.node_id.clone(), row)).collect())
}

/// All nodes that record now: how much, and for how many seconds more.
pub async fn current(conn: &mut PgConnection) -> Result<Vec<(String, i32, f64)>> {
    sqlx::query_as(
        "SELECT node_id, flows_per_s, extract(epoch FROM ends_at - clock_timestamp())::float8
         FROM flow_recording WHERE ends_at > clock_timestamp()",
    )
    .fetch_all(conn)
    .await
    .during("recording.current")
}

/// Has a node record from now on, in the place of what it did.
pub async fn begin(conn: &mut PgConnection, wanted: &Wanted, actor: &str, reason: &str) -> Result<Recording> {
    let Wanted { node_id, duration, flows_per_s } = wanted;
    sqlx::query_as(
        "INSERT INTO flow_recording (node_id, flows_per_s, ends_at, actor, reason)
         VALUES ($1, $2, now() + make_interval(secs => $3), $4, $5)
         ON CONFLICT (node_id) DO UPDATE SET flows_per_s = excluded.flows_per_s, started_at = excluded.started_at,
             ends_at = excluded.ends_at, actor = excluded.actor, reason = excluded.reason
         RETURNING *",
    )
    .bind(node_id)
    .bind(flows_per_s.cast_signed())
    .bind(duration.as_secs_f64())
    .bind(actor)
    .bind(reason)
    .fetch_one(conn)
    .await
    .during("recording.begin")
}

/// Ends it now.
pub async fn end(conn: &mut PgConnection, node_id: &str) -> Result<()> {
    let query = sqlx::query("UPDATE flow_recording SET ends_at = now() WHERE node_id = $1 AND ends_at > now()");
    query.bind(node_id).execute(conn).await.during("recording.end").map(drop)
}

/// Whether a node records, or did not long ago.
pub async fn was_asked(conn: &mut PgConnection, node_id: &str) -> Result<bool> {
    let asked =
        "SELECT EXISTS (SELECT FROM flow_recording WHERE node_id = $1 AND ends_at > now() - make_interval(secs => $2))";
    sqlx::query_scalar(asked).bind(node_id).bind(GRACE_S).fetch_one(conn).await.during("recording.was_asked")
}

/// Forgets those that ended long ago.
pub async fn forget_old(conn: &mut PgConnection) -> Result<()> {
    let query = sqlx::query("DELETE FROM flow_recording WHERE ends_at < now() - make_interval(secs => $1)");
    query.bind(GRACE_S).execute(conn).await.during("recording.forget_old").map(drop)
}
