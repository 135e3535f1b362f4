//! Inputs that are kept in the repository.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What the files of real messages begin with.
const SEED: &str = "seed-";

/// An input, and the name of its file.
#[derive(Debug)]
pub struct Entry {
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Entry {
    /// Whether it is a real message.
    pub fn is_seed(&self) -> bool {
        self.name.starts_with(SEED)
    }
}

/// Where a target has its corpus.
pub fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// All of a target, by name.
pub fn read(target: &str) -> io::Result<Vec<Entry>> {
    let mut entries = vec![];
    for file in fs::read_dir(folder(target))? {
        let (path, name) = file.map(|file| (file.path(), file.file_name().to_string_lossy().into_owned()))?;
        entries.push(Entry { name, bytes: fs::read(path)? });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Writes the real messages of a target anew.
pub fn write_seeds(target: &str, seeds: &[(String, Vec<u8>)]) -> io::Result<()> {
    fs::create_dir_all(folder(target))?;
    for old in read(target)?.iter().filter(|entry| entry.is_seed()) {
        fs::remove_file(folder(target).join(&old.name))?;
    }
    seeds.iter().try_for_each(|(name, bytes)| fs::write(folder(target).join(format!("{SEED}{name}")), bytes))
}
