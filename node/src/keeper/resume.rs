//! How a daemon begins: with what is in force, or with what was.

use super::{Keeper, retry::Failure};
use crate::{
    apply, chain,
    kernel::KernelError,
    metrics::gauge,
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
            (Resume::Reinstall, Some(stored), _) => match self.apply(&stored.version, &stored.layers) {
                Ok(()) => tracing::info!(version = %stored.version, "put the last good snapshot in force again"),
                Err(Failure::Refused(violations)) => {
                    tracing::error!(?violations, "cannot put the last good snapshot in force again");
                }
                Err(Failure::Kernel(error)) => self.wait(stored.version, stored.layers, None, &error),
            },
            _ => {}
        }
        self.settle();
        Ok(())
    }

    /// The snapshot is in force already.
    fn recognise(&mut self, stored: &Stored) {
        let Stored { version, layers, install } = stored;
        // Only for what an acknowledgement says, and which services are named; the tables are there.
        let plan = apply::read(version, layers).and_then(|snapshot| {
            let readings = self.trials.readings(&snapshot, &self.facts);
            apply::plan(version, &snapshot, &self.facts, &readings, *install)
        });
        let services_known = match &plan {
            Ok(plan) => self.kernel.recognise(&plan.tables).map_err(|error| chain(&error)),
            Err(_) => Ok(false),
        };
        if services_known != Ok(true) {
            tracing::warn!(?services_known, "services that begin before the next snapshot are not attached to");
        }
        (self.effective, self.needs) = plan.map(|plan| (plan.effective, plan.needs)).unwrap_or_default();
        self.in_force = Some(version.clone());
        self.metrics.generation.set(gauge(version.generation));
    }
}
