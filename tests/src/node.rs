//! The real `sockpilot-node` on a cgroup of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use anyhow::{Context, Result, ensure};

use crate::{
    cgroup::Cgroup,
    machine::{self, Machine},
    privileges::Granted,
    process::{self, Process},
};

/// The daemon.
pub const PROGRAM: &str = "sockpilot-node";
/// The daemon with another layout of the kernel's tables.
pub const NEXT: &str = "sockpilot-node-next";

/// A daemon that can be killed and started again; what it pinned goes with the guard.
#[derive(Debug)]
pub struct Node<'m> {
    machine: &'m Machine,
    id: String,
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    granted: Option<Granted>,
    pins: PathBuf,
    process: Process,
}

/// Where a daemon keeps what is its own, and what it is told besides.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its state directory.
    pub state: PathBuf,
    /// It pins in a directory of its own below this one.
    pub pin_root: PathBuf,
    /// Variables for it.
    pub environment: Vec<(String, String)>,
    /// What it may; everything, if nothing is said.
    pub granted: Option<Granted>,
}

impl Place {
    /// A place of its own, with the pins where those of all daemons of this run are.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn new(machine: &Machine, id: &str) -> Result<Self> {
        let state = machine.folder(id)?;
        machine::set_mode(&state, 0o700)?;
        Ok(Self { state, pin_root: machine.pin_root(), environment: vec![], granted: None })
    }
}

impl<'m> Node<'m> {
    /// Starts one for a server.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(machine: &'m Machine, id: &str, server: &str, cgroup: &Cgroup, more: &[&str]) -> Result<Self> {
        Self::start_at(machine, id, server, cgroup, Place::new(machine, id)?, more)
    }

    /// As [`Self::start`], at a place of the test's choice.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_at(
        machine: &'m Machine,
        id: &str,
        server: &str,
        cgroup: &Cgroup,
        place: Place,
        more: &[&str],
    ) -> Result<Self> {
        let Place { state, pin_root, environment, granted } = place;
        let arguments: Vec<String> =
            ["--server", server, "--node-id", id, "--cgroup", text(cgroup.path())?, "--report-interval-ms", "200"]
                .into_iter()
                // What no policy matches leaves no trace, unless a test wants it.
                .chain(
                    if more.contains(&"--record-unmatched-bp") {
                        [].as_slice()
                    } else {
                        &["--record-unmatched-bp", "0"]
                    }
                    .iter()
                    .copied(),
                )
                .chain(["--pin-root", text(&pin_root)?, "--state-dir", text(&state)?])
                .chain(more.iter().copied())
                .map(str::to_owned)
                .collect();
        let program = PROGRAM.to_owned();
        let process = launch(machine, id, &program, &arguments, (&environment, granted), &[])?;
        let (id, pins) = (id.to_owned(), pin_root.join(id));
        Ok(Self { machine, id, program, arguments, environment, granted, pins, process })
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
        let Self { machine, id, program, arguments, environment, granted, .. } = self;
        self.process = launch(machine, id, program, arguments, (environment, *granted), &[])?;
        Ok(())
    }

    /// As [`Self::restart`], with another version of the program.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn restart_as(&mut self, program: &str) -> Result<()> {
        program.clone_into(&mut self.program);
        self.restart()
    }

    /// Ends it, then removes everything it left in the kernel, as an operator would.
    ///
    /// # Errors
    /// If it says so, or something stays.
    pub fn detach(&mut self) -> Result<ExitStatus> {
        self.process.terminate()?;
        let name = format!("{}-detach", self.id);
        let told = (&self.environment[..], self.granted);
        let mut detach = launch(self.machine, &name, &self.program, &self.arguments, told, &["--detach"])?;
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

fn launch(
    machine: &Machine,
    id: &str,
    program: &str,
    arguments: &[String],
    (environment, granted): (&[(String, String)], Option<Granted>),
    more: &[&str],
) -> Result<Process> {
    let mut command = process::own(program)?;
    command.args(arguments).args(more).envs(environment.iter().cloned());
    if let Some(granted) = granted {
        granted.to(&mut command);
    }
    Process::start(machine, id, command)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{path:?} is not UTF-8"))
}
