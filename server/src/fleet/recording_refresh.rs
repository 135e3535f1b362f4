//! Keeps what nodes are told to record newest, on every replica.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::recording::{Recordings, Told};
use crate::{
    metrics::Metrics,
    store::{Result, Store, recording},
    task::{Scope, Spec, Task},
};

/// What was asked of another replica is seen only then.
const PERIOD: Duration = Duration::from_secs(2);

/// See the [module](self).
#[derive(Debug)]
pub struct RefreshRecordings {
    pub store: Store,
    pub recordings: Arc<Recordings>,
    pub metrics: Metrics,
    /// Notified when something was asked here.
    pub asked: Arc<Notify>,
}

impl Task for RefreshRecordings {
    fn spec(&self) -> Spec {
        Spec { name: "recordings", period: PERIOD, retry_after: PERIOD, scope: Scope::Server }
    }

    async fn activated(&mut self) {
        self.asked.notified().await;
    }

    async fn run(&mut self) -> Result<String> {
        let current = self.store.read("recordings", |conn| Box::pin(recording::current(conn))).await?;
        let now = Instant::now();
        let told = |(node_id, flows_per_s, left_s): (String, i32, f64)| {
            let left = Duration::try_from_secs_f64(left_s).unwrap_or_default();
            (node_id, Told { flows_per_s: flows_per_s.cast_unsigned(), ends: now + left })
        };
        self.metrics.recordings.set(i64::try_from(current.len()).unwrap_or(i64::MAX));
        let nodes = current.len();
        self.recordings.learn(current.into_iter().map(told).collect());
        Ok(format!("{nodes} nodes"))
    }
}
