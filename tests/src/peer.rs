//! A node made of nothing: it says to a real server exactly what a test says, and remembers what the server sends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use sockpilot_proto::v1::{self, node_event, node_service_client::NodeServiceClient, server_event};
use tokio::sync::{mpsc, watch};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{Status, transport::Channel};

use crate::{admin::Admin, wait::eventually};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Heard {
    snapshots: Vec<v1::Snapshot>,
    end: Option<Status>,
}

/// One stream of such a node; it ends with the guard.
pub struct Peer {
    events: mpsc::UnboundedSender<v1::NodeEvent>,
    heard: Arc<Mutex<Heard>>,
    asleep: watch::Sender<bool>,
}

/// What a node says first.
#[must_use]
pub fn hello(id: &str, labels: &[(&str, &str)]) -> v1::Hello {
    let labels: HashMap<_, _> = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    v1::Hello {
        node_id: id.to_owned(),
        labels: labels.into_iter().collect(),
        daemon_version: "test".to_owned(),
        kernel: Some(v1::KernelFacts {
            release: "6.18.0".to_owned(),
            hz: 250,
            congestion_controls: vec!["reno".to_owned(), "cubic".to_owned(), "bbr".to_owned()],
            wmem_max: 4 << 20,
            rmem_max: 4 << 20,
            sysctls: HashMap::new(),
        }),
        ..v1::Hello::default()
    }
}

impl Peer {
    /// Opens a stream and says hello.
    ///
    /// # Errors
    /// What the server says.
    pub fn connect(admin: &Admin, hello: v1::Hello) -> Result<Self, Status> {
        Self::connect_by(admin, admin.channel(), hello)
    }

    /// The same, by a channel of its own.
    ///
    /// # Errors
    /// What the server says.
    pub fn connect_by(admin: &Admin, channel: Channel, hello: v1::Hello) -> Result<Self, Status> {
        let (events, receiver) = mpsc::unbounded_channel();
        let _ = events.send(node_event(node_event::Event::Hello(hello)));
        let mut client = NodeServiceClient::new(channel);
        let mut stream = admin.call(client.connect(UnboundedReceiverStream::new(receiver)))?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let memory = Arc::clone(&heard);
        let (asleep, mut awake) = watch::channel(false);
        admin.spawn(async move {
            let end = loop {
                if awake.wait_for(|asleep| !asleep).await.is_err() {
                    return;
                }
                match stream.next().await {
                    Some(Ok(event)) => {
                        if let Some(server_event::Event::Snapshot(snapshot)) = event.event {
                            memory.lock().unwrap_or_else(PoisonError::into_inner).snapshots.push(snapshot);
                        }
                    }
                    Some(Err(status)) => break status,
                    None => break Status::ok("ended"),
                }
            };
            memory.lock().unwrap_or_else(PoisonError::into_inner).end = Some(end);
        });
        Ok(Self { events, heard, asleep })
    }

    /// Stops reading, as a node that hangs; or goes on.
    pub fn sleep(&self, asleep: bool) {
        self.asleep.send_replace(asleep);
    }

    /// All snapshots so far.
    #[must_use]
    pub fn snapshots(&self) -> Vec<v1::Snapshot> {
        self.heard().snapshots.clone()
    }

    /// Waits for a snapshot that pleases.
    ///
    /// # Errors
    /// If none comes.
    pub fn wait_for(&self, what: &str, pleases: impl Fn(&v1::Snapshot) -> bool) -> Result<v1::Snapshot> {
        eventually(what, PATIENCE, || {
            self.heard().snapshots.iter().rfind(|snapshot| pleases(snapshot)).cloned().context("it has not come")
        })
    }

    /// Waits for the end of the stream.
    ///
    /// # Errors
    /// If it does not end.
    pub fn wait_for_end(&self) -> Result<Status> {
        eventually("the stream ends", PATIENCE, || self.heard().end.clone().context("it has not"))
    }

    /// Says that it is there; who says nothing for 30 s is not.
    pub fn alive(&self) {
        let _ = self.events.send(node_event(node_event::Event::Alive(v1::Alive::default())));
    }

    /// Confirms a snapshot.
    pub fn ack(&self, snapshot: &v1::Snapshot) {
        let ack = v1::Ack {
            version: snapshot.version.clone(),
            effective: Vec::new(),
            apply_us: 1,
            held_back: vec![],
            stages: None,
            put_off_us: 0,
        };
        let _ = self.events.send(node_event(node_event::Event::Ack(ack)));
    }

    /// Refuses a snapshot.
    pub fn nack(&self, snapshot: &v1::Snapshot, layer: &str, field: &str, description: &str) {
        let violation =
            v1::RuleViolation { layer: layer.to_owned(), field: field.to_owned(), description: description.to_owned() };
        let nack = v1::Nack { version: snapshot.version.clone(), violations: vec![violation] };
        let _ = self.events.send(node_event(node_event::Event::Nack(nack)));
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn node_event(event: node_event::Event) -> v1::NodeEvent {
    v1::NodeEvent { event: Some(event) }
}

/// The layers in a snapshot, without those that stand by for a canary's end.
///
/// # Errors
/// If they cannot be read.
pub fn layers(snapshot: &v1::Snapshot) -> Result<Vec<v1::Layer>> {
    use prost::Message;
    let layers = v1::Layers::decode(snapshot.layers.clone()).context("reading layers")?.layers;
    Ok(layers.into_iter().filter(|layer| !layer.standby).collect())
}
