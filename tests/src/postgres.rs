//! A private Postgres that can be killed and started again.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::Signal,
    unistd::{Uid, User},
};
use sockpilot_programs::{
    INITDB, PG_BASEBACKUP, POSTGRES, PSQL, Program,
    postgres::{self, Installed},
};

use crate::{machine::Machine, process::Process, wait::eventually};

const START: Duration = Duration::from_secs(20);

/// Whether a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As in production.
    Disk,
    /// Survives the death of every process, but not of the machine: for tests, which only do the former.
    Process,
}

/// A Postgres with its own data, reached by a socket only.
#[derive(Debug)]
pub struct Postgres<'m> {
    machine: &'m Machine,
    installed: Installed,
    folder: PathBuf,
    durability: Durability,
    user: Option<User>,
    environment: Vec<(String, String)>,
    process: Process,
}

impl<'m> Postgres<'m> {
    /// Makes an empty database and starts it.
    ///
    /// # Errors
    /// If Postgres is not installed or does not start.
    pub fn start(machine: &'m Machine, durability: Durability) -> Result<Self> {
        Self::start_in(machine, durability, machine.folder("postgres")?, &[])
    }

    /// As [`Self::start`], in an empty folder of the test's choice, with more variables.
    ///
    /// # Errors
    /// As there.
    pub fn start_in(
        machine: &'m Machine,
        durability: Durability,
        folder: PathBuf,
        environment: &[(String, String)],
    ) -> Result<Self> {
        let installed = postgres::installed()?.swap_remove(0);
        let user = unprivileged_user()?;
        if let Some(user) = &user {
            nix::unistd::chown(&folder, Some(user.uid), Some(user.gid)).context("giving Postgres its folder")?;
        }
        let mut initdb = as_user(&installed, INITDB, user.as_ref(), &folder)?;
        initdb.args(["--username=sockpilot", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"]);
        let output = initdb.arg(folder.join("data")).output().context("running initdb")?;
        if !output.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let environment = environment.to_vec();
        let process = launch(machine, &installed, &folder, durability, user.as_ref(), &environment)?;
        let postgres = Self { machine, installed, folder, durability, user, environment, process };
        postgres.wait_until_ready()?;
        Ok(postgres)
    }

    /// Starts another that follows this one until it is promoted.
    ///
    /// # Errors
    /// If it cannot be copied, or does not start.
    pub fn standby(&self) -> Result<Self> {
        let Self { machine, installed, folder: primary, durability, user, .. } = self;
        let folder = machine.folder("standby")?;
        if let Some(user) = user {
            nix::unistd::chown(&folder, Some(user.uid), Some(user.gid)).context("giving Postgres its folder")?;
        }
        let mut copy = as_user(installed, PG_BASEBACKUP, user.as_ref(), &folder)?;
        copy.args(["-R", "-c", "fast", "--no-sync", "-U", "sockpilot", "-h"]).arg(primary).arg("-D");
        let output = copy.arg(folder.join("data")).output().context("running pg_basebackup")?;
        if !output.status.success() {
            bail!("pg_basebackup failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let process = launch(machine, installed, &folder, *durability, user.as_ref(), &[])?;
        let standby = Self {
            machine,
            installed: installed.clone(),
            folder,
            durability: *durability,
            user: user.clone(),
            environment: vec![],
            process,
        };
        standby.wait_until_ready()?;
        Ok(standby)
    }

    /// Makes it take changes.
    ///
    /// # Errors
    /// If Postgres refuses.
    pub fn promote(&self) -> Result<()> {
        self.query("SELECT pg_promote()").map(drop)
    }

    /// Makes of a standby what a copy of its primary's files would be: it takes changes, on the same timeline.
    ///
    /// # Errors
    /// If it does not start.
    pub fn make_primary(&mut self) -> Result<()> {
        self.kill()?;
        fs::remove_file(self.folder.join("data/standby.signal")).context("making a standby a primary")?;
        self.restart()
    }

    /// Changes a setting while it runs.
    ///
    /// # Errors
    /// If Postgres refuses.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        self.query(&format!("ALTER SYSTEM SET {name} = '{value}'"))?;
        self.query("SELECT pg_reload_conf()").map(drop)
    }

    /// Its folder, with its socket.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where clients find whichever of them takes changes.
    #[must_use]
    pub fn url_of(hosts: &[&Self]) -> String {
        let hosts: Vec<_> = hosts.iter().map(|postgres| postgres.folder.display().to_string()).collect();
        format!("postgres://localhost/postgres?host={}&user=sockpilot&target_session_attrs=read-write", hosts.join(","))
    }

    /// Stops all its processes where they are, or has them go on.
    ///
    /// # Errors
    /// If they cannot be found.
    pub fn stall(&self, stalled: bool) -> Result<()> {
        let signal = if stalled { Signal::SIGSTOP } else { Signal::SIGCONT };
        self.process.signal_all(signal)
    }

    /// Where clients find it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://localhost/postgres?host={}&user=sockpilot", self.folder.display())
    }

    /// Makes a copy of the database as it is now, as a backup that is restored later would be, while no client is connected; says
    /// where clients find it.
    ///
    /// # Errors
    /// If Postgres refuses.
    pub fn copy(&self, name: &str) -> Result<String> {
        eventually("the database is copied", START, || {
            self.query(&format!("CREATE DATABASE {name} TEMPLATE postgres")).map(drop)
        })?;
        Ok(self.url().replace("/postgres?", &format!("/{name}?")))
    }

    /// Kills it as a crash would, its children included (they notice).
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.go_on();
        self.process.kill()
    }

    /// Nobody notices anything, or can be asked to end, who is stopped where they are.
    fn go_on(&self) {
        // It may be gone already.
        let _ = self.stall(false);
    }

    /// Starts it again on the same data.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart(&mut self) -> Result<()> {
        // After a crash the old children may take a moment to notice; until then the new one refuses the data folder.
        self.process = eventually("Postgres starts on its old data", START, || {
            let Self { machine, installed, folder, durability, user, environment, .. } = &*self;
            let mut process = launch(machine, installed, folder, *durability, user.as_ref(), environment)?;
            eventually("Postgres answers", START, || {
                process.check_alive()?;
                self.query("SELECT 1").map(drop)
            })?;
            Ok(process)
        })?;
        Ok(())
    }

    /// The answer to a query, as `psql -At` prints it.
    ///
    /// # Errors
    /// If Postgres or the query refuses.
    pub fn query(&self, sql: &str) -> Result<String> {
        let mut psql = self.installed.command(PSQL)?;
        psql.args(["-XAt", "-v", "ON_ERROR_STOP=1", "-U", "sockpilot", "-d", "postgres", "-c", sql, "-h"])
            .arg(&self.folder);
        let output = psql.output().context("running psql")?;
        if !output.status.success() {
            bail!("{sql}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    fn wait_until_ready(&self) -> Result<()> {
        eventually("Postgres answers", START, || self.query("SELECT 1").map(drop))
    }
}

impl Drop for Postgres<'_> {
    fn drop(&mut self) {
        self.go_on();
        // Fast shutdown; clients that are still connected are sent away.
        let _ = self.process.end_by(Signal::SIGINT);
    }
}

fn launch(
    machine: &Machine,
    installed: &Installed,
    folder: &Path,
    durability: Durability,
    user: Option<&User>,
    environment: &[(String, String)],
) -> Result<Process> {
    let mut command = as_user(installed, POSTGRES, user, folder)?;
    command.envs(environment.iter().cloned());
    command.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
    command.args(["-c", "listen_addresses=", "-c", "dynamic_shared_memory_type=mmap", "-c", "max_connections=50"]);
    if durability == Durability::Process {
        command.args(["-c", "fsync=off"]);
    }
    Process::start_ending_by(machine, "postgres", command, Signal::SIGQUIT)
}

fn as_user(installed: &Installed, program: Program, user: Option<&User>, folder: &Path) -> Result<Command> {
    let mut command = installed.command(program)?;
    command.current_dir(folder);
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    Ok(command)
}

/// Postgres refuses to run as root; `None`: we are not root.
fn unprivileged_user() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres").context("looking for the user postgres")?;
    Ok(Some(user.context("there is no user postgres, as whom Postgres runs here; run make setup")?))
}
