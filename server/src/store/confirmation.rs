//! What nodes confirm and refuse, written for many nodes at once.

use prost::Message;
use sockpilot_policy::model::LayerName;
use sockpilot_proto::v1;
use uuid::Uuid;

use super::{
    connection::PgConnection,
    error::{Operation, Result},
    node::{self, SignColumns},
};
use crate::fleet::node::{Confirmation, Sign, SnapshotRefusal, Stream};

/// How many refused contents are kept of a node, the newest.
const REFUSALS_MAX: i64 = 32;

fn columns(streams: &[Stream]) -> (Vec<String>, Vec<Uuid>) {
    streams.iter().map(|stream| (stream.node_id.clone(), stream.stream_id)).unzip()
}

/// Notes what nodes say of themselves, if they are connected by these streams.
pub async fn told(conn: &mut PgConnection, told: &[(Stream, Sign)]) -> Result<()> {
    let (streams, signs): (Vec<_>, Vec<_>) = told.iter().cloned().unzip();
    let (nodes, ids) = columns(&streams);
    let SignColumns { offsets_ms, whats, reasons, for_ms, open, looked_before_ms } = node::columns(&signs);
    sqlx::query(
        "UPDATE node SET last_seen_at = now(), clock_offset_ms = offset_ms, not_written = what, not_written_reason = reason,
             not_written_since = CASE WHEN what <> '' THEN now() - least(for_ms, 315360000000) * interval '1 millisecond' END,
             open_connections = open,
             open_looked_at =
                 CASE WHEN open IS NOT NULL THEN now() - least(looked_before_ms, 315360000000) * interval '1 millisecond' END
         FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bytea[], $8::bigint[])
             AS told (id, stream, offset_ms, what, reason, for_ms, open, looked_before_ms)
         WHERE node_id = id AND stream_id = stream",
    )
    .bind(nodes)
    .bind(ids)
    .bind(offsets_ms)
    .bind(whats)
    .bind(reasons)
    .bind(for_ms)
    .bind(open)
    .bind(looked_before_ms)
    .execute(conn)
    .await
    .during("confirmation.told")?;
    Ok(())
}

/// Which of these streams are not their nodes' any more: others have taken them over, or there is no such node.
pub async fn lost(conn: &mut PgConnection, streams: &[Stream]) -> Result<Vec<Stream>> {
    let (nodes, ids) = columns(streams);
    let rows: Vec<(String, Uuid)> = sqlx::query_as(
        "SELECT id, stream FROM unnest($1::text[], $2::uuid[]) AS held (id, stream)
         LEFT JOIN node ON node_id = id AND stream_id = stream WHERE node_id IS NULL",
    )
    .bind(nodes)
    .bind(ids)
    .fetch_all(conn)
    .await
    .during("confirmation.lost")?;
    Ok(rows.into_iter().map(|(node_id, stream_id)| Stream { node_id, stream_id }).collect())
}

/// A stream that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    pub stream: Stream,
    /// The daemon has left in order, so that another one may have the node's id at once.
    pub left: bool,
    /// How long ago it was heard of.
    pub silent_ms: i64,
}

/// Notes that streams have ended, unless another has taken the node over.
pub async fn gone(conn: &mut PgConnection, gone: &[Gone]) -> Result<()> {
    let streams: Vec<_> = gone.iter().map(|gone| gone.stream.clone()).collect();
    let (left, silent_ms): (Vec<_>, Vec<_>) = gone.iter().map(|gone| (gone.left, gone.silent_ms)).unzip();
    let (nodes, ids) = columns(&streams);
    sqlx::query(
        "UPDATE node SET stream_id = NULL, server_id = NULL, server_stream_id = NULL,
             instance = CASE WHEN has_left THEN NULL ELSE instance END,
             last_seen_at = greatest(last_seen_at, now() - silent_ms * interval '1 millisecond')
         FROM unnest($1::text[], $2::uuid[], $3::boolean[], $4::bigint[]) AS gone (id, stream, has_left, silent_ms)
         WHERE node_id = id AND stream_id = stream",
    )
    .bind(nodes)
    .bind(ids)
    .bind(left)
    .bind(silent_ms)
    .execute(conn)
    .await
    .during("confirmation.gone")?;
    Ok(())
}

/// Writes confirmations, at most one for each node.
pub async fn confirm(conn: &mut PgConnection, confirmations: &[Confirmation]) -> Result<()> {
    set_in_force(&mut *conn, confirmations).await?;
    let rows = rows(confirmations);
    let confirmed: Vec<_> = confirmations.iter().map(|confirmation| confirmation.node_id.as_str()).collect();
    sqlx::query(
        "DELETE FROM node_layer WHERE node_id = ANY($1)
         AND (node_id, layer) NOT IN (SELECT * FROM unnest($2::text[], $3::text[]))",
    )
    .bind(&confirmed)
    .bind(&rows.nodes)
    .bind(&rows.layers)
    .execute(&mut *conn)
    .await
    .during("confirmation.confirm")?;
    // What a node said of its values before still holds if it only says again that the same revision is in force.
    sqlx::query(
        "INSERT INTO node_layer (node_id, layer, confirmed_revision, confirmed_at, effective, rejected_revision, rejected_at, violations)
         SELECT new.node_id, new.layer, new.revision, CASE WHEN new.revision > 0 THEN now() END,
             CASE WHEN known THEN new.effective ELSE
                 (SELECT old.effective FROM node_layer old WHERE old.node_id = new.node_id AND old.layer = new.layer
                     AND old.confirmed_revision = new.revision) END,
             new.rejected, CASE WHEN new.rejected IS NOT NULL THEN now() END, new.violations
         FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::boolean[], $6::bigint[], $7::bytea[])
             AS new (node_id, layer, revision, effective, known, rejected, violations)
         JOIN node USING (node_id)
         ORDER BY new.node_id, new.layer
         ON CONFLICT (node_id, layer) DO UPDATE SET effective = excluded.effective,
             confirmed_at = CASE WHEN node_layer.confirmed_revision = excluded.confirmed_revision
                 THEN node_layer.confirmed_at ELSE excluded.confirmed_at END,
             confirmed_revision = excluded.confirmed_revision,
             rejected_revision = excluded.rejected_revision,
             rejected_at = CASE WHEN node_layer.rejected_revision = excluded.rejected_revision
                 THEN node_layer.rejected_at ELSE excluded.rejected_at END,
             violations = excluded.violations",
    )
    .bind(&rows.nodes)
    .bind(&rows.layers)
    .bind(&rows.in_force)
    .bind(&rows.effective)
    .bind(&rows.known)
    .bind(&rows.rejected)
    .bind(&rows.violations)
    .execute(&mut *conn)
    .await
    .during("confirmation.confirm")?;
    first(conn, &rows).await
}

/// Layers of nodes, by column.
#[derive(Debug, Default)]
struct Rows<'a> {
    nodes: Vec<&'a str>,
    layers: Vec<&'a str>,
    in_force: Vec<i64>,
    effective: Vec<Option<Vec<u8>>>,
    known: Vec<bool>,
    rejected: Vec<Option<i64>>,
    violations: Vec<Option<Vec<u8>>>,
}

fn rows(confirmations: &[Confirmation]) -> Rows<'_> {
    let mut rows = Rows::default();
    for Confirmation { node_id, version: _, revisions, held_back, effective } in confirmations {
        for (layer, revision) in revisions.iter() {
            let held = held_back.iter().find(|held| held.layer == *layer);
            rows.nodes.push(node_id);
            rows.layers.push(layer);
            rows.in_force.push(held.map_or(*revision, |held| held.revision_in_force).cast_signed());
            rows.effective.push(of_layer(effective.as_deref().unwrap_or_default(), layer));
            rows.known.push(effective.is_some());
            rows.rejected.push(held.map(|held| held.revision.cast_signed()));
            rows.violations.push(held.map(|held| encoded(held.violations.clone())));
        }
    }
    rows
}

fn encoded(violations: Vec<v1::RuleViolation>) -> Vec<u8> {
    v1::Nack { version: None, violations }.encode_to_vec()
}

/// Notes revisions that no node had confirmed before. Of a database that was made anew a node may confirm what is not there; and
/// what acts in the place of a layer that is held back may be another database's revision of that number.
async fn first(conn: &mut PgConnection, rows: &Rows<'_>) -> Result<()> {
    sqlx::query(
        "INSERT INTO confirmed_revision (name, revision, node_id)
         SELECT DISTINCT ON (name, revision) name, revision, node_id
         FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS new (node_id, name, revision, rejected)
         JOIN revision USING (name, revision)
         WHERE rejected IS NULL AND NOT EXISTS (SELECT FROM confirmed_revision AS known
             WHERE known.name = new.name AND known.revision = new.revision)
         ORDER BY name, revision ON CONFLICT DO NOTHING",
    )
    .bind(&rows.nodes)
    .bind(&rows.layers)
    .bind(&rows.in_force)
    .bind(&rows.rejected)
    .execute(conn)
    .await
    .during("confirmation.first")?;
    Ok(())
}

/// The revisions that some node has had in force at some time.
pub async fn confirmed(conn: &mut PgConnection, name: &LayerName) -> Result<Vec<u64>> {
    let rows: Vec<(i64,)> = sqlx::query_as("SELECT revision FROM confirmed_revision WHERE name = $1")
        .bind(name.to_string())
        .fetch_all(conn)
        .await
        .during("confirmation.confirmed")?;
    Ok(rows.into_iter().map(|(revision,)| revision.cast_unsigned()).collect())
}

async fn set_in_force(conn: &mut PgConnection, confirmations: &[Confirmation]) -> Result<()> {
    let (mut nodes, mut epochs, mut generations, mut hashes) = (vec![], vec![], vec![], vec![]);
    for Confirmation { node_id, version, .. } in confirmations {
        nodes.push(node_id.as_str());
        epochs.push(version.epoch);
        generations.push(version.generation.cast_signed());
        hashes.push(version.hash.to_vec());
    }
    sqlx::query(
        "UPDATE node SET in_force_epoch = epoch, in_force_generation = generation, in_force_hash = hash
         FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::bytea[]) AS new (id, epoch, generation, hash)
         WHERE node_id = id",
    )
    .bind(nodes)
    .bind(epochs)
    .bind(generations)
    .bind(hashes)
    .execute(conn)
    .await
    .during("confirmation.in_force")?;
    Ok(())
}

/// The effective values of one layer, encoded.
fn of_layer(effective: &[v1::EffectiveValue], layer: &str) -> Option<Vec<u8>> {
    let effective: Vec<_> = effective.iter().filter(|value| value.layer == layer).cloned().collect();
    (!effective.is_empty()).then(|| v1::Ack { effective, ..v1::Ack::default() }.encode_to_vec())
}

/// Writes refusals of snapshots as a whole. Rejected is every layer that the node complains of, and every other that it has not
/// confirmed before.
pub async fn refuse(conn: &mut PgConnection, refusal: &SnapshotRefusal) -> Result<()> {
    let SnapshotRefusal { node_id, hash, revisions, violations, remember } = refusal;
    if *remember {
        never_again(&mut *conn, node_id, hash, violations).await?;
    }
    for (layer, revision) in revisions.iter() {
        let (blamed, violations) = of_refused_layer(violations, layer);
        reject(&mut *conn, node_id, layer, revision.cast_signed(), blamed, violations).await?;
    }
    Ok(())
}

async fn never_again(
    conn: &mut PgConnection,
    node_id: &str,
    hash: &[u8],
    violations: &[v1::RuleViolation],
) -> Result<()> {
    sqlx::query(
        "INSERT INTO node_refusal (node_id, content_hash, violations) SELECT node_id, $2, $3 FROM node WHERE node_id = $1
         ON CONFLICT (node_id, content_hash)
             DO UPDATE SET refused_at = excluded.refused_at, violations = excluded.violations",
    )
    .bind(node_id)
    .bind(hash)
    .bind(encoded(violations.to_vec()))
    .execute(&mut *conn)
    .await
    .during("confirmation.refuse")?;
    sqlx::query(
        "DELETE FROM node_refusal WHERE node_id = $1 AND content_hash NOT IN (
             SELECT content_hash FROM node_refusal WHERE node_id = $1 ORDER BY refused_at DESC LIMIT $2)",
    )
    .bind(node_id)
    .bind(REFUSALS_MAX)
    .execute(conn)
    .await
    .during("confirmation.refuse")?;
    Ok(())
}

/// Whether the node complains of the layer, and what it says of it or else of all, encoded.
fn of_refused_layer(violations: &[v1::RuleViolation], layer: &str) -> (bool, Vec<u8>) {
    let own: Vec<_> = violations.iter().filter(|violation| violation.layer == layer).cloned().collect();
    let blamed = !own.is_empty();
    (blamed, encoded(if blamed { own } else { violations.to_vec() }))
}

async fn reject(
    conn: &mut PgConnection,
    node_id: &str,
    layer: &str,
    revision: i64,
    blamed: bool,
    violations: Vec<u8>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO node_layer (node_id, layer, rejected_revision, rejected_at, violations)
         SELECT node_id, $2, $3, now(), $5 FROM node WHERE node_id = $1
         ON CONFLICT (node_id, layer) DO UPDATE SET rejected_revision = excluded.rejected_revision,
             rejected_at = excluded.rejected_at, violations = excluded.violations
             WHERE $4 OR node_layer.confirmed_revision <> excluded.rejected_revision",
    )
    .bind(node_id)
    .bind(layer)
    .bind(revision)
    .bind(blamed)
    .bind(violations)
    .execute(conn)
    .await
    .during("confirmation.reject")?;
    Ok(())
}
