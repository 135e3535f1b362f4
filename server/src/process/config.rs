//! What a server is started with.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

#[cfg(any(test, feature = "test-support"))]
use crate::test_support::FaultPoints;
use crate::{outcome::retention::Limits, store::address::Address};

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// As in `DATABASE_URL`.
    At(Address),
    /// A private one, with its data below this directory.
    Embedded {
        /// The server's state directory.
        state_dir: PathBuf,
    },
}

/// What a server is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen for gRPC. Port 0: any free one, see [`Running::address`](super::running::Running::address).
    pub listen: SocketAddr,
    /// Where to listen for Prometheus; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    pub database: Database,
    /// Lease of canary and experiment layers.
    pub lease: Duration,
    /// How often to look for changes without a notification.
    pub poll: Duration,
    /// How often a node gets a heartbeat.
    pub heartbeat: Duration,
    /// How many flow samples are kept.
    pub samples_max: u32,
    /// For how long a node may be silent before it is removed; for ever if absent.
    pub forget_nodes_after: Option<Duration>,
    /// What is kept of outcomes.
    pub outcomes: Limits,
    /// How long a server that acts for the whole fleet may be silent before another takes its place.
    pub leader_lease: Duration,
    /// What befalls background tasks in tests.
    #[cfg(any(test, feature = "test-support"))]
    pub faults: FaultPoints,
}

impl Config {
    /// The defaults, on any free port of the loopback address, without metrics.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            metrics_listen: None,
            database,
            lease: Duration::from_secs(600),
            poll: Duration::from_secs(2),
            heartbeat: Duration::from_secs(5),
            samples_max: 100_000,
            forget_nodes_after: Some(Duration::from_secs(30 * 86_400)),
            outcomes: Limits::default(),
            leader_lease: Duration::from_secs(15),
            #[cfg(any(test, feature = "test-support"))]
            faults: FaultPoints::default(),
        }
    }
}
