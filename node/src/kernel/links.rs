//! Pinned links: which cgroups they attach to.

use std::{io, os::fd::AsFd, path::Path};

use super::{
    KernelError,
    cgroup::{CgroupId, below, cgroup_id},
    cgroup_paths, cgroup_root, pins, sys,
};

/// The cgroup that a pinned link attaches to; nothing if there is none any more.
pub(super) fn linked(pin: &Path) -> Result<Option<CgroupId>, KernelError> {
    match sys::get_pinned(pin) {
        Ok(link) => sys::linked_cgroup(link.as_fd(), pin),
        Err(KernelError::Call { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first pin stays: it says that everything was made.
pub(super) fn forget_pin(pin: &Path) -> Result<(), KernelError> {
    if pin.ends_with(pins::ROOT_LINK) { Ok(()) } else { pins::remove_pin(pin) }
}

/// Refuses pins that are at work for another cgroup than this one, as long as that is there.
pub(super) fn refuse_other_cgroup(pins: &Path, cgroup: &Path) -> Result<(), KernelError> {
    let found = cgroup_id(cgroup).ok();
    let links = pins::links(pins)?;
    let own = links.iter().filter(|pin| pins::is_own_link(pin)).filter_map(|pin| linked(pin).transpose());
    let own = own.collect::<Result<Vec<_>, _>>()?;
    if own.iter().any(|id| found != Some(*id)) {
        let paths = cgroup_paths()?;
        if let Some(path) = own.iter().find_map(|id| paths.get(id)) {
            let (pins, cgroup) = (pins.to_owned(), below(&cgroup_root()?, path));
            if found != cgroup_id(&cgroup).ok() {
                return Err(KernelError::OtherCgroup { pins, cgroup });
            }
        }
    }
    Ok(())
}
