//! Where the database is.

use std::{path::PathBuf, str::FromStr};

use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

use super::error::{Error, Operation, Result};

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
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

impl Address {
    /// For the driver.
    ///
    /// # Errors
    /// If the URL is none.
    pub fn options(&self) -> Result<PgConnectOptions> {
        match self {
            Self::Url(url) => PgConnectOptions::from_str(url).during("reading the database URL"),
            Self::Socket { directory, user, database } => {
                Ok(PgConnectOptions::new_without_pgpass().socket(directory).username(user).database(database))
            }
        }
    }
}

/// Makes a database on the server of `address`, unless there is one of that name. Names are the program's own.
///
/// # Errors
/// If the server is away.
pub async fn ensure_database(address: &Address, name: &str) -> Result<()> {
    let mut connection = PgConnection::connect_with(&address.options()?).await.during("connect")?;
    let found: Option<(i32,)> = sqlx::query_as("SELECT 1 FROM pg_database WHERE datname = $1")
        .bind(name)
        .fetch_optional(&mut connection)
        .await
        .during("database.find")?;
    if found.is_none() {
        if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
            return Err(Error::corrupt("name of a database", name));
        }
        let statement = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::raw_sql(statement).execute(&mut connection).await.during("database.create")?;
    }
    connection.close().await.during("disconnect")
}
