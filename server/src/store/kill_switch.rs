//! What is switched off past every rollout.

use chrono::{DateTime, Utc};

use super::{
    connection::PgConnection,
    error::{Operation, Result},
};

/// Everything.
pub const EVERYTHING: &str = "-";

/// Something that is off.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Off {
    pub target: String,
    pub reason: String,
    pub actor: String,
    pub since: DateTime<Utc>,
}

/// All that is off.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<Off>> {
    sqlx::query_as("SELECT target, reason, actor, since FROM kill_switch ORDER BY target")
        .fetch_all(conn)
        .await
        .during("kill_switch.list")
}

/// Switches something off; it may be off already. Says whether it was not.
pub async fn off(conn: &mut PgConnection, target: &str, reason: &str, actor: &str) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO kill_switch (target, reason, actor) VALUES ($1, $2, $3) ON CONFLICT (target) DO NOTHING",
    )
    .bind(target)
    .bind(reason)
    .bind(actor)
    .execute(conn)
    .await
    .during("kill_switch.off")?;
    Ok(done.rows_affected() > 0)
}

/// Switches it on again. Says whether it was off.
pub async fn on(conn: &mut PgConnection, target: &str) -> Result<bool> {
    let done = sqlx::query("DELETE FROM kill_switch WHERE target = $1")
        .bind(target)
        .execute(conn)
        .await
        .during("kill_switch.on")?;
    Ok(done.rows_affected() > 0)
}
