//! Keeps the private Postgres running, in a thread of its own: the kernel ends a child when the thread that made it ends, which
//! is what we want when the server is killed, and not when a worker thread retires.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::{Pid, getpid, getppid},
};
use sockpilot_programs::POSTGRES;

use super::{Doing, EmbeddedError, install::Layout};

const POLL: Duration = Duration::from_millis(50);
const RESTART_AFTER: Duration = Duration::from_millis(500);
/// A fast shutdown writes a checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// The thread that keeps it running.
#[derive(Debug)]
pub struct Supervisor {
    /// Dropped, it asks the thread to stop.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    pid: Arc<AtomicU32>,
}

impl Supervisor {
    /// Starts the thread.
    pub fn start(layout: Layout, settings: &[(&str, &str)]) -> Result<Self, EmbeddedError> {
        let (stop, stopped) = channel();
        let pid = Arc::new(AtomicU32::new(0));
        let settings: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let run = Run { layout, settings, stopped, pid: pid.clone() };
        let thread = thread::Builder::new().name("postgres".to_owned()).spawn(move || run.run());
        let thread = thread.doing(|| "starting a thread".to_owned())?;
        Ok(Self { stop: Some(stop), thread: Some(thread), pid })
    }

    /// The child's id, if there is one now.
    pub fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|&pid| pid > 0)
    }

    /// Stops the child and waits for its end.
    pub fn stop(mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("private Postgres thread panicked");
        }
    }
}

struct Run {
    layout: Layout,
    settings: Vec<String>,
    stopped: Receiver<()>,
    pid: Arc<AtomicU32>,
}

impl Run {
    fn run(self) {
        let mut asked = false;
        while !asked {
            if let Some(pid) = running(&self.layout.data) {
                tracing::info!(pid, "private Postgres adopted");
                asked = self.wait_while(|| running(&self.layout.data) == Some(pid));
                continue;
            }
            match self.spawn() {
                Ok(child) => asked = self.attend(child),
                Err(error) => tracing::error!(%error, "private Postgres not started"),
            }
            asked = asked || self.wait_while_until(Instant::now() + RESTART_AFTER);
        }
    }

    /// Waits while something holds; says whether it was asked to stop.
    fn wait_while(&self, mut holds: impl FnMut() -> bool) -> bool {
        while holds() {
            if self.asked_within(POLL) {
                return true;
            }
        }
        false
    }

    fn wait_while_until(&self, deadline: Instant) -> bool {
        self.wait_while(|| Instant::now() < deadline)
    }

    fn asked_within(&self, time: Duration) -> bool {
        match self.stopped.recv_timeout(time) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let Layout { data, socket_directory, log, .. } = &self.layout;
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = self.layout.command(POSTGRES).map_err(io::Error::other)?;
        command.arg("-D").arg(data);
        command.arg("-c").arg(format!("unix_socket_directories={}", socket_directory.display()));
        // No JIT: it needs memory that can be written and executed, which services are denied.
        for setting in ["listen_addresses=", "unix_socket_permissions=0700", "max_connections=100", "jit=off"] {
            command.args(["-c", setting]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A Ctrl-C in the terminal is for the server, which drains first.
        command.process_group(0);
        let parent = getpid();
        // SAFETY: between fork and exec only these system calls are made, which are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                // After setuid, which clears it. SIGINT is Postgres's fast shutdown.
                prctl::set_pdeathsig(Signal::SIGINT)?;
                if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
            });
        }
        let child = command.spawn()?;
        tracing::info!(pid = child.id(), data = %data.display(), "private Postgres started");
        Ok(child)
    }

    /// Waits for the child's end, or ends it; says whether it was asked to stop.
    fn attend(&self, mut child: Child) -> bool {
        self.pid.store(child.id(), Ordering::Relaxed);
        let mut status = None;
        let asked = self.wait_while(|| {
            status = ended(&mut child);
            status.is_none()
        });
        if asked {
            stop(&mut child);
        } else {
            tracing::error!(status = ?status, "private Postgres ended, starting it again");
        }
        self.pid.store(0, Ordering::Relaxed);
        asked
    }
}

fn ended(child: &mut Child) -> Option<ExitStatus> {
    // An error means that there is no child to wait for.
    child.try_wait().unwrap_or_else(|_| Some(ExitStatus::default()))
}

fn stop(child: &mut Child) {
    let pid = Pid::from_raw(child.id().cast_signed());
    for (signal, timeout) in [(Signal::SIGINT, STOP_TIMEOUT), (Signal::SIGQUIT, STOP_TIMEOUT)] {
        if let Err(error) = kill(pid, signal) {
            tracing::warn!(%error, %signal, "private Postgres not signalled");
        }
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline {
            if let Some(status) = ended(child) {
                tracing::info!(%status, "private Postgres stopped");
                return;
            }
            thread::sleep(POLL);
        }
    }
    tracing::error!("private Postgres does not stop, left alone");
}

/// The Postgres that runs on the data, as its file says, if that process is really one on that data.
fn running(data: &Path) -> Option<u32> {
    let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: u32 = file.lines().next()?.trim().parse().ok()?;
    let directory = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (directory == data).then_some(pid)
}
