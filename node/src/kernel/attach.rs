//! Where the program is attached: to the node's own cgroup, and to the cgroup of every service that a rule names.
//!
//! The kernel tells a `sock_ops` program neither the socket's cgroup nor, for connection requests, the socket. But it keeps one
//! value for each cgroup that a program is attached to, and runs the program for the innermost cgroup first. So the value at
//! a service's cgroup says which rules may hold there.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use sockpilot_policy::{
    address::ServicePath,
    compile::Tables,
    layout::{Attachment, SLOTS},
};

use super::{
    KernelError, file,
    pins::{self, Maps},
    plain::Plain,
    sys,
};

/// Polls after which the link to a cgroup that has gone is dropped. Until then sockets that outlive it are served.
const GONE_POLLS_MAX: u32 = 600;

/// A cgroup's id: the inode of its directory.
type CgroupId = u64;

/// All attachments of one daemon.
#[derive(Debug)]
pub(super) struct Attachments {
    dir: PathBuf,
    cgroup: PathBuf,
    program: OwnedFd,
    root: CgroupId,
    services: BTreeMap<CgroupId, Service>,
    /// For each slot, what its rules name.
    wanted: [Wanted; SLOTS],
    in_force: Option<u32>,
}

#[derive(Debug)]
struct Service {
    path: String,
    gone_polls: u32,
}

#[derive(Debug, Default)]
struct Wanted {
    services: Vec<(ServicePath, u16)>,
    no_service: u16,
}

impl Wanted {
    /// The mask of a cgroup: that of the innermost named service around it.
    fn mask(&self, path: &str) -> u16 {
        let around = self.services.iter().filter(|(service, _)| service.holds_for(path));
        around.max_by_key(|(service, _)| service.as_str().len()).map_or(self.no_service, |(_, mask)| *mask)
    }
}

impl Attachments {
    /// Attaches to the node's own cgroup, or finds that it is done.
    pub(super) fn open(dir: &Path, cgroup: &Path, program: OwnedFd, maps: &Maps) -> Result<Self, KernelError> {
        let root = cgroup_id(cgroup).map_err(file("find the cgroup", cgroup))?;
        let mut this = Self {
            dir: dir.to_owned(),
            cgroup: cgroup.to_owned(),
            program,
            root,
            services: BTreeMap::new(),
            wanted: Default::default(),
            in_force: None,
        };
        let pin = dir.join(pins::ROOT_LINK);
        if pin.exists() {
            // The pins belong to the cgroup they were made for; under the same path there may be another one now.
            let held = maps.attachments.get_at(&storage_key(root));
            held.map_err(|_| {
                file("adopt pins that were made for another cgroup than", cgroup)(
                    std::io::ErrorKind::AlreadyExists.into(),
                )
            })?;
        } else {
            this.link(root, cgroup, &pin, maps)?;
        }
        this.adopt_services()?;
        Ok(this)
    }

    /// Writes the masks of a slot that is not yet in force.
    pub(super) fn prepare(&mut self, slot: u32, tables: &Tables, maps: &Maps) -> Result<(), KernelError> {
        self.wanted[slot as usize] = Wanted { services: tables.services.clone(), no_service: tables.no_service };
        self.attach_wanted(slot, maps)?;
        self.write(self.root, "", slot, maps)?;
        for (id, service) in &self.services {
            self.write(*id, &service.path, slot, maps)?;
        }
        Ok(())
    }

    /// Notes that a slot was put in force.
    pub(super) fn in_force(&mut self, slot: u32) {
        self.in_force = Some(slot);
    }

    /// Attaches to cgroups that have appeared, and drops those long gone. Returns how many are attached, the node's own too.
    pub(super) fn poll(&mut self, maps: &Maps) -> Result<usize, KernelError> {
        if let Some(slot) = self.in_force {
            self.attach_wanted(slot, maps)?;
        }
        for (id, service) in &mut self.services {
            let here = cgroup_id(&below(&self.cgroup, &service.path)).is_ok_and(|found| found == *id);
            service.gone_polls = if here { 0 } else { service.gone_polls + 1 };
        }
        let gone: Vec<_> = self
            .services
            .iter()
            .filter(|(_, service)| service.gone_polls > GONE_POLLS_MAX)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let pin = self.service_pin(id);
            fs::remove_file(&pin).map_err(file("remove", &pin))?;
            maps.attached.delete(id.bytes())?;
            self.services.remove(&id);
        }
        Ok(1 + self.services.len())
    }

    fn attach_wanted(&mut self, slot: u32, maps: &Maps) -> Result<(), KernelError> {
        let paths: Vec<_> =
            self.wanted[slot as usize].services.iter().map(|(path, _)| path.as_str().to_owned()).collect();
        for path in paths {
            let cgroup = below(&self.cgroup, &path);
            let Ok(id) = cgroup_id(&cgroup) else { continue };
            if self.services.contains_key(&id) {
                continue;
            }
            self.services.insert(id, Service { path, gone_polls: 0 });
            let pin = self.service_pin(id);
            if let Err(error) = self.link(id, &cgroup, &pin, maps) {
                self.services.remove(&id);
                // The service may have ended between look and leap; the next poll sees.
                if cgroup_id(&cgroup).is_ok_and(|found| found == id) {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Attaches to one cgroup, tells the program about it, and pins the link, in this order: the program ignores an attachment
    /// that it knows nothing about, and a pin means that all is done.
    fn link(&self, id: CgroupId, cgroup: &Path, pin: &Path, maps: &Maps) -> Result<(), KernelError> {
        let directory = File::open(cgroup).map_err(file("open the cgroup", cgroup))?;
        let link = sys::link_cgroup(self.program.as_fd(), directory.as_fd(), cgroup)?;
        let path = self.services.get(&id).map_or("", |service| service.path.as_str());
        let service = std::array::from_fn(|slot| self.wanted[slot].mask(path));
        tell(id, &Attachment { id: attachment_id(id), service }, maps)?;
        sys::pin(link.as_fd(), pin)
    }

    fn write(&self, id: CgroupId, path: &str, slot: u32, maps: &Maps) -> Result<(), KernelError> {
        let key = storage_key(id);
        let mut attachment = match maps.attachments.get_at(&key) {
            Ok(attachment) => *attachment,
            // A cgroup that has gone takes its value with it.
            Err(_) if id != self.root && cgroup_id(&below(&self.cgroup, path)).is_err() => return Ok(()),
            Err(error) => return Err(error),
        };
        attachment.id = attachment_id(id);
        attachment.service[slot as usize] = self.wanted[slot as usize].mask(path);
        tell(id, &attachment, maps)
    }

    /// Finds the services that an earlier daemon attached to.
    fn adopt_services(&mut self) -> Result<(), KernelError> {
        let ids: Vec<CgroupId> = pins::entries(&self.dir)?
            .iter()
            .filter_map(|pin| pin.file_name()?.to_str()?.strip_prefix(pins::SERVICE_LINK)?.parse().ok())
            .collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut paths = BTreeMap::new();
        collect_paths(&self.cgroup, "", &mut paths);
        for id in ids {
            // Without a path the cgroup has gone.
            let path = paths.get(&id).cloned().unwrap_or_else(|| "/gone".to_owned());
            self.services.insert(id, Service { path, gone_polls: 0 });
        }
        Ok(())
    }

    fn service_pin(&self, id: CgroupId) -> PathBuf {
        self.dir.join(format!("{}{id}", pins::SERVICE_LINK))
    }
}

/// Tells the programs about an attachment: the one that is attached has a place for it, those that walk over sockets find it
/// by the cgroup's id.
fn tell(id: CgroupId, attachment: &Attachment, maps: &Maps) -> Result<(), KernelError> {
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

fn cgroup_id(path: &Path) -> std::io::Result<CgroupId> {
    fs::metadata(path).map(|metadata| metadata.ino())
}

fn below(cgroup: &Path, path: &str) -> PathBuf {
    cgroup.join(path.trim_start_matches('/'))
}

fn collect_paths(cgroup: &Path, path: &str, paths: &mut BTreeMap<CgroupId, String>) {
    let Ok(entries) = fs::read_dir(cgroup) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let path = format!("{path}/{}", entry.file_name().to_string_lossy());
        if let Ok(id) = cgroup_id(&entry.path()) {
            paths.insert(id, path.clone());
        }
        collect_paths(&entry.path(), &path, paths);
    }
}
