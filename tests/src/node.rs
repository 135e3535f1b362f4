//! The real `sockpilot-node` on a cgroup of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use anyhow::{Context, Result, ensure};

use crate::{
    cgroup::Cgroup,
    machine::Machine,
    process::{self, Process},
};

/// A daemon that can be killed and started again; what it pinned goes with the guard.
#[derive(Debug)]
pub struct Node<'m> {
    machine: &'m Machine,
    id: String,
    arguments: Vec<String>,
    pins: PathBuf,
    process: Process,
}

impl<'m> Node<'m> {
    /// Starts one for a server.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(machine: &'m Machine, id: &str, server: &str, cgroup: &Cgroup, more: &[&str]) -> Result<Self> {
        let state = machine.folder(id)?;
        let arguments =
            ["--server", server, "--node-id", id, "--cgroup", text(cgroup.path())?, "--report-interval-ms", "200"]
                .into_iter()
                .chain(["--pin-root", text(&machine.pin_root())?, "--state-dir", text(&state)?])
                .chain(more.iter().copied())
                .map(str::to_owned)
                .collect();
        let process = launch(machine, id, &arguments, &[])?;
        Ok(Self { machine, id: id.to_owned(), arguments, pins: machine.pin_root().join(id), process })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Where it pins.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Kills it as a crash would: everything pinned stays.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again with the same state.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.process = launch(self.machine, &self.id, &self.arguments, &[])?;
        Ok(())
    }

    /// Ends it, then removes everything it left in the kernel, as an operator would.
    ///
    /// # Errors
    /// If it says so, or something stays.
    pub fn detach(&mut self) -> Result<ExitStatus> {
        self.process.terminate()?;
        let mut detach = launch(self.machine, &format!("{}-detach", self.id), &self.arguments, &["--detach"])?;
        let status = detach.wait(std::time::Duration::from_secs(20))?;
        ensure!(status.success(), "--detach failed ({status}): {}", detach.log());
        ensure!(!self.pins.exists(), "--detach left {:?}", self.pins);
        Ok(status)
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        let _ = self.process.terminate();
        let _ = fs::remove_dir_all(&self.pins);
    }
}

fn launch(machine: &Machine, id: &str, arguments: &Vec<String>, more: &[&str]) -> Result<Process> {
    let mut command = process::own("sockpilot-node")?;
    command.args(arguments).args(more);
    Process::start(machine, id, command)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{path:?} is not UTF-8"))
}
