//! A node with the daemon's own stream and report code, over real gRPC; what is in the place of its keeper and kernel is played.

use std::{sync::Arc, time::Duration};

use sockpilot_identity::{files::Watched, tls::ClientTls};
use sockpilot_node::{
    keeper::{self, Ends},
    link::{
        connect,
        reporter::Reporter,
        stream::{Identity, Stream},
    },
    metrics::Metrics,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a played node is told.
#[derive(Debug)]
pub struct Played {
    /// Of the server.
    pub url: String,
    /// `None`: it is not spoken.
    pub tls: Option<Arc<Watched<ClientTls>>>,
    /// Who it is.
    pub identity: Identity,
    /// How often it reports.
    pub report_every: Duration,
    /// What it counts.
    pub metrics: Metrics,
}

impl Played {
    /// Lives as the daemon wires it, until stopped. `keep` plays the keeper at the other ends of its commands.
    pub async fn live<K: Future<Output = ()>>(self, stop: CancellationToken, keep: impl FnOnce(Ends) -> K) {
        let Self { url, tls, identity, report_every: every, metrics } = self;
        let Ok(server) = url.parse() else { return };
        let (handle, ends) = keeper::channel();
        let Ok(channel) = connect::channel(&server, tls, handle.commands.downgrade()) else { return };
        let (_moves, channel) = watch::channel(channel);
        let (connected, watched) = watch::channel(false);
        let reporter = Reporter {
            channel: channel.clone(),
            keeper: handle.clone(),
            connected: watched,
            every,
            metrics: metrics.clone(),
        };
        let stream = Stream { channel, identity, keeper: handle, connected, metrics };
        tokio::join!(stream.run(stop.clone()), reporter.run(stop), keep(ends));
    }
}
