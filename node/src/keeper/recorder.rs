//! Records out: from the ring buffer to the aggregation on disk, and to reports.

use std::{collections::HashMap, io, time::Instant};

use sockpilot_policy::layout::{COUNTERS, Counter, FlowRecord};
use sockpilot_proto::v1;

use super::writes::Writes;
use crate::{
    chain,
    clock::{Moment, ServerTime},
    disk::owed::What,
    kernel::{Draining, Kernel, KernelError, Records},
    metrics::{Metrics, gauge},
    records::{attribution::Meaning, collector::Collector, on_request::Wanted, open::Open},
};

/// Records folded before they are written down and released.
const BATCH_MAX: usize = 4_096;

/// Where records come from: the kernel side, as far as it is about records.
pub(super) trait RecordSource {
    /// Where records are written: by the program in charge, and by earlier ones.
    fn rings(&mut self) -> Vec<&mut dyn RecordRing>;
    /// The paths of attached cgroups, by the id that records have.
    fn attached_paths(&self) -> HashMap<u32, String>;
    /// The kernel program's counters.
    fn counters(&self) -> Result<[u64; COUNTERS], KernelError>;
    /// What the kernel refused to set, by slot and error number.
    fn refusals(&self) -> Result<Vec<(usize, i32, u64)>, KernelError>;
}

/// Where one kernel program writes records.
pub(super) trait RecordRing {
    /// Tells the tables of that program from all others.
    fn identity(&self) -> &str;
    /// Before it, records have been released.
    fn position(&self) -> u64;
    /// Shows up to so many records, which stay, and returns the position after them.
    fn peek(&mut self, max: usize, each: &mut dyn FnMut(&FlowRecord)) -> u64;
    /// Lets go of the records before a position.
    fn release(&mut self, position: u64);
}

impl RecordRing for Records {
    fn identity(&self) -> &str {
        Self::identity(self)
    }

    fn position(&self) -> u64 {
        Self::position(self)
    }

    fn peek(&mut self, max: usize, each: &mut dyn FnMut(&FlowRecord)) -> u64 {
        Self::peek(self, max, each)
    }

    fn release(&mut self, position: u64) {
        Self::release(self, position);
    }
}

impl RecordSource for Kernel {
    fn rings(&mut self) -> Vec<&mut dyn RecordRing> {
        self.all_records().map(|records| records as &mut dyn RecordRing).collect()
    }

    fn attached_paths(&self) -> HashMap<u32, String> {
        Self::attached_paths(self)
    }

    fn counters(&self) -> Result<[u64; COUNTERS], KernelError> {
        Self::counters(self)
    }

    fn refusals(&self) -> Result<Vec<(usize, i32, u64)>, KernelError> {
        Self::refusals(self)
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Recorder {
    collector: Collector,
    metrics: Metrics,
}

impl Recorder {
    pub(super) fn new(collector: Collector, metrics: Metrics) -> Self {
        Self { collector, metrics }
    }

    /// Which flows are to be recorded one by one from now on.
    pub(super) fn record_on_request(&mut self, wanted: Option<Wanted>) {
        self.collector.samples.on_request.ask(wanted);
    }

    /// Has the kernel show all flows while they are asked for, and else the usual share of those that no layer matches; `show` tells it.
    pub(super) fn settle_share(&mut self, show: impl FnOnce(u32) -> Result<(), KernelError>) -> Result<(), String> {
        let now_ns = Moment::now().map_err(|error| error.to_string())?.monotonic_ns;
        let samples = &mut self.collector.samples;
        let asks = samples.on_request.asks(now_ns);
        if asks != samples.all_shown() {
            show(samples.share_bp(now_ns)).map_err(|error| chain(&error))?;
            if asks {
                samples.begin_all_shown(now_ns)
            } else {
                samples.end_all_shown(now_ns)
            }
            tracing::info!(on_request = asks, "what is recorded of flows changes");
            self.metrics.recording.set(asks.into());
        }
        Ok(())
    }

    /// Of which node.
    pub(super) fn node_id(&self) -> &str {
        self.collector.node_id()
    }

    /// Notes what the choices of an install mean, before it is put in force.
    pub(super) fn note_choices(&mut self, install: u64, choices: &[Meaning], writes: &mut Writes) {
        let noted = self.collector.note_install(install, choices);
        writes.note(What::Choices, &noted);
    }

    /// A server has said what time it is.
    pub(super) fn note_server_time(&mut self, time: ServerTime, writes: &mut Writes) {
        self.metrics.clock_offset_seconds.set(time.wall_ahead_ns() as f64 / 1e9);
        let written = self.collector.note_server_time(time);
        if written.is_err() {
            writes.note(What::Outcomes, &written);
        }
    }

    /// The next report, with all records up to now; `None` if there is nothing new, or it cannot be made.
    pub(super) fn report(&mut self, source: &mut impl RecordSource, writes: &mut Writes) -> Option<v1::FlowReport> {
        self.drain(source, writes);
        let counters = match source.counters() {
            Ok(counters) => counters,
            Err(error) => {
                self.metrics.kernel_failures.inc();
                tracing::warn!(error = chain(&error), "cannot read kernel counters");
                return None;
            }
        };
        self.metrics.set_kernel(&counters);
        match source.refusals() {
            Ok(refusals) => self.metrics.set_refusals(&refusals),
            Err(error) => tracing::warn!(error = chain(&error), "cannot read kernel refusals"),
        }
        let dropped = counters[Counter::RecordsDropped as usize];
        let report = Moment::now().and_then(|now| {
            let now_s = self.collector.time_s(now);
            self.collector.next_report(now_s, dropped)
        });
        let (report, written) = report.map_or_else(|error| (None, Err(error)), |report| (report, Ok(())));
        writes.note(What::Outcomes, &written);
        if let Some(v1::FlowReport { recorded, recorded_left_out, .. }) = &report {
            self.metrics.recorded.inc_by(recorded.len() as u64);
            self.metrics.recorded_left_out.inc_by(*recorded_left_out);
        }
        report
    }

    /// The server has a report, or will never take it.
    pub(super) fn confirm(&mut self, boot_id: &str, sequence: u64) {
        self.collector.settle(boot_id, sequence);
    }

    /// Writes what is owed of one kind; nothing if that is not the recorder's.
    pub(super) fn settle(&mut self, what: What) -> io::Result<()> {
        match what {
            What::Snapshot | What::Trips => Ok(()),
            What::Choices => self.collector.settle_choices(),
            What::Outcomes => self.collector.settle_aggregations(),
            What::Removals => self.collector.settle_removals(),
        }
    }

    /// What was recorded of open connections since the last time, with all records up to now.
    pub(super) fn end_look(&mut self, source: &mut impl RecordSource, writes: &mut Writes) -> Open {
        self.drain(source, writes);
        self.collector.end_look(Instant::now())
    }

    /// Reads the records that are there.
    pub(super) fn drain(&mut self, source: &mut impl RecordSource, writes: &mut Writes) {
        let mut result = self.try_drain(source);
        // Where there was no record to write down, there may still be an aggregation or a report.
        if result.is_ok() && writes.is_owed(What::Outcomes) {
            result = self.collector.settle_aggregations();
        }
        writes.note(What::Outcomes, &result);
        let tally = self.collector.tally();
        let aggregation = self.collector.aggregation();
        self.metrics.records.set(gauge(tally.records));
        self.metrics.records_unattributed.set(gauge(tally.unattributed));
        self.metrics.records_out_of_slot.set(gauge(tally.out_of_slot));
        self.metrics.connections_given_up.set(gauge(aggregation.head().connections_lost));
        self.metrics.flows_evicted.set(gauge(tally.flows_evicted + aggregation.head().flows_evicted));
        self.metrics.cells.set(gauge(aggregation.cells() as u64));
        self.metrics.cells_coalesced.set(gauge(aggregation.coalesced()));
        self.metrics.journal_bytes.set(gauge(self.collector.journal_bytes()));
    }

    fn try_drain(&mut self, source: &mut impl RecordSource) -> io::Result<()> {
        let now = Moment::now()?;
        let services = source.attached_paths();
        source.rings().into_iter().try_for_each(|ring| self.drain_ring(ring, &services, now))
    }

    /// Fold, write down, release: in this order, so that a kill in between loses nothing and counts nothing twice.
    fn drain_ring(
        &mut self,
        ring: &mut dyn RecordRing,
        services: &HashMap<u32, String>,
        now: Moment,
    ) -> io::Result<()> {
        let (collector, identity) = (&mut self.collector, ring.identity().to_owned());
        // Of one that has ended everything was read.
        while let Some(known) = collector.position_in(&identity) {
            // Ahead if the last try, or the last daemon, came no further than writing down.
            if known != ring.position() {
                collector.commit()?;
                ring.release(known);
            }
            let mut records = 0;
            let position = ring.peek(BATCH_MAX, &mut |record| {
                records += 1;
                collector.fold(record, services, now, rand::random());
            });
            collector.advance_in(&identity, position);
            if position != ring.position() {
                collector.commit()?;
                ring.release(position);
            }
            if records < BATCH_MAX {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Notes how many records earlier sides have lost.
    pub(super) fn note_earlier_dropped(&mut self, draining: &[Draining]) {
        for Draining { identity, dropped, .. } in draining {
            self.collector.note_earlier_dropped(identity, *dropped);
        }
    }

    /// An earlier side has ended, with connections open whose records are lost.
    pub(super) fn end_earlier(&mut self, ended: &Draining, writes: &mut Writes) -> io::Result<()> {
        let written = self.collector.end_earlier(&ended.identity, ended.open);
        writes.note(What::Outcomes, &written);
        written
    }
}

#[cfg(test)]
mod tests;
