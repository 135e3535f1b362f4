//! What experiments measure, when they run, and what was judged of them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures::{TryStreamExt, stream::BoxStream};
use prost::Message;
use sockpilot_outcomes::{Content, Measured};
use sockpilot_policy::model::{Comparison, LayerName};
use sockpilot_proto::{convert::experiment_from_proto, v1};
use uuid::Uuid;

use super::{
    choice,
    connection::PgConnection,
    error::{Error, Operation, Result},
    rollup,
};
use crate::outcome::{
    Level,
    cover::{Segment, cover},
};

/// When an epoch ran.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Run {
    pub revision: i64,
    /// First, in seconds since 1970.
    pub from_s: i64,
    /// Last; `None`: it runs.
    pub until_s: Option<i64>,
    /// When it ends by itself.
    pub ends_s: Option<i64>,
}

/// When an epoch ran; without a number the one that runs, or ran last. `None`: it never did.
pub async fn run(conn: &mut PgConnection, name: &LayerName, revision: u64) -> Result<Option<Run>> {
    sqlx::query_as(
        "SELECT revision, extract(epoch FROM min(started_at))::bigint AS from_s,
                CASE WHEN bool_or(ended_at IS NULL) THEN NULL ELSE extract(epoch FROM max(ended_at))::bigint END AS until_s,
                -- Of a run that was stopped and started again, the end of the last one, which may have none.
                ceil(extract(epoch FROM (array_agg(ends_at ORDER BY assignment_id DESC))[1]))::bigint AS ends_s
         FROM assignment JOIN revision USING (name, revision) JOIN layer_object USING (name)
         WHERE name = $1 AND target = 'everyone' AND ($2 = 0 OR revision = $2) AND revision.uid = layer_object.uid
         GROUP BY revision ORDER BY bool_or(ended_at IS NULL) DESC, max(assignment_id) DESC LIMIT 1",
    )
    .bind(name.to_string())
    .bind(i64::try_from(revision).unwrap_or(i64::MAX))
    .fetch_optional(conn)
    .await
    .during("experiment.run")
}

/// Epochs of an experiment that ran before another one, newest first.
pub async fn earlier(conn: &mut PgConnection, name: &LayerName, revision: i64, limit: i64) -> Result<Vec<i64>> {
    sqlx::query_scalar(
        "SELECT DISTINCT revision FROM assignment JOIN revision USING (name, revision) JOIN layer_object USING (name)
         WHERE name = $1 AND target = 'everyone' AND revision < $2 AND revision.uid = layer_object.uid
         ORDER BY revision DESC LIMIT $3",
    )
    .bind(name.to_string())
    .bind(revision)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("experiment.earlier")
}

/// Experiments that run.
pub async fn running(conn: &mut PgConnection) -> Result<Vec<LayerName>> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM assignment JOIN layer_object USING (name)
         WHERE kind = 'experiments' AND ended_at IS NULL AND target = 'everyone' ORDER BY name",
    )
    .fetch_all(conn)
    .await
    .during("experiment.running")?;
    names.into_iter().map(|name| name.parse().map_err(|error: String| Error::corrupt(name, error))).collect()
}

/// Has the running epoch end so many seconds after it was started; 0: it does not. At a whole second, so that the kernel, which counts
/// these, ends it when the server does and says.
pub async fn schedule(conn: &mut PgConnection, name: &LayerName, duration_s: u32) -> Result<()> {
    sqlx::query(
        "UPDATE assignment SET ends_at = CASE WHEN $2 > 0 THEN date_trunc('second', started_at) + make_interval(secs => $2) END
         WHERE name = $1 AND ended_at IS NULL AND target = 'everyone'",
    )
    .bind(name.to_string())
    .bind(f64::from(duration_s))
    .execute(conn)
    .await
    .during("experiment.schedule")?;
    Ok(())
}

/// When the running experiments end by themselves, in seconds since 1970.
pub async fn ends(conn: &mut PgConnection) -> Result<Vec<(String, i64)>> {
    sqlx::query_as(
        "SELECT name, ceil(extract(epoch FROM ends_at))::bigint FROM assignment
         WHERE ended_at IS NULL AND ends_at IS NOT NULL ORDER BY name",
    )
    .fetch_all(conn)
    .await
    .during("experiment.ends")
}

/// What was measured of an epoch until a second, by arm: in intervals that were over by then. From what is merged already where that is up
/// to date.
pub async fn measured(
    conn: &mut PgConnection,
    name: &LayerName,
    revision: i64,
    to_s: i64,
) -> Result<BTreeMap<String, Measured>> {
    measured_between(conn, &name.to_string(), revision, (0, to_s)).await
}

/// What was measured of an epoch or a rollout, by arm or part: in intervals that begin and end between two seconds.
pub async fn measured_between(
    conn: &mut PgConnection,
    layer: &str,
    revision: i64,
    (from_s, to_s): (i64, i64),
) -> Result<BTreeMap<String, Measured>> {
    let known = choice::of_layer(&mut *conn, layer, Some(revision)).await?;
    let ids: Vec<i32> = known.iter().map(|known| known.choice_id).collect();
    let arms: BTreeMap<i32, String> = known.into_iter().map(|known| (known.choice_id, known.choice)).collect();
    let mut found = BTreeMap::new();
    if ids.is_empty() {
        return Ok(found);
    }
    let buckets = rollup::up_to_date(&mut *conn, from_s, to_s).await?;
    let until_s = to_s;
    for Segment { level, from_s, to_s } in cover(from_s, to_s, &buckets) {
        add(rows(conn, level, (from_s, to_s, until_s), &ids), &arms, &mut found).await?;
    }
    Ok(found)
}

type Row = (i32, Vec<u8>);

fn rows<'c>(
    conn: &'c mut PgConnection,
    level: Option<Level>,
    (from_s, to_s, until_s): (i64, i64, i64),
    ids: &[i32],
) -> BoxStream<'c, std::result::Result<Row, sqlx::Error>> {
    // In an order that does not depend on the database: sums of floating-point numbers do.
    let statement = match level {
        Some(_) => {
            "SELECT choice_id, value FROM flow_rollup
             WHERE start_s >= $1 AND start_s < $2 AND choice_id = ANY($3) AND length_s = $4 AND size_class = 0
                 AND start_s + length_s <= $5
             ORDER BY start_s, choice_id, direction"
        }
        None => {
            "SELECT choice_id, value FROM flow_cell
             WHERE interval_start_s >= $1 AND interval_start_s < $2 AND choice_id = ANY($3) AND $4 = 0 AND size_class = 0
                 AND interval_start_s + interval_length_s <= $5
             ORDER BY interval_start_s, choice_id, source_id, direction, interval_length_s"
        }
    };
    let query = sqlx::query_as(statement).bind(from_s).bind(to_s).bind(ids.to_vec());
    query.bind(level.map_or(0, Level::length_s)).bind(until_s).fetch(conn)
}

async fn add(
    mut rows: BoxStream<'_, std::result::Result<Row, sqlx::Error>>,
    arms: &BTreeMap<i32, String>,
    found: &mut BTreeMap<String, Measured>,
) -> Result<()> {
    while let Some((choice_id, value)) = rows.try_next().await.during("experiment.measured")? {
        let (Some(arm), Content::Measured(measured)) = (arms.get(&choice_id), rollup::content(&value)?) else {
            continue;
        };
        let merged = found.entry(arm.clone()).or_default().merge(&measured);
        merged.map_err(|error| Error::corrupt("what an experiment measures", error))?;
    }
    Ok(())
}

/// What epochs compare; of those that there are.
pub async fn designs(conn: &mut PgConnection, epochs: &[(String, i64)]) -> Result<BTreeMap<(String, i64), Comparison>> {
    let (names, revisions): (Vec<_>, Vec<_>) = epochs.iter().cloned().unzip();
    let rows: Vec<(String, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT name, revision, document FROM revision JOIN layer_object USING (name)
         WHERE kind = 'experiments' AND (name, revision) IN (SELECT * FROM unnest($1::text[], $2::bigint[]))",
    )
    .bind(names)
    .bind(revisions)
    .fetch_all(conn)
    .await
    .during("experiment.designs")?;
    let mut found = BTreeMap::new();
    for (name, revision, document) in rows {
        let document = v1::Experiment::decode(document.as_slice());
        let document = document.map_err(|error| Error::corrupt(format!("document of {name}@{revision}"), error))?;
        if let Ok(experiment) = experiment_from_proto(&document, "") {
            found.insert((name, revision), experiment.design.comparison);
        }
    }
    Ok(found)
}

/// The least p-values of all looks at the shares of an epoch.
pub async fn least_share_p(conn: &mut PgConnection, name: &LayerName, revision: i64) -> Result<Vec<f64>> {
    let found: Option<Vec<f64>> =
        sqlx::query_scalar("SELECT least_share_p FROM experiment_look WHERE name = $1 AND revision = $2")
            .bind(name.to_string())
            .bind(revision)
            .fetch_optional(conn)
            .await
            .during("experiment.least_share_p")?;
    Ok(found.unwrap_or_default())
}

/// Notes them.
pub async fn note_look(conn: &mut PgConnection, name: &LayerName, revision: i64, least_share_p: &[f64]) -> Result<()> {
    sqlx::query(
        "INSERT INTO experiment_look (name, revision, least_share_p) VALUES ($1, $2, $3)
         ON CONFLICT ON CONSTRAINT experiment_look_pkey DO UPDATE SET least_share_p = excluded.least_share_p",
    )
    .bind(name.to_string())
    .bind(revision)
    .bind(least_share_p)
    .execute(conn)
    .await
    .during("experiment.note_look")?;
    Ok(())
}

/// Notes a verdict.
pub async fn note_verdict(
    conn: &mut PgConnection,
    name: &LayerName,
    evidence: &v1::Evidence,
    results: &v1::ExperimentResults,
) -> Result<(i64, DateTime<Utc>)> {
    let verdict = results.verdict.clone().unwrap_or_default();
    sqlx::query_as(
        "INSERT INTO verdict (name, revision, kind, arm, evidence, results) VALUES ($1, $2, $3, $4, $5, $6)
         RETURNING verdict_id, drawn_at",
    )
    .bind(name.to_string())
    .bind(evidence.revision.cast_signed())
    .bind(i16::try_from(verdict.kind).unwrap_or_default())
    .bind(verdict.arm)
    .bind(evidence.encode_to_vec())
    .bind(results.encode_to_vec())
    .fetch_one(conn)
    .await
    .during("experiment.note_verdict")
}

/// The newest verdict of an epoch: its kind and arm, and how many seconds ago it was drawn.
pub async fn last_verdict(
    conn: &mut PgConnection,
    name: &LayerName,
    revision: i64,
) -> Result<Option<(i16, String, f64)>> {
    sqlx::query_as(
        "SELECT kind, arm, extract(epoch FROM clock_timestamp() - drawn_at)::double precision FROM verdict
         WHERE name = $1 AND revision = $2 ORDER BY verdict_id DESC LIMIT 1",
    )
    .bind(name.to_string())
    .bind(revision)
    .fetch_optional(conn)
    .await
    .during("experiment.last_verdict")
}

/// Number, time, evidence and results.
type VerdictRow = (i64, DateTime<Utc>, Vec<u8>, Vec<u8>);

/// Verdicts before a number, newest first, with their numbers.
pub async fn verdicts(
    conn: &mut PgConnection,
    name: &LayerName,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<(i64, v1::RecordedVerdict)>> {
    let rows: Vec<VerdictRow> = sqlx::query_as(
        "SELECT verdict_id, drawn_at, evidence, results FROM verdict
         WHERE name = $1 AND ($2::bigint IS NULL OR verdict_id < $2) ORDER BY verdict_id DESC LIMIT $3",
    )
    .bind(name.to_string())
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("experiment.verdicts")?;
    let corrupt = |error| Error::corrupt("a verdict", error);
    let read = |(number, drawn_at, evidence, results): VerdictRow| {
        let evidence = v1::Evidence::decode(evidence.as_slice()).map_err(corrupt)?;
        let results = v1::ExperimentResults::decode(results.as_slice()).map_err(corrupt)?;
        Ok((number, recorded(name, (number, drawn_at), evidence, results)))
    };
    rows.into_iter().map(read).collect()
}

/// A verdict as it stands on the wire.
#[must_use]
pub fn recorded(
    name: &LayerName,
    (number, drawn_at): (i64, DateTime<Utc>),
    evidence: v1::Evidence,
    results: v1::ExperimentResults,
) -> v1::RecordedVerdict {
    v1::RecordedVerdict {
        name: format!("{name}/verdicts/{number}"),
        time: Some(crate::clock::timestamp(drawn_at)),
        evidence: Some(evidence),
        results: Some(results),
    }
}

/// Notes that an experiment is concluded.
pub async fn conclude(conn: &mut PgConnection, name: &LayerName, uid: Uuid, shipped_arm: &str) -> Result<()> {
    sqlx::query(
        "INSERT INTO experiment_conclusion (name, uid, shipped_arm) VALUES ($1, $2, $3)
         ON CONFLICT ON CONSTRAINT experiment_conclusion_pkey
         DO UPDATE SET shipped_arm = excluded.shipped_arm, concluded_at = excluded.concluded_at",
    )
    .bind(name.to_string())
    .bind(uid)
    .bind(shipped_arm)
    .execute(conn)
    .await
    .during("experiment.conclude")?;
    Ok(())
}

/// Takes back that it is concluded: it was started again.
pub async fn reopen(conn: &mut PgConnection, name: &LayerName) -> Result<()> {
    sqlx::query("DELETE FROM experiment_conclusion WHERE name = $1")
        .bind(name.to_string())
        .execute(conn)
        .await
        .during("experiment.reopen")?;
    Ok(())
}
