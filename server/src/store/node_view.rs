//! Nodes as they are shown.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use prost::Message;
use sockpilot_policy::model::Labels;
use sockpilot_proto::v1;
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
    holder::CONFLICT_S,
    recording::{self, Recording},
    status::state,
};
use crate::fleet::node::LayerState;

/// A node with its layers.
#[derive(Debug)]
pub struct NodeView {
    pub row: NodeRow,
    pub kernel: v1::KernelFacts,
    pub layers: Vec<LayerOfNode>,
    /// What it records on request.
    pub recording: Option<Recording>,
}

/// A layer that a node has or is to have; revision 0: none.
#[derive(Debug)]
pub struct LayerOfNode {
    pub layer: String,
    pub assigned_revision: u64,
    pub confirmed_revision: u64,
    pub state: LayerState,
    pub effective: Vec<v1::EffectiveValue>,
    pub confirmed_at: Option<DateTime<Utc>>,
}

/// The row of a node, and what views and reports say of it.
#[derive(Debug, sqlx::FromRow)]
pub struct NodeRow {
    pub node_id: String,
    #[sqlx(json)]
    pub labels: Labels,
    pub share_position: i32,
    pub daemon_version: String,
    pub kernel: Vec<u8>,
    pub connected: bool,
    pub heard_at: DateTime<Utc>,
    pub in_force_epoch: Option<Uuid>,
    pub in_force_generation: Option<i64>,
    pub in_force_hash: Option<Vec<u8>>,
    pub records_total: i64,
    pub records_dropped: i64,
    pub address: String,
    pub conflict_address: Option<String>,
    pub conflict_since: Option<DateTime<Utc>>,
    pub conflict_at: Option<DateTime<Utc>>,
    pub conflict: bool,
    pub clock_offset_ms: Option<i64>,
    pub not_written: String,
    pub not_written_reason: String,
    pub not_written_since: Option<DateTime<Utc>>,
}

/// Nodes with all of these labels, by id, after an id.
pub async fn list(conn: &mut PgConnection, labels: &Labels, after: &str, limit: i64) -> Result<Vec<NodeView>> {
    // The newest head by its number, not by its time: a node begins another because a clock went back, often the database's own.
    let rows: Vec<NodeRow> = sqlx::query_as(
        "SELECT node.*, connected, heard_at, coalesce(records_total, 0) AS records_total,
                coalesce(records_dropped, 0) AS records_dropped,
                coalesce(conflict_at > now() - make_interval(secs => $4), false) AS conflict
         FROM node JOIN node_presence USING (node_id)
         LEFT JOIN LATERAL (
             SELECT records_total, records_dropped FROM flow_report_head
             WHERE flow_report_head.node_id = node.node_id ORDER BY source_id DESC LIMIT 1
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
    let mut recordings = recording::of_nodes(&mut *conn, &ids).await?;
    let mut layers = layers(conn, &ids).await?;
    rows.into_iter()
        .map(|row| {
            let kernel = v1::KernelFacts::decode(row.kernel.as_slice())
                .map_err(|error| Error::corrupt(format!("kernel facts of nodes/{}", row.node_id), error))?;
            let layers = layers.remove(&row.node_id).unwrap_or_default();
            let recording = recordings.remove(&row.node_id);
            Ok(NodeView { kernel, row, layers, recording })
        })
        .collect()
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

async fn layers(conn: &mut PgConnection, ids: &[String]) -> Result<HashMap<String, Vec<LayerOfNode>>> {
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
        layers.entry(row.node_id).or_default().push(LayerOfNode {
            layer: row.layer,
            assigned_revision: row.assigned_revision.cast_unsigned(),
            confirmed_revision: row.confirmed_revision.cast_unsigned(),
            state: state(&row.state)?,
            effective: ack.effective,
            confirmed_at: row.confirmed_at,
        });
    }
    Ok(layers)
}
