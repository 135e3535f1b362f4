//! A private Postgres, for whoever has no `DATABASE_URL`: made from the system's binaries, as an unprivileged user, reachable
//! through a unix socket that nobody else can open. It runs as long as the server does and is started again if it dies.

mod install;
mod supervisor;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

pub use self::install::examine;
use sockpilot_programs::Missing;
use tokio::time::{Instant, sleep};

use self::{install::Layout, supervisor::Supervisor};
use crate::{
    metrics::Metrics,
    store::{
        self, Store,
        address::{Address, ensure_database, ensure_role},
    },
};

/// Who made it, and owns the tables. The socket's directory is what protects it from other users of the machine.
const USER: &str = "sockpilot";
/// Whom the server is there: nobody who could change the audit log.
const SERVER: &str = "sockpilot_server";
const DATABASE: &str = "sockpilot";
/// Recovery after a crash can take a while.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(20);

/// Why there is no private Postgres.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// None is installed.
    #[error("{0}; or name a Postgres that runs already in DATABASE_URL")]
    NotInstalled(Missing),
    /// None is installed that can read the data.
    #[error(
        "the data in {data} is of Postgres {version}, which is not installed; run `apt-get install postgresql-{version}`, \
         or name its directory of binaries in POSTGRES_BIN, or another Postgres in DATABASE_URL"
    )]
    OtherVersion {
        /// Where.
        data: PathBuf,
        /// The data's major version.
        version: String,
    },
    /// Postgres refuses to run as root.
    #[error("Postgres does not run as root, and there is no user postgres; run the server as another user")]
    NoUser,
    /// A file or a process.
    #[error("{what} failed")]
    Io {
        /// What was done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// `initdb` said no.
    #[error("initdb failed: {output}")]
    Initdb {
        /// What it printed.
        output: String,
    },
    /// It does not answer.
    #[error("the private Postgres does not answer after {} s; see {log}", READY_TIMEOUT.as_secs())]
    NotReady {
        /// Its log.
        log: PathBuf,
        /// The last failure.
        #[source]
        source: Box<store::Error>,
    },
    /// The schema is not for this version.
    #[error("the schema of the private Postgres cannot be used")]
    Schema(#[source] Box<store::Error>),
}

/// Names what was done when it failed.
trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, EmbeddedError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, EmbeddedError> {
        self.map_err(|source| EmbeddedError::Io { what: what(), source })
    }
}

/// A running private Postgres. Dropped without [`Self::stop`], it ends with the process.
#[derive(Debug)]
pub struct Embedded {
    socket_directory: PathBuf,
    supervisor: Supervisor,
}

impl Embedded {
    /// Makes it if it is new, and starts it unless it is running already.
    ///
    /// # Errors
    /// In one sentence what is missing, or what failed.
    pub async fn start(state_dir: &Path, settings: &[(&str, &str)]) -> Result<Self, EmbeddedError> {
        let layout = Layout::prepare(state_dir)?;
        let socket_directory = layout.socket_directory.clone();
        let log = layout.log.clone();
        let supervisor = Supervisor::start(layout, settings)?;
        let embedded = Self { socket_directory, supervisor };
        embedded.wait_until_ready(log).await?;
        embedded.provide(DATABASE).await.map_err(|error| EmbeddedError::Schema(Box::new(error)))?;
        Ok(embedded)
    }

    /// Makes a database with the schema of this version, unless it is there, for the role that servers have.
    ///
    /// # Errors
    /// If it has a schema of another version, or Postgres is away.
    pub async fn provide(&self, database: &str) -> store::Result<()> {
        ensure_database(&self.owner_of("postgres"), database).await?;
        let store = Store::new(self.owner_of(database).candidates()?, Metrics::new());
        store.locate().await?;
        let done = store.migrate_for(SERVER).await;
        store.close().await;
        done
    }

    async fn wait_until_ready(&self, log: PathBuf) -> Result<(), EmbeddedError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            match ensure_role(&self.owner_of("postgres"), SERVER).await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(EmbeddedError::NotReady { log, source: Box::new(error) });
                }
                Err(_) => sleep(READY_POLL).await,
            }
        }
    }

    /// Where it is, for a server.
    #[must_use]
    pub fn address(&self) -> Address {
        self.address_of(DATABASE)
    }

    /// Where another of its databases is, for a server.
    #[must_use]
    pub fn address_of(&self, database: &str) -> Address {
        self.address_as(SERVER, database)
    }

    /// Where one of its databases is, for who owns the tables.
    #[must_use]
    pub fn owner_of(&self, database: &str) -> Address {
        self.address_as(USER, database)
    }

    fn address_as(&self, user: &str, database: &str) -> Address {
        let directory = self.socket_directory.clone();
        Address::Socket { directory, user: user.to_owned(), database: database.to_owned() }
    }

    /// The process that it runs as; `None` while it is being started again, or if it was running already.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.supervisor.pid()
    }

    /// Stops it: open transactions are rolled back, committed ones are safe. One that was running already goes on.
    pub fn stop(self) {
        self.supervisor.stop();
    }
}
