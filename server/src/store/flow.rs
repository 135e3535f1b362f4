//! Flow cells: cumulative sums that a later report replaces.

use sockpilot_policy::model::{Comparison, Unit};

use super::{
    cell::{self, Placed},
    connection::PgConnection,
    error::{Error, Operation, Result},
    experiment, measured, node,
};
use crate::{
    outcome::report::{Ingested, Report, StoredCell},
    rollout::record::COLLECTION,
};

/// Which cells of a report are taken to be there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// At most those that begin no later than the latest that its source has reported. Looking for others takes as long as writing them.
    ByTime,
    /// Any of them.
    Any,
}

/// Takes a report in. The same report again changes nothing, and an older one changes only cells that no newer one had.
///
/// # Errors
/// If the report contradicts an earlier one, or the database fails; [`Error::is_stored_already`] if a cell is there that could not be
/// by its time: then with [`Stored::Any`].
pub async fn ingest(conn: &mut PgConnection, report: &Report, stored: Stored) -> Result<Ingested> {
    let Head { sequence, source_id, last, kept_from_s, new_after_s } = head(&mut *conn, report).await?;
    let cells: Vec<&StoredCell> = report.cells.iter().filter(|cell| cell.start_s() >= kept_from_s).collect();
    let too_late = (report.cells.len() - cells.len()) as u64;
    let Own { cells, foreign, clock_off } = own(&mut *conn, &report.node_id, cells).await?;
    // The same report again is not counted again.
    if too_late > 0 && last < report.sequence {
        let count = "UPDATE flow_report_head SET cells_too_late = cells_too_late + $2 WHERE source_id = $1";
        let count = sqlx::query(count).bind(source_id).bind(too_late.cast_signed());
        count.execute(&mut *conn).await.during("flow.too_late")?;
    }
    let is_new =
        |cell: &StoredCell| stored == Stored::ByTime && new_after_s.is_some_and(|newest| cell.start_s() > newest);
    let placed: Vec<_> = cells.iter().map(|cell| Placed { source_id, sequence: report.sequence, cell }).collect();
    cell::write(conn, &placed, is_new).await?;
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
    /// Cells that begin later are of no report before. `None`: any may be.
    new_after_s: Option<i64>,
}

/// A head of before: its sequence, `records_total`, `records_dropped`, `source_id` and `newest_start_s`, and since when cells are kept.
type Before = (i64, i64, i64, i32, Option<i64>, i64);

/// Moves the head of the boot id's reports on, and keeps other reports of it waiting until this one is committed.
async fn head(conn: &mut PgConnection, report: &Report) -> Result<Head> {
    let Report { node_id, boot_id, sequence, records_total, records_dropped, .. } = report;
    let before: Option<Before> = sqlx::query_as(
        "SELECT sequence, records_total, records_dropped, source_id, newest_start_s, (SELECT cells_from_s FROM outcome_kept)
         FROM flow_report_head WHERE node_id = $1 AND boot_id = $2 FOR UPDATE",
    )
    .bind(node_id)
    .bind(boot_id)
    .fetch_optional(&mut *conn)
    .await
    .during("flow.head")?;
    if let Some((last, total, dropped, source_id, _, kept_from_s)) = before {
        if *sequence <= last {
            return Ok(Head { sequence: last.cast_unsigned(), source_id, last, kept_from_s, new_after_s: None });
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
        "INSERT INTO flow_report_head AS head (node_id, boot_id, sequence, records_total, records_dropped, newest_start_s)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (node_id, boot_id) DO UPDATE SET sequence = greatest(head.sequence, excluded.sequence),
             reported_at = now(), records_total = greatest(head.records_total, excluded.records_total),
             records_dropped = greatest(head.records_dropped, excluded.records_dropped),
             newest_start_s = greatest(head.newest_start_s, excluded.newest_start_s)
         RETURNING source_id, (SELECT cells_from_s FROM outcome_kept)",
    )
    .bind(node_id)
    .bind(boot_id)
    .bind(sequence)
    .bind(records_total)
    .bind(records_dropped)
    .bind(report.cells.iter().map(StoredCell::start_s).max())
    .fetch_one(conn)
    .await
    .during("flow.head")?;
    // Two first reports at once: the one that waited for the other's row sees nothing of it, and is told so when it adds the same cells.
    let (last, new_after_s) = before.map_or((0, Some(i64::MIN)), |(last, _, _, _, newest_s, _)| (last, newest_s));
    Ok(Head { sequence: sequence.cast_unsigned(), source_id, last, kept_from_s, new_after_s })
}
