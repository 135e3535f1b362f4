//! Has the kernel walk over the open connections of the managed cgroup: to write records about those that are open for long, or
//! to have rules apply to connections that were open before.
//!
//! The kernel walks over one network namespace at a time, that of the thread that asks. So a pass looks into the daemon's own,
//! finds the others in which there may be connections of the cgroup ([`Namespaces`]), and enters each of them with a thread of its own,
//! which then ends.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use sockpilot_policy::layout::{COUNTERS, Counter, NamespaceTable};

use super::{
    KernelError, Map, Options, file,
    namespaces::{Found, Namespaces},
    object::{iterator, load_with},
    pins,
    plain::Plain,
    sides, sys,
};

/// Into which network namespaces the daemon looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Reach {
    /// Its own. It needs no capabilities then, once it has loaded everything.
    Own,
    /// All in which there are connections of the cgroup: those of containers, too. Takes capabilities that are as good as root's.
    All,
}

/// A program that sees every open connection, loaded beside a kernel side that was made before.
#[derive(Debug)]
pub struct Walker {
    name: &'static str,
    link: OwnedFd,
    cgroup: PathBuf,
    reach: Reach,
    /// Where the programs of earlier sides are found that do the same for theirs, if any do: all pins, and the number of this side.
    earlier: Option<(PathBuf, u32)>,
    /// What the program counts when it sees something of ours.
    seen: Counter,
    counts: Map<[u64; COUNTERS]>,
    /// Connections that are open, by their network namespace.
    open: Map<NamespaceTable>,
    namespaces: Mutex<Namespaces>,
    unreached: AtomicU64,
}

/// A pass over all namespaces under way.
#[derive(Debug, Default)]
struct Pass {
    /// The cookies of the namespaces that were looked at.
    reached: HashSet<u64>,
    trouble: Option<KernelError>,
}

impl Walker {
    /// The one that writes records of connections of at least some age, with those of earlier sides, which do so for theirs. Nothing if
    /// this kernel's structures are not known.
    ///
    /// # Errors
    /// Whatever stands in the way.
    pub fn long_flows(options: &Options, min_age: Duration) -> Result<Option<Self>, KernelError> {
        let min_age_ns = u64::try_from(min_age.as_nanos()).unwrap_or(u64::MAX);
        let Some(walker) = Self::open(options, pins::OPEN_FLOW, Counter::StampSeen, Some(min_age_ns))? else {
            return Ok(None);
        };
        let side = sides::own(&options.pin_dir)?;
        let pin = side.dir.join(pins::OPEN_FLOW);
        pins::remove_pin(&pin)?;
        sys::pin(walker.link.as_fd(), &pin)?;
        Ok(Some(Self { earlier: Some((options.pin_dir.clone(), side.number)), ..walker }))
    }

    /// The one that has rules apply to connections that are open already. Nothing if this kernel's structures are not known.
    ///
    /// # Errors
    /// Whatever stands in the way.
    pub fn adjuster(options: &Options) -> Result<Option<Self>, KernelError> {
        Self::open(options, "adjust_open", Counter::ChangesSeen, None)
    }

    fn open(
        options: &Options,
        name: &'static str,
        seen: Counter,
        min_age_ns: Option<u64>,
    ) -> Result<Option<Self>, KernelError> {
        let side = sides::own(&options.pin_dir)?;
        let (mut object, able) = load_with(&side, &[], min_age_ns)?;
        if !able {
            return Ok(None);
        }
        Ok(Some(Self {
            name,
            link: iterator(&mut object, name)?,
            cgroup: options.cgroup.clone(),
            reach: Reach::All,
            earlier: None,
            seen,
            counts: Map::open(&side.dir, "COUNTS")?,
            open: Map::open(&side.dir, "NAMESPACES")?,
            namespaces: Mutex::default(),
            unreached: AtomicU64::new(0),
        }))
    }

    /// Has it look into these namespaces; into all, if nothing is said.
    #[must_use]
    pub fn reaching(mut self, reach: Reach) -> Self {
        self.reach = reach;
        self
    }

    /// Has the program see every open connection, and returns the number of network namespaces looked at.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn walk_all(&self) -> Result<usize, KernelError> {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pass = Pass::default();
        pass.reached.insert(self.walk()?);
        let reach_all = self.reach == Reach::All;
        let found = if reach_all { namespaces.of(&self.cgroup) } else { Found::none() };
        self.enter_all(&found, &mut namespaces, &mut pass, None);
        let missed = self.missed(&pass.reached)?;
        if reach_all && !missed.is_empty() {
            let more = namespaces.elsewhere(&found);
            let cookies = missed.iter().map(|(cookie, _)| *cookie).collect();
            self.enter_all(&more, &mut namespaces, &mut pass, Some(&cookies));
        }
        let Pass { reached, trouble } = pass;
        let unreached = missed.iter().filter(|(cookie, _)| !reached.contains(cookie)).map(|(_, open)| open).sum();
        self.unreached.store(unreached, Ordering::Relaxed);
        trouble.map_or(Ok(reached.len()), Err)
    }

    /// Open connections in network namespaces that the last pass could not look at.
    #[must_use]
    pub fn unreached(&self) -> u64 {
        self.unreached.load(Ordering::Relaxed)
    }

    /// Looks into all of these, or into those of some cookies.
    fn enter_all(&self, found: &Found, namespaces: &mut Namespaces, pass: &mut Pass, only: Option<&HashSet<u64>>) {
        for (number, way) in found.ways() {
            // One that cannot be entered shall not keep the rest from being looked at.
            match self.enter(way, only) {
                Ok(None) => {}
                Ok(Some((cookie, has_ours))) => {
                    pass.reached.insert(cookie);
                    namespaces.hold(number, way, has_ours);
                }
                Err(error) => pass.trouble = pass.trouble.take().or(Some(error)),
            }
        }
    }

    /// Looks into another namespace. Returns its cookie, and whether there was something of ours.
    fn enter(&self, way: BorrowedFd<'_>, only: Option<&HashSet<u64>>) -> Result<Option<(u64, bool)>, KernelError> {
        let namespace = Path::new("a network namespace");
        let enter = || {
            setns(way, CloneFlags::CLONE_NEWNET).map_err(io::Error::from).map_err(file("enter", namespace))?;
            if let Some(only) = only
                && !only.contains(&cookie()?)
            {
                return Ok(None);
            }
            let before = self.counts.sum(0)?[self.seen as usize];
            let cookie = self.walk()?;
            Ok(Some((cookie, self.counts.sum(0)?[self.seen as usize] > before)))
        };
        // A thread for each, because one that has entered a namespace is of no other use.
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("pass".to_owned()).spawn_scoped(scope, enter);
            let thread = thread.map_err(file("start a thread to look into", namespace))?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Looks into the calling thread's namespace, and returns its cookie.
    fn walk(&self) -> Result<u64, KernelError> {
        sys::iterate(self.link.as_fd(), self.name)?;
        if let Some((pin_dir, number)) = &self.earlier {
            for side in sides::list(pin_dir)?.iter().filter(|side| side.number < *number) {
                // One that ends meanwhile has none any more.
                if let Ok(link) = sys::get_pinned(&side.dir.join(pins::OPEN_FLOW)) {
                    sys::iterate(link.as_fd(), self.name)?;
                }
            }
        }
        cookie()
    }

    /// The namespaces with open connections that were not reached, and how many connections.
    fn missed(&self, reached: &HashSet<u64>) -> Result<Vec<(u64, u64)>, KernelError> {
        let table = self.open.get_at(0_u32.bytes())?;
        let mut open = BTreeMap::<u64, u64>::new();
        for place in table.iter().filter(|place| place.cookie != 0 && !reached.contains(&place.cookie)) {
            // Two CPUs may have found a place for the same one.
            let sum = open.entry(place.cookie).or_default();
            *sum = sum.wrapping_add(place.open);
        }
        // Ended ones may have been counted that began when there was no room to count them.
        Ok(open.into_iter().filter(|(_, open)| open.cast_signed() > 0).collect())
    }
}

fn cookie() -> Result<u64, KernelError> {
    sys::namespace_cookie().map_err(file("tell the network namespace of", Path::new("this thread")))
}
