//! Who changed what.

use chrono::{DateTime, Utc};

use super::{
    connection::PgConnection,
    control,
    error::{Operation, Result},
};
use crate::change::author::Author;

/// What a change was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject<'a> {
    /// Which call makes such a change, whoever made it.
    pub method: &'a str,
    pub name: &'a str,
    /// Which revision it is about.
    pub revision: i64,
    /// Which generation it made.
    pub generation: i64,
}

/// Adds an entry. The transaction holds the lock of `control`, so the sequence has no gaps.
pub async fn add(conn: &mut PgConnection, author: &Author, subject: &Subject<'_>) -> Result<()> {
    let Subject { method, name, revision, generation } = subject;
    sqlx::query(
        "INSERT INTO audit (sequence, actor, method, name, revision, reason, request_json, generation)
         SELECT coalesce(max(sequence), 0) + 1, $1, $2, $3, $4, $5, $6::json, $7 FROM audit",
    )
    .bind(author.actor())
    .bind(method)
    .bind(name)
    .bind(revision)
    .bind(author.reason())
    .bind(author.basis_json())
    .bind(generation)
    .execute(conn)
    .await
    .during("audit.add")?;
    Ok(())
}

/// Adds an entry about what makes no generation of its own.
pub async fn note(conn: &mut PgConnection, author: &Author, method: &str, name: &str, revision: i64) -> Result<()> {
    let generation = control::get(&mut *conn).await?.generation;
    add(conn, author, &Subject { method, name, revision, generation }).await
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct AuditRow {
    pub sequence: i64,
    pub at: DateTime<Utc>,
    pub actor: String,
    pub method: String,
    pub name: String,
    pub revision: i64,
    pub reason: String,
    pub request_json: String,
    pub generation: i64,
}

/// Entries before a sequence, newest first; about one resource or (empty) all.
pub async fn list(conn: &mut PgConnection, name: &str, before: Option<i64>, limit: i64) -> Result<Vec<AuditRow>> {
    sqlx::query_as(
        "SELECT sequence, at, actor, method, name, revision, reason, request_json::text AS request_json, generation
         FROM audit WHERE ($1 = '' OR name = $1) AND ($2::bigint IS NULL OR sequence < $2)
         ORDER BY sequence DESC LIMIT $3",
    )
    .bind(name)
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("audit.list")
}
