//! Who changed what.

use chrono::{DateTime, Utc};
use sockpilot_proto::v1;

use super::{
    connection::PgConnection,
    error::{Operation, Result},
    layer::timestamp,
};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Who.
    pub actor: &'a str,
    /// Which call.
    pub method: &'a str,
    /// Of what.
    pub name: &'a str,
    /// Which revision it is about.
    pub revision: i64,
    /// The reason that was given.
    pub reason: &'a str,
    /// What was asked.
    pub request_json: &'a str,
    /// Which generation it made.
    pub generation: i64,
}

/// Adds an entry. The transaction holds the lock of `control`, so the sequence has no gaps.
///
/// # Errors
/// If the database fails.
pub async fn add(conn: &mut PgConnection, entry: &Entry<'_>) -> Result<()> {
    let Entry { actor, method, name, revision, reason, request_json, generation } = entry;
    sqlx::query(
        "INSERT INTO audit (sequence, actor, method, name, revision, reason, request_json, generation)
         SELECT coalesce(max(sequence), 0) + 1, $1, $2, $3, $4, $5, $6::json, $7 FROM audit",
    )
    .bind(actor)
    .bind(method)
    .bind(name)
    .bind(revision)
    .bind(reason)
    .bind(request_json)
    .bind(generation)
    .execute(conn)
    .await
    .during("audit.add")?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Row {
    sequence: i64,
    at: DateTime<Utc>,
    actor: String,
    method: String,
    name: String,
    revision: i64,
    reason: String,
    request_json: String,
    generation: i64,
}

/// Entries before a sequence, newest first; about one resource or (empty) all.
///
/// # Errors
/// If the database fails.
pub async fn list(conn: &mut PgConnection, name: &str, before: Option<i64>, limit: i64) -> Result<Vec<v1::AuditEntry>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT sequence, at, actor, method, name, revision, reason, request_json::text AS request_json, generation
         FROM audit WHERE ($1 = '' OR name = $1) AND ($2::bigint IS NULL OR sequence < $2)
         ORDER BY sequence DESC LIMIT $3",
    )
    .bind(name)
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("audit.list")?;
    Ok(rows.into_iter().map(Row::into_proto).collect())
}

impl Row {
    fn into_proto(self) -> v1::AuditEntry {
        let Self { sequence, at, actor, method, name, revision, reason, request_json, generation } = self;
        v1::AuditEntry {
            sequence: sequence.cast_unsigned(),
            time: Some(timestamp(at)),
            actor,
            method,
            name,
            revision: revision.cast_unsigned(),
            reason,
            request_json,
            generation: generation.cast_unsigned(),
        }
    }
}
