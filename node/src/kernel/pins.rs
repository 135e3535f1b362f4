//! The pins: where everything lives while no daemon runs.

use std::{
    fs, io,
    marker::PhantomData,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{mount, sys::statfs};
use sockpilot_policy::layout::{
    Active, Attachment, Breaker, COUNTERS, ChoiceTable, Generation, Handover, MaskTable, NameTable, PortTable,
    RuleTable,
};

use super::{KernelError, Map, file, plain::Plain, sys};

/// Where every system has the BPF file system.
const BPFFS: &str = "/sys/fs/bpf";
/// Permissions of the pins' directories.
const CLOSED: u32 = 0o700;
/// Name of the program's pin.
pub(super) const PROGRAM: &str = "program";
/// Name of the pin of the first link to the node's own cgroup. It is made last, and stays when that cgroup has gone.
pub(super) const ROOT_LINK: &str = "link";
/// Begins the names of the pins of links to cgroups that took the place of the first; the cgroup's id follows.
pub(super) const LATER_ROOT_LINK: &str = "link-";
/// Begins the names of the pins of links to services' cgroups; the cgroup's id follows.
pub(super) const SERVICE_LINK: &str = "service-";
/// Name of the pin of the iterator that writes records of open connections, and of its program.
pub(super) const OPEN_FLOW: &str = "open_flow";
/// Begins the name of the directory that tells which build of the program is pinned.
pub(super) const MARKER: &str = "build-";
/// Every map that is pinned, by its name in the program.
pub const MAPS: [&str; 23] = [
    "HANDOVER",
    "ACTIVE",
    "GENERATIONS",
    "MASKS",
    "RULES",
    "CHOICES",
    "NAMES",
    "LOCAL_PORTS",
    "REMOTE_PORTS",
    "LOCAL_NETS",
    "REMOTE_NETS",
    "PENDING",
    "STAMPS",
    "CHANGES",
    "RECORDS",
    "COUNTS",
    "REFUSALS",
    "ATTACHMENTS",
    "ATTACHED",
    "NAMESPACES",
    "BREAKERS",
    "TRIPS",
    "COUNTED",
];

/// The maps that the daemon uses.
#[derive(Debug)]
pub(super) struct Maps {
    pub handover: Map<Handover>,
    pub active: Map<Active>,
    pub generations: Map<Generation>,
    pub masks: Map<MaskTable>,
    pub rules: Map<RuleTable>,
    pub choices: Map<ChoiceTable>,
    pub names: Map<NameTable>,
    pub local_ports: Map<PortTable>,
    pub remote_ports: Map<PortTable>,
    pub local_nets: Map<u32>,
    pub remote_nets: Map<u32>,
    pub counts: Map<[u64; COUNTERS]>,
    pub refusals: Map<u64>,
    pub attachments: Map<Attachment>,
    pub attached: Map<Attachment>,
    pub breakers: Map<Breaker>,
    pub trips: Map<u64>,
}

impl Maps {
    pub(super) fn open(dir: &Path) -> Result<Self, KernelError> {
        Ok(Self {
            handover: Map::open(dir, "HANDOVER")?,
            active: Map::open(dir, "ACTIVE")?,
            generations: Map::open(dir, "GENERATIONS")?,
            masks: Map::open(dir, "MASKS")?,
            rules: Map::open(dir, "RULES")?,
            choices: Map::open(dir, "CHOICES")?,
            names: Map::open(dir, "NAMES")?,
            local_ports: Map::open(dir, "LOCAL_PORTS")?,
            remote_ports: Map::open(dir, "REMOTE_PORTS")?,
            local_nets: Map::open(dir, "LOCAL_NETS")?,
            remote_nets: Map::open(dir, "REMOTE_NETS")?,
            counts: Map::open(dir, "COUNTS")?,
            refusals: Map::open(dir, "REFUSALS")?,
            attachments: Map::open(dir, "ATTACHMENTS")?,
            attached: Map::open(dir, "ATTACHED")?,
            breakers: Map::open(dir, "BREAKERS")?,
            trips: Map::open(dir, "TRIPS")?,
        })
    }
}

impl<T> Map<T> {
    pub(super) fn open(dir: &Path, name: &'static str) -> Result<Self, KernelError> {
        Ok(Self { name, fd: sys::get_pinned(&dir.join(name))?, value: PhantomData })
    }

    pub(super) fn delete(&self, key: &[u8]) -> Result<(), KernelError> {
        sys::delete(self.fd.as_fd(), self.name, key)
    }

    pub(super) fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> Result<bool, KernelError> {
        sys::next_key(self.fd.as_fd(), self.name, key, next)
    }
}

impl<T: Plain> Map<T> {
    pub(super) fn get_at(&self, key: &[u8]) -> Result<Box<T>, KernelError> {
        let mut value = T::zeroed();
        sys::lookup(self.fd.as_fd(), self.name, key, value.bytes_mut())?;
        Ok(value)
    }

    pub(super) fn set_at(&self, key: &[u8], value: &T) -> Result<(), KernelError> {
        sys::update(self.fd.as_fd(), self.name, key, value.bytes())
    }

    pub(super) fn get(&self, index: u32) -> Result<T, KernelError> {
        self.get_at(index.bytes()).map(|value| *value)
    }

    pub(super) fn set(&self, index: u32, value: &T) -> Result<(), KernelError> {
        self.set_at(index.bytes(), value)
    }

    /// Writes an element and makes sure that it is there.
    pub(super) fn set_checked(&self, index: u32, value: &T) -> Result<(), KernelError> {
        self.set(index, value)?;
        let found = self.get_at(index.bytes())?;
        if found.bytes() == value.bytes() { Ok(()) } else { Err(KernelError::ReadBack(self.name)) }
    }
}

impl<const N: usize> Map<[u64; N]> {
    /// The sum over all CPUs of a per-CPU element. Another layout may have more numbers in it, or fewer.
    pub(super) fn sum(&self, index: u32) -> Result<[u64; N], KernelError> {
        let cpus = possible_cpus()?;
        let each = sys::map_info(self.fd.as_fd(), self.name)?.value_bytes.next_multiple_of(8);
        let mut values = vec![0_u8; cpus * each];
        sys::lookup(self.fd.as_fd(), self.name, index.bytes(), &mut values)?;
        let mut sums = [0; N];
        for of_cpu in values.chunks_exact(each.max(8)) {
            for (sum, word) in sums.iter_mut().zip(of_cpu.as_chunks().0) {
                *sum += u64::from_ne_bytes(*word);
            }
        }
        Ok(sums)
    }
}

fn possible_cpus() -> Result<usize, KernelError> {
    let path = Path::new("/sys/devices/system/cpu/possible");
    let text = fs::read_to_string(path).map_err(file("read", path))?;
    let last = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<usize>().ok());
    last.map(|last| last + 1).ok_or_else(|| file("understand", path)(io::ErrorKind::InvalidData.into()))
}

/// Whether a kernel side was made here completely.
pub(super) fn complete(dir: &Path) -> bool {
    MAPS.iter().chain(&[PROGRAM, ROOT_LINK]).all(|name| dir.join(name).exists())
}

/// Whether the pins shall be where a BPF file system belongs, and none is.
pub(super) fn lacks_bpffs(pin_dir: &Path) -> Result<bool, KernelError> {
    let root = Path::new(BPFFS);
    if !pin_dir.starts_with(root) {
        return Ok(false);
    }
    let kind = statfs::statfs(root).map_err(io::Error::from).map_err(file("look at", root))?;
    Ok(kind.filesystem_type() != statfs::BPF_FS_MAGIC)
}

/// Mounts the BPF file system where the pins shall be, if none is there, and makes their directory.
pub(super) fn mount_bpffs(pin_dir: &Path) -> Result<(), KernelError> {
    if lacks_bpffs(pin_dir)? {
        let root = Path::new(BPFFS);
        mount::mount(Some("bpf"), root, Some("bpf"), mount::MsFlags::empty(), Some("mode=0700"))
            .map_err(io::Error::from)
            .map_err(file("mount the BPF file system at", root))?;
    }
    make_closed(pin_dir)
}

/// Makes a directory of pins, for this user only: whoever comes in can write what is in force.
pub(super) fn make_closed(dir: &Path) -> Result<(), KernelError> {
    fs::DirBuilder::new().recursive(true).mode(CLOSED).create(dir).map_err(file("create", dir))?;
    // One that was made under another mask.
    fs::set_permissions(dir, fs::Permissions::from_mode(CLOSED)).map_err(file("close to others", dir))
}

/// Removes the pins of one side and its directory: links first, so that nothing runs on what goes.
pub(super) fn remove(dir: &Path) -> Result<(), KernelError> {
    let mut pins: Vec<PathBuf> = entries(dir)?;
    pins.sort_by_key(|pin| {
        let name = pin.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        !is_link(&name)
    });
    for pin in pins {
        if pin.is_dir() {
            fs::remove_dir(&pin).map_err(file("remove", &pin))?;
        } else {
            remove_pin(&pin)?;
        }
    }
    remove_directory(dir)
}

/// Removes an empty directory, which may not exist.
fn remove_directory(dir: &Path) -> Result<(), KernelError> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", dir)(error)),
        _ => Ok(()),
    }
}

/// Removes one pin, which may not exist.
pub(super) fn remove_pin(pin: &Path) -> Result<(), KernelError> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", pin)(error)),
        _ => Ok(()),
    }
}

/// The pins of all links.
pub(super) fn links(dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let mut pins = entries(dir)?;
    pins.retain(|pin| pin.file_name().is_some_and(|name| is_link(&name.to_string_lossy())));
    Ok(pins)
}

fn is_link(name: &str) -> bool {
    is_own(name) || name.starts_with(SERVICE_LINK)
}

fn is_own(name: &str) -> bool {
    name == ROOT_LINK || name.starts_with(LATER_ROOT_LINK)
}

/// Whether a link's pin is that of one to the node's own cgroup.
pub(super) fn is_own_link(pin: &Path) -> bool {
    pin.file_name().is_some_and(|name| is_own(&name.to_string_lossy()))
}

/// Removes the marks of other builds.
pub(super) fn remove_markers_but(dir: &Path, keep: &Path) -> Result<(), KernelError> {
    for entry in entries(dir)?.iter().filter(|entry| entry.is_dir() && *entry != keep) {
        fs::remove_dir(entry).map_err(file("remove", entry))?;
    }
    Ok(())
}

/// Removes all sides and the directory.
pub(super) fn remove_all(pin_dir: &Path) -> Result<(), KernelError> {
    for dir in entries(pin_dir)? {
        remove(&dir)?;
    }
    remove_directory(pin_dir)
}

/// What is in a directory, which may not exist.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    match fs::read_dir(dir) {
        Ok(entries) => {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(file("list", dir))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(file("list", dir)(error)),
    }
}
