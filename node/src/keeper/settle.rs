//! What could not be written to disk is tried again until it can.

use std::{io, time::Instant};

use super::Keeper;
use crate::{
    metrics::ByWhat,
    owed::{Change, What},
};

impl Keeper {
    /// Tries again whatever is owed and due, and looks whether what was written is still there.
    pub(super) fn settle(&mut self) {
        let now = Instant::now();
        for what in What::ALL {
            if self.owed.waits(what, now) {
                continue;
            }
            let result = match what {
                What::Snapshot => self.snapshots.settle(),
                What::Choices => self.collector.settle_choices(),
                What::Outcomes => self.collector.settle_books(),
                What::Removals => self.collector.settle_removals(),
            };
            self.note(what, &result);
        }
    }

    /// The snapshot in force is brought to disk.
    pub(super) fn settle_snapshot(&mut self) {
        let result = self.snapshots.settle();
        self.note(What::Snapshot, &result);
    }

    /// Notes what came of a write, and says it if it is new.
    pub(super) fn note(&mut self, what: What, result: &io::Result<()>) {
        let now = Instant::now();
        let age = self.owed.age(what, now);
        if let Err(error) = result {
            self.metrics.state_failures.inc();
            if self.owed.note(what, result, now, rand::random()) == Change::Owed {
                tracing::error!(%what, %error, "not written to the state directory; owed, and tried again until it is");
            }
        } else if self.owed.note(what, result, now, 0.0) == Change::Settled {
            tracing::info!(%what, ?age, "written to the state directory at last");
        }
        let owed = self.owed.age(what, now).is_some();
        self.metrics.owed.get_or_create(&ByWhat { what: what.name() }).set(owed.into());
    }
}
