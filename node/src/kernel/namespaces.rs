//! The network namespaces in which connections of a cgroup may be.
//!
//! The kernel program sees connections in whatever namespace; the daemon must enter one to look at them. A process may open sockets
//! in a namespace that it has left since (`setns`), so besides the namespaces of the processes there are those of their sockets.
//! A handle is kept on these, because the process may hand the socket on, or end with data still to be sent.
//!
//! The program counts the open connections of each namespace. So it is known when there are any to which no way was found, and
//! only then it is looked further: at all other processes, and at the namespaces with a name.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use super::sys;

/// Handles kept on namespaces without a process of the cgroup.
const HELD_MAX: usize = 1_024;
/// Sockets whose namespace is remembered; beyond it they are asked again.
const ASKED_MAX: usize = 1 << 20;
/// Where `ip netns` and container runtimes keep namespaces with names.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// A namespace's number: the inode of its file.
pub(super) type Number = u64;

/// What leads to namespaces, from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    held: BTreeMap<Number, OwnedFd>,
    /// The namespace of each socket that was asked, by the socket's inode; 0: not TCP.
    asked: HashMap<u64, Number>,
}

/// The namespaces found by one look, but for the caller's own.
#[derive(Debug)]
pub(super) struct Found {
    own: Number,
    ways: BTreeMap<Number, OwnedFd>,
}

impl Found {
    /// Begins with none.
    pub(super) fn none() -> Self {
        Self { own: number("/proc/thread-self/ns/net").unwrap_or_default(), ways: BTreeMap::new() }
    }

    /// A way to each, by its number.
    pub(super) fn ways(&self) -> impl Iterator<Item = (Number, BorrowedFd<'_>)> {
        self.ways.iter().map(|(number, way)| (*number, way.as_fd()))
    }

    fn knows(&self, number: Number) -> bool {
        number == self.own || self.ways.contains_key(&number)
    }

    fn add(&mut self, path: impl AsRef<Path>) {
        // What has ended meanwhile has nothing to show.
        let Ok(found) = number(&path) else { return };
        if !self.knows(found)
            && let Ok(file) = File::open(&path)
            && is_namespace(&file)
        {
            self.ways.insert(found, file.into());
        }
    }
}

impl Namespaces {
    /// Those of the processes of a cgroup and beneath it, of their sockets, and of sockets that were theirs.
    pub(super) fn of(&mut self, cgroup: &Path) -> Found {
        let mut found = Found::none();
        for (number, way) in &self.held {
            if let Ok(way) = way.try_clone() {
                found.ways.insert(*number, way);
            }
        }
        let processes = processes_of(cgroup);
        processes.iter().for_each(|pid| found.add(format!("/proc/{pid}/ns/net")));
        let before = std::mem::take(&mut self.asked);
        for pid in &processes {
            self.sockets_of(*pid, &before, &mut found);
        }
        found
    }

    /// Those to which anything on this machine leads, beyond those of [`Self::of`].
    pub(super) fn elsewhere(&mut self, found: &Found) -> Found {
        let mut more = Found { own: found.own, ways: BTreeMap::new() };
        for name in NAMED.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten() {
            more.add(name.path());
        }
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let processes: Vec<u32> = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        let before = self.asked.clone();
        for pid in processes {
            more.add(format!("/proc/{pid}/ns/net"));
            self.sockets_of(pid, &before, &mut more);
        }
        more.ways.retain(|number, _| !found.knows(*number));
        more
    }

    /// Keeps a handle on a namespace for as long as there is something of ours in it.
    pub(super) fn hold(&mut self, number: Number, way: BorrowedFd<'_>, has_ours: bool) {
        if !has_ours {
            self.held.remove(&number);
        } else if self.held.len() < HELD_MAX
            && !self.held.contains_key(&number)
            && let Ok(way) = way.try_clone_to_owned()
        {
            self.held.insert(number, way);
        }
    }

    /// The namespaces of a process' TCP sockets.
    fn sockets_of(&mut self, pid: u32, before: &HashMap<u64, Number>, found: &mut Found) {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return };
        let mut process = None;
        for file in files.flatten() {
            let Some(socket) = fs::read_link(file.path()).ok().and_then(|to| socket_inode(&to)) else { continue };
            let known = self.asked.get(&socket).or_else(|| before.get(&socket)).copied();
            let known = known.filter(|number| *number == 0 || found.knows(*number));
            let number = known.or_else(|| {
                let descriptor = file.file_name().to_str()?.parse().ok()?;
                let process = match &process {
                    Some(process) => process,
                    None => process.insert(sys::pidfd_open(pid).ok()?),
                };
                // It may have been closed since.
                let socket = sys::pidfd_getfd(process.as_fd(), descriptor).ok()?;
                if !sys::is_tcp(socket.as_fd()) {
                    return Some(0);
                }
                let way = sys::namespace_of(socket.as_fd()).ok()?;
                let number = number_of(&way).ok()?;
                if !found.knows(number) {
                    found.ways.insert(number, way);
                }
                Some(number)
            });
            if let Some(number) = number
                && self.asked.len() < ASKED_MAX
            {
                self.asked.insert(socket, number);
            }
        }
    }
}

/// All processes of a cgroup and those beneath it. A cgroup that ends meanwhile has none.
fn processes_of(cgroup: &Path) -> HashSet<u32> {
    let (mut processes, mut open) = (HashSet::new(), vec![cgroup.to_owned()]);
    while let Some(cgroup) = open.pop() {
        let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        processes.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        let Ok(entries) = fs::read_dir(&cgroup) else { continue };
        let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        open.extend(directories.map(|entry| -> PathBuf { entry.path() }));
    }
    processes
}

fn socket_inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn number(path: impl AsRef<Path>) -> io::Result<Number> {
    fs::metadata(path).map(|namespace| namespace.ino())
}

fn number_of(way: &OwnedFd) -> io::Result<Number> {
    number(format!("/proc/thread-self/fd/{}", way.as_raw_fd()))
}

/// Whether a file is a namespace: beside names there may be leftovers, which are plain files.
fn is_namespace(file: &File) -> bool {
    nix::sys::statfs::fstatfs(file).is_ok_and(|kind| kind.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}
