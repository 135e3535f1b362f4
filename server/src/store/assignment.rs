//! Decisions about who runs what.

use chrono::{DateTime, Utc};
use sockpilot_policy::model::LayerName;
use sockpilot_rollout::plan::ALL_FLOWS_BP;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
    wave,
};
use crate::change::{
    backup::PastAssignment,
    document::Document,
    plan::Assignment,
    target::Target,
    wave::{Canary, Selector},
};

/// Words of the column `target`.
const EVERYONE: &str = "everyone";
const CANARY: &str = "canary";

#[derive(sqlx::FromRow)]
pub(super) struct Row {
    pub(super) assignment_id: i64,
    pub(super) name: String,
    pub(super) revision: i64,
    target: String,
    salt: String,
    flow_share_bp: i32,
    reason: String,
    actor: String,
    started_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

/// A decision with whom it is for.
pub(super) struct Read {
    pub(super) row: Row,
    pub(super) target: Target,
}

/// Reads the waves of those that are canaries.
pub(super) async fn with_targets(conn: &mut PgConnection, rows: Vec<Row>) -> Result<Vec<Read>> {
    let canaries: Vec<_> = rows.iter().filter(|row| row.target != EVERYONE).map(|row| row.assignment_id).collect();
    let mut waves = wave::read(conn, &canaries).await?;
    let read = |row: Row| {
        let target = match (row.target.as_str(), waves.remove(&row.assignment_id)) {
            (EVERYONE, None) => Target::Everyone,
            (CANARY, Some(waves)) => {
                let (salt, flow_share_bp) = (row.salt.clone(), row.flow_share_bp.cast_unsigned());
                Target::Canary(Canary { salt, waves, flow_share_bp })
            }
            (target, _) => return Err(Error::corrupt("an assignment", format!("its target is {target}"))),
        };
        Ok(Read { row, target })
    };
    rows.into_iter().map(read).collect()
}

/// What is in force of one policy or experiment, or (empty) of all: by name, for everyone first, then the canary.
pub(super) async fn rows_in_force(conn: &mut PgConnection, name: &str) -> Result<Vec<Read>> {
    let rows = sqlx::query_as(
        "SELECT assignment_id, name, revision, target, salt, flow_share_bp, reason, actor, started_at, ended_at FROM assignment
         WHERE ($1 = '' OR name = $1) AND ended_at IS NULL ORDER BY name, target <> 'everyone'",
    )
    .bind(name)
    .fetch_all(&mut *conn)
    .await
    .during("assignment.in_force")?;
    with_targets(conn, rows).await
}

/// What is in force: for everyone first, then the canary.
pub async fn in_force(conn: &mut PgConnection, name: &LayerName) -> Result<Vec<Assignment>> {
    let read = rows_in_force(conn, &name.to_string()).await?;
    let held = |Read { row, target }: Read| Assignment { revision: row.revision.cast_unsigned(), target };
    Ok(read.into_iter().map(held).collect())
}

/// Revisions that everyone had before, the newest decision first.
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

/// A target by column, and its waves; nothing if it is nobody.
pub(super) fn words(target: &Target) -> Option<(&'static str, &str, u32, &[Selector])> {
    match target {
        Target::Everyone => Some((EVERYONE, "", ALL_FLOWS_BP, &[])),
        Target::Canary(Canary { salt, waves, flow_share_bp }) => Some((CANARY, salt, *flow_share_bp, waves)),
        Target::Nobody => None,
    }
}

/// Gives a revision to a target. What was given before has been ended.
pub async fn start(
    conn: &mut PgConnection,
    name: &LayerName,
    held: &Assignment,
    reason: &str,
    actor: &str,
) -> Result<()> {
    insert(conn, name, held, (reason, actor), None).await
}

/// Restores a decision that was made elsewhere.
pub async fn put(conn: &mut PgConnection, name: &LayerName, decision: &PastAssignment) -> Result<()> {
    let PastAssignment { held, reason, actor, started_at, ended_at } = decision;
    insert(conn, name, held, (reason, actor), Some((*started_at, *ended_at))).await
}

/// When a decision began and ended.
type Span = (DateTime<Utc>, Option<DateTime<Utc>>);

async fn insert(
    conn: &mut PgConnection,
    name: &LayerName,
    held: &Assignment,
    (reason, actor): (&str, &str),
    span: Option<Span>,
) -> Result<()> {
    let Some((target, salt, flow_share_bp, waves)) = words(&held.target) else { return Ok(()) };
    let (assignment_id,): (i64,) = sqlx::query_as(
        "INSERT INTO assignment (name, revision, target, salt, flow_share_bp, reason, actor, started_at, ended_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, coalesce($8, clock_timestamp()), $9) RETURNING assignment_id",
    )
    .bind(name.to_string())
    .bind(held.revision.cast_signed())
    .bind(target)
    .bind(salt)
    .bind(flow_share_bp.cast_signed())
    .bind(reason)
    .bind(actor)
    .bind(span.map(|(started_at, _)| started_at))
    .bind(span.and_then(|(_, ended_at)| ended_at))
    .fetch_one(&mut *conn)
    .await
    .during("assignment.insert")?;
    wave::write(conn, assignment_id, waves).await
}

/// All decisions, in the order in which they were made.
pub async fn history(conn: &mut PgConnection, name: &LayerName) -> Result<Vec<PastAssignment>> {
    let rows = sqlx::query_as(
        "SELECT assignment_id, name, revision, target, salt, flow_share_bp, reason, actor, started_at, ended_at FROM assignment
         WHERE name = $1 ORDER BY assignment_id",
    )
    .bind(name.to_string())
    .fetch_all(&mut *conn)
    .await
    .during("assignment.history")?;
    Ok(with_targets(conn, rows).await?.into_iter().map(Read::into_past).collect())
}

impl Read {
    pub(super) fn into_past(self) -> PastAssignment {
        let Self { row, target } = self;
        let Row {
            assignment_id: _,
            name: _,
            revision,
            target: _,
            salt: _,
            flow_share_bp: _,
            reason,
            actor,
            started_at,
            ended_at,
        } = row;
        PastAssignment {
            held: Assignment { revision: revision.cast_unsigned(), target },
            reason,
            actor,
            started_at,
            ended_at,
        }
    }
}
