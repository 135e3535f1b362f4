//! The nodes of a canary, by wave.

use sockpilot_policy::model::LayerName;

use super::{
    connection::PgConnection,
    error::{Operation, Result},
    status::state,
};
use crate::fleet::node::LayerState;

/// A node of a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub node_id: String,
    /// From 1.
    pub wave: u32,
    /// What it has.
    pub revision: u64,
    pub state: LayerState,
}

/// The members after a place in the list, of one wave or (0) of all.
pub async fn list(
    conn: &mut PgConnection,
    name: &LayerName,
    wave: u32,
    (after_wave, after_node): (u32, String),
    limit: i64,
) -> Result<Vec<Member>> {
    let rows: Vec<(i16, String, i64, String)> = sqlx::query_as(
        "SELECT wave, node_id, revision, state FROM node_assignment JOIN node_layer_state USING (node_id, layer)
         WHERE layer = $1 AND wave IS NOT NULL AND ($2 = 0 OR wave = $2) AND (wave, node_id) > ($3, $4)
         ORDER BY wave, node_id LIMIT $5",
    )
    .bind(name.to_string())
    .bind(wave.cast_signed())
    .bind(after_wave.cast_signed())
    .bind(after_node)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("member.list")?;
    let member = |(wave, node_id, revision, word): (i16, String, i64, String)| {
        let (wave, revision) = (u32::from(wave.cast_unsigned()), revision.cast_unsigned());
        Ok(Member { node_id, wave, revision, state: state(&word)? })
    };
    rows.into_iter().map(member).collect()
}
