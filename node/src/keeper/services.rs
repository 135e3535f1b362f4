//! Looking at the cgroups that should be attached, and telling what has changed.

use sockpilot_proto::v1;

use super::{Ends, InForce, Keeper, watch::Watch};
use crate::{kernel::Services, metrics::gauge};

impl Keeper {
    /// Attaches to what has appeared. What appears from now on is told by the watch.
    pub(super) fn look(&mut self, watch: &mut Watch, ends: &Ends) {
        // First, so that nothing appears unseen in between.
        watch.follow(&self.kernel.directories());
        let before = self.kernel.services().clone();
        // Each trouble is in what was seen.
        let _ = self.kernel.poll_services();
        let Services { own, attached, absent, troubled, outlived } = self.kernel.services();
        let metrics = &self.metrics;
        metrics.own_attached.set(i64::from(*own));
        metrics.services_attached.set(gauge(attached.len() as u64));
        metrics.services_absent.set(gauge(absent.len() as u64));
        metrics.services_troubled.set(gauge(troubled.len() as u64));
        metrics.cgroups_outlived.set(gauge(*outlived as u64));
        metrics.attach_failures.inc_by(troubled.len() as u64);
        for service in attached.iter().filter(|service| !before.attached.contains(service)) {
            tracing::info!(service, "attached to the service's cgroup");
        }
        for service in absent.iter().filter(|service| before.attached.contains(service)) {
            tracing::info!(service, "the service's cgroup has gone");
        }
        for (cgroup, error) in troubled.iter().filter(|trouble| !before.troubled.contains(trouble)) {
            tracing::error!(cgroup, error, "cannot attach; what is attached goes on, and it is tried again");
        }
        let acted_on = self.in_force.as_ref().map(|InForce { version, held_back }| {
            let (version, effective) = (Some(version.to_proto()), self.effective_now());
            v1::Ack { version, effective, apply_us: 0, held_back: held_back.clone() }
        });
        ends.set_acted_on(acted_on);
    }
}
