//! An aggregation and the journal that has it on disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    aggregation::Aggregation,
    journal::{Head, Journal},
};

/// An aggregation and its file.
#[derive(Debug)]
pub(super) struct AggregationFile {
    pub(super) aggregation: Aggregation,
    pub(super) path: PathBuf,
    /// `None` until the first commit.
    pub(super) journal: Option<Journal>,
}

impl AggregationFile {
    /// A new aggregation. That it is on disk is owed: a daemon must do its work where nothing can be written, too.
    pub(super) fn new(directory: &Path, head: Head) -> Self {
        Self { path: directory.join(&head.boot_id), aggregation: Aggregation::new(head), journal: None }
    }

    /// `None` if there is no sound aggregation in the file.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let (journal, entries) = Journal::open(path)?;
        if entries.is_empty() {
            return Ok(None);
        }
        let aggregation = Aggregation::replay(entries).ok();
        Ok(aggregation.map(|aggregation| Self { aggregation, path: path.to_owned(), journal: Some(journal) }))
    }

    pub(super) fn commit(&mut self) -> io::Result<()> {
        match self.journal.as_mut().filter(|journal| journal.is_there()) {
            Some(journal) => {
                let rewritten = journal.has_grown() && journal.rewrite(&self.aggregation.checkpoint()).is_ok();
                if !rewritten {
                    journal.append(&self.aggregation.entry())?;
                }
            }
            None => self.journal = Some(Journal::create(&self.path, &self.aggregation.checkpoint())?),
        }
        self.aggregation.written();
        Ok(())
    }

    /// Makes sure that the aggregation has a file.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        if self.journal.as_ref().is_some_and(Journal::is_there) { Ok(()) } else { self.commit() }
    }
}

/// All aggregations, oldest first. What is none is left over.
pub(super) fn read_all(directory: &Path, leftovers: &mut Vec<PathBuf>) -> io::Result<Vec<AggregationFile>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|file| file.map(|file| file.path())).collect::<Result<_, _>>()?;
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        // A new file beside the old one, of a daemon that was killed before it could rename it.
        if path.extension().is_some() {
            leftovers.push(path);
            continue;
        }
        match AggregationFile::open(&path)? {
            Some(file) => found.push(file),
            None => {
                tracing::error!(path = %path.display(), "journal unreadable; deleted");
                leftovers.push(path);
            }
        }
    }
    Ok(found)
}
