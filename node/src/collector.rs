//! Records in, reports out: the books on disk, and the order of steps that makes their counting exact.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use sockpilot_outcomes::{Choice, Flow};
use sockpilot_policy::layout::{FlowRecord, RING_BYTES};
use sockpilot_proto::v1;

use crate::{
    attribution::Attributions,
    book::Book,
    clock::{FleetClock, Moment, ServerTime},
    journal::{Head, Journal},
    measuring::Measuring,
    sample::{Recorded, sample},
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
    /// What tells this daemon from others with its id: the tables' identity.
    instance: String,
    books: PathBuf,
    interval_length_s: u32,
    attributions: Attributions,
    current: Volume,
    /// Oldest first.
    old: Vec<Volume>,
    samples: Recorded,
    /// A report that is made and not written down yet, so it must not be sent.
    unwritten: Option<v1::FlowReport>,
    /// Files of books that nobody needs any more, and that could not be deleted.
    leftovers: Vec<PathBuf>,
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
    path: PathBuf,
    /// `None` until the first commit.
    journal: Option<Journal>,
}

impl Volume {
    /// A new book. That it is on disk is owed: a daemon must do its work where nothing can be written, too.
    fn new(directory: &Path, head: Head) -> Self {
        Self { path: directory.join(&head.boot_id), book: Book::new(head), journal: None }
    }

    /// `None` if there is no sound book in the file.
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let (journal, entries) = Journal::open(path)?;
        if entries.is_empty() {
            return Ok(None);
        }
        let book = Book::replay(entries).ok();
        Ok(book.map(|book| Self { book, path: path.to_owned(), journal: Some(journal) }))
    }

    fn commit(&mut self) -> io::Result<()> {
        match self.journal.as_mut().filter(|journal| journal.is_there()) {
            Some(journal) => {
                let rewritten = journal.has_grown() && journal.rewrite(&self.book.checkpoint()).is_ok();
                if !rewritten {
                    journal.append(&self.book.entry())?;
                }
            }
            None => self.journal = Some(Journal::create(&self.path, &self.book.checkpoint())?),
        }
        self.book.written();
        Ok(())
    }

    /// Makes sure that the book has a file.
    fn settle(&mut self) -> io::Result<()> {
        if self.journal.as_ref().is_some_and(Journal::is_there) { Ok(()) } else { self.commit() }
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
        unmatched_share_bp: u32,
    ) -> io::Result<Self> {
        fs::create_dir_all(&books)?;
        let (mut tally, mut leftovers) = (Tally::default(), Vec::new());
        let mut old = read_books(&books, &mut leftovers)?;
        let continued = old.iter().enumerate().filter(|(_, volume)| {
            let head = volume.book.head();
            let ahead = head.position.checked_sub(tables.position);
            head.tables == tables.identity && !tables.made && ahead.is_some_and(|ahead| ahead <= RING_BYTES as u64)
        });
        let continued = continued.max_by_key(|(_, volume)| volume.book.head().part);
        let current = match continued.map(|(index, _)| index) {
            Some(index) => old.remove(index),
            None => {
                let Tables { identity, made: _, position, dropped } = tables;
                let (boot_id, tables) = (new_boot_id, identity.to_owned());
                Volume::new(&books, Head { boot_id, tables, position, dropped_before: dropped, ..Head::default() })
            }
        };
        while old.len() > OLD_BOOKS_MAX {
            let Volume { book, path, .. } = old.remove(0);
            tally.flows_given_up += book.flows();
            tracing::warn!(
                boot_id = book.head().boot_id,
                flows = book.flows(),
                "gave up an old book: there are too many"
            );
            leftovers.push(path);
        }
        let attributions = Attributions::open(attributions, tables.identity)?;
        let (samples, unwritten, choices) = (Recorded::new(unmatched_share_bp), None, Vec::new());
        let mut collector = Self {
            node_id,
            instance: tables.identity.to_owned(),
            books,
            interval_length_s,
            attributions,
            current,
            old,
            samples,
            unwritten,
            leftovers,
            tally,
            choices,
        };
        // What cannot be done now is owed.
        let _ = collector.settle_removals();
        let _ = collector.settle_books();
        Ok(collector)
    }

    /// Of whom it collects.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.node_id
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
        self.current.journal.as_ref().map_or(0, Journal::length)
    }

    /// What was counted.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Notes what the choices of an install mean, before it is put in force.
    ///
    /// # Errors
    /// If it cannot be written; it is known all the same, and owed.
    pub fn note_install(
        &mut self,
        install: u64,
        choices: &[Arc<Choice>],
        measuring: &[Option<Arc<Measuring>>],
    ) -> io::Result<()> {
        self.attributions.put(install, choices, measuring)
    }

    /// Writes what choices mean, as far as it is not on disk.
    ///
    /// # Errors
    /// If it cannot be written; to be tried again.
    pub fn settle_choices(&mut self) -> io::Result<()> {
        self.attributions.settle()
    }

    /// Makes sure that every book has a file, with the report that is to be sent next.
    ///
    /// # Errors
    /// If one cannot be written; to be tried again.
    pub fn settle_books(&mut self) -> io::Result<()> {
        if let Some(boot_id) = self.unwritten.as_ref().map(|report| report.boot_id.clone())
            && let Some(volume) = self.volume(&boot_id)
        {
            volume.commit()?;
        }
        self.old.iter_mut().chain([&mut self.current]).try_for_each(Volume::settle)
    }

    /// Deletes what nobody needs any more.
    ///
    /// # Errors
    /// If a file cannot be deleted; to be tried again.
    pub fn settle_removals(&mut self) -> io::Result<()> {
        while let Some(path) = self.leftovers.last() {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => drop(self.leftovers.pop()),
            }
        }
        Ok(())
    }

    /// A server has said what time it is.
    ///
    /// # Errors
    /// If a book cannot be written that had to be ended because the clock went back; it is then not ended yet.
    pub fn hear(&mut self, time: ServerTime) -> io::Result<()> {
        let told = FleetClock::told(time);
        // A book of an earlier boot that no server had told the time went by a wall clock that was as far off as it is now.
        for volume in &mut self.old {
            volume.book.set_clock(told, time.wall_ahead_ns().saturating_neg());
        }
        let before = self.current.book.clock(time.at);
        self.current.book.set_clock(told, told.ahead_ns.saturating_sub(before.ahead_ns));
        if self.current.book.is_ahead_of(told.time_s(time.at.monotonic_ns), self.interval_length_s) {
            // Whatever was folded must be on disk before another book has the position after it.
            self.current.commit()?;
            let next = Volume::new(&self.books, self.current.book.next_part());
            let boot_id = &next.book.head().boot_id;
            tracing::warn!(boot_id, "the clock has gone back behind outcomes that were reported; began another book");
            self.old.push(std::mem::replace(&mut self.current, next));
        }
        Ok(())
    }

    /// The fleet's time at a moment, in seconds since 1970.
    pub fn time_s(&mut self, now: Moment) -> u64 {
        self.current.book.clock(now).time_s(now.monotonic_ns)
    }

    /// Folds a record that stays in the ring buffer. `services` has the paths of the attached cgroups.
    pub fn fold(&mut self, record: &FlowRecord, services: &HashMap<u32, String>, now: Moment, random: u64) {
        let known = self.attributions.of(record.install);
        let used = record.choices.iter().take(record.choice_count as usize);
        self.choices.clear();
        let choice = |id: &u16| known?.choices.get(usize::from(*id).checked_sub(1)?).cloned();
        self.choices.extend(used.clone().filter_map(choice));
        self.tally.records += 1;
        self.tally.unattributed += (used.len() - self.choices.len()) as u64;
        let flow = Flow::of(record);
        let ended_ns = self.current.book.clock(now).time_ns(record.end_ns);
        self.current.book.fold(&flow, &self.choices, ended_ns / 1_000_000_000, self.interval_length_s);
        let begin_s = self.current.book.clock(now).time_s(record.start_ns);
        for at in used.filter_map(|id| usize::from(*id).checked_sub(1)) {
            let Some((choice, Some(measuring))) =
                known.and_then(|known| known.choices.get(at).zip(known.measuring.get(at)))
            else {
                continue;
            };
            let interval_length_s = self.interval_length_s;
            self.current.book.measure(&flow, (choice, measuring), begin_s, interval_length_s, &self.node_id);
        }
        let service = services.get(&record.attachment).map_or("", String::as_str);
        self.samples.offer(&flow, random, || sample(&flow, &self.choices, service, ended_ns));
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
    /// If that cannot be written; the same report comes when it can.
    pub fn next_report(&mut self, now_s: u64, dropped: u64) -> io::Result<Option<v1::FlowReport>> {
        let report = match self.unwritten.take() {
            Some(report) => Some(report),
            None => self.make_report(now_s, dropped),
        };
        if let Some(report) = &report
            && let Some(volume) = self.volume(&report.boot_id)
            && let Err(error) = volume.commit()
        {
            self.unwritten = Some(report.clone());
            return Err(error);
        }
        Ok(report)
    }

    fn make_report(&mut self, now_s: u64, dropped: u64) -> Option<v1::FlowReport> {
        let settled = self.old.extract_if(.., |volume| volume.book.is_settled());
        self.leftovers.extend(settled.map(|volume| volume.path));
        // What cannot be deleted now is owed.
        let _ = self.settle_removals();
        self.current.book.note_dropped(dropped);
        self.current.book.close(now_s);
        let (volume, samples) = match self.old.first_mut() {
            Some(old) => (old, vec![]),
            None => (&mut self.current, self.samples.take()),
        };
        let report = volume.book.next_report(&self.node_id, samples)?;
        Some(v1::FlowReport { instance: self.instance.clone(), ..report })
    }

    fn volume(&mut self, boot_id: &str) -> Option<&mut Volume> {
        let mut volumes = self.old.iter_mut().chain([&mut self.current]);
        volumes.find(|volume| volume.book.head().boot_id == boot_id)
    }

    /// The server has a report, or will never take it.
    pub fn settle(&mut self, boot_id: &str, sequence: u64) {
        if let Some(volume) = self.volume(boot_id) {
            volume.book.settle(sequence);
        }
    }
}

/// All books, oldest first. What is none is left over.
fn read_books(directory: &Path, leftovers: &mut Vec<PathBuf>) -> io::Result<Vec<Volume>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|file| file.map(|file| file.path())).collect::<Result<_, _>>()?;
    paths.sort();
    let mut volumes = Vec::new();
    for path in paths {
        // A new file beside the old one, of a daemon that was killed before it could rename it.
        if path.extension().is_some() {
            leftovers.push(path);
            continue;
        }
        match Volume::open(&path)? {
            Some(volume) => volumes.push(volume),
            None => {
                tracing::error!(path = %path.display(), "a book cannot be read; it is deleted");
                leftovers.push(path);
            }
        }
    }
    Ok(volumes)
}

#[cfg(test)]
mod tests;
