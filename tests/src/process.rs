//! Child processes that end with the guard, and with this process however it ends.

use std::{
    fs::File,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{machine::Machine, node::NEXT, wait::eventually};

/// How long a process may take to end when asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// The path of a binary of this workspace, built beside the one that runs.
///
/// # Errors
/// If it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    let mut folder = own.parent().context("this program stands nowhere")?;
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder = folder.parent().context("this program stands nowhere")?;
    }
    let path = folder.join(name);
    if !path.exists() {
        let more = if name == NEXT {
            " && cargo build -p sockpilot-node --features layout-next --bin sockpilot-node-next"
        } else {
            ""
        };
        bail!("{} has not been built; run: cargo build --workspace --bins{more}", path.display());
    }
    Ok(path)
}

/// A command that runs a binary of this workspace.
///
/// # Errors
/// If it has not been built.
pub fn own(name: &str) -> Result<Command> {
    Ok(sockpilot_programs::own(&binary(name)?))
}

/// A command that runs this very program.
///
/// # Errors
/// If it cannot be found.
pub fn this() -> Result<Command> {
    Ok(sockpilot_programs::own(&std::env::current_exe().context("finding this program")?))
}

/// Makes a command's process end with the thread that starts it, by `signal`.
pub fn end_with_parent(command: &mut Command, signal: Signal) {
    // SAFETY: between fork and exec only prctl(2) is called.
    unsafe {
        command.pre_exec(move || nix::sys::prctl::set_pdeathsig(signal).map_err(Into::into));
    }
}

/// A running process; its output goes to a log in the machine's folder.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: bool,
}

impl Process {
    /// Starts a command. It ends when the thread that called this ends.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(machine: &Machine, name: &str, command: Command) -> Result<Self> {
        Self::start_ending_by(machine, name, command, Signal::SIGKILL)
    }

    /// As [`Self::start`], with the signal it gets when this process is gone.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_ending_by(machine: &Machine, name: &str, mut command: Command, signal: Signal) -> Result<Self> {
        let log = machine.directory().join(format!("{}.log", machine.unique(name)));
        let out = File::create(&log).with_context(|| format!("making {log:?}"))?;
        let err = out.try_clone().context("copying a file handle")?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        end_with_parent(&mut command, signal);
        let child = command.spawn().with_context(|| format!("starting {:?}", command.get_program()))?;
        Ok(Self { name: name.to_owned(), child, log, ended: false })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// An error, with the end of its log, if it has ended.
    ///
    /// # Errors
    /// See above.
    pub fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().context("looking at a process")? {
            self.ended = true;
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(5).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            bail!("{} has ended ({status}): {}", self.name, tail.join(" | "));
        }
        Ok(())
    }

    /// Kills it at once, as a crash would.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        if !self.ended {
            self.signal(Signal::SIGKILL);
            self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
            self.ended = true;
        }
        Ok(())
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.end_by(Signal::SIGTERM)
    }

    /// Asks it to end by another signal and waits.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn end_by(&mut self, signal: Signal) -> Result<ExitStatus> {
        if self.ended {
            return Ok(ExitStatus::from_raw(0));
        }
        self.signal(signal);
        let status = self.wait(PATIENCE)?;
        Ok(status)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = eventually(&format!("the end of {}", self.name), limit, || {
            self.child.try_wait().context("looking at a process")?.context("still running")
        })?;
        self.ended = true;
        Ok(status)
    }

    /// Gives a signal to it and its children.
    ///
    /// # Errors
    /// If they cannot be found.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        // First itself, so that no more children come.
        self.signal(signal);
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        for child in children.context("looking for children")?.split_whitespace() {
            let _ = kill(Pid::from_raw(child.parse().context("a process id")?), signal);
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        // It may be gone already; then there is nothing to do.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.signal(Signal::SIGTERM);
        for _ in 0..PATIENCE.as_millis() / 20 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
