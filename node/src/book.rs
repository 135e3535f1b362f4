//! Everything that one filling of the kernel tables has brought forth and the server has not confirmed. Pure.
//!
//! A book only changes in memory; what changed since it was last written down is an [`Entry`] for the
//! [journal](crate::journal). The order that makes counting exact is the caller's:
//!
//! 1. [`Book::fold`] records that stay in the ring buffer, then [`Book::advance`] to the position after them;
//! 2. write [`Book::entry`] to the journal, then [`Book::written`];
//! 3. only now release the records in the ring buffer.
//!
//! A report is written down before it is sent, too: a sequence is never used for two contents.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use prost::Message;
use sockpilot_outcomes::{CellKey, Choice, Content, Flow, Interval, measured};
use sockpilot_policy::{model::HORIZON_S_MAX, unit};
use sockpilot_proto::{
    cell::{CellFault, cell_from_proto, cell_to_proto},
    v1,
};

use crate::{
    clock::{FleetClock, Moment},
    journal::{Entry, Head, KeptCell},
    measuring::Measuring,
};

/// Cells that a book holds; beyond it, old intervals that were never sent are joined.
pub const CELLS_MAX: usize = 20_000;
/// Bins of all sketches that a book holds, 64 MiB; beyond it, the same.
pub const BINS_MAX: usize = 4 << 20;
/// Cells in one report.
pub const REPORT_CELLS_MAX: usize = 1_000;
/// Bytes of the cells in one report, but always one cell.
pub const REPORT_BYTES_MAX: usize = 2 << 20;
/// How long after its end an interval waits for records that are still in the ring buffer.
pub const GRACE_S: u64 = 5;
/// The same of what experiments measure, which is placed by the beginning of its flows: as long as the longest horizon, and the walks
/// over open connections, may take.
pub const MEASURED_GRACE_S: u64 = HORIZON_S_MAX as u64 + 40;

/// See the [module](self).
#[derive(Debug)]
pub struct Book {
    head: Head,
    /// By id: oldest first.
    cells: BTreeMap<u64, Cell>,
    ids: HashMap<CellKey, u64>,
    next_id: u64,
    /// Of all cells.
    bins: usize,
    cells_max: usize,
    bins_max: usize,
    /// Counts changes of cells, so that a cell knows whether the last confirmed report has all of it.
    changes: u64,
    changed_ids: Vec<u64>,
    removed_ids: Vec<u64>,
    in_flight: Option<InFlight>,
    /// Totals in the last report that was confirmed; none since a restart.
    confirmed_totals: Option<Totals>,
    joined: u64,
}

#[derive(Debug)]
struct Cell {
    key: CellKey,
    content: Content,
    changed: u64,
    confirmed: u64,
    /// It was in a report, so the server may have it: it can no longer be joined with another.
    sent: bool,
    written: bool,
}

impl Cell {
    fn is_dirty(&self) -> bool {
        self.changed > self.confirmed
    }
}

#[derive(Debug)]
struct InFlight {
    sequence: u64,
    totals: Totals,
    cells: Vec<(u64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Totals {
    records: u64,
    dropped: u64,
}

impl Book {
    /// An empty book for new kernel tables.
    #[must_use]
    pub fn new(head: Head) -> Self {
        Self {
            head,
            cells: BTreeMap::new(),
            ids: HashMap::new(),
            next_id: 1,
            bins: 0,
            cells_max: CELLS_MAX,
            bins_max: BINS_MAX,
            changes: 0,
            changed_ids: Vec::new(),
            removed_ids: Vec::new(),
            in_flight: None,
            confirmed_totals: None,
            joined: 0,
        }
    }

    /// The book as its journal tells it. Nothing in it counts as confirmed: to report it again changes nothing.
    ///
    /// # Errors
    /// If a cell in the journal is unsound.
    pub fn replay(entries: impl IntoIterator<Item = Entry>) -> Result<Self, Vec<CellFault>> {
        let mut book = Self::new(Head::default());
        for Entry { head, cells, removed } in entries {
            book.head = head.unwrap_or_default();
            for id in removed {
                book.remove(id);
            }
            for KeptCell { id, sent, cell } in cells {
                let (key, content) = cell_from_proto(&cell.unwrap_or_default())?;
                book.next_id = book.next_id.max(id + 1);
                book.changes += 1;
                book.ids.insert(key.clone(), id);
                book.bins += content.pairs();
                let replaced = book
                    .cells
                    .insert(id, Cell { key, content, changed: book.changes, confirmed: 0, sent, written: true });
                book.bins -= replaced.map_or(0, |cell| cell.content.pairs());
            }
        }
        book.removed_ids.clear();
        Ok(book)
    }

    /// Whose book it is and how far it has come.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Number of cells.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.cells.len()
    }

    /// Flows in its cells; one that had several choices counts several times.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.cells.values().map(|cell| cell.content.ended()).sum()
    }

    /// Cells that were joined with those of a later interval since the start, for want of room.
    #[must_use]
    pub fn joined(&self) -> u64 {
        self.joined
    }

    /// The clock that intervals are placed by; this machine's wall clock, if no better one is known.
    pub fn clock(&mut self, now: Moment) -> FleetClock {
        *self.head.clock.get_or_insert(FleetClock::guessed(now))
    }

    /// A server has said what time it is. The first time, cells that no server has seen yet are moved to where they belong;
    /// `behind_ns` is how far this book's clock was behind until now. Cells that were sent keep their interval, and so their key.
    pub fn set_clock(&mut self, told: FleetClock, behind_ns: i64) {
        let known = self.head.clock.replace(told).is_none_or(|clock| clock.heard);
        if !known {
            self.shift(behind_ns / 1_000_000_000);
        }
    }

    fn shift(&mut self, by_s: i64) {
        let unsent: Vec<u64> = self.cells.iter().filter(|(_, cell)| !cell.sent).map(|(id, _)| *id).collect();
        // All out before the first goes in again: one must not be taken along by the next.
        let cells: Vec<Cell> = unsent.into_iter().filter_map(|id| self.remove(id)).collect();
        if self.head.sequence == 0 {
            (self.head.floor_s, self.head.measured_floor_s) = (0, 0);
        }
        for Cell { key, content, .. } in cells {
            let Interval { start_s, length_s } = key.interval;
            let middle_s = start_s.saturating_add(u64::from(length_s / 2)).saturating_add_signed(by_s);
            let interval = self.open_interval(middle_s, length_s, self.floor_of(&key));
            let target = self.cell(CellKey { interval, ..key });
            self.join(target, &content);
        }
    }

    /// The clock has gone back, or was hours ahead before: what is closed lies in the future, where new records would be put.
    #[must_use]
    pub fn is_ahead_of(&self, now_s: u64, interval_length_s: u32) -> bool {
        self.head.floor_s > Interval::at(now_s, interval_length_s).end_s()
    }

    /// The head of a book that goes on where this one ends, under an id of its own: its cells cannot be mistaken for these.
    #[must_use]
    pub fn next_part(&self) -> Head {
        let part = self.head.part + 1;
        let first = self.head.boot_id.strip_suffix(&format!("-{}", self.head.part)).unwrap_or(&self.head.boot_id);
        Head {
            boot_id: format!("{first}-{part}"),
            sequence: 0,
            floor_s: 0,
            measured_floor_s: 0,
            part,
            ..self.head.clone()
        }
    }

    /// The interval that a moment lies in, if it is open. An interval that is closed stays closed: the server has its totals,
    /// and this book may have them no more; then it is the first one that is open.
    fn open_interval(&self, moment_s: u64, length_s: u32, floor_s: u64) -> Interval {
        let interval = Interval::at(moment_s, length_s);
        if interval.start_s >= floor_s {
            return interval;
        }
        let here = Interval::at(floor_s, length_s);
        if here.start_s == floor_s { here } else { Interval::at(here.end_s(), length_s) }
    }

    fn floor_of(&self, key: &CellKey) -> u64 {
        if key.size_class.is_some() { self.head.floor_s } else { self.head.measured_floor_s }
    }

    /// Adds a record to what an experiment measures, if the connection is due; it began at `begin_s`.
    pub fn measure(
        &mut self,
        flow: &Flow<'_>,
        (choice, measuring): (&Arc<Choice>, &Measuring),
        begin_s: u64,
        interval_length_s: u32,
        node_id: &str,
    ) {
        let (comparison, horizon_ns) = (&measuring.comparison, measuring.horizon_ns());
        if !measured::is_due(flow, horizon_ns) || !unit::counts(comparison, begin_s) {
            return;
        }
        let interval = self.open_interval(begin_s, interval_length_s, self.head.measured_floor_s);
        let group = unit::group_of(comparison, &flow.record.flow, begin_s, node_id);
        let (choice, direction, size_class) = (Arc::clone(choice), flow.direction, None);
        let id = self.cell(CellKey { interval, choice, direction, size_class });
        self.change(id, |content| {
            if let Content::Measured(measured) = content {
                measured.add(&measuring.columns, flow, horizon_ns, group);
            }
        });
    }

    /// Adds a record: to one cell for each of its choices.
    pub fn fold(&mut self, flow: &Flow<'_>, choices: &[Arc<Choice>], ended_s: u64, interval_length_s: u32) {
        self.head.records_total += 1;
        // Before anything else: it may make cells, and raise the floor.
        if self.cells.len() + choices.len() > self.cells_max || self.bins > self.bins_max {
            self.make_room();
        }
        let interval = self.open_interval(ended_s, interval_length_s, self.head.floor_s);
        for choice in choices {
            let (direction, size_class) = (flow.direction, Some(flow.size_class));
            let id = self.cell(CellKey { interval, choice: choice.clone(), direction, size_class });
            self.change(id, |content| {
                if let Content::Flows(sums) = content {
                    sums.add(flow);
                }
            });
        }
    }

    /// Notes the position in the ring buffer up to which records are in this book.
    pub fn advance(&mut self, position: u64) {
        self.head.position = position;
    }

    /// Notes the kernel's count of lost records.
    pub fn note_dropped(&mut self, kernel_dropped: u64) {
        self.head.records_dropped = kernel_dropped.saturating_sub(self.head.dropped_before);
    }

    /// What changed since [`Book::written`].
    #[must_use]
    pub fn entry(&self) -> Entry {
        let kept = |id: &u64| Some(keep(*id, self.cells.get(id)?));
        Entry {
            head: Some(self.head.clone()),
            cells: self.changed_ids.iter().filter_map(kept).collect(),
            removed: self.removed_ids.clone(),
        }
    }

    /// The whole book.
    #[must_use]
    pub fn checkpoint(&self) -> Entry {
        let cells = self.cells.iter().map(|(id, cell)| keep(*id, cell)).collect();
        Entry { head: Some(self.head.clone()), cells, removed: vec![] }
    }

    /// The last [`Book::entry`] or [`Book::checkpoint`] is in the journal.
    pub fn written(&mut self) {
        for id in self.changed_ids.drain(..) {
            if let Some(cell) = self.cells.get_mut(&id) {
                cell.written = true;
            }
        }
        self.removed_ids.clear();
    }

    /// The next report: what was not confirmed yet, oldest first. `None` if there is nothing new.
    /// To be sent only when it is in the journal.
    pub fn next_report(&mut self, node_id: &str, samples: Vec<v1::FlowSample>) -> Option<v1::FlowReport> {
        let totals = self.totals();
        let mut cells = Vec::new();
        let mut in_flight = Vec::new();
        let mut bytes = 0;
        for (id, cell) in self.cells.iter().filter(|(_, cell)| cell.is_dirty()) {
            let wire = cell_to_proto(&cell.key, &cell.content);
            bytes += wire.encoded_len();
            if cells.len() == REPORT_CELLS_MAX || (bytes > REPORT_BYTES_MAX && !cells.is_empty()) {
                break;
            }
            cells.push(wire);
            in_flight.push((*id, cell.changed));
        }
        if cells.is_empty() && samples.is_empty() && self.confirmed_totals == Some(totals) {
            return None;
        }
        for (id, _) in &in_flight {
            if let Some(cell) = self.cells.get_mut(id)
                && !cell.sent
            {
                cell.sent = true;
                touch(&mut self.changed_ids, *id, cell);
            }
        }
        self.head.sequence += 1;
        self.in_flight = Some(InFlight { sequence: self.head.sequence, totals, cells: in_flight });
        Some(v1::FlowReport {
            node_id: node_id.to_owned(),
            boot_id: self.head.boot_id.clone(),
            sequence: self.head.sequence,
            records_total: totals.records,
            records_dropped: totals.dropped,
            cells,
            samples,
            instance: String::new(),
        })
    }

    /// The server has everything up to this sequence, or will never take it.
    pub fn settle(&mut self, sequence: u64) {
        let Some(in_flight) = self.in_flight.take_if(|in_flight| in_flight.sequence <= sequence) else { return };
        self.confirmed_totals = Some(in_flight.totals);
        for (id, changed) in in_flight.cells {
            if let Some(cell) = self.cells.get_mut(&id) {
                cell.confirmed = changed;
            }
        }
    }

    /// Whether the server has all of it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.confirmed_totals == Some(self.totals()) && !self.cells.values().any(Cell::is_dirty)
    }

    /// Lets go of the cells that are confirmed and get no more records.
    pub fn close(&mut self, now_s: u64) {
        let done: Vec<u64> = self
            .cells
            .iter()
            .filter(|(_, cell)| {
                !cell.is_dirty() && cell.key.interval.end_s().saturating_add(grace_s(&cell.key)) <= now_s
            })
            .map(|(id, _)| *id)
            .collect();
        for id in done {
            if let Some(cell) = self.remove(id) {
                self.raise_floor(&cell.key, cell.key.interval.end_s());
            }
        }
    }

    fn raise_floor(&mut self, key: &CellKey, to_s: u64) {
        let Head { floor_s, measured_floor_s, .. } = &mut self.head;
        let floor_s = if key.size_class.is_some() { floor_s } else { measured_floor_s };
        *floor_s = to_s.max(*floor_s);
    }

    fn totals(&self) -> Totals {
        Totals { records: self.head.records_total, dropped: self.head.records_dropped }
    }

    fn cell(&mut self, key: CellKey) -> u64 {
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.ids.insert(key.clone(), id);
        let content = Content::of(&key);
        let cell = Cell { key, content, changed: 0, confirmed: 0, sent: false, written: true };
        self.cells.insert(id, cell);
        id
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Content)) {
        if let Some(cell) = self.cells.get_mut(&id) {
            let before = cell.content.pairs();
            change(&mut cell.content);
            self.bins = self.bins + cell.content.pairs() - before;
            self.changes += 1;
            cell.changed = self.changes;
            touch(&mut self.changed_ids, id, cell);
        }
    }

    /// Adds what another cell of the same choice, direction and size class has.
    fn join(&mut self, id: u64, content: &Content) {
        // Of one choice all is measured by the same design, so nothing can be lost here.
        self.change(id, |into| drop(into.merge(content)));
    }

    fn remove(&mut self, id: u64) -> Option<Cell> {
        let cell = self.cells.remove(&id)?;
        self.ids.remove(&cell.key);
        self.bins -= cell.content.pairs();
        self.removed_ids.push(id);
        Some(cell)
    }

    /// Joins the oldest interval with the next one, as often as it takes to get an eighth of all cells free: nothing is lost
    /// but the time of day. If everything is in one interval, or was sent and waits for the server, the oldest cells are
    /// given up and their flows counted.
    fn make_room(&mut self) {
        let eighth_less = |max: usize| max - (max / 8).max(1);
        let enough =
            |book: &Self| book.cells.len() <= eighth_less(book.cells_max) && book.bins <= eighth_less(book.bins_max);
        while !enough(self) && self.join_oldest() {}
        while !enough(self) {
            let Some(id) = self.cells.first_key_value().map(|(id, _)| *id) else { return };
            if let Some(cell) = self.remove(id) {
                self.raise_floor(&cell.key, cell.key.interval.end_s());
                self.head.flows_lost += cell.content.ended();
            }
        }
    }

    /// Whether there was anything to join.
    fn join_oldest(&mut self) -> bool {
        let place = |cell: &Cell| (cell.key.size_class.is_none(), cell.key.interval);
        let places = |movable: bool| self.cells.values().filter(move |cell| !movable || !cell.sent).map(place);
        // What experiments measure last: its intervals are older by the horizon.
        let Some(oldest) = places(true).min() else { return false };
        let floor_s = if oldest.0 { self.head.measured_floor_s } else { self.head.floor_s };
        // Below the floor the server may have totals of cells that this book has let go.
        let open = |(measured, interval): &(bool, Interval)| {
            *measured == oldest.0 && *interval > oldest.1 && interval.start_s >= floor_s
        };
        let Some((_, next)) = places(false).filter(open).min() else { return false };
        let old = self.cells.iter().filter(|(_, cell)| !cell.sent && place(cell) == oldest).map(|(id, _)| *id);
        for id in old.collect::<HashSet<u64>>() {
            let Some(Cell { key, content, .. }) = self.remove(id) else { continue };
            self.raise_floor(&key, next.start_s);
            let target = self.cell(CellKey { interval: next, ..key });
            self.join(target, &content);
            self.joined += 1;
        }
        true
    }
}

fn grace_s(key: &CellKey) -> u64 {
    if key.size_class.is_some() { GRACE_S } else { MEASURED_GRACE_S }
}

fn touch(changed_ids: &mut Vec<u64>, id: u64, cell: &mut Cell) {
    if cell.written {
        cell.written = false;
        changed_ids.push(id);
    }
}

fn keep(id: u64, cell: &Cell) -> KeptCell {
    KeptCell { id, sent: cell.sent, cell: Some(cell_to_proto(&cell.key, &cell.content)) }
}

#[cfg(test)]
mod tests;
