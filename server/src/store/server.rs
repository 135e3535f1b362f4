//! The replicas that share the database.

use chrono::{DateTime, Utc};
use prost::Message;
use sockpilot_proto::v1;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};

/// Says that a server is there, and forgets those that have said nothing for ten minutes.
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
    forget(conn, "seen_at < clock_timestamp() - interval '10 minutes' AND server_id <> $1", server_id).await
}

/// Says that a server still holds its nodes.
pub async fn renew(conn: &mut PgConnection, server_id: Uuid) -> Result<()> {
    let query = sqlx::query("UPDATE server SET seen_at = clock_timestamp() WHERE server_id = $1").bind(server_id);
    query.execute(conn).await.during("server.renew").map(drop)
}

/// Forgets a server that ends.
pub async fn retire(conn: &mut PgConnection, server_id: Uuid) -> Result<()> {
    forget(conn, "server_id = $1", server_id).await
}

/// Forgets servers. Nodes that they hold, because they could not say more, were heard of when their server was.
async fn forget(conn: &mut PgConnection, which: &'static str, server_id: Uuid) -> Result<()> {
    let statement = format!(
        "WITH forgotten AS (DELETE FROM server WHERE {which} RETURNING server_id, seen_at)
         UPDATE node SET stream_id = NULL, server_id = NULL, server_stream_id = NULL,
             last_seen_at = greatest(last_seen_at, seen_at)
         FROM forgotten WHERE forgotten.server_id = node.server_id AND server_stream_id = stream_id"
    );
    sqlx::query(AssertSqlSafe(statement)).bind(server_id).execute(conn).await.during("server.forget")?;
    Ok(())
}

/// A server that says that it is there.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerRow {
    pub server_id: Uuid,
    /// As it said itself.
    pub announcement: v1::Server,
    pub started_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    /// Whether it has the lease.
    pub leads: bool,
}

/// Servers by id, after an id.
pub async fn list(conn: &mut PgConnection, after: Option<Uuid>, limit: i64) -> Result<Vec<ServerRow>> {
    type Row = (Uuid, Vec<u8>, DateTime<Utc>, DateTime<Utc>, bool);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT server_id, announcement, started_at, seen_at, coalesce(until > clock_timestamp(), false) AS leads
         FROM server LEFT JOIN leader USING (server_id)
         WHERE $1::uuid IS NULL OR server_id > $1 ORDER BY server_id LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("server.list")?;
    rows.into_iter()
        .map(|(server_id, announcement, started_at, seen_at, leads)| {
            let announcement = v1::Server::decode(announcement.as_slice())
                .map_err(|error| Error::corrupt(format!("the announcement of servers/{server_id}"), error))?;
            Ok(ServerRow { server_id, announcement, started_at, seen_at, leads })
        })
        .collect()
}
