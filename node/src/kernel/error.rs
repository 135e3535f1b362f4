//! What can go wrong on the kernel side.

use std::{io, path::PathBuf};

/// What went wrong, by operation.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file, directory or mount.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A `bpf` system call.
    #[error("bpf system call {call} failed for {subject}")]
    Call {
        /// The system call.
        call: &'static str,
        /// On what.
        subject: String,
        /// What was said about it.
        source: io::Error,
    },
    /// The kernel does not take the program.
    #[error("cannot load the kernel program")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The kernel's type information lacks something or cannot be read.
    #[error("cannot read the kernel's type information: {0}")]
    Btf(&'static str),
    /// What was read back is not what was written.
    #[error("table {0} does not hold what was written to it")]
    ReadBack(&'static str),
    /// More circuit breakers than there is room for are in use, or may be.
    #[error("no circuit breaker is free; run once with --detach")]
    Breakers,
    /// The table of names is full.
    #[error(
        "more than {} different names since the tables were made; run once with --detach",
        sockpilot_policy::layout::NAMES_MAX
    )]
    Names,
    /// A version of the daemon that knows nothing of others has left its kernel side here.
    #[error("{} is the kernel side of a version that cannot hand over to this one; run once with --detach", path.display())]
    OtherLayout {
        /// Its pins.
        path: PathBuf,
    },
    /// The pins are at work for another cgroup.
    #[error(
        "{} is at work for the cgroup {}, which is still there; give --cgroup that one, or run once with --detach",
        pins.display(),
        cgroup.display()
    )]
    OtherCgroup {
        /// The pins.
        pins: PathBuf,
        /// Their cgroup.
        cgroup: PathBuf,
    },
    /// No cgroup v2.
    #[error("cgroup v2 is not mounted; mount it with `mount -t cgroup2 none /sys/fs/cgroup/unified`")]
    NoCgroup,
}
