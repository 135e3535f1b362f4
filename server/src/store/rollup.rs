//! Cells of all nodes, merged by minute, hour and day.

use std::collections::{BTreeMap, btree_map::Entry};

use futures::TryStreamExt;
use sockpilot_outcomes::Content;
use sockpilot_proto::cell::{decode_content, encode_content};

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};
use crate::outcome::{Bucket, Level};

type Key = (i32, i16, i16);

/// Notes that these minutes are to be merged anew.
pub async fn mark_stale(conn: &mut PgConnection, level: Level, starts_s: &[i64]) -> Result<()> {
    sqlx::query("INSERT INTO flow_rollup_stale (length_s, start_s) SELECT $1, * FROM unnest($2::bigint[])")
        .bind(level.length_s())
        .bind(starts_s)
        .execute(conn)
        .await
        .during("rollup.mark_stale")
        .map(drop)
}

/// Stretches of time that are over and to be merged anew, the oldest first.
pub async fn stale(conn: &mut PgConnection, level: Level, grace_s: i64, limit: i64) -> Result<Vec<Bucket>> {
    let starts: Vec<i64> = sqlx::query_scalar(
        "SELECT DISTINCT start_s FROM flow_rollup_stale
         WHERE length_s = $1 AND start_s + $1 + $2 <= extract(epoch FROM clock_timestamp())::bigint
         ORDER BY start_s LIMIT $3",
    )
    .bind(level.length_s())
    .bind(grace_s)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("rollup.stale")?;
    Ok(starts.into_iter().map(|start_s| Bucket { level, start_s }).collect())
}

/// Of a stretch of time, the stale parts of a level.
pub async fn stale_within(conn: &mut PgConnection, level: Level, from_s: i64, to_s: i64) -> Result<Vec<Bucket>> {
    let starts: Vec<i64> = sqlx::query_scalar(
        "SELECT DISTINCT start_s FROM flow_rollup_stale WHERE length_s = $1 AND start_s >= $2 AND start_s < $3 ORDER BY 1",
    )
    .bind(level.length_s())
    .bind(from_s)
    .bind(to_s)
    .fetch_all(conn)
    .await
    .during("rollup.stale_within")?;
    Ok(starts.into_iter().map(|start_s| Bucket { level, start_s }).collect())
}

/// Merges one stretch of time anew, and marks the next longer one. What was marked since the transaction began stays so.
pub async fn make(conn: &mut PgConnection, bucket: Bucket) -> Result<usize> {
    let Bucket { level, start_s } = bucket;
    let length_s = level.length_s();
    // Before anything is read: what is committed later has a mark of its own.
    for statement in [
        "DELETE FROM flow_rollup_stale WHERE length_s = $1 AND start_s = $2",
        "DELETE FROM flow_rollup WHERE length_s = $1 AND start_s = $2",
        "INSERT INTO flow_rollup_made (length_s, start_s) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    ] {
        sqlx::query(statement).bind(length_s).bind(start_s).execute(&mut *conn).await.during("rollup.make")?;
    }
    let merged = merged(&mut *conn, bucket).await?;
    write(&mut *conn, bucket, &merged).await?;
    if let Some(next) = level.next() {
        mark_stale(conn, next, &[next.start_of(start_s)]).await?;
    }
    Ok(merged.len())
}

/// What the parts of a stretch of time hold together.
async fn merged(conn: &mut PgConnection, bucket: Bucket) -> Result<BTreeMap<Key, Content>> {
    let Bucket { level, start_s } = bucket;
    let end_s = start_s + i64::from(level.length_s());
    let statement = match level.previous() {
        None => {
            "SELECT choice_id, direction, size_class, value FROM flow_cell
             WHERE interval_start_s >= $1 AND interval_start_s < $2"
        }
        Some(_) => {
            "SELECT choice_id, direction, size_class, value FROM flow_rollup
             WHERE start_s >= $1 AND start_s < $2 AND length_s = $3"
        }
    };
    let query = sqlx::query_as(statement).bind(start_s).bind(end_s);
    let query = match level.previous() {
        None => query,
        Some(parts) => query.bind(parts.length_s()),
    };
    let mut rows = query.fetch(conn);
    let mut merged: BTreeMap<Key, Content> = BTreeMap::new();
    while let Some(row) = rows.try_next().await.during("rollup.read")? {
        let (choice_id, direction, size_class, value): (i32, i16, i16, Vec<u8>) = row;
        add(merged.entry((choice_id, direction, size_class)), &content(&value)?)?;
    }
    Ok(merged)
}

async fn write(conn: &mut PgConnection, bucket: Bucket, merged: &BTreeMap<Key, Content>) -> Result<()> {
    let (mut choice_ids, mut directions, mut size_classes, mut values) = (vec![], vec![], vec![], vec![]);
    for ((choice_id, direction, size_class), content) in merged {
        choice_ids.push(*choice_id);
        directions.push(*direction);
        size_classes.push(*size_class);
        values.push(encode_content(content));
    }
    sqlx::query(
        "INSERT INTO flow_rollup (length_s, start_s, choice_id, direction, size_class, value)
         SELECT $1, $2, * FROM unnest($3::integer[], $4::smallint[], $5::smallint[], $6::bytea[])",
    )
    .bind(bucket.level.length_s())
    .bind(bucket.start_s)
    .bind(choice_ids)
    .bind(directions)
    .bind(size_classes)
    .bind(values)
    .execute(conn)
    .await
    .during("rollup.write")
    .map(drop)
}

/// Reads a stored value.
pub(super) fn content(value: &[u8]) -> Result<Content> {
    decode_content(value).map_err(|error| Error::corrupt("a flow cell", error))
}

/// Adds what a cell holds to what others of the same key held.
pub(super) fn add<K: Ord>(entry: Entry<'_, K, Content>, content: &Content) -> Result<()> {
    match entry {
        Entry::Vacant(place) => drop(place.insert(content.clone())),
        Entry::Occupied(mut place) => {
            let merged = place.get_mut().merge(content);
            merged.map_err(|error| Error::corrupt("a flow cell", error))?;
        }
    }
    Ok(())
}

/// Stretches of time within [from_s, to_s) that are merged and up to date.
pub async fn up_to_date(conn: &mut PgConnection, from_s: i64, to_s: i64) -> Result<Vec<Bucket>> {
    let rows: Vec<(i32, i64)> = sqlx::query_as(
        "SELECT length_s, start_s FROM flow_rollup_made AS made
         WHERE start_s >= $1 AND start_s <= $2 - length_s AND NOT EXISTS (
             SELECT FROM flow_rollup_stale AS stale
             WHERE stale.start_s >= made.start_s AND stale.start_s < made.start_s + made.length_s
                 AND stale.length_s <= made.length_s)",
    )
    .bind(from_s)
    .bind(to_s)
    .fetch_all(conn)
    .await
    .during("rollup.up_to_date")?;
    let bucket = |(length_s, start_s)| Some(Bucket { level: Level::of(length_s)?, start_s });
    Ok(rows.into_iter().filter_map(bucket).collect())
}

/// Deletes minutes and hours that begin before a time, unless one of them is still to be merged. Returns how many stretches of time
/// were deleted.
pub async fn forget(conn: &mut PgConnection, level: Level, before_s: i64) -> Result<u64> {
    let pending: Option<i64> = sqlx::query_scalar("SELECT min(start_s) FROM flow_rollup_stale")
        .fetch_one(&mut *conn)
        .await
        .during("rollup.forget")?;
    // Whole ones of the next level only: that one is made of all its parts, or of none.
    let before_s = level.next().map_or(before_s, |next| next.start_of(before_s.min(pending.unwrap_or(i64::MAX))));
    let mut forgotten = 0;
    for statement in [
        "DELETE FROM flow_rollup WHERE length_s = $1 AND start_s < $2",
        "DELETE FROM flow_rollup_made WHERE length_s = $1 AND start_s < $2",
    ] {
        let done = sqlx::query(statement).bind(level.length_s()).bind(before_s).execute(&mut *conn).await;
        forgotten = done.during("rollup.forget")?.rows_affected();
    }
    let kept = match level {
        Level::Minute => "UPDATE outcome_kept SET minutes_from_s = greatest(minutes_from_s, $1)",
        Level::Hour => "UPDATE outcome_kept SET hours_from_s = greatest(hours_from_s, $1)",
        Level::Day => return Ok(forgotten),
    };
    if forgotten > 0 {
        sqlx::query(kept).bind(before_s).execute(conn).await.during("rollup.forget")?;
    }
    Ok(forgotten)
}

/// Bytes on disk of everything merged.
pub async fn bytes(conn: &mut PgConnection) -> Result<i64> {
    sqlx::query_scalar("SELECT pg_total_relation_size('flow_rollup') + pg_total_relation_size('flow_rollup_made')")
        .fetch_one(conn)
        .await
        .during("rollup.bytes")
}
