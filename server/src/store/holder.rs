//! Which daemon a node id belongs to. It is the one that has it until it leaves, or until its last contact is as long ago as
//! a node counts as connected; so a stream that breaks does not give the id to whoever calls first.

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};
use crate::fleet::node::{Holder, Registration};

/// As in the view `node_presence`: a server that has said nothing for so long holds no nodes.
const HELD_S: f64 = 20.0;
/// A daemon that was refused calls again within 15 s; without a call for so long it is gone.
pub const CONFLICT_S: f64 = 45.0;

/// Another daemon that has this one's id; `None`: it may have it. Until the transaction ends, no other may take it.
pub async fn other_than(conn: &mut PgConnection, node: &Registration) -> Result<Option<Holder>> {
    // Two that are both new have no row to wait for.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('node/' || $1, 0))")
        .bind(&node.node_id)
        .execute(&mut *conn)
        .await
        .during("holder.lock")?;
    let row: Option<(String, f64)> = sqlx::query_as(
        "SELECT address, extract(epoch FROM now() - heard_at)::float8 AS last_contact_s FROM node JOIN node_presence USING (node_id)
         WHERE node_id = $1 AND instance <> $2 AND heard_at > now() - make_interval(secs => $3) FOR UPDATE OF node",
    )
    .bind(&node.node_id)
    .bind(&node.instance)
    .bind(HELD_S)
    .fetch_optional(conn)
    .await
    .during("holder.other")?;
    Ok(row.map(|(address, last_contact_s)| Holder { address, last_contact_s }))
}

/// Notes that a daemon was refused.
pub async fn note_conflict(conn: &mut PgConnection, node: &Registration) -> Result<()> {
    sqlx::query(
        "UPDATE node SET conflict_address = $2, conflict_at = now(),
             conflict_since = CASE WHEN conflict_at > now() - make_interval(secs => $3) THEN conflict_since ELSE now() END
         WHERE node_id = $1",
    )
    .bind(&node.node_id)
    .bind(&node.address)
    .bind(CONFLICT_S)
    .execute(conn)
    .await
    .during("holder.conflict")?;
    Ok(())
}

/// A daemon gets the id: if it had another one before, there is no conflict that anybody knows of.
pub async fn end_conflict(conn: &mut PgConnection, node: &Registration) -> Result<()> {
    sqlx::query(
        "UPDATE node SET conflict_address = NULL, conflict_since = NULL, conflict_at = NULL
         WHERE node_id = $1 AND instance IS DISTINCT FROM $2 AND conflict_at IS NOT NULL",
    )
    .bind(&node.node_id)
    .bind(&node.instance)
    .execute(conn)
    .await
    .during("holder.end_conflict")?;
    Ok(())
}

/// Refuses what a daemon says that has not the id: the counts of two would be mixed. Whoever does not say which it is, is
/// believed.
///
/// # Errors
/// If another daemon has the id, or the database fails.
pub async fn check(conn: &mut PgConnection, node_id: &str, instance: &str) -> Result<()> {
    let other: Option<(String,)> =
        sqlx::query_as("SELECT address FROM node WHERE node_id = $1 AND instance <> $2 AND $2 <> ''")
            .bind(node_id)
            .bind(instance)
            .fetch_optional(conn)
            .await
            .during("holder.check")?;
    match other {
        Some((address,)) => Err(Error::HeldByOther { node_id: node_id.to_owned(), address }),
        None => Ok(()),
    }
}
