//! What is reported, what is confirmed, and when cells are let go.

use prost::Message;
use sockpilot_outcomes::CellKey;
use sockpilot_proto::{cell::cell_to_proto, v1};

use super::{Aggregation, Cell, GRACE_S, InFlight, MEASURED_GRACE_S, REPORT_BYTES_MAX, REPORT_CELLS_MAX, touch};

impl Aggregation {
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
            ..v1::FlowReport::default()
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
}

fn grace_s(key: &CellKey) -> u64 {
    if key.size_class.is_some() { GRACE_S } else { MEASURED_GRACE_S }
}
