//! Files that are replaced as a whole.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
};

/// Replaces a file as a whole, and makes its directory if that is gone. Survives the process, not the machine.
///
/// # Errors
/// If it cannot be written; the old one is then still there.
pub fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let beside = path.with_extension("new");
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // Half a file helps nobody, and takes the room that the next try needs. The error of the write is what matters.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Which file is at a path, so that another one in its place is noticed; `None` if there is none.
#[must_use]
pub fn file_at(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}
