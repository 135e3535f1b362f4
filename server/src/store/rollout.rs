//! Rollouts, where they are and how they came there.

use chrono::{DateTime, Utc};
use prost::Message;
use sockpilot_policy::model::LayerName;
use sockpilot_proto::v1;
use sockpilot_rollout::{
    machine::{Machine, Phase, Promoted, State},
    plan::Place,
};

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};
use crate::{
    clock::timestamp,
    rollout::{
        plans::read_stored,
        record::{Glass, Rollout},
    },
};

#[derive(sqlx::FromRow)]
struct Row {
    name: String,
    version: i64,
    policy: String,
    revision: i64,
    good_revision: Option<i64>,
    plan: Vec<u8>,
    salt: String,
    state: i16,
    phase: i16,
    wave: i16,
    step: i16,
    state_s: i64,
    step_s: i64,
    in_force_s: Option<i64>,
    promoted: i16,
    confirm_by_s: Option<i64>,
    step_generation: i64,
    reason: String,
    gates: Vec<u8>,
    creator: String,
    digest: Vec<u8>,
    approver: String,
    glass_actor: String,
    glass_reason: String,
    glass_s: Option<i64>,
    created_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

impl Row {
    fn read(self) -> Result<Rollout> {
        let corrupt = |why: String| Error::corrupt(&self.name, why);
        let known = |word: &str, number: i16| corrupt(format!("its {word} is {number}"));
        let place = |number: i16| usize::try_from(number).unwrap_or_default();
        let state = State::ALL.into_iter().find(|state| state.to_proto() as i32 == i32::from(self.state));
        let phase = Phase::ALL.into_iter().find(|phase| phase.to_proto() as i32 == i32::from(self.phase));
        let plan = v1::RolloutPlan::decode(self.plan.as_slice()).map_err(|error| corrupt(error.to_string()))?;
        let plan = read_stored(&plan).map_err(|faults| corrupt(faults.to_string()))?;
        let gates =
            v1::RolloutTransition::decode(self.gates.as_slice()).map_err(|error| corrupt(error.to_string()))?.gates;
        let machine = Machine {
            state: state.ok_or_else(|| known("state", self.state))?,
            place: Place { wave: place(self.wave), step: place(self.step) },
            phase: phase.ok_or_else(|| known("phase", self.phase))?,
            state_s: self.state_s,
            step_s: self.step_s,
            in_force_s: self.in_force_s,
            promoted: match self.promoted {
                0 => Promoted::No,
                1 => Promoted::Wait,
                _ => Promoted::Gates,
            },
            confirm_by_s: self.confirm_by_s,
        };
        let policy = self.policy.parse::<LayerName>().map_err(|error| corrupt(error.to_string()))?;
        Ok(Rollout {
            version: self.version.cast_unsigned(),
            policy,
            revision: self.revision.cast_unsigned(),
            good_revision: self.good_revision.map(i64::cast_unsigned),
            plan,
            salt: self.salt,
            machine,
            step_generation: self.step_generation.cast_unsigned(),
            reason: self.reason,
            gates,
            creator: self.creator,
            digest: self.digest,
            approver: self.approver,
            glass: self.glass_s.map(|since_s| Glass { actor: self.glass_actor, reason: self.glass_reason, since_s }),
            created_at: self.created_at,
            ended_at: self.ended_at,
            name: self.name,
        })
    }
}

/// A rollout.
///
/// # Errors
/// If there is none of this name, or the database fails.
pub async fn get(conn: &mut PgConnection, name: &str) -> Result<Rollout> {
    let row: Option<Row> = sqlx::query_as("SELECT * FROM rollout WHERE name = $1")
        .bind(name)
        .fetch_optional(conn)
        .await
        .during("rollout.get")?;
    row.ok_or_else(|| Error::NotFound { name: name.to_owned() })?.read()
}

/// Rollouts of these names and revisions; of those that there are.
pub async fn of_revisions(conn: &mut PgConnection, wanted: &[(String, i64)]) -> Result<Vec<Rollout>> {
    if wanted.is_empty() {
        return Ok(vec![]);
    }
    let (names, revisions): (Vec<_>, Vec<_>) = wanted.iter().cloned().unzip();
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT * FROM rollout WHERE (name, revision) IN (SELECT * FROM unnest($1::text[], $2::bigint[]))",
    )
    .bind(names)
    .bind(revisions)
    .fetch_all(conn)
    .await
    .during("rollout.of_revisions")?;
    rows.into_iter().map(Row::read).collect()
}

/// Which rollouts are listed.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this policy; empty: of all.
    pub policy: String,
    /// Only those that are not over.
    pub active: bool,
    /// Only those that were made before this one.
    pub before: Option<String>,
}

/// Rollouts, newest first.
pub async fn list(conn: &mut PgConnection, filter: &Filter, limit: i64) -> Result<Vec<Rollout>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT * FROM rollout WHERE ($1 = '' OR policy = $1) AND (NOT $2 OR ended_at IS NULL)
             AND ($3::text IS NULL OR (created_at, name) < (SELECT created_at, name FROM rollout WHERE name = $3))
         ORDER BY created_at DESC, name DESC LIMIT $4",
    )
    .bind(&filter.policy)
    .bind(filter.active)
    .bind(&filter.before)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("rollout.list")?;
    rows.into_iter().map(Row::read).collect()
}

/// The rollout of a policy that gives its nodes something, or takes it back.
pub async fn running(conn: &mut PgConnection, policy: &LayerName) -> Result<Option<Rollout>> {
    let row: Option<Row> = sqlx::query_as("SELECT * FROM rollout WHERE policy = $1 AND state IN (2, 3, 4)")
        .bind(policy.to_string())
        .fetch_optional(conn)
        .await
        .during("rollout.running")?;
    row.map(Row::read).transpose()
}

/// All rollouts that are not over.
pub async fn active(conn: &mut PgConnection) -> Result<Vec<Rollout>> {
    let rows: Vec<Row> = sqlx::query_as("SELECT * FROM rollout WHERE ended_at IS NULL ORDER BY name")
        .fetch_all(conn)
        .await
        .during("rollout.active")?;
    rows.into_iter().map(Row::read).collect()
}

/// Whether there is a rollout of this name.
pub async fn exists(conn: &mut PgConnection, name: &str) -> Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM rollout WHERE name = $1)")
        .bind(name)
        .fetch_one(conn)
        .await
        .during("rollout.exists")
}

/// Names and versions of the rollouts that are not over.
pub async fn active_versions(conn: &mut PgConnection) -> Result<Vec<(String, i64)>> {
    sqlx::query_as("SELECT name, version FROM rollout WHERE ended_at IS NULL ORDER BY name")
        .fetch_all(conn)
        .await
        .during("rollout.active_versions")
}

/// Rollouts that nodes are to know of, at most one for a policy.
pub async fn on_nodes(conn: &mut PgConnection) -> Result<Vec<Rollout>> {
    let rows: Vec<Row> = sqlx::query_as("SELECT * FROM rollout WHERE state IN (2, 3)")
        .fetch_all(conn)
        .await
        .during("rollout.on_nodes")?;
    rows.into_iter().map(Row::read).collect()
}

/// Stores a new rollout.
pub async fn insert(conn: &mut PgConnection, rollout: &Rollout) -> Result<()> {
    sqlx::query(
        "INSERT INTO rollout (name, policy, revision, good_revision, plan, salt, creator, digest, reason,
             state, phase, wave, step, state_s, step_s, promoted)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', 1, 1, 0, 0, 0, 0, 0)",
    )
    .bind(&rollout.name)
    .bind(rollout.policy.to_string())
    .bind(rollout.revision.cast_signed())
    .bind(rollout.good_revision.map(u64::cast_signed))
    .bind(rollout.plan.message.encode_to_vec())
    .bind(&rollout.salt)
    .bind(&rollout.creator)
    .bind(&rollout.digest)
    .execute(&mut *conn)
    .await
    .during("rollout.insert")?;
    update(conn, rollout).await.map(drop)
}

/// Writes where a rollout is, if nobody else has since it was read. Answers with its new version.
///
/// # Errors
/// [`Error::Overtaken`] if somebody has; or if the database fails.
pub async fn update(conn: &mut PgConnection, rollout: &Rollout) -> Result<u64> {
    let Machine { state, place, phase, state_s, step_s, in_force_s, promoted, confirm_by_s } = rollout.machine;
    let number = |number: usize| i16::try_from(number).unwrap_or(i16::MAX);
    let version: Option<i64> = sqlx::query_scalar(
        "UPDATE rollout SET version = version + 1, state = $3, phase = $4, wave = $5, step = $6, state_s = $7, step_s = $8,
             in_force_s = $9, promoted = $10, confirm_by_s = $11, step_generation = $12, reason = $13, gates = $14,
             approver = $15, good_revision = $16, glass_actor = $17, glass_reason = $18, glass_s = $19,
             ended_at = CASE WHEN $3 IN (5, 6, 7, 8) THEN coalesce(ended_at, clock_timestamp()) END
         WHERE name = $1 AND version = $2 RETURNING version",
    )
    .bind(&rollout.name)
    .bind(rollout.version.cast_signed())
    .bind(state.to_proto() as i16)
    .bind(phase.to_proto() as i16)
    .bind(number(place.wave))
    .bind(number(place.step))
    .bind(state_s)
    .bind(step_s)
    .bind(in_force_s)
    .bind(match promoted {
        Promoted::No => 0_i16,
        Promoted::Wait => 1,
        Promoted::Gates => 2,
    })
    .bind(confirm_by_s)
    .bind(rollout.step_generation.cast_signed())
    .bind(&rollout.reason)
    .bind(v1::RolloutTransition { gates: rollout.gates.clone(), ..v1::RolloutTransition::default() }.encode_to_vec())
    .bind(&rollout.approver)
    .bind(rollout.good_revision.map(u64::cast_signed))
    .bind(rollout.glass.as_ref().map_or("", |glass| &glass.actor))
    .bind(rollout.glass.as_ref().map_or("", |glass| &glass.reason))
    .bind(rollout.glass.as_ref().map(|glass| glass.since_s))
    .fetch_optional(conn)
    .await
    .during("rollout.update")?;
    version.map(i64::cast_unsigned).ok_or_else(|| Error::Overtaken { name: rollout.name.clone() })
}

/// Notes what the gates say, without a transition: no other change is in its way.
pub async fn note_gates(conn: &mut PgConnection, name: &str, gates: &[v1::GateResult]) -> Result<()> {
    sqlx::query("UPDATE rollout SET gates = $2 WHERE name = $1")
        .bind(name)
        .bind(v1::RolloutTransition { gates: gates.to_vec(), ..v1::RolloutTransition::default() }.encode_to_vec())
        .execute(conn)
        .await
        .during("rollout.note_gates")?;
    Ok(())
}

/// Adds a transition.
pub async fn note(conn: &mut PgConnection, name: &str, transition: &v1::RolloutTransition) -> Result<()> {
    sqlx::query("INSERT INTO rollout_transition (rollout, transition) VALUES ($1, $2)")
        .bind(name)
        .bind(transition.encode_to_vec())
        .execute(conn)
        .await
        .during("rollout.note")?;
    Ok(())
}

/// Transitions of a rollout before a number, newest first, with their numbers.
pub async fn transitions(
    conn: &mut PgConnection,
    name: &str,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<(i64, v1::RolloutTransition)>> {
    let rows: Vec<(i64, DateTime<Utc>, Vec<u8>)> = sqlx::query_as(
        "SELECT transition_id, at, transition FROM rollout_transition
         WHERE rollout = $1 AND ($2::bigint IS NULL OR transition_id < $2) ORDER BY transition_id DESC LIMIT $3",
    )
    .bind(name)
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("rollout.transitions")?;
    let read = |(number, at, transition): (i64, DateTime<Utc>, Vec<u8>)| {
        let transition = v1::RolloutTransition::decode(transition.as_slice())
            .map_err(|error| Error::corrupt(format!("a transition of {name}"), error))?;
        Ok((number, v1::RolloutTransition { time: Some(timestamp(at)), ..transition }))
    };
    rows.into_iter().map(read).collect()
}
