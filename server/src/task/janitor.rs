//! Deletes what is kept for a time or up to a number only.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::sleep};

use crate::{
    metrics::Metrics,
    store::{
        Result, Settled, Store, recording, removal, request,
        sample::{self, Kept},
    },
    task::{FleetTask, Scope, Spec, leader::Fence},
};

/// Samples that another server stored are seen only then.
const PERIOD: Duration = Duration::from_secs(15);
/// After new samples; long enough that many reports cause one pruning.
const AFTER_SAMPLES: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Janitor {
    pub store: Store,
    pub metrics: Metrics,
    /// How many samples are kept.
    pub samples_max: u32,
    /// How many flows are kept that were recorded on request.
    pub recorded_max: u32,
    /// For how long a node may be silent before it is removed; for ever if absent.
    pub forget_nodes_after: Option<Duration>,
    /// Notified of new samples.
    pub prune: Arc<Notify>,
}

impl FleetTask for Janitor {
    fn spec(&self) -> Spec {
        Spec { name: "janitor", period: PERIOD, retry_after: PERIOD, scope: Scope::Fleet }
    }

    async fn activated(&mut self) {
        self.prune.notified().await;
        sleep(AFTER_SAMPLES).await;
    }

    async fn run(&mut self, fence: Fence) -> Result<String> {
        let (samples_max, recorded_max) = (self.samples_max.into(), self.recorded_max.into());
        let silence = self.forget_nodes_after;
        let tidied = self.store.transact_as_leader(fence, "tidy", move |conn| {
            Box::pin(async move {
                request::forget_old(&mut *conn).await?;
                let forgotten = match silence {
                    Some(silence) => removal::delete_silent(&mut *conn, silence).await?,
                    None => 0,
                };
                recording::forget_old(&mut *conn).await?;
                let pruned = sample::prune(&mut *conn, Kept::Sample, samples_max).await?;
                let recorded = sample::prune(conn, Kept::OnRequest, recorded_max).await?;
                Ok(Settled::Commit((pruned, recorded, forgotten)))
            })
        });
        let (pruned, recorded, forgotten) = tidied.await?;
        self.metrics.samples_pruned.inc_by(pruned);
        self.metrics.recorded_pruned.inc_by(recorded);
        self.metrics.nodes_forgotten.inc_by(forgotten);
        if forgotten > 0 {
            tracing::info!(nodes = forgotten, silent_for = ?silence, "silent nodes removed");
        }
        Ok(format!("deleted {} samples, removed {forgotten} nodes", pruned + recorded))
    }
}
