//! Whether the database is still the one that it was: the same cluster, timeline and database, with all that was acknowledged. Where it is
//! not, its history goes on under another epoch, so that nodes follow it although generations may have gone back.
//!
//! A standby that is promoted begins a new timeline, whether or not it had all that the primary acknowledged: it cannot be told from the
//! outside, so each promotion makes a new epoch. What is lost without one (a copy of the files, a crash without fsync) shows by what this
//! server has seen before: a generation, and the hash of the newest entry of the audit log, which is that of the whole log until there.

use std::fmt;

use serde_json::json;
use uuid::Uuid;

use super::{
    access,
    audit::{self, Subject},
    connection::PgConnection,
    control,
    error::{Error, Operation, Result},
};
use crate::{
    change::{author::Author, difference::Difference},
    fleet::resolve::{AuditHead, Reached},
};

/// As the audit log names the change.
const METHOD: &str = "ChangeEpoch";
/// And what was changed.
const NAME: &str = "database";

/// How far a server has seen a database's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    epoch: Uuid,
    generation: i64,
    /// Of the newest entry of the audit log; 0: it had none.
    sequence: i64,
    hash: Option<Vec<u8>>,
}

impl Seen {
    /// As far as it was carried besides, if that is farther in the same epoch.
    #[must_use]
    pub fn reaching(self, reached: Reached) -> Self {
        let Reached { epoch, generation, audit: AuditHead { sequence, hash } } = reached;
        let generation = generation.cast_signed();
        if epoch != self.epoch || generation <= self.generation {
            return self;
        }
        Self { epoch, generation, sequence, hash: Some(hash) }
    }
}

/// Why a history does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The epoch was made for another cluster, timeline or database.
    Moved {
        /// System identifier, timeline and database's number that it was made for; empty: for none, it is new.
        before: String,
        /// Those of now.
        now: String,
    },
    /// What a server has seen is not there any more.
    Lost {
        /// The generation that it has seen, and that of now.
        seen: i64,
        now: i64,
        /// Whether the audit log is another one as well.
        audit: bool,
    },
}

impl Broken {
    /// Whether the database is used for the first time.
    #[must_use]
    pub fn is_new(&self) -> bool {
        matches!(self, Self::Moved { before, .. } if before.is_empty())
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved { before, .. } if before.is_empty() => f.write_str("the database is new"),
            Self::Moved { before, now } => write!(
                f,
                "the database was promoted, restored or moved: cluster, timeline and number were {before} and are {now}; what was \
                 acknowledged shortly before may be lost"
            ),
            Self::Lost { seen, now, audit: false } => {
                write!(f, "the database has lost changes: generation {seen} was seen, and it is at {now}")
            }
            Self::Lost { seen, now, audit: true } => write!(
                f,
                "the database has lost changes: the audit log is not the one that was seen at generation {seen}; it is at {now}"
            ),
        }
    }
}

/// Reads how far the history goes, and whether it is broken: seen from the database itself, and by what this server has seen.
///
/// # Errors
/// If the database takes no changes, or fails.
pub async fn look(conn: &mut PgConnection, seen: Option<&Seen>) -> Result<(Seen, Option<Broken>)> {
    type Row = (bool, Uuid, i64, String, Option<String>, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>);
    // The timeline of what is written now: that of the last checkpoint is the former one for a while after a promotion.
    let row: Row = sqlx::query_as(
        "SELECT pg_is_in_recovery(), database_epoch, generation, origin,
             CASE WHEN NOT pg_is_in_recovery() THEN concat_ws('/', system_identifier,
                 ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer, pg_database.oid) END,
             head.sequence, head.hash, (SELECT hash FROM audit WHERE sequence = $1)
         FROM control
         CROSS JOIN pg_control_system()
         JOIN pg_database ON datname = current_database()
         LEFT JOIN (SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1) AS head ON true",
    )
    .bind(seen.map_or(0, |seen| seen.sequence))
    .fetch_one(conn)
    .await
    .during("lineage.look")?;
    let (in_recovery, epoch, generation, origin, here, sequence, hash, at_seen) = row;
    let Some(here) = here.filter(|_| !in_recovery) else {
        return Err(Error::Standby { place: "the database".to_owned() });
    };
    let now = Seen { epoch, generation, sequence: sequence.unwrap_or_default(), hash };
    let broken = match seen.filter(|seen| seen.epoch == epoch) {
        _ if here != origin => Some(Broken::Moved { before: origin, now: here }),
        Some(Seen { hash, .. }) if *hash != at_seen => {
            Some(Broken::Lost { seen: seen.map_or(0, |seen| seen.generation), now: generation, audit: true })
        }
        Some(Seen { generation: before, .. }) if generation < *before => {
            Some(Broken::Lost { seen: *before, now: generation, audit: false })
        }
        _ => None,
    };
    Ok((now, broken))
}

/// Takes the database over: makes a new epoch if its history is broken, and sets the lease. Of several servers the first does it: the
/// others find an epoch that they know nothing of.
///
/// # Errors
/// As [`look`].
pub async fn adopt(conn: &mut PgConnection, lease_ms: i64, seen: Option<&Seen>) -> Result<(Seen, Option<Broken>)> {
    control::lock(&mut *conn).await?;
    let (before, broken) = look(&mut *conn, seen).await?;
    if let Some(broken) = &broken {
        begin(&mut *conn, &before, broken).await?;
    }
    control::set_lease(&mut *conn, lease_ms).await?;
    Ok((look(conn, None).await?.0, broken))
}

/// Begins an epoch.
async fn begin(conn: &mut PgConnection, before: &Seen, broken: &Broken) -> Result<()> {
    let (epoch, here) = control::begin_epoch(&mut *conn, broken.origin()).await?;
    let generation = control::bump(&mut *conn).await?;
    if broken.is_new() {
        return Ok(());
    }
    access::jump(&mut *conn).await?;
    let state = |epoch: Uuid, origin: &str| json!({ "databaseEpoch": epoch.to_string(), "origin": origin });
    let origin = match broken {
        Broken::Moved { before, .. } => before,
        Broken::Lost { .. } => &here,
    };
    let author = Author::Controller {
        task: "refresh",
        reason: broken.to_string(),
        evidence: json!({ "generationBefore": before.generation, "generationSeen": broken.seen() }),
    };
    let difference = Difference::between(&state(before.epoch, origin), &state(epoch, &here));
    audit::add(conn, &author, &Subject { method: METHOD, name: NAME, revision: 0, generation, difference }).await
}

impl Broken {
    /// Where the next epoch is; nothing: where the last one was.
    fn origin(&self) -> Option<&str> {
        match self {
            Self::Moved { now, .. } => Some(now),
            Self::Lost { .. } => None,
        }
    }

    fn seen(&self) -> Option<i64> {
        match self {
            Self::Moved { .. } => None,
            Self::Lost { seen, .. } => Some(*seen),
        }
    }
}
