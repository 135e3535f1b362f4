//! The aggregation on disk, so that a daemon that is killed has neither lost nor doubled a record.
//!
//! The file is a sequence of entries, each with its length and checksum: first a whole [`Aggregation`](super::aggregation::Aggregation), then
//! what changed. An entry is appended with one write and counts once it is whole; a torn one at the end is what a kill in the
//! middle leaves, and is cut off. When the file has grown, it is written anew beside the old one and renamed.
//!
//! There is no `fsync` here, on purpose: what the kernel took from a process survives the process. It does not survive the
//! machine, but neither do the kernel tables and the ring buffer that the position belongs to.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use prost::Message;
use sha2::{Digest, Sha256};
use sockpilot_proto::v1;

use super::earlier::EarlierRing;
use crate::{
    clock::FleetClock,
    disk::file::{file_at, write_beside},
};

/// Who an aggregation is of and how far it has come.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Head {
    /// Made with the kernel tables.
    #[prost(string, tag = "1")]
    pub boot_id: String,
    /// Tells these kernel tables from all others.
    #[prost(string, tag = "2")]
    pub tables: String,
    /// Records before this position in the ring buffer are in the aggregation.
    #[prost(uint64, tag = "3")]
    pub position: u64,
    /// Of the newest report.
    #[prost(uint64, tag = "4")]
    pub sequence: u64,
    /// Records in the aggregation, ever.
    #[prost(uint64, tag = "5")]
    pub records_total: u64,
    /// Records lost in the kernel, ever, and by earlier sides.
    #[prost(uint64, tag = "6")]
    pub records_dropped: u64,
    /// The kernel's count of lost records when the aggregation was begun.
    #[prost(uint64, tag = "7")]
    pub dropped_before: u64,
    /// No record goes to an interval that begins earlier.
    #[prost(uint64, tag = "8")]
    pub floor_s: u64,
    /// Flows in cells that had to be evicted.
    #[prost(uint64, tag = "9")]
    pub flows_evicted: u64,
    /// By which its intervals are placed; absent before the first record.
    #[prost(message, optional, tag = "10")]
    pub clock: Option<FleetClock>,
    /// How many aggregations about these tables came before: another one begins when the clock goes back behind what is closed.
    #[prost(uint32, tag = "11")]
    pub part: u32,
    /// As `floor_s`, of what experiments measure, which is placed by the beginning of flows.
    #[prost(uint64, tag = "12")]
    pub measured_floor_s: u64,
    /// Ring buffers of earlier kernel sides that records are read from too.
    #[prost(message, repeated, tag = "13")]
    pub earlier: Vec<EarlierRing>,
    /// Records lost in the kernel's own tables of this aggregation; in `records_dropped` with all others.
    #[prost(uint64, tag = "14")]
    pub dropped_own: u64,
    /// Records lost by earlier sides that have ended.
    #[prost(uint64, tag = "15")]
    pub lost: u64,
    /// Of these, those of connections that were open when their side was ended.
    #[prost(uint64, tag = "16")]
    pub connections_lost: u64,
    /// Earlier sides that have ended, and whose pins may still be there.
    #[prost(string, repeated, tag = "17")]
    pub ended: Vec<String>,
}

/// What changed in an aggregation.
#[derive(Clone, PartialEq, Message)]
pub struct JournalEntry {
    /// As it is now.
    #[prost(message, optional, tag = "1")]
    pub head: Option<Head>,
    /// New or changed.
    #[prost(message, repeated, tag = "2")]
    pub cells: Vec<KeptCell>,
    /// Ids of cells that are gone; taken away before `cells` are put in.
    #[prost(uint64, repeated, tag = "3")]
    pub removed: Vec<u64>,
}

/// One cell of an aggregation.
#[derive(Clone, PartialEq, Message)]
pub struct KeptCell {
    /// Its number in the aggregation.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// It was in a report.
    #[prost(bool, tag = "2")]
    pub sent: bool,
    /// Key and sums.
    #[prost(message, optional, tag = "3")]
    pub cell: Option<v1::FlowCell>,
}

/// Bytes before an entry: its length, and the beginning of the SHA-256 of what follows.
const PREFIX: usize = 4 + CHECKSUM;
const CHECKSUM: usize = 8;

/// A file is not written anew below this size.
const REWRITE_MIN_BYTES: u64 = 1 << 20;
/// It is when it is this many times its size after it was last written anew.
const REWRITE_FACTOR: u64 = 4;

/// The file of one aggregation.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Up to here all entries are whole.
    length: u64,
    length_when_new: u64,
}

impl Journal {
    /// Writes a new file in place of any that is there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path, checkpoint: &JournalEntry) -> io::Result<Self> {
        let bytes = frame(checkpoint);
        write_beside(path, &bytes)?;
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let length = bytes.len() as u64;
        Ok(Self { path: path.to_owned(), file, length, length_when_new: length })
    }

    /// Opens a file and reads its entries. What is torn at the end is cut off with the next [`Journal::append`].
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(path: &Path) -> io::Result<(Self, Vec<JournalEntry>)> {
        let bytes = fs::read(path)?;
        let (entries, whole) = unframe(&bytes);
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let length = whole as u64;
        Ok((Self { path: path.to_owned(), file, length, length_when_new: length }, entries))
    }

    /// Appends an entry. After an error the entry is not there, and may be appended again.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, entry: &JournalEntry) -> io::Result<()> {
        // Cuts off what an entry that failed or was torn has left.
        if self.file.metadata()?.len() != self.length {
            self.file.set_len(self.length)?;
        }
        let bytes = frame(entry);
        self.file.write_all_at(&bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Whether the file is still at its path: what is written to one that was deleted or replaced is lost with this process.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let this = self.file.metadata().ok().map(|file| (file.dev(), file.ino()));
        this.is_some() && this == file_at(&self.path)
    }

    /// Whether the file has grown so much that it should be [written anew](Journal::rewrite).
    #[must_use]
    pub fn has_grown(&self) -> bool {
        self.length > REWRITE_MIN_BYTES.max(self.length_when_new.saturating_mul(REWRITE_FACTOR))
    }

    /// Writes the file anew.
    ///
    /// # Errors
    /// If it cannot be written; the old one is then still there and in use, and may [grow](Self::has_grown) further.
    pub fn rewrite(&mut self, checkpoint: &JournalEntry) -> io::Result<()> {
        // There may be room for an entry where there is none for the whole.
        self.length_when_new = self.length;
        *self = Self::create(&self.path, checkpoint)?;
        Ok(())
    }

    /// Bytes in the file.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }
}

fn frame(entry: &JournalEntry) -> Vec<u8> {
    let body = entry.encode_to_vec();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(PREFIX + body.len());
    bytes.extend(length.to_le_bytes());
    bytes.extend(checksum(&body));
    bytes.extend(body);
    bytes
}

/// The whole entries at the beginning, and where they end.
fn unframe(bytes: &[u8]) -> (Vec<JournalEntry>, usize) {
    let (mut entries, mut at) = (Vec::new(), 0);
    while let Some((entry, end)) = unframe_one(bytes, at) {
        entries.push(entry);
        at = end;
    }
    (entries, at)
}

fn unframe_one(bytes: &[u8], at: usize) -> Option<(JournalEntry, usize)> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<CHECKSUM>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let body = rest.get(..length)?;
    (checksum(body) == *sum).then_some(())?;
    Some((JournalEntry::decode(body).ok()?, at + PREFIX + length))
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&Sha256::digest(body)[..CHECKSUM]);
    sum
}

#[cfg(test)]
mod tests;
