//! The schema: brought up to date by whoever owns it, and the rights of the role that a server runs with.

use std::collections::BTreeMap;

use sqlx::{
    AssertSqlSafe,
    migrate::{MigrateError, Migrator},
};

use super::{
    Store,
    connection::{PgConnection, Session},
    error::{Error, Operation, Result},
    former,
};

/// A migration of much data takes its time. Servers that start together migrate one after the other.
const MIGRATION: &str =
    "BEGIN; SET LOCAL statement_timeout = 0; DO 'BEGIN PERFORM pg_advisory_xact_lock(7460746074607460); END'";
/// What a server says of an entry of the audit log; the rest is said by a trigger.
const AUDIT_SAID: &str =
    "actor, proof, role, method, name, revision, generation, reason, request_id, request_json, difference_json";
/// What only the owner of the schema does otherwise.
const FUNCTIONS: &str = "make_flow_cells(bigint, bigint), lock_flow_cells(bigint), drop_flow_cells(bigint)";

/// The schema. Changes are new files in `migrations/`; a database with a newer schema than this is refused.
pub(super) fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("../migrations");
    // The lock of a session would stay with it where sessions are pooled; the transaction has one.
    migrations.set_locking(false);
    migrations
}

impl Store {
    /// Brings the schema up to date, as a whole.
    ///
    /// # Errors
    /// If the database is away, has a schema that this version does not know, or an older one that is not this role's to change.
    pub async fn migrate(&self) -> Result<()> {
        self.migrate_and_grant(None).await
    }

    /// Brings the schema up to date, and gives a role the rights that a server needs, and no more: it can change all but the audit log,
    /// to which it can add.
    ///
    /// # Errors
    /// As [`Self::migrate`]; or if there is no such role, or it owns the schema.
    pub async fn migrate_for(&self, role: &str) -> Result<()> {
        self.migrate_and_grant(Some(role)).await
    }

    async fn migrate_and_grant(&self, role: Option<&str>) -> Result<()> {
        let mut transaction = self.pool().begin_with(MIGRATION).await.during("migrate")?;
        let forgets = self.session() == Session::Pooled;
        if forgets {
            forget_statements(&mut transaction).await?;
        }
        if !is_current(&mut transaction).await? {
            migrations().run(&mut *transaction).await.map_err(|source| Error::Migration { source })?;
        }
        if forgets {
            forget_statements(&mut transaction).await?;
        }
        let mut connection = PgConnection::new(transaction, self.session(), self.metrics.statements_of("migrate"));
        former::move_cells(&mut connection).await?;
        if let Some(role) = role {
            grant(&mut connection, role).await?;
        }
        connection.commit().await.during("migrate")
    }

    /// Whether the role that this server has can neither change nor remove entries of the audit log, nor give itself the right to.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn keeps_audit(&self) -> Result<bool> {
        self.read("keeps audit", |conn| Box::pin(keeps_audit(conn))).await
    }
}

/// Whether all migrations are there already, so that a role that could not make them has nothing to make.
pub(super) async fn is_current(connection: &mut sqlx::PgConnection) -> Result<bool> {
    let there: Option<bool> = sqlx::query_scalar(
        "SELECT pg_has_role(relowner, 'MEMBER') FROM pg_class WHERE oid = to_regclass('_sqlx_migrations')",
    )
    .persistent(false)
    .fetch_optional(&mut *connection)
    .await
    .during("schema.look")?;
    let Some(owned) = there else { return Ok(false) };
    let applied: Vec<(i64, Vec<u8>)> = sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations")
        .persistent(false)
        .fetch_all(connection)
        .await
        .during("schema.applied")?;
    let applied: BTreeMap<i64, Vec<u8>> = applied.into_iter().collect();
    let migrations = migrations();
    let known: BTreeMap<i64, &[u8]> =
        migrations.iter().map(|migration| (migration.version, &*migration.checksum)).collect();
    for (version, checksum) in &applied {
        let source = match known.get(version) {
            None => MigrateError::VersionMissing(*version),
            Some(known) if *known != checksum.as_slice() => MigrateError::VersionMismatch(*version),
            Some(_) => continue,
        };
        return Err(Error::Migration { source });
    }
    let current = known.keys().all(|version| applied.contains_key(version));
    if !current && !owned {
        let why = "the schema is older than this server, and not its role's to change; have its owner run \
                   `sockpilot-server --migrate-for ROLE` of this version first";
        return Err(Error::Setting { why: why.to_owned() });
    }
    Ok(current)
}

/// Migrations name their statements, and in a pooled session others have used the names.
async fn forget_statements(connection: &mut sqlx::PgConnection) -> Result<()> {
    sqlx::raw_sql("DEALLOCATE ALL").execute(connection).await.during("migrate").map(drop)
}

async fn keeps_audit(conn: &mut PgConnection) -> Result<bool> {
    sqlx::query_scalar(
        "SELECT NOT (pg_has_role(relowner, 'MEMBER') OR has_any_column_privilege(oid, 'UPDATE')
                     OR has_table_privilege(oid, 'DELETE') OR has_table_privilege(oid, 'TRUNCATE')
                     OR has_table_privilege(oid, 'TRIGGER'))
         FROM pg_class WHERE oid = 'audit'::regclass",
    )
    .fetch_one(conn)
    .await
    .during("schema.keeps_audit")
}

async fn grant(conn: &mut PgConnection, role: &str) -> Result<()> {
    let found: Option<(String, bool)> = sqlx::query_as(
        "SELECT quote_ident(rolname), pg_has_role(pg_roles.oid, relowner, 'MEMBER') FROM pg_roles, pg_class
         WHERE rolname = $1 AND pg_class.oid = 'audit'::regclass",
    )
    .bind(role)
    .fetch_optional(&mut *conn)
    .await
    .during("schema.role")?;
    let quoted = match found {
        Some((quoted, false)) => quoted,
        Some((_, true)) => {
            let why =
                format!("the role {role} owns the schema, so it can change the audit log; name one that owns nothing");
            return Err(Error::Setting { why });
        }
        None => {
            let why = format!("there is no role {role}; make it first: CREATE ROLE {role} LOGIN PASSWORD '…'");
            return Err(Error::Setting { why });
        }
    };
    // Not partitions: they are reached through their table.
    let (schema, tables, views): (String, String, String) = sqlx::query_as(
        "SELECT quote_ident(current_schema()), string_agg(quote_ident(relname), ', ') FILTER (WHERE relkind <> 'v'),
             string_agg(quote_ident(relname), ', ') FILTER (WHERE relkind = 'v')
         FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition
             AND relname NOT IN ('audit', '_sqlx_migrations')",
    )
    .fetch_one(&mut *conn)
    .await
    .during("schema.tables")?;
    for statement in [
        format!("GRANT USAGE ON SCHEMA {schema} TO {quoted}"),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {quoted}"),
        format!("GRANT SELECT ON {views} TO {quoted}"),
        format!("GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {quoted}"),
        format!("REVOKE ALL ON audit, _sqlx_migrations FROM {quoted}"),
        format!("GRANT SELECT ON audit, _sqlx_migrations TO {quoted}"),
        format!("GRANT INSERT ({AUDIT_SAID}) ON audit TO {quoted}"),
        format!("GRANT EXECUTE ON FUNCTION {FUNCTIONS} TO {quoted}"),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *conn).await.during("schema.grant")?;
    }
    Ok(())
}
