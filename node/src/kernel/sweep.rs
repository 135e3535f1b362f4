//! Has the kernel walk over the open connections of the managed cgroup: to write records about those that are open for long, or
//! to have rules apply to connections that were open before.
//!
//! The kernel walks over one network namespace at a time, that of the thread that asks. So a sweep looks into the daemon's own,
//! finds the others in which processes of the cgroup are, and enters each of them with a thread of its own, which then ends.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};

use super::{
    KernelError, Options, file,
    object::{iterator, load_with},
    pins, sys,
};

/// A program that sees every open connection, loaded beside a kernel side that was made before.
#[derive(Debug)]
pub struct Sweeper {
    name: &'static str,
    link: OwnedFd,
    cgroup: PathBuf,
}

impl Sweeper {
    /// The one that writes records of connections of at least some age. Nothing if this kernel's structures are not known.
    ///
    /// # Errors
    /// Whatever stands in the way.
    pub fn long_flows(options: &Options, min_age: Duration) -> Result<Option<Self>, KernelError> {
        let min_age_ns = u64::try_from(min_age.as_nanos()).unwrap_or(u64::MAX);
        Self::open(options, "open_flow", Some(min_age_ns))
    }

    /// The one that has rules apply to connections that are open already. Nothing if this kernel's structures are not known.
    ///
    /// # Errors
    /// Whatever stands in the way.
    pub fn adjuster(options: &Options) -> Result<Option<Self>, KernelError> {
        Self::open(options, "adjust_open", None)
    }

    fn open(options: &Options, name: &'static str, min_age_ns: Option<u64>) -> Result<Option<Self>, KernelError> {
        let (mut object, able) = load_with(&pins::layout_dir(&options.pin_dir), min_age_ns)?;
        if !able {
            return Ok(None);
        }
        let link = iterator(&mut object, name)?;
        Ok(Some(Self { name, link, cgroup: options.cgroup.clone() }))
    }

    /// Has the program see every open connection, and returns the number of network namespaces looked at.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn sweep(&self) -> Result<usize, KernelError> {
        sys::iterate(self.link.as_fd(), self.name)?;
        let (mut seen, mut trouble) = (1, None);
        // A thread for each, because one that has entered a namespace is of no other use.
        for path in other_namespaces(&self.cgroup).values() {
            let walked = thread::scope(|scope| {
                let walk = thread::Builder::new().name("sweep".to_owned()).spawn_scoped(scope, || self.walk(path));
                let walk = walk.map_err(file("start a thread to look into", path))?;
                walk.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            // One that cannot be entered shall not keep the rest from being looked at.
            match walked {
                Ok(walked) => seen += usize::from(walked),
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        trouble.map_or(Ok(seen), Err)
    }

    /// Whether there still was such a namespace.
    fn walk(&self, path: &Path) -> Result<bool, KernelError> {
        // Its last process may have ended; the next sweep sees.
        let Ok(namespace) = File::open(path) else { return Ok(false) };
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from).map_err(file("enter", path))?;
        sys::iterate(self.link.as_fd(), self.name)?;
        Ok(true)
    }
}

/// The network namespaces of the processes of a cgroup and those beneath it, but for the daemon's own: a way to each, by its
/// number.
fn other_namespaces(cgroup: &Path) -> BTreeMap<u64, PathBuf> {
    let mut namespaces = BTreeMap::new();
    let own = fs::metadata("/proc/thread-self/ns/net").map(|own| own.ino()).ok();
    // A cgroup or process that ends meanwhile has nothing to show.
    let mut open = vec![cgroup.to_owned()];
    while let Some(cgroup) = open.pop() {
        let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines() {
            let path = PathBuf::from(format!("/proc/{process}/ns/net"));
            if let Ok(namespace) = fs::metadata(&path)
                && own != Some(namespace.ino())
            {
                namespaces.entry(namespace.ino()).or_insert(path);
            }
        }
        let Ok(entries) = fs::read_dir(&cgroup) else { continue };
        open.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    namespaces
}
