//! Putting a snapshot in force, and trying again what of it is held back.

use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use sockpilot_proto::v1;

use super::{Enforcer, InForce, Reach, retry::Failure};
use crate::{
    clock::micros,
    facts,
    metrics::gauge,
    snapshot::{
        holding_back::{Settled, settle},
        plan::{self, Plan},
        stored::Stored,
        version::Version,
    },
};

impl Enforcer {
    /// Puts a snapshot in force, as far as this node can honour it. Answers with how long that took.
    pub(super) fn apply(
        &mut self,
        reach: &mut Reach<'_>,
        version: &Version,
        offered: &Bytes,
    ) -> Result<v1::ApplyStages, Failure> {
        let began = Instant::now();
        // Modules with congestion controls come and go.
        self.facts = facts::read().unwrap_or_else(|_| self.facts.clone());
        let install = reach.kernel.next_install()?;
        let Settled { layers, plan, held_back, standbys } =
            self.settle_layers(reach.recorder.node_id(), version, offered, install)?;
        let whole = held_back.is_empty() && standbys.is_empty();
        let layers = if whole { offered.clone() } else { layers.encode_to_vec().into() };
        let same_version = self.in_force.as_ref().is_some_and(|in_force| in_force.version == *version);
        let mut took = v1::ApplyStages { compile_us: micros(began.elapsed()), ..v1::ApplyStages::default() };
        if !(same_version && layers == self.layers) {
            let (version, offered) = (version.clone(), offered.clone());
            let coming = Stored { version, offered, layers, install, held_back: held_back.clone() };
            (took.write_us, took.install_us) = self.install(reach, coming, &plan)?;
        }
        (self.effective, self.needs) = (plan.effective, plan.needs);
        self.effective.extend(standbys);
        self.note_in_force(version.clone(), held_back);
        Ok(took)
    }

    fn settle_layers(
        &mut self,
        node_id: &str,
        version: &Version,
        offered: &Bytes,
        install: u64,
    ) -> Result<Settled<Plan>, Failure> {
        let Self { facts, trials, layers, .. } = self;
        let (message, unknown) = plan::read(version, offered)?;
        let before = || v1::Layers::decode(layers.clone()).unwrap_or_default();
        let settled = settle(message, unknown, before, |layers| {
            let snapshot = plan::understand(layers, node_id)?;
            let readings = trials.readings(&snapshot, facts);
            plan::plan(version, layers, &snapshot, facts, &readings, install)
        });
        Ok(settled?)
    }

    /// What cannot be written to disk does not stop it: the way back from a bad policy must not depend on a free disk. Answers with how long the
    /// disk took, and the kernel.
    fn install(&mut self, reach: &mut Reach<'_>, coming: Stored, plan: &Plan) -> Result<(u32, u32), Failure> {
        let began = Instant::now();
        reach.recorder.note_choices(coming.install, &plan.choices, reach.writes);
        // If not, it is owed once it is in force.
        let written = self.snapshots.write_coming(&coming).is_ok();
        let (write_us, began) = (micros(began.elapsed()), Instant::now());
        // With what was counted: tables to come may count anew.
        self.look_at_breakers(reach.kernel, reach.writes);
        self.remember_trips(reach.kernel);
        if let Err(error) = reach.kernel.install(&plan.tables) {
            self.metrics.kernel_failures.inc();
            return Err(error.into());
        }
        let install_us = micros(began.elapsed());
        for v1::HeldBack { layer, revision, revision_in_force, violations } in &coming.held_back {
            tracing::warn!(layer, revision, revision_in_force, ?violations, "layer held back");
        }
        self.layers = coming.layers.clone();
        self.snapshots.came_into_force(coming, written);
        self.trips.keep(&plan.tables.breakers);
        Ok((write_us, install_us))
    }

    pub(super) fn note_in_force(&mut self, version: Version, held_back: Vec<v1::HeldBack>) {
        self.metrics.generation.set(gauge(version.generation));
        self.metrics.layers_held_back.set(gauge(held_back.len() as u64));
        self.in_force = Some(InForce { version, held_back });
    }

    /// Tries again what is held back, if what this kernel can do has changed since.
    pub(in crate::keeper) fn try_held_back_if_changed(&mut self, reach: &mut Reach<'_>) {
        if self.holds_back().is_some() && facts::read().is_ok_and(|facts| facts != self.facts) {
            self.try_held_back(reach);
        }
    }

    /// Tries again what is held back. If that fails, everything stays as it is.
    pub(super) fn try_held_back(&mut self, reach: &mut Reach<'_>) {
        let Some(Stored { version, offered, .. }) = self.holds_back().cloned() else { return };
        match self.apply(reach, &version, &offered) {
            Ok(_) => {}
            Err(Failure::Refused(violations)) => tracing::warn!(?violations, "layers still held back"),
            Err(Failure::Kernel(error)) => self.wait(version, offered, None, &error),
        }
    }

    /// What is in force, if something of it is held back, and nothing newer waits to be.
    fn holds_back(&self) -> Option<&Stored> {
        self.snapshots.current().filter(|stored| stored.offered != stored.layers && self.waiting.is_none())
    }
}
