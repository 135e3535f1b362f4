//! Looks at a machine and a database as a server would find them, and says what is wrong and what to do. Nothing is written or made.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    sys::resource::{Resource, getrlimit},
    unistd::geteuid,
};
use sockpilot_settings::checkup::{Check, Checkup, Room, disk, in_full};

use super::{
    args::Args,
    config::{Config, Database, Tls},
    embedded,
    running::{NODE_PORT, open_tls, refuse_reachable},
};
use crate::{
    metrics::Metrics,
    store::{
        Store,
        address::Address,
        examine::{Schema, Setup, explained},
    },
};

/// The oldest Postgres that the schema is made for, as `server_version_num`.
const VERSION_LEAST: i32 = 130_000;
/// Clocks of server and database that are farther apart make log and audit hard to read together.
const CLOCK_S_MAX: f64 = 2.0;
/// A certificate that runs out sooner should have been replaced.
const EXPIRY: Duration = Duration::from_secs(7 * 86_400);
/// Each node has a file open, and so has each person, and each connection to the database.
const FILES: u64 = 4_096;
/// For the private Postgres.
const ROOM: Room = Room { enough: 20 << 30, least: 1 << 30 };

/// Looks at everything a server with these settings needs.
pub async fn examine(args: Args) -> Checkup {
    let mut checks = vec![user(), files()];
    match args.into_config() {
        Ok(config) => {
            checks.extend(doors(&config));
            checks.extend(config.tls.clone().map(tls));
            match &config.database {
                Database::At(address) => checks.extend(database(address).await),
                Database::Embedded { state_dir } => checks.extend(private(state_dir)),
            }
        }
        Err(error) => {
            checks.push(Check::faulty("settings", in_full(&error), "set it right; `sockpilot-server --help` has all"))
        }
    }
    Checkup(checks)
}

fn user() -> Check {
    let subject = "user";
    if geteuid().is_root() {
        let remedy = "start it as a user of its own, as its systemd unit does";
        return Check::doubtful(subject, "root, which the server never needs", remedy);
    }
    Check::sound(subject, format!("number {}, not root", geteuid().as_raw()))
}

fn files() -> Check {
    let subject = "open files";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((files, _)) if files < FILES => {
            let nodes = files.saturating_sub(100);
            let remedy = format!("LimitNOFILE={} in its unit, or `ulimit -n`", 16 * FILES);
            Check::doubtful(subject, format!("at most {files}, so at most some {nodes} nodes"), remedy)
        }
        Ok((files, _)) => Check::sound(subject, format!("at most {files}")),
        Err(error) => Check::doubtful(subject, error.to_string(), "look by `ulimit -n`"),
    }
}

/// The addresses that it listens on.
fn doors(config: &Config) -> Vec<Check> {
    let beside = || config.tls.as_ref().map(|_| SocketAddr::new(config.listen.ip(), NODE_PORT));
    let nodes = config.node_listen.or_else(beside);
    let mut checks: Vec<_> = [
        ("address for people", Some(config.listen)),
        ("address for nodes", nodes),
        ("address for metrics", config.metrics_listen),
    ]
    .into_iter()
    .filter_map(|(subject, address)| Some(door(subject, address?)))
    .collect();
    if config.tls.is_none()
        && !config.insecure
        && let Err(error) = refuse_reachable([Some(config.listen), config.node_listen])
    {
        checks.push(Check::faulty("TLS", in_full(&error), "see there"));
    }
    checks
}

fn door(subject: &'static str, address: SocketAddr) -> Check {
    match TcpListener::bind(address) {
        Ok(_) => Check::sound(subject, format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Check::doubtful(
            subject,
            format!("{address} is taken"),
            "if it is not this server that runs there already, see `ss -ltnp`, and name another address",
        ),
        Err(error) => Check::faulty(subject, format!("{address}: {error}"), "name an address of this machine"),
    }
}

fn tls(tls: Tls) -> Check {
    let subject = "TLS";
    let certificate = tls.own.certificate.clone();
    match open_tls(tls) {
        Ok((Some(opened), domain, signer)) => {
            let left = opened.get().not_after.duration_since(SystemTime::now()).unwrap_or_default();
            let domain = domain.unwrap_or_else(|| "any".to_owned());
            let signs = if signer.is_some() { ", signs for nodes that join" } else { "" };
            let found =
                format!("trust domain {domain}{signs}; the certificate runs out in {} days", left.as_secs() / 86_400);
            let remedy = format!("make a new {} (`sockpilot pki server`)", certificate.display());
            if left.is_zero() {
                Check::faulty(subject, "the certificate has run out", remedy)
            } else if left < EXPIRY {
                Check::doubtful(subject, found, remedy)
            } else {
                Check::sound(subject, found)
            }
        }
        Ok((None, ..)) => Check::sound(subject, "not spoken"),
        Err(error) => Check::faulty(subject, in_full(&error), "see there, and `sockpilot pki --help`"),
    }
}

fn private(state_dir: &Path) -> Vec<Check> {
    let subject = "private Postgres";
    let found = match embedded::examine(state_dir) {
        Ok(installed) => {
            let (version, at) = (installed.version, installed.binaries.display());
            Check::sound(subject, format!("version {version} at {at}; data below {}", state_dir.display()))
        }
        Err(error) => Check::faulty(subject, in_full(&error), "install postgresql, or name a database in DATABASE_URL"),
    };
    let room = disk(state_dir, ROOM, "outcomes may take 20 GiB (--outcomes-max)");
    [found].into_iter().chain(room).collect()
}

async fn database(address: &Address) -> Vec<Check> {
    let subject = "database";
    let away = |error| Check::faulty(subject, explained(&error), "start it, or name another one in DATABASE_URL");
    let store = match address.candidates() {
        Ok(candidates) => Store::new(candidates, Metrics::new()),
        Err(error) => return vec![away(error)],
    };
    let checks = match store.examine().await {
        Ok(setup) => {
            let mut checks = set_up(&setup, SystemTime::now());
            checks.extend(schema(&store).await);
            checks
        }
        Err(error) => vec![away(error)],
    };
    store.close().await;
    checks
}

fn set_up(setup: &Setup, now: SystemTime) -> Vec<Check> {
    let Setup {
        version,
        now_s,
        in_recovery,
        fsync,
        full_page_writes,
        synchronous_commit,
        connections_max,
        connections,
        bytes,
    } = setup;
    let subject = "database";
    let found = format!("Postgres {}.{}, {} MiB", version / 10_000, version % 10_000, bytes >> 20);
    let is = if *in_recovery {
        Check::faulty(subject, format!("{found}; a standby, to which nothing can be written"), "name the primary")
    } else if *version < VERSION_LEAST {
        Check::faulty(subject, found, format!("use Postgres {} or newer", VERSION_LEAST / 10_000))
    } else {
        Check::sound(subject, found)
    };
    let subject = "durability";
    let unsafe_setting = [("fsync", *fsync), ("full_page_writes", *full_page_writes)].into_iter().find(|(_, on)| !on);
    let durable = match unsafe_setting {
        Some((name, _)) => Check::faulty(
            subject,
            format!("{name} is off: a crash of the host can destroy everything"),
            format!("{name} = on"),
        ),
        None if synchronous_commit == "off" => Check::doubtful(
            subject,
            "synchronous_commit is off: changes that were acknowledged can be lost in a crash",
            "synchronous_commit = on",
        ),
        None => Check::sound(
            subject,
            format!("what is acknowledged is on disk (synchronous_commit = {synchronous_commit})"),
        ),
    };
    let subject = "database connections";
    let left = i64::from(*connections_max) - connections;
    let needed = i64::from(crate::store::CONNECTIONS_MAX);
    let found = format!("{connections} of {connections_max} are open, and a server takes up to {needed}");
    let connections = if left < needed {
        Check::doubtful(subject, found, "raise max_connections, or put PgBouncer before it")
    } else {
        Check::sound(subject, found)
    };
    let subject = "database clock";
    let here_s = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let ahead_s = now_s - here_s;
    let clock = if ahead_s.abs() > CLOCK_S_MAX {
        let found = format!("{ahead_s:+.1} s from this machine's; the database's is the one that counts");
        Check::doubtful(subject, found, "run chrony or systemd-timesyncd on both")
    } else {
        Check::sound(subject, format!("{ahead_s:+.3} s from this machine's"))
    };
    vec![is, durable, connections, clock]
}

async fn schema(store: &Store) -> Vec<Check> {
    let subject = "schema";
    match store.examine_schema().await {
        Ok(Schema::Current) => vec![Check::sound(subject, "this version's"), audit(store).await],
        Ok(Schema::ToBeMade) => {
            vec![Check::sound(subject, "older, or none; the server brings it up to date when it starts")]
        }
        Err(error) => vec![Check::faulty(subject, explained(&error), "see there")],
    }
}

async fn audit(store: &Store) -> Check {
    let subject = "audit log";
    let remedy = "run `sockpilot-server --migrate-for ROLE` as this role, and the server as ROLE";
    match store.keeps_audit().await {
        Ok(true) => Check::sound(subject, "the server's role can only add to it"),
        Ok(false) => Check::doubtful(subject, "the server's role can change it", remedy),
        Err(error) => Check::doubtful(subject, explained(&error), remedy),
    }
}

#[cfg(test)]
mod tests {
    use sockpilot_settings::checkup::Finding;

    use super::*;

    fn good() -> Setup {
        Setup {
            version: 150_018,
            now_s: 1e9,
            in_recovery: false,
            fsync: true,
            full_page_writes: true,
            synchronous_commit: "on".to_owned(),
            connections_max: 97,
            connections: 12,
            bytes: 10 << 20,
        }
    }

    fn wrong(setup: &Setup) -> Vec<&'static str> {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let checks = set_up(setup, now);
        let wrong = checks.into_iter().filter(|check| !matches!(check.finding, Finding::Sound(_)));
        wrong.map(|check| check.subject).collect()
    }

    #[test]
    fn what_is_wrong_with_a_database_is_said() {
        assert!(wrong(&good()).is_empty());
        assert_eq!(wrong(&Setup { in_recovery: true, ..good() }), ["database"]);
        assert_eq!(wrong(&Setup { version: 120_022, ..good() }), ["database"]);
        assert_eq!(wrong(&Setup { fsync: false, ..good() }), ["durability"]);
        assert_eq!(wrong(&Setup { full_page_writes: false, ..good() }), ["durability"]);
        assert_eq!(wrong(&Setup { synchronous_commit: "off".to_owned(), ..good() }), ["durability"]);
        assert_eq!(wrong(&Setup { connections: 90, ..good() }), ["database connections"]);
        for now_s in [1e9 - 3.0, 1e9 + 3.0] {
            assert_eq!(wrong(&Setup { now_s, ..good() }), ["database clock"]);
        }
    }
}
