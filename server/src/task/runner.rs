//! Runs a task: when its period is over, when something wakes it, and soon again when it failed.

use std::time::{Duration, Instant, SystemTime};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Board, Supervisor, Task};
#[cfg(any(test, feature = "test-support"))]
use crate::test_support::FaultPoints;

/// What all tasks of a server share.
#[derive(Debug, Clone)]
pub struct Runner {
    /// Where their runs are noted.
    pub board: Board,
    /// Ends them, between two runs.
    pub stop: CancellationToken,
    /// What befalls them in tests.
    #[cfg(any(test, feature = "test-support"))]
    pub faults: FaultPoints,
}

impl Runner {
    /// Has a task run under a supervisor. The first run begins at once.
    pub fn start(&self, supervisor: &mut Supervisor, task: impl Task) {
        let (this, spec) = (self.clone(), task.spec());
        self.board.add(spec);
        supervisor.spawn(spec.name, async move { this.run(task).await });
    }

    async fn run(self, mut task: impl Task) {
        let spec = task.spec();
        let (mut pause, mut failed) = (Duration::ZERO, false);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = sleep(pause) => {}
                // What failed is not hurried: whatever wakes it may do so all the time.
                () = task.activated(), if !failed => {}
            }
            let (start, began) = (SystemTime::now(), Instant::now());
            self.board.began(spec.name, start);
            #[cfg(any(test, feature = "test-support"))]
            self.faults.reach(spec.name).await;
            let result = task.run().await;
            self.board.ended(spec.name, start, began.elapsed(), &result);
            failed = result.is_err();
            pause = if failed { spec.retry_after } else { spec.period };
        }
    }
}
