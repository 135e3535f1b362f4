//! Flow cells: cumulative sums that a later report replaces.

use std::{collections::BTreeSet, sync::Arc};

use sockpilot_policy::model::{Comparison, Unit};

use super::{
    choice,
    connection::PgConnection,
    error::{Error, Operation, Result},
    experiment, measured, node, partition, rollup,
};
use crate::{
    outcome::{
        Level,
        report::{Ingested, Report, StoredCell},
    },
    rollout::record::COLLECTION,
};

/// Takes a report in. The same report again changes nothing, and an older one changes only cells that no newer one had.
///
/// # Errors
/// If the report contradicts an earlier one, or the database fails.
pub async fn ingest(conn: &mut PgConnection, report: &Report) -> Result<Ingested> {
    let Head { sequence, source_id, last, kept_from_s } = head(&mut *conn, report).await?;
    let cells: Vec<&StoredCell> = report.cells.iter().filter(|cell| cell.start_s() >= kept_from_s).collect();
    let too_late = (report.cells.len() - cells.len()) as u64;
    let Own { cells, foreign, clock_off } = own(&mut *conn, &report.node_id, cells).await?;
    // The same report again is not counted again.
    if too_late > 0 && last < report.sequence {
        let count = "UPDATE flow_report_head SET cells_too_late = cells_too_late + $2 WHERE source_id = $1";
        let count = sqlx::query(count).bind(source_id).bind(too_late.cast_signed());
        count.execute(&mut *conn).await.during("flow.too_late")?;
    }
    if !cells.is_empty() {
        let minutes: BTreeSet<i64> = cells.iter().map(|cell| Level::Minute.start_of(cell.start_s())).collect();
        partition::ensure(&mut *conn, minutes.iter().copied()).await?;
        let placed = cells.iter().map(|cell| Placed { source_id, sequence: report.sequence, cell }).collect::<Vec<_>>();
        upsert(&mut *conn, &placed).await?;
        rollup::mark_stale(conn, Level::Minute, &minutes.into_iter().collect::<Vec<_>>()).await?;
    }
    Ok(Ingested { sequence, too_late, foreign, clock_off })
}

struct Own<'a> {
    cells: Vec<&'a StoredCell>,
    foreign: u64,
    clock_off: u64,
}

/// Those that fit the epoch that they name, and of slots of time those of a node whose clock is right.
async fn own<'a>(conn: &mut PgConnection, node_id: &str, cells: Vec<&'a StoredCell>) -> Result<Own<'a>> {
    let epoch = |cell: &StoredCell| (cell.key.choice.layer.clone(), cell.key.choice.revision.cast_signed());
    let mut epochs: Vec<_> = cells.iter().filter(|cell| cell.shape.is_some()).map(|cell| epoch(cell)).collect();
    if epochs.is_empty() {
        return Ok(Own { cells, foreign: 0, clock_off: 0 });
    }
    epochs.sort();
    epochs.dedup();
    let (of_rollouts, epochs): (Vec<_>, Vec<_>) =
        epochs.into_iter().partition(|(layer, _)| layer.starts_with(COLLECTION));
    let mut designs = experiment::designs(&mut *conn, &epochs).await?;
    designs.extend(measured::designs(&mut *conn, &of_rollouts).await?);
    let fits = |cell: &&StoredCell| {
        cell.shape.is_none() || designs.get(&epoch(cell)).is_some_and(|design| cell.fits(design, node_id))
    };
    let all = cells.len();
    let mut cells: Vec<_> = cells.into_iter().filter(fits).collect();
    let foreign = (all - cells.len()) as u64;
    let by_slots = |design: &Comparison| matches!(design.unit, Unit::TimeSlot { .. });
    let fitting = cells.len();
    if designs.values().any(by_slots) && node::is_clock_off(conn, node_id).await? {
        cells.retain(|cell| cell.shape.is_none() || !designs.get(&epoch(cell)).is_some_and(by_slots));
    }
    let clock_off = (fitting - cells.len()) as u64;
    Ok(Own { cells, foreign, clock_off })
}

struct Head {
    sequence: u64,
    source_id: i32,
    /// Before this report.
    last: i64,
    /// Cells that begin earlier were deleted.
    kept_from_s: i64,
}

/// Moves the head of the boot id's reports on, and keeps other reports of it waiting until this one is committed.
async fn head(conn: &mut PgConnection, report: &Report) -> Result<Head> {
    let Report { node_id, boot_id, sequence, records_total, records_dropped, .. } = report;
    let before: Option<(i64, i64, i64, i32, i64)> = sqlx::query_as(
        "SELECT sequence, records_total, records_dropped, source_id, (SELECT cells_from_s FROM outcome_kept)
         FROM flow_report_head WHERE node_id = $1 AND boot_id = $2 FOR UPDATE",
    )
    .bind(node_id)
    .bind(boot_id)
    .fetch_optional(&mut *conn)
    .await
    .during("flow.head")?;
    if let Some((last, total, dropped, source_id, kept_from_s)) = before {
        if *sequence <= last {
            return Ok(Head { sequence: last.cast_unsigned(), source_id, last, kept_from_s });
        }
        for (field, before, after) in
            [("records_total", total, *records_total), ("records_dropped", dropped, *records_dropped)]
        {
            if after < before {
                let (before, after) = (before.cast_unsigned(), after.cast_unsigned());
                return Err(Error::ReportBackwards { field, before, after });
            }
        }
    }
    let (source_id, kept_from_s) = sqlx::query_as(
        "INSERT INTO flow_report_head AS head (node_id, boot_id, sequence, records_total, records_dropped)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (node_id, boot_id) DO UPDATE SET sequence = greatest(head.sequence, excluded.sequence),
             reported_at = now(), records_total = greatest(head.records_total, excluded.records_total),
             records_dropped = greatest(head.records_dropped, excluded.records_dropped)
         RETURNING source_id, (SELECT cells_from_s FROM outcome_kept)",
    )
    .bind(node_id)
    .bind(boot_id)
    .bind(sequence)
    .bind(records_total)
    .bind(records_dropped)
    .fetch_one(conn)
    .await
    .during("flow.head")?;
    let last = before.map_or(0, |(last, ..)| last);
    Ok(Head { sequence: sequence.cast_unsigned(), source_id, last, kept_from_s })
}

/// A cell, and where it comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed<'a> {
    pub source_id: i32,
    /// Of the report that it came with.
    pub sequence: i64,
    pub cell: &'a StoredCell,
}

/// Stores cells, each unless a later report has stored it.
pub(super) async fn upsert(conn: &mut PgConnection, cells: &[Placed<'_>]) -> Result<()> {
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
    sqlx::query(
        "INSERT INTO flow_cell (sequence, source_id, interval_start_s, interval_length_s, choice_id, direction, size_class, value)
         SELECT * FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::integer[], $5::integer[], $6::smallint[],
             $7::smallint[], $8::bytea[])
         ON CONFLICT ON CONSTRAINT flow_cell_pkey DO UPDATE SET sequence = excluded.sequence, value = excluded.value
             WHERE excluded.sequence > flow_cell.sequence",
    )
    .bind(sequences)
    .bind(sources)
    .bind(starts)
    .bind(lengths)
    .bind(choice_ids)
    .bind(directions)
    .bind(size_classes)
    .bind(values)
    .execute(conn)
    .await
    .during("flow.upsert")
    .map(drop)
}
