//! For tests: one private Postgres for the test process, and a fresh database for each test.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    Config, Database,
    metrics::Metrics,
    process::embedded::Embedded,
    store::{
        Store,
        address::{Address, ensure_database},
    },
};

const PREFIX: &str = "sockpilot-test-postgres-";
/// Nothing of a test must survive a power failure, but what is committed survives a killed Postgres.
const SETTINGS: &[(&str, &str)] = &[("fsync", "off"), ("full_page_writes", "off")];

static POSTGRES: OnceLock<Embedded> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

fn state_dir() -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()))
}

/// What befalls the background tasks of a server, by their names. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct FaultPoints(std::sync::Arc<std::sync::Mutex<std::collections::HashMap<&'static str, Fault>>>);

/// What befalls a task when it begins its next run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It panics.
    Panic,
    /// It does not go on while this is set.
    Stall,
}

impl FaultPoints {
    /// Sets a fault.
    pub fn set(&self, task: &'static str, fault: Fault) {
        self.lock().insert(task, fault);
    }

    /// Takes a fault away.
    pub fn clear(&self, task: &'static str) {
        self.lock().remove(task);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<&'static str, Fault>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) async fn reach(&self, task: &'static str) {
        loop {
            let fault = self.lock().get(task).copied();
            match fault {
                None => return,
                Some(Fault::Panic) => panic!("a fault of a test"),
                Some(Fault::Stall) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

/// Equal are those that are the same, as configurations are compared.
impl PartialEq for FaultPoints {
    fn eq(&self, other: &Self) -> bool {
        std::sync::Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for FaultPoints {}

/// Starts a Postgres below a directory, from within any runtime or none.
fn start(directory: &Path) -> Embedded {
    let directory = directory.to_owned();
    let start = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(Embedded::start(&directory, SETTINGS)).expect("a private Postgres")
    };
    std::thread::spawn(start).join().expect("a private Postgres starts")
}

fn postgres() -> &'static Embedded {
    POSTGRES.get_or_init(|| {
        remove_leftovers();
        let postgres = start(&state_dir());
        // SAFETY: the function takes nothing, returns nothing and does not unwind.
        unsafe { libc::atexit(at_exit) };
        postgres
    })
}

/// Statics are not dropped: ends the Postgres of this process, and removes its files.
extern "C" fn at_exit() {
    if let Some(pid) = POSTGRES.get().and_then(Embedded::pid) {
        let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
        // The supervisor would start it again, but the process ends before it notices.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT);
        let deadline = Instant::now() + Duration::from_secs(2);
        while Path::new(&format!("/proc/{pid}/cwd")).exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let _ = fs::remove_dir_all(state_dir());
}

/// Removes the files of test processes that were killed.
fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let pid = rest.and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn fresh_name() -> String {
    format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed))
}

async fn shared() -> &'static Embedded {
    tokio::task::spawn_blocking(postgres).await.expect("a private Postgres")
}

/// A fresh database, for the role that servers have.
///
/// # Panics
/// If there can be none.
pub async fn database() -> Address {
    let (postgres, name) = (shared().await, fresh_name());
    postgres.provide(&name).await.expect("a fresh database");
    postgres.address_of(&name)
}

/// A fresh database without a schema, for who is to own its tables.
///
/// # Panics
/// If there can be none.
pub async fn empty_database() -> Address {
    let (postgres, name) = (shared().await, fresh_name());
    ensure_database(&postgres.owner_of("postgres"), &name).await.expect("a fresh database");
    postgres.owner_of(&name)
}

/// The same database, for who owns its tables.
///
/// # Panics
/// If it is not one of the private Postgres.
pub async fn owner(address: &Address) -> Address {
    let Address::Socket { database, .. } = address else { panic!("of the private Postgres") };
    shared().await.owner_of(database)
}

/// The database of a server as who owns its tables has it.
///
/// # Panics
/// If it is not one of the private Postgres.
pub async fn owner_store(config: &Config) -> Store {
    let Database::At(address) = &config.database else { panic!("of the private Postgres") };
    Store::new(owner(address).await.candidates().expect("an address"), Metrics::new())
}

/// What to start a server with: a fresh database, any free port, and shorter times.
///
/// # Panics
/// If there can be none.
pub async fn config() -> Config {
    let heartbeat = Duration::from_millis(200);
    Config { heartbeat, ..Config::new(Database::At(database().await)) }
}

/// A directory of a test's own, that other users can enter.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes an empty directory.
///
/// # Panics
/// If there can be none.
#[must_use]
pub fn directory() -> Directory {
    let number = DATABASES.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("{PREFIX}{}-{number}", std::process::id()));
    fs::DirBuilder::new().mode(0o755).create(&directory).expect("a new directory");
    Directory(directory)
}

/// A Postgres of a test's own, that may be killed.
#[derive(Debug)]
pub struct OwnPostgres {
    postgres: Option<Embedded>,
    // Removed after the process has ended.
    _directory: Directory,
}

impl OwnPostgres {
    /// Starts one.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Self {
        let directory = directory();
        Self { postgres: Some(start(directory.path())), _directory: directory }
    }

    /// The process.
    ///
    /// # Panics
    /// If it was stopped.
    #[must_use]
    pub fn get(&self) -> &Embedded {
        self.postgres.as_ref().expect("it runs")
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        if let Some(postgres) = self.postgres.take() {
            postgres.stop();
        }
    }
}
