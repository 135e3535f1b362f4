//! Snapshots that the kernel did not take for a reason that may pass: kept, and tried again until something newer comes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sockpilot_proto::v1::{self, node_event::Event};
use tokio::time::sleep_until;

use super::{Enforcer, Reach};
use crate::{
    backoff, chain,
    kernel::KernelError,
    snapshot::{answer::about_all, version::Version},
};

/// Why a snapshot is not in force.
#[derive(Debug)]
pub(super) enum Failure {
    /// The snapshot or its time is wrong: trying again leads to the same.
    Refused(Vec<v1::RuleViolation>),
    /// The kernel has failed this once.
    Kernel(KernelError),
}

impl From<Vec<v1::RuleViolation>> for Failure {
    fn from(violations: Vec<v1::RuleViolation>) -> Self {
        Self::Refused(violations)
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        let passes = match error {
            KernelError::File { .. } | KernelError::Call { .. } | KernelError::ReadBack(_) => true,
            // These need a person, who starts the daemon anew.
            KernelError::Load(_)
            | KernelError::Btf(_)
            | KernelError::Names
            | KernelError::Breakers
            | KernelError::OtherLayout { .. }
            | KernelError::OtherCgroup { .. }
            | KernelError::NoCgroup => false,
        };
        if passes { Self::Kernel(error) } else { Self::Refused(about_all(not_filled(&error))) }
    }
}

fn not_filled(error: &KernelError) -> String {
    format!("the kernel tables cannot be filled: {}", chain(error))
}

/// What is reported to a server of a snapshot that is tried again.
pub(super) fn goes_on(error: &KernelError) -> String {
    format!("{}; this node tries again until they can, or something newer comes", not_filled(error))
}

/// A snapshot to try again.
#[derive(Debug)]
pub(in crate::keeper) struct Waiting {
    version: Version,
    layers: Bytes,
    /// When a server offered it, and so waits to hear of it; `None` if it is the daemon's own from before.
    received: Option<Instant>,
    /// Tries so far, without the first.
    tries: u32,
    /// When to try next.
    due: Instant,
}

impl Waiting {
    /// After the first failure. `random` is in [0, 1).
    fn new(version: Version, layers: Bytes, received: Option<Instant>, now: Instant, random: f64) -> Self {
        Self { version, layers, received, tries: 0, due: now + backoff::delay(0, random) }
    }

    /// After one more failure.
    fn again(self, now: Instant, random: f64) -> Self {
        let tries = self.tries.saturating_add(1);
        Self { tries, due: now + backoff::delay(tries, random), ..self }
    }

    /// How long until the next try.
    fn wait(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }
}

/// Ends when it is time to try again; never, if nothing waits.
pub(in crate::keeper) async fn due(waiting: Option<&Waiting>) {
    match waiting.map(|waiting| waiting.due) {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

impl Enforcer {
    /// Keeps a snapshot that the kernel did not take, to try it again.
    pub(super) fn wait(&mut self, version: Version, layers: Bytes, received: Option<Instant>, error: &KernelError) {
        let now = Instant::now();
        let waiting = Waiting::new(version, layers, received, now, rand::random());
        let (version, wait) = (&waiting.version, waiting.wait(now));
        tracing::error!(%version, ?wait, error = chain(error), "snapshot not taken by the kernel; will retry");
        self.waiting = Some(waiting);
    }

    /// Tries the snapshot that waits. Answers with what the server that offered it must hear, if it is settled.
    pub(in crate::keeper) fn try_again(&mut self, reach: &mut Reach<'_>) -> Option<Event> {
        let waiting = self.waiting.take()?;
        self.metrics.retries.inc();
        let Waiting { version, layers, received, .. } = &waiting;
        match (self.apply(reach, version, layers), received) {
            (Ok(_), Some(received)) => Some(self.applied(reach.kernel, version, *received, None)),
            (Ok(_), None) => {
                tracing::info!(%version, "stored snapshot in force");
                None
            }
            (Err(Failure::Refused(violations)), _) => {
                let answer = self.nack("refused", Some(version.to_proto()), violations);
                received.map(|_| answer)
            }
            (Err(Failure::Kernel(error)), _) => {
                let now = Instant::now();
                let waiting = waiting.again(now, rand::random());
                let (version, wait) = (&waiting.version, waiting.wait(now));
                tracing::warn!(%version, ?wait, error = chain(&error), "snapshot still not taken by the kernel; will retry");
                self.waiting = Some(waiting);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::snapshot::version::HASH_BYTES;

    #[test]
    fn tries_come_ever_more_seldom_up_to_a_bound() {
        let version = Version { database_epoch: "e".into(), generation: 1, content_hash: [0; HASH_BYTES] };
        let now = Instant::now();
        let mut waiting = Waiting::new(version, Bytes::new(), None, now, 1.0);
        let mut waits = vec![];
        for _ in 0..9 {
            waits.push(waiting.wait(now).as_millis());
            waiting = waiting.again(now, 1.0);
        }
        assert_eq!(waits, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let full = io::ErrorKind::OutOfMemory.into();
        let call = KernelError::Call { call: "BPF_MAP_UPDATE_ELEM", subject: "RULES".to_owned(), source: full };
        for passing in [call, KernelError::ReadBack("RULES")] {
            assert!(matches!(passing.into(), Failure::Kernel(_)));
        }
        assert!(matches!(KernelError::Names.into(), Failure::Refused(_)));
    }
}
