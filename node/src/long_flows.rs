//! Tells about connections that are open for long, without waiting for their end.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    kernel::Sweeper,
    metrics::{Metrics, gauge},
};

/// See the [module](self).
#[derive(Debug)]
pub struct LongFlows {
    /// Has the kernel write the records.
    pub sweeper: Arc<Sweeper>,
    /// How often.
    pub every: Duration,
    /// What is counted.
    pub metrics: Metrics,
}

impl LongFlows {
    /// Sweeps until told to stop. A sweep that takes longer than the interval puts off the next one.
    pub async fn run(self, stop: CancellationToken) {
        let Self { sweeper, every, metrics } = self;
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut trouble = None;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            let sweeper = sweeper.clone();
            // It enters namespaces with threads of its own, and waits for them.
            let swept = tokio::task::spawn_blocking(move || sweeper.sweep()).await;
            let failed = match swept {
                Ok(Ok(namespaces)) => {
                    metrics.namespaces_swept.set(gauge(namespaces as u64));
                    None
                }
                Ok(Err(error)) => Some(format!("{:#}", anyhow::Error::from(error))),
                Err(panicked) => Some(panicked.to_string()),
            };
            if let Some(error) = &failed {
                metrics.kernel_failures.inc();
                if failed != trouble {
                    tracing::error!(error, "cannot look at all open connections; will try again");
                }
            }
            trouble = failed;
        }
    }
}
