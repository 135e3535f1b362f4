//! Rows of flow cells, written: those that are not there yet, and those that may be.

use std::sync::Arc;

use super::{
    choice,
    connection::PgConnection,
    error::{Operation, Result},
};
use crate::outcome::report::StoredCell;

/// A cell, and where it comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed<'a> {
    pub source_id: i32,
    /// Of the report that it came with.
    pub sequence: i64,
    pub cell: &'a StoredCell,
}

/// What is being done by [`add`].
pub(super) const ADD: &str = "cell.add";

macro_rules! insert {
    ($conflict:literal) => {
        concat!(
            "INSERT INTO flow_cell
                 (sequence, source_id, interval_start_s, interval_length_s, choice_id, direction, size_class, value)
             SELECT * FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::integer[], $5::integer[], $6::smallint[],
                 $7::smallint[], $8::bytea[]) ",
            $conflict
        )
    };
}

/// Stores cells of which none is there. It takes half the time of [`upsert`], which looks for each of them and writes in two steps.
///
/// # Errors
/// If one is there, or the database fails.
pub(super) async fn add(conn: &mut PgConnection, cells: &[Placed<'_>]) -> Result<()> {
    write(conn, cells, insert!(""), ADD).await
}

/// Stores cells, each unless a later report has stored it.
pub(super) async fn upsert(conn: &mut PgConnection, cells: &[Placed<'_>]) -> Result<()> {
    let statement = insert!(
        "ON CONFLICT ON CONSTRAINT flow_cell_pkey DO UPDATE SET sequence = excluded.sequence, value = excluded.value
             WHERE excluded.sequence > flow_cell.sequence"
    );
    write(conn, cells, statement, "cell.upsert").await
}

async fn write(
    conn: &mut PgConnection,
    cells: &[Placed<'_>],
    statement: &'static str,
    operation: &'static str,
) -> Result<()> {
    if cells.is_empty() {
        return Ok(());
    }
    let choices: Vec<_> = cells.iter().map(|placed| Arc::clone(&placed.cell.key.choice)).collect();
    let ids = choice::ids(&mut *conn, &choices).await?;
    let (mut sequences, mut sources, mut starts, mut lengths) = (vec![], vec![], vec![], vec![]);
    let (mut choice_ids, mut directions, mut size_classes, mut values) = (vec![], vec![], vec![], vec![]);
    for Placed { source_id, sequence, cell } in cells {
        sequences.push(*sequence);
        sources.push(*source_id);
        starts.push(cell.start_s());
        lengths.push(cell.key.interval.length_s.cast_signed());
        choice_ids.push(ids.get(&cell.key.choice).copied());
        directions.push(cell.direction());
        size_classes.push(cell.size_class());
        values.push(cell.value.as_slice());
    }
    let query = sqlx::query(statement).bind(sequences).bind(sources).bind(starts).bind(lengths);
    let query = query.bind(choice_ids).bind(directions).bind(size_classes).bind(values);
    query.execute(conn).await.during(operation).map(drop)
}
