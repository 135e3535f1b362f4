//! The connection that a transaction has. What stands between server and database may give every transaction another session
//! (pgbouncer in transaction mode): then statements are not named, because a name belongs to a session.

use futures::{future::BoxFuture, stream::BoxStream};
use prometheus_client::metrics::counter::Counter;
use sqlx::{
    Describe, Either, Error, Execute, Executor, PgTransaction, Postgres, SqlStr,
    postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

/// Whose the session of the database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// The connection's: statements are prepared once, by name, and notifications arrive.
    Own,
    /// A transaction's only.
    Pooled,
}

/// What free functions of the store work on: the connection, within a transaction.
#[derive(Debug)]
pub struct PgConnection {
    transaction: PgTransaction<'static>,
    session: Session,
    /// Statements of such transactions.
    statements: Counter,
    /// Until it ends, the transaction keeps all other changes waiting.
    holds_changes: bool,
}

impl PgConnection {
    pub(super) fn new(transaction: PgTransaction<'static>, session: Session, statements: Counter) -> Self {
        Self { transaction, session, statements, holds_changes: false }
    }

    /// Notes that all other changes wait for this transaction. Answers whether they did already.
    pub(super) fn hold_changes(&mut self) -> bool {
        std::mem::replace(&mut self.holds_changes, true)
    }

    pub(super) async fn commit(self) -> Result<(), Error> {
        self.transaction.commit().await
    }

    pub(super) async fn rollback(self) -> Result<(), Error> {
        self.transaction.rollback().await
    }
}

impl<'c> Executor<'c> for &'c mut PgConnection {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'c: 'e,
        'q: 'e,
        E: Execute<'q, Postgres> + 'q,
    {
        self.statements.inc();
        match self.session {
            Session::Own => self.transaction.fetch_many(query),
            Session::Pooled => self.transaction.fetch_many(Unnamed(query)),
        }
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        'q: 'e,
        E: Execute<'q, Postgres> + 'q,
    {
        self.statements.inc();
        match self.session {
            Session::Own => self.transaction.fetch_optional(query),
            Session::Pooled => self.transaction.fetch_optional(Unnamed(query)),
        }
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        self.transaction.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        self.transaction.describe(sql)
    }
}

/// A query whose statement has no name.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, sqlx::error::BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}
