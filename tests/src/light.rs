//! A node that costs next to nothing: the messages of a node, none of its other work. Where thousands share a machine with the server they
//! are measured against, what a daemon does beside them would be measured too.

use std::time::Duration;

use anyhow::{Context, Result};
use sockpilot_node::{facts, link::stream::Identity, snapshot::version::Version};
use sockpilot_proto::{
    convert::kernel_facts_to_proto,
    v1::{self, node_event::Event, node_service_client::NodeServiceClient, server_event::Event as ServerEvent},
};
use tokio::{
    sync::mpsc,
    time::{Instant, interval_at, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// Connects without TLS and takes what comes, for ever. `received` sees each snapshot; the answer follows `answer_after`, and a `part` (0 to 1)
/// of the time that the server gives later.
///
/// # Errors
/// If the server ends it.
pub async fn live(
    url: String,
    identity: Identity,
    answer_after: Duration,
    part: f64,
    received: impl Fn(&v1::Snapshot),
) -> Result<()> {
    let channel = Endpoint::from_shared(url)?.connect().await.context("connecting a light node")?;
    let mut client = NodeServiceClient::new(channel);
    let (events, outgoing) = mpsc::channel(4);
    events.send(event(Event::Hello(hello(identity)?))).await?;
    let mut incoming = client.connect(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut alive = interval_at(Instant::now() + ALIVE_EVERY, ALIVE_EVERY);
    loop {
        let message = tokio::select! {
            message = incoming.message() => message?.context("the server has ended a light node's stream")?,
            _ = alive.tick() => {
                events.send(event(Event::Alive(v1::Alive::default()))).await?;
                continue;
            }
        };
        let Some(ServerEvent::Snapshot(snapshot)) = message.event else { continue };
        received(&snapshot);
        let within = Duration::from_millis(snapshot.answer_within_ms.into());
        sleep(answer_after + within.mul_f64(part)).await;
        let version = Version::from_proto(snapshot.version.as_ref())?.to_proto();
        events.send(event(Event::Ack(v1::Ack { version: Some(version), apply_us: 1, ..v1::Ack::default() }))).await?;
    }
}

fn hello(Identity { node_id, labels, instance }: Identity) -> Result<v1::Hello> {
    let kernel = Some(kernel_facts_to_proto(&facts::read()?));
    let alive = Some(v1::Alive::default());
    Ok(v1::Hello { node_id, labels, instance, kernel, alive, ..v1::Hello::default() })
}

fn event(event: Event) -> v1::NodeEvent {
    v1::NodeEvent { event: Some(event) }
}
