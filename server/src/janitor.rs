//! Deletes what is kept for a time or up to a number only.

use std::{error::Error, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    store::{Result, Settled, Store, request, sample},
};

const EVERY: Duration = Duration::from_secs(60);
/// After new samples; long enough that many reports cause one pruning.
const AFTER_SAMPLES: Duration = Duration::from_secs(1);

/// Tidies up until told to stop: every minute, and soon after new samples.
pub async fn run(store: Store, metrics: Metrics, samples_max: u32, prune: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = sleep(EVERY) => {}
            () = async { prune.notified().await; sleep(AFTER_SAMPLES).await } => {}
            () = stop.cancelled() => return,
        }
        match tidy(&store, samples_max).await {
            Ok(pruned) => {
                metrics.samples_pruned.inc_by(pruned);
            }
            Err(error) => tracing::warn!(error = &error as &dyn Error, "tidying up failed; it comes again"),
        }
    }
}

async fn tidy(store: &Store, samples_max: u32) -> Result<u64> {
    store
        .transact("tidy", move |conn| {
            Box::pin(async move {
                request::forget_old(&mut *conn).await?;
                Ok(Settled::Commit(sample::prune(conn, samples_max.into()).await?))
            })
        })
        .await
}
