//! Command line and environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use nix::unistd::geteuid;
use sockpilot_identity::{
    name,
    tls::{Oldest, Own},
};
use sockpilot_metrics::traces::Traces;
use sockpilot_settings::{
    duration, environment, listen, log,
    secret::Secret,
    tls::{self, TlsFiles},
};

use crate::{
    auth::{gate::Pinned, oidc},
    outcome::retention::Limits,
    process::{
        bounds::Bounds,
        config::{Config, Database, Tls},
    },
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
    /// Where to listen for people and their tools; without TLS for nodes, too.
    #[arg(long, env = "SOCKPILOT_LISTEN", default_value = "127.0.0.1:7460", value_name = "ADDRESS",
        value_parser = listen::address)]
    listen: SocketAddr,
    /// Where to listen for nodes [default: with TLS, port 7462 of the address for people].
    #[arg(long, env = "SOCKPILOT_NODE_LISTEN", value_name = "ADDRESS", value_parser = listen::address)]
    node_listen: Option<SocketAddr>,
    /// Listen for all that reach this machine, although without TLS everyone of them can do everything.
    #[arg(long, env = "SOCKPILOT_INSECURE_LISTEN")]
    insecure_listen: bool,
    /// TLS: authorities, and the server's own certificate.
    #[command(flatten)]
    tls: TlsFiles,
    /// The trust domain of names in certificates [default: that of the server's own certificate].
    #[arg(long, env = "SOCKPILOT_TRUST_DOMAIN", value_name = "DOMAIN", value_parser = name::domain_name,
        help_heading = "TLS")]
    trust_domain: Option<String>,
    /// Key of one of the authorities, by which certificates of nodes that join are signed; PEM.
    #[arg(long, env = "SOCKPILOT_ISSUER_KEY", value_name = "FILE", help_heading = "TLS")]
    issuer_key: Option<PathBuf>,
    /// How long certificates of nodes are valid, from 30s to 366d. Their daemons renew them at two thirds of it.
    #[arg(long, env = "SOCKPILOT_NODE_CERTIFICATE_LIFE", default_value = "7d", value_name = "DURATION",
        value_parser = certificate_life, help_heading = "TLS")]
    node_certificate_life: Duration,
    /// Keys of labels that nodes do not say themselves, separated by commas; * for all. They come from certificates and `sockpilot access pin`.
    #[arg(long, env = "SOCKPILOT_PINNED_LABELS", value_delimiter = ',', value_name = "KEYS", help_heading = "TLS")]
    pinned_labels: Vec<String>,
    /// Public keys of an identity provider whose tokens are believed, as a JSON Web Key Set; looked at every second.
    #[arg(long, env = "SOCKPILOT_OIDC_JWKS", value_name = "FILE", requires_all = ["oidc_issuer", "oidc_audience"],
        help_heading = "Identity provider")]
    oidc_jwks: Option<PathBuf>,
    /// What its tokens say in `iss`.
    #[arg(long, env = "SOCKPILOT_OIDC_ISSUER", value_name = "URL", help_heading = "Identity provider")]
    oidc_issuer: Option<String>,
    /// What its tokens for this server say in `aud`.
    #[arg(long, env = "SOCKPILOT_OIDC_AUDIENCE", value_name = "NAME", help_heading = "Identity provider")]
    oidc_audience: Option<String>,
    /// Which claim is a person's name.
    #[arg(
        long,
        env = "SOCKPILOT_OIDC_NAME_CLAIM",
        default_value = "sub",
        value_name = "CLAIM",
        help_heading = "Identity provider"
    )]
    oidc_name_claim: String,
    /// Which claim is their role, or has it in a list. What `sockpilot access set-person` says goes before it.
    #[arg(
        long,
        env = "SOCKPILOT_OIDC_ROLE_CLAIM",
        default_value = "sockpilot_role",
        value_name = "CLAIM",
        help_heading = "Identity provider"
    )]
    oidc_role_claim: String,
    /// How much callers may ask for.
    #[command(flatten)]
    bounds: Bounds,
    /// The oldest version of TLS that is spoken: 1.3 or 1.2.
    #[arg(long, env = "SOCKPILOT_TLS_MIN", default_value = "1.3", value_name = "VERSION",
        value_parser = tls::oldest, help_heading = "TLS")]
    tls_min: Oldest,
    /// Where to listen for Prometheus, under /metrics.
    #[arg(long, env = "SOCKPILOT_METRICS_LISTEN", default_value = "127.0.0.1:7461", value_name = "ADDRESS",
        value_parser = listen::address)]
    metrics_listen: SocketAddr,
    /// Where spans of calls and of the database go.
    #[command(flatten)]
    pub traces: Traces,
    /// Postgres to use, postgres://user@host/database, without a password: everybody on the machine can read the command line [default:
    /// that of --database-url-file, or of DATABASE_URL in the environment].
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The same from a file that only this server's user can read; with a password, if it has one.
    #[arg(long, env = "SOCKPILOT_DATABASE_URL_FILE", value_name = "FILE", conflicts_with = "database_url")]
    database_url_file: Option<PathBuf>,
    /// Bring the schema up to date as the user of DATABASE_URL, who owns it, give ROLE the rights that a server needs, and end. A server
    /// that runs as ROLE can add to the audit log, and change nothing in it.
    #[arg(long, value_name = "ROLE")]
    pub migrate_for: Option<String>,
    /// Look at this machine and the database, say what is wrong for a server with these settings and what to do, change nothing, and end.
    #[arg(long, conflicts_with = "migrate_for")]
    pub doctor: bool,
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
    /// How many flow records are kept of nodes that were asked to record them all.
    #[arg(long, env = "SOCKPILOT_RECORDED_MAX", default_value_t = 500_000, value_name = "NUMBER")]
    recorded_max: u32,
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
pub enum Unfit {
    #[error("there is no home directory to keep the private Postgres in; say --state-dir, or set DATABASE_URL")]
    NoStateDir,
    #[error("{0}")]
    Tls(String),
    #[error(
        "--database-url has a password, which everybody on the machine can read there; give it by --database-url-file, by DATABASE_URL in \
         the environment, or as the driver of libpq does (PGPASSFILE, ~/.pgpass)"
    )]
    Password,
    #[error("the file of --database-url-file cannot be read: {0}")]
    DatabaseUrl(String),
    #[error("--migrate-for is for a Postgres of your own; name it in DATABASE_URL, as the role that owns the schema")]
    NothingToMigrate,
}

/// The URL of a Postgres that somebody named.
fn named(option: Option<String>, file: Option<PathBuf>) -> Result<Option<Address>, Unfit> {
    if let Some(url) = option {
        let address = Address::Url(url);
        return if address.has_password() { Err(Unfit::Password) } else { Ok(Some(address)) };
    }
    let url = match file {
        Some(file) => Some(Secret::from_file(&file).map_err(Unfit::DatabaseUrl)?.reveal().to_owned()),
        None => environment::variable("DATABASE_URL"),
    };
    Ok(url.map(Address::Url))
}

fn certificate_life(text: &str) -> Result<Duration, String> {
    let life = duration::duration(text)?;
    let sound = Duration::from_secs(30)..=Duration::from_secs(366 * 86_400);
    if sound.contains(&life) { Ok(life) } else { Err("is no life of a certificate; write 30s to 366d".to_owned()) }
}

fn own_of(files: &TlsFiles) -> Result<Option<(PathBuf, Own)>, Unfit> {
    match (&files.tls_ca, files.own().map_err(Unfit::Tls)?) {
        (Some(authorities), Some(own)) => Ok(Some((authorities.clone(), own))),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Unfit::Tls(
            "--tls-cert is there without --tls-ca; say whose certificates of nodes and people are believed".to_owned(),
        )),
        (Some(_), None) => Err(Unfit::Tls(
            "--tls-ca is there without --tls-cert and --tls-key; the server needs a certificate of its own".to_owned(),
        )),
    }
}

impl Args {
    /// What to start.
    ///
    /// # Errors
    /// If there is no place for the private Postgres, or files of TLS are lacking.
    pub fn into_config(self) -> Result<Config, Unfit> {
        let Self {
            listen,
            node_listen,
            insecure_listen,
            tls,
            tls_min,
            trust_domain,
            issuer_key,
            node_certificate_life,
            pinned_labels,
            oidc_jwks,
            oidc_issuer,
            oidc_audience,
            oidc_name_claim,
            oidc_role_claim,
            bounds,
            metrics_listen,
            traces: _,
            database_url,
            database_url_file,
            migrate_for,
            doctor: _,
            state_dir,
            lease,
            samples_max,
            recorded_max,
            forget_nodes_after,
            keep_cells,
            keep_hours,
            keep_days,
            outcomes_max,
            log_format: _,
        } = self;
        let forget_nodes_after = (forget_nodes_after > 0).then(|| Duration::from_secs(forget_nodes_after * 86_400));
        let address = named(database_url, database_url_file)?.filter(|address| *address != Address::Url(String::new()));
        let database = match address {
            Some(address) => Database::At(address),
            None if migrate_for.is_some() => return Err(Unfit::NothingToMigrate),
            None => Database::Embedded { state_dir: state_dir.or_else(default_state_dir).ok_or(Unfit::NoStateDir)? },
        };
        let lease = Duration::from_secs(lease);
        let metrics_listen = Some(metrics_listen);
        let outcomes = Limits {
            cells_days: keep_cells,
            hours_days: keep_hours.max(keep_cells),
            days_days: keep_days.max(keep_hours).max(keep_cells),
            bytes_max: outcomes_max << 20,
        };
        let tls = own_of(&tls)?.map(|(authorities, own)| Tls {
            authorities,
            own,
            oldest: tls_min,
            domain: trust_domain,
            issuer_key,
            node_life: node_certificate_life,
        });
        let insecure = insecure_listen;
        let pinned = match pinned_labels.iter().any(|key| key == "*") {
            true => Pinned::All,
            false if pinned_labels.is_empty() => Pinned::ByNode,
            false => Pinned::Keys(pinned_labels.into_iter().collect()),
        };
        let (limits, door_limits, call_limits) = bounds.into_limits();
        let oidc = oidc_jwks.map(|jwks| oidc::Settings {
            jwks,
            issuer: oidc_issuer.unwrap_or_default(),
            audience: oidc_audience.unwrap_or_default(),
            name_claim: oidc_name_claim,
            role_claim: oidc_role_claim,
        });
        Ok(Config {
            listen,
            node_listen,
            tls,
            insecure,
            pinned,
            oidc,
            limits,
            door_limits,
            call_limits,
            metrics_listen,
            lease,
            samples_max,
            recorded_max,
            forget_nodes_after,
            outcomes,
            ..Config::new(database)
        })
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
    fn a_password_is_taken_from_a_file_and_not_from_the_command_line_and_never_shown() {
        let url = "postgres://u:hunter2@h/d";
        let refused = Args::parse_from(["sockpilot-server", "--database-url", url]).into_config().expect_err("seen");
        assert!(refused.to_string().contains("--database-url-file") && !refused.to_string().contains("hunter2"));
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), format!("{url}\n")).expect("written");
        let path = file.path().to_str().expect("plain");
        let config = Args::parse_from(["sockpilot-server", "--database-url-file", path]).into_config().expect("whole");
        assert_eq!(config.database, Database::At(Address::Url(url.to_owned())));
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    }

    #[test]
    fn tls_is_whole_or_none() {
        let unfit = |arguments: &[&str]| {
            let all = [&["sockpilot-server", "--state-dir", "/s"], arguments].concat();
            Args::parse_from(all).into_config().expect_err("must be refused").to_string()
        };
        assert!(unfit(&["--tls-ca", "c"]).contains("--tls-cert"));
        assert!(unfit(&["--tls-cert", "c", "--tls-key", "k"]).contains("--tls-ca"));
        assert!(unfit(&["--tls-cert", "c"]).contains("--tls-key"));
        for bad in [
            ["--person-limit", "5,5"],
            ["--person-limit", "0,1,1"],
            ["--tls-min", "1.1"],
            ["--trust-domain", "A/b"],
            ["--node-certificate-life", "29s"],
        ] {
            assert!(Args::try_parse_from([&["sockpilot-server"][..], &bad].concat()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_lease_has_bounds() {
        assert!(Args::try_parse_from(["sockpilot-server", "--lease", "0"]).is_err());
    }
}
