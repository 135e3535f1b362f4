//! The waves of canaries.

use std::collections::HashMap;

use sockpilot_policy::model::Labels;
use sqlx::types::Json;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};
use crate::change::wave::Selector;

#[derive(sqlx::FromRow)]
struct Row {
    assignment_id: i64,
    share_bp: Option<i32>,
    labels: Option<Json<Labels>>,
    nodes: Vec<String>,
}

/// The waves of some assignments, by the id of each.
pub(super) async fn read(conn: &mut PgConnection, assignments: &[i64]) -> Result<HashMap<i64, Vec<Selector>>> {
    if assignments.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT assignment_id, share_bp, labels,
                array(SELECT node_id FROM assignment_wave_node AS named
                      WHERE named.assignment_id = assignment_wave.assignment_id AND named.wave = assignment_wave.wave) AS nodes
         FROM assignment_wave WHERE assignment_id = ANY($1) ORDER BY assignment_id, wave",
    )
    .bind(assignments)
    .fetch_all(conn)
    .await
    .during("wave.read")?;
    let mut waves: HashMap<i64, Vec<Selector>> = HashMap::new();
    for Row { assignment_id, share_bp, labels, nodes } in rows {
        let selector = match (share_bp, labels) {
            (Some(share_bp), None) => Selector::Share(share_bp.cast_unsigned()),
            (None, Some(Json(labels))) => Selector::Labels(labels),
            (None, None) => Selector::Nodes(nodes.into_iter().collect()),
            (Some(_), Some(_)) => return Err(Error::corrupt("a wave", "it has a share and labels")),
        };
        waves.entry(assignment_id).or_default().push(selector);
    }
    Ok(waves)
}

/// Stores the waves of an assignment.
pub(super) async fn write(conn: &mut PgConnection, assignment: i64, waves: &[Selector]) -> Result<()> {
    for (selector, wave) in waves.iter().zip(1_i16..) {
        let (share_bp, labels) = match selector {
            Selector::Share(share_bp) => (Some(share_bp.cast_signed()), None),
            Selector::Labels(labels) => (None, Some(Json(labels))),
            Selector::Nodes(_) => (None, None),
        };
        sqlx::query("INSERT INTO assignment_wave (assignment_id, wave, share_bp, labels) VALUES ($1, $2, $3, $4)")
            .bind(assignment)
            .bind(wave)
            .bind(share_bp)
            .bind(labels)
            .execute(&mut *conn)
            .await
            .during("wave.write")?;
        let Selector::Nodes(ids) = selector else { continue };
        sqlx::query(
            "INSERT INTO assignment_wave_node (assignment_id, node_id, wave) SELECT $1, unnest($3::text[]), $2",
        )
        .bind(assignment)
        .bind(wave)
        .bind(ids.iter().cloned().collect::<Vec<_>>())
        .execute(&mut *conn)
        .await
        .during("wave.write")?;
    }
    Ok(())
}
