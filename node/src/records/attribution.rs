//! What the choice ids in flow records mean: a socket keeps the ids of the tables that decided about it, and may outlive them.
//!
//! One small file for each install, written before the tables are put in force: a record never comes back with an install
//! that nobody knows. What could not be written then is written by a later [`Attributions::settle`]. Only the newest installs are
//! kept; what is not found is counted as unattributed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Message;
use sockpilot_outcomes::Choice;

use super::{earlier::EarlierTables, measuring::Measuring};
use crate::disk::file::{file_at, write_beside};

/// Installs that are kept.
pub const INSTALLS_MAX: usize = 4_096;
/// Choices that all of them may have together; the newest install is kept with any number.
pub const CHOICES_MAX: usize = 262_144;

/// What the choices of an install are; choice id 1 is the first.
pub type Install = Arc<[Meaning]>;

/// What a choice is in outcomes.
#[derive(Debug, Clone)]
pub struct Meaning {
    /// As outcomes name it.
    pub choice: Arc<Choice>,
    /// It sets nothing, and is there for its connections to be measured with those of a rollout.
    pub measured_only: bool,
    /// As what its connections are measured, and how, if they are: an experiment's as themselves, others as a group of a rollout.
    pub measured: Option<(Arc<Choice>, Arc<Measuring>)>,
}

impl From<Arc<Choice>> for Meaning {
    fn from(choice: Arc<Choice>) -> Self {
        Self { choice, measured_only: false, measured: None }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Attributions {
    directory: PathBuf,
    tables: String,
    installs: BTreeMap<u64, Install>,
    choices: usize,
    /// Installs whose file may not be what it should: with the choices that are known here, or absent if none are.
    owed: BTreeSet<u64>,
    /// Another directory in the place of the one that was written to has none of the files.
    written_to: Option<(u64, u64)>,
}

/// The file of one install.
#[derive(Clone, PartialEq, Eq, Message)]
struct Kept {
    /// The kernel tables that the install belongs to.
    #[prost(string, tag = "1")]
    tables: String,
    #[prost(uint64, tag = "2")]
    install: u64,
    #[prost(message, repeated, tag = "3")]
    layers: Vec<KeptLayer>,
}

/// Neighbouring choices of one layer.
#[derive(Clone, PartialEq, Eq, Message)]
struct KeptLayer {
    #[prost(string, tag = "1")]
    layer: String,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(string, repeated, tag = "3")]
    choices: Vec<String>,
    /// An encoded `sockpilot.v1.ExperimentLayer`, if their connections are measured.
    #[prost(bytes, optional, tag = "4")]
    measuring: Option<Vec<u8>>,
    /// The rollout as whose groups they are measured; empty: as themselves.
    #[prost(string, tag = "5")]
    rollout: String,
    /// The canary's.
    #[prost(uint64, tag = "6")]
    rollout_revision: u64,
    /// By choice; empty: it is not measured.
    #[prost(string, repeated, tag = "7")]
    groups: Vec<String>,
    /// By choice; none: none is.
    #[prost(bool, repeated, tag = "8")]
    measured_only: Vec<bool>,
}

impl Attributions {
    /// Reads what is known about these kernel tables, and those of earlier sides, and deletes what is about others.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub fn open(directory: PathBuf, tables: &str, earlier: &[EarlierTables]) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        let written_to = file_at(&directory);
        let (tables, installs, owed) = (tables.to_owned(), BTreeMap::new(), BTreeSet::new());
        let mut attributions = Self { directory, tables, installs, choices: 0, owed, written_to };
        for file in fs::read_dir(&attributions.directory)? {
            let path = file?.path();
            let kept = Kept::decode(fs::read(&path)?.as_slice()).ok();
            // No two sides have the same install.
            let is_there = |of: &str| of == attributions.tables || earlier.iter().any(|tables| tables.identity == of);
            match kept.filter(|kept| is_there(&kept.tables) && path == attributions.path(kept.install)) {
                Some(kept) => attributions.insert(kept.install, unpack(kept.layers)),
                // If it stays, it is read and found wanting again by the next daemon.
                None => drop(fs::remove_file(&path)),
            }
        }
        attributions.prune();
        Ok(attributions)
    }

    /// What the choices of one install mean, from the file of a daemon that may be running.
    ///
    /// # Errors
    /// If the file cannot be read or is about other tables.
    pub fn read_one(directory: &Path, tables: &str, install: u64) -> io::Result<Install> {
        let kept = Kept::decode(fs::read(directory.join(install.to_string()))?.as_slice())?;
        if kept.tables != tables {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(unpack(kept.layers))
    }

    /// Notes what the choices of an install mean. Must be done before it is put in force.
    ///
    /// # Errors
    /// If it cannot be written; it is known all the same, and [owed](Self::settle).
    pub fn put(&mut self, install: u64, choices: &[Meaning]) -> io::Result<()> {
        self.insert(install, choices.into());
        self.owed.insert(install);
        self.prune();
        self.settle()
    }

    /// Writes everything that is not on disk, or not any more.
    ///
    /// # Errors
    /// If something cannot be written; to be tried again.
    pub fn settle(&mut self) -> io::Result<()> {
        let here = file_at(&self.directory);
        if here.is_none() || here != self.written_to {
            self.owed.extend(self.installs.keys());
            fs::create_dir_all(&self.directory)?;
            self.written_to = file_at(&self.directory);
        }
        // The newest first: they have the most connections.
        while let Some(install) = self.owed.last().copied() {
            self.settle_one(install)?;
            self.owed.remove(&install);
        }
        Ok(())
    }

    fn settle_one(&self, install: u64) -> io::Result<()> {
        match self.installs.get(&install) {
            Some(choices) => {
                let kept = Kept { tables: self.tables.clone(), install, layers: pack(choices) };
                write_beside(&self.path(install), &kept.encode_to_vec())
            }
            None => match fs::remove_file(self.path(install)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// What the choices of an install are.
    #[must_use]
    pub fn of(&self, install: u64) -> Option<&Install> {
        self.installs.get(&install)
    }

    fn insert(&mut self, install: u64, of_install: Install) {
        self.choices += of_install.len();
        if let Some(before) = self.installs.insert(install, of_install) {
            self.choices -= before.len();
        }
    }

    fn prune(&mut self) {
        while self.installs.len() > 1 && (self.installs.len() > INSTALLS_MAX || self.choices > CHOICES_MAX) {
            let Some((oldest, of_install)) = self.installs.pop_first() else { break };
            self.choices -= of_install.len();
            self.owed.insert(oldest);
        }
    }

    fn path(&self, install: u64) -> PathBuf {
        self.directory.join(install.to_string())
    }
}

fn pack(install: &Install) -> Vec<KeptLayer> {
    let mut layers: Vec<KeptLayer> = Vec::new();
    for Meaning { choice, measured_only, measured } in install.iter() {
        let Choice { layer, revision, name } = choice.as_ref();
        let group = measured.as_ref().map(|(group, _)| group).filter(|group| *group != choice);
        let same = |last: &KeptLayer| last.layer == *layer && last.revision == *revision;
        if !layers.last().is_some_and(same) {
            layers.push(KeptLayer { layer: layer.clone(), revision: *revision, ..KeptLayer::default() });
        }
        let Some(last) = layers.last_mut() else { continue };
        last.choices.push(name.clone());
        last.measured_only.push(*measured_only);
        last.groups.push(group.map_or_else(String::new, |group| group.name.clone()));
        if let Some((_, measuring)) = measured {
            last.measuring.get_or_insert_with(|| measuring.wire().to_vec());
        }
        if let Some(group) = group {
            (last.rollout, last.rollout_revision) = (group.layer.clone(), group.revision);
        }
    }
    layers
}

fn unpack(layers: Vec<KeptLayer>) -> Install {
    let mut meanings = vec![];
    for kept in layers {
        let KeptLayer { layer, revision, choices, measuring, rollout, rollout_revision, groups, measured_only } = kept;
        let measuring = measuring.and_then(|wire| Measuring::read(&wire)).map(Arc::new);
        for (at, name) in choices.into_iter().enumerate() {
            let choice = Arc::new(Choice { layer: layer.clone(), revision, name });
            let group = groups.get(at).filter(|group| !group.is_empty());
            let measured_as = match group {
                _ if rollout.is_empty() => Some(Arc::clone(&choice)),
                Some(name) => {
                    let (layer, name) = (rollout.clone(), name.clone());
                    Some(Arc::new(Choice { layer, revision: rollout_revision, name }))
                }
                None => None,
            };
            let measured_only = measured_only.get(at).copied().unwrap_or_default();
            meanings.push(Meaning { choice, measured_only, measured: measured_as.zip(measuring.clone()) });
        }
    }
    meanings.into()
}

#[cfg(test)]
mod tests;
