//! Nodes, as they say of themselves.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use prost::Message;
use sockpilot_policy::model::Labels;
use sockpilot_proto::v1;
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    confirmation::{self, Stream},
    connection::PgConnection,
    control,
    error::{Error, Operation, Result},
    holder::{self, CONFLICT_S, Holder},
    layer::timestamp,
    status::state,
};
use crate::reach::Seen;

/// What a node is enforcing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// The database's.
    pub epoch: Uuid,
    /// The generation.
    pub generation: u64,
    /// SHA-256 of the layers.
    pub hash: [u8; 32],
}

/// A node that says hello.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// Its id.
    pub node_id: String,
    /// Where it stands among the shares.
    pub share_position: u32,
    /// Its labels.
    pub labels: Labels,
    /// Of its daemon.
    pub daemon_version: String,
    /// Of its kernel.
    pub kernel: v1::KernelFacts,
    /// What it enforces.
    pub in_force: Option<Version>,
    /// What of that it does not.
    pub held_back: Vec<v1::HeldBack>,
    /// The stream that it is connected by from now on.
    pub stream_id: Uuid,
    /// Tells its daemon from all others; `None`: it does not say.
    pub instance: Option<String>,
    /// Where the stream comes from.
    pub address: String,
    /// What it says of itself.
    pub sign: Sign,
}

/// What a node says of itself every few seconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sign {
    /// How far its clock is ahead of the database's; negative: behind. `None`: it does not say.
    pub clock_offset_ms: Option<i64>,
    /// What it could not write to its disk.
    pub not_written: Option<NotWritten>,
}

/// What a node could not write to its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotWritten {
    /// In words of a-z.
    pub what: Vec<String>,
    /// The reason that was given.
    pub reason: String,
    /// For how long it has been so.
    pub for_ms: i64,
}

/// Signs by column: offsets, and of what is not written the words, the reason and for how long.
type SignColumns = (Vec<Option<i64>>, Vec<Option<String>>, Vec<String>, Vec<i64>);

#[must_use]
pub(super) fn columns(signs: &[Option<Sign>]) -> SignColumns {
    let (mut offsets, mut whats, mut reasons, mut for_ms) = (vec![], vec![], vec![], vec![]);
    for sign in signs {
        let not_written = sign.as_ref().and_then(|sign| sign.not_written.clone());
        let NotWritten { what, reason, for_ms: since } =
            not_written.unwrap_or(NotWritten { what: vec![], reason: String::new(), for_ms: 0 });
        offsets.push(sign.as_ref().and_then(|sign| sign.clock_offset_ms));
        whats.push(sign.is_some().then(|| what.join(" ")));
        reasons.push(reason);
        for_ms.push(since);
    }
    (offsets, whats, reasons, for_ms)
}

/// What a server must know of a node that said hello.
#[derive(Debug, Clone, PartialEq)]
pub struct Registered {
    /// The database's.
    pub epoch: Uuid,
    /// The node must not be served from an older state of the fleet than this.
    pub generation: u64,
    /// Hashes of contents it refused with this kernel and daemon, and why.
    pub refused: Vec<([u8; 32], Vec<v1::RuleViolation>)>,
}

/// What becomes of a daemon that says hello.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// It is the node.
    Registered(Registered),
    /// Another one is.
    Held(Holder),
}

/// Notes that a node has connected. Other labels make a new generation, as they may change what it must enforce. Another
/// kernel or daemon gets another chance with what was refused. A daemon whose id another one holds is only noted as that.
///
/// # Errors
/// If the database fails.
pub async fn register(conn: &mut PgConnection, node: &Registration) -> Result<Admission> {
    if let Some(holder) = holder::other_than(&mut *conn, node).await? {
        holder::note_conflict(conn, node).await?;
        return Ok(Admission::Held(holder));
    }
    holder::end_conflict(&mut *conn, node).await?;
    let before: Option<(Json<Labels>, Vec<u8>, String)> =
        sqlx::query_as("SELECT labels, kernel, daemon_version FROM node WHERE node_id = $1")
            .bind(&node.node_id)
            .fetch_optional(&mut *conn)
            .await
            .during("node.register")?;
    let kernel = node.kernel.encode_to_vec();
    if before.as_ref().is_some_and(|(labels, ..)| labels.0 != node.labels) {
        control::lock(&mut *conn).await?;
        control::bump(&mut *conn).await?;
    }
    upsert(&mut *conn, node, &kernel).await?;
    let stream = Stream { node_id: node.node_id.clone(), stream_id: node.stream_id };
    confirmation::seen(&mut *conn, &[(stream, Some(node.sign.clone()))]).await?;
    if before.is_some_and(|(_, facts, daemon)| other_kernel(&facts, &node.kernel) || daemon != node.daemon_version) {
        sqlx::query("DELETE FROM node_refusal WHERE node_id = $1")
            .bind(&node.node_id)
            .execute(&mut *conn)
            .await
            .during("node.register")?;
    }
    let refused = refused(&mut *conn, &node.node_id).await?;
    let control = control::get(conn).await?;
    let generation = control.generation.cast_unsigned();
    Ok(Admission::Registered(Registered { epoch: control.database_epoch, generation, refused }))
}

/// Not by its bytes: a map has no order on the wire.
fn other_kernel(stored: &[u8], now: &v1::KernelFacts) -> bool {
    v1::KernelFacts::decode(stored).ok().as_ref() != Some(now)
}

async fn refused(conn: &mut PgConnection, node_id: &str) -> Result<Vec<([u8; 32], Vec<v1::RuleViolation>)>> {
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

async fn upsert(conn: &mut PgConnection, node: &Registration, kernel: &[u8]) -> Result<()> {
    let Registration {
        node_id,
        share_position,
        labels,
        daemon_version,
        kernel: _,
        in_force,
        held_back: _,
        stream_id,
        instance,
        address,
        sign: _,
    } = node;
    sqlx::query(
        "INSERT INTO node (node_id, labels, share_position, daemon_version, kernel, stream_id,
             in_force_epoch, in_force_generation, in_force_hash, instance, address)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (node_id) DO UPDATE SET labels = excluded.labels, share_position = excluded.share_position,
             daemon_version = excluded.daemon_version, kernel = excluded.kernel, stream_id = excluded.stream_id,
             last_seen_at = now(), in_force_epoch = excluded.in_force_epoch,
             in_force_generation = excluded.in_force_generation, in_force_hash = excluded.in_force_hash,
             instance = excluded.instance, address = excluded.address",
    )
    .bind(node_id)
    .bind(Json(labels))
    .bind(share_position.cast_signed())
    .bind(daemon_version)
    .bind(kernel)
    .bind(stream_id)
    .bind(in_force.map(|version| version.epoch))
    .bind(in_force.map(|version| version.generation.cast_signed()))
    .bind(in_force.map(|version| version.hash.to_vec()))
    .bind(instance)
    .bind(address)
    .execute(conn)
    .await
    .during("node.register")?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Row {
    node_id: String,
    labels: Json<Labels>,
    share_position: i32,
    daemon_version: String,
    kernel: Vec<u8>,
    connected: bool,
    last_seen_at: DateTime<Utc>,
    in_force_epoch: Option<Uuid>,
    in_force_generation: Option<i64>,
    in_force_hash: Option<Vec<u8>>,
    records_total: i64,
    records_dropped: i64,
    address: String,
    conflict_address: Option<String>,
    conflict_since: Option<DateTime<Utc>>,
    conflict_at: Option<DateTime<Utc>>,
    conflict: bool,
    clock_offset_ms: Option<i64>,
    not_written: String,
    not_written_reason: String,
    not_written_since: Option<DateTime<Utc>>,
}

/// Nodes with all of these labels, by id, after an id.
///
/// # Errors
/// If the database fails.
pub async fn list(conn: &mut PgConnection, labels: &Labels, after: &str, limit: i64) -> Result<Vec<v1::Node>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT node.*, connected, coalesce(records_total, 0) AS records_total,
                coalesce(records_dropped, 0) AS records_dropped,
                coalesce(conflict_at > now() - make_interval(secs => $4), false) AS conflict
         FROM node JOIN node_presence USING (node_id)
         LEFT JOIN LATERAL (
             SELECT records_total, records_dropped FROM flow_report_head
             WHERE flow_report_head.node_id = node.node_id ORDER BY first_at DESC LIMIT 1
         ) AS head ON true
         WHERE labels @> $1 AND node_id > $2 ORDER BY node_id LIMIT $3",
    )
    .bind(Json(labels))
    .bind(after)
    .bind(limit)
    .bind(CONFLICT_S)
    .fetch_all(&mut *conn)
    .await
    .during("node.list")?;
    let ids: Vec<_> = rows.iter().map(|row| row.node_id.clone()).collect();
    let mut layers = layers(conn, &ids).await?;
    rows.into_iter()
        .map(|row| {
            let layers = layers.remove(&row.node_id).unwrap_or_default();
            row.into_proto(layers)
        })
        .collect()
}

impl Row {
    fn into_proto(self, layers: Vec<v1::NodeLayer>) -> Result<v1::Node> {
        let kernel = v1::KernelFacts::decode(self.kernel.as_slice())
            .map_err(|error| Error::corrupt(format!("kernel facts of nodes/{}", self.node_id), error))?;
        let in_force = match (self.in_force_epoch, self.in_force_generation, self.in_force_hash) {
            (Some(epoch), Some(generation), Some(hash)) => Some(v1::SnapshotVersion {
                database_epoch: epoch.to_string(),
                generation: generation.cast_unsigned(),
                content_hash: hash.into(),
            }),
            _ => None,
        };
        let conflict = self.conflict_address.filter(|_| self.conflict).map(|address| v1::NodeConflict {
            address,
            first_time: self.conflict_since.map(timestamp),
            last_time: self.conflict_at.map(timestamp),
        });
        let state_not_written = (!self.not_written.is_empty()).then(|| v1::StateNotWritten {
            what: self.not_written.split(' ').map(str::to_owned).collect(),
            reason: self.not_written_reason,
            since_time: self.not_written_since.map(timestamp),
        });
        Ok(v1::Node {
            name: format!("nodes/{}", self.node_id),
            labels: self.labels.0.into_iter().collect(),
            connected: self.connected,
            last_seen_time: Some(timestamp(self.last_seen_at)),
            daemon_version: self.daemon_version,
            kernel: Some(kernel),
            share_position: self.share_position.cast_unsigned(),
            in_force,
            layers,
            records_total: self.records_total.cast_unsigned(),
            records_dropped: self.records_dropped.cast_unsigned(),
            address: self.address,
            conflict,
            clock_offset_ms: self.clock_offset_ms,
            state_not_written,
        })
    }
}

#[derive(sqlx::FromRow)]
struct LayerRow {
    node_id: String,
    layer: String,
    assigned_revision: i64,
    confirmed_revision: i64,
    state: String,
    effective: Option<Vec<u8>>,
    confirmed_at: Option<DateTime<Utc>>,
}

async fn layers(conn: &mut PgConnection, ids: &[String]) -> Result<HashMap<String, Vec<v1::NodeLayer>>> {
    let rows: Vec<LayerRow> = sqlx::query_as(
        "SELECT node_id, layer, assigned_revision, confirmed_revision, state, effective, confirmed_at
         FROM node_layer_state WHERE node_id = ANY($1) ORDER BY node_id, layer",
    )
    .bind(ids)
    .fetch_all(conn)
    .await
    .during("node.layers")?;
    let mut layers: HashMap<String, Vec<_>> = HashMap::new();
    for row in rows {
        let ack = v1::Ack::decode(row.effective.unwrap_or_default().as_slice())
            .map_err(|error| Error::corrupt(format!("effective values of nodes/{}", row.node_id), error))?;
        layers.entry(row.node_id).or_default().push(v1::NodeLayer {
            layer: row.layer,
            assigned_revision: row.assigned_revision.cast_unsigned(),
            confirmed_revision: row.confirmed_revision.cast_unsigned(),
            state: state(&row.state)?.into(),
            effective: ack.effective,
            confirm_time: row.confirmed_at.map(timestamp),
        });
    }
    Ok(layers)
}

/// A node as far as it decides what it must enforce, and what becomes of it there.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Its labels.
    pub labels: Labels,
    /// Where it stands among the shares.
    pub share_position: u32,
    /// Its kernel, when it last connected.
    pub kernel: v1::KernelFacts,
}

/// Reads a node.
///
/// # Errors
/// If there is none of this id, or the database fails.
pub async fn get(conn: &mut PgConnection, node_id: &str) -> Result<Known> {
    let row: Option<(Json<Labels>, i32, Vec<u8>)> =
        sqlx::query_as("SELECT labels, share_position, kernel FROM node WHERE node_id = $1")
            .bind(node_id)
            .fetch_optional(conn)
            .await
            .during("node.get")?;
    let missing = || Error::NotFound { name: format!("nodes/{node_id}") };
    let (labels, share_position, kernel) = row.ok_or_else(missing)?;
    let kernel = v1::KernelFacts::decode(kernel.as_slice())
        .map_err(|error| Error::corrupt(format!("kernel facts of nodes/{node_id}"), error))?;
    Ok(Known { labels: labels.0, share_position: share_position.cast_unsigned(), kernel })
}

/// All nodes that were ever heard of, as far as decisions are for them.
///
/// # Errors
/// If the database fails.
pub async fn seen(conn: &mut PgConnection) -> Result<Vec<Seen>> {
    let rows: Vec<(String, Json<Labels>, i32, bool)> = sqlx::query_as(
        "SELECT node_id, labels, share_position, connected FROM node JOIN node_presence USING (node_id)",
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
///
/// # Errors
/// If the database fails.
pub async fn exists(conn: &mut PgConnection, node_id: &str) -> Result<bool> {
    let found: Option<(i32,)> = sqlx::query_as("SELECT 1 FROM node WHERE node_id = $1")
        .bind(node_id)
        .fetch_optional(conn)
        .await
        .during("node.exists")?;
    Ok(found.is_some())
}
