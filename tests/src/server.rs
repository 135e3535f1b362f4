//! The real `sockpilot-server`, never as root.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::unistd::{Uid, User};
use sockpilot_identity::{
    files::Watched,
    tls::{ClientTls, Own},
};
use sockpilot_programs::reserved_address;

use crate::{
    admin::Admin,
    machine::{self, Machine},
    pki::Pki,
    postgres::{Durability, Postgres},
    process::{self, Process},
    wait::eventually,
};

/// The embedded Postgres has to be made first.
const START: Duration = Duration::from_secs(60);
const UNPRIVILEGED: &str = "nobody";
/// Who asks where it matters who asks.
const ADMIN: &str = "person-root";

/// Where the server keeps its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// In a Postgres that the test has.
    Url(String),
    /// In a private one that the server starts by itself.
    Embedded,
}

/// A server that can be killed and started again at the same address.
#[derive(Debug)]
pub struct Server<'m> {
    machine: &'m Machine,
    program: PathBuf,
    user: Option<User>,
    state: PathBuf,
    database: Database,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    addresses: Addresses,
    pki: Option<Pki>,
    process: Process,
}

/// Where it listens.
#[derive(Debug, Clone, Copy)]
struct Addresses {
    people: SocketAddr,
    /// With TLS; else nodes come where people do.
    nodes: Option<SocketAddr>,
    metrics: SocketAddr,
}

impl Addresses {
    fn reserved(secured: bool) -> io::Result<Self> {
        let nodes = secured.then(reserved_address).transpose()?;
        Ok(Self { people: reserved_address()?, nodes, metrics: reserved_address()? })
    }
}

impl<'m> Server<'m> {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(machine: &'m Machine, database: Database, arguments: &[&str]) -> Result<Self> {
        Self::launch(machine, database, arguments, vec![], None)
    }

    /// As [`Self::start`], with these variables, now and when it is started again.
    ///
    /// # Errors
    /// If it does not.
    pub fn start_in(machine: &'m Machine, database: Database, environment: Vec<(String, String)>) -> Result<Self> {
        Self::launch(machine, database, &[], environment, None)
    }

    /// As [`Self::start`], with TLS at two doors, by an authority of its own.
    ///
    /// # Errors
    /// If it does not.
    pub fn start_secured(machine: &'m Machine, database: Database, arguments: &[&str]) -> Result<Self> {
        let pki = Pki::new(machine, unprivileged()?)?;
        Self::launch(machine, database, arguments, vec![], Some(pki))
    }

    fn launch(
        machine: &'m Machine,
        database: Database,
        arguments: &[&str],
        environment: Vec<(String, String)>,
        pki: Option<Pki>,
    ) -> Result<Self> {
        let user = unprivileged()?;
        let state = machine.folder("server")?;
        let mut program = process::binary("sockpilot-server")?;
        if let Some(user) = &user {
            nix::unistd::chown(&state, Some(user.uid), Some(user.gid)).context("giving the server its folder")?;
            program = within_reach(machine, &program)?;
        }
        let addresses = Addresses::reserved(pki.is_some()).context("addresses to listen at")?;
        let mut arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        if let Some(pki) = &pki {
            arguments.extend(pki.server_arguments()?);
        }
        let command = command(&program, user.as_ref(), &state, &database, (&arguments, &environment), addresses);
        let process = Process::start(machine, "server", command)?;
        let mut server =
            Self { machine, program, user, state, database, arguments, environment, addresses, pki, process };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Where clients find it.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(self.addresses.people)
    }

    /// Where it listens for people, and without TLS for nodes.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.addresses.people
    }

    /// Where nodes find it.
    #[must_use]
    pub fn node_url(&self) -> String {
        self.url_of(self.addresses.nodes.unwrap_or(self.addresses.people))
    }

    fn url_of(&self, address: SocketAddr) -> String {
        let scheme = if self.pki.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }

    /// The authority and certificates of one with TLS.
    ///
    /// # Errors
    /// If it speaks none.
    pub fn pki(&self) -> Result<&Pki> {
        self.pki.as_ref().context("this server speaks no TLS")
    }

    /// TLS of a node that is played; none where the server speaks none.
    ///
    /// # Errors
    /// If no certificate can be made.
    pub fn node_tls(&self, id: &str) -> Result<Option<Arc<Watched<ClientTls>>>> {
        self.pki.as_ref().map(|pki| pki.node(id)).transpose()
    }

    /// Its metrics endpoint.
    #[must_use]
    pub fn metrics(&self) -> SocketAddr {
        self.addresses.metrics
    }

    /// What its metrics endpoint says.
    ///
    /// # Errors
    /// If it does not.
    pub fn metrics_text(&self) -> Result<String> {
        metrics_text(self.addresses.metrics)
    }

    /// A counter with its labels, as in `refused_calls_total{reason="rate"}`; 0 if it is not there.
    ///
    /// # Errors
    /// If there are no metrics.
    pub fn counted(&self, name: &str) -> Result<u64> {
        let text = self.metrics_text()?;
        let line = text.lines().find_map(|line| line.strip_prefix("sockpilot_server_")?.strip_prefix(name));
        Ok(line.and_then(|rest| rest.trim().parse().ok()).unwrap_or_default())
    }

    /// The user it runs as.
    #[must_use]
    pub fn user(&self) -> String {
        match &self.user {
            Some(user) => user.name.clone(),
            None => Uid::effective().to_string(),
        }
    }

    /// A client for it.
    ///
    /// # Errors
    /// If no runtime can be made.
    pub fn admin(&self) -> Result<Admin> {
        let tls = self.pki.as_ref().map(|pki| pki.client(Some(&pki.own(ADMIN)))).transpose()?;
        Admin::with(&self.url(), tls)
    }

    /// What the command line says to a person who asks this server.
    ///
    /// # Errors
    /// With its words, if it refuses.
    pub fn says(&self, arguments: &[&str]) -> Result<String> {
        let mut command = process::own("sockpilot")?;
        command.args(arguments).env("SOCKPILOT_SERVER", self.url());
        if let Some(pki) = &self.pki {
            let Own { certificate, key } = pki.own(ADMIN);
            command.env("SOCKPILOT_TLS_CA", pki.file("ca.pem"));
            command.env("SOCKPILOT_TLS_CERT", certificate).env("SOCKPILOT_TLS_KEY", key);
        }
        let output = command.output();
        let output = output.context("starting sockpilot")?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again at the same address, with the same data.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        let (user, database) = (self.user.as_ref(), &self.database);
        let given = (&self.arguments[..], &self.environment[..]);
        let command = command(&self.program, user, &self.state, database, given, self.addresses);
        self.process = Process::start(self.machine, "server", command)?;
        self.wait_until_ready()
    }

    /// Starts it again at the same address, on another database.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn restart_on(&mut self, database: Database) -> Result<()> {
        self.database = database;
        self.restart()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let admin = self.admin()?;
        eventually("the server answers", START, || {
            // A server that has ended will never answer.
            if let Err(error) = self.process.check_alive() {
                return Ok(Err(error));
            }
            Ok(Ok(admin.nodes().map(drop)?))
        })?
    }
}

/// A server with a database of its own, and a client.
#[derive(Debug)]
pub struct Served<'m> {
    /// The client.
    pub admin: Admin,
    /// The server.
    pub server: Server<'m>,
    /// Where it keeps everything.
    pub postgres: Postgres<'m>,
}

impl<'m> Served<'m> {
    /// Starts both, with nothing in the database.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn start(machine: &'m Machine) -> Result<Self> {
        let postgres = Postgres::start(machine, Durability::Process)?;
        let server = Server::start(machine, Database::Url(postgres.url()), &[])?;
        Ok(Self { admin: server.admin()?, server, postgres })
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = self.process.terminate();
        machine::end_postgres_below(&self.state);
    }
}

fn command(
    program: &Path,
    user: Option<&User>,
    state: &PathBuf,
    database: &Database,
    (arguments, environment): (&[String], &[(String, String)]),
    addresses: Addresses,
) -> Command {
    let Addresses { people, nodes, metrics } = addresses;
    let mut command = sockpilot_programs::own(program);
    command.arg("--listen").arg(people.to_string()).arg("--metrics-listen").arg(metrics.to_string());
    command.args(nodes.map(|nodes| format!("--node-listen={nodes}")));
    command.arg("--state-dir").arg(state).args(arguments).current_dir(state).env("HOME", state);
    command.envs(environment.iter().cloned());
    match database {
        Database::Url(url) => command.env("DATABASE_URL", url),
        Database::Embedded => command.env_remove("DATABASE_URL"),
    };
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

fn unprivileged() -> Result<Option<User>> {
    match Uid::effective().is_root() {
        true => User::from_name(UNPRIVILEGED).context("looking for an unprivileged user"),
        false => Ok(None),
    }
}

/// The unprivileged user may not be allowed to enter the folder this workspace is in.
fn within_reach(machine: &Machine, program: &PathBuf) -> Result<PathBuf> {
    let copy = machine.directory().join(machine.unique("sockpilot-server"));
    if fs::hard_link(program, &copy).is_err() {
        fs::copy(program, &copy).with_context(|| format!("copying {program:?}"))?;
    }
    Ok(copy)
}

/// What a metrics endpoint says.
///
/// # Errors
/// If it does not.
pub fn metrics_text(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).context("asking for metrics")?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("reading metrics")?;
    Ok(text)
}
