//! The tasks that look at open connections, again and again: to report those that are open for long without waiting for
//! their end, and to have rules apply to connections that were open before them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    keeper::{Command, Look},
    kernel::Walker,
    metrics::{Metrics, gauge},
};

/// How often rules for open connections are applied anew: to connections that were being opened when the rules came, and to end
/// them where a lease has run out.
pub const ADJUST_EVERY: Duration = Duration::from_secs(10);
/// How often after the last of them has gone: a connection whose handshake was under way then still gets what was decided at
/// its beginning, and handshakes take three minutes at most.
pub const ADJUSTED_AFTER: u32 = 18;
/// No more than this part of the time is spent on it: where a look at all connections takes long, it is taken less often.
pub const ADJUST_SHARE: u32 = 50;

/// Walks, and tells of a trouble once.
#[derive(Debug)]
pub struct Walks {
    walker: Arc<Walker>,
    metrics: Metrics,
    trouble: Option<String>,
    unreached: u64,
}

impl Walks {
    /// Begins without trouble.
    #[must_use]
    pub fn new(walker: Walker, metrics: Metrics) -> Self {
        Self { walker: walker.into(), metrics, trouble: None, unreached: 0 }
    }

    /// Reports long flows at intervals, until stopped. A walk that takes longer puts off the next one. The keeper is told of each, so that it knows
    /// which records are of one.
    pub async fn long_flows(mut self, every: Duration, keeper: mpsc::WeakSender<Command>, stop: CancellationToken) {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    tell(&keeper, Look::Begins).await;
                    if self.once().await {
                        tell(&keeper, Look::Ended).await;
                    }
                }
                () = stop.cancelled() => return,
            }
        }
    }

    /// Applies rules to open connections: whenever something else is in force, and at intervals while `asked` and for a while
    /// after; until stopped. At the start as if they had just gone: the last daemon may not have come to it.
    pub async fn adjust(mut self, mut asked: watch::Receiver<bool>, stop: CancellationToken) {
        let mut left = ADJUSTED_AFTER;
        loop {
            left = if *asked.borrow_and_update() { ADJUSTED_AFTER } else { left.saturating_sub(1) };
            let began = Instant::now();
            self.once().await;
            let pause = ADJUST_EVERY.max(began.elapsed() * ADJUST_SHARE);
            tokio::select! {
                () = sleep(pause), if left > 0 => {}
                changed = asked.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Whether nothing went wrong.
    async fn once(&mut self) -> bool {
        let walker = self.walker.clone();
        // It enters namespaces with threads of its own, and waits for them.
        let walked = tokio::task::spawn_blocking(move || walker.walk_all()).await;
        let failed = match walked {
            Ok(Ok(namespaces)) => {
                self.metrics.namespaces_swept.set(gauge(namespaces as u64));
                None
            }
            Ok(Err(error)) => Some(format!("{:#}", anyhow::Error::from(error))),
            Err(panicked) => Some(panicked.to_string()),
        };
        if let Some(error) = &failed {
            self.metrics.kernel_failures.inc();
            if failed != self.trouble {
                tracing::error!(error, "walk over open connections failed; will try again");
            }
        }
        self.trouble = failed;
        self.say_unreached();
        self.trouble.is_none()
    }

    /// Shows how many connections were not looked at, and says so when there begin to be some.
    fn say_unreached(&mut self) {
        let connections = self.walker.unreached();
        self.metrics.connections_unreached.set(gauge(connections));
        if connections > 0 && self.unreached == 0 {
            tracing::warn!(
                connections,
                "open connections unreached: no way into their network namespaces; no live rules, no interval records"
            );
        }
        self.unreached = connections;
    }
}

/// Waits until the keeper has read what there is; it does not hold it from ending.
async fn tell(keeper: &mpsc::WeakSender<Command>, look: Look) {
    let Some(commands) = keeper.upgrade() else { return };
    let (done, read) = oneshot::channel();
    if commands.send(Command::Look { look, done }).await.is_ok() {
        drop(commands);
        let _ = read.await;
    }
}
