//! Who changed what. Where an entry stands, when it was and its hash are said by the database (migration 0017): nobody who only adds can say
//! otherwise.

use chrono::{DateTime, Utc};
use sqlx::AssertSqlSafe;

use super::{
    connection::PgConnection,
    control,
    error::{Operation, Result},
};
use crate::change::{author::Author, difference::Difference};

/// A page has no more of requests and differences than this, unless one entry alone has.
const PAGE_BYTES_MAX: i64 = 4 << 20;

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
    pub difference: Difference,
}

/// Adds an entry. The transaction holds the lock of `control`, so the sequence has no gaps and is that of the commits.
pub async fn add(conn: &mut PgConnection, author: &Author, subject: &Subject<'_>) -> Result<()> {
    let Subject { method, name, revision, generation, difference } = subject;
    sqlx::query(
        "INSERT INTO audit (actor, proof, role, method, name, revision, generation, reason, request_id, request_json, difference_json)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::json, $11::json)",
    )
    .bind(author.actor())
    .bind(author.proof())
    .bind(author.role())
    .bind(method)
    .bind(name)
    .bind(revision)
    .bind(generation)
    .bind(author.reason())
    .bind(author.request_id())
    .bind(author.basis_json())
    .bind(difference.as_json())
    .execute(conn)
    .await
    .during("audit.add")?;
    Ok(())
}

/// Adds an entry about what makes no generation of its own.
pub async fn note(
    conn: &mut PgConnection,
    author: &Author,
    method: &str,
    (name, revision): (&str, i64),
    difference: Difference,
) -> Result<()> {
    let generation = control::get(&mut *conn).await?.generation;
    add(conn, author, &Subject { method, name, revision, generation, difference }).await
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct AuditRow {
    pub sequence: i64,
    pub at: DateTime<Utc>,
    pub actor: String,
    pub proof: String,
    pub role: String,
    pub method: String,
    pub name: String,
    pub revision: i64,
    pub generation: i64,
    pub reason: String,
    pub request_id: String,
    pub request_json: String,
    pub difference_json: String,
    /// In hexadecimal digits.
    pub previous_hash: String,
    /// In hexadecimal digits.
    pub hash: String,
}

/// Which entries are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// About this resource; empty: all.
    pub name: &'a str,
    /// Or newest first.
    pub oldest_first: bool,
    /// Beyond this sequence, in that order.
    pub beyond: Option<i64>,
    pub limit: i64,
}

/// Entries, fewer than the limit if they are long; and whether there are more.
pub async fn list(conn: &mut PgConnection, wanted: Wanted<'_>) -> Result<(Vec<AuditRow>, bool)> {
    #[derive(sqlx::FromRow)]
    struct Row {
        #[sqlx(flatten)]
        entry: AuditRow,
        found: i64,
    }
    let Wanted { name, oldest_first, beyond, limit } = wanted;
    let (after, order) = if oldest_first { (">", "ASC") } else { ("<", "DESC") };
    let query = format!(
        "WITH page AS (
             SELECT sequence, at, actor, proof, role, method, name, revision, generation, reason, request_id,
                 request_json::text, difference_json::text, encode(previous_hash, 'hex') AS previous_hash, encode(hash, 'hex') AS hash
             FROM audit WHERE ($1 = '' OR name = $1) AND ($2::bigint IS NULL OR sequence {after} $2)
             ORDER BY sequence {order} LIMIT $3
         ), measured AS (
             SELECT *, octet_length(request_json) + octet_length(difference_json) AS bytes FROM page
         ), summed AS (
             SELECT *, sum(bytes) OVER (ORDER BY sequence {order}) - bytes AS bytes_before FROM measured
         )
         SELECT *, (SELECT count(*) FROM page) AS found FROM summed WHERE bytes_before < $4 ORDER BY sequence {order}"
    );
    let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(query))
        .bind(name)
        .bind(beyond)
        .bind(limit)
        .bind(PAGE_BYTES_MAX)
        .fetch_all(conn)
        .await
        .during("audit.list")?;
    let found = rows.first().map_or(0, |row| usize::try_from(row.found).unwrap_or_default());
    let more = found > rows.len();
    Ok((rows.into_iter().map(|row| row.entry).collect(), more))
}
