//! Earlier kernel sides, of other layouts: until their connections are gone, or a bound is reached.

use std::time::Duration;

use sockpilot_policy::layout::PENDING_NS_MAX;

use super::Keeper;
use crate::{
    chain,
    kernel::{Draining, KernelError},
    metrics::gauge,
};

/// How long a handshake may take that an earlier side has decided.
const HANDSHAKES: Duration = Duration::from_nanos(PENDING_NS_MAX);

/// Whether an earlier side has nothing to do any more, or has had its time.
fn is_over(side: &Draining, limit: Duration) -> bool {
    let done = side.open == 0 && !side.unread && side.relieved_for >= HANDSHAKES;
    done || side.relieved_for >= limit
}

impl Keeper {
    /// Ends the earliest side when it is over. In this order: nothing runs it any more, everything is read, that and what is lost is on disk,
    /// it is removed. So a daemon that is killed in between goes on where it was.
    pub(super) fn look_at_earlier(&mut self) {
        if let Err(error) = self.end_earlier() {
            self.metrics.kernel_failures.inc();
            tracing::warn!(error = chain(&error), "cannot end an earlier kernel side; will try again");
        }
    }

    fn end_earlier(&mut self) -> Result<(), KernelError> {
        let draining = self.kernel.earlier()?;
        let open = draining.iter().map(|side| side.open).sum();
        self.metrics.sides_draining.set(gauge(draining.len() as u64));
        self.metrics.connections_draining.set(gauge(open));
        if draining.is_empty() {
            return Ok(());
        }
        self.recorder.note_earlier_dropped(&draining);
        if let Some(first) = draining.first().filter(|first| !first.retired && is_over(first, self.handover_limit)) {
            self.kernel.retire(first.number)?;
        }
        if self.kernel.earlier()?.iter().any(|side| side.retired) {
            self.drain();
        }
        for side in self.kernel.earlier()?.into_iter().filter(|side| side.retired && !side.unread) {
            self.recorder.note_earlier_dropped(std::slice::from_ref(&side));
            // It is owed, and tried again.
            if self.recorder.end_earlier(&side, &mut self.writes).is_err() {
                continue;
            }
            self.kernel.forget(side.number)?;
            let Draining { number, layout, open: lost, .. } = side;
            match lost {
                0 => tracing::info!(number, layout, "earlier kernel side ended"),
                _ => tracing::warn!(
                    number,
                    layout,
                    lost,
                    "earlier kernel side ended with connections open; no record of them"
                ),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_ends_with_its_connections_and_handshakes_or_at_the_limit() {
        let side = |open, unread, relieved_s| Draining {
            number: 1,
            layout: 7,
            identity: String::new(),
            open,
            dropped: 0,
            unread,
            relieved_for: Duration::from_secs(relieved_s),
            retired: false,
        };
        let limit = Duration::from_secs(3_600);
        assert!(!is_over(&side(0, false, 0), limit), "it is in charge, or a handshake may be under way");
        assert!(!is_over(&side(1, false, 3_599), limit));
        assert!(!is_over(&side(0, true, 181), limit));
        assert!(is_over(&side(0, false, 181), limit));
        assert!(is_over(&side(1, true, 3_600), limit));
    }
}
