//! The directory of the daemon's own files, used by one daemon.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};

/// Where locks of pin directories are, unless something else is said: bpffs has no ordinary files.
pub const LOCKS: &str = "/run/sockpilot";

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another daemon uses it, or the pins.
    #[error(
        "another sockpilot-node uses {0}; stop it first, or give this one another --node-id, --state-dir and --cgroup"
    )]
    InUse(PathBuf),
    /// Its files decide what is in force on this machine, and its keys say who this node is.
    #[error("{path} is open to others (mode {mode:04o}); run `chmod 0700 {path}`, or name another --state-dir", path = path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The same.
    #[error("{path} is of user {owner}, and this daemon runs as user {user}; run `chown -R {user} {path}`, or name another --state-dir",
        path = path.display())]
    OfAnother {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who this is.
        user: u32,
    },
    /// The operating system refuses.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { operation, path, source }
}

/// The directory, locked while this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Of the pins; deleted at the end, for `/run` is not ours alone.
    lock_of_pins: PathBuf,
    _locks: [Flock<File>; 2],
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // It is still locked. If it stays, it stays: whoever comes next takes it.
        let _ = fs::remove_file(&self.lock_of_pins);
    }
}

/// Where in a state directory it is kept what choices mean.
#[must_use]
pub fn attributions(state_dir: &Path) -> PathBuf {
    state_dir.join("attributions")
}

impl StateDir {
    /// Makes the directory if need be, and locks it and the directory of the pins.
    ///
    /// # Errors
    /// If another daemon has locked either, or the directory cannot be made or is not this user's alone.
    pub fn open(path: &Path, pins: &Path) -> Result<Self, StateError> {
        Self::open_with(path, pins, Path::new(LOCKS))
    }

    /// As [`Self::open`], with the locks of pins elsewhere.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(path: &Path, pins: &Path, locks: &Path) -> Result<Self, StateError> {
        make_directory(path)?;
        refuse_open(path)?;
        make_directory(locks)?;
        // `/` cannot be in a file's name, so no two directories get the same lock.
        let of_pins = locks.join(format!("{}.lock", pins.display().to_string().replace('/', ":")));
        let locks = [lock(&path.join("lock"), path)?, lock(&of_pins, pins)?];
        Ok(Self { path: path.to_owned(), lock_of_pins: of_pins, _locks: locks })
    }

    /// Where the journals of aggregations are.
    #[must_use]
    pub fn journals(&self) -> PathBuf {
        self.path.join("books")
    }

    /// Where the meanings of choices are.
    #[must_use]
    pub fn attributions(&self) -> PathBuf {
        attributions(&self.path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What a look at a state directory shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// There is none yet; the daemon makes it.
    None,
    /// Nobody uses it.
    Free,
    /// A daemon uses it.
    InUse,
}

/// Looks at a state directory without changing anything.
///
/// # Errors
/// As [`StateDir::open`], but for a daemon that uses it.
pub fn examine(path: &Path) -> Result<Seen, StateError> {
    if !path.exists() {
        return Ok(Seen::None);
    }
    refuse_open(path)?;
    if !path.join("lock").exists() {
        return Ok(Seen::Free);
    }
    match lock(&path.join("lock"), path) {
        Ok(_) => Ok(Seen::Free),
        Err(StateError::InUse(_)) => Ok(Seen::InUse),
        Err(error) => Err(error),
    }
}

fn make_directory(path: &Path) -> Result<(), StateError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("make the directory", path))
}

/// It is not mended: a directory that somebody else could have written to is not to be trusted, and one that was named by mistake is not
/// to be closed to those who need it.
fn refuse_open(path: &Path) -> Result<(), StateError> {
    let found = fs::metadata(path).map_err(io_error("look at", path))?;
    let (user, mode) = (geteuid().as_raw(), found.mode() & 0o7777);
    if found.uid() != user {
        return Err(StateError::OfAnother { path: path.to_owned(), owner: found.uid(), user });
    }
    if mode & 0o077 != 0 {
        return Err(StateError::Open { path: path.to_owned(), mode });
    }
    Ok(())
}

fn lock(file: &Path, what: &Path) -> Result<Flock<File>, StateError> {
    // Whoever had it before may have deleted it between our opening and locking it: then it is no lock any more.
    for _ in 0..16 {
        let open = File::options().create(true).truncate(false).write(true).open(file);
        let open = open.map_err(io_error("open the lock", file))?;
        let locked = Flock::lock(open, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => StateError::InUse(what.to_owned()),
            errno => io_error("lock", file)(errno.into()),
        })?;
        let inode = locked.metadata().map_err(io_error("look at", file))?.ino();
        if fs::metadata(file).is_ok_and(|there| there.ino() == inode) {
            return Ok(locked);
        }
    }
    Err(StateError::InUse(what.to_owned()))
}
