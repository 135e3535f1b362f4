//! The one task that owns the kernel side. Two rivers pass through it, which know nothing of each other but what choices mean:
//! policy comes in by the `enforcer`, records go out by the `recorder`. Everybody else sends it commands; this file only
//! dispatches.
//!
//! ```text
//!  stream ──Offer───▶ ┌──────────┐ ──▶ kernel tables, snapshots on disk
//!  stream ──contact─▶ │ enforcer │
//!                     ├──────────┤
//!  reporter ─Report─▶ │ recorder │ ◀── ring buffer; ──▶ aggregations on disk
//!                     └──────────┘
//! ```

mod channel;
mod earlier;
mod enforcer;
mod recorder;
mod services;
mod writes;

use std::time::Duration;

use sockpilot_policy::facts::KernelFacts;
use tokio::time::{MissedTickBehavior, interval};

pub use channel::{Command, Ends, Handle, InForce, Look, channel};

use crate::{
    chain,
    clock::FleetClock,
    disk::owed::What,
    kernel::{Kernel, KernelError, TrialSocket, cgroup_watch::Watch},
    metrics::Metrics,
    records::collector::Collector,
    snapshot::{stored::Snapshots, trips::Trips},
};
use enforcer::{Enforcer, Reach, due};
use recorder::Recorder;
use writes::Writes;

/// How often records are read. In this time, at 100,000 flows a second, a third of the ring buffer fills.
const DRAIN_EVERY: Duration = Duration::from_millis(200);
/// For how long an earlier kernel side serves its connections, if nothing else is said.
const HANDOVER_LIMIT: Duration = Duration::from_secs(3_600);
/// How often the cgroups of services are looked for, beneath the events of them.
const SERVICES_EVERY: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug)]
pub struct Keeper {
    kernel: Kernel,
    enforcer: Enforcer,
    recorder: Recorder,
    writes: Writes,
    metrics: Metrics,
    services_every: Duration,
    handover_limit: Duration,
    /// The last trouble of each kind, so that it is logged once and not ten times a second.
    trouble: [Option<String>; 3],
}

/// What is written to the kernel again and again, so that trouble comes back with every try.
#[derive(Debug, Clone, Copy)]
enum Task {
    Contact,
    Exempt,
    Share,
}

impl Keeper {
    /// Takes over. No value is tried; see [`Self::trying`].
    #[must_use]
    pub fn new(
        kernel: Kernel,
        facts: KernelFacts,
        collector: Collector,
        kept: (Snapshots, Trips),
        metrics: Metrics,
    ) -> Self {
        Self {
            kernel,
            enforcer: Enforcer::new(facts, kept, metrics.clone()),
            recorder: Recorder::new(collector, metrics.clone()),
            writes: Writes::new(metrics.clone()),
            metrics,
            services_every: SERVICES_EVERY,
            handover_limit: HANDOVER_LIMIT,
            trouble: [const { None }; 3],
        }
    }

    /// Has the values of snapshots tried on sockets of the daemon's own, before they are in force.
    #[must_use]
    pub fn trying(self, socket: TrialSocket) -> Self {
        Self { enforcer: self.enforcer.trying(socket), ..self }
    }

    /// Ends earlier kernel sides after this time, whatever connections they still serve.
    #[must_use]
    pub fn handing_over_within(self, handover_limit: Duration) -> Self {
        Self { handover_limit, ..self }
    }

    /// Looks for services' cgroups this often. For tests of the events of them.
    #[must_use]
    pub fn looking_every(self, services_every: Duration) -> Self {
        Self { services_every, ..self }
    }

    /// Finds out what is in force, and puts the last good snapshot in force again if the machine has forgotten it.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn resume(&mut self) -> Result<(), KernelError> {
        let (enforcer, mut reach) = self.policy();
        enforcer.resume(&mut reach)?;
        self.settle();
        Ok(())
    }

    /// Puts nothing in force.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn withdraw(&mut self) -> Result<(), KernelError> {
        self.kernel.withdraw()
    }

    /// Reads the records that are there.
    pub fn drain(&mut self) {
        self.recorder.drain(&mut self.kernel, &mut self.writes);
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
                Ok(()) = ends.contact.changed() => self.note_contact(&mut ends),
                Ok(()) = ends.recording.changed() => {
                    let wanted = *ends.recording.borrow_and_update();
                    self.recorder.record_on_request(wanted);
                    self.settle_share();
                }
                () = due(self.enforcer.waiting()) => {
                    let (enforcer, mut reach) = self.policy();
                    if let Some(answer) = enforcer.try_again(&mut reach) {
                        // First, so that the hello of a stream that does not know the version says it.
                        self.publish(&ends);
                        ends.answer_late(answer);
                    }
                    self.enforcer.settle(&mut self.writes);
                    self.look(&mut watch, &ends);
                }
                () = watch.appeared() => self.look(&mut watch, &ends),
                _ = drain.tick() => {
                    self.drain();
                    self.settle_share();
                    self.enforcer.look_at_breakers(&self.kernel, &mut self.writes);
                }
                _ = services.tick() => {
                    self.settle();
                    let (enforcer, mut reach) = self.policy();
                    enforcer.try_held_back_if_changed(&mut reach);
                    self.look_at_earlier();
                    self.look(&mut watch, &ends);
                }
            }
        }
        self.drain();
        self.settle();
        let generation = self.enforcer.in_force().map(|in_force| in_force.version.generation);
        tracing::info!(generation, "ended; what is in force stays so");
    }

    /// The policy river, and what it acts on.
    fn policy(&mut self) -> (&mut Enforcer, Reach<'_>) {
        let Self { kernel, enforcer, recorder, writes, .. } = self;
        (enforcer, Reach { kernel, recorder, writes })
    }

    fn publish(&self, ends: &Ends) {
        let not_written = self.writes.not_written();
        ends.not_written.send_if_modified(|published| {
            let changed = *published != not_written;
            *published = not_written;
            changed
        });
        ends.breaker_trips.send_if_modified(|published| {
            let changed = published[..] != *self.enforcer.trips();
            if changed {
                *published = self.enforcer.trips().to_vec();
            }
            changed
        });
        let changed = ends.in_force.send_if_modified(|published| {
            let changed = published.as_ref() != self.enforcer.in_force();
            if changed {
                *published = self.enforcer.in_force().cloned();
            }
            changed
        });
        if changed {
            // If the kernel does not say, better look at the connections once too often.
            let asks = self.kernel.in_force().map_or(true, |head| head.is_some_and(|head| head.live != 0));
            ends.asked_open.send_if_modified(|asked| std::mem::replace(asked, asks) || asks);
        }
    }

    fn obey(&mut self, command: Command, ends: &mut Ends) {
        // Whoever no longer waits for an answer does not get one.
        match command {
            Command::Offer { snapshot, received, answer } => {
                // Before it is in force: its leases must not begin as ended.
                self.note_contact(ends);
                let (enforcer, mut reach) = self.policy();
                let _ = answer.send(enforcer.offer(&mut reach, snapshot, received));
                // Waits for the disk, so only after the answer.
                self.enforcer.settle(&mut self.writes);
            }
            Command::Exempt { cookie, done } => {
                let result = self.kernel.exempt(cookie).map_err(|error| chain(&error));
                self.log_once(Task::Exempt, result);
                let _ = done.send(());
            }
            Command::Report { answer } => {
                // Before anything is sent: a cell that was sent keeps its interval.
                if ends.contact.has_changed().unwrap_or(false) {
                    self.note_contact(ends);
                }
                let _ = answer.send(self.recorder.report(&mut self.kernel, &mut self.writes));
            }
            Command::Look { look, done } => {
                let open = self.recorder.end_look(&mut self.kernel, &mut self.writes);
                if look == Look::Ended {
                    ends.open.send_replace(Some(open));
                }
                let _ = done.send(());
            }
            Command::Confirm { boot_id, sequence } => self.recorder.confirm(&boot_id, sequence),
        }
    }

    /// Has the kernel show as many of the flows that no layer matches as are to be recorded.
    fn settle_share(&mut self) {
        let Self { kernel, recorder, .. } = self;
        let result = recorder.settle_share(|share_bp| kernel.record_unmatched(share_bp).map(drop));
        self.log_once(Task::Share, result);
    }

    fn note_contact(&mut self, ends: &mut Ends) {
        let time = *ends.contact.borrow_and_update();
        let ahead_ns = time.map(|time| FleetClock::of_server(time).ahead_ns);
        let result = self.kernel.note_contact(ahead_ns).map_err(|error| chain(&error));
        self.log_once(Task::Contact, result);
        if let Some(time) = time {
            self.recorder.note_server_time(time, &mut self.writes);
        }
    }

    /// Tries again whatever is owed and due, and looks whether what was written is still there.
    fn settle(&mut self) {
        for what in What::ALL {
            if self.writes.waits(what) {
                continue;
            }
            match what {
                What::Snapshot => self.enforcer.settle(&mut self.writes),
                What::Trips => self.enforcer.settle_trips(&mut self.writes),
                What::Choices | What::Outcomes | What::Removals => {
                    let result = self.recorder.settle(what);
                    self.writes.note(what, &result);
                }
            }
        }
    }

    fn log_once(&mut self, task: Task, result: Result<(), String>) {
        let Self { trouble, metrics, .. } = self;
        let last = &mut trouble[task as usize];
        match result {
            Ok(()) => *last = None,
            Err(error) => {
                metrics.kernel_failures.inc();
                if last.as_ref() != Some(&error) {
                    tracing::error!(?task, error, "kernel write failed; will retry");
                }
                *last = Some(error);
            }
        }
    }
}
