//! Policy in: what is offered, what is in force, what is held back, and what waits to be tried again.

mod breakers;
mod install;
mod resume;
mod retry;

use std::time::Instant;

use bytes::Bytes;
use sockpilot_policy::facts::KernelFacts;
use sockpilot_proto::v1::{self, node_event::Event};

use super::{channel::InForce, recorder::Recorder, writes::Writes};
use crate::{
    clock::micros,
    disk::owed::What,
    kernel::{Kernel, TrialSocket},
    metrics::{ByResult, Metrics},
    snapshot::{
        answer::{Need, about_all, unattached},
        stored::Snapshots,
        trials::Trials,
        trips::Trips,
        version::{Admission, Version, admit},
    },
};
pub(super) use retry::due;
use retry::{Failure, Waiting};

/// What the enforcer acts on, beside its own state.
#[derive(Debug)]
pub(super) struct Reach<'a> {
    pub(super) kernel: &'a mut Kernel,
    /// It must know what choices mean before records of them come.
    pub(super) recorder: &'a mut Recorder,
    pub(super) writes: &'a mut Writes,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Enforcer {
    facts: KernelFacts,
    trials: Trials,
    snapshots: Snapshots,
    trips: Trips,
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
}

impl Enforcer {
    pub(super) fn new(facts: KernelFacts, (snapshots, trips): (Snapshots, Trips), metrics: Metrics) -> Self {
        Self {
            facts,
            trials: Trials::default(),
            snapshots,
            trips,
            in_force: None,
            layers: Bytes::new(),
            effective: vec![],
            needs: vec![],
            waiting: None,
            metrics,
        }
    }

    /// Has the values of snapshots tried on sockets of the daemon's own, before they are in force.
    pub(super) fn trying(self, socket: TrialSocket) -> Self {
        Self { trials: Trials::new(socket), ..self }
    }

    /// What is in force.
    pub(super) fn in_force(&self) -> Option<&InForce> {
        self.in_force.as_ref()
    }

    /// The snapshot that waits to be tried again.
    pub(super) fn waiting(&self) -> Option<&Waiting> {
        self.waiting.as_ref()
    }

    /// What would be acknowledged now.
    pub(super) fn acted_on(&self, kernel: &Kernel) -> Option<v1::Ack> {
        self.in_force.as_ref().map(|InForce { version, held_back }| {
            let (version, effective) = (Some(version.to_proto()), self.effective_now(kernel));
            v1::Ack { version, effective, apply_us: 0, held_back: held_back.clone(), stages: None, put_off_us: 0 }
        })
    }

    /// The snapshot in force is brought to disk.
    pub(super) fn settle(&mut self, writes: &mut Writes) {
        let result = self.snapshots.settle();
        writes.note(What::Snapshot, &result);
    }

    /// Decides about a snapshot, and puts it in force if it can. The answer is `Ack` or `Nack`.
    pub(super) fn offer(&mut self, reach: &mut Reach<'_>, snapshot: v1::Snapshot, received: Instant) -> Event {
        let v1::Snapshot { version: wire, layers, answer_within_ms: _ } = snapshot;
        let version = match Version::from_proto(wire.as_ref()) {
            Ok(version) => version,
            Err(error) => return self.nack("unreadable", wire, about_all(error.to_string())),
        };
        let generation = version.generation;
        let _span = tracing::info_span!("snapshot", generation, layers = layers.len()).entered();
        let wait_us = micros(received.elapsed());
        let in_force = self.in_force.as_ref().map(|in_force| &in_force.version);
        match (admit(in_force, &version), in_force) {
            (Admission::AcknowledgeAgain, _) => {
                self.count("acknowledged_again");
                self.ack(reach.kernel, &version, received, None)
            }
            (Admission::RefuseOlder, Some(in_force)) => {
                let why = format!("generation {generation} is older than {}, in force here", in_force.generation);
                self.nack("older", wire, about_all(why))
            }
            (Admission::RefuseChanged, Some(in_force)) => {
                tracing::error!(offered = ?version, ?in_force, "one generation with two contents; check the database");
                let why = format!("generation {generation} is in force here with another content");
                self.nack("changed", wire, about_all(why))
            }
            (Admission::Apply | Admission::RefuseOlder | Admission::RefuseChanged, _) => {
                // Whatever becomes of this one, it is newer.
                self.waiting = None;
                match self.apply(reach, &version, &layers) {
                    Ok(took) => {
                        let stages = v1::ApplyStages { wait_us, ..took };
                        self.metrics.stages(&stages);
                        self.applied(reach.kernel, &version, received, Some(stages))
                    }
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

    pub(super) fn applied(
        &self,
        kernel: &Kernel,
        version: &Version,
        received: Instant,
        stages: Option<v1::ApplyStages>,
    ) -> Event {
        let whole = self.in_force.as_ref().is_none_or(|in_force| in_force.held_back.is_empty());
        self.count(if whole { "applied" } else { "applied_in_part" });
        self.metrics.apply_seconds.observe(received.elapsed().as_secs_f64());
        tracing::info!(%version, elapsed = ?received.elapsed(), "snapshot in force");
        self.ack(kernel, version, received, stages)
    }

    fn ack(&self, kernel: &Kernel, version: &Version, received: Instant, stages: Option<v1::ApplyStages>) -> Event {
        let apply_us = micros(received.elapsed());
        let held_back = self.in_force.as_ref().map(|in_force| in_force.held_back.clone()).unwrap_or_default();
        Event::Ack(v1::Ack {
            version: Some(version.to_proto()),
            effective: self.effective_now(kernel),
            apply_us,
            held_back,
            stages,
            put_off_us: 0,
        })
    }

    /// What the kernel makes of the snapshot in force, and what of it has nothing to act on now.
    fn effective_now(&self, kernel: &Kernel) -> Vec<v1::EffectiveValue> {
        let unattached = unattached(&self.needs, kernel.services());
        self.effective.iter().cloned().chain(unattached).collect()
    }

    pub(super) fn nack(
        &self,
        result: &'static str,
        version: Option<v1::SnapshotVersion>,
        violations: Vec<v1::RuleViolation>,
    ) -> Event {
        self.count(result);
        let generation = version.as_ref().map(|version| version.generation);
        tracing::warn!(generation, ?violations, "snapshot refused");
        Event::Nack(v1::Nack { version, violations })
    }

    fn count(&self, result: &'static str) {
        self.metrics.snapshots.get_or_create(&ByResult { result }).inc();
    }
}
