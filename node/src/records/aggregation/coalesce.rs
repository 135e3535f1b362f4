//! Cells of several intervals made one: for want of room, or because the clock was off.

use std::collections::HashSet;

use sockpilot_outcomes::{CellKey, Content, Interval};

use super::{Aggregation, Cell};

impl Aggregation {
    pub(super) fn shift(&mut self, by_s: i64) {
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
            self.coalesce(target, &content);
        }
    }

    /// Adds what another cell of the same choice, direction and size class has.
    fn coalesce(&mut self, id: u64, content: &Content) {
        // Of one choice all is measured by the same design, so nothing can be lost here.
        self.change(id, |into| drop(into.merge(content)));
    }

    /// Coalesces the oldest interval with the next one, as often as it takes to get an eighth of all cells free: nothing is lost
    /// but the time of day. If everything is in one interval, or was sent and waits for the server, the oldest cells are
    /// evicted and their flows counted.
    pub(super) fn make_room(&mut self) {
        let eighth_less = |max: usize| max - (max / 8).max(1);
        let enough = |aggregation: &Self| {
            aggregation.cells.len() <= eighth_less(aggregation.cells_max)
                && aggregation.bins <= eighth_less(aggregation.bins_max)
        };
        while !enough(self) && self.coalesce_oldest() {}
        while !enough(self) {
            let Some(id) = self.cells.first_key_value().map(|(id, _)| *id) else { return };
            if let Some(cell) = self.remove(id) {
                self.raise_floor(&cell.key, cell.key.interval.end_s());
                self.head.flows_evicted += cell.content.ended();
            }
        }
    }

    /// Whether there was anything to coalesce.
    fn coalesce_oldest(&mut self) -> bool {
        let place = |cell: &Cell| (cell.key.size_class.is_none(), cell.key.interval);
        let places = |movable: bool| self.cells.values().filter(move |cell| !movable || !cell.sent).map(place);
        // What experiments measure last: its intervals are older by the horizon.
        let Some(oldest) = places(true).min() else { return false };
        let floor_s = if oldest.0 { self.head.measured_floor_s } else { self.head.floor_s };
        // Below the floor the server may have totals of cells that this aggregation has let go.
        let open = |(measured, interval): &(bool, Interval)| {
            *measured == oldest.0 && *interval > oldest.1 && interval.start_s >= floor_s
        };
        let Some((_, next)) = places(false).filter(open).min() else { return false };
        let old = self.cells.iter().filter(|(_, cell)| !cell.sent && place(cell) == oldest).map(|(id, _)| *id);
        for id in old.collect::<HashSet<u64>>() {
            let Some(Cell { key, content, .. }) = self.remove(id) else { continue };
            self.raise_floor(&key, next.start_s);
            let target = self.cell(CellKey { interval: next, ..key });
            self.coalesce(target, &content);
            self.coalesced += 1;
        }
        true
    }
}
