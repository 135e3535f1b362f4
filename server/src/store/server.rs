//! The replicas that share the database.

use super::connection::PgConnection;
use chrono::{DateTime, Utc};
use prost::Message;
use sockpilot_proto::v1;
use uuid::Uuid;

use super::{
    error::{Error, Operation, Result},
    layer::timestamp,
};

/// Says that a server is there, and forgets those that have said nothing for ten minutes.
///
/// # Errors
/// If the database fails.
pub async fn announce(conn: &mut PgConnection, server_id: Uuid, announcement: &v1::Server) -> Result<()> {
    sqlx::query(
        "INSERT INTO server (server_id, announcement) VALUES ($1, $2)
         ON CONFLICT (server_id) DO UPDATE SET announcement = excluded.announcement, seen_at = clock_timestamp()",
    )
    .bind(server_id)
    .bind(announcement.encode_to_vec())
    .execute(&mut *conn)
    .await
    .during("server.announce")?;
    let silent = sqlx::query("DELETE FROM server WHERE seen_at < clock_timestamp() - interval '10 minutes'");
    silent.execute(conn).await.during("server.forget")?;
    Ok(())
}

/// Forgets a server that ends.
///
/// # Errors
/// If the database fails.
pub async fn retire(conn: &mut PgConnection, server_id: Uuid) -> Result<()> {
    let query = sqlx::query("DELETE FROM server WHERE server_id = $1").bind(server_id);
    query.execute(conn).await.during("server.retire")?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Row {
    server_id: Uuid,
    announcement: Vec<u8>,
    started_at: DateTime<Utc>,
    seen_at: DateTime<Utc>,
    leads: bool,
}

/// Servers by id, after an id.
///
/// # Errors
/// If the database fails.
pub async fn list(conn: &mut PgConnection, after: Option<Uuid>, limit: i64) -> Result<Vec<v1::Server>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT server.*, coalesce(until > clock_timestamp(), false) AS leads
         FROM server LEFT JOIN leader USING (server_id)
         WHERE $1::uuid IS NULL OR server_id > $1 ORDER BY server_id LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("server.list")?;
    rows.into_iter()
        .map(|Row { server_id, announcement, started_at, seen_at, leads }| {
            let name = format!("servers/{server_id}");
            let said = v1::Server::decode(announcement.as_slice())
                .map_err(|error| Error::corrupt(format!("the announcement of {name}"), error))?;
            let (start_time, last_contact_time) = (Some(timestamp(started_at)), Some(timestamp(seen_at)));
            Ok(v1::Server { name, start_time, last_contact_time, leader: leads, ..said })
        })
        .collect()
}
