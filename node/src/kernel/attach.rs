//! Where the program is attached: to the node's own cgroup, and to the cgroup of every service that a rule names.
//!
//! The kernel tells a `sock_ops` program neither the socket's cgroup nor, for connection requests, the socket. But it keeps one
//! value for each cgroup that a program is attached to, and runs the program for the innermost cgroup first. So the value at
//! a service's cgroup says which rules may hold there.
//!
//! A path names now this cgroup and now that one, or none: services are restarted. So a path is only where to look; what is
//! attached is known by the cgroup's id and asked of the kernel. A cgroup that was removed stays attached until its last socket is
//! closed, when the kernel detaches by itself; beside it stands what took its place. Trouble with one of them is reported, tried again at
//! the next look, and is no reason to leave the others alone or to refuse a snapshot.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use sockpilot_policy::{
    address::ServicePath,
    compile::Tables,
    layout::{Attachment, SLOTS},
};

use crate::chain;

use super::{
    KernelError,
    cgroup::{CgroupId, below, cgroup_id, paths_below},
    file,
    links::{forget_pin, linked, refuse_other_cgroup},
    pins::{self, Maps},
    plain::Plain,
    sys,
};

/// Sentinel: the key of what holds where no service is named, for cgroups that a later daemon attaches to.
const UNNAMED: CgroupId = u64::MAX;
/// The path of the node's own cgroup, below itself.
const OWN: &str = "";

/// All attachments of one daemon.
#[derive(Debug)]
pub(super) struct Attachments {
    dir: PathBuf,
    cgroup: PathBuf,
    program: OwnedFd,
    attached: BTreeMap<CgroupId, Place>,
    /// For each slot, what its rules name.
    wanted: [Wanted; SLOTS],
    in_force: Option<u32>,
    /// Only these, while a side that is attached to them is in charge: it must run before this one wherever both decide.
    only: Option<BTreeSet<CgroupId>>,
    seen: Services,
}

/// An attachment.
#[derive(Debug)]
struct Place {
    /// Where its cgroup is or was; `None` if it was gone before this daemon came.
    path: Option<String>,
    pin: PathBuf,
}

#[derive(Debug, Default)]
struct Wanted {
    services: Vec<(ServicePath, u16)>,
    no_service: u16,
}

impl Wanted {
    /// The mask of a cgroup: that of the innermost named service around it.
    fn mask(&self, path: Option<&str>) -> u16 {
        let around = self.services.iter().filter(|(service, _)| path.is_some_and(|path| service.holds_for(path)));
        around.max_by_key(|(service, _)| service.as_str().len()).map_or(self.no_service, |(_, mask)| *mask)
    }
}

/// What the last look at the cgroups found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// Whether the node's own cgroup is there and attached.
    pub own: bool,
    /// Services that rules name, whose cgroups are there and attached.
    pub attached: Vec<String>,
    /// Services that rules name, but whose cgroups are not there.
    pub absent: Vec<String>,
    /// Cgroups that are there and cannot be attached to or detached from, and why; the node's own is `/`.
    pub troubled: Vec<(String, String)>,
    /// Cgroups that have gone, but whose sockets are still served.
    pub outlived: usize,
}

impl Attachments {
    /// Finds what an earlier daemon attached to, and is still.
    pub(super) fn adopt(dir: &Path, cgroup: &Path, program: OwnedFd, maps: &Maps) -> Result<Self, KernelError> {
        let mut this = Self {
            dir: dir.to_owned(),
            cgroup: cgroup.to_owned(),
            program,
            attached: BTreeMap::new(),
            wanted: Default::default(),
            in_force: None,
            only: None,
            seen: Services::default(),
        };
        let mut paths = BTreeMap::new();
        for pin in pins::links(dir)? {
            let Some(id) = linked(&pin)? else {
                forget_pin(&pin)?;
                continue;
            };
            if paths.is_empty() {
                paths = paths_below(cgroup);
            }
            let path = if pins::is_own_link(&pin) { Some(OWN.to_owned()) } else { paths.get(&id).cloned() };
            this.attached.insert(id, Place { path, pin });
        }
        let known = std::iter::once(UNNAMED).chain(this.own().map(|(id, _)| id));
        let unnamed = known.filter_map(|id| maps.attached.get_at(id.bytes()).ok()).next();
        for (wanted, mask) in this.wanted.iter_mut().zip(unnamed.unwrap_or_default().service) {
            wanted.no_service = mask;
        }
        this.forget_others(maps)?;
        Ok(this)
    }

    /// Until told otherwise, attaches to no service that another side is not attached to.
    pub(super) fn attach_only_beside(&mut self, other: &Path) -> Result<(), KernelError> {
        let links = pins::links(other)?;
        let ids = links.iter().filter_map(|pin| linked(pin).transpose()).collect::<Result<_, _>>()?;
        self.only = Some(ids);
        Ok(())
    }

    /// Attaches to all services that rules name.
    pub(super) fn attach_anywhere(&mut self) {
        self.only = None;
    }

    /// Attaches to the node's own cgroup, or finds that it is done.
    ///
    /// # Errors
    /// If what was attached before is another cgroup, and still there; if nothing was attached before, and cannot be now.
    pub(super) fn claim(&mut self, maps: &Maps) -> Result<(), KernelError> {
        refuse_other_cgroup(&self.dir, &self.cgroup)?;
        let made = self.dir.join(pins::ROOT_LINK).exists();
        match self.attach(OWN, maps) {
            Ok(None) if !made => Err(file("find the cgroup", &self.cgroup)(io::ErrorKind::NotFound.into())),
            Err(error) if !made => Err(error),
            // What is attached goes on, and the next look sees.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Attaches to what the rules of a slot name, and writes the masks of this slot, which is not yet in force.
    ///
    /// # Errors
    /// If what is attached cannot be published: it would go on to decide by the rules of another snapshot.
    pub(super) fn prepare(&mut self, slot: u32, tables: &Tables, maps: &Maps) -> Result<(), KernelError> {
        self.wanted[slot as usize] = Wanted { services: tables.services.clone(), no_service: tables.no_service };
        // What is in the way is reported by what was seen.
        let _ = self.look(Some(slot), maps);
        self.write(slot, maps)
    }

    /// Notes that a slot was put in force.
    pub(super) fn in_force(&mut self, slot: u32) {
        self.in_force = Some(slot);
    }

    /// Learns what the rules of the slot in force name, from tables equal to those that an earlier daemon put there.
    pub(super) fn recognise(&mut self, slot: u32, tables: &Tables, maps: &Maps) -> Result<(), KernelError> {
        // What has gone meanwhile is known by its mask.
        for (id, place) in self.attached.iter_mut().filter(|(_, place)| place.path.is_none()) {
            let mask = maps.attached.get_at(id.bytes())?.service[slot as usize];
            let service = tables.services.iter().find(|(_, of)| *of == mask && mask != tables.no_service);
            place.path = service.map(|(path, _)| path.as_str().to_owned());
        }
        self.in_force(slot);
        self.prepare(slot, tables, maps)
    }

    /// Attaches to cgroups that have appeared, and drops what the kernel has detached. Returns how many are attached, the node's own
    /// too.
    ///
    /// # Errors
    /// The first trouble; everything else was done.
    pub(super) fn poll(&mut self, maps: &Maps) -> Result<usize, KernelError> {
        self.look(self.in_force, maps)?;
        Ok(self.attached.len())
    }

    /// What the last look found.
    pub(super) fn seen(&self) -> &Services {
        &self.seen
    }

    /// The directories of the cgroups that should be attached now, the node's own first.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        self.paths(self.in_force).iter().map(|path| below(&self.cgroup, path)).collect()
    }

    /// What is attached, by the id that records have; `/` is the node's own cgroup.
    pub(super) fn by_attachment(&self) -> HashMap<u32, String> {
        let path = |place: &Place| place.path.clone().map(|path| if path == OWN { "/".to_owned() } else { path });
        self.attached.iter().filter_map(|(id, place)| Some((attachment_id(*id), path(place)?))).collect()
    }

    fn own(&self) -> impl Iterator<Item = (CgroupId, &Place)> {
        self.attached.iter().filter(|(_, place)| place.path.as_deref() == Some(OWN)).map(|(id, place)| (*id, place))
    }

    fn paths(&self, slot: Option<u32>) -> Vec<String> {
        let services = slot.map(|slot| &self.wanted[slot as usize].services).into_iter().flatten();
        std::iter::once(OWN.to_owned()).chain(services.map(|(path, _)| path.as_str().to_owned())).collect()
    }

    fn look(&mut self, slot: Option<u32>, maps: &Maps) -> Result<(), KernelError> {
        let (mut seen, mut first) = (Services::default(), None);
        let mut trouble = |seen: &mut Services, path: &str, error: KernelError| {
            let path = if path == OWN { "/" } else { path };
            seen.troubled.push((path.to_owned(), chain(&error)));
            first.get_or_insert(error);
        };
        let ids: Vec<_> = self.attached.keys().copied().collect();
        for id in ids {
            if let Err(error) = self.drop_detached(id, maps) {
                let path = self.attached.get(&id).and_then(|place| place.path.clone()).unwrap_or_default();
                trouble(&mut seen, &path, error);
            }
        }
        for path in self.paths(slot) {
            match self.attach(&path, maps) {
                Ok(Some(_)) if path == OWN => seen.own = true,
                Ok(None) if path == OWN => {
                    trouble(&mut seen, OWN, file("find the cgroup", &self.cgroup)(io::ErrorKind::NotFound.into()));
                }
                Ok(Some(_)) => seen.attached.push(path),
                Ok(None) => seen.absent.push(path),
                Err(error) => trouble(&mut seen, &path, error),
            }
        }
        seen.outlived = self.attached.iter().filter(|(id, place)| !self.is_there(**id, place)).count();
        self.seen = seen;
        first.map_or(Ok(()), Err)
    }

    fn is_there(&self, id: CgroupId, place: &Place) -> bool {
        let path = place.path.as_ref().map(|path| below(&self.cgroup, path));
        path.is_some_and(|path| cgroup_id(&path).is_ok_and(|found| found == id))
    }

    /// Forgets an attachment that the kernel has ended: the cgroup was removed and has no socket any more, or somebody detached.
    fn drop_detached(&mut self, id: CgroupId, maps: &Maps) -> Result<(), KernelError> {
        let Some(place) = self.attached.get(&id) else { return Ok(()) };
        if linked(&place.pin)?.is_some() {
            return Ok(());
        }
        forget_pin(&place.pin)?;
        maps.attached.delete(id.bytes())?;
        self.attached.remove(&id);
        Ok(())
    }

    /// Attaches to the cgroup that is at a path now, if it is not yet. Nothing if there is none.
    fn attach(&mut self, path: &str, maps: &Maps) -> Result<Option<CgroupId>, KernelError> {
        let cgroup = below(&self.cgroup, path);
        // One descriptor for both, so that what is attached is what the id is of.
        let directory = match OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(&cgroup) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file("open the cgroup", &cgroup)(error)),
        };
        let id = directory.metadata().map_err(file("look at the cgroup", &cgroup))?.ino();
        if let Some(place) = self.attached.get_mut(&id) {
            place.path.get_or_insert_with(|| path.to_owned());
            return Ok(Some(id));
        }
        if path != OWN && self.only.as_ref().is_some_and(|only| !only.contains(&id)) {
            return Ok(None);
        }
        match self.link(id, path, &directory, maps) {
            Ok(pin) => {
                self.attached.insert(id, Place { path: Some(path.to_owned()), pin });
                Ok(Some(id))
            }
            Err(error) => {
                // Whether or not it was published, it is not attached.
                let _ = maps.attached.delete(id.bytes());
                // It may have ended between look and leap; the next look sees.
                if cgroup_id(&cgroup).is_ok_and(|found| found == id) { Err(error) } else { Ok(None) }
            }
        }
    }

    /// Attaches to one cgroup, tells the program about it, and pins the link, in this order: the program ignores an attachment
    /// that it knows nothing about, and a pin means that all is done.
    fn link(&self, id: CgroupId, path: &str, directory: &File, maps: &Maps) -> Result<PathBuf, KernelError> {
        let link = sys::link_cgroup(self.program.as_fd(), directory.as_fd(), &below(&self.cgroup, path))?;
        let service = std::array::from_fn(|slot| self.wanted[slot].mask(Some(path)));
        publish(id, &Attachment { id: attachment_id(id), service }, maps)?;
        let pin = self.pin(id, path);
        sys::pin(link.as_fd(), &pin)?;
        Ok(pin)
    }

    /// Writes the masks of a slot.
    fn write(&self, slot: u32, maps: &Maps) -> Result<(), KernelError> {
        let wanted = &self.wanted[slot as usize];
        let write = |id: CgroupId, path| {
            // What another slot holds stays.
            let mut attachment = maps.attached.get_at(id.bytes()).map(|known| *known).unwrap_or_default();
            attachment.id = attachment_id(id);
            attachment.service[slot as usize] = wanted.mask(path);
            attachment
        };
        maps.attached.set_at(UNNAMED.bytes(), &write(UNNAMED, None))?;
        for (id, Place { path, pin }) in &self.attached {
            if let Err(error) = publish(*id, &write(*id, path.as_deref()), maps) {
                // A cgroup that has gone takes its value with it, and the next look forgets it.
                if linked(pin)?.is_some() {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Forgets cgroups that a daemon published before it was killed, and was not attached to.
    fn forget_others(&self, maps: &Maps) -> Result<(), KernelError> {
        let (mut key, mut known) = (None::<[u8; 8]>, vec![]);
        let mut next = [0; 8];
        while maps.attached.next_key(key.as_ref().map(|key| &key[..]), &mut next)? {
            known.push(u64::from_ne_bytes(next));
            key = Some(next);
        }
        for id in known.into_iter().filter(|id| *id != UNNAMED && !self.attached.contains_key(id)) {
            maps.attached.delete(id.bytes())?;
        }
        Ok(())
    }

    fn pin(&self, id: CgroupId, path: &str) -> PathBuf {
        let first = self.dir.join(pins::ROOT_LINK);
        match path {
            OWN if first.exists() => self.dir.join(format!("{}{id}", pins::LATER_ROOT_LINK)),
            OWN => first,
            _ => self.dir.join(format!("{}{id}", pins::SERVICE_LINK)),
        }
    }
}

/// Publishes an attachment to the programs: the one that is attached has a place for it, those that walk over sockets find it
/// by the cgroup's id.
fn publish(id: CgroupId, attachment: &Attachment, maps: &Maps) -> Result<(), KernelError> {
    maps.attached.set_at(id.bytes(), attachment)?;
    maps.attachments.set_at(&storage_key(id), attachment)
}

/// Never 0: inode numbers are not.
fn attachment_id(id: CgroupId) -> u32 {
    id as u32
}

/// `struct bpf_cgroup_storage_key`.
fn storage_key(id: CgroupId) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&id.to_ne_bytes());
    key[8..12].copy_from_slice(&sys::ATTACH_SOCK_OPS.to_ne_bytes());
    key
}
