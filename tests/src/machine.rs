//! Whether this machine allows a test, the one lock under which tests run, and the sweep of what dead runs left.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::Write,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    process,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use sockpilot_programs::skipped;

use crate::{cgroup, disk};

/// Everything a run leaves in the file system begins with this, followed by its process id and a dash.
const PREFIX: &str = "sockpilot-test-";
const BPF_FS: &str = "/sys/fs/bpf";
const LOG_TAIL_LINES: usize = 60;

/// What a test needs of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Processes and Postgres.
    Nothing,
    /// Root, cgroup v2, network namespaces, TUN devices and BPF.
    Kernel,
}

/// The machine, held alone for one test or run.
#[derive(Debug)]
pub struct Machine {
    directory: tempfile::TempDir,
    names: AtomicU32,
    _turn: Turn,
}

impl Machine {
    /// Waits for its turn, sweeps, and makes a folder for everything the run writes.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn claim() -> Result<Self> {
        let turn = take_turn()?;
        sweep();
        let directory = tempfile::Builder::new().prefix(&own_prefix()).tempdir().context("making a folder")?;
        // Postgres and the server run as another user.
        set_mode(directory.path(), 0o755)?;
        Ok(Self { directory, names: AtomicU32::new(0), _turn: turn })
    }

    /// Where logs, state and data of this run are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A new empty folder in it.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory().join(self.unique(name));
        fs::create_dir(&path).with_context(|| format!("making {path:?}"))?;
        Ok(path)
    }

    /// A name that nothing else in this run has.
    pub fn unique(&self, name: &str) -> String {
        format!("{name}-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// Where the daemons of this run pin; it goes with the last guard.
    #[must_use]
    pub fn pin_root(&self) -> PathBuf {
        Path::new(BPF_FS).join(format!("{}pins", own_prefix()))
    }

    /// Shows the end of every log of this run.
    pub fn print_logs(&self) {
        let Ok(entries) = fs::read_dir(self.directory()) else { return };
        let mut logs: Vec<_> =
            entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
        logs.sort();
        for path in logs {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
            let lines: Vec<_> = text.lines().collect();
            eprintln!("---- {} ({} lines, the last ones)", path.display(), lines.len());
            for line in &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.pin_root());
    }
}

/// One run at a time, so that they do not disturb each other's timing. Locks the folder of temporary files: a lock file would
/// stay behind.
fn take_turn() -> Result<Turn> {
    static OWN: Mutex<()> = Mutex::new(());
    let own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = File::open(std::env::temp_dir()).context("opening the folder of temporary files")?;
    let lock = Flock::lock(folder, FlockArg::LockExclusiveNonblock).or_else(|(folder, _)| {
        let _ = writeln!(std::io::stderr(), "waiting for another run of sockpilot's tests, demo or benchmark ...");
        Flock::lock(folder, FlockArg::LockExclusive)
    });
    Ok(Turn { _folder: lock.map_err(|(_, errno)| errno).context("taking the lock")?, _own: own })
}

/// Among the tests of this process and among all processes.
#[derive(Debug)]
struct Turn {
    _folder: Flock<File>,
    _own: MutexGuard<'static, ()>,
}

/// Runs a test: skips it, saying why, where the machine does not allow it, else panics with the whole story if it fails.
///
/// # Panics
/// If `body` fails.
pub fn scenario(needs: Needs, body: impl FnOnce(&Machine) -> Result<()>) {
    if let Err(error) = allows(needs) {
        return skipped(format!("{error:#}"));
    }
    let machine = Machine::claim().unwrap_or_else(|error| panic!("{error:#}"));
    let run = || body(&machine).unwrap_or_else(|error| panic!("{error:#}"));
    // Why it failed is printed before the logs, which are long: whoever shortens what a run printed keeps its beginning.
    if let Err(cause) = panic::catch_unwind(AssertUnwindSafe(run)) {
        machine.print_logs();
        panic::resume_unwind(cause);
    }
}

/// Whether the machine gives what is needed.
///
/// # Errors
/// Saying what is missing.
pub fn allows(needs: Needs) -> Result<()> {
    if needs == Needs::Nothing {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("this needs root (BPF, network namespaces)");
    }
    cgroup::root()?;
    for (path, what) in [("/dev/net/tun", "TUN devices"), ("/proc/self/ns/net", "network namespaces")] {
        if !Path::new(path).exists() {
            bail!("the kernel has no {what} ({path} is missing)");
        }
    }
    Ok(())
}

/// The beginning of every name this process makes.
#[must_use]
pub fn own_prefix() -> String {
    format!("{PREFIX}{}-", process::id())
}

/// Sets the permissions of a file or folder.
///
/// # Errors
/// If the file system refuses.
pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(|| format!("setting the mode of {path:?}"))
}

/// What this run has left: files, pins, control groups and processes that carry its name, and its children.
#[must_use]
pub fn remains() -> Vec<String> {
    let own = own_prefix();
    let folders = [Some(std::env::temp_dir()), Some(PathBuf::from(BPF_FS)), cgroup::root().ok()];
    let entries = folders.into_iter().flatten().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let files = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own));
    let mut found: Vec<_> = files.map(|entry| entry.path().display().to_string()).collect();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let status = fs::read_to_string(process.path().join("status")).unwrap_or_default();
        if command.contains(&own) || status.contains(&format!("\nPPid:\t{}\n", process::id())) {
            found.push(format!("process {}: {command}", process.file_name().display()));
        }
    }
    found
}

/// Removes what runs left whose process is gone. Errors are no matter: the next run tries again.
fn sweep() {
    let temporary = std::env::temp_dir();
    for path in leftovers(&temporary) {
        end_postgres_below(&path);
        disk::unmount_below(&path);
        let _ = fs::remove_dir_all(path);
    }
    for path in leftovers(Path::new(BPF_FS)) {
        let _ = fs::remove_dir_all(path);
    }
    if let Ok(root) = cgroup::root() {
        for path in leftovers(&root) {
            cgroup::remove(&path);
        }
    }
}

fn leftovers(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split('-').next());
            pid.and_then(|pid| pid.parse::<u32>().ok()).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        })
        .map(|entry| entry.path())
        .collect()
}

/// Ends every Postgres whose data folder is below `folder`: one that a killed server had started stays otherwise.
pub fn end_postgres_below(folder: &Path) {
    let mut waiting = vec![folder.to_owned()];
    let mut seen = HashSet::new();
    while let Some(folder) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() && !path.is_symlink() && seen.insert(path.clone()) && seen.len() < 1_000 {
                waiting.push(path);
            } else if path.file_name().is_some_and(|name| name == "postmaster.pid") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let Some(pid) = text.lines().next().and_then(|line| line.trim().parse().ok()) else { continue };
                let at_home = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder);
                if at_home {
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGQUIT);
                }
            }
        }
    }
}
