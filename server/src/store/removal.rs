//! Nodes that are gone.

use std::time::Duration;

use serde_json::Value;

use super::{
    connection::PgConnection,
    error::{Operation, Result},
};

/// Whether a node is connected; `None`: there is no such node.
pub async fn connected(conn: &mut PgConnection, node_id: &str) -> Result<Option<bool>> {
    let query = sqlx::query_scalar("SELECT connected FROM node_presence WHERE node_id = $1").bind(node_id);
    query.fetch_optional(conn).await.during("removal.connected")
}

/// What is known of a node, for people to see.
pub async fn shown(conn: &mut PgConnection, node_id: &str) -> Result<Value> {
    let shown =
        "SELECT jsonb_build_object('labels', labels, 'daemonVersion', daemon_version) FROM node WHERE node_id = $1";
    let shown: Option<Value> =
        sqlx::query_scalar(shown).bind(node_id).fetch_optional(conn).await.during("removal.shown")?;
    Ok(shown.unwrap_or_default())
}

/// Deletes a node.
pub async fn delete(conn: &mut PgConnection, node_id: &str) -> Result<()> {
    let query = sqlx::query("DELETE FROM node WHERE node_id = $1").bind(node_id);
    query.execute(conn).await.during("removal.delete").map(drop)
}

/// Deletes nodes that have been silent for a time. Returns how many.
pub async fn delete_silent(conn: &mut PgConnection, silence: Duration) -> Result<u64> {
    let deleted = sqlx::query(
        "DELETE FROM node USING node_presence AS presence
         WHERE presence.node_id = node.node_id AND NOT connected AND heard_at < now() - make_interval(secs => $1)",
    )
    .bind(silence.as_secs_f64())
    .execute(conn)
    .await
    .during("removal.delete_silent")?;
    Ok(deleted.rows_affected())
}
