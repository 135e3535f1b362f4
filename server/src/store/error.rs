//! What can go wrong in the store.

use std::io::ErrorKind;

use sockpilot_policy::fault::Faults;

use super::{cell, fault};
use crate::change::plan::ChangeRefusal;

/// The result of a store function.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed, or is away.
    #[error("database failed during {operation}")]
    Database {
        /// What was being done.
        operation: &'static str,
        /// What the database or the connection says.
        #[source]
        source: sqlx::Error,
    },
    /// The schema could not be brought up to date.
    #[error("schema migration failed")]
    Migration {
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// The database cannot be used until somebody corrects something.
    #[error("{why}")]
    Setting {
        /// What, and the remedy.
        why: String,
    },
    /// None of the places where the database may be takes changes.
    #[error("{place} is a standby, which takes no changes")]
    Standby {
        /// The last of them.
        place: String,
    },
    /// The database is another than before, or was started anew.
    #[error("the database was started anew")]
    Restarted,
    /// The database says nothing, and does not end the connection either.
    #[error("the database is silent")]
    Silent,
    /// The state of a policy or an experiment does not allow it.
    #[error("{name}: {refusal}")]
    Refused {
        name: String,
        /// What the state forbids.
        refusal: ChangeRefusal,
    },
    /// Several things are otherwise than a backup has them.
    #[error("{} of the backup cannot be restored", .conflicts.len())]
    Conflicts {
        /// Names, and why.
        conflicts: Vec<(String, String)>,
    },
    /// The request is at odds with what is stored.
    #[error("{faults}")]
    Invalid {
        /// All that is wrong with it.
        faults: Faults,
    },
    /// There is no such thing.
    #[error("{name} does not exist")]
    NotFound { name: String },
    /// The request id has been used for another request.
    #[error("request id was used for another request")]
    RequestIdReused,
    /// Another daemon has the node's id.
    #[error("another daemon, at {address}, holds the id of nodes/{node_id}; give this one another --node-id")]
    HeldByOther {
        node_id: String,
        /// Where the other one's stream comes from.
        address: String,
    },
    /// A report contradicts an earlier one of the same node and boot id.
    #[error("{field} goes back from {before} to {after}")]
    ReportBackwards {
        /// Of the report.
        field: &'static str,
        /// Committed with a lower sequence.
        before: u64,
        /// Reported now.
        after: u64,
    },
    /// Outcomes are of too many different times.
    #[error("outcomes have {max} partitions, and there are no more; the oldest are dropped by and by")]
    TooManyPartitions {
        /// How many there may be.
        max: usize,
    },
    /// Somebody else has changed a rollout since it was read.
    #[error("{name} has changed since it was read; read it again and decide again")]
    Overtaken { name: String },
    /// Something stands in the way of a rollout.
    #[error("{name}: {}", .violations.iter().map(|(_, why)| why.as_str()).collect::<Vec<_>>().join("; "))]
    Forbidden {
        name: String,
        /// What, and why: each a kind of obstacle and a sentence with the remedy.
        violations: Vec<(&'static str, String)>,
    },
    /// Another server has become leader.
    #[error("another server has become leader since epoch {epoch}")]
    Deposed {
        /// Of the lease that was lost.
        epoch: i64,
    },
    /// The database holds what this program cannot read.
    #[error("{what} in the database cannot be read: {why}")]
    Corrupt {
        /// Which thing.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Compares the etag of what somebody has read with that of now. Empty: it is not compared.
///
/// # Errors
/// If somebody else was faster.
pub fn same_etag(name: &str, asked: &str, now: &str) -> Result<()> {
    if asked.is_empty() || asked == now {
        return Ok(());
    }
    let refusal = ChangeRefusal::Etag { now: now.to_owned() };
    Err(Error::Refused { name: name.to_owned(), refusal })
}

/// SQL states after which the same transaction may succeed.
const CONFLICTS: [&str; 2] = ["40001", "40P01"];
/// SQL states of a statement by a name that the session has already, or has not.
const FOREIGN_SESSION: [&str; 2] = ["42P05", "26000"];
/// A row with the same key is there.
const UNIQUE_VIOLATION: &str = "23505";
/// A row fails a check. If the check has no name, the row has no partition.
const CHECK_VIOLATION: &str = "23514";

impl Error {
    /// Whether the transaction lost against another, so that the same again may succeed.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.sql_state().is_some_and(|state| CONFLICTS.contains(&state.as_str())) || self.lacks_partition()
    }

    /// Whether the partition that was written to has just been dropped.
    fn lacks_partition(&self) -> bool {
        let database = self.driver().and_then(sqlx::Error::as_database_error);
        database.is_some_and(|error| error.code().as_deref() == Some(CHECK_VIOLATION) && error.constraint().is_none())
    }

    /// Whether a cell that was taken for new is there already.
    #[must_use]
    pub fn is_stored_already(&self) -> bool {
        matches!(self, Self::Database { operation: cell::ADD, .. })
            && self.sql_state().is_some_and(|state| state == UNIQUE_VIOLATION)
    }

    /// Whether it is the database that failed, not the request.
    #[must_use]
    pub fn is_of_database(&self) -> bool {
        matches!(
            self,
            Self::Database { .. }
                | Self::Migration { .. }
                | Self::Setting { .. }
                | Self::Standby { .. }
                | Self::Restarted
                | Self::Silent
                | Self::Corrupt { .. }
        )
    }

    /// What somebody must correct before the database can be used, with the remedy; `None` if it is no such thing.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::Setting { why } => Some(why.clone()),
            _ => self.driver().and_then(fault::of),
        }
    }

    /// Whether the connection was closed by the other end, so that another one may do.
    #[must_use]
    pub fn is_of_connection(&self) -> bool {
        match self.driver() {
            Some(sqlx::Error::Io(error)) => matches!(
                error.kind(),
                ErrorKind::UnexpectedEof
                    | ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
            ),
            // Ended by a person, by a limit on idle sessions, or by one on idle transactions.
            Some(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|state| ["57P01", "57P05", "25P03", "08006"].contains(&state.as_ref()))
            }
            _ => false,
        }
    }

    /// Whether the database takes no changes: another one has its place.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.sql_state().is_some_and(|state| state == "25006")
    }

    /// Whether a statement had not the session that it was prepared in: what belongs to a connection elsewhere is a transaction's here.
    #[must_use]
    pub fn is_of_pooled_session(&self) -> bool {
        self.sql_state().is_some_and(|state| FOREIGN_SESSION.contains(&state.as_str()))
    }

    fn driver(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database { source, .. } => Some(source),
            Self::Migration {
                source:
                    sqlx::migrate::MigrateError::Execute(source) | sqlx::migrate::MigrateError::ExecuteMigration(source, _),
            } => Some(source),
            _ => None,
        }
    }

    /// Whether the database is away for now: not there, starting, stopping, or out of resources; or until somebody corrects
    /// what keeps this server from it.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        if matches!(self, Self::Standby { .. } | Self::Restarted | Self::Silent)
            || self.is_read_only()
            || self.is_of_pooled_session()
            || self.fault().is_some()
        {
            return true;
        }
        let Some(source) = self.driver() else { return false };
        match source {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => true,
            sqlx::Error::Database(error) => error.code().is_some_and(|state| {
                // Connection failures, too few resources, operator intervention, and a statement that ran out of time.
                ["08", "53", "57", "25P03"].iter().any(|class| state.starts_with(class))
                    || CONFLICTS.contains(&state.as_ref())
            }),
            _ => false,
        }
    }

    fn sql_state(&self) -> Option<String> {
        match self {
            Self::Database { source: sqlx::Error::Database(error), .. } => error.code().map(Into::into),
            _ => None,
        }
    }

    /// For bytes that do not decode.
    pub(crate) fn corrupt(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Corrupt { what: what.into(), why: why.to_string() }
    }
}

/// Names the operation that a database error befell.
pub(crate) trait Operation<T> {
    fn during(self, operation: &'static str) -> Result<T>;
}

impl<T> Operation<T> for std::result::Result<T, sqlx::Error> {
    fn during(self, operation: &'static str) -> Result<T> {
        self.map_err(|source| Error::Database { operation, source })
    }
}
