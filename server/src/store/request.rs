//! Answers given under a request id.

use uuid::Uuid;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};

/// A request that may come twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Made by the caller.
    pub id: Uuid,
    /// What was called.
    pub method: &'static str,
    /// Of the request's content.
    pub hash: [u8; 32],
}

/// The answer given before, if there is one.
///
/// # Errors
/// If the id was used for another request, or the database fails.
pub async fn answer(conn: &mut PgConnection, request: &Request) -> Result<Option<Vec<u8>>> {
    let Request { id, method, hash } = request;
    let row: Option<(String, Vec<u8>, Vec<u8>)> = sqlx::query_as(
        "SELECT method, request_hash, response FROM answered_request
         WHERE request_id = $1 AND created_at > now() - interval '24 hours'",
    )
    .bind(id)
    .fetch_optional(conn)
    .await
    .during("request.answer")?;
    match row {
        None => Ok(None),
        Some((was, its_hash, response)) if was == *method && its_hash == hash[..] => Ok(Some(response)),
        Some(_) => Err(Error::RequestIdReused),
    }
}

/// Keeps the answer for the same request sent again.
pub async fn remember(conn: &mut PgConnection, request: &Request, response: &[u8]) -> Result<()> {
    let Request { id, method, hash } = request;
    sqlx::query(
        "INSERT INTO answered_request (request_id, method, request_hash, response) VALUES ($1, $2, $3, $4)
         ON CONFLICT (request_id) DO UPDATE SET method = excluded.method, request_hash = excluded.request_hash,
             response = excluded.response, created_at = excluded.created_at",
    )
    .bind(id)
    .bind(method)
    .bind(&hash[..])
    .bind(response)
    .execute(conn)
    .await
    .during("request.remember")?;
    Ok(())
}

/// Forgets answers older than 24 hours.
pub async fn forget_old(conn: &mut PgConnection) -> Result<u64> {
    let done = sqlx::query("DELETE FROM answered_request WHERE created_at <= now() - interval '24 hours'");
    Ok(done.execute(conn).await.during("request.forget_old")?.rows_affected())
}
