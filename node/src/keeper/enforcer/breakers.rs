//! Canaries that the circuit breaker has ended: told, and kept ended.

use sockpilot_proto::v1;

use super::{Enforcer, Writes};
use crate::{chain, disk::owed::What, kernel::Kernel, metrics::gauge};

impl Enforcer {
    /// Those that are in force.
    pub(in crate::keeper) fn trips(&self) -> &[v1::BreakerTrip] {
        self.trips.known()
    }

    /// Asks the kernel for new ones.
    pub(in crate::keeper) fn look_at_breakers(&mut self, kernel: &Kernel, writes: &mut Writes) {
        let breakers = match kernel.breakers() {
            Ok(breakers) => breakers,
            Err(error) => {
                self.metrics.kernel_failures.inc();
                tracing::warn!(error = chain(&error), "cannot read circuit breakers");
                return;
            }
        };
        let news = self.trips.note(breakers);
        for v1::BreakerTrip { layer, revision, rollout, canary_bad_ends, control_bad_ends, .. } in &news {
            tracing::error!(
                layer,
                revision,
                rollout,
                canary_bad_ends,
                control_bad_ends,
                "canary ended by the circuit breaker"
            );
        }
        if !news.is_empty() {
            self.settle_trips(writes);
        }
        self.metrics.breaker_trips.set(gauge(self.trips.known().len() as u64));
    }

    /// What is known of them is brought to disk.
    pub(in crate::keeper) fn settle_trips(&mut self, writes: &mut Writes) {
        let result = self.trips.settle();
        writes.note(What::Trips, &result);
    }

    /// What is known to have been ended does not act in tables to come.
    pub(super) fn remember_trips(&self, kernel: &mut Kernel) {
        kernel.remember_trips(self.trips.known().iter().map(|trip| (trip.rollout.clone(), trip.revision)));
    }
}
