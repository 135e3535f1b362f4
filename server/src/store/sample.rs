//! The bounded sample of single flow records.

use prost::Message;
use sockpilot_proto::v1;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};
use crate::outcome::report::Sample;

/// Adds samples of a node; one that is there already is left alone. Answers how many are new.
pub async fn add(conn: &mut PgConnection, node_id: &str, samples: &[Sample]) -> Result<u64> {
    if samples.is_empty() {
        return Ok(0);
    }
    let fingerprints: Vec<_> = samples.iter().map(|sample| sample.fingerprint.to_vec()).collect();
    // Layer names have no spaces; an array of arrays would have to be rectangular.
    let layers: Vec<_> = samples.iter().map(|sample| sample.layers.join(" ")).collect();
    let encoded: Vec<_> = samples.iter().map(|sample| sample.encoded.as_slice()).collect();
    let done = sqlx::query(
        "INSERT INTO flow_sample (fingerprint, node_id, layers, sample)
         SELECT fingerprint, $1, string_to_array(layers, ' '), sample
         FROM unnest($2::bytea[], $3::text[], $4::bytea[]) AS new (fingerprint, layers, sample)
         ON CONFLICT ON CONSTRAINT flow_sample_fingerprint DO NOTHING",
    )
    .bind(node_id)
    .bind(fingerprints)
    .bind(layers)
    .bind(encoded)
    .execute(conn)
    .await
    .during("sample.add")?;
    Ok(done.rows_affected())
}

/// Keeps the newest samples only.
pub async fn prune(conn: &mut PgConnection, keep: i64) -> Result<u64> {
    let done = sqlx::query("DELETE FROM flow_sample WHERE sample_id <= (SELECT max(sample_id) FROM flow_sample) - $1")
        .bind(keep)
        .execute(conn)
        .await
        .during("sample.prune")?;
    Ok(done.rows_affected())
}

/// Samples before a number, newest first, with their numbers; of one layer and one node, or (empty) of all.
pub async fn list(
    conn: &mut PgConnection,
    layer: &str,
    node_id: &str,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<(i64, v1::FlowSample)>> {
    let rows: Vec<(i64, String, Vec<u8>)> = sqlx::query_as(
        "SELECT sample_id, node_id, sample FROM flow_sample
         WHERE ($1 = '' OR $1 = ANY(layers)) AND ($2 = '' OR node_id = $2) AND ($3::bigint IS NULL OR sample_id < $3)
         ORDER BY sample_id DESC LIMIT $4",
    )
    .bind(layer)
    .bind(node_id)
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("sample.list")?;
    rows.into_iter()
        .map(|(id, node, bytes)| {
            let sample = v1::FlowSample::decode(bytes.as_slice())
                .map_err(|error| Error::corrupt(format!("flow sample {id}"), error))?;
            Ok((id, v1::FlowSample { node: format!("nodes/{node}"), ..sample }))
        })
        .collect()
}
