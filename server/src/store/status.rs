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
    layer::object,
};
use crate::{
    change::{backup::PastAssignment, plan::CanaryTally},
    fleet::node::LayerState,
};

/// Greatest number of rejections in a status; a fleet that refuses more has one reason.
const REJECTIONS_MAX: i64 = 1_000;
/// Greatest number of effective values in a status, and of different answers of nodes that are looked at.
const EFFECTIVE_MAX: usize = 1_000;

/// Who runs which revision of one policy or experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerStatus {
    pub name: LayerName,
    pub etag: String,
    pub latest_revision: u64,
    /// In force: for everyone first, then the canary.
    pub assignments: Vec<PastAssignment>,
    /// Nodes by revision and state.
    pub counts: Vec<(u64, LayerState, u32)>,
    pub rejections: Vec<Rejection>,
    /// Nodes of the canary by wave and state.
    pub wave_counts: Vec<(u32, LayerState, u32)>,
    /// By revision; with the number of nodes that say so.
    pub effective: Vec<(u64, v1::EffectiveValue, u32)>,
}

/// A node that refuses a revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejection {
    pub node_id: String,
    pub revision: u64,
    pub violations: Vec<v1::RuleViolation>,
    pub rejected_at: Option<DateTime<Utc>>,
    /// What acts there instead; 0: none.
    pub revision_in_force: u64,
}

/// Reads who runs which revision of one policy or experiment.
///
/// # Errors
/// If there is none of that name, or the database fails.
pub async fn status(conn: &mut PgConnection, name: &LayerName) -> Result<LayerStatus> {
    let object = object(&mut *conn, name).await?.filter(|object| !object.deleted);
    let text = name.to_string();
    let object = object.ok_or_else(|| Error::NotFound { name: text.clone() })?;
    let in_force = assignment::rows_in_force(&mut *conn, &text).await?;
    Ok(LayerStatus {
        name: name.clone(),
        etag: object.etag(),
        latest_revision: object.latest_revision.cast_unsigned(),
        assignments: in_force.into_iter().map(assignment::Read::into_past).collect(),
        counts: counts(&mut *conn, &text).await?,
        rejections: rejections(&mut *conn, &text, REJECTIONS_MAX).await?,
        wave_counts: wave_counts(&mut *conn, &text).await?,
        effective: effective(conn, &text).await?,
    })
}

/// The state of a layer on a node, from the view's word.
pub(super) fn state(word: &str) -> Result<LayerState> {
    Ok(match word {
        "pending" => LayerState::Pending,
        "in_force" => LayerState::InForce,
        "rejected" => LayerState::Rejected,
        "unavailable" => LayerState::Unavailable,
        _ => return Err(Error::corrupt("state of a layer", word)),
    })
}

async fn counts(conn: &mut PgConnection, name: &str) -> Result<Vec<(u64, LayerState, u32)>> {
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
        Ok((revision, state(&word)?, nodes))
    };
    rows.into_iter().map(count).collect()
}

async fn wave_counts(conn: &mut PgConnection, name: &str) -> Result<Vec<(u32, LayerState, u32)>> {
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
        Ok((wave, state(&word)?, nodes))
    };
    rows.into_iter().map(count).collect()
}

/// Nodes with equal kernels answer with equal bytes, so there are few different answers.
async fn effective(conn: &mut PgConnection, name: &str) -> Result<Vec<(u64, v1::EffectiveValue, u32)>> {
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
    let mut all: Vec<(u64, v1::EffectiveValue, u32)> = Vec::new();
    let mut known = HashMap::new();
    for (revision, answer, nodes) in rows {
        let (revision, nodes) = (revision.cast_unsigned(), u32::try_from(nodes).unwrap_or(u32::MAX));
        let answer = v1::Ack::decode(answer.as_slice())
            .map_err(|error| Error::corrupt(format!("effective values of {name}"), error))?;
        for value in answer.effective {
            let texts = [&value.field, &value.requested, &value.effective, &value.note].map(String::clone);
            let key = (revision, texts, value.caveats.clone());
            if let Some(&index) = known.get(&key) {
                let (_, _, same): &mut (u64, v1::EffectiveValue, u32) = &mut all[index];
                *same = same.saturating_add(nodes);
            } else if all.len() < EFFECTIVE_MAX {
                known.insert(key, all.len());
                all.push((revision, value, nodes));
            }
        }
    }
    Ok(all)
}

/// What the nodes that are to run a revision say of it.
pub async fn canary_tally(conn: &mut PgConnection, name: &LayerName, revision: u64) -> Result<CanaryTally> {
    let text = name.to_string();
    let rows: Vec<(bool, bool, bool, i64)> = sqlx::query_as(
        "SELECT state <> 'unavailable', rejected, confirmed_revision = $2, count(*) FROM node_layer_state
         WHERE layer = $1 AND assigned_revision = $2 GROUP BY 1, 2, 3",
    )
    .bind(&text)
    .bind(i64::try_from(revision).unwrap_or(i64::MAX))
    .fetch_all(&mut *conn)
    .await
    .during("status.canary_tally")?;
    let mut tally = CanaryTally::default();
    for (connected, rejected, confirmed, nodes) in rows {
        let of = match (rejected, confirmed, connected) {
            (true, ..) => &mut tally.refused,
            (false, true, true) => &mut tally.in_force,
            (false, true, false) => &mut tally.gone,
            (false, false, true) => &mut tally.silent,
            (false, false, false) => &mut tally.unavailable,
        };
        *of += nodes.cast_unsigned();
    }
    if tally.refused > 0 {
        let all = rejections(conn, &text, REJECTIONS_MAX).await?;
        tally.complaint = all.into_iter().find(|rejection| rejection.revision == revision).map(complaint);
    }
    Ok(tally)
}

fn complaint(rejection: Rejection) -> String {
    let node = format!("nodes/{}", rejection.node_id);
    match rejection.violations.first() {
        Some(v1::RuleViolation { field, description, .. }) if field.is_empty() => format!("{node}: {description}"),
        Some(v1::RuleViolation { field, description, .. }) => format!("{node}: {field}: {description}"),
        None => format!("{node} does not say why"),
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

async fn rejections(conn: &mut PgConnection, name: &str, limit: i64) -> Result<Vec<Rejection>> {
    let rows: Vec<RejectionRow> = sqlx::query_as(
        "SELECT node_id, assigned_revision, confirmed_revision, violations, rejected_at FROM node_layer_state
         WHERE layer = $1 AND rejected ORDER BY rejected_at DESC, node_id LIMIT $2",
    )
    .bind(name)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("status.rejections")?;
    rows.into_iter().map(RejectionRow::read).collect()
}

impl RejectionRow {
    fn read(self) -> Result<Rejection> {
        let Self { node_id, assigned_revision, confirmed_revision, violations, rejected_at } = self;
        let nack = v1::Nack::decode(violations.unwrap_or_default().as_slice())
            .map_err(|error| Error::corrupt(format!("rejection by nodes/{node_id}"), error))?;
        Ok(Rejection {
            node_id,
            revision: assigned_revision.cast_unsigned(),
            violations: nack.violations,
            rejected_at,
            revision_in_force: confirmed_revision.cast_unsigned(),
        })
    }
}
