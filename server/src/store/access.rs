//! Who may do what: people, tokens, who is shut out, and labels that are pinned.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sockpilot_identity::name::Role;
use sockpilot_policy::model::Labels;
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};
use crate::auth::{
    caller::Bound,
    token::Hash,
    trust::{Held, Revoked, Trust},
};

/// Of which state of these tables `known` is not; `None`: it is the newest.
pub async fn newer(conn: &mut PgConnection, known: i64) -> Result<Option<i64>> {
    let query = sqlx::query_scalar("SELECT version FROM access_version WHERE version <> $1").bind(known);
    query.fetch_optional(conn).await.during("access.newer")
}

/// Every change of these tables is noted.
pub async fn bump(conn: &mut PgConnection) -> Result<()> {
    let query = sqlx::query("UPDATE access_version SET version = version + 1");
    query.execute(conn).await.during("access.bump").map(drop)
}

/// Makes every replica read anew, whichever state it knows: what was lost of a broken history had numbers that will come again.
pub async fn jump(conn: &mut PgConnection) -> Result<()> {
    let query = sqlx::query(
        "UPDATE access_version SET version = greatest(version + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)",
    );
    query.execute(conn).await.during("access.jump").map(drop)
}

fn role(text: &str) -> Result<Role> {
    text.parse().map_err(|error: String| Error::corrupt("a role", error))
}

/// Reads all of it.
pub async fn load(conn: &mut PgConnection, version: i64) -> Result<Trust> {
    let mut trust = Trust { version, ..Trust::default() };
    for (name, person_role, bound) in people(&mut *conn, "", i64::MAX).await? {
        trust.people.insert(name, (person_role, bound));
    }
    type TokenRow = (Vec<u8>, String, String, Json<Bound>, DateTime<Utc>, DateTime<Utc>);
    let tokens: Vec<TokenRow> = sqlx::query_as(
        "SELECT hash, holder, role, bound, created_at, expires_at FROM token
         WHERE role IS NOT NULL AND expires_at > clock_timestamp()",
    )
    .fetch_all(&mut *conn)
    .await
    .during("access.tokens")?;
    for (hash, holder, text, Json(bound), made, expires) in tokens {
        let hash = Hash::try_from(hash).map_err(|_| Error::corrupt("a token", "its hash is too short"))?;
        let held = Held { holder, role: role(&text)?, bound, made: made.into(), expires: expires.into() };
        trust.tokens.insert(hash, held);
    }
    for row in revocations(&mut *conn, "", i64::MAX).await? {
        trust.revoked.insert(row.name, Revoked { at: row.revoked_at.into(), shut_out: row.shut_out });
    }
    let pinned: Vec<(String, Json<Labels>)> =
        sqlx::query_as("SELECT node_id, labels FROM pinned_labels").fetch_all(conn).await.during("access.pinned")?;
    trust.pinned = pinned.into_iter().map(|(node_id, Json(labels))| (node_id, labels)).collect();
    Ok(trust)
}

/// Says what a person may do.
pub async fn put_person(conn: &mut PgConnection, name: &str, role: Role, bound: &Bound) -> Result<()> {
    let query = sqlx::query(
        "INSERT INTO person (name, role, bound) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET role = excluded.role, bound = excluded.bound",
    );
    query.bind(name).bind(role.as_str()).bind(Json(bound)).execute(conn).await.during("access.put_person").map(drop)
}

/// Takes it back. Whether there was anything.
pub async fn delete_person(conn: &mut PgConnection, name: &str) -> Result<bool> {
    let query = sqlx::query("DELETE FROM person WHERE name = $1").bind(name);
    Ok(query.execute(conn).await.during("access.delete_person")?.rows_affected() > 0)
}

/// People after a name.
pub async fn people(conn: &mut PgConnection, after: &str, limit: i64) -> Result<Vec<(String, Role, Bound)>> {
    let rows: Vec<(String, String, Json<Bound>)> =
        sqlx::query_as("SELECT name, role, bound FROM person WHERE name > $1 ORDER BY name LIMIT $2")
            .bind(after)
            .bind(limit)
            .fetch_all(conn)
            .await
            .during("access.people")?;
    rows.into_iter().map(|(name, text, Json(bound))| Ok((name, role(&text)?, bound))).collect()
}

/// What the tables say of something, by its resource name, for people to see: of a token what it is good for, and nothing by which it could
/// be had.
pub async fn shown(conn: &mut PgConnection, name: &str) -> Result<Value> {
    let id = name.split_once('/').map_or("", |(_, id)| id);
    sqlx::query_scalar(
        "SELECT jsonb_strip_nulls(jsonb_build_object(
             'person', (SELECT jsonb_build_object('role', role, 'bound', bound) FROM person
                        WHERE $1 LIKE 'people/%' AND person.name = $2),
             'token', (SELECT jsonb_build_object('role', role, 'holder', holder, 'bound', bound, 'labels', labels, 'expires', expires_at)
                       FROM token WHERE $1 LIKE 'tokens/%' AND token_id::text = $2),
             'pinnedLabels', (SELECT labels FROM pinned_labels WHERE $1 LIKE 'nodes/%' AND node_id = $2),
             'revoked', (SELECT jsonb_build_object('at', revoked_at, 'shutOut', shut_out) FROM revocation WHERE revocation.name = $1)))",
    )
    .bind(name)
    .bind(id)
    .fetch_one(conn)
    .await
    .during("access.shown")
}

/// A token that is made.
#[derive(Debug, Clone, PartialEq)]
pub struct NewToken {
    pub id: Uuid,
    pub hash: Hash,
    /// `None`: to join.
    pub role: Option<Role>,
    pub holder: String,
    pub bound: Bound,
    pub labels: Labels,
    pub life: Duration,
}

/// Adds a token, and forgets those that ran out a month ago.
pub async fn add_token(conn: &mut PgConnection, token: &NewToken, creator: &str) -> Result<()> {
    let NewToken { id, hash, role, holder, bound, labels, life } = token;
    sqlx::query(
        "INSERT INTO token (token_id, hash, role, holder, bound, labels, creator, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp() + make_interval(secs => $8))",
    )
    .bind(id)
    .bind(hash.to_vec())
    .bind(role.map(Role::as_str))
    .bind(holder)
    .bind(Json(bound))
    .bind(Json(labels))
    .bind(creator)
    .bind(life.as_secs_f64())
    .execute(&mut *conn)
    .await
    .during("access.add_token")?;
    let old = sqlx::query("DELETE FROM token WHERE expires_at < now() - interval '30 days'");
    old.execute(conn).await.during("access.forget_tokens").map(drop)
}

/// Deletes a token. Whether there was one.
pub async fn delete_token(conn: &mut PgConnection, id: Uuid) -> Result<bool> {
    let query = sqlx::query("DELETE FROM token WHERE token_id = $1").bind(id);
    Ok(query.execute(conn).await.during("access.delete_token")?.rows_affected() > 0)
}

/// A token as it is shown.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct TokenRow {
    pub token_id: Uuid,
    pub role: Option<String>,
    pub holder: String,
    #[sqlx(json)]
    pub bound: Bound,
    #[sqlx(json)]
    pub labels: Labels,
    pub creator: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub used_at: Option<DateTime<Utc>>,
    pub used_by: Option<String>,
}

/// A token.
pub async fn token(conn: &mut PgConnection, id: Option<Uuid>) -> Result<Option<TokenRow>> {
    sqlx::query_as(
        "SELECT token_id, role, holder, bound, labels, creator, created_at, expires_at, used_at, used_by FROM token
         WHERE token_id = $1",
    )
    .bind(id)
    .fetch_optional(conn)
    .await
    .during("access.token")
}

/// Tokens before one, newest first: ids are made of the time.
pub async fn tokens(conn: &mut PgConnection, before: Option<Uuid>, limit: i64) -> Result<Vec<TokenRow>> {
    sqlx::query_as(
        "SELECT token_id, role, holder, bound, labels, creator, created_at, expires_at, used_at, used_by FROM token
         WHERE $1::uuid IS NULL OR token_id < $1 ORDER BY token_id DESC LIMIT $2",
    )
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("access.list_tokens")
}

/// Uses a token up, for a node that joins; answers with the labels of its certificate. `None`: it may not. A token that names no node
/// is for one that nobody knows yet, so that it takes nobody's place.
pub async fn join(conn: &mut PgConnection, hash: &Hash, node_id: &str) -> Result<Option<Labels>> {
    let labels: Option<Json<Labels>> = sqlx::query_scalar(
        "UPDATE token SET used_at = clock_timestamp(), used_by = $2
         WHERE hash = $1 AND role IS NULL AND used_at IS NULL AND expires_at > clock_timestamp()
             AND (holder = $2 OR holder = ''
                  AND NOT EXISTS (SELECT FROM node WHERE node_id = $2)
                  AND NOT EXISTS (SELECT FROM token AS other WHERE other.used_by = $2))
             AND NOT EXISTS (SELECT FROM revocation WHERE name = 'nodes/' || $2 AND shut_out)
         RETURNING labels",
    )
    .bind(hash.to_vec())
    .bind(node_id)
    .fetch_optional(conn)
    .await
    .during("access.join")?;
    Ok(labels.map(|Json(labels)| labels))
}

/// Somebody who was shut out.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Revocation {
    pub name: String,
    pub revoked_at: DateTime<Utc>,
    pub shut_out: bool,
    pub reason: String,
}

/// Shuts somebody out.
pub async fn revoke(conn: &mut PgConnection, name: &str, reason: &str) -> Result<()> {
    let query = sqlx::query(
        "INSERT INTO revocation (name, reason) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET revoked_at = clock_timestamp(), shut_out = true, reason = excluded.reason",
    );
    query.bind(name).bind(reason).execute(conn).await.during("access.revoke").map(drop)
}

/// Lets somebody in again. Whether they were shut out.
pub async fn admit(conn: &mut PgConnection, name: &str) -> Result<bool> {
    let query = sqlx::query("UPDATE revocation SET shut_out = false WHERE name = $1 AND shut_out").bind(name);
    Ok(query.execute(conn).await.during("access.admit")?.rows_affected() > 0)
}

/// Those who were shut out, after a name.
pub async fn revocations(conn: &mut PgConnection, after: &str, limit: i64) -> Result<Vec<Revocation>> {
    sqlx::query_as("SELECT name, revoked_at, shut_out, reason FROM revocation WHERE name > $1 ORDER BY name LIMIT $2")
        .bind(after)
        .bind(limit)
        .fetch_all(conn)
        .await
        .during("access.revocations")
}

/// One of them.
pub async fn revocation(conn: &mut PgConnection, name: &str) -> Result<Option<Revocation>> {
    sqlx::query_as("SELECT name, revoked_at, shut_out, reason FROM revocation WHERE name = $1")
        .bind(name)
        .fetch_optional(conn)
        .await
        .during("access.revocation")
}

/// Says which labels a node has, and has it have them at once, as far as it is known.
pub async fn pin(conn: &mut PgConnection, node_id: &str, labels: &Labels) -> Result<()> {
    let query = match labels.is_empty() {
        true => sqlx::query("DELETE FROM pinned_labels WHERE node_id = $1"),
        false => sqlx::query(
            "INSERT INTO pinned_labels (node_id, labels) VALUES ($1, $2)
             ON CONFLICT (node_id) DO UPDATE SET labels = excluded.labels",
        ),
    };
    let query = query.bind(node_id);
    let query = if labels.is_empty() { query } else { query.bind(Json(labels)) };
    query.execute(&mut *conn).await.during("access.pin")?;
    let known = sqlx::query("UPDATE node SET labels = labels || $2 WHERE node_id = $1");
    known.bind(node_id).bind(Json(labels)).execute(conn).await.during("access.pin_known").map(drop)
}

/// The labels that are pinned for a node.
pub async fn pinned(conn: &mut PgConnection, node_id: &str) -> Result<Labels> {
    let labels: Option<Json<Labels>> = sqlx::query_scalar("SELECT labels FROM pinned_labels WHERE node_id = $1")
        .bind(node_id)
        .fetch_optional(conn)
        .await
        .during("access.pinned_of")?;
    Ok(labels.map(|Json(labels)| labels).unwrap_or_default())
}
