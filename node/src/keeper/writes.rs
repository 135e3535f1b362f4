//! What came of writes to the state directory: counted, logged once, and owed where they failed.

use std::{io, time::Instant};

use crate::{
    disk::owed::{Change, NotWritten, Owed, What},
    metrics::{ByWhat, Metrics},
};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Writes {
    owed: Owed,
    metrics: Metrics,
}

impl Writes {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { owed: Owed::default(), metrics }
    }

    /// Notes what came of a write, and logs it if it is new.
    pub(super) fn note(&mut self, what: What, result: &io::Result<()>) {
        let now = Instant::now();
        let age = self.owed.age(what, now);
        if let Err(error) = result {
            self.metrics.state_failures.inc();
            if self.owed.note(what, result, now, rand::random()) == Change::Owed {
                tracing::error!(%what, %error, "state write failed; owed, will retry");
            }
        } else if self.owed.note(what, result, now, 0.0) == Change::Settled {
            tracing::info!(%what, ?age, "owed state written");
        }
        let owed = self.is_owed(what);
        self.metrics.owed.get_or_create(&ByWhat { what: what.name() }).set(owed.into());
    }

    /// Whether it is not on disk.
    pub(super) fn is_owed(&self, what: What) -> bool {
        self.owed.age(what, Instant::now()).is_some()
    }

    /// Whether it is too early to try this again.
    pub(super) fn waits(&self, what: What) -> bool {
        self.owed.waits(what, Instant::now())
    }

    /// Everything that is not on disk.
    pub(super) fn not_written(&self) -> Option<NotWritten> {
        self.owed.not_written()
    }
}
