//! A decision about a policy or an experiment, with its entry of the audit log, in one statement: other changes wait meanwhile.

use chrono::{DateTime, Utc};
use sockpilot_policy::model::LayerName;
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    assignment::words,
    connection::PgConnection,
    error::{Operation, Result},
    layer::Object,
    wave,
};
use crate::{
    change::{author::Author, difference::Difference, document::Document, plan::Plan},
    fleet::resolve::AuditHead,
};

/// What was decided, and by whom.
#[derive(Debug)]
pub struct Decision<'a> {
    pub name: &'a LayerName,
    pub plan: &'a Plan,
    /// The newest revision when it is carried out.
    pub latest: u64,
    /// What is stored as that, if the plan stores something.
    pub document: Option<&'a Document>,
    /// Nodes are to hear of it.
    pub concerns_nodes: bool,
    pub author: &'a Author,
    /// Which call makes such a decision, whoever made it.
    pub method: &'a str,
    /// Which revision it is about.
    pub about: u64,
    pub difference: Difference,
}

/// How things are now that it is carried out.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Decided {
    pub uid: Uuid,
    pub version: i64,
    /// When the revision was stored.
    pub stored_at: Option<DateTime<Utc>>,
    pub generation: i64,
    assignment_id: Option<i64>,
    audit_sequence: i64,
    audit_hash: Vec<u8>,
}

impl Decided {
    /// Its entry of the audit log.
    #[must_use]
    pub fn audit_head(&self) -> AuditHead {
        AuditHead { sequence: self.audit_sequence, hash: self.audit_hash.clone() }
    }

    /// The row of the policy or experiment.
    #[must_use]
    pub fn object(&self, latest: u64, deleted: bool) -> Object {
        Object { uid: self.uid, version: self.version, latest_revision: latest.cast_signed(), deleted }
    }
}

/// Carries it out. The transaction holds the lock of `control`.
pub async fn carry_out(conn: &mut PgConnection, decision: &Decision<'_>) -> Result<Decided> {
    let Decision { name, plan, latest, document, concerns_nodes, author, method, about, difference } = decision;
    let Plan { create, store: _, mend: _, end_everyone, end_canary, start, delete } = plan;
    let (target, salt, flow_share_bp, waves) =
        start.as_ref().and_then(|held| words(&held.target)).unwrap_or(("", "", 0, &[]));
    let decided: Decided = sqlx::query_as(
        "WITH object AS (
             INSERT INTO layer_object (name, latest_revision) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET version = layer_object.version + 1, latest_revision = excluded.latest_revision,
                 -- Who brings back what was deleted makes another object of it.
                 uid = CASE WHEN $3 THEN excluded.uid ELSE layer_object.uid END,
                 created_at = CASE WHEN $3 THEN excluded.created_at ELSE layer_object.created_at END,
                 deleted_at = CASE WHEN $4 THEN now() END
             RETURNING uid, version
         ), stored AS (
             INSERT INTO revision (name, revision, uid, document, node_labels, creator)
             SELECT $1, $2, uid, $5, $6, $7 FROM object WHERE $5 IS NOT NULL RETURNING created_at
         ), ended AS (
             UPDATE assignment SET ended_at = clock_timestamp()
             WHERE name = $1 AND ended_at IS NULL AND CASE WHEN target = 'everyone' THEN $8 ELSE $9 END
             RETURNING assignment_id
         ), started AS (
             -- It goes by the count, so that what was given before has ended.
             INSERT INTO assignment (name, revision, target, salt, flow_share_bp, reason, actor, started_at)
             SELECT $1, $10, $11, $12, $13, $14, $7, clock_timestamp()
             FROM (SELECT count(*) FROM ended) AS before WHERE $10 IS NOT NULL RETURNING assignment_id
         ), bumped AS (
             UPDATE control SET generation = generation + 1, changed_at = clock_timestamp() WHERE $15 RETURNING generation
         ), present AS (
             SELECT coalesce((SELECT generation FROM bumped), generation) AS generation FROM control
         ), entry AS (
             INSERT INTO audit (actor, proof, role, method, name, revision, generation, reason, request_id, request_json, difference_json)
             SELECT $7, $16, $17, $18, $1, $19, generation, $14, $20, $21::json, $22::json FROM present
             RETURNING sequence, hash
         )
         SELECT uid, version, (SELECT created_at FROM stored) AS stored_at, (SELECT assignment_id FROM started) AS assignment_id,
             present.generation, entry.sequence AS audit_sequence, entry.hash AS audit_hash
         FROM object CROSS JOIN present CROSS JOIN entry
         LEFT JOIN LATERAL
             (SELECT FROM pg_notify('sockpilot_generation', present.generation::text) WHERE $15) AS announced ON true",
    )
    .bind(name.to_string())
    .bind(latest.cast_signed())
    .bind(create)
    .bind(delete)
    .bind(document.map(Document::encode))
    .bind(Json(document.map(Document::node_labels).unwrap_or_default()))
    .bind(author.actor())
    .bind(end_everyone)
    .bind(end_canary)
    .bind(start.as_ref().map(|held| held.revision.cast_signed()))
    .bind(target)
    .bind(salt)
    .bind(flow_share_bp.cast_signed())
    .bind(author.reason())
    .bind(concerns_nodes)
    .bind(author.proof())
    .bind(author.role())
    .bind(method)
    .bind(about.cast_signed())
    .bind(author.request_id())
    .bind(author.basis_json())
    .bind(difference.as_json())
    .fetch_one(&mut *conn)
    .await
    .during("decision.carry_out")?;
    if let Some(assignment_id) = decided.assignment_id {
        wave::write(conn, assignment_id, waves).await?;
    }
    Ok(decided)
}
