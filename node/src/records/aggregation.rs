//! Everything that one filling of the kernel tables has brought forth and the server has not confirmed. Pure.
//!
//! An aggregation only changes in memory; what changed since it was last written down is an [`JournalEntry`] for the
//! [journal](super::journal). The order that makes counting exact is the caller's:
//!
//! 1. [`Aggregation::fold`] records that stay in the ring buffer, then [`Aggregation::advance`] to the position after them;
//! 2. write [`Aggregation::entry`] to the journal, then [`Aggregation::written`];
//! 3. only now release the records in the ring buffer.
//!
//! A report is written down before it is sent, too: a sequence is never used for two contents.

mod coalesce;
mod report;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use sockpilot_outcomes::{CellKey, Choice, Content, Flow, Interval, measured};
use sockpilot_policy::{model::HORIZON_S_MAX, unit};
use sockpilot_proto::cell::{CellFault, cell_from_proto, cell_to_proto};

use super::{
    journal::{Head, JournalEntry, KeptCell},
    measuring::Measuring,
};
use crate::clock::{FleetClock, Moment};

/// Cells that an aggregation holds; beyond it, old intervals that were never sent are coalesced.
pub const CELLS_MAX: usize = 20_000;
/// Bins of all sketches that an aggregation holds, 64 MiB; beyond it, the same.
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
pub struct Aggregation {
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
    coalesced: u64,
}

#[derive(Debug)]
struct Cell {
    key: CellKey,
    content: Content,
    changed: u64,
    confirmed: u64,
    /// It was in a report, so the server may have it: it can no longer be coalesced with another.
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

impl Aggregation {
    /// An empty aggregation for new kernel tables.
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
            coalesced: 0,
        }
    }

    /// The aggregation as its journal has it. Nothing in it counts as confirmed: to report it again changes nothing.
    ///
    /// # Errors
    /// If a cell in the journal is unsound.
    pub fn replay(entries: impl IntoIterator<Item = JournalEntry>) -> Result<Self, Vec<CellFault>> {
        let mut aggregation = Self::new(Head::default());
        for JournalEntry { head, cells, removed } in entries {
            aggregation.head = head.unwrap_or_default();
            for id in removed {
                aggregation.remove(id);
            }
            for KeptCell { id, sent, cell } in cells {
                let (key, content) = cell_from_proto(&cell.unwrap_or_default())?;
                let beyond = "is the greatest there is, and another must come after it";
                let next = id
                    .checked_add(1)
                    .ok_or_else(|| vec![CellFault { field: "id".into(), description: beyond.into() }])?;
                aggregation.next_id = aggregation.next_id.max(next);
                aggregation.changes += 1;
                aggregation.ids.insert(key.clone(), id);
                aggregation.bins += content.pairs();
                let replaced = aggregation
                    .cells
                    .insert(id, Cell { key, content, changed: aggregation.changes, confirmed: 0, sent, written: true });
                aggregation.bins -= replaced.map_or(0, |cell| cell.content.pairs());
            }
        }
        aggregation.removed_ids.clear();
        Ok(aggregation)
    }

    /// Whose aggregation it is and how far it has come.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Number of cells.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.cells.len()
    }

    /// Whether there is nothing that it could report.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.totals() == Totals { records: 0, dropped: 0 }
    }

    /// Flows in its cells; one that had several choices counts several times.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.cells.values().map(|cell| cell.content.ended()).sum()
    }

    /// Cells that were coalesced with those of a later interval since the start, for want of room.
    #[must_use]
    pub fn coalesced(&self) -> u64 {
        self.coalesced
    }

    /// The clock that intervals are placed by; this machine's wall clock, if no better one is known.
    pub fn clock(&mut self, now: Moment) -> FleetClock {
        *self.head.clock.get_or_insert(FleetClock::guessed(now))
    }

    /// A server has said what time it is. The first time, cells that no server has seen yet are moved to where they belong;
    /// `behind_ns` is how far this aggregation's clock was behind until now. Cells that were sent keep their interval, and so their key.
    pub fn set_clock(&mut self, fleet: FleetClock, behind_ns: i64) {
        let known = self.head.clock.replace(fleet).is_none_or(|clock| clock.from_server);
        if !known {
            self.shift(behind_ns / 1_000_000_000);
        }
    }

    /// The clock has gone back, or was hours ahead before: what is closed lies in the future, where new records would be put.
    #[must_use]
    pub fn is_ahead_of(&self, now_s: u64, interval_length_s: u32) -> bool {
        self.head.floor_s > Interval::at(now_s, interval_length_s).end_s()
    }

    /// The head of an aggregation that goes on where this one ends, under an id of its own: its cells cannot be mistaken for these.
    #[must_use]
    pub fn next_part(&self) -> Head {
        let part = self.head.part.saturating_add(1);
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
    /// and this aggregation may have them no more; then it is the first one that is open.
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

    /// Notes the position in the ring buffer up to which records are in this aggregation.
    pub fn advance(&mut self, position: u64) {
        self.head.position = position;
    }

    /// Notes the kernel's count of lost records.
    pub fn note_dropped(&mut self, kernel_dropped: u64) {
        self.head.dropped_own = kernel_dropped.saturating_sub(self.head.dropped_before);
        self.head.add_up_dropped();
    }

    /// What stands before the cells, to be changed.
    pub(super) fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }

    /// What changed since [`Aggregation::written`].
    #[must_use]
    pub fn entry(&self) -> JournalEntry {
        let kept = |id: &u64| Some(keep(*id, self.cells.get(id)?));
        JournalEntry {
            head: Some(self.head.clone()),
            cells: self.changed_ids.iter().filter_map(kept).collect(),
            removed: self.removed_ids.clone(),
        }
    }

    /// The whole aggregation.
    #[must_use]
    pub fn checkpoint(&self) -> JournalEntry {
        let cells = self.cells.iter().map(|(id, cell)| keep(*id, cell)).collect();
        JournalEntry { head: Some(self.head.clone()), cells, removed: vec![] }
    }

    /// The last [`Aggregation::entry`] or [`Aggregation::checkpoint`] is in the journal.
    pub fn written(&mut self) {
        for id in self.changed_ids.drain(..) {
            if let Some(cell) = self.cells.get_mut(&id) {
                cell.written = true;
            }
        }
        self.removed_ids.clear();
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

    fn remove(&mut self, id: u64) -> Option<Cell> {
        let cell = self.cells.remove(&id)?;
        self.ids.remove(&cell.key);
        self.bins -= cell.content.pairs();
        self.removed_ids.push(id);
        Some(cell)
    }
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
