//! What nodes confirm and refuse, written for many nodes at once.

use prost::Message;
use sockpilot_policy::model::LayerName;
use sockpilot_proto::v1;
use uuid::Uuid;

use super::{
    connection::PgConnection,
    error::{Operation, Result},
    node::{self, Sign, Version},
};

/// How many refused contents are kept of a node, the newest.
const REFUSALS_MAX: i64 = 32;

/// A node has read its layers back from its kernel tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Confirmation {
    /// Which node.
    pub node_id: String,
    /// What it enforces.
    pub version: Version,
    /// Name and revision of each layer.
    pub revisions: Vec<(String, u64)>,
    /// Values that came out otherwise; `None`: it said so before.
    pub effective: Option<Vec<v1::EffectiveValue>>,
}

/// A node has refused a content.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Which node.
    pub node_id: String,
    /// SHA-256 of the layers.
    pub hash: [u8; 32],
    /// Name and revision of each layer.
    pub revisions: Vec<(String, u64)>,
    /// Why.
    pub violations: Vec<v1::RuleViolation>,
    /// Not to be sent to it again.
    pub remember: bool,
}

/// A node's stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stream {
    /// Whose.
    pub node_id: String,
    /// Which.
    pub stream_id: Uuid,
}

fn columns(streams: &[Stream]) -> (Vec<String>, Vec<Uuid>) {
    streams.iter().map(|stream| (stream.node_id.clone(), stream.stream_id)).unzip()
}

/// Notes that nodes are there, and what they say of themselves, if anything is new. Answers with the streams that are still their nodes'; the others were taken over.
///
/// # Errors
/// If the database fails.
pub async fn seen(conn: &mut PgConnection, seen: &[(Stream, Option<Sign>)]) -> Result<Vec<Stream>> {
    let (streams, signs): (Vec<_>, Vec<_>) = seen.iter().cloned().unzip();
    let (nodes, ids) = columns(&streams);
    let (offsets, whats, reasons, for_ms) = node::columns(&signs);
    let rows: Vec<(String, Uuid)> = sqlx::query_as(
        "UPDATE node SET last_seen_at = now(),
             clock_offset_ms = CASE WHEN what IS NULL THEN clock_offset_ms ELSE offset_ms END,
             not_written = coalesce(what, not_written),
             not_written_reason = CASE WHEN what IS NULL THEN not_written_reason ELSE reason END,
             not_written_since = CASE WHEN what IS NULL THEN not_written_since
                 WHEN what <> '' THEN now() - least(for_ms, 315360000000) * interval '1 millisecond' END
         FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::bigint[])
             AS seen (id, stream, offset_ms, what, reason, for_ms)
         WHERE node_id = id AND stream_id = stream
         RETURNING node_id, stream_id",
    )
    .bind(nodes)
    .bind(ids)
    .bind(offsets)
    .bind(whats)
    .bind(reasons)
    .bind(for_ms)
    .fetch_all(conn)
    .await
    .during("confirmation.seen")?;
    Ok(rows.into_iter().map(|(node_id, stream_id)| Stream { node_id, stream_id }).collect())
}

/// Notes that streams have ended, unless another has taken the node over. Of each: whether the daemon has left in order, so that
/// another one may have the node's id at once.
///
/// # Errors
/// If the database fails.
pub async fn gone(conn: &mut PgConnection, gone: &[(Stream, bool)]) -> Result<()> {
    let (streams, left): (Vec<_>, Vec<_>) = gone.iter().cloned().unzip();
    let (nodes, ids) = columns(&streams);
    sqlx::query(
        "UPDATE node SET stream_id = NULL, instance = CASE WHEN has_left THEN NULL ELSE instance END
         FROM unnest($1::text[], $2::uuid[], $3::boolean[]) AS gone (id, stream, has_left)
         WHERE node_id = id AND stream_id = stream",
    )
    .bind(nodes)
    .bind(ids)
    .bind(left)
    .execute(conn)
    .await
    .during("confirmation.gone")?;
    Ok(())
}

/// Writes confirmations, at most one for each node.
///
/// # Errors
/// If the database fails.
pub async fn confirm(conn: &mut PgConnection, confirmations: &[Confirmation]) -> Result<()> {
    set_in_force(&mut *conn, confirmations).await?;
    let (mut nodes, mut layers, mut revisions, mut effective, mut known) = (vec![], vec![], vec![], vec![], vec![]);
    for confirmation in confirmations {
        for (layer, revision) in &confirmation.revisions {
            nodes.push(confirmation.node_id.as_str());
            layers.push(layer.as_str());
            revisions.push(revision.cast_signed());
            effective.push(of_layer(confirmation.effective.as_deref().unwrap_or_default(), layer));
            known.push(confirmation.effective.is_some());
        }
    }
    let confirmed: Vec<_> = confirmations.iter().map(|confirmation| confirmation.node_id.as_str()).collect();
    sqlx::query(
        "DELETE FROM node_layer WHERE node_id = ANY($1)
         AND (node_id, layer) NOT IN (SELECT * FROM unnest($2::text[], $3::text[]))",
    )
    .bind(&confirmed)
    .bind(&nodes)
    .bind(&layers)
    .execute(&mut *conn)
    .await
    .during("confirmation.confirm")?;
    // What a node said of its values before still holds if it only says again that the same revision is in force.
    sqlx::query(
        "INSERT INTO node_layer (node_id, layer, confirmed_revision, confirmed_at, effective)
         SELECT new.node_id, new.layer, new.revision, now(), CASE WHEN known THEN new.effective ELSE
             (SELECT old.effective FROM node_layer old WHERE old.node_id = new.node_id AND old.layer = new.layer
                 AND old.confirmed_revision = new.revision) END
         FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::boolean[])
             AS new (node_id, layer, revision, effective, known)
         JOIN node USING (node_id)
         ORDER BY new.node_id, new.layer
         ON CONFLICT (node_id, layer) DO UPDATE SET effective = excluded.effective,
             confirmed_at = CASE WHEN node_layer.confirmed_revision = excluded.confirmed_revision
                 THEN node_layer.confirmed_at ELSE excluded.confirmed_at END,
             confirmed_revision = excluded.confirmed_revision,
             rejected_revision = NULL, rejected_at = NULL, violations = NULL",
    )
    .bind(&nodes)
    .bind(&layers)
    .bind(&revisions)
    .bind(&effective)
    .bind(&known)
    .execute(&mut *conn)
    .await
    .during("confirmation.confirm")?;
    first(conn, &nodes, &layers, &revisions).await
}

/// Notes revisions that no node had confirmed before. Of a database that was made anew a node may confirm what is not there.
async fn first(conn: &mut PgConnection, nodes: &[&str], layers: &[&str], revisions: &[i64]) -> Result<()> {
    sqlx::query(
        "INSERT INTO confirmed_revision (name, revision, node_id)
         SELECT DISTINCT ON (name, revision) name, revision, node_id
         FROM unnest($1::text[], $2::text[], $3::bigint[]) AS new (node_id, name, revision) JOIN revision USING (name, revision)
         WHERE NOT EXISTS (SELECT FROM confirmed_revision AS known
             WHERE known.name = new.name AND known.revision = new.revision)
         ORDER BY name, revision ON CONFLICT DO NOTHING",
    )
    .bind(nodes)
    .bind(layers)
    .bind(revisions)
    .execute(conn)
    .await
    .during("confirmation.first")?;
    Ok(())
}

/// The revisions that some node has had in force at some time.
///
/// # Errors
/// If the database fails.
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

/// Writes refusals. Rejected is every layer that the node complains of, and every other that it has not confirmed before:
/// it was refused together with them.
///
/// # Errors
/// If the database fails.
pub async fn refuse(conn: &mut PgConnection, refusal: &Refusal) -> Result<()> {
    let Refusal { node_id, hash, revisions, violations, remember } = refusal;
    if *remember {
        never_again(&mut *conn, node_id, hash, violations).await?;
    }
    for (layer, revision) in revisions {
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
    let nack = v1::Nack { version: None, violations: violations.to_vec() };
    sqlx::query(
        "INSERT INTO node_refusal (node_id, content_hash, violations) SELECT node_id, $2, $3 FROM node WHERE node_id = $1
         ON CONFLICT (node_id, content_hash)
             DO UPDATE SET refused_at = excluded.refused_at, violations = excluded.violations",
    )
    .bind(node_id)
    .bind(hash)
    .bind(nack.encode_to_vec())
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

/// Whether the node complains of the layer, and what it says, encoded.
fn of_refused_layer(violations: &[v1::RuleViolation], layer: &str) -> (bool, Vec<u8>) {
    let mut own: Vec<_> = violations.iter().filter(|violation| violation.layer == layer).cloned().collect();
    let blamed = !own.is_empty();
    if !blamed {
        let mut others: Vec<_> = violations.iter().map(|violation| violation.layer.as_str()).collect();
        others.sort_unstable();
        others.dedup();
        let others =
            if others.iter().all(|other| other.is_empty()) { "the whole".to_owned() } else { others.join(", ") };
        let description = format!("refused together with {others}, which stands in the same snapshot");
        own = violations.iter().filter(|violation| violation.layer.is_empty()).cloned().collect();
        own.push(v1::RuleViolation { layer: layer.to_owned(), field: String::new(), description });
    }
    (blamed, v1::Nack { version: None, violations: own }.encode_to_vec())
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
