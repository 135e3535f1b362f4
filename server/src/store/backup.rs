//! What only backups read and write.

use sockpilot_policy::model::LayerName;
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};
use crate::change::backup::Revision;

/// Bytes of all revisions together.
pub async fn bytes(conn: &mut PgConnection) -> Result<i64> {
    sqlx::query_scalar("SELECT coalesce(sum(octet_length(document)), 0)::bigint FROM revision")
        .fetch_one(conn)
        .await
        .during("backup.bytes")
}

/// Everything that there is or was, and whether it is deleted; by name.
pub async fn names(conn: &mut PgConnection) -> Result<Vec<(LayerName, bool)>> {
    let names: Vec<(String, bool)> =
        sqlx::query_as("SELECT name, deleted_at IS NOT NULL FROM layer_object ORDER BY name")
            .fetch_all(conn)
            .await
            .during("backup.names")?;
    let read = |(text, deleted): (String, bool)| {
        let name = text.parse().map_err(|error: String| Error::corrupt(&text, error))?;
        Ok((name, deleted))
    };
    names.into_iter().map(read).collect()
}

/// Stores a revision as it was made elsewhere.
pub async fn insert(
    conn: &mut PgConnection,
    name: &LayerName,
    number: u64,
    revision: &Revision,
    uid: Uuid,
) -> Result<()> {
    let Revision { document, uid: _, created_at, creator } = revision;
    sqlx::query(
        "INSERT INTO revision (name, revision, uid, document, node_labels, created_at, creator)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(name.to_string())
    .bind(number.cast_signed())
    .bind(uid)
    .bind(document.encode())
    .bind(Json(document.node_labels()))
    .bind(created_at)
    .bind(creator)
    .execute(conn)
    .await
    .during("backup.insert")?;
    Ok(())
}
