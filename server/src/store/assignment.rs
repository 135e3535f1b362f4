//! Decisions about who runs what, and how far they have come.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use prost::Message;
use sockpilot_policy::model::{Labels, LayerName};
use sockpilot_proto::v1;
use sqlx::types::Json;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
    layer::{object, timestamp},
};
use crate::{
    backup::Decision,
    change::{Held, Trial},
    document::Document,
    target::{Selection, Target},
};

/// Greatest number of rejections in a status; a fleet that refuses more has one reason.
const REJECTIONS_MAX: i64 = 1_000;
/// Greatest number of effective values in a status, and of different answers of nodes that are looked at.
const EFFECTIVE_MAX: usize = 1_000;

#[derive(sqlx::FromRow)]
struct Row {
    revision: i64,
    target: String,
    share_bp: Option<i32>,
    labels: Option<Json<Labels>>,
    reason: String,
    actor: String,
    started_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

/// The target of a row.
pub(super) fn target(target: &str, share_bp: Option<i32>, labels: Option<Labels>) -> Result<Target> {
    match (target, share_bp, labels) {
        ("everyone", None, None) => Ok(Target::Everyone),
        ("share", Some(share_bp), None) => Ok(Target::Canary(Selection::Share(share_bp.cast_unsigned()))),
        ("labels", None, Some(labels)) => Ok(Target::Canary(Selection::Labels(labels))),
        _ => Err(Error::corrupt("an assignment", format!("its target is {target}"))),
    }
}

/// Kind, share and labels.
type TargetColumns<'a> = (&'static str, Option<i32>, Option<Json<&'a Labels>>);

/// The columns of a target; nobody has none.
fn columns(target: &Target) -> Option<TargetColumns<'_>> {
    match target {
        Target::Everyone => Some(("everyone", None, None)),
        Target::Canary(Selection::Share(share_bp)) => Some(("share", Some(share_bp.cast_signed()), None)),
        Target::Canary(Selection::Labels(labels)) => Some(("labels", None, Some(Json(labels)))),
        Target::Nobody => None,
    }
}

async fn rows_in_force(conn: &mut PgConnection, name: &str) -> Result<Vec<Row>> {
    sqlx::query_as(
        "SELECT revision, target, share_bp, labels, reason, actor, started_at, ended_at FROM assignment
         WHERE name = $1 AND ended_at IS NULL ORDER BY target <> 'everyone'",
    )
    .bind(name)
    .fetch_all(conn)
    .await
    .during("assignment.in_force")
}

/// What is in force: for everyone first, then the canary.
///
/// # Errors
/// If the database fails.
pub async fn in_force(conn: &mut PgConnection, name: &LayerName) -> Result<Vec<Held>> {
    let rows = rows_in_force(conn, &name.to_string()).await?;
    let held = |row: Row| {
        let target = target(&row.target, row.share_bp, row.labels.map(|labels| labels.0))?;
        Ok(Held { revision: row.revision.cast_unsigned(), target })
    };
    rows.into_iter().map(held).collect()
}

/// Revisions that everyone had before, the newest decision first.
///
/// # Errors
/// If the database fails.
pub async fn had_before(conn: &mut PgConnection, name: &LayerName) -> Result<Vec<u64>> {
    let rows: Vec<(i64,)> = sqlx::query_as(
        "SELECT assignment.revision FROM assignment JOIN revision USING (name, revision) JOIN layer_object USING (name)
         WHERE name = $1 AND ended_at IS NOT NULL AND target = 'everyone' AND revision.uid = layer_object.uid
         ORDER BY assignment_id DESC LIMIT 1000",
    )
    .bind(name.to_string())
    .fetch_all(conn)
    .await
    .during("assignment.had_before")?;
    Ok(rows.into_iter().map(|(revision,)| revision.cast_unsigned()).collect())
}

/// Size of all assigned documents together: no node's snapshot is larger.
///
/// # Errors
/// If the database fails.
pub async fn bytes_in_force(conn: &mut PgConnection) -> Result<i64> {
    let (bytes,) = sqlx::query_as(
        "SELECT coalesce(sum(octet_length(document)), 0)::bigint
         FROM assignment JOIN revision USING (name, revision) WHERE ended_at IS NULL",
    )
    .fetch_one(conn)
    .await
    .during("assignment.bytes_in_force")?;
    Ok(bytes)
}

/// Every assigned document, with its name as `name@revision`.
///
/// # Errors
/// If the database fails.
pub async fn documents_in_force(conn: &mut PgConnection) -> Result<Vec<(String, Document)>> {
    let rows: Vec<(String, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT name, revision, document FROM assignment JOIN revision USING (name, revision)
         WHERE ended_at IS NULL ORDER BY name, revision",
    )
    .fetch_all(conn)
    .await
    .during("assignment.documents_in_force")?;
    let read = |(name, revision, document): (String, i64, Vec<u8>)| {
        let named = format!("{name}@{revision}");
        let name: LayerName = name.parse().map_err(|error: String| Error::corrupt(&named, error))?;
        let document = Document::decode(name.kind, &document)
            .map_err(|error| Error::corrupt(format!("document of {named}"), error))?;
        Ok((named, document))
    };
    rows.into_iter().map(read).collect()
}

/// Ends what everyone has, or the canary.
///
/// # Errors
/// If the database fails.
pub async fn end(conn: &mut PgConnection, name: &LayerName, everyone: bool) -> Result<()> {
    sqlx::query(
        "UPDATE assignment SET ended_at = clock_timestamp()
         WHERE name = $1 AND ended_at IS NULL AND (target = 'everyone') = $2",
    )
    .bind(name.to_string())
    .bind(everyone)
    .execute(conn)
    .await
    .during("assignment.end")?;
    Ok(())
}

/// Gives a revision to a target. What was given before has been ended.
///
/// # Errors
/// If the database fails.
pub async fn start(conn: &mut PgConnection, name: &LayerName, held: &Held, reason: &str, actor: &str) -> Result<()> {
    let Some((target, share_bp, labels)) = columns(&held.target) else { return Ok(()) };
    sqlx::query(
        "INSERT INTO assignment (name, revision, target, share_bp, labels, reason, actor, started_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp())",
    )
    .bind(name.to_string())
    .bind(held.revision.cast_signed())
    .bind(target)
    .bind(share_bp)
    .bind(labels)
    .bind(reason)
    .bind(actor)
    .execute(conn)
    .await
    .during("assignment.start")?;
    Ok(())
}

/// All decisions, in the order in which they were made.
///
/// # Errors
/// If the database fails.
pub async fn history(conn: &mut PgConnection, name: &LayerName) -> Result<Vec<v1::Assignment>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT revision, target, share_bp, labels, reason, actor, started_at, ended_at FROM assignment
         WHERE name = $1 ORDER BY assignment_id",
    )
    .bind(name.to_string())
    .fetch_all(conn)
    .await
    .during("assignment.history")?;
    rows.into_iter().map(Row::into_proto).collect()
}

/// Puts a decision back that was made elsewhere.
///
/// # Errors
/// If the database fails.
pub async fn put(conn: &mut PgConnection, name: &LayerName, decision: &Decision) -> Result<()> {
    let Decision { held, reason, actor, started_at, ended_at } = decision;
    let Some((target, share_bp, labels)) = columns(&held.target) else { return Ok(()) };
    sqlx::query(
        "INSERT INTO assignment (name, revision, target, share_bp, labels, reason, actor, started_at, ended_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(name.to_string())
    .bind(held.revision.cast_signed())
    .bind(target)
    .bind(share_bp)
    .bind(labels)
    .bind(reason)
    .bind(actor)
    .bind(started_at)
    .bind(ended_at)
    .execute(conn)
    .await
    .during("assignment.put")?;
    Ok(())
}

/// Who runs which revision of one policy or experiment.
///
/// # Errors
/// If there is none of that name, or the database fails.
pub async fn status(conn: &mut PgConnection, name: &LayerName) -> Result<v1::LayerStatus> {
    let object = object(&mut *conn, name).await?.filter(|object| !object.deleted);
    let text = name.to_string();
    let object = object.ok_or_else(|| Error::NotFound { name: text.clone() })?;
    let assignments =
        rows_in_force(&mut *conn, &text).await?.into_iter().map(Row::into_proto).collect::<Result<_>>()?;
    Ok(v1::LayerStatus {
        etag: object.etag(),
        latest_revision: object.latest_revision.cast_unsigned(),
        assignments,
        counts: counts(&mut *conn, &text).await?,
        rejections: rejections(&mut *conn, &text, REJECTIONS_MAX).await?,
        effective: effective(conn, &text).await?,
        name: text,
        notes: None,
    })
}

impl Row {
    fn into_proto(self) -> Result<v1::Assignment> {
        let Self { revision, target: kind, share_bp, labels, reason, actor, started_at, ended_at } = self;
        Ok(v1::Assignment {
            revision: revision.cast_unsigned(),
            target: Some(target(&kind, share_bp, labels.map(|labels| labels.0))?.to_proto()),
            reason,
            actor,
            start_time: Some(timestamp(started_at)),
            end_time: ended_at.map(timestamp),
        })
    }
}

/// The state of a layer on a node, from the view's word.
pub(super) fn state(word: &str) -> Result<v1::LayerState> {
    Ok(match word {
        "pending" => v1::LayerState::Pending,
        "in_force" => v1::LayerState::InForce,
        "rejected" => v1::LayerState::Rejected,
        "unavailable" => v1::LayerState::Unavailable,
        _ => return Err(Error::corrupt("state of a layer", word)),
    })
}

async fn counts(conn: &mut PgConnection, name: &str) -> Result<Vec<v1::RevisionCount>> {
    let rows: Vec<(i64, String, i64)> = sqlx::query_as(
        "SELECT assigned_revision, state, count(*) FROM node_layer_state
         WHERE layer = $1 AND assigned_revision > 0 GROUP BY 1, 2 ORDER BY 1, 2",
    )
    .bind(name)
    .fetch_all(conn)
    .await
    .during("assignment.counts")?;
    let count = |(revision, word, nodes): (i64, String, i64)| {
        let (revision, nodes) = (revision.cast_unsigned(), u32::try_from(nodes).unwrap_or(u32::MAX));
        Ok(v1::RevisionCount { revision, state: state(&word)?.into(), nodes })
    };
    rows.into_iter().map(count).collect()
}

/// Nodes with equal kernels answer with equal bytes, so there are few different answers.
async fn effective(conn: &mut PgConnection, name: &str) -> Result<Vec<v1::EffectiveOnNodes>> {
    let rows: Vec<(i64, Vec<u8>, i64)> = sqlx::query_as(
        "SELECT confirmed_revision, effective, count(*) FROM node_layer_state
         WHERE layer = $1 AND assigned_revision > 0 AND confirmed_revision > 0 AND effective IS NOT NULL
         GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2 LIMIT $2",
    )
    .bind(name)
    .bind(i64::try_from(EFFECTIVE_MAX).unwrap_or(i64::MAX))
    .fetch_all(conn)
    .await
    .during("assignment.effective")?;
    let mut all: Vec<v1::EffectiveOnNodes> = Vec::new();
    let mut known = HashMap::new();
    for (revision, answer, nodes) in rows {
        let (revision, nodes) = (revision.cast_unsigned(), u32::try_from(nodes).unwrap_or(u32::MAX));
        let answer = v1::Ack::decode(answer.as_slice())
            .map_err(|error| Error::corrupt(format!("effective values of {name}"), error))?;
        for value in answer.effective {
            let texts = [&value.field, &value.requested, &value.effective, &value.note].map(String::clone);
            let key = (revision, texts, value.caveats.clone());
            if let Some(&index) = known.get(&key) {
                let same: &mut v1::EffectiveOnNodes = &mut all[index];
                same.nodes = same.nodes.saturating_add(nodes);
            } else if all.len() < EFFECTIVE_MAX {
                known.insert(key, all.len());
                all.push(v1::EffectiveOnNodes { revision, value: Some(value), nodes });
            }
        }
    }
    Ok(all)
}

/// What the nodes that are to run a revision say of it.
///
/// # Errors
/// If the database fails.
pub async fn trial(conn: &mut PgConnection, name: &LayerName, revision: u64) -> Result<Trial> {
    let text = name.to_string();
    let rows: Vec<(bool, bool, bool, i64)> = sqlx::query_as(
        "SELECT state <> 'unavailable', rejected, confirmed_revision = $2, count(*) FROM node_layer_state
         WHERE layer = $1 AND assigned_revision = $2 GROUP BY 1, 2, 3",
    )
    .bind(&text)
    .bind(i64::try_from(revision).unwrap_or(i64::MAX))
    .fetch_all(&mut *conn)
    .await
    .during("assignment.trial")?;
    let mut trial = Trial::default();
    for (connected, rejected, confirmed, nodes) in rows {
        let of = match (rejected, confirmed, connected) {
            (true, ..) => &mut trial.refused,
            (false, true, true) => &mut trial.in_force,
            (false, true, false) => &mut trial.gone,
            (false, false, true) => &mut trial.silent,
            (false, false, false) => &mut trial.unavailable,
        };
        *of += nodes.cast_unsigned();
    }
    if trial.refused > 0 {
        let all = rejections(conn, &text, REJECTIONS_MAX).await?;
        trial.complaint = all.into_iter().find(|rejection| rejection.revision == revision).map(complaint);
    }
    Ok(trial)
}

fn complaint(rejection: v1::Rejection) -> String {
    match rejection.violations.first() {
        Some(v1::RuleViolation { field, description, .. }) if field.is_empty() => {
            format!("{}: {description}", rejection.node)
        }
        Some(v1::RuleViolation { field, description, .. }) => format!("{}: {field}: {description}", rejection.node),
        None => format!("{} does not say why", rejection.node),
    }
}

#[derive(sqlx::FromRow)]
struct RejectionRow {
    node_id: String,
    assigned_revision: i64,
    confirmed_revision: i64,
    violations: Option<Vec<u8>>,
    rejected_at: Option<DateTime<Utc>>,
}

async fn rejections(conn: &mut PgConnection, name: &str, limit: i64) -> Result<Vec<v1::Rejection>> {
    let rows: Vec<RejectionRow> = sqlx::query_as(
        "SELECT node_id, assigned_revision, confirmed_revision, violations, rejected_at FROM node_layer_state
         WHERE layer = $1 AND rejected ORDER BY rejected_at DESC, node_id LIMIT $2",
    )
    .bind(name)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("assignment.rejections")?;
    rows.into_iter().map(RejectionRow::into_proto).collect()
}

impl RejectionRow {
    fn into_proto(self) -> Result<v1::Rejection> {
        let Self { node_id, assigned_revision, confirmed_revision, violations, rejected_at } = self;
        let nack = v1::Nack::decode(violations.unwrap_or_default().as_slice())
            .map_err(|error| Error::corrupt(format!("rejection by nodes/{node_id}"), error))?;
        Ok(v1::Rejection {
            node: format!("nodes/{node_id}"),
            revision: assigned_revision.cast_unsigned(),
            violations: nack.violations,
            time: rejected_at.map(timestamp),
            revision_in_force: confirmed_revision.cast_unsigned(),
        })
    }
}
