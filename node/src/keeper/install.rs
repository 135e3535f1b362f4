//! Putting a snapshot in force, and trying again what of it is held back.

use bytes::Bytes;
use prost::Message;
use sockpilot_proto::v1;

use super::{InForce, Keeper, retry::Failure};
use crate::{
    apply::{self, Plan},
    facts,
    holding_back::{Settled, settle},
    ledger::Version,
    metrics::gauge,
    owed::What,
    state::Stored,
};

impl Keeper {
    /// Puts a snapshot in force, as far as this node can honour it.
    pub(super) fn apply(&mut self, version: &Version, offered: &Bytes) -> Result<(), Failure> {
        // Modules with congestion controls come and go.
        self.facts = facts::read().unwrap_or_else(|_| self.facts.clone());
        let install = self.kernel.next_install()?;
        let Settled { layers, plan, held_back, standbys } = self.settle_layers(version, offered, install)?;
        let whole = held_back.is_empty() && standbys.is_empty();
        let layers = if whole { offered.clone() } else { layers.encode_to_vec().into() };
        let same_version = self.in_force.as_ref().is_some_and(|in_force| in_force.version == *version);
        if !(same_version && layers == self.layers) {
            let (version, offered) = (version.clone(), offered.clone());
            self.install(Stored { version, offered, layers, install, held_back: held_back.clone() }, &plan)?;
        }
        (self.effective, self.needs) = (plan.effective, plan.needs);
        self.effective.extend(standbys);
        self.note_in_force(version.clone(), held_back);
        Ok(())
    }

    fn settle_layers(&mut self, version: &Version, offered: &Bytes, install: u64) -> Result<Settled<Plan>, Failure> {
        let Self { facts, trials, layers, collector, .. } = self;
        let (message, unknown) = apply::read(version, offered)?;
        let before = || v1::Layers::decode(layers.clone()).unwrap_or_default();
        let settled = settle(message, unknown, before, |layers| {
            let snapshot = apply::understand(layers, collector.node_id())?;
            let readings = trials.readings(&snapshot, facts);
            apply::plan(version, layers, &snapshot, facts, &readings, install)
        });
        Ok(settled?)
    }

    /// What cannot be written to disk does not stop it: the way back from a bad policy must not depend on a free disk.
    fn install(&mut self, coming: Stored, plan: &Plan) -> Result<(), Failure> {
        let noted = self.collector.note_install(coming.install, &plan.choices, &plan.measuring);
        self.note(What::Choices, &noted);
        // If not, it is owed once it is in force.
        let written = self.snapshots.write_coming(&coming).is_ok();
        if let Err(error) = self.kernel.install(&plan.tables) {
            self.metrics.kernel_failures.inc();
            return Err(error.into());
        }
        for v1::HeldBack { layer, revision, revision_in_force, violations } in &coming.held_back {
            tracing::warn!(layer, revision, revision_in_force, ?violations, "this node cannot honour it; held back");
        }
        self.layers = coming.layers.clone();
        self.snapshots.came_into_force(coming, written);
        Ok(())
    }

    pub(super) fn note_in_force(&mut self, version: Version, held_back: Vec<v1::HeldBack>) {
        self.metrics.generation.set(gauge(version.generation));
        self.metrics.layers_held_back.set(gauge(held_back.len() as u64));
        self.in_force = Some(InForce { version, held_back });
    }

    /// Tries again what is held back, if what this kernel can do has changed since.
    pub(super) fn try_held_back_if_changed(&mut self) {
        if self.holds_back().is_some() && facts::read().is_ok_and(|facts| facts != self.facts) {
            self.try_held_back();
        }
    }

    /// Tries again what is held back. If that fails, everything stays as it is.
    pub(super) fn try_held_back(&mut self) {
        let Some(Stored { version, offered, .. }) = self.holds_back().cloned() else { return };
        match self.apply(&version, &offered) {
            Ok(()) => {}
            Err(Failure::Refused(violations)) => tracing::warn!(?violations, "what is held back stays so"),
            Err(Failure::Kernel(error)) => self.wait(version, offered, None, &error),
        }
    }

    /// What is in force, if something of it is held back, and nothing newer waits to be.
    fn holds_back(&self) -> Option<&Stored> {
        self.snapshots.current().filter(|stored| stored.offered != stored.layers && self.waiting.is_none())
    }
}
