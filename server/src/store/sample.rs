//! Single flow records: a bounded sample, and what was recorded on request.

use std::ops::Range;

use prost::Message;
use sockpilot_proto::v1;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};
use crate::outcome::report::Sample;

/// Why a flow is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is of the sample.
    Sample,
    /// Somebody asked its node to record its flows.
    OnRequest,
}

impl Kept {
    /// One of two statements, which differ in the table.
    fn of(self, sample: &'static str, on_request: &'static str) -> &'static str {
        match self {
            Self::Sample => sample,
            Self::OnRequest => on_request,
        }
    }
}

/// Adds flows of a node; one that is there already is left alone. Answers how many are new.
pub async fn add(conn: &mut PgConnection, kept: Kept, node_id: &str, samples: &[Sample]) -> Result<u64> {
    if samples.is_empty() {
        return Ok(0);
    }
    let fingerprints: Vec<_> = samples.iter().map(|sample| sample.fingerprint.to_vec()).collect();
    // Layer names have no spaces; an array of arrays would have to be rectangular.
    let layers: Vec<_> = samples.iter().map(|sample| sample.layers.join(" ")).collect();
    let encoded: Vec<_> = samples.iter().map(|sample| sample.encoded.as_slice()).collect();
    let done = sqlx::query(kept.of(
        "INSERT INTO flow_sample (fingerprint, node_id, layers, sample)
         SELECT fingerprint, $1, string_to_array(layers, ' '), sample
         FROM unnest($2::bytea[], $3::text[], $4::bytea[]) AS new (fingerprint, layers, sample)
         ON CONFLICT ON CONSTRAINT flow_sample_fingerprint DO NOTHING",
        "INSERT INTO flow_recorded (fingerprint, node_id, layers, sample)
         SELECT fingerprint, $1, string_to_array(layers, ' '), sample
         FROM unnest($2::bytea[], $3::text[], $4::bytea[]) AS new (fingerprint, layers, sample)
         ON CONFLICT ON CONSTRAINT flow_recorded_fingerprint DO NOTHING",
    ))
    .bind(node_id)
    .bind(fingerprints)
    .bind(layers)
    .bind(encoded)
    .execute(conn)
    .await
    .during("sample.add")?;
    Ok(done.rows_affected())
}

/// Keeps the newest only.
pub async fn prune(conn: &mut PgConnection, kept: Kept, keep: i64) -> Result<u64> {
    let prune = kept.of(
        "DELETE FROM flow_sample WHERE sample_id <= (SELECT max(sample_id) FROM flow_sample) - $1",
        "DELETE FROM flow_recorded WHERE sample_id <= (SELECT max(sample_id) FROM flow_recorded) - $1",
    );
    let done = sqlx::query(prune).bind(keep).execute(conn).await.during("sample.prune")?;
    Ok(done.rows_affected())
}

/// Flows before a number, newest first, with their numbers; of one layer and one node, or (empty) of all.
pub async fn list(
    conn: &mut PgConnection,
    kept: Kept,
    layer: &str,
    node_id: &str,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<(i64, v1::FlowSample)>> {
    let rows: Vec<(i64, String, Vec<u8>)> = sqlx::query_as(kept.of(
        "SELECT sample_id, node_id, sample FROM flow_sample
         WHERE ($1 = '' OR $1 = ANY(layers)) AND ($2 = '' OR node_id = $2) AND ($3::bigint IS NULL OR sample_id < $3)
         ORDER BY sample_id DESC LIMIT $4",
        "SELECT sample_id, node_id, sample FROM flow_recorded
         WHERE ($1 = '' OR $1 = ANY(layers)) AND ($2 = '' OR node_id = $2) AND ($3::bigint IS NULL OR sample_id < $3)
         ORDER BY sample_id DESC LIMIT $4",
    ))
    .bind(layer)
    .bind(node_id)
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("sample.list")?;
    rows.into_iter().map(read).collect()
}

fn read((id, node, bytes): (i64, String, Vec<u8>)) -> Result<(i64, v1::FlowSample)> {
    let sample =
        v1::FlowSample::decode(bytes.as_slice()).map_err(|error| Error::corrupt(format!("flow sample {id}"), error))?;
    Ok((id, v1::FlowSample { node: format!("nodes/{node}"), ..sample }))
}

/// Samples that one statement reads.
const PAGE: i64 = 2_000;
/// Samples that are looked at for one question.
const READ_MAX: u64 = 400_000;

/// Samples of some time.
#[derive(Debug, Default)]
pub struct Recent {
    /// Newest first.
    pub samples: Vec<v1::FlowSample>,
    /// There are, or were, more of that time.
    pub cut: bool,
    /// How many were looked at.
    pub read: u64,
}

/// The newest samples of flows that ended in a time (seconds since 1970), of these nodes or (`None`) of all; at most so many.
///
/// They are read in the order in which they came. Where no sample of a page ended so late, those before are not looked at.
pub async fn recent(
    conn: &mut PgConnection,
    ended_s: Range<i64>,
    node_ids: Option<&[String]>,
    max: usize,
) -> Result<Recent> {
    let (mut found, mut before) = (Recent::default(), None);
    loop {
        let page: Vec<(i64, String, Vec<u8>)> = sqlx::query_as(
            "SELECT sample_id, node_id, sample FROM flow_sample
             WHERE ($1::bigint IS NULL OR sample_id < $1) AND ($2::text[] IS NULL OR node_id = ANY($2))
             ORDER BY sample_id DESC LIMIT $3",
        )
        .bind(before)
        .bind(node_ids)
        .bind(PAGE)
        .fetch_all(&mut *conn)
        .await
        .during("sample.recent")?;
        let (rows, mut late) = (page.len(), false);
        found.read += rows as u64;
        for row in page {
            let (id, sample) = read(row)?;
            before = Some(id);
            let end_s = sample.close_time.map_or(i64::MIN, |time| time.seconds);
            late |= end_s >= ended_s.start;
            if ended_s.contains(&end_s) {
                if found.samples.len() == max {
                    found.cut = true;
                    return Ok(found);
                }
                found.samples.push(sample);
            }
        }
        if !late {
            return Ok(found);
        }
        if (rows as i64) < PAGE {
            found.cut = pruned(conn).await?;
            return Ok(found);
        }
        if found.read >= READ_MAX {
            found.cut = true;
            return Ok(found);
        }
    }
}

/// Whether there were samples before those that are kept.
async fn pruned(conn: &mut PgConnection) -> Result<bool> {
    let first = sqlx::query_scalar("SELECT coalesce(min(sample_id), 1) > 1 FROM flow_sample");
    first.fetch_one(conn).await.during("sample.pruned")
}
