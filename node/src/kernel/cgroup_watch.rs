//! Events of cgroups that appear: inotify on the directories above those that should be attached. cgroupfs has events of directories
//! that are made; what has none the next look finds.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    future::pending,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};
use tokio::io::unix::AsyncFd;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Watch {
    /// Nothing if this machine has no more to give: then only looks find.
    events: Option<AsyncFd<Events>>,
    /// By directory, and so by path: another directory may come to be there.
    watched: BTreeMap<PathBuf, WatchDescriptor>,
    /// What may appear in them that matters.
    names: BTreeSet<OsString>,
}

/// As tokio takes it.
#[derive(Debug)]
struct Events(Inotify);

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Watches nothing yet.
    pub(crate) fn new() -> Self {
        let events = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(io::Error::from)
            // SAFETY: it owns its descriptor and gives the same one for as long as it lives.
            .and_then(|inotify| unsafe { AsyncFd::register(Events(inotify)) }.map_err(io::Error::from))
            .inspect_err(|error| tracing::warn!(%error, "no events of new cgroups; polling every second"));
        Self { events: events.ok(), watched: BTreeMap::new(), names: BTreeSet::new() }
    }

    /// Watches for these cgroups and no others: in every directory above each of them that is there now.
    pub(crate) fn follow(&mut self, cgroups: &[PathBuf]) {
        let Some(events) = &self.events else { return };
        let inotify = &events.get_ref().0;
        let names = cgroups.iter().flat_map(|path| path.ancestors()).filter_map(Path::file_name);
        self.names = names.map(ToOwned::to_owned).collect();
        let above: BTreeSet<_> = cgroups.iter().flat_map(|path| path.ancestors().skip(1)).collect();
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
        let mut watched = BTreeMap::new();
        // What is above the root of cgroup v2 is no cgroup.
        for directory in above.into_iter().filter(|directory| directory.join("cgroup.procs").exists()) {
            match inotify.add_watch(directory, flags) {
                Ok(watch) => drop(watched.insert(directory.to_owned(), watch)),
                Err(error) if error != Errno::ENOENT && !self.watched.contains_key(directory) => {
                    tracing::warn!(%error, directory = %directory.display(), "no events of new cgroups in this directory");
                }
                Err(_) => {}
            }
        }
        // The kernel keeps the watch of a cgroup that was removed.
        for watch in self.watched.values().filter(|&watch| !watched.values().any(|kept| kept == watch)) {
            let _ = inotify.rm_watch(*watch);
        }
        self.watched = watched;
    }

    /// Ends when something that matters has appeared.
    pub(crate) async fn appeared(&self) {
        let Some(events) = &self.events else { return pending().await };
        loop {
            let Ok(mut ready) = events.readable().await else { return pending().await };
            match events.get_ref().0.read_events() {
                // Without a name: events were lost.
                Ok(found) => {
                    let lost = |flags| flags == AddWatchFlags::IN_Q_OVERFLOW;
                    let matters = |name: &Option<OsString>| name.as_ref().is_some_and(|name| self.names.contains(name));
                    if found.iter().any(|event| lost(event.mask) || matters(&event.name)) {
                        return;
                    }
                }
                Err(_) => ready.clear_ready(),
            }
        }
    }
}
