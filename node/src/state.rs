//! The daemon's own files: one directory, used by one daemon.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use nix::fcntl::{Flock, FlockArg};
use prost::Message;
use sockpilot_proto::v1;

use crate::ledger::Version;

/// Where locks of pin directories are: bpffs has no ordinary files.
const LOCKS: &str = "/run/sockpilot";

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another daemon uses it, or the pins.
    #[error(
        "another sockpilot-node uses {0}; stop it first, or give this one another --node-id, --state-dir and --cgroup"
    )]
    InUse(PathBuf),
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
    /// If another daemon has locked either, or the directory cannot be made.
    pub fn open(path: &Path, pins: &Path) -> Result<Self, StateError> {
        make_directory(path)?;
        let locks = Path::new(LOCKS);
        make_directory(locks)?;
        // `/` cannot be in a file's name, so no two directories get the same lock.
        let of_pins = locks.join(format!("{}.lock", pins.display().to_string().replace('/', ":")));
        let locks = [lock(&path.join("lock"), path)?, lock(&of_pins, pins)?];
        Ok(Self { path: path.to_owned(), lock_of_pins: of_pins, _locks: locks })
    }

    /// Where the books' journals are.
    #[must_use]
    pub fn books(&self) -> PathBuf {
        self.path.join("books")
    }

    /// Where the meanings of choices are.
    #[must_use]
    pub fn attributions(&self) -> PathBuf {
        attributions(&self.path)
    }

    /// The stored snapshots.
    #[must_use]
    pub fn snapshots(&self) -> Snapshots {
        Snapshots { directory: self.path.clone() }
    }
}

fn make_directory(path: &Path) -> Result<(), StateError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("make the directory", path))
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

/// Replaces a file as a whole. Survives the process, not the machine.
///
/// # Errors
/// If it cannot be written; the old one is then still there.
pub fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, bytes)?;
    fs::rename(&beside, path)
}

/// A snapshot as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Which one.
    pub version: Version,
    /// Its content.
    pub layers: Bytes,
    /// The install that it was compiled to.
    pub install: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct StoredMessage {
    #[prost(message, optional, tag = "1")]
    version: Option<v1::SnapshotVersion>,
    #[prost(bytes = "bytes", tag = "2")]
    layers: Bytes,
    #[prost(uint64, tag = "3")]
    install: u64,
}

/// The snapshot in force, and the one that is about to be. The second is written before the kernel's tables flip and
/// becomes the first after it, so that whatever is in force is on disk.
///
/// Only then, when the server has its answer, is it made to survive the machine: the kernel tables do not survive it either,
/// so until then the one before is what a restarted machine begins with.
#[derive(Debug)]
pub struct Snapshots {
    directory: PathBuf,
}

impl Snapshots {
    /// The snapshot that was in force last; `None` if there is none that can be read.
    #[must_use]
    pub fn in_force(&self) -> Option<Stored> {
        read(&self.path("snapshot"))
    }

    /// The snapshot that was about to be.
    #[must_use]
    pub fn coming(&self) -> Option<Stored> {
        read(&self.path("snapshot-coming"))
    }

    /// Writes the snapshot that is about to be in force.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_coming(&self, stored: &Stored) -> io::Result<()> {
        let Stored { version, layers, install } = stored;
        let message = StoredMessage { version: Some(version.to_proto()), layers: layers.clone(), install: *install };
        write_beside(&self.path("snapshot-coming"), &message.encode_to_vec())
    }

    /// The coming snapshot is in force: from now on the machine begins with it.
    ///
    /// # Errors
    /// If it cannot be brought to disk or renamed.
    pub fn promote(&self) -> io::Result<()> {
        File::open(self.path("snapshot-coming"))?.sync_all()?;
        fs::rename(self.path("snapshot-coming"), self.path("snapshot"))?;
        File::open(&self.directory)?.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn read(path: &Path) -> Option<Stored> {
    let StoredMessage { version, layers, install } = StoredMessage::decode(Bytes::from(fs::read(path).ok()?)).ok()?;
    Some(Stored { version: Version::from_proto(version.as_ref()).ok()?, layers, install })
}

/// What to do at the start, when the kernel and the state directory are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// The snapshot on disk is in force.
    Keep,
    /// The coming one is: the daemon ended between the flip and the renaming.
    Promote,
    /// Nothing is in force, but a snapshot was before the machine started: put it in force again.
    Reinstall,
    /// Nothing is known of what is in force, if anything: the server's next snapshot decides.
    AwaitServer,
}

/// Compares what the kernel has in force, as (generation, install), with what is on disk. Pure.
#[must_use]
pub fn resume(kernel: Option<(u64, u64)>, in_force: Option<&Stored>, coming: Option<&Stored>) -> Resume {
    let is = |stored: Option<&Stored>| {
        kernel.is_some() && stored.map(|stored| (stored.version.generation, stored.install)) == kernel
    };
    if is(coming) {
        Resume::Promote
    } else if is(in_force) {
        Resume::Keep
    } else if kernel.is_none() && in_force.is_some() {
        Resume::Reinstall
    } else {
        Resume::AwaitServer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::HASH_BYTES;

    fn stored(generation: u64, install: u64) -> Stored {
        let version = Version { database_epoch: "e".into(), generation, content_hash: [3; HASH_BYTES] };
        Stored { version, layers: Bytes::from_static(b"layers"), install }
    }

    #[test]
    fn resumes_after_an_end_at_any_step_of_an_install() {
        let (old, new) = (stored(5, 1), stored(6, 2));
        let (old, new) = (Some(&old), Some(&new));
        // Before anything; the coming one is written; the tables flipped; it was promoted.
        assert_eq!(resume(Some((5, 1)), old, None), Resume::Keep);
        assert_eq!(resume(Some((5, 1)), old, new), Resume::Keep);
        assert_eq!(resume(Some((6, 2)), old, new), Resume::Promote);
        assert_eq!(resume(Some((6, 2)), new, None), Resume::Keep);
    }

    #[test]
    fn resumes_after_the_machine_started() {
        let (old, new) = (stored(5, 1), stored(6, 2));
        assert_eq!(resume(None, Some(&old), Some(&new)), Resume::Reinstall);
        assert_eq!(resume(None, None, Some(&new)), Resume::AwaitServer);
        assert_eq!(resume(None, None, None), Resume::AwaitServer);
    }

    #[test]
    fn awaits_the_server_if_the_kernel_has_what_nobody_knows() {
        let old = stored(5, 1);
        assert_eq!(resume(Some((9, 9)), Some(&old), None), Resume::AwaitServer);
        assert_eq!(resume(Some((9, 9)), None, None), Resume::AwaitServer);
    }

    #[test]
    fn snapshots_survive() {
        let home = tempfile::tempdir().expect("a directory");
        let state = StateDir::open(&home.path().join("state"), &home.path().join("pins")).expect("free");
        let snapshots = state.snapshots();
        assert_eq!((snapshots.in_force(), snapshots.coming()), (None, None));
        snapshots.write_coming(&stored(5, 1)).expect("written");
        assert_eq!((snapshots.in_force(), snapshots.coming()), (None, Some(stored(5, 1))));
        snapshots.promote().expect("renamed");
        assert_eq!((snapshots.in_force(), snapshots.coming()), (Some(stored(5, 1)), None));
    }

    #[test]
    fn a_second_daemon_is_told_so() {
        let home = tempfile::tempdir().expect("a directory");
        let [state, other, pins] = ["state", "other", "pins"].map(|name| home.path().join(name));
        let first = StateDir::open(&state, &pins).expect("free");
        let second = StateDir::open(&state, &other).expect_err("in use").to_string();
        assert!(second.contains("another sockpilot-node uses"), "{second}");
        assert!(matches!(StateDir::open(&other, &pins), Err(StateError::InUse(path)) if path == pins));
        drop(first);
        StateDir::open(&state, &pins).expect("free again");
    }
}
