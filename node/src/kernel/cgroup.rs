//! Cgroups by path and by id.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A cgroup's id: the inode of its directory, which the kernel does not give again.
pub(super) type CgroupId = u64;

/// The id of the cgroup at a path.
pub(super) fn cgroup_id(path: &Path) -> io::Result<CgroupId> {
    fs::metadata(path).map(|metadata| metadata.ino())
}

/// Where a path below a cgroup is.
pub(super) fn below(cgroup: &Path, path: &str) -> PathBuf {
    cgroup.join(path.trim_start_matches('/'))
}

/// The cgroups below one, by their ids.
pub(super) fn paths_below(cgroup: &Path) -> BTreeMap<CgroupId, String> {
    let mut paths = BTreeMap::new();
    collect_paths(cgroup, "", &mut paths);
    paths
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
