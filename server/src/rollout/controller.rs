//! Has all rollouts go on.

use std::{sync::Arc, time::Duration};

use super::{
    drive::{TASK, drive},
    record::Rollout,
};
use crate::{
    fleet::fanout::Fanout,
    metrics::{Metrics, Now},
    store::{Error, Result, Settled, Store, leader::Fence, rollout},
    task::{FleetTask, Scope, Spec},
};

/// A look at all rollouts is a few statements each, and there are few.
const PERIOD: Duration = Duration::from_millis(500);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug)]
pub struct Rollouts {
    pub store: Store,
    pub fanout: Arc<Fanout>,
    pub metrics: Metrics,
}

impl FleetTask for Rollouts {
    fn spec(&self) -> Spec {
        Spec { name: TASK, period: PERIOD, retry_after: RETRY_AFTER, scope: Scope::Fleet }
    }

    async fn run(&mut self, fence: Fence) -> Result<String> {
        let active = self.store.read("list active rollouts", |conn| Box::pin(rollout::active_versions(conn))).await?;
        let (mut moved, mut failed, mut seen) = (0, None, vec![]);
        // One that cannot go on does not keep the others.
        for (name, version) in &active {
            match self.look(fence, name.clone()).await {
                Ok(after) => {
                    moved += usize::from(after.version != version.cast_unsigned());
                    seen.push(after);
                }
                Err(error @ Error::Deposed { .. }) => return Err(error),
                // Somebody asked something of it meanwhile: the next look sees what.
                Err(Error::Overtaken { .. }) => {}
                Err(error) => failed = Some(error),
            }
        }
        self.metrics
            .rollouts
            .set(&seen.iter().filter(|after| after.machine.state.is_active()).map(now).collect::<Vec<_>>());
        if moved > 0 {
            self.fanout.stale.notify_one();
        }
        failed.map_or_else(|| Ok(format!("looked at {} rollouts, {moved} went on", active.len())), Err)
    }
}

fn now(rollout: &Rollout) -> Now {
    let wave = i64::try_from(rollout.machine.place.wave).unwrap_or(i64::MAX);
    let state = rollout.machine.state.to_proto();
    Now { rollout: rollout.name.clone(), state, wave, gates: rollout.gates.clone() }
}

impl Rollouts {
    /// In one transaction, so that what was seen is what was acted on, and nothing is half done whenever the server dies.
    async fn look(&self, fence: Fence, name: String) -> Result<Rollout> {
        let work = self.store.transact_as_leader(fence, "drive a rollout", move |conn| {
            let name = name.clone();
            Box::pin(async move {
                let rollout = rollout::get(&mut *conn, &name).await?;
                Ok(Settled::Commit(drive(conn, None, rollout).await?))
            })
        });
        work.await
    }
}
