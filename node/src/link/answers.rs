//! Answers to snapshots, in an order that the server understands.

use std::time::Duration;

use sockpilot_proto::v1::{self, node_event::Event};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::end::End;
use crate::clock::micros;

/// How long a server may take to read one.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// An answer is not put off for longer, whatever a server asks for.
const WITHIN_MAX: Duration = Duration::from_secs(5);

/// How long an answer waits if the server gives it so much time: half of it, and a `share` (0 to 1) of the other half.
#[must_use]
pub fn wait(within: Duration, share: f64) -> Duration {
    within.min(WITHIN_MAX).mul_f64(0.5 + share / 2.0)
}

/// An answer that is put off.
pub(super) struct Owed {
    since: Instant,
    at: Instant,
    version: Option<v1::SnapshotVersion>,
    answer: Event,
}

/// The way of answers to the server.
pub(super) struct Answers<'a> {
    pub(super) events: mpsc::Sender<v1::NodeEvent>,
    /// What has become of a snapshot after its first answer.
    pub(super) late: watch::Receiver<Option<Event>>,
    /// What the server knows this node to have had at the hello, or has offered since.
    pub(super) last: Option<v1::SnapshotVersion>,
    /// What there is to acknowledge now.
    pub(super) acted_on: watch::Receiver<Option<v1::Ack>>,
    /// The last acknowledgement that was sent, on whichever stream.
    pub(super) acked: &'a mut Option<v1::Ack>,
    /// Goes before everything else.
    pub(super) owed: Option<Owed>,
}

impl Answers<'_> {
    /// The answer to a snapshot that was just offered, sent in the second half of the time that the server gives, earlier or later by `share`
    /// (0 to 1). A late one to the snapshot before goes first, one to this one follows.
    pub(super) async fn send_within(
        &mut self,
        (version, within): (Option<v1::SnapshotVersion>, Duration),
        share: f64,
        answer: Event,
    ) -> Result<(), End> {
        self.send_owed().await?;
        let late = self.late.borrow().as_ref().and_then(version_of).cloned();
        if late != version && self.late.has_changed().unwrap_or(false) {
            self.send_last().await?;
        }
        // A refusal is news that somebody may wait for.
        let wait = if matches!(answer, Event::Nack(_)) { Duration::ZERO } else { wait(within, share) };
        if wait.is_zero() {
            return self.send(version, answer).await;
        }
        let since = Instant::now();
        self.owed = Some(Owed { since, at: since + wait, version, answer });
        Ok(())
    }

    /// When what is owed is to be sent.
    pub(super) fn due(&self) -> Option<Instant> {
        self.owed.as_ref().map(|owed| owed.at)
    }

    pub(super) async fn send_owed(&mut self) -> Result<(), End> {
        match self.owed.take() {
            Some(Owed { since, at: _, version, mut answer }) => {
                if let Event::Ack(ack) = &mut answer {
                    ack.put_off_us = micros(since.elapsed());
                }
                self.send(version, answer).await
            }
            None => Ok(()),
        }
    }

    async fn send(&mut self, version: Option<v1::SnapshotVersion>, answer: Event) -> Result<(), End> {
        self.last = version;
        self.send_now(answer).await
    }

    pub(super) async fn send_late(&mut self) -> Result<(), End> {
        self.send_owed().await?;
        self.send_last().await
    }

    async fn send_last(&mut self) -> Result<(), End> {
        let late = self.late.borrow_and_update().clone();
        match late {
            Some(answer) if version_of(&answer) == self.last.as_ref() => self.send_now(answer).await,
            // The server does not know of this version. The next hello tells.
            Some(Event::Ack(_)) => Err(End::Outdated),
            _ => Ok(()),
        }
    }

    /// Acknowledges once more if what is in force acts on other cgroups than was said, or less is held back; not oftener than signs of life are sent,
    /// however often a service restarts.
    pub(super) async fn send_changed(&mut self) -> Result<(), End> {
        self.send_owed().await?;
        let now = self.acted_on.borrow().clone();
        match now {
            Some(now) if now.version == self.last && self.acked.as_ref() != Some(&now) => {
                self.send_now(Event::Ack(now)).await
            }
            _ => Ok(()),
        }
    }

    async fn send_now(&mut self, answer: Event) -> Result<(), End> {
        if let Event::Ack(ack) = &answer {
            *self.acked = Some(v1::Ack { apply_us: 0, stages: None, put_off_us: 0, ..ack.clone() });
        }
        self.events.send_timeout(event(answer), ANSWER_MAX).await.map_err(|_| End::Stuck)
    }
}

fn version_of(answer: &Event) -> Option<&v1::SnapshotVersion> {
    match answer {
        Event::Ack(ack) => ack.version.as_ref(),
        Event::Nack(nack) => nack.version.as_ref(),
        Event::Hello(_) | Event::Alive(_) => None,
    }
}

pub(super) fn event(event: Event) -> v1::NodeEvent {
    v1::NodeEvent { event: Some(event) }
}
