//! What a look at this machine's kernel shows, without anything being put in force.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::statfs;

use super::{
    KernelError, file,
    object::{load_fresh, loaded},
};

/// Where programs find what is mounted and loaded.
const MODULES: &str = "/lib/modules";

/// Loads the kernel program with tables of its own, as a daemon does, and lets them go again.
///
/// # Errors
/// What the kernel says of it.
pub fn try_program() -> Result<Structures, KernelError> {
    let (mut object, able) = load_fresh()?;
    loaded(&mut object)?;
    Ok(if able { Structures::Known } else { Structures::Unfamiliar })
}

/// Whether this kernel keeps its sockets as this daemon knows it, of its BTF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Structures {
    /// Open connections can be looked at.
    Known,
    /// They cannot: long flows are recorded at their end, and rules apply to new connections only.
    Unfamiliar,
}

/// Whether a directory is one of cgroup v2.
///
/// # Errors
/// If it cannot be looked at.
pub fn is_cgroup(path: &Path) -> Result<bool, KernelError> {
    let kind = statfs::statfs(path).map_err(io::Error::from).map_err(file("look at", path))?;
    Ok(kind.filesystem_type() == statfs::CGROUP2_SUPER_MAGIC)
}

/// Congestion controls that this kernel could load and has not.
#[must_use]
pub fn loadable_congestion_controls(release: &str) -> Vec<String> {
    let directory = PathBuf::from(MODULES).join(release).join("kernel/net/ipv4");
    let modules = fs::read_dir(directory).into_iter().flatten().flatten();
    let name = |module: fs::DirEntry| {
        let name = module.file_name().to_string_lossy().into_owned();
        let name = name.strip_prefix("tcp_")?.split('.').next()?.to_owned();
        (name != "diag").then_some(name)
    };
    let mut names: Vec<_> = modules.filter_map(name).collect();
    names.sort();
    names
}

/// Whether something keeps this machine's clock right.
///
/// # Errors
/// If the kernel does not say.
pub fn is_clock_kept() -> Result<bool, KernelError> {
    super::sys::is_clock_kept().map_err(|source| KernelError::Call {
        call: "adjtimex",
        subject: "the clock".to_owned(),
        source,
    })
}
