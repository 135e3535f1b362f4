//! Sides: a program with its links and maps, in a directory of pins. There is more than one while a version with another layout takes
//! over, and until the last connection of the earlier one has gone.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use sockpilot_policy::layout::{HANDOVER_SINCE, LAYOUT_VERSION};

use super::{KernelError, Options, file, pins};

/// One side, by its directory `layout-L-N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Side {
    /// Counted from 1 on each node.
    pub number: u32,
    /// Of its tables.
    pub layout: u32,
    /// Its pins.
    pub dir: PathBuf,
}

impl Side {
    /// One of this layout, which need not be there.
    pub(super) fn of_this_layout(pin_dir: &Path, number: u32) -> Self {
        let dir = pin_dir.join(format!("layout-{LAYOUT_VERSION}-{number}"));
        Self { number, layout: LAYOUT_VERSION, dir }
    }

    fn read(dir: PathBuf) -> Option<Self> {
        let name = dir.file_name()?.to_str()?;
        let (layout, number) = name.strip_prefix("layout-")?.split_once('-')?;
        let (layout, number) = (layout.parse().ok()?, number.parse().ok()?);
        (layout >= HANDOVER_SINCE).then_some(Self { number, layout, dir })
    }

    /// Tells its tables from all others: the kernel's boot and the inode of the ring buffer's pin. No two ring buffers have both.
    pub(super) fn identity(&self) -> Result<String, KernelError> {
        let boot = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(boot).map_err(file("read", boot))?;
        let pin = self.dir.join("RECORDS");
        let pin = fs::metadata(&pin).map_err(file("look at", &pin))?;
        Ok(format!("{}/{}/{}", boot.trim(), pin.dev(), pin.ino()))
    }
}

/// All sides, the earliest first.
///
/// # Errors
/// If there is one of a layout that knows nothing of others: its tables are neither read nor left to act beside ours.
pub(super) fn list(pin_dir: &Path) -> Result<Vec<Side>, KernelError> {
    let mut sides = vec![];
    for path in pins::entries(pin_dir)? {
        match Side::read(path.clone()) {
            Some(side) => sides.push(side),
            None if pins::entries(&path)?.is_empty() => {}
            None => return Err(KernelError::OtherLayout { path }),
        }
    }
    sides.sort_by_key(|side| side.number);
    Ok(sides)
}

/// The last side of this layout that was made completely.
///
/// # Errors
/// If there is none.
pub(super) fn own(pin_dir: &Path) -> Result<Side, KernelError> {
    let own = list(pin_dir)?.into_iter().rfind(|side| side.layout == LAYOUT_VERSION && pins::complete(&side.dir));
    own.ok_or_else(|| file("find the kernel side in", pin_dir)(std::io::ErrorKind::NotFound.into()))
}

/// Tells the kernel tables of a node from all others, beside the daemon.
///
/// # Errors
/// If there are none of this layout.
pub fn tables_identity(options: &Options) -> Result<String, KernelError> {
    own(&options.pin_dir)?.identity()
}

/// Where the last side of this layout is pinned.
///
/// # Errors
/// If there is none.
pub fn pins_of(options: &Options) -> Result<PathBuf, KernelError> {
    Ok(own(&options.pin_dir)?.dir)
}
