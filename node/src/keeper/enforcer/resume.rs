//! How a daemon begins: with what is in force, or with what was.

use prost::Message;
use sockpilot_proto::v1;

use super::{Enforcer, Reach, retry::Failure};
use crate::{
    chain,
    kernel::KernelError,
    snapshot::{
        plan,
        stored::{Resume, Stored, resume},
    },
};

impl Enforcer {
    /// Finds out what is in force, and puts the last good snapshot in force again if the machine has forgotten it.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub(in crate::keeper) fn resume(&mut self, reach: &mut Reach<'_>) -> Result<(), KernelError> {
        self.remember_trips(reach.kernel);
        let kernel = reach.kernel.in_force()?.map(|head| (head.generation, head.install));
        let (stored, coming) = (self.snapshots.in_force(), self.snapshots.coming());
        let resume = resume(kernel, stored.as_ref(), coming.as_ref());
        tracing::info!(?resume, ?kernel, "state compared with kernel tables");
        match (resume, stored, coming) {
            (Resume::Promote, _, Some(coming)) => {
                self.recognise(reach, &coming);
                self.snapshots.came_into_force(coming, true);
            }
            (Resume::Keep, Some(stored), _) => {
                self.recognise(reach, &stored);
                self.snapshots.found_in_force(stored);
            }
            (Resume::Reinstall, Some(stored), _) => {
                self.layers = stored.layers;
                match self.apply(reach, &stored.version, &stored.offered) {
                    Ok(_) => tracing::info!(version = %stored.version, "last good snapshot in force again"),
                    Err(Failure::Refused(violations)) => {
                        tracing::error!(?violations, "last good snapshot refused");
                    }
                    Err(Failure::Kernel(error)) => self.wait(stored.version, stored.offered, None, &error),
                }
            }
            _ => {}
        }
        // This daemon, or this kernel, may be able to do more than the one before.
        if resume != Resume::Reinstall {
            self.try_held_back(reach);
        }
        Ok(())
    }

    /// The snapshot is in force already.
    fn recognise(&mut self, reach: &mut Reach<'_>, stored: &Stored) {
        let Stored { version, offered: _, layers, install, held_back } = stored;
        // Only for what an acknowledgement says, and which services are named; the tables are there.
        let message = v1::Layers::decode(layers.clone()).unwrap_or_default();
        let plan = plan::understand(&message, reach.recorder.node_id()).and_then(|snapshot| {
            let readings = self.trials.readings(&snapshot, &self.facts);
            plan::plan(version, &message, &snapshot, &self.facts, &readings, *install)
        });
        let services_known = match &plan {
            Ok(plan) => reach.kernel.recognise(&plan.tables).map_err(|error| chain(&error)),
            Err(_) => Ok(false),
        };
        if services_known != Ok(true) {
            tracing::warn!(?services_known, "services unknown until the next snapshot");
        }
        (self.effective, self.needs) = plan.map(|plan| (plan.effective, plan.needs)).unwrap_or_default();
        self.layers = layers.clone();
        self.note_in_force(version.clone(), held_back.clone());
    }
}
