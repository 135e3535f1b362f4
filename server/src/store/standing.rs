//! How things are with a policy or an experiment, as far as a change of it goes by that: all of it in one statement, because other changes
//! wait meanwhile.

use sockpilot_policy::model::LayerName;
use sqlx::{AssertSqlSafe, FromRow, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    connection::PgConnection,
    error::{Operation, Result},
    layer::{Object, Row},
};
use crate::change::document::Document;

/// What a change goes by.
#[derive(Debug)]
pub struct Standing {
    /// The database's.
    pub epoch: Uuid,
    pub generation: u64,
    /// `None`: there never was one of this name.
    pub object: Option<Object>,
    /// The newest revision of what is not deleted.
    pub newest: Option<Document>,
    pub everyone: Option<u64>,
    pub has_canary: bool,
    /// A rollout gives its nodes something, or takes it back.
    pub in_rollout: bool,
    /// Revisions that everyone had before, the newest decision first, if they were asked for.
    pub had_before: Vec<u64>,
    /// Revisions that some node has had in force at some time, if they were asked for; else only the newest revision.
    pub confirmed: Vec<u64>,
    /// Of all assigned documents together: no node's snapshot is larger.
    pub bytes_in_force: u64,
    /// All nodes, and those that are there now, if they were asked for.
    pub nodes: (u32, u32),
}

/// What is asked for. Each combination is a statement of its own, so that the database plans each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What was in force and confirmed before.
    pub history: bool,
    /// How many nodes there are.
    pub nodes: bool,
}

/// Reads it.
pub async fn read(conn: &mut PgConnection, name: &LayerName, wanted: Wanted) -> Result<Standing> {
    let row = sqlx::query(AssertSqlSafe(statement(wanted)))
        .bind(name.to_string())
        .fetch_one(conn)
        .await
        .during("standing.read")?;
    standing(name, &row).during("standing.read")?
}

fn statement(Wanted { history, nodes }: Wanted) -> String {
    let had_before = if history {
        "array(SELECT assignment.revision FROM assignment JOIN revision USING (name, revision)
               WHERE name = $1 AND ended_at IS NOT NULL AND target = 'everyone' AND revision.uid = object.uid
               ORDER BY assignment_id DESC LIMIT 1000)"
    } else {
        "'{}'::bigint[]"
    };
    let confirmed = if history { "" } else { "AND revision = object.latest_revision" };
    let nodes = if nodes {
        "(SELECT count(*) AS nodes, count(*) FILTER (WHERE connected) AS connected_nodes FROM node_presence)"
    } else {
        "(SELECT 0::bigint AS nodes, 0::bigint AS connected_nodes)"
    };
    format!(
        "SELECT control.database_epoch, control.generation, nodes, connected_nodes,
             object.deleted_at IS NOT NULL AS deleted, object.latest_revision,
             newest.name, newest.revision, newest.uid, newest.document, newest.words, newest.created_at, newest.creator,
             object.uid AS object_uid, object.version, newest.state, newest.started_at, newest.ends_at, newest.shipped_arm,
             (SELECT revision FROM assignment WHERE name = $1 AND ended_at IS NULL AND target = 'everyone') AS everyone,
             EXISTS (SELECT FROM assignment WHERE name = $1 AND ended_at IS NULL AND target <> 'everyone') AS has_canary,
             EXISTS (SELECT FROM rollout WHERE policy = $1 AND rollout.state IN (2, 3, 4)) AS in_rollout,
             {had_before} AS had_before,
             array(SELECT revision FROM confirmed_revision WHERE name = $1 {confirmed}) AS confirmed,
             (SELECT coalesce(sum(octet_length(document)), 0)::bigint
              FROM assignment JOIN revision USING (name, revision) WHERE ended_at IS NULL) AS bytes_in_force
         FROM control CROSS JOIN {nodes} AS fleet LEFT JOIN layer_object AS object ON object.name = $1
         LEFT JOIN layer_document AS newest
             ON newest.name = object.name AND newest.revision = object.latest_revision AND object.deleted_at IS NULL"
    )
}

/// Why the row is none, or why a document in it is none.
fn standing(name: &LayerName, row: &PgRow) -> std::result::Result<Result<Standing>, sqlx::Error> {
    let unsigned =
        |column| row.try_get::<Vec<i64>, _>(column).map(|all| all.into_iter().map(i64::cast_unsigned).collect());
    let count = |column| row.try_get::<i64, _>(column).map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    let object = match row.try_get::<Option<Uuid>, _>("object_uid")? {
        None => None,
        Some(uid) => Some(Object {
            uid,
            version: row.try_get("version")?,
            latest_revision: row.try_get("latest_revision")?,
            deleted: row.try_get("deleted")?,
        }),
    };
    let newest = match row.try_get::<Option<i64>, _>("revision")? {
        None => None,
        Some(_) => match Row::from_row(row)?.into_document(name.kind) {
            Ok(document) => Some(document),
            Err(corrupt) => return Ok(Err(corrupt)),
        },
    };
    Ok(Ok(Standing {
        epoch: row.try_get("database_epoch")?,
        generation: row.try_get::<i64, _>("generation")?.cast_unsigned(),
        object,
        newest,
        everyone: row.try_get::<Option<i64>, _>("everyone")?.map(i64::cast_unsigned),
        has_canary: row.try_get("has_canary")?,
        in_rollout: row.try_get("in_rollout")?,
        had_before: unsigned("had_before")?,
        confirmed: unsigned("confirmed")?,
        bytes_in_force: row.try_get::<i64, _>("bytes_in_force")?.cast_unsigned(),
        nodes: (count("nodes")?, count("connected_nodes")?),
    }))
}
