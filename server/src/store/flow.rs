//! Flow cells: cumulative sums that a later report replaces.

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};
use crate::report::{Cells, Report};

/// Takes a report in; answers with the highest sequence committed for its boot id. The same report again changes nothing, and an
/// older one changes only cells that no newer one had.
///
/// # Errors
/// If the report contradicts an earlier one, or the database fails.
pub async fn ingest(conn: &mut PgConnection, report: &Report) -> Result<u64> {
    let head = head(&mut *conn, report).await?;
    if !report.cells.layer.is_empty() {
        upsert(conn, report).await?;
    }
    Ok(head)
}

/// Moves the head of the boot id's reports on, and keeps other reports of it waiting until this one is committed.
async fn head(conn: &mut PgConnection, report: &Report) -> Result<u64> {
    let Report { node_id, boot_id, sequence, records_total, records_dropped, .. } = report;
    let before: Option<(i64, i64, i64)> = sqlx::query_as(
        "SELECT sequence, records_total, records_dropped FROM flow_report_head
         WHERE node_id = $1 AND boot_id = $2 FOR UPDATE",
    )
    .bind(node_id)
    .bind(boot_id)
    .fetch_optional(&mut *conn)
    .await
    .during("flow.head")?;
    if let Some((last, total, dropped)) = before {
        if *sequence <= last {
            return Ok(last.cast_unsigned());
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
    sqlx::query(
        "INSERT INTO flow_report_head AS head (node_id, boot_id, sequence, records_total, records_dropped)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (node_id, boot_id) DO UPDATE SET sequence = excluded.sequence, reported_at = now(),
             records_total = excluded.records_total, records_dropped = excluded.records_dropped
             WHERE excluded.sequence > head.sequence",
    )
    .bind(node_id)
    .bind(boot_id)
    .bind(sequence)
    .bind(records_total)
    .bind(records_dropped)
    .execute(conn)
    .await
    .during("flow.head")?;
    Ok(sequence.cast_unsigned())
}

async fn upsert(conn: &mut PgConnection, report: &Report) -> Result<()> {
    let Cells {
        layer,
        revision,
        interval_start_s,
        interval_length_s,
        choice,
        direction,
        size_class,
        counts,
        distributions,
    } = &report.cells;
    let query = sqlx::query(
        "INSERT INTO flow_cell (node_id, boot_id, sequence, layer, revision, interval_start_s, interval_length_s, choice,
             direction, size_class, flows, established, failed, reset, timed_out, abandoned, bytes_sent,
             bytes_received, segments_out, segments_in, retransmits, syn_retransmits, rtos, set_failures, still_open,
             delivered_packets, ce_marked_packets, spurious_retransmits,
             connect_time_us, srtt_us, duration_us, established_cwnd)
         SELECT $1, $2, $3, * FROM unnest($4::text[], $5::bigint[], $6::bigint[], $7::int[], $8::text[],
             $9::smallint[], $10::smallint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[],
             $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bigint[],
             $23::bigint[], $24::bigint[], $25::bigint[], $26::bigint[], $27::bigint[], $28::bigint[], $29::bytea[],
             $30::bytea[], $31::bytea[], $32::bytea[])
         ON CONFLICT ON CONSTRAINT flow_cell_pkey DO UPDATE SET sequence = excluded.sequence, flows = excluded.flows,
             established = excluded.established, failed = excluded.failed, reset = excluded.reset,
             timed_out = excluded.timed_out, abandoned = excluded.abandoned,
             bytes_sent = excluded.bytes_sent, bytes_received = excluded.bytes_received,
             segments_out = excluded.segments_out, segments_in = excluded.segments_in,
             retransmits = excluded.retransmits, syn_retransmits = excluded.syn_retransmits, rtos = excluded.rtos,
             set_failures = excluded.set_failures, still_open = excluded.still_open,
             delivered_packets = excluded.delivered_packets, ce_marked_packets = excluded.ce_marked_packets,
             spurious_retransmits = excluded.spurious_retransmits,
             connect_time_us = excluded.connect_time_us, srtt_us = excluded.srtt_us, duration_us = excluded.duration_us,
             established_cwnd = excluded.established_cwnd
             WHERE excluded.sequence > flow_cell.sequence",
    )
    .bind(&report.node_id)
    .bind(&report.boot_id)
    .bind(report.sequence)
    .bind(layer)
    .bind(revision)
    .bind(interval_start_s)
    .bind(interval_length_s)
    .bind(choice)
    .bind(direction)
    .bind(size_class);
    // Both in the order of the columns.
    let query = counts.iter().fold(query, |query, column| query.bind(column));
    let query = distributions.iter().fold(query, |query, column| query.bind(column));
    query.execute(conn).await.during("flow.upsert")?;
    Ok(())
}
