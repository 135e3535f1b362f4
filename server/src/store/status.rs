//! How far decisions about who runs what have come.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use prost::Message;
use sockpilot_policy::model::LayerName;
use sockpilot_proto::v1;

use super::{
    assignment,
    connection::PgConnection,
    error::{Error, Operation, Result},
    layer::{object, timestamp},
};
use crate::change::Trial;

/// Greatest number of rejections in a status; a fleet that refuses more has one reason.
const REJECTIONS_MAX: i64 = 1_000;
/// Greatest number of effective values in a status, and of different answers of nodes that are looked at.
const EFFECTIVE_MAX: usize = 1_000;

/// Who runs which revision of one policy or experiment.
///
/// # Errors
/// If there is none of that name, or the database fails.
pub async fn status(conn: &mut PgConnection, name: &LayerName) -> Result<v1::LayerStatus> {
    let object = object(&mut *conn, name).await?.filter(|object| !object.deleted);
    let text = name.to_string();
    let object = object.ok_or_else(|| Error::NotFound { name: text.clone() })?;
    let in_force = assignment::rows_in_force(&mut *conn, &text).await?;
    Ok(v1::LayerStatus {
        etag: object.etag(),
        latest_revision: object.latest_revision.cast_unsigned(),
        assignments: in_force.into_iter().map(assignment::Read::into_proto).collect(),
        counts: counts(&mut *conn, &text).await?,
        rejections: rejections(&mut *conn, &text, REJECTIONS_MAX).await?,
        wave_counts: wave_counts(&mut *conn, &text).await?,
        effective: effective(conn, &text).await?,
        name: text,
        notes: None,
    })
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
    .during("status.counts")?;
    let count = |(revision, word, nodes): (i64, String, i64)| {
        let (revision, nodes) = (revision.cast_unsigned(), u32::try_from(nodes).unwrap_or(u32::MAX));
        Ok(v1::RevisionCount { revision, state: state(&word)?.into(), nodes })
    };
    rows.into_iter().map(count).collect()
}

async fn wave_counts(conn: &mut PgConnection, name: &str) -> Result<Vec<v1::WaveCount>> {
    let rows: Vec<(i16, String, i64)> = sqlx::query_as(
        "SELECT wave, state, count(*) FROM node_assignment JOIN node_layer_state USING (node_id, layer)
         WHERE layer = $1 AND wave IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2",
    )
    .bind(name)
    .fetch_all(conn)
    .await
    .during("status.wave_counts")?;
    let count = |(wave, word, nodes): (i16, String, i64)| {
        let (wave, nodes) = (u32::from(wave.cast_unsigned()), u32::try_from(nodes).unwrap_or(u32::MAX));
        Ok(v1::WaveCount { wave, state: state(&word)?.into(), nodes })
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
    .during("status.effective")?;
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
    .during("status.trial")?;
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
    .during("status.rejections")?;
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
