//! Records in, reports out: the aggregations on disk, and the order of steps that makes their counting exact.

use std::{collections::HashMap, fs, io, path::PathBuf, sync::Arc, time::Instant};

use sockpilot_outcomes::{Choice, Flow};
use sockpilot_policy::{
    layout::{FlowRecord, RING_BYTES},
    unit,
};
use sockpilot_proto::v1;

use super::{
    aggregation::Aggregation,
    aggregation_file::{AggregationFile, read_all},
    attribution::{Attributions, Meaning},
    earlier::{self, EarlierTables},
    journal::{Head, Journal},
    on_request::Taken,
    open::{Look, Open},
    sample::{Recorded, sample},
};
use crate::clock::{FleetClock, Moment, ServerTime};

/// Books of kernel tables that are gone, still to be reported; beyond it, the oldest are evicted and counted.
pub const OLD_AGGREGATIONS_MAX: usize = 16;

/// What the collector needs to know of the kernel tables when it starts.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// Tells them from all others.
    pub identity: &'a str,
    /// They were made by this very process: no aggregation can be about them.
    pub made: bool,
    /// The ring buffer's consumer position.
    pub position: u64,
    /// Records lost so far.
    pub dropped: u64,
    /// Earlier kernel sides that are still there.
    pub earlier: &'a [EarlierTables],
}

/// See the [module](self).
#[derive(Debug)]
pub struct Collector {
    node_id: String,
    /// The tables' identity.
    tables: String,
    /// What tells this daemon from others with its id.
    instance: String,
    aggregations: PathBuf,
    interval_length_s: u32,
    attributions: Attributions,
    current: AggregationFile,
    /// Oldest first.
    old: Vec<AggregationFile>,
    /// What is recorded of single flows.
    pub samples: Recorded,
    /// Open connections, as the present look at them has recorded.
    look: Look,
    /// A report that is made and not written down yet, so it must not be sent.
    unwritten: Option<v1::FlowReport>,
    /// Files of aggregations that nobody needs any more, and that could not be deleted.
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
    /// Flows in aggregations that were evicted.
    pub flows_evicted: u64,
    /// Records of connections that began, as is known now, in another slot of time than was thought then: not measured.
    pub out_of_slot: u64,
}

impl Collector {
    /// Opens the aggregations. One about these tables is continued, else a new one is begun with `new_boot_id`, which must sort
    /// after all earlier ones.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub fn open(
        (aggregations, attributions): (PathBuf, PathBuf),
        tables: Tables<'_>,
        new_boot_id: String,
        node_id: String,
        interval_length_s: u32,
        unmatched_share_bp: u32,
    ) -> io::Result<Self> {
        fs::create_dir_all(&aggregations)?;
        let (mut tally, mut leftovers) = (Tally::default(), Vec::new());
        let mut old = read_all(&aggregations, &mut leftovers)?;
        let continued = old.iter().enumerate().filter(|(_, file)| {
            let head = file.aggregation.head();
            let ahead = head.position.checked_sub(tables.position);
            head.tables == tables.identity && !tables.made && ahead.is_some_and(|ahead| ahead <= RING_BYTES as u64)
        });
        let continued = continued.max_by_key(|(_, file)| file.aggregation.head().part);
        let mut current = match continued.map(|(index, _)| index) {
            Some(index) => old.remove(index),
            None => {
                let Tables { identity, made: _, position, dropped, earlier: _ } = tables;
                let (boot_id, tables) = (new_boot_id, identity.to_owned());
                AggregationFile::new(
                    &aggregations,
                    Head { boot_id, tables, position, dropped_before: dropped, ..Head::default() },
                )
            }
        };
        let before: Vec<_> = old.iter().map(|file| file.aggregation.head()).collect();
        earlier::go_on(current.aggregation.head_mut(), &before, tables.earlier, RING_BYTES as u64);
        // Of daemons that were ended before they had read anything: they must not crowd out others.
        leftovers.extend(old.extract_if(.., |file| file.aggregation.is_empty()).map(|file| file.path));
        while old.len() > OLD_AGGREGATIONS_MAX {
            let AggregationFile { aggregation, path, .. } = old.remove(0);
            tally.flows_evicted += aggregation.flows();
            tracing::warn!(
                boot_id = aggregation.head().boot_id,
                flows = aggregation.flows(),
                "old aggregation evicted"
            );
            leftovers.push(path);
        }
        let attributions = Attributions::open(attributions, tables.identity, tables.earlier)?;
        let (samples, unwritten, choices) = (Recorded::new(unmatched_share_bp), None, Vec::new());
        let mut collector = Self {
            node_id,
            tables: tables.identity.to_owned(),
            instance: tables.identity.to_owned(),
            aggregations,
            interval_length_s,
            attributions,
            current,
            old,
            samples,
            look: Look::default(),
            unwritten,
            leftovers,
            tally,
            choices,
        };
        // What cannot be done now is owed.
        let _ = collector.settle_removals();
        let _ = collector.settle_aggregations();
        Ok(collector)
    }

    /// Has reports say that they are of a daemon with this name instead of the tables' identity.
    #[must_use]
    pub fn reporting_as(self, instance: String) -> Self {
        Self { instance, ..self }
    }

    /// Of whom it collects.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// Made with the kernel tables; survives restarts of the daemon.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.current.aggregation.head().boot_id
    }

    /// Records before this position of the ring buffer are in the aggregation. If that is ahead of the ring buffer's own
    /// position, [commit](Collector::commit), then release: they must not be folded again.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.current.aggregation.head().position
    }

    /// As [`Self::position`], in the ring buffer of these tables, or of those of an earlier side; `None` if that has ended, or nobody
    /// knows it.
    #[must_use]
    pub fn position_in(&self, tables: &str) -> Option<u64> {
        let head = self.current.aggregation.head();
        if tables == self.tables { Some(head.position) } else { head.earlier(tables).map(|ring| ring.position) }
    }

    /// The current aggregation.
    #[must_use]
    pub fn aggregation(&self) -> &Aggregation {
        &self.current.aggregation
    }

    /// Bytes of the current aggregation on disk.
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
    pub fn note_install(&mut self, install: u64, choices: &[Meaning]) -> io::Result<()> {
        self.attributions.put(install, choices)
    }

    /// Writes what choices mean, as far as it is not on disk.
    ///
    /// # Errors
    /// If it cannot be written; to be tried again.
    pub fn settle_choices(&mut self) -> io::Result<()> {
        self.attributions.settle()
    }

    /// Makes sure that every aggregation has a file, with the report that is to be sent next.
    ///
    /// # Errors
    /// If one cannot be written; to be tried again.
    pub fn settle_aggregations(&mut self) -> io::Result<()> {
        if let Some(boot_id) = self.unwritten.as_ref().map(|report| report.boot_id.clone())
            && let Some(file) = self.file(&boot_id)
        {
            file.commit()?;
        }
        self.old.iter_mut().chain([&mut self.current]).try_for_each(AggregationFile::settle)
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
    /// If an aggregation cannot be written that had to be ended because the clock went back; it is then not ended yet.
    pub fn note_server_time(&mut self, time: ServerTime) -> io::Result<()> {
        let fleet = FleetClock::of_server(time);
        // An aggregation of an earlier boot to which no server had said the time went by a wall clock that was as far off as it is now.
        for file in &mut self.old {
            file.aggregation.set_clock(fleet, time.wall_ahead_ns().saturating_neg());
        }
        let before = self.current.aggregation.clock(time.at);
        self.current.aggregation.set_clock(fleet, fleet.ahead_ns.saturating_sub(before.ahead_ns));
        if self.current.aggregation.is_ahead_of(fleet.time_s(time.at.monotonic_ns), self.interval_length_s) {
            // Whatever was folded must be on disk before another aggregation has the position after it.
            self.current.commit()?;
            let next = AggregationFile::new(&self.aggregations, self.current.aggregation.next_part());
            let boot_id = &next.aggregation.head().boot_id;
            tracing::warn!(boot_id, "clock went back behind reported outcomes; aggregation restarted");
            self.old.push(std::mem::replace(&mut self.current, next));
        }
        Ok(())
    }

    /// The fleet's time at a moment, in seconds since 1970.
    pub fn time_s(&mut self, now: Moment) -> u64 {
        self.current.aggregation.clock(now).time_s(now.monotonic_ns)
    }

    /// Folds a record that stays in the ring buffer. `services` has the paths of the attached cgroups.
    pub fn fold(&mut self, record: &FlowRecord, services: &HashMap<u32, String>, now: Moment, random: u64) {
        let known = self.attributions.of(record.install);
        let used = record.choices.iter().take(record.choice_count as usize);
        let number = used.len();
        let meaning = |id: &u16| known?.get(usize::from(*id).checked_sub(1)?);
        let meanings = used.filter_map(meaning);
        self.choices.clear();
        let counted = meanings.clone().filter(|meaning| !meaning.measured_only);
        self.choices.extend(counted.map(|meaning| Arc::clone(&meaning.choice)));
        self.tally.records += 1;
        self.tally.unattributed += (number - meanings.clone().count()) as u64;
        if record.still_open != 0 {
            self.look.count(&self.choices);
        }
        let flow = Flow::of(record);
        let ended_ns = self.current.aggregation.clock(now).time_ns(record.end_ns);
        self.current.aggregation.fold(&flow, &self.choices, ended_ns / 1_000_000_000, self.interval_length_s);
        let begin_s = self.current.aggregation.clock(now).time_s(record.start_ns);
        for (choice, measuring) in meanings.filter_map(|meaning| meaning.measured.as_ref()) {
            if !unit::is_in_its_slot(&measuring.comparison, &choice.name, begin_s) {
                self.tally.out_of_slot += 1;
                continue;
            }
            let interval_length_s = self.interval_length_s;
            self.current.aggregation.measure(&flow, (choice, measuring), begin_s, interval_length_s, &self.node_id);
        }
        let service = services.get(&record.attachment).map_or("", String::as_str);
        self.samples.offer(&flow, random, || sample(&flow, &self.choices, service, ended_ns));
    }

    /// What was recorded of open connections since the last time: begins a look, and ends it.
    pub fn end_look(&mut self, now: Instant) -> Open {
        self.look.end(now)
    }

    /// Notes the position after the records folded.
    pub fn advance(&mut self, position: u64) {
        self.current.aggregation.advance(position);
    }

    /// As [`Self::advance`], in the ring buffer of these tables, or of those of an earlier side.
    pub fn advance_in(&mut self, tables: &str, position: u64) {
        if tables == self.tables {
            return self.advance(position);
        }
        let rings = &mut self.current.aggregation.head_mut().earlier;
        if let Some(ring) = rings.iter_mut().find(|ring| ring.tables == tables) {
            ring.position = position;
        }
    }

    /// Notes how many records an earlier side has lost.
    pub fn note_earlier_dropped(&mut self, tables: &str, dropped: u64) {
        self.current.aggregation.head_mut().note_earlier_dropped(tables, dropped);
    }

    /// An earlier side has ended, with connections open whose records are lost. Once it is written down, its pins may be removed.
    ///
    /// # Errors
    /// If it cannot be written; to be tried again.
    pub fn end_earlier(&mut self, tables: &str, open: u64) -> io::Result<()> {
        self.current.aggregation.head_mut().end_earlier(tables, open);
        self.current.commit()
    }

    /// Writes down what was folded. Only then may the records be released.
    ///
    /// # Errors
    /// If it cannot be written; to be tried again, without folding the same records again.
    pub fn commit(&mut self) -> io::Result<()> {
        self.current.commit()
    }

    /// The next report, of the oldest aggregation that has anything to report; it is on disk that it is about to be sent.
    ///
    /// # Errors
    /// If that cannot be written; the same report comes when it can.
    pub fn next_report(&mut self, now_s: u64, dropped: u64) -> io::Result<Option<v1::FlowReport>> {
        let report = match self.unwritten.take() {
            Some(report) => Some(report),
            None => self.make_report(now_s, dropped),
        };
        if let Some(report) = &report
            && let Some(file) = self.file(&report.boot_id)
            && let Err(error) = file.commit()
        {
            self.unwritten = Some(report.clone());
            return Err(error);
        }
        Ok(report)
    }

    fn make_report(&mut self, now_s: u64, dropped: u64) -> Option<v1::FlowReport> {
        let settled = self.old.extract_if(.., |file| file.aggregation.is_settled());
        self.leftovers.extend(settled.map(|file| file.path));
        // What cannot be deleted now is owed.
        let _ = self.settle_removals();
        self.current.aggregation.note_dropped(dropped);
        self.current.aggregation.close(now_s);
        let (file, samples, on_request) = match self.old.first_mut() {
            Some(old) => (old, vec![], Taken::default()),
            None => (&mut self.current, self.samples.take(), self.samples.on_request.take()),
        };
        let report = file.aggregation.next_report(&self.node_id, samples)?;
        let Taken { flows: recorded, left_out: recorded_left_out } = on_request;
        Some(v1::FlowReport { instance: self.instance.clone(), recorded, recorded_left_out, ..report })
    }

    fn file(&mut self, boot_id: &str) -> Option<&mut AggregationFile> {
        let mut files = self.old.iter_mut().chain([&mut self.current]);
        files.find(|file| file.aggregation.head().boot_id == boot_id)
    }

    /// The server has a report, or will never take it.
    pub fn settle(&mut self, boot_id: &str, sequence: u64) {
        if let Some(file) = self.file(boot_id) {
            file.aggregation.settle(sequence);
        }
    }
}

#[cfg(test)]
mod tests;
