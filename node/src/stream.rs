//! The stream to the server: snapshots come, answers go. It ends and begins again for ever; what is in force stays so.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use sockpilot_proto::v1::{
    self, node_event::Event, node_service_client::NodeServiceClient, server_event::Event as ServerEvent,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};
use tracing::Instrument;

use crate::{
    backoff, facts,
    keeper::{Command, Handle},
    ledger::Version,
    metrics::Metrics,
};

const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Four heartbeats of the server.
const SILENCE_MAX: Duration = Duration::from_secs(20);
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A stream that has lived so long was no failure: the next wait begins small again.
const LIFE_MIN: Duration = Duration::from_secs(10);
/// Answers and signs of life that wait for the server to read them.
const EVENTS_MAX: usize = 16;
/// Rules of 64 layers with all their prefixes.
const SNAPSHOT_BYTES_MAX: usize = 64 << 20;

/// The daemon as the server sees it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Stable over restarts.
    pub node_id: String,
    /// What selections of nodes go by.
    pub labels: HashMap<String, String>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Stream {
    /// Where to.
    pub channel: Channel,
    /// Who.
    pub identity: Identity,
    /// Who puts snapshots in force.
    pub keeper: Handle,
    /// Told whether the server is heard.
    pub connected: watch::Sender<bool>,
    /// What is counted.
    pub metrics: Metrics,
}

/// Why one stream has ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the daemon ends")]
    Stopped,
    #[error("this node's kernel does not tell what it can do")]
    Facts(#[source] facts::FactsError),
    #[error("the server closed the stream")]
    Closed,
    #[error("the server was silent for {} s", SILENCE_MAX.as_secs())]
    Silent,
    #[error("the server reads no answers")]
    Stuck,
    #[error("{}: {}", .0.code(), .0.message())]
    Failed(Box<Status>),
}

impl Stream {
    /// Connects, again and again, until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut attempt = 0_u32;
        while !stop.is_cancelled() {
            let began = Instant::now();
            let span = tracing::info_span!("stream", attempt);
            let end = self.connect(&stop).instrument(span).await;
            self.connected.send_replace(false);
            self.metrics.connected.set(0);
            self.metrics.streams_ended.inc();
            if matches!(end, End::Stopped) {
                return;
            }
            if began.elapsed() >= LIFE_MIN {
                attempt = 0;
            }
            let wait = backoff::delay(attempt, rand::random());
            tracing::warn!(%end, attempt, ?wait, "not connected; what is in force stays so");
            attempt = attempt.saturating_add(1);
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn connect(&self, stop: &CancellationToken) -> End {
        let (events, outbound) = mpsc::channel(EVENTS_MAX);
        let hello = match self.hello() {
            Ok(hello) => hello,
            Err(error) => return End::Facts(error),
        };
        // There is room: the channel is new.
        let _ = events.try_send(event(Event::Hello(hello)));
        let mut client = NodeServiceClient::new(self.channel.clone()).max_decoding_message_size(SNAPSHOT_BYTES_MAX);
        let connected = tokio::select! {
            connected = timeout(ANSWER_MAX, client.connect(ReceiverStream::new(outbound))) => connected,
            () = stop.cancelled() => return End::Stopped,
        };
        match connected {
            Err(_) => End::Silent,
            Ok(Err(status)) => End::Failed(Box::new(status)),
            Ok(Ok(response)) => self.listen(response.into_inner(), &events, stop).await,
        }
    }

    fn hello(&self) -> Result<v1::Hello, facts::FactsError> {
        let Identity { node_id, labels } = self.identity.clone();
        Ok(v1::Hello {
            node_id,
            labels,
            daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: Some(sockpilot_proto::convert::kernel_facts_to_proto(&facts::read()?)),
            in_force: self.keeper.in_force.borrow().as_ref().map(Version::to_proto),
        })
    }

    async fn listen(
        &self,
        mut inbound: Streaming<v1::ServerEvent>,
        events: &mpsc::Sender<v1::NodeEvent>,
        stop: &CancellationToken,
    ) -> End {
        let mut alive = interval_at(tokio::time::Instant::now() + ALIVE_EVERY, ALIVE_EVERY);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silence = Box::pin(sleep(SILENCE_MAX));
        loop {
            let received = tokio::select! {
                received = inbound.message() => received,
                _ = alive.tick() => {
                    // Without room the server has unread signs of life enough.
                    let _ = events.try_send(event(Event::Alive(v1::Alive {})));
                    continue;
                }
                () = &mut silence => return End::Silent,
                () = stop.cancelled() => return End::Stopped,
            };
            let received = match received {
                Ok(Some(received)) => received,
                Ok(None) => return End::Closed,
                Err(status) => return End::Failed(Box::new(status)),
            };
            self.heard();
            if let Some(ServerEvent::Snapshot(snapshot)) = received.event {
                let Some(answer) = self.offer(snapshot).await else { return End::Stopped };
                if events.send_timeout(event(answer), ANSWER_MAX).await.is_err() {
                    return End::Stuck;
                }
            }
            silence.as_mut().reset(tokio::time::Instant::now() + SILENCE_MAX);
        }
    }

    fn heard(&self) {
        self.keeper.heard.notify_one();
        if !self.connected.send_replace(true) {
            self.metrics.connected.set(1);
            tracing::info!("connected");
        }
    }

    /// `None` if the keeper has ended.
    async fn offer(&self, snapshot: v1::Snapshot) -> Option<Event> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Offer { snapshot, received: Instant::now(), answer };
        self.keeper.commands.send(command).await.ok()?;
        answered.await.ok()
    }
}

fn event(event: Event) -> v1::NodeEvent {
    v1::NodeEvent { event: Some(event) }
}
