//! A node that costs next to nothing: the messages of a node, none of its other work. Where thousands share a machine with the server they
//! are measured against, what a daemon does beside them would be measured too.

use std::time::Duration;

use anyhow::{Context, Result};
use sockpilot_node::link::answers;
use sockpilot_proto::v1::{
    self, node_event::Event, node_service_client::NodeServiceClient, server_event::Event as ServerEvent,
};
use tokio::{
    sync::mpsc,
    time::{Instant, interval_at, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// One stream of such a node, for whoever decides what is said on it.
#[derive(Debug)]
pub struct Stream {
    events: mpsc::Sender<v1::NodeEvent>,
    incoming: Streaming<v1::ServerEvent>,
}

impl Stream {
    /// Opens it and says hello.
    ///
    /// # Errors
    /// What the server says.
    pub async fn open(client: &mut NodeServiceClient<Channel>, hello: v1::Hello) -> Result<Self> {
        let (events, outgoing) = mpsc::channel(4);
        events.send(v1::NodeEvent { event: Some(Event::Hello(hello)) }).await?;
        let incoming = client.connect(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { events, incoming })
    }

    /// What the server says next.
    ///
    /// # Errors
    /// If it ends the stream.
    pub async fn next(&mut self) -> Result<Option<ServerEvent>> {
        Ok(self.incoming.message().await?.context("the server has ended the stream")?.event)
    }

    /// Says that it is there.
    ///
    /// # Errors
    /// If the stream is over.
    pub async fn alive(&self) -> Result<()> {
        self.say(Event::Alive(v1::Alive::default())).await
    }

    /// Confirms a snapshot.
    ///
    /// # Errors
    /// If the stream is over.
    pub async fn ack(&self, version: Option<v1::SnapshotVersion>) -> Result<()> {
        self.say(Event::Ack(v1::Ack { version, apply_us: 1, ..v1::Ack::default() })).await
    }

    async fn say(&self, event: Event) -> Result<()> {
        self.events.send(v1::NodeEvent { event: Some(event) }).await.context("the stream is over")
    }
}

/// Takes what comes, until the server ends it. `received` sees each snapshot; the answer follows `answer_after`, and in the second
/// half of the time that the server gives later, by `share` (0 to 1).
///
/// # Errors
/// Why it has ended.
pub async fn live(
    channel: Channel,
    hello: v1::Hello,
    answer_after: Duration,
    share: f64,
    received: impl Fn(&v1::Snapshot),
) -> Result<()> {
    let mut stream = Stream::open(&mut NodeServiceClient::new(channel), hello).await?;
    let mut alive = interval_at(Instant::now() + ALIVE_EVERY, ALIVE_EVERY);
    loop {
        let event = tokio::select! {
            event = stream.next() => event?,
            _ = alive.tick() => {
                stream.alive().await?;
                continue;
            }
        };
        let Some(ServerEvent::Snapshot(snapshot)) = event else { continue };
        received(&snapshot);
        let within = Duration::from_millis(snapshot.answer_within_ms.into());
        sleep(answer_after + answers::wait(within, share)).await;
        stream.ack(snapshot.version).await?;
    }
}
