//! A Postgres of a test's own, on a TCP port, and how a server is pointed at it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sockpilot_programs::{INITDB, PG_BASEBACKUP, POSTGRES, PSQL, Program, postgres};
use sockpilot_server::{
    Config, Database,
    store::address::Address,
    test_support::{self, Directory},
};

const USER: &str = "sockpilot";

/// What Postgres and pgbouncer run as: neither does as root.
fn unprivileged() -> Option<nix::unistd::User> {
    let user =
        || nix::unistd::User::from_name("postgres").expect("users can be read").expect("there is one for Postgres");
    nix::unistd::geteuid().is_root().then(user)
}

/// As an unprivileged user, who may not be allowed into our directory.
pub fn unprivileged_command(mut command: Command) -> Command {
    if let Some(user) = unprivileged() {
        std::os::unix::process::CommandExt::uid(&mut command, user.uid.as_raw());
        std::os::unix::process::CommandExt::gid(&mut command, user.gid.as_raw());
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A program of the Postgres that is installed.
fn of_postgres(program: Program) -> Command {
    let installed = postgres::installed().expect("Postgres is installed").remove(0);
    unprivileged_command(installed.command(program).expect("installed"))
}

/// Of 127.0.0.1.
pub fn reserved_port() -> u16 {
    sockpilot_programs::reserved_address().expect("a port").port()
}

pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT);
        let _ = self.0.wait();
    }
}

/// A Postgres on a TCP port, with a certificate for `localhost` and whatever `pg_hba.conf` a test needs.
pub struct Postgres {
    pub port: u16,
    _process: Running,
    pub directory: Directory,
}

pub fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("allowed");
    if let Some(user) = unprivileged() {
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("given");
    }
}

impl Postgres {
    pub async fn start(hba: &str, settings: &[&str]) -> Self {
        let directory = test_support::directory();
        let (root, port) = (directory.path(), reserved_port());
        if let Some(user) = unprivileged() {
            chown(root, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("given");
        }
        let data = root.join("data");
        let made = of_postgres(INITDB)
            .args(["-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .status();
        assert!(made.expect("initdb runs").success());
        certificates(root);
        write(&data.join("pg_hba.conf"), &format!("local all all trust\n{hba}\n"), 0o600);
        let postgres = Self::launch(directory, port, settings).await;
        postgres.sql("postgres", "CREATE USER guarded PASSWORD 'secret'");
        postgres.sql("postgres", "CREATE DATABASE app OWNER guarded");
        postgres
    }

    /// One that follows this one until it is promoted.
    pub async fn standby(&self) -> Self {
        let (directory, port) = (test_support::directory(), reserved_port());
        if let Some(user) = unprivileged() {
            chown(directory.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("given");
        }
        let mut copy = of_postgres(PG_BASEBACKUP);
        copy.args(["-R", "-c", "fast", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER, "-D"]);
        assert!(copy.arg(directory.path().join("data")).status().expect("it runs").success());
        certificates(directory.path());
        Self::launch(directory, port, &[]).await
    }

    async fn launch(directory: Directory, port: u16, settings: &[&str]) -> Self {
        let root = directory.path();
        let mut command = of_postgres(POSTGRES);
        command.arg("-D").arg(root.join("data")).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k"]).arg(root);
        for (name, file) in [("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key"), ("ssl_ca_file", "ca.pem")]
        {
            command.arg("-c").arg(format!("{name}={}", root.join(file).display()));
        }
        for setting in ["ssl=on", "fsync=off"].iter().chain(settings) {
            command.args(["-c", setting]);
        }
        let process = Running(command.spawn().expect("Postgres starts"));
        let postgres = Self { port, _process: process, directory };
        let deadline = Instant::now() + Duration::from_secs(20);
        while postgres.try_sql("postgres", "SELECT 1").is_none() {
            assert!(Instant::now() < deadline, "Postgres does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        postgres
    }

    pub fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn try_sql(&self, database: &str, sql: &str) -> Option<String> {
        let mut psql = of_postgres(PSQL);
        psql.env("PGOPTIONS", "-c default_transaction_read_only=off -c idle_session_timeout=0");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", USER, "-p", &self.port.to_string(), "-h"]);
        let output = psql.arg(self.directory.path()).args(["-d", database, "-c", sql]).stdout(Stdio::piped()).output();
        let output = output.expect("psql runs");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|| panic!("{sql}"))
    }

    pub fn url(&self, rest: &str) -> String {
        format!("postgres://guarded:secret@localhost:{}/app{rest}", self.port)
    }
}

/// An authority, a server named `localhost`, and a client named `guarded`.
fn certificates(root: &Path) {
    let named = |name: &str| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params
    };
    let mut params = named("authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    write(&root.join("ca.pem"), &authority.pem(), 0o644);
    for (file, name) in [("server", "localhost"), ("client", "guarded")] {
        let key = KeyPair::generate().expect("a key");
        let certificate = named(name).signed_by(&key, &authority).expect("signed");
        write(&root.join(format!("{file}.pem")), &certificate.pem(), 0o644);
        write(&root.join(format!("{file}.key")), &key.serialize_pem(), 0o600);
    }
    let other = KeyPair::generate().expect("a key");
    let other = named("another authority").self_signed(&other).expect("signed");
    write(&root.join("other.pem"), &other.pem(), 0o644);
}

pub fn at(url: &str) -> Config {
    Config { heartbeat: Duration::from_millis(200), ..Config::new(Database::At(Address::Url(url.to_owned()))) }
}
