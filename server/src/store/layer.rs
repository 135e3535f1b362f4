//! Policies and experiments, and their revisions.

use chrono::{DateTime, Utc};
use prost::Message;
use sockpilot_policy::model::{LayerKind, LayerName};
use sockpilot_proto::v1;
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};
use crate::change::document::{Document, Identity};

/// The row of a policy or an experiment.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Object {
    /// Another one after delete and create.
    pub uid: Uuid,
    /// Grows with every change.
    pub version: i64,
    /// The newest revision.
    pub latest_revision: i64,
    /// Deleted, but its revisions stay.
    pub deleted: bool,
}

impl Object {
    /// Changes with every change of the object or its assignments.
    #[must_use]
    pub fn etag(&self) -> String {
        etag(self.uid, self.version)
    }
}

fn etag(uid: Uuid, version: i64) -> String {
    format!("{:08x}-{version}", uid.as_fields().0)
}

/// The object, deleted or not.
pub async fn object(conn: &mut PgConnection, name: &LayerName) -> Result<Option<Object>> {
    sqlx::query_as(
        "SELECT uid, version, latest_revision, deleted_at IS NOT NULL AS deleted FROM layer_object WHERE name = $1",
    )
    .bind(name.to_string())
    .fetch_optional(conn)
    .await
    .during("layer.object")
}

/// Makes the object, or brings the deleted one back as another.
pub async fn create(conn: &mut PgConnection, name: &LayerName, latest_revision: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO layer_object (name, latest_revision) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET uid = excluded.uid, version = layer_object.version + 1,
             latest_revision = excluded.latest_revision, created_at = excluded.created_at, deleted_at = NULL",
    )
    .bind(name.to_string())
    .bind(latest_revision)
    .execute(conn)
    .await
    .during("layer.create")?;
    Ok(())
}

/// Notes that the object has changed.
pub async fn touch(conn: &mut PgConnection, name: &LayerName, latest_revision: i64, delete: bool) -> Result<()> {
    sqlx::query(
        "UPDATE layer_object SET version = version + 1, latest_revision = $2, deleted_at = CASE WHEN $3 THEN now() END
         WHERE name = $1",
    )
    .bind(name.to_string())
    .bind(latest_revision)
    .bind(delete)
    .execute(conn)
    .await
    .during("layer.touch")?;
    Ok(())
}

/// Gives a revision of an experiment other words than its document has.
pub async fn mend(conn: &mut PgConnection, name: &LayerName, revision: i64, document: &Document) -> Result<()> {
    sqlx::query("UPDATE revision SET words = $3 WHERE name = $1 AND revision = $2")
        .bind(name.to_string())
        .bind(revision)
        .bind(document.encode_words())
        .execute(conn)
        .await
        .during("layer.mend")?;
    Ok(())
}

/// Makes the object the one that some of its revisions were made as.
pub async fn set_uid(conn: &mut PgConnection, name: &LayerName, uid: Uuid) -> Result<()> {
    sqlx::query("UPDATE layer_object SET uid = $2 WHERE name = $1")
        .bind(name.to_string())
        .bind(uid)
        .execute(conn)
        .await
        .during("layer.set_uid")?;
    Ok(())
}

/// Stores a document as a revision.
pub async fn store(
    conn: &mut PgConnection,
    name: &LayerName,
    revision: i64,
    document: &Document,
    creator: &str,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO revision (name, revision, uid, document, node_labels, creator)
         SELECT name, $2, uid, $3, $4, $5 FROM layer_object WHERE name = $1",
    )
    .bind(name.to_string())
    .bind(revision)
    .bind(document.encode())
    .bind(Json(document.node_labels()))
    .bind(creator)
    .execute(conn)
    .await
    .during("layer.store")?;
    Ok(())
}

#[derive(sqlx::FromRow)]
pub(super) struct Row {
    name: String,
    revision: i64,
    uid: Uuid,
    document: Vec<u8>,
    words: Option<Vec<u8>>,
    created_at: DateTime<Utc>,
    creator: String,
    object_uid: Uuid,
    version: i64,
    state: Option<String>,
    started_at: Option<DateTime<Utc>>,
    ends_at: Option<DateTime<Utc>>,
    shipped_arm: String,
}

impl Row {
    pub(super) fn into_document(self, kind: LayerKind) -> Result<Document> {
        let Self { name, revision, uid, document, words, created_at, creator, object_uid, version, .. } = self;
        let (state, started_at, ends_at, shipped_arm) = (self.state, self.started_at, self.ends_at, self.shipped_arm);
        let corrupt = |error| Error::corrupt(format!("document of {name}@{revision}"), error);
        let mut document = Document::decode(kind, &document).map_err(corrupt)?;
        if let Some(words) = words {
            document = document.with_words(&words).map_err(corrupt)?;
        }
        let state = self::state(&name, state.as_deref())?;
        Ok(document.identified(Identity {
            name,
            uid: uid.to_string(),
            revision: revision.cast_unsigned(),
            etag: etag(object_uid, version),
            created_at,
            creator,
            state,
            started_at,
            ends_at,
            shipped_arm,
        }))
    }
}

fn state(name: &str, word: Option<&str>) -> Result<v1::ExperimentState> {
    Ok(match word {
        None => v1::ExperimentState::Unspecified,
        Some("draft") => v1::ExperimentState::Draft,
        Some("running") => v1::ExperimentState::Running,
        Some("stopped") => v1::ExperimentState::Stopped,
        Some("concluded") => v1::ExperimentState::Concluded,
        Some(word) => return Err(Error::corrupt(format!("state of {name}"), word)),
    })
}

/// One revision, also of a deleted object; without a number the newest of an object that exists.
///
/// # Errors
/// If there is none, or the database fails.
pub async fn document(conn: &mut PgConnection, name: &LayerName, revision: Option<u64>) -> Result<Document> {
    let wanted = revision.map(|revision| i64::try_from(revision).unwrap_or(i64::MAX));
    let row: Option<Row> = sqlx::query_as(
        "SELECT name, revision, uid, document, words, created_at, creator, object_uid, version, state,
                started_at, ends_at, shipped_arm
         FROM layer_document
         WHERE name = $1 AND revision = coalesce($2, latest_revision) AND ($2 IS NOT NULL OR deleted_at IS NULL)",
    )
    .bind(name.to_string())
    .bind(wanted)
    .fetch_optional(conn)
    .await
    .during("layer.document")?;
    let named = || revision.map_or_else(|| name.to_string(), |revision| format!("{name}@{revision}"));
    row.ok_or_else(|| Error::NotFound { name: named() })?.into_document(name.kind)
}

/// Newest revisions of what exists, by name, after a name.
pub async fn list(conn: &mut PgConnection, kind: LayerKind, after: &str, limit: i64) -> Result<Vec<Document>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT name, revision, uid, document, words, created_at, creator, object_uid, version, state,
                started_at, ends_at, shipped_arm
         FROM layer_document
         WHERE kind = $1 AND name > $2 AND deleted_at IS NULL AND revision = latest_revision ORDER BY name LIMIT $3",
    )
    .bind(kind.collection())
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("layer.list")?;
    rows.into_iter().map(|row| row.into_document(kind)).collect()
}

/// Revisions before a number, newest first, also of a deleted object.
///
/// # Errors
/// If there never was such an object, or the database fails.
pub async fn list_revisions(
    conn: &mut PgConnection,
    name: &LayerName,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Document>> {
    if object(&mut *conn, name).await?.is_none() {
        return Err(Error::NotFound { name: name.to_string() });
    }
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT name, revision, uid, document, words, created_at, creator, object_uid, version, state,
                started_at, ends_at, shipped_arm
         FROM layer_document
         WHERE name = $1 AND ($2::bigint IS NULL OR revision < $2) ORDER BY revision DESC LIMIT $3",
    )
    .bind(name.to_string())
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("layer.list_revisions")?;
    rows.into_iter().map(|row| row.into_document(name.kind)).collect()
}

/// Experiments as they run.
pub async fn running_experiments(conn: &mut PgConnection) -> Result<Vec<v1::Experiment>> {
    let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(
        "SELECT name, document FROM layer_object JOIN revision USING (name) JOIN assignment USING (name, revision)
         WHERE kind = 'experiments' AND deleted_at IS NULL AND ended_at IS NULL
         ORDER BY name, revision",
    )
    .fetch_all(conn)
    .await
    .during("layer.running_experiments")?;
    let read = |(name, document): (String, Vec<u8>)| {
        v1::Experiment::decode(document.as_slice())
            .map_err(|error| Error::corrupt(format!("document of {name}"), error))
    };
    rows.into_iter().map(read).collect()
}
