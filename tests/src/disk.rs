//! A small disk in memory, that can be filled up.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::machine::Machine;

/// It ends with the guard; one of a run that was killed is swept away by the next.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts an empty one.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(machine: &Machine, name: &str, kib: u32) -> Result<Self> {
        let path = machine.folder(name)?;
        let options = format!("size={kib}k,nr_inodes=10000,mode=0755");
        let made = mount(Some("sockpilot-test"), &path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()));
        made.with_context(|| format!("mounting a small disk at {path:?}"))?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves no room for anything.
    ///
    /// # Errors
    /// If it is not full in the end.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.ballast())?;
        loop {
            match ballast.write_all(&[0; 64 << 10]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => bail!("filling the disk: {error}"),
            }
        }
    }

    /// Makes room again.
    ///
    /// # Errors
    /// If it was not full.
    pub fn make_room(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("making room on the disk")
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

/// Takes away what is mounted at a path or below it.
pub(crate) fn unmount_below(path: &Path) {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    points.filter(|point| point.starts_with(path)).for_each(unmount);
}

fn unmount(path: &Path) {
    // What is still open there stays until it is closed.
    let _ = umount2(path, MntFlags::MNT_DETACH);
}
