//! How far the nodes of a rollout are.

use chrono::{DateTime, Utc};
use prost::Message;
use sockpilot_policy::model::LayerName;
use sockpilot_proto::v1;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};

/// Nodes of a wave, by what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, sqlx::FromRow)]
pub struct WaveCount {
    /// From 1.
    pub wave: i16,
    pub nodes: i64,
    pub in_force: i64,
    pub pending: i64,
    pub unavailable: i64,
    pub refused: i64,
    /// Their circuit breaker has ended the canary.
    pub tripped: i64,
}

/// Which rollout is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub name: &'a str,
    pub policy: &'a LayerName,
    pub revision: u64,
    /// Nodes of this wave have the present step only with `step_generation` or a later one in force.
    pub wave: usize,
    pub step_generation: u64,
}

/// The nodes that have been given the revision, by wave; those of everyone as of the present wave.
pub async fn waves(conn: &mut PgConnection, asked: Asked<'_>) -> Result<Vec<WaveCount>> {
    sqlx::query_as(
        "WITH said AS (
             SELECT coalesce(given.wave, $3) AS wave,
                 CASE WHEN state = 'in_force' AND coalesce(given.wave, $3) >= $3
                          AND NOT (in_force_generation >= $4 AND in_force_epoch = database_epoch)
                      THEN 'pending' ELSE state END AS state,
                 EXISTS (SELECT FROM breaker_trip WHERE rollout = $5 AND breaker_trip.node_id = given.node_id) AS tripped
             FROM node_assignment AS given
             JOIN node_layer_state USING (node_id, layer) JOIN node USING (node_id) CROSS JOIN control
             WHERE layer = $1 AND given.revision = $2)
         SELECT wave, count(*) AS nodes, count(*) FILTER (WHERE state = 'in_force') AS in_force,
             count(*) FILTER (WHERE state = 'pending') AS pending,
             count(*) FILTER (WHERE state = 'unavailable') AS unavailable,
             count(*) FILTER (WHERE state = 'rejected') AS refused, count(*) FILTER (WHERE tripped) AS tripped
         FROM said GROUP BY wave ORDER BY wave",
    )
    .bind(asked.policy.to_string())
    .bind(asked.revision.cast_signed())
    .bind(i16::try_from(asked.wave).unwrap_or(i16::MAX))
    .bind(asked.step_generation.cast_signed())
    .bind(asked.name)
    .fetch_all(conn)
    .await
    .during("rollout_nodes.waves")
}

/// Of these nodes, which are connected, and whether they have the present step's generation in force.
pub async fn current(conn: &mut PgConnection, nodes: &[String], step_generation: u64) -> Result<WaveCount> {
    sqlx::query_as(
        "SELECT 0::smallint AS wave, count(*) AS nodes,
             count(*) FILTER (WHERE connected AND has_it) AS in_force,
             count(*) FILTER (WHERE connected AND NOT has_it) AS pending,
             count(*) FILTER (WHERE NOT connected) AS unavailable, 0::bigint AS refused, 0::bigint AS tripped
         FROM (SELECT connected, coalesce(in_force_generation >= $2 AND in_force_epoch = database_epoch, false) AS has_it
               FROM node JOIN node_presence USING (node_id) CROSS JOIN control WHERE node_id = ANY($1)) AS said",
    )
    .bind(nodes)
    .bind(step_generation.cast_signed())
    .fetch_one(conn)
    .await
    .during("rollout_nodes.current")
}

/// A node, an encoded `v1::OpenConnections`, and when it looked.
type OpenRow = (String, Option<Vec<u8>>, Option<DateTime<Utc>>);

/// What the nodes that have been given a revision say of open connections, and when they looked.
pub async fn open(
    conn: &mut PgConnection,
    policy: &LayerName,
    revision: u64,
) -> Result<Vec<Option<(v1::OpenConnections, DateTime<Utc>)>>> {
    let rows: Vec<OpenRow> = sqlx::query_as(
        "SELECT node_id, open_connections, open_looked_at FROM node_assignment JOIN node USING (node_id)
         WHERE layer = $1 AND revision = $2",
    )
    .bind(policy.to_string())
    .bind(revision.cast_signed())
    .fetch_all(conn)
    .await
    .during("rollout_nodes.open")?;
    let read = |(node_id, open, looked_at): OpenRow| {
        let open = open.as_deref().map(v1::OpenConnections::decode).transpose();
        let corrupt = |error| Error::corrupt(format!("open connections of nodes/{node_id}"), error);
        Ok(open.map_err(corrupt)?.zip(looked_at))
    };
    rows.into_iter().map(read).collect()
}

/// Connected nodes that have confirmed a revision which they are not to have any more.
pub async fn behind(conn: &mut PgConnection, policy: &LayerName, revision: u64) -> Result<i64> {
    sqlx::query_scalar(
        "SELECT count(*) FROM node_layer_state JOIN node_presence USING (node_id)
         WHERE layer = $1 AND connected AND confirmed_revision = $2 AND assigned_revision <> $2",
    )
    .bind(policy.to_string())
    .bind(revision.cast_signed())
    .fetch_one(conn)
    .await
    .during("rollout_nodes.behind")
}

/// The nodes that have a policy's canary, and the wave of each.
pub async fn members(conn: &mut PgConnection, policy: &LayerName) -> Result<Vec<(String, i16)>> {
    sqlx::query_as("SELECT node_id, wave FROM node_assignment WHERE layer = $1 AND wave IS NOT NULL")
        .bind(policy.to_string())
        .fetch_all(conn)
        .await
        .during("rollout_nodes.members")
}
