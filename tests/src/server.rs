//! The real `sockpilot-server`, never as root.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::unistd::{Uid, User};

use crate::{
    admin::Admin,
    machine::{self, Machine},
    postgres::{Durability, Postgres},
    process::{self, Process},
    wait::eventually,
};

/// The embedded Postgres has to be made first.
const START: Duration = Duration::from_secs(60);
const UNPRIVILEGED: &str = "nobody";

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
    address: SocketAddr,
    metrics: SocketAddr,
    process: Process,
}

impl<'m> Server<'m> {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(machine: &'m Machine, database: Database, arguments: &[&str]) -> Result<Self> {
        let user = match Uid::effective().is_root() {
            true => User::from_name(UNPRIVILEGED).context("looking for an unprivileged user")?,
            false => None,
        };
        let state = machine.folder("server")?;
        let mut program = process::binary("sockpilot-server")?;
        if let Some(user) = &user {
            nix::unistd::chown(&state, Some(user.uid), Some(user.gid)).context("giving the server its folder")?;
            program = within_reach(machine, &program)?;
        }
        let (address, metrics) = (free_address()?, free_address()?);
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let command = command(&program, user.as_ref(), &state, &database, &arguments, address, metrics);
        let process = Process::start(machine, "server", command)?;
        let mut server = Self { machine, program, user, state, database, arguments, address, metrics, process };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Where clients find it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its metrics endpoint.
    #[must_use]
    pub fn metrics(&self) -> SocketAddr {
        self.metrics
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
        Admin::new(&self.url())
    }

    /// What the command line says to a person who asks this server.
    ///
    /// # Errors
    /// With its words, if it refuses.
    pub fn says(&self, arguments: &[&str]) -> Result<String> {
        let mut command = process::own("sockpilot")?;
        let output = command.args(arguments).env("SOCKPILOT_SERVER", self.url()).output();
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
        let command = command(&self.program, user, &self.state, database, &self.arguments, self.address, self.metrics);
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
    arguments: &[String],
    address: SocketAddr,
    metrics: SocketAddr,
) -> Command {
    let mut command = sockpilot_programs::own(program);
    command.arg("--listen").arg(address.to_string()).arg("--metrics-listen").arg(metrics.to_string());
    command.arg("--state-dir").arg(state).args(arguments).current_dir(state).env("HOME", state);
    match database {
        Database::Url(url) => command.env("DATABASE_URL", url),
        Database::Embedded => command.env_remove("DATABASE_URL"),
    };
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// The unprivileged user may not be allowed to enter the folder this workspace is in.
fn within_reach(machine: &Machine, program: &PathBuf) -> Result<PathBuf> {
    let copy = machine.directory().join(machine.unique("sockpilot-server"));
    if fs::hard_link(program, &copy).is_err() {
        fs::copy(program, &copy).with_context(|| format!("copying {program:?}"))?;
    }
    Ok(copy)
}

/// An address of the loopback that was free a moment ago.
///
/// # Errors
/// If there is none.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    listener.local_addr().context("asking for the port")
}
