//! Has a node record its flows one by one for a time.

use serde_json::{Value, json};

use super::{author::Author, difference::Difference};
use crate::{
    fleet::recording::Wanted,
    store::{Error, Result, audit, connection::PgConnection, control, recording, recording::Recording, removal},
};

/// What the audit log calls it.
const METHOD: &str = "RecordFlows";

/// Has it begin, in the place of what it did, or end. Answers with what it records from now on, if anything.
///
/// # Errors
/// If there is no such node, or the database fails.
pub async fn record_flows(conn: &mut PgConnection, author: &Author, wanted: &Wanted) -> Result<Option<Recording>> {
    control::lock(&mut *conn).await?;
    let name = format!("nodes/{}", wanted.node_id);
    if removal::connected(&mut *conn, &wanted.node_id).await?.is_none() {
        return Err(Error::NotFound { name });
    }
    let before = recording::of_nodes(&mut *conn, std::slice::from_ref(&wanted.node_id)).await?;
    let before = before.into_values().next();
    let after = if wanted.duration.is_zero() {
        recording::end(&mut *conn, &wanted.node_id).await?;
        None
    } else {
        Some(recording::begin(&mut *conn, wanted, &author.actor(), author.reason()).await?)
    };
    if before.is_some() || after.is_some() {
        // No node enforces anything else for it.
        let difference = Difference::between(&shown(before.as_ref()), &shown(after.as_ref()));
        audit::note(conn, author, METHOD, (&name, 0), difference).await?;
    }
    Ok(after)
}

fn shown(recording: Option<&Recording>) -> Value {
    recording.map_or(
        Value::Null,
        |Recording { flows_per_s, ends_at, .. }| json!({ "flowsPerS": flows_per_s, "endTime": ends_at.to_rfc3339() }),
    )
}
