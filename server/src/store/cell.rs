//! Rows of flow cells, written: those that are not there yet, and those that may be.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use sockpilot_outcomes::Choice;

use super::{
    choice,
    connection::PgConnection,
    error::{Operation, Result},
    partition, rollup,
};
use crate::outcome::{Level, report::StoredCell};

/// A cell, and where it comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed<'a> {
    pub source_id: i32,
    /// Of the report that it came with.
    pub sequence: i64,
    pub cell: &'a StoredCell,
}

/// What is being done while new ones are stored.
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

/// Stores cells, each unless a later report has stored it, and has their minutes rolled up again. What `is_new` is taken not to be there: that takes half the time, because others are
/// looked for, and written in two steps.
///
/// # Errors
/// [`super::Error::is_stored_already`] if one that is new is there; if the database fails.
pub(super) async fn write(
    conn: &mut PgConnection,
    cells: &[Placed<'_>],
    is_new: impl Fn(&StoredCell) -> bool,
) -> Result<()> {
    if cells.is_empty() {
        return Ok(());
    }
    let minutes: BTreeSet<i64> = cells.iter().map(|placed| Level::Minute.start_of(placed.cell.start_s())).collect();
    partition::ensure(&mut *conn, minutes.iter().copied()).await?;
    let choices: Vec<_> = cells.iter().map(|placed| Arc::clone(&placed.cell.key.choice)).collect();
    let ids = choice::ids(&mut *conn, &choices).await?;
    let (new, others): (Vec<_>, Vec<_>) = cells.iter().partition(|placed| is_new(placed.cell));
    insert(&mut *conn, &new, &ids, insert!(""), ADD).await?;
    let upsert = insert!(
        "ON CONFLICT ON CONSTRAINT flow_cell_pkey DO UPDATE SET sequence = excluded.sequence, value = excluded.value
             WHERE excluded.sequence > flow_cell.sequence"
    );
    insert(&mut *conn, &others, &ids, upsert, "cell.upsert").await?;
    rollup::mark_stale(conn, Level::Minute, &minutes.into_iter().collect::<Vec<_>>()).await
}

async fn insert(
    conn: &mut PgConnection,
    cells: &[&Placed<'_>],
    ids: &HashMap<Arc<Choice>, i32>,
    statement: &'static str,
    operation: &'static str,
) -> Result<()> {
    if cells.is_empty() {
        return Ok(());
    }
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
