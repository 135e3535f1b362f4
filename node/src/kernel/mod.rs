//! The kernel side: loading, attaching, pinning, filling tables, reading records. The only module that knows aya and maps.
//!
//! Everything lives in pins below `…/NODE_ID/layout-L-N`: the program, one link for each cgroup it is attached to, and the maps. The
//! daemon makes them once; after that it adopts them, so that its death or upgrade changes nothing for connections. A daemon with
//! another layout makes its own beside them, and takes over (`takeover.rs`).
//! The link to the node's own cgroup is pinned last: where it stands, everything else does.

mod attach;
mod breakers;
mod btf;
mod cgroup;
pub(crate) mod cgroup_watch;
mod error;
mod examine;
mod links;
mod namespaces;
mod neighbours;
mod object;
mod pins;
mod plain;
mod probe;
mod records;
mod ring;
mod sides;
mod stamps;
mod sys;
mod tables;
mod takeover;
mod trial_socket;
mod walk;

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use sockpilot_policy::{
    compile::Tables,
    layout::{Active, COUNTERS, FlowRecord, Generation, REFUSALS_MAX, SLOTS, refusal_parts},
};

pub use attach::Services;
pub use breakers::Counted;
pub use error::KernelError;
pub use examine::{Structures, is_cgroup, is_clock_kept, loadable_congestion_controls, try_program};
pub use neighbours::{Neighbour, neighbours};
pub use pins::MAPS;
pub use probe::Probe;
pub use records::Records;
pub use sides::{pins_of, tables_identity};
pub use stamps::Stamps;
pub(crate) use sys::{cookie, pidfd_getfd, pidfd_open};
pub use takeover::Draining;
pub use trial_socket::{Family, TrialSocket};
pub use walk::{Reach, Walker};

/// Where a daemon's kernel side lives.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cgroup whose connections are managed, with all beneath it.
    pub cgroup: PathBuf,
    /// The node's own directory of pins; each side has one below it.
    pub pin_dir: PathBuf,
}

/// How a kernel side came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// There was none; its counters begin at zero and nothing is in force.
    Made,
    /// It was there, at work.
    Adopted,
    /// It was there, at work, with the program of another build, which was swapped for this daemon's.
    Upgraded,
    /// There was one of another layout, at work. This one was made beside it, and takes over with its first tables in force.
    Beside,
}

/// The kernel side of one daemon.
#[derive(Debug)]
pub struct Kernel {
    side: sides::Side,
    /// The earliest first.
    earlier: Vec<takeover::Earlier>,
    maps: pins::Maps,
    attachments: attach::Attachments,
    breakers: breakers::Breakers,
    /// What each slot holds, as far as known; saves writing what is there already.
    known: [tables::Known; SLOTS],
    records: Records,
    /// Waits until no program run can still be reading the tables that were in force before.
    settling: Option<std::thread::JoinHandle<()>>,
}

impl Kernel {
    /// Makes the kernel side, or adopts it where it stands.
    ///
    /// # Errors
    /// Whatever stands in the way.
    pub fn open(options: &Options) -> Result<(Self, Found), KernelError> {
        pins::mount_bpffs(&options.pin_dir)?;
        let sides = takeover::prepare(options)?;
        let found = sides.found;
        let mut kernel = Self::open_pins(sides, &options.cgroup)?;
        kernel.attachments.claim(&kernel.maps)?;
        if found == Found::Made {
            kernel.take_charge()?;
        }
        Ok((kernel, found))
    }

    /// Opens a kernel side that stands, whatever has become of its cgroup, to read what it holds and end it. Nothing if there is none, or one
    /// of another layout is in charge.
    ///
    /// # Errors
    /// Whatever stands in the way.
    pub fn open_to_end(options: &Options) -> Result<Option<Self>, KernelError> {
        takeover::in_charge(options)?.map(|sides| Self::open_pins(sides, &options.cgroup)).transpose()
    }

    fn open_pins(sides: takeover::Sides, cgroup: &Path) -> Result<Self, KernelError> {
        let takeover::Sides { own: side, earlier, found } = sides;
        let maps = pins::Maps::open(&side.dir)?;
        let program = sys::get_pinned(&side.dir.join(pins::PROGRAM))?;
        let mut attachments = attach::Attachments::adopt(&side.dir, cgroup, program, &maps)?;
        if let (Found::Beside, Some(before)) = (found, earlier.last()) {
            attachments.attach_only_beside(&before.dir)?;
        }
        let records = Records::open(&side)?;
        let mut opened = vec![];
        for side in earlier {
            opened.extend(takeover::Earlier::open(side)?);
        }
        let (breakers, earlier) = (breakers::Breakers::default(), opened);
        Ok(Self { side, earlier, maps, attachments, breakers, known: Default::default(), records, settling: None })
    }

    /// Tells these kernel tables from all others.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.records.identity()
    }

    /// Tells all sides of this node from all others: it stays while one takes over from another.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn instance(&self) -> Result<String, KernelError> {
        let map = sys::map_info(self.maps.handover.fd.as_fd(), self.maps.handover.name)?.id;
        let boot = self.identity().split('/').next().unwrap_or_default();
        Ok(format!("{boot}/{map}"))
    }

    /// Removes links, program, maps and pins, of all sides. Connections go on with what they have.
    ///
    /// # Errors
    /// Whatever stands in the way.
    pub fn detach(options: &Options) -> Result<(), KernelError> {
        pins::remove_all(&options.pin_dir)
    }

    /// Whether the BPF file system has to be mounted first, which takes a capability more.
    #[must_use]
    pub fn needs_mount(options: &Options) -> bool {
        pins::lacks_bpffs(&options.pin_dir).unwrap_or(false)
    }

    /// The head of what is in force.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn in_force(&self) -> Result<Option<Generation>, KernelError> {
        let active: Active = self.maps.active.get(0)?;
        match active.slot_plus_one.checked_sub(1) {
            Some(slot) => Ok(Some(self.maps.generations.get(slot)?)),
            None => Ok(None),
        }
    }

    /// An id for the next [`Generation::install`]: greater than all that any side has had.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn next_install(&self) -> Result<u64, KernelError> {
        Ok(self.maps.handover.get(0)?.installs + 1)
    }

    /// Fills the idle tables, reads them back, and puts them in force. If another side is still in charge, this one takes over then.
    ///
    /// # Errors
    /// If the kernel refuses, or does not hold what was written; what was in force then stays so.
    pub fn install(&mut self, tables: &Tables) -> Result<(), KernelError> {
        if let Some(settling) = self.settling.take() {
            let _ = settling.join();
        }
        self.note_install(tables.head.install)?;
        let active: Active = self.maps.active.get(0)?;
        let slot = if active.slot_plus_one == 1 { 1 } else { 0 };
        let breakers = self.breakers.prepare(&tables.breakers, &self.maps)?;
        tables::fill(&self.maps, slot, tables, &breakers, &mut self.known[slot as usize])?;
        self.attachments.prepare(slot, tables, &self.maps)?;
        tables::put_in_force(&self.maps, slot, tables)?;
        self.attachments.in_force(slot);
        self.take_charge()?;
        self.breakers.in_force(breakers, &self.maps)?;
        self.settling = std::thread::Builder::new().name("settle".to_owned()).spawn(sys::wait_for_readers).ok();
        Ok(())
    }

    /// Puts nothing in force: new connections are left alone, and what was set on open ones can be restored.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn withdraw(&mut self) -> Result<(), KernelError> {
        let active: Active = self.maps.active.get(0)?;
        self.maps.active.set(0, &Active { slot_plus_one: 0, ..active })
    }

    /// Notes a contact with a server, now: leases count from here. If it has said what time it is, that is how far the fleet's
    /// time is ahead of the monotonic clock.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn note_contact(&mut self, clock_ahead_ns: Option<i64>) -> Result<(), KernelError> {
        let active: Active = self.maps.active.get(0)?;
        let clock_ahead_ns = clock_ahead_ns.map_or(active.clock_ahead_ns, i64::cast_unsigned);
        self.maps.active.set(0, &Active { last_contact_ns: sys::monotonic_ns(), clock_ahead_ns, ..active })
    }

    /// Exempts the daemon's own socket to its server from every policy, so that an absurd one can be taken back.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn exempt(&mut self, socket_cookie: u64) -> Result<(), KernelError> {
        let active: Active = self.maps.active.get(0)?;
        self.maps.active.set(0, &Active { exempt_cookie: socket_cookie, ..active })
    }

    /// Has this share of the connections that no layer matches recorded, in basis points, by the hash that the kernel draws for
    /// each. Answers whether all of them were until now.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn record_unmatched(&mut self, share_bp: u32) -> Result<bool, KernelError> {
        let active: Active = self.maps.active.get(0)?;
        let below = (u64::from(share_bp.min(10_000)) << 32) / 10_000;
        let record_below = u32::try_from(below).unwrap_or(u32::MAX);
        self.maps.active.set(0, &Active { record_below, ..active })?;
        Ok(active.record_below == u32::MAX)
    }

    /// Paths of the attached cgroups, by the id that records have; `/` is the node's own.
    #[must_use]
    pub fn attached_paths(&self) -> HashMap<u32, String> {
        self.attachments.by_attachment()
    }

    /// Attaches to cgroups that have appeared, and forgets those that have gone with all their sockets. Returns how many are attached,
    /// the node's own too.
    ///
    /// # Errors
    /// The first trouble with one of them; everything that could be done was.
    pub fn poll_services(&mut self) -> Result<usize, KernelError> {
        self.attachments.poll(&self.maps)
    }

    /// Which cgroups are attached and which are not, as last seen.
    #[must_use]
    pub fn services(&self) -> &Services {
        self.attachments.seen()
    }

    /// The directories of the cgroups that should be attached, whether or not they are there.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        self.attachments.directories()
    }

    /// Learns what the rules in force say of services, from tables compiled anew. `false` if the tables in force are other ones.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn recognise(&mut self, tables: &Tables) -> Result<bool, KernelError> {
        let active: Active = self.maps.active.get(0)?;
        let Some(slot) = active.slot_plus_one.checked_sub(1) else { return Ok(false) };
        if !tables::holds(&self.maps, slot, tables)? {
            return Ok(false);
        }
        self.attachments.recognise(slot, tables, &self.maps)?;
        self.breakers.recognise(&tables.breakers, &self.maps)?;
        Ok(true)
    }

    /// Which canaries, by rollout and revision, are known to have been ended by the circuit breaker: they will not act in tables to come.
    pub fn remember_trips(&mut self, ended: impl Iterator<Item = (String, u64)>) {
        self.breakers.remember(ended);
    }

    /// What the circuit breakers of canaries in force have counted, and which have acted.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn breakers(&self) -> Result<Vec<Counted>, KernelError> {
        self.breakers.counted(&self.maps)
    }

    /// Up to where records have been taken out of the ring buffer.
    #[must_use]
    pub fn ring_position(&self) -> u64 {
        self.records.position()
    }

    /// Shows records without taking them out. Returns the position after those shown.
    pub fn peek(&mut self, max_records: usize, each: &mut dyn FnMut(&FlowRecord)) -> u64 {
        self.records.peek(max_records, each)
    }

    /// Takes records out, up to a position.
    pub fn release(&mut self, position: u64) {
        self.records.release(position);
    }

    /// The kernel program's counters, by [`sockpilot_policy::layout::Counter`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn counters(&self) -> Result<[u64; COUNTERS], KernelError> {
        self.maps.counts.sum(0)
    }

    /// How often this kernel refused to set a parameter, by the parameter's slot and the error number.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn refusals(&self) -> Result<Vec<(usize, i32, u64)>, KernelError> {
        let mut refusals = Vec::new();
        let mut key: Option<[u8; 8]> = None;
        loop {
            let mut next = [0; 8];
            if refusals.len() >= REFUSALS_MAX
                || !self.maps.refusals.next_key(key.as_ref().map(|key| &key[..]), &mut next)?
            {
                return Ok(refusals);
            }
            let (slot, errno) = refusal_parts(u64::from_ne_bytes(next));
            refusals.push((slot as usize, errno as i32, *self.maps.refusals.get_at(&next)?));
            key = Some(next);
        }
    }
}

/// Where cgroup v2 is mounted, alone or beside v1.
///
/// # Errors
/// If it is not.
pub fn cgroup_root() -> Result<PathBuf, KernelError> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .find(|(_, kind)| *kind == "cgroup2")
        .map(|(path, _)| PathBuf::from(path))
        .ok_or(KernelError::NoCgroup)
}

/// All cgroups that are there, by their ids, with their paths from the root of cgroup v2.
///
/// # Errors
/// If cgroup v2 is not mounted.
pub fn cgroup_paths() -> Result<std::collections::BTreeMap<u64, String>, KernelError> {
    let root = cgroup_root()?;
    let mut paths = cgroup::paths_below(&root);
    if let Ok(id) = cgroup::cgroup_id(&root) {
        paths.insert(id, "/".to_owned());
    }
    Ok(paths)
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KernelError {
    move |source| KernelError::File { action, path: path.to_owned(), source }
}

/// A map, opened from its pin, with a value type that is plain memory.
#[derive(Debug)]
struct Map<T> {
    name: &'static str,
    fd: OwnedFd,
    value: std::marker::PhantomData<T>,
}
