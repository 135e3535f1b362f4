//! How a daemon begins: with what is in force, or with what was.

use prost::Message;
use sockpilot_proto::v1;

use super::{Keeper, retry::Failure};
use crate::{
    apply, chain,
    kernel::KernelError,
    state::{Resume, Stored, resume},
};

impl Keeper {
    /// Finds out what is in force, and puts the last good snapshot in force again if the machine has forgotten it.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn resume(&mut self) -> Result<(), KernelError> {
        let kernel = self.kernel.in_force()?.map(|head| (head.generation, head.install));
        let (stored, coming) = (self.snapshots.in_force(), self.snapshots.coming());
        let resume = resume(kernel, stored.as_ref(), coming.as_ref());
        tracing::info!(?resume, ?kernel, "compared the kernel tables with the state directory");
        match (resume, stored, coming) {
            (Resume::Promote, _, Some(coming)) => {
                self.recognise(&coming);
                self.snapshots.came_into_force(coming, true);
            }
            (Resume::Keep, Some(stored), _) => {
                self.recognise(&stored);
                self.snapshots.found_in_force(stored);
            }
            (Resume::Reinstall, Some(stored), _) => {
                self.layers = stored.layers;
                match self.apply(&stored.version, &stored.offered) {
                    Ok(()) => tracing::info!(version = %stored.version, "put the last good snapshot in force again"),
                    Err(Failure::Refused(violations)) => {
                        tracing::error!(?violations, "cannot put the last good snapshot in force again");
                    }
                    Err(Failure::Kernel(error)) => self.wait(stored.version, stored.offered, None, &error),
                }
            }
            _ => {}
        }
        // This daemon, or this kernel, may be able to do more than the one before.
        if resume != Resume::Reinstall {
            self.try_held_back();
        }
        self.settle();
        Ok(())
    }

    /// The snapshot is in force already.
    fn recognise(&mut self, stored: &Stored) {
        let Stored { version, offered: _, layers, install, held_back } = stored;
        // Only for what an acknowledgement says, and which services are named; the tables are there.
        let message = v1::Layers::decode(layers.clone()).unwrap_or_default();
        let plan = apply::understand(&message, self.collector.node_id()).and_then(|snapshot| {
            let readings = self.trials.readings(&snapshot, &self.facts);
            apply::plan(version, &message, &snapshot, &self.facts, &readings, *install)
        });
        let services_known = match &plan {
            Ok(plan) => self.kernel.recognise(&plan.tables).map_err(|error| chain(&error)),
            Err(_) => Ok(false),
        };
        if services_known != Ok(true) {
            tracing::warn!(?services_known, "services that begin before the next snapshot are not attached to");
        }
        (self.effective, self.needs) = plan.map(|plan| (plan.effective, plan.needs)).unwrap_or_default();
        self.layers = layers.clone();
        self.note_in_force(version.clone(), held_back.clone());
    }
}
