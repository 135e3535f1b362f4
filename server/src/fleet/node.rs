//! A node and its streams, as the server knows them. What a node answers (effective values, what it holds back, violations) is kept as
//! the message that it sent, because that is what is stored and shown.

use std::{sync::Arc, time::Duration};

use sockpilot_policy::model::Labels;
use sockpilot_proto::v1;
use uuid::Uuid;

/// What a node is enforcing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// The database's.
    pub epoch: Uuid,
    pub generation: u64,
    /// SHA-256 of the layers.
    pub hash: [u8; 32],
}

/// A content and the database epoch that it is sent under. Equal content is sent again under another epoch: what nodes have is compared
/// with generations of the epoch that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Of {
    epoch: Uuid,
    hash: [u8; 32],
}

impl Version {
    /// What it says but for the generation.
    #[must_use]
    pub fn of(&self) -> Of {
        let Self { epoch, generation: _, hash } = *self;
        Of { epoch, hash }
    }
}

/// A node that says hello.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    pub node_id: String,
    /// Where it stands among the shares.
    pub share_position: u32,
    pub labels: Labels,
    /// Of its daemon.
    pub daemon_version: String,
    /// Of its kernel.
    pub kernel: v1::KernelFacts,
    /// What it enforces.
    pub in_force: Option<Version>,
    /// What of that it does not.
    pub held_back: Vec<v1::HeldBack>,
    /// The server that it is connected to from now on, and the stream.
    pub server_id: Uuid,
    pub stream_id: Uuid,
    /// Tells its daemon from all others; `None`: it does not say.
    pub instance: Option<String>,
    /// Where the stream comes from.
    pub address: String,
    /// What it says of itself.
    pub sign: Sign,
}

/// What a node says of itself every few seconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sign {
    /// How far its clock is ahead of the database's; negative: behind. `None`: it does not say.
    pub clock_offset_ms: Option<i64>,
    /// What it could not write to its disk.
    pub not_written: Option<NotWritten>,
    /// Canaries that its circuit breaker has ended.
    pub breaker_trips: Vec<v1::BreakerTrip>,
    /// What it has found when it last looked at open connections; `None`: it does not say.
    pub open: Option<v1::OpenConnections>,
}

/// Of two clock offsets that are as near to each other, the first is told on.
const OFFSET_TELLS_MS: u64 = 100;
/// Of looks at open connections that found the same, one in so long is told.
const LOOK_TELLS: Duration = Duration::from_secs(60);

impl Sign {
    /// Whether it says what is not known by the one that was told before, so long ago.
    #[must_use]
    pub fn tells_more(&self, told: &Self, ago: Duration) -> bool {
        let Self { clock_offset_ms, not_written, breaker_trips, open } = self;
        let offset = match (clock_offset_ms, told.clock_offset_ms) {
            (Some(now), Some(before)) => now.abs_diff(before) >= OFFSET_TELLS_MS,
            (now, before) => now.is_some() || before.is_some(),
        };
        let trouble = |not_written: &Option<NotWritten>| {
            not_written.as_ref().map(|not_written| (not_written.what.clone(), not_written.reason.clone()))
        };
        let found = |open: &Option<v1::OpenConnections>| open.clone().map(|open| (open.under, open.left_out));
        offset
            || trouble(not_written) != trouble(&told.not_written)
            // Nodes say it until it has come to something.
            || !breaker_trips.is_empty()
            || *breaker_trips != told.breaker_trips
            || found(open) != found(&told.open)
            || (open.is_some() && ago >= LOOK_TELLS)
    }
}

/// What a node could not write to its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotWritten {
    /// In words of a-z.
    pub what: Vec<String>,
    pub reason: String,
    /// For how long it has been so.
    pub for_ms: i64,
}

/// What a server must know of a node that said hello.
#[derive(Debug, Clone, PartialEq)]
pub struct Registered {
    /// The database's.
    pub epoch: Uuid,
    /// The node must not be served from an older state of the fleet than this.
    pub generation: u64,
    /// Its labels, with those that are pinned.
    pub labels: Labels,
    /// Hashes of contents it refused with this kernel and daemon, and why.
    pub refused: Vec<([u8; 32], Vec<v1::RuleViolation>)>,
}

/// What becomes of a daemon that says hello.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// It is the node.
    Registered(Registered),
    /// Another one is.
    Held(Holder),
}

/// The daemon that has a node id.
#[derive(Debug, Clone, PartialEq)]
pub struct Holder {
    /// Where its stream comes from.
    pub address: String,
    /// How long ago its last contact was.
    pub last_contact_s: f64,
}

/// A node as far as it decides what it must enforce, and what becomes of it there.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownNode {
    pub labels: Labels,
    /// Where it stands among the shares.
    pub share_position: u32,
    /// Its kernel, when it last connected.
    pub kernel: v1::KernelFacts,
}

/// A node has read its layers back from its kernel tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Confirmation {
    pub node_id: String,
    /// What it enforces.
    pub version: Version,
    /// Name and revision of each layer.
    pub revisions: Arc<[(String, u64)]>,
    /// Of these, what the node cannot honour.
    pub held_back: Vec<v1::HeldBack>,
    /// Values that came out otherwise; `None`: it said so before.
    pub effective: Option<Vec<v1::EffectiveValue>>,
}

/// A node has refused a content.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotRefusal {
    pub node_id: String,
    /// SHA-256 of the layers.
    pub hash: [u8; 32],
    /// Name and revision of each layer.
    pub revisions: Arc<[(String, u64)]>,
    /// Everything that stands against it.
    pub violations: Vec<v1::RuleViolation>,
    /// Not to be sent to it again.
    pub remember: bool,
}

/// A node's stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stream {
    pub node_id: String,
    pub stream_id: Uuid,
}

/// How far a layer that is assigned to a node has come there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// The node has not answered yet.
    Pending,
    InForce,
    /// The node refuses it.
    Rejected,
    /// The node is not connected.
    Unavailable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_told() {
        let open = |looked_before_ms, connections| {
            let under = vec![v1::OpenUnder { connections, ..v1::OpenUnder::default() }];
            Some(v1::OpenConnections { looked_before_ms, under, left_out: 0 })
        };
        let trouble = |reason: &str, for_ms| {
            Some(NotWritten { what: vec!["snapshot".to_owned()], reason: reason.to_owned(), for_ms })
        };
        let told = Sign {
            clock_offset_ms: Some(-40),
            not_written: trouble("full", 1_000),
            breaker_trips: vec![],
            open: open(1, 7),
        };
        let soon = Duration::from_secs(5);
        let same =
            Sign { clock_offset_ms: Some(59), not_written: trouble("full", 6_000), open: open(3, 7), ..told.clone() };
        assert!(!same.tells_more(&told, soon));
        assert!(same.tells_more(&told, LOOK_TELLS), "when it was found, now and then");
        assert!(!Sign::default().tells_more(&Sign::default(), LOOK_TELLS), "it says nothing");
        for more in [
            Sign { clock_offset_ms: Some(60), ..told.clone() },
            Sign { clock_offset_ms: None, ..told.clone() },
            Sign { not_written: trouble("read-only", 1_000), ..told.clone() },
            Sign { not_written: None, ..told.clone() },
            Sign { breaker_trips: vec![v1::BreakerTrip::default()], ..told.clone() },
            Sign { open: open(1, 8), ..told.clone() },
        ] {
            assert!(more.tells_more(&told, soon), "{more:?}");
        }
    }
}
