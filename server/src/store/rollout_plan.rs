//! Plans and settings of rollouts.

use chrono::{DateTime, Utc};
use prost::Message;
use sockpilot_policy::fault::Collector;
use sockpilot_proto::v1;
use uuid::Uuid;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};
use crate::{
    clock::timestamp,
    rollout::plans::{SETTINGS, Settings, built_in, plain, plain_settings, read_settings},
};

#[derive(sqlx::FromRow)]
struct Row {
    name: String,
    uid: Uuid,
    revision: i64,
    document: Vec<u8>,
    created_at: DateTime<Utc>,
    creator: String,
}

impl Row {
    fn read(self) -> Result<v1::RolloutPlan> {
        let Self { name, uid, revision, document, created_at, creator } = self;
        let plan = v1::RolloutPlan::decode(document.as_slice()).map_err(|error| Error::corrupt(&name, error))?;
        Ok(v1::RolloutPlan {
            name,
            revision: revision.cast_unsigned(),
            etag: format!("{:08x}-{revision}", uid.as_fields().0),
            create_time: Some(timestamp(created_at)),
            creator,
            ..plan
        })
    }
}

/// A plan that nobody has changed has this.
const ETAG_BUILT_IN: &str = "1";

fn of_the_start() -> impl Iterator<Item = v1::RolloutPlan> {
    built_in().into_iter().map(|plan| v1::RolloutPlan { etag: ETAG_BUILT_IN.to_owned(), ..plan })
}

/// A plan.
///
/// # Errors
/// If there is none of this name, or the database fails.
pub async fn get(conn: &mut PgConnection, name: &str) -> Result<v1::RolloutPlan> {
    let row: Option<Row> =
        sqlx::query_as("SELECT name, uid, revision, document, created_at, creator FROM rollout_plan WHERE name = $1")
            .bind(name)
            .fetch_optional(conn)
            .await
            .during("rollout_plan.get")?;
    match row {
        Some(row) => row.read(),
        None => of_the_start().find(|plan| plan.name == name).ok_or_else(|| Error::NotFound { name: name.to_owned() }),
    }
}

/// Plans after a name, by name.
pub async fn list(conn: &mut PgConnection, after: &str, limit: i64) -> Result<Vec<v1::RolloutPlan>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT name, uid, revision, document, created_at, creator FROM rollout_plan WHERE name > $1 ORDER BY name LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await
    .during("rollout_plan.list")?;
    let mut plans = rows.into_iter().map(Row::read).collect::<Result<Vec<_>>>()?;
    let stored: Vec<_> = plans.iter().map(|plan| plan.name.clone()).collect();
    plans.extend(of_the_start().filter(|plan| plan.name.as_str() > after && !stored.contains(&plan.name)));
    plans.sort_by(|a, b| a.name.cmp(&b.name));
    plans.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(plans)
}

/// All plans that are stored, by name.
pub async fn stored(conn: &mut PgConnection) -> Result<Vec<v1::RolloutPlan>> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT name, uid, revision, document, created_at, creator FROM rollout_plan ORDER BY name")
            .fetch_all(conn)
            .await
            .during("rollout_plan.stored")?;
    rows.into_iter().map(Row::read).collect()
}

/// Whether there is a plan of this name.
pub async fn exists(conn: &mut PgConnection, name: &str) -> Result<bool> {
    match get(conn, name).await {
        Ok(_) => Ok(true),
        Err(Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Stores a plan as the revision that it says, made by whom and when (absent: now) it says.
pub async fn put(conn: &mut PgConnection, plan: &v1::RolloutPlan) -> Result<()> {
    let made_at =
        plan.create_time.and_then(|time| DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?));
    sqlx::query(
        "INSERT INTO rollout_plan (name, revision, document, creator, created_at)
         VALUES ($1, $2, $3, $4, coalesce($5, clock_timestamp()))
         ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, document = excluded.document,
             creator = excluded.creator, created_at = excluded.created_at",
    )
    .bind(&plan.name)
    .bind(plan.revision.cast_signed())
    .bind(plain(plan.clone()).encode_to_vec())
    .bind(&plan.creator)
    .bind(made_at)
    .execute(conn)
    .await
    .during("rollout_plan.put")?;
    Ok(())
}

/// Deletes a plan.
pub async fn delete(conn: &mut PgConnection, name: &str) -> Result<()> {
    sqlx::query("DELETE FROM rollout_plan WHERE name = $1")
        .bind(name)
        .execute(conn)
        .await
        .during("rollout_plan.delete")?;
    Ok(())
}

/// The settings.
pub async fn settings(conn: &mut PgConnection) -> Result<Settings> {
    let (version, document): (i64, Vec<u8>) = sqlx::query_as("SELECT version, document FROM rollout_settings")
        .fetch_one(conn)
        .await
        .during("rollout_plan.settings")?;
    let read = v1::RolloutSettings::decode(document.as_slice()).map_err(|error| Error::corrupt(SETTINGS, error))?;
    let mut faults = Collector::at(SETTINGS);
    let settings = read_settings(&read, &mut faults);
    let settings = faults.finish(settings).map_err(|faults| Error::corrupt(SETTINGS, faults))?;
    let message = v1::RolloutSettings { name: SETTINGS.to_owned(), etag: version.to_string(), ..settings.message };
    Ok(Settings { message, ..settings })
}

/// Stores the settings.
pub async fn put_settings(conn: &mut PgConnection, settings: &v1::RolloutSettings) -> Result<()> {
    let document = plain_settings(settings.clone());
    sqlx::query("UPDATE rollout_settings SET version = version + 1, document = $1")
        .bind(document.encode_to_vec())
        .execute(conn)
        .await
        .during("rollout_plan.put_settings")?;
    Ok(())
}
