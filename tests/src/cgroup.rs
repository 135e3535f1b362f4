//! Control groups (v2) of a run.

use std::{
    fs::{self, File},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::machine::{Machine, own_prefix};

/// Where cgroup v2 is mounted; it may stand beside v1.
///
/// # Errors
/// If it is not mounted.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("reading /proc/mounts")?;
    let point = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (point, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(point))
    });
    point.context("cgroup v2 is not mounted")
}

/// A control group, removed with everything in it when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Only the outermost removes.
    owned: bool,
}

impl Cgroup {
    /// A new one directly below the mount point.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(machine: &Machine, name: &str) -> Result<Self> {
        let path = root()?.join(format!("{}{}", own_prefix(), machine.unique(name)));
        fs::create_dir(&path).with_context(|| format!("making the cgroup {path:?}"))?;
        Ok(Self { path, owned: true })
    }

    /// One below it; it goes when the outer one goes.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn child(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        fs::create_dir(&path).with_context(|| format!("making the cgroup {path:?}"))?;
        Ok(Self { path, owned: false })
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id, as the kernel knows it.
    ///
    /// # Errors
    /// If it is gone.
    pub fn id(&self) -> Result<u64> {
        Ok(fs::metadata(&self.path).with_context(|| format!("looking at {:?}", self.path))?.ino())
    }

    /// Makes the command begin its life in this cgroup.
    ///
    /// # Errors
    /// If it is gone.
    pub fn enter(&self, command: &mut Command) -> Result<()> {
        let path = self.path.join("cgroup.procs");
        let file = File::options().write(true).open(&path).with_context(|| format!("opening {path:?}"))?;
        // SAFETY: between fork and exec only write(2) is called, on a file opened before.
        unsafe {
            command.pre_exec(move || nix::unistd::write(&file, b"0").map(drop).map_err(Into::into));
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.owned {
            remove(&self.path);
        }
    }
}

/// Ends all processes in a cgroup and those below it, then removes them.
pub fn remove(path: &Path) {
    const TRIES: u32 = 100;
    let _ = fs::write(path.join("cgroup.kill"), "1");
    if let Ok(entries) = fs::read_dir(path) {
        for child in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
            remove(&child);
        }
    }
    for _ in 0..TRIES {
        match fs::remove_dir(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => thread::sleep(Duration::from_millis(20)),
            _ => return,
        }
    }
    eprintln!("the cgroup {} could not be removed", path.display());
}
