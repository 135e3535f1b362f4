//! Records in, reports out: the books on disk, and the order of steps that makes their counting exact.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use sockpilot_policy::layout::{FlowRecord, RING_BYTES};
use sockpilot_proto::v1;

use crate::{
    attribution::Attributions,
    book::Book,
    cells::{Choice, Flow},
    clock::Moment,
    journal::{Head, Journal},
    sample::{Reservoir, sample},
};

/// Books of kernel tables that are gone, still to be reported; beyond it, the oldest are given up and counted.
pub const OLD_BOOKS_MAX: usize = 16;

/// What the collector needs to know of the kernel tables when it starts.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// Tells them from all others.
    pub identity: &'a str,
    /// They were made by this very process: no book can be about them.
    pub made: bool,
    /// The ring buffer's consumer position.
    pub position: u64,
    /// Records lost so far.
    pub dropped: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Collector {
    node_id: String,
    interval_length_s: u32,
    attributions: Attributions,
    current: Volume,
    /// Oldest first.
    old: Vec<Volume>,
    samples: Reservoir,
    tally: Tally,
    /// Choices of the record at hand; kept for its memory.
    choices: Vec<Arc<Choice>>,
}

/// What the collector has counted since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Records folded.
    pub records: u64,
    /// Choices in them whose meaning nobody knows.
    pub unattributed: u64,
    /// Flows in books that were given up.
    pub flows_given_up: u64,
}

/// A book and its file.
#[derive(Debug)]
struct Volume {
    book: Book,
    journal: Journal,
}

impl Volume {
    fn create(directory: &Path, head: Head) -> io::Result<Self> {
        let book = Book::new(head);
        let journal = Journal::create(&directory.join(&book.head().boot_id), &book.checkpoint())?;
        Ok(Self { book, journal })
    }

    /// `None` if there is no sound book in the file.
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let (journal, entries) = Journal::open(path)?;
        if entries.is_empty() {
            return Ok(None);
        }
        Ok(Book::replay(entries).ok().map(|book| Self { book, journal }))
    }

    fn commit(&mut self) -> io::Result<()> {
        if self.journal.has_grown() {
            self.journal.rewrite(&self.book.checkpoint())?;
        } else {
            self.journal.append(&self.book.entry())?;
        }
        self.book.written();
        Ok(())
    }
}

impl Collector {
    /// Opens the books. One about these tables is continued, else a new one is begun with `new_boot_id`, which must sort
    /// after all earlier ones.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub fn open(
        (books, attributions): (PathBuf, PathBuf),
        tables: Tables<'_>,
        new_boot_id: String,
        node_id: String,
        interval_length_s: u32,
    ) -> io::Result<Self> {
        fs::create_dir_all(&books)?;
        let mut tally = Tally::default();
        let mut old = read_books(&books)?;
        let continued = old.iter().position(|volume| {
            let head = volume.book.head();
            let ahead = head.position.checked_sub(tables.position);
            head.tables == tables.identity && !tables.made && ahead.is_some_and(|ahead| ahead <= RING_BYTES as u64)
        });
        let current = match continued {
            Some(index) => old.remove(index),
            None => {
                let Tables { identity, made: _, position, dropped } = tables;
                let (boot_id, tables) = (new_boot_id, identity.to_owned());
                let head = Head { boot_id, tables, position, dropped_before: dropped, ..Head::default() };
                Volume::create(&books, head)?
            }
        };
        while old.len() > OLD_BOOKS_MAX {
            let Volume { book, journal } = old.remove(0);
            tally.flows_given_up += book.flows();
            tracing::warn!(
                boot_id = book.head().boot_id,
                flows = book.flows(),
                "gave up an old book: there are too many"
            );
            journal.delete()?;
        }
        let attributions = Attributions::open(attributions, tables.identity)?;
        let (samples, choices) = (Reservoir::default(), Vec::new());
        Ok(Self { node_id, interval_length_s, attributions, current, old, samples, tally, choices })
    }

    /// Made with the kernel tables; survives restarts of the daemon.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.current.book.head().boot_id
    }

    /// Records before this position of the ring buffer are in the book. If that is ahead of the ring buffer's own
    /// position, [commit](Collector::commit), then release: they must not be folded again.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.current.book.head().position
    }

    /// The current book.
    #[must_use]
    pub fn book(&self) -> &Book {
        &self.current.book
    }

    /// Bytes of the current book on disk.
    #[must_use]
    pub fn journal_bytes(&self) -> u64 {
        self.current.journal.length()
    }

    /// What was counted.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Notes what the choices of an install mean, before it is put in force.
    ///
    /// # Errors
    /// If it cannot be written; it is then known until this process ends.
    pub fn note_install(&mut self, install: u64, choices: &[Arc<Choice>]) -> io::Result<()> {
        self.attributions.put(install, choices)
    }

    /// Folds a record that stays in the ring buffer.
    pub fn fold(&mut self, record: &FlowRecord, now: Moment, random: u64) {
        let known = self.attributions.of(record.install).map_or(&[][..], |choices| choices);
        let used = record.choices.iter().take(record.choice_count as usize);
        self.choices.clear();
        self.choices.extend(used.clone().filter_map(|id| known.get(usize::from(*id).checked_sub(1)?)).cloned());
        self.tally.records += 1;
        self.tally.unattributed += (used.len() - self.choices.len()) as u64;
        let flow = Flow::of(record);
        let ended_ns = now.wall_ns_of(record.end_ns);
        self.current.book.fold(&flow, &self.choices, ended_ns / 1_000_000_000, self.interval_length_s);
        self.samples.offer(random, || sample(&flow, &self.choices, ended_ns));
    }

    /// Notes the position after the records folded.
    pub fn advance(&mut self, position: u64) {
        self.current.book.advance(position);
    }

    /// Writes down what was folded. Only then may the records be released.
    ///
    /// # Errors
    /// If it cannot be written; to be tried again, without folding the same records again.
    pub fn commit(&mut self) -> io::Result<()> {
        self.current.commit()
    }

    /// The next report, of the oldest book that has anything to report; it is on disk that it is about to be sent.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn next_report(&mut self, now_s: u64, dropped: u64) -> io::Result<Option<v1::FlowReport>> {
        while let Some(settled) = self.old.iter().position(|volume| volume.book.is_settled()) {
            self.old.remove(settled).journal.delete()?;
        }
        self.current.book.note_dropped(dropped);
        self.current.book.close(now_s);
        let (volume, samples) = match self.old.first_mut() {
            Some(old) => (old, vec![]),
            None => (&mut self.current, self.samples.take()),
        };
        let report = volume.book.next_report(&self.node_id, samples);
        if report.is_some() {
            volume.commit()?;
        }
        Ok(report)
    }

    /// The server has a report, or will never take it.
    pub fn settle(&mut self, boot_id: &str, sequence: u64) {
        let mut volumes = self.old.iter_mut().chain([&mut self.current]);
        if let Some(volume) = volumes.find(|volume| volume.book.head().boot_id == boot_id) {
            volume.book.settle(sequence);
        }
    }
}

/// All books, oldest first. What is none is deleted.
fn read_books(directory: &Path) -> io::Result<Vec<Volume>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|file| file.map(|file| file.path())).collect::<Result<_, _>>()?;
    paths.sort();
    let mut volumes = Vec::new();
    for path in paths {
        match Volume::open(&path)? {
            // A new file beside the old one, of a daemon that was killed before it could rename it.
            Some(_) | None if path.extension().is_some() => fs::remove_file(&path)?,
            Some(volume) => volumes.push(volume),
            None => {
                tracing::error!(path = %path.display(), "deleted a book that cannot be read");
                fs::remove_file(&path)?;
            }
        }
    }
    Ok(volumes)
}

#[cfg(test)]
mod tests;
