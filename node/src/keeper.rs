//! The one task that owns the kernel side, the books and the snapshots. Everybody else sends it commands.
//!
//! ```text
//!  stream ──Offer──▶ ┌────────┐ ──▶ kernel tables
//!  stream ──heard──▶ │ keeper │ ◀── ring buffer
//!  reporter ─Report▶ └────────┘ ──▶ books, snapshots on disk
//! ```

mod channel;
mod install;
mod resume;
mod retry;
mod services;
mod settle;
mod watch;

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sockpilot_policy::{facts::KernelFacts, layout::Counter};
use sockpilot_proto::v1::{self, node_event::Event};
use tokio::time::{MissedTickBehavior, interval};

pub use channel::{Command, Ends, Handle, InForce, channel};

use crate::{
    apply::{self, Need, about_all},
    chain,
    clock::{FleetClock, Moment},
    collector::Collector,
    kernel::{Bench, Kernel, KernelError},
    ledger::{Decision, Version, decide},
    metrics::{ByResult, Metrics, gauge},
    owed::{Owed, What},
    state::Snapshots,
    trial::Trials,
};
use retry::{Failure, Waiting, due};
use watch::Watch;

/// How often records are read. In this time, at 100,000 flows a second, a third of the ring buffer fills.
const DRAIN_EVERY: Duration = Duration::from_millis(200);
/// How often the cgroups of services are looked for, beneath being told of them.
const SERVICES_EVERY: Duration = Duration::from_secs(1);
/// Records folded before they are written down and released.
const BATCH_MAX: usize = 4_096;

/// See the [module](self).
#[derive(Debug)]
pub struct Keeper {
    kernel: Kernel,
    facts: KernelFacts,
    trials: Trials,
    collector: Collector,
    snapshots: Snapshots,
    /// What of all that is not on disk.
    owed: Owed,
    in_force: Option<InForce>,
    /// The layers in force, or that were before the machine started: what stays of a layer that is held back.
    layers: Bytes,
    /// What the kernel made of the snapshot in force.
    effective: Vec<v1::EffectiveValue>,
    /// Which cgroups it needs.
    needs: Vec<Need>,
    /// The newest snapshot, if the kernel did not take it for a reason that may pass.
    waiting: Option<Waiting>,
    metrics: Metrics,
    services_every: Duration,
    /// The last trouble of each kind, so that it is told once and not ten times a second.
    trouble: [Option<String>; 2],
}

/// Kinds of trouble that come back with every try.
#[derive(Debug, Clone, Copy)]
enum Task {
    Heard,
    Exempt,
}

impl Keeper {
    /// Takes over. No value is tried; see [`Self::trying`].
    #[must_use]
    pub fn new(
        kernel: Kernel,
        facts: KernelFacts,
        collector: Collector,
        snapshots: Snapshots,
        metrics: Metrics,
    ) -> Self {
        Self {
            kernel,
            facts,
            trials: Trials::default(),
            collector,
            snapshots,
            owed: Owed::default(),
            in_force: None,
            layers: Bytes::new(),
            effective: vec![],
            needs: vec![],
            waiting: None,
            metrics,
            services_every: SERVICES_EVERY,
            trouble: [const { None }; 2],
        }
    }

    /// Has the values of snapshots tried on sockets of the daemon's own, before they are in force.
    #[must_use]
    pub fn trying(self, bench: Bench) -> Self {
        Self { trials: Trials::new(bench), ..self }
    }

    /// Looks for services' cgroups this often. For tests of being told of them.
    #[must_use]
    pub fn looking_every(self, services_every: Duration) -> Self {
        Self { services_every, ..self }
    }

    /// Puts nothing in force.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn withdraw(&mut self) -> Result<(), KernelError> {
        self.kernel.withdraw()
    }

    /// Works until all handles are gone; then reads what there is to read, and ends. What is in force stays so.
    pub async fn run(mut self, mut ends: Ends) {
        let mut drain = interval(DRAIN_EVERY);
        let mut services = interval(self.services_every);
        let mut watch = Watch::new();
        drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
        services.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.publish(&ends);
            tokio::select! {
                command = ends.commands.recv() => match command {
                    Some(command) => {
                        let offered = matches!(command, Command::Offer { .. });
                        self.obey(command, &mut ends);
                        if offered {
                            self.look(&mut watch, &ends);
                        }
                    }
                    None => break,
                },
                Ok(()) = ends.heard.changed() => self.hear(&mut ends),
                () = due(self.waiting.as_ref()) => {
                    if let Some(answer) = self.try_again() {
                        // First, so that the hello of a stream that does not know the version says it.
                        self.publish(&ends);
                        ends.answer_late(answer);
                    }
                    self.settle_snapshot();
                    self.look(&mut watch, &ends);
                }
                () = watch.told() => self.look(&mut watch, &ends),
                _ = drain.tick() => self.drain(),
                _ = services.tick() => {
                    self.settle();
                    self.try_held_back_if_changed();
                    self.look(&mut watch, &ends);
                }
            }
        }
        self.drain();
        self.settle();
        tracing::info!(
            generation = self.in_force.map(|in_force| in_force.version.generation),
            "ended; what is in force stays so"
        );
    }

    fn publish(&self, ends: &Ends) {
        let not_written = self.owed.not_written();
        ends.not_written.send_if_modified(|published| {
            let changed = *published != not_written;
            *published = not_written;
            changed
        });
        let changed = ends.in_force.send_if_modified(|published| {
            let changed = *published != self.in_force;
            if changed {
                published.clone_from(&self.in_force);
            }
            changed
        });
        if changed {
            // If the kernel does not tell, better look at the connections once too often.
            let asks = self.kernel.in_force().map_or(true, |head| head.is_some_and(|head| head.live != 0));
            ends.asked_open.send_if_modified(|asked| std::mem::replace(asked, asks) || asks);
        }
    }

    fn obey(&mut self, command: Command, ends: &mut Ends) {
        // Whoever no longer waits for an answer does not get one.
        match command {
            Command::Offer { snapshot, received, answer } => {
                // Before it is in force: its leases must not begin as ended.
                self.hear(ends);
                let _ = answer.send(self.offer(snapshot, received));
                // Waits for the disk, so only after the answer.
                self.settle_snapshot();
            }
            Command::Exempt { cookie, done } => {
                let result = self.kernel.exempt(cookie).map_err(|error| chain(&error));
                self.told_once(Task::Exempt, result);
                let _ = done.send(());
            }
            Command::Report { answer } => {
                // Before anything is sent: a cell that was sent keeps its interval.
                if ends.heard.has_changed().unwrap_or(false) {
                    self.hear(ends);
                }
                let _ = answer.send(self.report());
            }
            Command::Settle { boot_id, sequence } => self.collector.settle(&boot_id, sequence),
        }
    }

    fn hear(&mut self, ends: &mut Ends) {
        let time = *ends.heard.borrow_and_update();
        let ahead_ns = time.map(|time| FleetClock::told(time).ahead_ns);
        let result = self.kernel.heard(ahead_ns).map_err(|error| chain(&error));
        self.told_once(Task::Heard, result);
        let Some(time) = time else { return };
        self.metrics.clock_offset_seconds.set(time.wall_ahead_ns() as f64 / 1e9);
        let written = self.collector.hear(time);
        if written.is_err() {
            self.note(What::Outcomes, &written);
        }
    }

    fn offer(&mut self, snapshot: v1::Snapshot, received: Instant) -> Event {
        let v1::Snapshot { version: wire, layers } = snapshot;
        let version = match Version::from_proto(wire.as_ref()) {
            Ok(version) => version,
            Err(error) => return self.nack("unreadable", wire, about_all(error.to_string())),
        };
        let generation = version.generation;
        let in_force = self.in_force.as_ref().map(|in_force| &in_force.version);
        match (decide(in_force, &version), in_force) {
            (Decision::AcknowledgeAgain, _) => {
                self.count("acknowledged_again");
                self.ack(&version, received)
            }
            (Decision::RefuseOlder, Some(in_force)) => {
                let why = format!("generation {generation} is older than {}, in force here", in_force.generation);
                self.nack("older", wire, about_all(why))
            }
            (Decision::RefuseChanged, Some(in_force)) => {
                tracing::error!(offered = ?version, ?in_force, "one generation with two contents; check the database");
                let why = format!("generation {generation} is in force here with another content");
                self.nack("changed", wire, about_all(why))
            }
            (Decision::Apply | Decision::RefuseOlder | Decision::RefuseChanged, _) => {
                // Whatever becomes of this one, it is newer.
                self.waiting = None;
                match self.apply(&version, &layers) {
                    Ok(()) => self.applied(&version, received),
                    Err(Failure::Refused(violations)) => self.nack("refused", wire, violations),
                    Err(Failure::Kernel(error)) => {
                        let why = retry::goes_on(&error);
                        self.wait(version, layers, Some(received), &error);
                        self.nack("waiting", wire, about_all(why))
                    }
                }
            }
        }
    }

    fn applied(&self, version: &Version, received: Instant) -> Event {
        let whole = self.in_force.as_ref().is_none_or(|in_force| in_force.held_back.is_empty());
        self.count(if whole { "applied" } else { "applied_in_part" });
        self.metrics.apply_seconds.observe(received.elapsed().as_secs_f64());
        tracing::info!(%version, elapsed = ?received.elapsed(), "in force");
        self.ack(version, received)
    }

    fn ack(&self, version: &Version, received: Instant) -> Event {
        let apply_us = u32::try_from(received.elapsed().as_micros()).unwrap_or(u32::MAX);
        let held_back = self.in_force.as_ref().map(|in_force| in_force.held_back.clone()).unwrap_or_default();
        Event::Ack(v1::Ack { version: Some(version.to_proto()), effective: self.effective_now(), apply_us, held_back })
    }

    /// What the kernel makes of the snapshot in force, and what of it has nothing to act on now.
    fn effective_now(&self) -> Vec<v1::EffectiveValue> {
        let unattached = apply::unattached(&self.needs, self.kernel.services());
        self.effective.iter().cloned().chain(unattached).collect()
    }

    fn nack(
        &self,
        result: &'static str,
        version: Option<v1::SnapshotVersion>,
        violations: Vec<v1::RuleViolation>,
    ) -> Event {
        self.count(result);
        let generation = version.as_ref().map(|version| version.generation);
        tracing::warn!(generation, ?violations, "refused a snapshot; what was in force stays so");
        Event::Nack(v1::Nack { version, violations })
    }

    fn report(&mut self) -> Option<v1::FlowReport> {
        self.drain();
        let counters = match self.kernel.counters() {
            Ok(counters) => counters,
            Err(error) => {
                self.metrics.kernel_failures.inc();
                tracing::warn!(error = chain(&error), "cannot read the kernel's counters");
                return None;
            }
        };
        self.metrics.set_kernel(&counters);
        match self.kernel.refusals() {
            Ok(refusals) => self.metrics.set_refusals(&refusals),
            Err(error) => tracing::warn!(error = chain(&error), "cannot read what the kernel refused"),
        }
        let dropped = counters[Counter::RecordsDropped as usize];
        let report = Moment::now().and_then(|now| {
            let now_s = self.collector.time_s(now);
            self.collector.next_report(now_s, dropped)
        });
        let (report, written) = report.map_or_else(|error| (None, Err(error)), |report| (report, Ok(())));
        self.note(What::Outcomes, &written);
        report
    }

    /// Reads the records that are there.
    pub fn drain(&mut self) {
        let mut result = self.try_drain();
        // Where there was no record to write down, there may still be a book or a report.
        if result.is_ok() && self.owed.age(What::Outcomes, Instant::now()).is_some() {
            result = self.collector.settle_books();
        }
        self.note(What::Outcomes, &result);
        let tally = self.collector.tally();
        let book = self.collector.book();
        self.metrics.records.set(gauge(tally.records));
        self.metrics.records_unattributed.set(gauge(tally.unattributed));
        self.metrics.flows_given_up.set(gauge(tally.flows_given_up + book.head().flows_lost));
        self.metrics.cells.set(gauge(book.cells() as u64));
        self.metrics.cells_joined.set(gauge(book.joined()));
        self.metrics.journal_bytes.set(gauge(self.collector.journal_bytes()));
    }

    /// Fold, write down, release: in this order, so that a kill in between loses nothing and counts nothing twice.
    fn try_drain(&mut self) -> io::Result<()> {
        let Self { kernel, collector, .. } = self;
        let now = Moment::now()?;
        let services = kernel.attached_paths();
        loop {
            // Ahead if the last try, or the last daemon, came no further than writing down.
            if collector.position() != kernel.ring_position() {
                collector.commit()?;
                kernel.release(collector.position());
            }
            let mut records = 0;
            let position = kernel.peek(BATCH_MAX, &mut |record| {
                records += 1;
                collector.fold(record, &services, now, rand::random());
            });
            collector.advance(position);
            if collector.position() != kernel.ring_position() {
                collector.commit()?;
                kernel.release(position);
            }
            if records < BATCH_MAX {
                return Ok(());
            }
        }
    }

    fn told_once(&mut self, task: Task, result: Result<(), String>) {
        let Self { trouble, metrics, .. } = self;
        let last = &mut trouble[task as usize];
        match result {
            Ok(()) => *last = None,
            Err(error) => {
                metrics.kernel_failures.inc();
                if last.as_ref() != Some(&error) {
                    tracing::error!(?task, error, "will try again");
                }
                *last = Some(error);
            }
        }
    }

    fn count(&self, result: &'static str) {
        self.metrics.snapshots.get_or_create(&ByResult { result }).inc();
    }
}
