//! Nodes that are gone for good: forgotten when somebody says so, or after a time.

use std::time::Duration;

use super::connection::PgConnection;

use super::{
    Settled, audit,
    change::{self, Header},
    control,
    error::{Error, Operation, Result},
};
use crate::change::Refusal;

/// Somebody wants a node forgotten.
#[derive(Debug, Clone)]
pub struct Order {
    /// What all changes have.
    pub header: Header,
    /// Which one.
    pub node_id: String,
}

/// Forgets a node; answers with an encoded `google.protobuf.Empty`. Its outcomes stay.
///
/// # Errors
/// If there is no such node, or it is connected; or if the database fails.
pub async fn delete(conn: &mut PgConnection, order: &Order) -> Result<Settled<Vec<u8>>> {
    let Order { header, node_id } = order;
    if let Some(response) = change::begin(&mut *conn, header).await? {
        return Ok(Settled::Discard(response));
    }
    let name = format!("nodes/{node_id}");
    let connected: Option<bool> = sqlx::query_scalar("SELECT connected FROM node_presence WHERE node_id = $1")
        .bind(node_id)
        .fetch_optional(&mut *conn)
        .await
        .during("removal.find")?;
    match connected {
        None => return Err(Error::NotFound { name }),
        Some(true) => {
            let why = "it is connected, and would be back with its next hello; stop its daemon first";
            return Err(Error::Refused { name, refusal: Refusal::State(why.to_owned()) });
        }
        Some(false) => {}
    }
    let deleted = sqlx::query("DELETE FROM node WHERE node_id = $1").bind(node_id);
    deleted.execute(&mut *conn).await.during("removal.delete")?;
    let entry = audit::Entry {
        actor: &header.actor,
        method: header.method,
        name: &name,
        revision: 0,
        reason: &header.reason,
        request_json: &header.request_json,
        // No other node enforces anything else for it.
        generation: control::get(&mut *conn).await?.generation,
    };
    audit::add(&mut *conn, &entry).await?;
    change::settle(conn, header, vec![]).await
}

/// Forgets nodes that have been silent for a time. Returns how many.
///
/// # Errors
/// If the database fails.
pub async fn forget_silent(conn: &mut PgConnection, silence: Duration) -> Result<u64> {
    let forgotten = sqlx::query(
        "DELETE FROM node USING node_presence AS presence
         WHERE presence.node_id = node.node_id AND NOT connected AND last_seen_at < now() - make_interval(secs => $1)",
    )
    .bind(silence.as_secs_f64())
    .execute(conn)
    .await
    .during("removal.forget")?;
    Ok(forgotten.rows_affected())
}
