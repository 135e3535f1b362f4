//! What former schemas left to be moved by the server, because SQL cannot write it in its new form.

use prost::{
    Message,
    encoding::{bytes, uint64},
};
use sockpilot_proto::{cell::cell_from_proto, v1};

use super::{
    cell::{self, Placed},
    connection::PgConnection,
    error::{Error, Operation, Result},
};
use crate::outcome::report::StoredCell;

/// Cells that are moved at once.
const BATCH: i64 = 10_000;

/// A cell as it was stored up to migration 0009.
#[derive(sqlx::FromRow)]
struct Row {
    source_id: i32,
    sequence: i64,
    layer: String,
    revision: i64,
    interval_start_s: i64,
    interval_length_s: i32,
    choice: String,
    direction: i16,
    size_class: i16,
    /// In the order of their numbers in `FlowCounts`.
    counts: Vec<i64>,
    /// In the order of their numbers in `FlowCell`.
    distributions: Vec<Vec<u8>>,
}

const TAKE: &str = "
    DELETE FROM flow_cell_before AS cell USING flow_report_head AS head
    WHERE cell.ctid = ANY(ARRAY(SELECT ctid FROM flow_cell_before LIMIT $1))
        AND head.node_id = cell.node_id AND head.boot_id = cell.boot_id
    RETURNING source_id, cell.sequence, layer, revision, interval_start_s, interval_length_s, choice, direction, size_class,
        ARRAY[flows, established, failed, reset, timed_out, bytes_sent, bytes_received, segments_out, segments_in,
            retransmits, syn_retransmits, rtos, set_failures, still_open, delivered_packets, ce_marked_packets,
            spurious_retransmits, abandoned] AS counts,
        ARRAY[connect_time_us, srtt_us, duration_us, established_cwnd] AS distributions";

/// Moves the cells of the former table into the new one, and drops it.
///
/// # Errors
/// If one of them cannot be read, or the database fails.
pub async fn move_cells(conn: &mut PgConnection) -> Result<()> {
    let there: bool = sqlx::query_scalar("SELECT to_regclass('flow_cell_before') IS NOT NULL")
        .fetch_one(&mut *conn)
        .await
        .during("former.look")?;
    if !there {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO flow_report_head (node_id, boot_id, sequence, records_total, records_dropped)
         SELECT DISTINCT node_id, boot_id, 0, 0, 0 FROM flow_cell_before ON CONFLICT DO NOTHING",
    )
    .execute(&mut *conn)
    .await
    .during("former.heads")?;
    let mut moved = 0;
    loop {
        let rows: Vec<Row> = sqlx::query_as(TAKE).bind(BATCH).fetch_all(&mut *conn).await.during("former.take")?;
        if rows.is_empty() {
            break;
        }
        put(&mut *conn, &rows).await?;
        moved += rows.len();
        tracing::info!(moved, "flow cells moved to their new table");
    }
    sqlx::query("DROP TABLE flow_cell_before").execute(conn).await.during("former.drop").map(drop)
}

async fn put(conn: &mut PgConnection, rows: &[Row]) -> Result<()> {
    let cells = rows.iter().map(cell).collect::<Result<Vec<_>>>()?;
    let placed = rows.iter().zip(&cells);
    let placed: Vec<_> =
        placed.map(|(row, cell)| Placed { source_id: row.source_id, sequence: row.sequence, cell }).collect();
    cell::write(conn, &placed, |_| false).await
}

fn cell(row: &Row) -> Result<StoredCell> {
    // Columns by name became fields by number.
    let (mut counts, mut sums) = (vec![], vec![]);
    for (number, count) in (1..).zip(&row.counts) {
        uint64::encode(number, &count.cast_unsigned(), &mut counts);
    }
    bytes::encode(8, &counts, &mut sums);
    for (number, distribution) in (9..).zip(&row.distributions) {
        bytes::encode(number, distribution, &mut sums);
    }
    let corrupt = |why: String| Error::corrupt("a flow cell of the former table", why);
    let sums = v1::FlowCell::decode(sums.as_slice()).map_err(|error| corrupt(error.to_string()))?;
    let message = v1::FlowCell {
        interval_start_s: row.interval_start_s.cast_unsigned(),
        interval_length_s: row.interval_length_s.cast_unsigned(),
        layer: row.layer.clone(),
        revision: row.revision.cast_unsigned(),
        choice: row.choice.clone(),
        direction: row.direction.into(),
        size_class: row.size_class.into(),
        ..sums
    };
    let (key, content) = cell_from_proto(&message)
        .map_err(|faults| corrupt(faults.first().map_or_else(String::new, |fault| format!("{fault:?}"))))?;
    Ok(StoredCell::new(key, &content))
}
