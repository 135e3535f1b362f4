//! Where the database is.

use std::{fmt, path::PathBuf, time::Instant};

use sqlx::{
    AssertSqlSafe, Connection, PgConnection, Row,
    postgres::{PgConnectOptions, PgRow, PgSslMode},
};
use tokio::time::timeout;

use super::{
    ACQUIRE_TIMEOUT,
    connection::Session,
    error::{Error, Operation, Result},
    url,
};

/// Where the database is. A password in it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// As in `DATABASE_URL`.
    Url(String),
    /// A Postgres that listens on a unix socket only.
    Socket {
        /// Where its socket is.
        directory: PathBuf,
        /// Who to be there.
        user: String,
        /// Which database.
        database: String,
    },
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(_) => f.write_str("Url(…)"),
            Self::Socket { directory, user, database } => {
                let mut shown = f.debug_struct("Socket");
                shown.field("directory", directory).field("user", user).field("database", database).finish()
            }
        }
    }
}

impl Address {
    /// Whether it has a password, that nobody else is to see.
    #[must_use]
    pub fn has_password(&self) -> bool {
        match self {
            Self::Url(text) => url::has_password(text),
            Self::Socket { .. } => false,
        }
    }

    /// Where the database may be.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn candidates(&self) -> Result<Candidates> {
        let places = match self {
            Self::Url(text) => url::read(text).map_err(|why| Error::Setting { why: format!("DATABASE_URL {why}") })?,
            Self::Socket { directory, user, database } => {
                let options = PgConnectOptions::new_without_pgpass().socket(directory).ssl_mode(PgSslMode::Disable);
                vec![options.username(user).database(database)]
            }
        };
        // What a pooler would refuse at the start of a connection is not said; values travel in binary anyway.
        let places = places
            .into_iter()
            .map(|options| options.application_name("sockpilot-server").extra_float_digits(None))
            .collect();
        Ok(Candidates(places))
    }
}

/// The places where the database may be, in the order to try. At least one.
#[derive(Clone)]
pub struct Candidates(Vec<PgConnectOptions>);

/// The driver's options show their password.
impl fmt::Debug for Candidates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Candidates({})", self.0.len())
    }
}

impl Candidates {
    /// The first to try.
    #[must_use]
    pub fn first(&self) -> &PgConnectOptions {
        &self.0[0]
    }

    /// The first that answers and takes changes.
    ///
    /// # Errors
    /// If there is none; of the places' reasons rather one that may pass.
    pub async fn locate(&self) -> Result<Located> {
        let mut failed: Option<Error> = None;
        for options in &self.0 {
            let tried = timeout(ACQUIRE_TIMEOUT, look(options)).await;
            match tried.unwrap_or(Err(sqlx::Error::PoolTimedOut)).during("connect") {
                Ok(Some(located)) => return Ok(located),
                Ok(None) => failed = Some(Error::Standby { place: place(options) }),
                Err(error) if failed.as_ref().is_none_or(|before| before.fault().is_some()) => failed = Some(error),
                Err(_) => {}
            }
        }
        Err(failed.unwrap_or_else(|| Error::Setting { why: "DATABASE_URL says no host".to_owned() }))
    }
}

fn place(options: &PgConnectOptions) -> String {
    let host = options.get_socket().map_or(options.get_host().into(), |path| path.to_string_lossy());
    format!("{host}:{}", options.get_port())
}

/// A database that answers and takes changes.
#[derive(Debug)]
pub struct Located {
    /// How to connect.
    pub options: PgConnectOptions,
    /// Whose its sessions are.
    pub session: Session,
    /// Where, as people say it.
    pub place: String,
    /// When it was started, as it says.
    pub started: String,
}

/// How often [`take_from`] is tried: others who take and give back sessions meanwhile may hide it once.
const LOOKS_MAX: u32 = 5;

/// What a database is; `None` if it takes no changes.
///
/// Nothing says whose its sessions are, but behind a pooler a connection's session is older than the connection, or another connection has it
/// while this one asks nothing.
async fn look(options: &PgConnectOptions) -> std::result::Result<Option<Located>, sqlx::Error> {
    let began = Instant::now();
    let mut one = PgConnection::connect_with(options).await?;
    let row = ask(
        &mut one,
        "SELECT pg_backend_pid(), pg_is_in_recovery() OR current_setting('transaction_read_only')::bool, \
         (extract(epoch FROM clock_timestamp() - (SELECT min(backend_start) FROM pg_stat_activity \
          WHERE pid = pg_backend_pid())))::float8, pg_postmaster_start_time()::text",
    )
    .await?;
    let (pid, read_only, age_s): (i32, bool, Option<f64>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let started = row.try_get(3)?;
    if read_only {
        return Ok(None);
    }
    let mut pooled = age_s.is_some_and(|age_s| age_s > began.elapsed().as_secs_f64());
    let mut other = PgConnection::connect_with(options).await?;
    for _ in 0..LOOKS_MAX {
        pooled = pooled || take_from(&mut one, &mut other, pid).await?;
    }
    other.close().await?;
    one.close().await?;
    let session = if pooled { Session::Pooled } else { Session::Own };
    Ok(Some(Located { options: options.clone(), session, place: place(options), started }))
}

/// Whether a connection that was given the session `pid` loses it to another one, or to somebody else.
async fn take_from(
    one: &mut PgConnection,
    other: &mut PgConnection,
    pid: i32,
) -> std::result::Result<bool, sqlx::Error> {
    const SESSION: &str = "SELECT pg_backend_pid()";
    let before: i32 = ask(one, SESSION).await?.try_get(0)?;
    sqlx::raw_sql("BEGIN").execute(&mut *other).await?;
    let taken: i32 = ask(other, SESSION).await?.try_get(0)?;
    // Where there is no further session nobody would answer this one until the other's transaction has ended.
    let lost = before != pid || taken == pid || ask(one, SESSION).await?.try_get::<i32, _>(0)? != pid;
    sqlx::raw_sql("ROLLBACK").execute(other).await?;
    Ok(lost)
}

/// By the simple protocol, which has no statements.
async fn ask(connection: &mut PgConnection, sql: &'static str) -> std::result::Result<PgRow, sqlx::Error> {
    sqlx::raw_sql(sql).fetch_one(connection).await
}

/// Makes a database on the server of `address`, unless there is one of that name. Names are the program's own.
///
/// # Errors
/// If the server is away.
pub async fn ensure_database(address: &Address, name: &str) -> Result<()> {
    ensure(address, name, "SELECT 1 FROM pg_database WHERE datname = $1", "CREATE DATABASE").await
}

/// Makes a role that may connect and nothing else, unless there is one of that name.
///
/// # Errors
/// If the server is away.
pub async fn ensure_role(address: &Address, name: &str) -> Result<()> {
    ensure(address, name, "SELECT 1 FROM pg_roles WHERE rolname = $1", "CREATE USER").await
}

async fn ensure(address: &Address, name: &str, find: &'static str, create: &str) -> Result<()> {
    let candidates = address.candidates()?;
    let mut connection = PgConnection::connect_with(candidates.first()).await.during("connect")?;
    let found: Option<(i32,)> =
        sqlx::query_as(find).bind(name).fetch_optional(&mut connection).await.during("cluster.find")?;
    if found.is_none() {
        if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
            return Err(Error::corrupt("name of a database or a role", name));
        }
        let statement = AssertSqlSafe(format!("{create} {name}"));
        sqlx::raw_sql(statement).execute(&mut connection).await.during("cluster.create")?;
    }
    connection.close().await.during("disconnect")
}
