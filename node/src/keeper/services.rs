//! Looking at the cgroups that should be attached, and reporting what has changed.

use super::{Ends, Keeper};
use crate::{
    kernel::{Services, cgroup_watch::Watch},
    metrics::gauge,
};

impl Keeper {
    /// Attaches to what has appeared. What appears from now on the watch has events of.
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
            tracing::info!(service, "service attached");
        }
        for service in absent.iter().filter(|service| before.attached.contains(service)) {
            tracing::info!(service, "service's cgroup gone");
        }
        for (cgroup, error) in troubled.iter().filter(|trouble| !before.troubled.contains(trouble)) {
            tracing::error!(cgroup, error, "cannot attach to cgroup; will retry");
        }
        ends.set_acted_on(self.enforcer.acted_on(&self.kernel));
    }
}
