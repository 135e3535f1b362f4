//! Nodes, as they say of themselves.

use prost::Message;
use sockpilot_policy::model::Labels;
use sockpilot_proto::v1;
use sqlx::types::Json;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};
use crate::{
    change::reach::Seen,
    clock::OFFSET_MS_MAX,
    fleet::node::{KnownNode, NotWritten, Registration, Sign},
};

/// Signs by column.
#[derive(Debug, Default)]
pub(super) struct SignColumns {
    pub offsets_ms: Vec<Option<i64>>,
    /// Of what is not written the words, the reason and for how long.
    pub whats: Vec<String>,
    pub reasons: Vec<String>,
    pub for_ms: Vec<i64>,
    /// Of open connections, what was found and how long ago.
    pub open: Vec<Option<Vec<u8>>>,
    pub looked_before_ms: Vec<i64>,
}

#[must_use]
pub(super) fn columns(signs: &[Sign]) -> SignColumns {
    let mut columns = SignColumns::default();
    for sign in signs {
        let NotWritten { what, reason, for_ms: since } =
            sign.not_written.clone().unwrap_or(NotWritten { what: vec![], reason: String::new(), for_ms: 0 });
        columns.offsets_ms.push(sign.clock_offset_ms);
        columns.whats.push(what.join(" "));
        columns.reasons.push(reason);
        columns.for_ms.push(since);
        columns.open.push(sign.open.as_ref().map(Message::encode_to_vec));
        let before_ms = sign.open.as_ref().map_or(0, |open| i64::try_from(open.looked_before_ms).unwrap_or(i64::MAX));
        columns.looked_before_ms.push(before_ms);
    }
    columns
}

/// What a node said of itself with its last hello.
#[derive(Debug, Clone, PartialEq)]
pub struct SaidBefore {
    pub labels: Labels,
    /// `None`: it cannot be read any more.
    pub kernel: Option<v1::KernelFacts>,
    pub daemon_version: String,
}

/// What a node said of itself with its last hello, if there was one.
pub async fn said_before(conn: &mut PgConnection, node_id: &str) -> Result<Option<SaidBefore>> {
    let row: Option<(Json<Labels>, Vec<u8>, String)> =
        sqlx::query_as("SELECT labels, kernel, daemon_version FROM node WHERE node_id = $1")
            .bind(node_id)
            .fetch_optional(conn)
            .await
            .during("node.said_before")?;
    Ok(row.map(|(Json(labels), kernel, daemon_version)| {
        let kernel = v1::KernelFacts::decode(kernel.as_slice()).ok();
        SaidBefore { labels, kernel, daemon_version }
    }))
}

/// Whether a node's clock was further off than is told of, when it last said what time it has.
pub async fn is_clock_off(conn: &mut PgConnection, node_id: &str) -> Result<bool> {
    let off = sqlx::query_scalar("SELECT EXISTS (SELECT FROM node WHERE node_id = $1 AND abs(clock_offset_ms) > $2)");
    let off = off.bind(node_id).bind(OFFSET_MS_MAX.cast_signed());
    off.fetch_one(conn).await.during("node.is_clock_off")
}

/// How many nodes there are whose clock was.
pub async fn clocks_off(conn: &mut PgConnection) -> Result<i64> {
    let off = sqlx::query_scalar("SELECT count(*) FROM node WHERE abs(clock_offset_ms) > $1");
    off.bind(OFFSET_MS_MAX.cast_signed()).fetch_one(conn).await.during("node.clocks_off")
}

/// Deletes what a node has refused.
pub async fn forget_refusals(conn: &mut PgConnection, node_id: &str) -> Result<()> {
    let query = sqlx::query("DELETE FROM node_refusal WHERE node_id = $1").bind(node_id);
    query.execute(conn).await.during("node.forget_refusals").map(drop)
}

/// Contents that a node has refused, by their hashes, and why.
pub async fn refused(conn: &mut PgConnection, node_id: &str) -> Result<Vec<([u8; 32], Vec<v1::RuleViolation>)>> {
    let rows: Vec<(Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT content_hash, violations FROM node_refusal WHERE node_id = $1")
            .bind(node_id)
            .fetch_all(conn)
            .await
            .during("node.refused")?;
    rows.into_iter()
        .map(|(hash, violations)| {
            let what = || format!("refusal by nodes/{node_id}");
            let hash = <[u8; 32]>::try_from(hash).map_err(|_| Error::corrupt(what(), "its hash is too short"))?;
            let nack = v1::Nack::decode(violations.as_slice()).map_err(|error| Error::corrupt(what(), error))?;
            Ok((hash, nack.violations))
        })
        .collect()
}

/// Stores what a node says of itself with a hello.
pub async fn upsert(conn: &mut PgConnection, node: &Registration) -> Result<()> {
    let Registration {
        node_id,
        share_position,
        labels,
        daemon_version,
        kernel,
        in_force,
        held_back: _,
        server_id,
        stream_id,
        instance,
        address,
        sign: _,
    } = node;
    sqlx::query(
        "INSERT INTO node (node_id, labels, share_position, daemon_version, kernel, stream_id,
             in_force_epoch, in_force_generation, in_force_hash, instance, address, server_id, server_stream_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $6)
         ON CONFLICT (node_id) DO UPDATE SET labels = excluded.labels, share_position = excluded.share_position,
             daemon_version = excluded.daemon_version, kernel = excluded.kernel, stream_id = excluded.stream_id,
             last_seen_at = now(), in_force_epoch = excluded.in_force_epoch,
             in_force_generation = excluded.in_force_generation, in_force_hash = excluded.in_force_hash,
             instance = excluded.instance, address = excluded.address,
             server_id = excluded.server_id, server_stream_id = excluded.server_stream_id",
    )
    .bind(node_id)
    .bind(Json(labels))
    .bind(share_position.cast_signed())
    .bind(daemon_version)
    .bind(kernel.encode_to_vec())
    .bind(stream_id)
    .bind(in_force.map(|version| version.epoch))
    .bind(in_force.map(|version| version.generation.cast_signed()))
    .bind(in_force.map(|version| version.hash.to_vec()))
    .bind(instance)
    .bind(address)
    .bind(server_id)
    .execute(conn)
    .await
    .during("node.register")?;
    Ok(())
}

/// Reads a node.
///
/// # Errors
/// If there is none of this id, or the database fails.
pub async fn get(conn: &mut PgConnection, node_id: &str) -> Result<KnownNode> {
    let row: Option<(Json<Labels>, i32, Vec<u8>)> =
        sqlx::query_as("SELECT labels, share_position, kernel FROM node WHERE node_id = $1")
            .bind(node_id)
            .fetch_optional(conn)
            .await
            .during("node.get")?;
    let missing = || Error::NotFound { name: format!("nodes/{node_id}") };
    known(node_id, row.ok_or_else(missing)?)
}

/// All nodes that there are, with what their kernels can do, by id.
pub async fn all(conn: &mut PgConnection) -> Result<Vec<(String, KnownNode)>> {
    let rows: Vec<(String, Json<Labels>, i32, Vec<u8>)> =
        sqlx::query_as("SELECT node_id, labels, share_position, kernel FROM node ORDER BY node_id")
            .fetch_all(conn)
            .await
            .during("node.all")?;
    rows.into_iter()
        .map(|(id, labels, position, kernel)| Ok((id.clone(), known(&id, (labels, position, kernel))?)))
        .collect()
}

fn known(node_id: &str, (labels, share_position, kernel): (Json<Labels>, i32, Vec<u8>)) -> Result<KnownNode> {
    let kernel = v1::KernelFacts::decode(kernel.as_slice())
        .map_err(|error| Error::corrupt(format!("kernel facts of nodes/{node_id}"), error))?;
    Ok(KnownNode { labels: labels.0, share_position: share_position.cast_unsigned(), kernel })
}

/// All nodes that there are, as far as decisions are for them.
pub async fn seen(conn: &mut PgConnection) -> Result<Vec<Seen>> {
    let rows: Vec<(String, Json<Labels>, i32, bool)> = sqlx::query_as(
        "SELECT node_id, labels, share_position, connected FROM node JOIN node_presence USING (node_id) ORDER BY node_id",
    )
    .fetch_all(conn)
    .await
    .during("node.seen")?;
    let seen = |(id, Json(labels), share_position, connected): (String, Json<Labels>, i32, bool)| Seen {
        id,
        labels,
        share_position: share_position.cast_unsigned(),
        connected,
    };
    Ok(rows.into_iter().map(seen).collect())
}

/// Whether there is such a node.
pub async fn exists(conn: &mut PgConnection, node_id: &str) -> Result<bool> {
    let found: Option<(i32,)> = sqlx::query_as("SELECT 1 FROM node WHERE node_id = $1")
        .bind(node_id)
        .fetch_optional(conn)
        .await
        .during("node.exists")?;
    Ok(found.is_some())
}
