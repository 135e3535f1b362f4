//! Databases as they are found in the field: behind TLS, behind a pooler, with time limits, or not as they were said to be.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use sockpilot_programs::own;
use sockpilot_server::Config;

use crate::{
    cluster::{Postgres, at, reserved_port},
    world::{World, hello, layers},
};

/// A change goes through, and a node gets it.
async fn works(url: &str) {
    let mut world = World::of(at(url)).await;
    let name = format!("p{}", world.audit().await.len());
    world.create(&name).await;
    let mut node = world.connect(hello("n")).await;
    assert!(layers(&node.take().await).contains(&format!("policies/{name}@1")));
    world.server.stop().await;
}

/// Why it does not start, which it says at once.
async fn refused(url: &str) -> String {
    let began = Instant::now();
    let error = sockpilot_server::start(at(url)).await.map(drop).expect_err("refused");
    assert!(began.elapsed() < Duration::from_secs(10), "waited {:?}", began.elapsed());
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    assert!(!text.contains("secret"), "{text}");
    text
}

#[tokio::test]
async fn a_database_that_demands_tls_is_used_as_sslmode_says() {
    let hba = "hostssl app guarded 127.0.0.1/32 scram-sha-256";
    let postgres = Postgres::start(hba, &[]).await;
    let ca = postgres.file("ca.pem");
    for rest in ["", "?sslmode=require", &format!("?sslmode=verify-ca&sslrootcert={ca}")] {
        works(&postgres.url(rest)).await;
    }
    let full = format!("?sslmode=verify-full&sslrootcert={ca}");
    works(&postgres.url(&full)).await;
    works(&format!("host=localhost port={} user=guarded password=secret dbname=app sslmode=require", postgres.port))
        .await;

    let other = postgres.file("other.pem");
    for (url, expected) in [
        (postgres.url("?sslmode=disable"), "no encryption"),
        (postgres.url("?sslmode=verify-full"), "give the issuer's certificate as sslrootcert"),
        (
            postgres.url(&format!("?sslmode=require&sslrootcert={other}")),
            "give the issuer's certificate as sslrootcert",
        ),
        (postgres.url(&full).replace("localhost", "127.0.0.1"), "is for another name"),
        (postgres.url("?sslmode=verify-full&sslrootcert=/no/such"), "/no/such, which cannot be read"),
        (postgres.url("").replace(":secret", ":wrong-secret"), "correct user and password"),
        (postgres.url("").replace("/app", "/none"), "pg_hba.conf"),
        (postgres.url("").replace("localhost", "no-such-host.invalid"), "correct the host"),
        (postgres.url("?sslmode=on"), "write disable, prefer, require"),
    ] {
        let text = refused(&url).await;
        assert!(text.contains(expected), "{url}: {text}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_database_that_asks_for_it() {
    let hba = "hostssl app guarded 127.0.0.1/32 cert";
    let postgres = Postgres::start(hba, &[]).await;
    let shown = |cert: &str, key: &str| {
        postgres
            .url(&format!("?sslmode=verify-full&sslrootcert={}&sslcert={cert}&sslkey={key}", postgres.file("ca.pem")))
    };
    let (cert, key) = (postgres.file("client.pem"), postgres.file("client.key"));
    works(&shown(&cert, &key)).await;
    let without = refused(&postgres.url("?sslmode=require")).await;
    assert!(without.contains("certificate"), "{without}");
    let odd = refused(&shown(&key, &key)).await;
    assert!(odd.contains("correct sslmode, sslrootcert, sslcert or sslkey") || odd.contains("sslkey"), "{odd}");
}

#[tokio::test]
async fn what_only_a_person_can_mend_is_said_at_once() {
    let hba = "host all all 127.0.0.1/32 trust";
    let postgres = Postgres::start(hba, &["ssl=off"]).await;
    postgres.sql("app", "CREATE USER poor");
    let at = |user: &str, database: &str, rest: &str| {
        format!("postgres://{user}@127.0.0.1:{}/{database}{rest}", postgres.port)
    };
    for (url, expected) in [
        (at("guarded", "app", "?sslmode=require"), "speaks no TLS"),
        (at("guarded", "none", ""), "make the database"),
        (at("nobody", "app", ""), "correct user"),
        (at("poor", "app", ""), "grant this user"),
        (format!("postgres://poor@127.0.0.1:{}/app?sslmod=require", postgres.port), "is not known here"),
    ] {
        let text = refused(&url).await;
        assert!(text.contains(expected), "{url}: {text}");
    }
    let socket = postgres.directory.path().display();
    works(&format!("postgresql://guarded@/app?host={socket}&port={}", postgres.port)).await;
    let encoded = socket.to_string().replace('/', "%2F");
    works(&format!("postgresql://guarded@{encoded}:{}/app?sslmode=require", postgres.port)).await;
}

#[tokio::test]
async fn of_several_hosts_the_one_that_takes_changes_is_used() {
    let hba = "host all all 127.0.0.1/32 trust";
    let standby = Postgres::start(hba, &["default_transaction_read_only=on"]).await;
    let postgres = Postgres::start(hba, &[]).await;
    let nobody = reserved_port();
    works(&format!(
        "postgres://guarded@127.0.0.1:{nobody},127.0.0.1:{},127.0.0.1:{}/app?target_session_attrs=read-write",
        standby.port, postgres.port
    ))
    .await;
    assert_eq!(postgres.sql("app", "SELECT count(*) FROM layer_object"), "1");
}

#[tokio::test]
async fn a_failover_is_followed() {
    let hba = "host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust";
    let primary = Postgres::start(hba, &[]).await;
    let standby = primary.standby().await;
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", standby.port, primary.port);
    let mut world = World::of(at(&format!("postgres://guarded@{hosts}/app?target_session_attrs=read-write"))).await;
    world.create("p").await;
    let mut node = world.connect(hello("n")).await;
    let before = node.take().await.version.expect("a version");
    let sent = primary.sql("app", "SELECT pg_current_wal_lsn()");
    let there = format!("SELECT pg_last_wal_replay_lsn() >= '{sent}'");
    crate::world::until("it is copied", async || standby.sql("app", &there), |there| there == "t").await;
    drop(primary);
    standby.sql("app", "SELECT pg_promote()");
    let up = world.server.metrics().database_up.clone();
    crate::world::until("it is noticed", async || up.get(), |up| *up == 0).await;
    crate::world::until("it serves again", async || up.get(), |up| *up == 1).await;
    world.update("p", 2_000, None).await;
    let now = loop {
        let now = node.take().await;
        if layers(&now) == ["policies/p@2"] {
            break now;
        }
    };
    // Of the last checkpoint's timeline, which is the former one for a while, nobody would know better.
    assert_ne!(now.version.expect("a version").database_epoch, before.database_epoch);
    let entries = world.audit().await;
    let change = entries.iter().find(|entry| entry.method == "ChangeEpoch").expect("it is in the audit log");
    assert!(change.reason.contains("promoted"), "{}", change.reason);
    world.server.stop().await;
}

#[tokio::test]
async fn connections_that_the_database_closes_by_itself_are_no_fault() {
    let postgres = Postgres::start("host all all 127.0.0.1/32 trust", &["idle_session_timeout=200ms"]).await;
    let url = format!("postgres://guarded@127.0.0.1:{}/app", postgres.port);
    let mut world = World::of(Config { poll: Duration::from_millis(700), ..at(&url) }).await;
    let up = world.server.metrics().clone();
    for round in 0..4 {
        world.create(&format!("p{round}")).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        postgres.sql(
            "app",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'guarded' AND state = 'idle'",
        );
        world.status(&format!("policies/p{round}")).await;
        assert_eq!((up.database_up.get(), up.database_errors.get()), (1, 0));
    }
    world.server.stop().await;
}

/// Runs the program for a moment; answers what it logs.
async fn log_of(variables: &[(&str, &str)]) -> String {
    log_of_with(variables, &[]).await
}

async fn log_of_with(variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let mut command = own(Path::new(env!("CARGO_BIN_EXE_sockpilot-server")));
    for name in ["LEASE", "SAMPLES_MAX", "KEEP_CELLS", "OUTCOMES_MAX", "LOG_FORMAT", "STATE_DIR"] {
        command.env(format!("SOCKPILOT_{name}"), "");
    }
    command.env("SOCKPILOT_LISTEN", "127.0.0.1:0").env("SOCKPILOT_METRICS_LISTEN", "127.0.0.1:0").env("RUST_LOG", "");
    command.args(arguments);
    let mut child = command.envs(variables.iter().copied()).stderr(Stdio::piped()).spawn().expect("it starts");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    let mut log = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut log).expect("text");
    child.wait().expect("it ends");
    log
}

#[tokio::test]
async fn the_log_says_what_a_person_must_do_and_nothing_else() {
    let postgres = Postgres::start("host all all 127.0.0.1/32 trust", &["idle_session_timeout=200ms"]).await;
    let url = format!("postgres://guarded@127.0.0.1:{}/app", postgres.port);
    let log = log_of(&[("DATABASE_URL", &url)]).await;
    assert!(log.contains("serving") && !log.contains("ERROR"), "{log}");
    // Who runs the tests may be root.
    let warnings =
        |log: &str| log.lines().filter(|line| line.contains("WARN") && !line.contains("running as root")).count();
    assert!(warnings(&log) == 1 && log.contains("can change the audit log"), "{log}");
    postgres.sql("app", "CREATE USER \"the server\"");
    for _ in 0..2 {
        let log = log_of_with(&[("DATABASE_URL", &url)], &["--migrate-for", "the server"]).await;
        assert!(log.contains("up to date") && !log.contains("serving"), "{log}");
    }
    let lesser = url.replace("guarded@", "the%20server@");
    let log = log_of(&[("DATABASE_URL", &lesser)]).await;
    assert!(log.contains("serving") && !log.contains("ERROR") && warnings(&log) == 0, "{log}");
    for (role, expected) in [("nobody", "CREATE ROLE"), ("guarded", "owns the schema")] {
        let log = log_of_with(&[("DATABASE_URL", &url)], &["--migrate-for", role]).await;
        assert!(log.contains(expected), "{log}");
    }
    // A newer version comes, and its schema is not there yet.
    postgres.sql("app", "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)");
    let log = log_of(&[("DATABASE_URL", &lesser)]).await;
    assert!(log.contains("--migrate-for ROLE") && !log.contains("serving"), "{log}");
    let wrong = url.replace("guarded", "nobody");
    let log = log_of(&[("DATABASE_URL", &wrong)]).await;
    assert!(log.contains("correct user") && !log.contains("unavailable"), "{log}");
}

#[tokio::test]
async fn a_password_that_was_changed_ends_no_server() {
    let postgres = Postgres::start("host all all 127.0.0.1/32 scram-sha-256", &[]).await;
    let mut world = World::of(at(&postgres.url("?sslmode=disable"))).await;
    world.create("p").await;
    postgres.sql("app", "ALTER USER guarded PASSWORD 'other'");
    postgres.sql("app", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'guarded'");
    let up = world.server.metrics().database_up.clone();
    crate::world::until("it is noticed", async || up.get(), |up| *up == 0).await;
    let status = world.fleet.list_nodes(sockpilot_proto::v1::ListNodesRequest::default()).await.expect_err("away");
    assert_eq!(status.code(), tonic::Code::Unavailable);
    postgres.sql("app", "ALTER USER guarded PASSWORD 'secret'");
    crate::world::until("it serves again", async || up.get(), |up| *up == 1).await;
    world.update("p", 2_000, None).await;
    world.server.stop().await;
}
