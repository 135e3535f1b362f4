//! How others reach the keeper.

use std::{sync::Arc, time::Instant};

use sockpilot_proto::v1::{self, node_event::Event};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    clock::ServerTime,
    disk::owed::NotWritten,
    records::{on_request::Wanted, open::Open},
    snapshot::version::Version,
};

/// Commands that may wait.
const COMMANDS_MAX: usize = 16;

/// What others ask of the keeper.
#[derive(Debug)]
pub enum Command {
    /// A server offers a snapshot. The answer is `Ack` or `Nack`.
    Offer {
        /// As it came.
        snapshot: v1::Snapshot,
        /// When.
        received: Instant,
        /// Where the answer goes.
        answer: oneshot::Sender<Event>,
    },
    /// The daemon's own socket to the server, before it connects: no policy is for it, so that an absurd one can be
    /// taken back.
    Exempt {
        /// SO_COOKIE.
        cookie: u64,
        /// Answered when it is done, or cannot be.
        done: oneshot::Sender<()>,
    },
    /// The next report is wanted, with all records up to now.
    Report {
        /// Where it goes; `None` if there is nothing new.
        answer: oneshot::Sender<Option<v1::FlowReport>>,
    },
    /// A look at all open connections is about to begin, or has ended: what was recorded of them up to now is read, and counts for one that has
    /// ended. Who looks waits for it, so that looks are told from each other.
    Look {
        /// What came of it.
        look: Look,
        /// Answered when everything is read.
        done: oneshot::Sender<()>,
    },
    /// The server has a report, or will never take it.
    Confirm {
        /// Of which kernel tables.
        boot_id: String,
        /// Up to which report.
        sequence: u64,
    },
}

/// How far a look at all open connections is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It begins.
    Begins,
    /// It has seen all connections that there is a way to.
    Ended,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq)]
pub struct InForce {
    /// Of the snapshot that a server has offered.
    pub version: Version,
    /// What of it is not.
    pub held_back: Vec<v1::HeldBack>,
}

/// How others reach the keeper. When all are gone, the keeper ends.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Commands, in order.
    pub commands: mpsc::Sender<Command>,
    /// Changes at each contact with a server: the newest time that one has said.
    pub contact: Arc<watch::Sender<Option<ServerTime>>>,
    /// Which flows are to be recorded one by one, as a server has said last.
    pub recording: Arc<watch::Sender<Option<Wanted>>>,
    /// What is in force.
    pub in_force: watch::Receiver<Option<InForce>>,
    /// Whether rules in force are for open connections too. Changes whenever such rules come, change or go.
    pub asked_open: watch::Receiver<bool>,
    /// What should be on disk and is not.
    pub not_written: watch::Receiver<Option<NotWritten>>,
    /// The last answer to a snapshot that was refused at first, because the kernel failed, and tried again since.
    pub late: watch::Receiver<Option<Event>>,
    /// What would be acknowledged of what is in force now: cgroups come and go, and what is held back is tried again.
    pub acted_on: watch::Receiver<Option<v1::Ack>>,
    /// The canaries in force that the circuit breaker has ended.
    pub breaker_trips: watch::Receiver<Vec<v1::BreakerTrip>>,
    /// What the last look at all open connections has found.
    pub open: watch::Receiver<Option<Open>>,
}

/// The keeper's ends of a [`Handle`].
#[derive(Debug)]
pub struct Ends {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) contact: watch::Receiver<Option<ServerTime>>,
    pub(super) recording: watch::Receiver<Option<Wanted>>,
    pub(super) in_force: watch::Sender<Option<InForce>>,
    pub(super) asked_open: watch::Sender<bool>,
    pub(super) not_written: watch::Sender<Option<NotWritten>>,
    pub(super) late: watch::Sender<Option<Event>>,
    pub(super) acted_on: watch::Sender<Option<v1::Ack>>,
    pub(super) breaker_trips: watch::Sender<Vec<v1::BreakerTrip>>,
    pub(super) open: watch::Sender<Option<Open>>,
}

/// A handle and its other ends.
#[must_use]
pub fn channel() -> (Handle, Ends) {
    let (commands, received) = mpsc::channel(COMMANDS_MAX);
    let (in_force, watched) = watch::channel(None);
    let (asked_open, watched_open) = watch::channel(false);
    let (not_written, watched_not_written) = watch::channel(None);
    let (late, watched_late) = watch::channel(None);
    let (contact, watched_contact) = watch::channel(None);
    let (recording, watched_recording) = watch::channel(None);
    let (acted_on, watched_acted_on) = watch::channel(None);
    let (breaker_trips, watched_trips) = watch::channel(vec![]);
    let (open, watched_found) = watch::channel(None);
    let handle = Handle {
        commands,
        contact: Arc::new(contact),
        recording: Arc::new(recording),
        in_force: watched,
        asked_open: watched_open,
        not_written: watched_not_written,
        late: watched_late,
        acted_on: watched_acted_on,
        breaker_trips: watched_trips,
        open: watched_found,
    };
    let (commands, contact, recording) = (received, watched_contact, watched_recording);
    (
        handle,
        Ends { commands, contact, recording, in_force, asked_open, not_written, late, acted_on, breaker_trips, open },
    )
}

impl Ends {
    /// The next command. For tests that stand in for the keeper.
    pub async fn next_command(&mut self) -> Option<Command> {
        self.commands.recv().await
    }

    /// Says what is in force.
    pub fn set_in_force(&self, in_force: Option<InForce>) {
        self.in_force.send_replace(in_force);
    }

    /// Says what has become of a snapshot that was tried again.
    pub fn answer_late(&self, answer: Event) {
        self.late.send_replace(Some(answer));
    }

    /// Says which canaries the circuit breaker has ended.
    pub fn set_trips(&self, trips: Vec<v1::BreakerTrip>) {
        self.breaker_trips.send_replace(trips);
    }

    /// Says what would be acknowledged now.
    pub fn set_acted_on(&self, acknowledged: Option<v1::Ack>) {
        self.acted_on.send_if_modified(|known| {
            let changed = *known != acknowledged;
            *known = acknowledged;
            changed
        });
    }
}
