//! Thousands of nodes in one process: each with a connection of its own and, if it is not a light one, the daemon's own stream and report
//! code, over real gRPC. The kernel is made up: what is offered is in force a few milliseconds later, if a node may put it in force at all.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use prost::Message;
use sockpilot_identity::{files::Watched, tls::ClientTls};
use sockpilot_node::{
    backoff,
    keeper::{Command, Ends, InForce},
    link::stream::Identity,
    metrics::Metrics,
    snapshot::version::{Admission, Version, admit},
};
use sockpilot_proto::v1::{self, node_event::Event};
use tokio::{runtime::Runtime, sync::oneshot, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{light, peer::hello, pki, played::Played, server::Server, wait::eventually};

const PATIENCE: Duration = Duration::from_secs(120);
/// A real daemon's.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// Until a node has in force what it has received.
const ANSWER_AFTER: Duration = Duration::from_millis(5);
/// Of all nodes.
const LABELS: [(&str, &str); 1] = [("zone", "a")];
/// Of no revision.
const UNKNOWN: u64 = u64::MAX;

/// The fleet, until it is dropped.
#[derive(Debug)]
pub struct SimulatedNodes {
    shared: Arc<Shared>,
    _runtime: Runtime,
}

#[derive(Debug)]
struct Shared {
    nodes: Vec<Has>,
    /// Of the layers of the newest snapshot.
    bytes: AtomicUsize,
    /// Whose revisions are looked at.
    layer: String,
    /// The revision in each content, so that it is read once for all nodes.
    revisions: Mutex<HashMap<Vec<u8>, u64>>,
    /// Snapshots that no node may put in force.
    inadmissible: AtomicU64,
    metrics: Metrics,
    stop: CancellationToken,
}

/// What a node has received last.
#[derive(Debug)]
struct Has {
    revision: AtomicU64,
    since: Mutex<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimulatedNodes {
    /// Connects so many nodes, each with a certificate of its own if the server speaks TLS, and waits until all have `layer` at its revision 1:
    /// it is what [`Self::all_have`] goes by.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn connect(server: &Server<'_>, nodes: usize, layer: &str) -> Result<Self> {
        Self::start(server, nodes, layer, |number, url, shared| {
            let tls = server.node_tls(&id(number))?;
            Ok(live(number, url, tls, shared))
        })
    }

    /// As [`Self::connect`], but light nodes, without TLS.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn connect_light(server: &Server<'_>, nodes: usize, layer: &str) -> Result<Self> {
        Self::start(server, nodes, layer, |number, url, shared| Ok(live_lightly(number, url, shared)))
    }

    fn start<L: Future<Output = ()> + Send + 'static>(
        server: &Server<'_>,
        nodes: usize,
        layer: &str,
        live: impl Fn(usize, String, Arc<Shared>) -> Result<L>,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let has = || Has { revision: AtomicU64::new(UNKNOWN), since: Mutex::new(Instant::now()) };
        let shared = Arc::new(Shared {
            nodes: (0..nodes).map(|_| has()).collect(),
            bytes: AtomicUsize::new(0),
            layer: layer.to_owned(),
            revisions: Mutex::default(),
            inadmissible: AtomicU64::new(0),
            metrics: Metrics::new(),
            stop: CancellationToken::new(),
        });
        for number in 0..nodes {
            runtime.spawn(live(number, server.node_url(), shared.clone())?);
        }
        let fleet = Self { shared, _runtime: runtime };
        fleet.all_have("revision 1", 1)?;
        Ok(fleet)
    }

    /// Waits until all nodes have received a revision that does not just stand by (0: none). Answers with when the last one did.
    ///
    /// # Errors
    /// If they do not, or one was offered what it may not put in force.
    pub fn all_have(&self, what: &str, revision: u64) -> Result<Instant> {
        let nodes = &self.shared.nodes;
        eventually(&format!("all nodes have {what}"), PATIENCE, || {
            let have = nodes.iter().filter(|has| has.revision.load(Ordering::Acquire) == revision).count();
            ensure!(have == nodes.len(), "{have} have");
            Ok(())
        })?;
        let inadmissible = self.shared.inadmissible.load(Ordering::Relaxed);
        ensure!(inadmissible == 0, "{inadmissible} snapshots were older than what nodes had");
        nodes.iter().map(|has| *lock(&has.since)).max().context("no nodes")
    }

    /// Of the layers that were received last.
    #[must_use]
    pub fn snapshot_bytes(&self) -> usize {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for SimulatedNodes {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// Of a node, by its number.
fn id(number: usize) -> String {
    format!("node-{number}")
}

async fn live(number: usize, url: String, tls: Option<Arc<Watched<ClientTls>>>, shared: Arc<Shared>) {
    let labels = LABELS.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let identity = Identity { node_id: id(number), labels, instance: format!("instance-{number}") };
    let metrics = shared.metrics.clone();
    let node = Played { url, tls, identity, report_every: REPORT_EVERY, metrics };
    node.live(shared.stop.clone(), |ends| keep(ends, &shared, number)).await;
}

async fn live_lightly(number: usize, url: String, shared: Arc<Shared>) {
    let received = |snapshot: &v1::Snapshot| shared.received(number, snapshot, Instant::now());
    let Ok(channel) = pki::channel(&url, None, None) else { return };
    // Nodes one after the other are far from each other.
    let share = (number as f64 * 0.618_034).fract();
    let again_and_again = async {
        for attempt in 0.. {
            let hello = hello(&id(number), &LABELS);
            // It ends when the server does; then the node calls again, as real ones do.
            let _ = light::live(channel.clone(), hello, ANSWER_AFTER, share, received).await;
            sleep(backoff::delay(attempt, share)).await;
        }
    };
    tokio::select! {
        () = again_and_again => {}
        () = shared.stop.cancelled() => {}
    }
}

/// In the place of the keeper and its kernel.
async fn keep(mut ends: Ends, shared: &Shared, number: usize) {
    let mut in_force: Option<Version> = None;
    while let Some(command) = ends.next_command().await {
        match command {
            Command::Offer { snapshot, received, answer } => {
                let Ok(version) = Version::from_proto(snapshot.version.as_ref()) else { continue };
                if matches!(admit(in_force.as_ref(), &version), Admission::RefuseOlder | Admission::RefuseChanged) {
                    shared.inadmissible.fetch_add(1, Ordering::Relaxed);
                }
                shared.received(number, &snapshot, received);
                sleep(ANSWER_AFTER).await;
                acknowledge(&ends, &version, answer);
                in_force = Some(version);
            }
            Command::Exempt { done, .. } | Command::Look { done, .. } => drop(done.send(())),
            Command::Report { answer } => drop(answer.send(None)),
            Command::Confirm { .. } => {}
        }
    }
}

fn acknowledge(ends: &Ends, version: &Version, answer: oneshot::Sender<Event>) {
    ends.set_in_force(Some(InForce { version: version.clone(), held_back: vec![] }));
    let ack = v1::Ack { version: Some(version.to_proto()), apply_us: 1, ..v1::Ack::default() };
    let _ = answer.send(Event::Ack(ack));
}

impl Shared {
    fn received(&self, number: usize, snapshot: &v1::Snapshot, at: Instant) {
        let (has, revision) = (&self.nodes[number], self.revision(snapshot));
        *lock(&has.since) = at;
        has.revision.store(revision, Ordering::Release);
    }

    fn revision(&self, snapshot: &v1::Snapshot) -> u64 {
        let hash = snapshot.version.as_ref().map(|version| version.content_hash.to_vec()).unwrap_or_default();
        let mut known = lock(&self.revisions);
        *known.entry(hash).or_insert_with(|| {
            self.bytes.store(snapshot.layers.len(), Ordering::Relaxed);
            let layers = v1::Layers::decode(snapshot.layers.clone()).unwrap_or_default().layers;
            let acts = layers.iter().find(|layer| layer.name == self.layer && !layer.standby);
            acts.map_or(0, |layer| layer.revision)
        })
    }
}
