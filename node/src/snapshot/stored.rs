//! Snapshots on disk: the one in force, and the one that is about to be.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use sockpilot_proto::v1;

use super::version::Version;
use crate::disk::{
    StateDir,
    file::{file_at, write_beside},
};

/// A snapshot as it was received, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Which one.
    pub version: Version,
    /// Its content.
    pub offered: Bytes,
    /// The layers in force: its content, but for what is held back.
    pub layers: Bytes,
    /// The install that they were compiled to.
    pub install: u64,
    /// Why they are not its content.
    pub held_back: Vec<v1::HeldBack>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredMessage {
    #[prost(message, optional, tag = "1")]
    version: Option<v1::SnapshotVersion>,
    #[prost(bytes = "bytes", tag = "2")]
    layers: Bytes,
    #[prost(uint64, tag = "3")]
    install: u64,
    #[prost(message, repeated, tag = "4")]
    held_back: Vec<v1::HeldBack>,
    /// Absent: it is in force as it was offered. A daemon that does not know this field finds `layers` with another hash than the
    /// version's, and waits for the server rather than believe that the version is in force.
    #[prost(bytes = "bytes", optional, tag = "5")]
    offered: Option<Bytes>,
}

/// The snapshot in force, and the one that is about to be. The second is written before the kernel's tables flip and
/// becomes the first after it, so that whatever is in force is on disk.
///
/// Only then, when the server has its answer, is it made to survive the machine: the kernel tables do not survive it either,
/// so until then the one before is what a restarted machine begins with.
///
/// What could not be written is kept, and written by a later [`Snapshots::settle`].
#[derive(Debug)]
pub struct Snapshots {
    directory: PathBuf,
    current: Option<Current>,
}

/// The snapshot in force, if it is known.
#[derive(Debug)]
struct Current {
    stored: Stored,
    place: Place,
}

/// Where the snapshot in force is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In memory only.
    Nowhere,
    /// Still written as the coming one.
    Coming,
    /// On disk, as this file.
    Final(Option<(u64, u64)>),
}

impl Snapshots {
    /// Those of a state directory.
    #[must_use]
    pub fn of(state: &StateDir) -> Self {
        Self { directory: state.path().to_owned(), current: None }
    }

    /// The snapshot that was in force last; `None` if there is none that can be read.
    #[must_use]
    pub fn in_force(&self) -> Option<Stored> {
        read(&self.path("snapshot"))
    }

    /// The snapshot that was about to be.
    #[must_use]
    pub fn coming(&self) -> Option<Stored> {
        read(&self.path("snapshot-coming"))
    }

    /// Writes the snapshot that is about to be in force. If that fails, it may be put in force all the same.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_coming(&mut self, stored: &Stored) -> io::Result<()> {
        // It takes the place of one that is in force and still called coming: that one must not be promoted by its name.
        if let Some(current) = self.current.as_mut().filter(|current| current.place == Place::Coming) {
            current.place = Place::Nowhere;
        }
        self.write(stored)
    }

    fn write(&self, stored: &Stored) -> io::Result<()> {
        let Stored { version, offered, layers, install, held_back } = stored;
        let message = StoredMessage {
            version: Some(version.to_proto()),
            layers: layers.clone(),
            install: *install,
            held_back: held_back.clone(),
            offered: (offered != layers).then(|| offered.clone()),
        };
        write_beside(&self.path("snapshot-coming"), &message.encode_to_vec())
    }

    /// A snapshot has come into force. `written`: as the coming one.
    pub fn came_into_force(&mut self, stored: Stored, written: bool) {
        let place = if written { Place::Coming } else { Place::Nowhere };
        self.current = Some(Current { stored, place });
    }

    /// The snapshot in force, if it is known.
    #[must_use]
    pub fn current(&self) -> Option<&Stored> {
        self.current.as_ref().map(|current| &current.stored)
    }

    /// The snapshot on disk was found to be in force.
    pub fn found_in_force(&mut self, stored: Stored) {
        self.current = Some(Current { stored, place: Place::Final(file_at(&self.path("snapshot"))) });
    }

    /// Brings the snapshot in force to disk, if it is not there or not there any more: from now on the machine begins with it.
    ///
    /// # Errors
    /// If it cannot be written, brought to disk or renamed; to be tried again.
    pub fn settle(&mut self) -> io::Result<()> {
        let (coming, last) = (self.path("snapshot-coming"), self.path("snapshot"));
        let Some(Current { stored, place }) = &self.current else { return Ok(()) };
        match place {
            Place::Final(file) if file.is_some() && *file == file_at(&last) => return Ok(()),
            Place::Coming if coming.exists() => {}
            Place::Final(_) | Place::Coming | Place::Nowhere => self.write(stored)?,
        }
        self.at(Place::Coming);
        File::open(&coming)?.sync_all()?;
        fs::rename(&coming, &last)?;
        // If this fails it may be the older one again when the machine starts: then all of it is written again.
        self.at(Place::Nowhere);
        File::open(&self.directory)?.sync_all()?;
        self.at(Place::Final(file_at(&last)));
        Ok(())
    }

    fn at(&mut self, place: Place) {
        if let Some(current) = &mut self.current {
            current.place = place;
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn read(path: &Path) -> Option<Stored> {
    let message = StoredMessage::decode(Bytes::from(fs::read(path).ok()?)).ok()?;
    let StoredMessage { version, layers, install, held_back, offered } = message;
    let version = Version::from_proto(version.as_ref()).ok()?;
    let offered = offered.unwrap_or_else(|| layers.clone());
    // What a disk has lost on the way must not be taken for a snapshot.
    let whole = version.content_hash[..] == Sha256::digest(&offered)[..];
    whole.then_some(Stored { version, offered, layers, install, held_back })
}

/// What to do at the start, when the kernel and the state directory are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// The snapshot on disk is in force.
    Keep,
    /// The coming one is: the daemon ended between the flip and the renaming.
    Promote,
    /// Nothing is in force, but a snapshot was before the machine started: put it in force again.
    Reinstall,
    /// Nothing is known of what is in force, if anything: the server's next snapshot decides.
    AwaitServer,
}

/// Compares what the kernel has in force, as (generation, install), with what is on disk. Pure.
#[must_use]
pub fn resume(kernel: Option<(u64, u64)>, in_force: Option<&Stored>, coming: Option<&Stored>) -> Resume {
    let is = |stored: Option<&Stored>| {
        kernel.is_some() && stored.map(|stored| (stored.version.generation, stored.install)) == kernel
    };
    if is(coming) {
        Resume::Promote
    } else if is(in_force) {
        Resume::Keep
    } else if kernel.is_none() && in_force.is_some() {
        Resume::Reinstall
    } else {
        Resume::AwaitServer
    }
}

#[cfg(test)]
mod tests;
