//! Command line and environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use nix::unistd::geteuid;
use sockpilot_settings::{environment, listen, log};

use crate::{
    outcome::retention::Limits,
    process::config::{Config, Database},
    store::address::Address,
};

/// The control plane of sockpilot.
///
/// Keeps versioned policies and experiments in Postgres, streams them to node daemons, and takes the outcomes of their
/// connections in. Without DATABASE_URL it runs a private Postgres from the system's binaries, or those in the directory that
/// POSTGRES_BIN names. RUST_LOG filters the log.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Where to listen for gRPC.
    #[arg(long, env = "SOCKPILOT_LISTEN", default_value = "127.0.0.1:7460", value_name = "ADDRESS",
        value_parser = listen::address)]
    listen: SocketAddr,
    /// Where to listen for Prometheus, under /metrics.
    #[arg(long, env = "SOCKPILOT_METRICS_LISTEN", default_value = "127.0.0.1:7461", value_name = "ADDRESS",
        value_parser = listen::address)]
    metrics_listen: SocketAddr,
    /// Postgres to use, postgres://user@host/database.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// Where the private Postgres keeps its data [default: $XDG_STATE_HOME/sockpilot or ~/.local/state/sockpilot; as root
    /// /var/lib/sockpilot].
    #[arg(long, env = "SOCKPILOT_STATE_DIR", value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
    /// How long nodes enforce canaries and experiments without hearing of a server, in seconds.
    #[arg(long, env = "SOCKPILOT_LEASE", default_value_t = 600, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    lease: u64,
    /// How many single flow records are kept.
    #[arg(long, env = "SOCKPILOT_SAMPLES_MAX", default_value_t = 100_000, value_name = "NUMBER")]
    samples_max: u32,
    /// After how many days a node that says nothing is removed; 0: never. It is back when it says hello.
    #[arg(long, env = "SOCKPILOT_FORGET_NODES_AFTER", default_value_t = 30, value_name = "DAYS",
        value_parser = clap::value_parser!(u64).range(0..=36_500))]
    forget_nodes_after: u64,
    /// For how many days outcomes of single nodes, and of all together by minute, are kept.
    #[arg(long, env = "SOCKPILOT_KEEP_CELLS", default_value_t = 14, value_name = "DAYS",
        value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep_cells: u32,
    /// For how many days outcomes by hour are kept.
    #[arg(long, env = "SOCKPILOT_KEEP_HOURS", default_value_t = 90, value_name = "DAYS",
        value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep_hours: u32,
    /// For how many days outcomes by day are kept.
    #[arg(long, env = "SOCKPILOT_KEEP_DAYS", default_value_t = 1_100, value_name = "DAYS",
        value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep_days: u32,
    /// What outcomes may take of the database's disk, in MiB. Beyond it the oldest outcomes of single nodes go early, six hours at a
    /// time; minutes, hours and days stay.
    #[arg(long, env = "SOCKPILOT_OUTCOMES_MAX", default_value_t = 20_480, value_name = "MIB",
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    outcomes_max: u64,
    /// Form of the log on stderr.
    #[arg(long, env = "SOCKPILOT_LOG_FORMAT", value_enum, default_value_t = log::Format::Text)]
    pub log_format: log::Format,
}

/// Why the arguments make no server.
#[derive(Debug, thiserror::Error)]
#[error("there is no home directory to keep the private Postgres in; say --state-dir, or set DATABASE_URL")]
pub struct NoStateDir;

impl Args {
    /// What to start.
    ///
    /// # Errors
    /// If there is no place for the private Postgres.
    pub fn into_config(self) -> Result<Config, NoStateDir> {
        let Self {
            listen,
            metrics_listen,
            database_url,
            state_dir,
            lease,
            samples_max,
            forget_nodes_after,
            keep_cells,
            keep_hours,
            keep_days,
            outcomes_max,
            log_format: _,
        } = self;
        let forget_nodes_after = (forget_nodes_after > 0).then(|| Duration::from_secs(forget_nodes_after * 86_400));
        let database = match database_url.filter(|url| !url.is_empty()) {
            Some(url) => Database::At(Address::Url(url)),
            None => Database::Embedded { state_dir: state_dir.or_else(default_state_dir).ok_or(NoStateDir)? },
        };
        let lease = Duration::from_secs(lease);
        let metrics_listen = Some(metrics_listen);
        let outcomes = Limits {
            cells_days: keep_cells,
            hours_days: keep_hours.max(keep_cells),
            days_days: keep_days.max(keep_hours).max(keep_cells),
            bytes_max: outcomes_max << 20,
        };
        Ok(Config { listen, metrics_listen, lease, samples_max, forget_nodes_after, outcomes, ..Config::new(database) })
    }
}

fn default_state_dir() -> Option<PathBuf> {
    if geteuid().is_root() {
        return Some("/var/lib/sockpilot".into());
    }
    let absolute = |name: &str| environment::variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("sockpilot"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_wins_over_the_private_postgres() {
        let args = Args::parse_from(["sockpilot-server", "--database-url", "postgres://h/d", "--state-dir", "/s"]);
        let config = args.into_config().expect("whole");
        assert_eq!(config.database, Database::At(Address::Url("postgres://h/d".to_owned())));
        let args = Args::parse_from(["sockpilot-server", "--database-url", "", "--state-dir", "/s"]);
        assert_eq!(args.into_config().expect("whole").database, Database::Embedded { state_dir: "/s".into() });
    }

    #[test]
    fn addresses_are_refused_with_what_to_write() {
        for option in ["--listen", "--metrics-listen"] {
            let error =
                Args::try_parse_from(["sockpilot-server", option, ":7460"]).expect_err("no address").to_string();
            assert!(error.contains("0.0.0.0:7460"), "{error}");
        }
    }

    #[test]
    fn a_lease_has_bounds() {
        assert!(Args::try_parse_from(["sockpilot-server", "--lease", "0"]).is_err());
    }
}
