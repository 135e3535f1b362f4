//! What a server is started with.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use sockpilot_identity::tls::{Oldest, Own};

#[cfg(any(test, feature = "test-support"))]
use crate::test_support::FaultPoints;
use crate::{
    auth::{self, gate::Pinned},
    grpc::{CallLimits, door::DoorLimits},
    outcome::retention::Limits,
    store::address::Address,
};

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
    /// Where nodes come in. `None`: by the same door as people, without TLS; with it, at the next port but one.
    pub node_listen: Option<SocketAddr>,
    /// `None`: nobody is asked who they are.
    pub tls: Option<Tls>,
    /// Listen for all that reach this machine without TLS.
    pub insecure: bool,
    /// How much each door takes.
    pub door_limits: DoorLimits,
    /// How much a connection and a call may ask for.
    pub call_limits: CallLimits,
    /// Labels that nodes do not say themselves.
    pub pinned: Pinned,
    /// An identity provider whose tokens are believed.
    pub oidc: Option<auth::oidc::Settings>,
    /// How much one caller may ask for.
    pub limits: auth::limits::Limits,
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
    /// How many flows are kept that were recorded on request.
    pub recorded_max: u32,
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

/// TLS, and whom it makes the server believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Authorities whose certificates are believed; PEM.
    pub authorities: PathBuf,
    /// The server's own certificate.
    pub own: Own,
    /// The oldest version that is spoken.
    pub oldest: Oldest,
    /// The trust domain of names in certificates; `None`: that of the server's own, else any.
    pub domain: Option<String>,
    /// Signs certificates of nodes; its own certificate is among the authorities.
    pub issuer_key: Option<PathBuf>,
    /// For how long a certificate of a node is valid.
    pub node_life: Duration,
}

impl Config {
    /// The defaults, on any free port of the loopback address, without metrics.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            node_listen: None,
            tls: None,
            insecure: false,
            door_limits: DoorLimits::default(),
            call_limits: CallLimits::default(),
            pinned: Pinned::default(),
            oidc: None,
            limits: auth::limits::Limits::default(),
            metrics_listen: None,
            database,
            lease: Duration::from_secs(600),
            poll: Duration::from_secs(2),
            heartbeat: Duration::from_secs(5),
            samples_max: 100_000,
            recorded_max: 500_000,
            forget_nodes_after: Some(Duration::from_secs(30 * 86_400)),
            outcomes: Limits::default(),
            leader_lease: Duration::from_secs(15),
            #[cfg(any(test, feature = "test-support"))]
            faults: FaultPoints::default(),
        }
    }
}
