//! Admits a daemon that says hello, unless another one has the node's id.

use super::node::{Admission, Registered, Registration, Stream};
use crate::store::{Result, access, confirmation, connection::PgConnection, control, holder, node};

/// Notes that a node has connected. Other labels make a new generation, as they may change what it must enforce. Another
/// kernel or daemon gets another chance with what was refused. A daemon whose id another one holds is only noted as that.
///
/// # Errors
/// If the database fails.
pub async fn register(conn: &mut PgConnection, node: &Registration) -> Result<Admission> {
    if let Some(holder) = holder::other_than(&mut *conn, node).await? {
        holder::note_conflict(conn, node).await?;
        return Ok(Admission::Held(holder));
    }
    holder::end_conflict(&mut *conn, node).await?;
    // What an operator has pinned goes before whatever the node or its certificate says.
    let mut node = node.clone();
    node.labels.extend(access::pinned(&mut *conn, &node.node_id).await?);
    let node = &node;
    let before = node::said_before(&mut *conn, &node.node_id).await?;
    if before.as_ref().is_some_and(|before| before.labels != node.labels) {
        control::lock(&mut *conn).await?;
        control::bump(&mut *conn).await?;
    }
    node::upsert(&mut *conn, node).await?;
    let stream = Stream { node_id: node.node_id.clone(), stream_id: node.stream_id };
    confirmation::told(&mut *conn, &[(stream, node.sign.clone())]).await?;
    // Compared as facts, not as bytes: a map has no order on the wire.
    if before.is_some_and(|before| {
        before.kernel.as_ref() != Some(&node.kernel) || before.daemon_version != node.daemon_version
    }) {
        node::forget_refusals(&mut *conn, &node.node_id).await?;
    }
    let refused = node::refused(&mut *conn, &node.node_id).await?;
    let control = control::get(conn).await?;
    let generation = control.generation.cast_unsigned();
    Ok(Admission::Registered(Registered {
        epoch: control.database_epoch,
        generation,
        refused,
        labels: node.labels.clone(),
    }))
}
