//! Many connected nodes, with the wire as real ones speak it and nothing behind it: each has what was sent last and says so. With TLS each
//! has a certificate and a connection of its own. The server and they share this machine.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use prost::Message;
use sockpilot_identity::{files::Watched, tls::ClientTls};
use sockpilot_proto::v1::{self, node_event::Event, node_service_client::NodeServiceClient, server_event};
use sockpilot_tests::{
    admin::Admin,
    documents::{policy, rule},
    peer::hello,
    pki,
    server::Server,
    wait::eventually,
};
use tokio::{
    sync::mpsc,
    time::{interval, sleep},
};
use tokio_stream::wrappers::ReceiverStream;

/// Real nodes say so as often.
const ALIVE: Duration = Duration::from_secs(10);
/// As long as a real node waits at most after its first failure.
const AGAIN_MAX: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(120);
/// What they get.
pub const POLICY: &str = "policies/web";
/// Of no revision.
const UNKNOWN: u64 = u64::MAX;

/// What they get, as it differs.
pub fn document(packets: u32) -> v1::Policy {
    let set = v1::Parameters { cwnd_clamp_packets: Some(packets), ..v1::Parameters::default() };
    policy("web", 1, vec![rule("all", v1::Match::default(), set)])
}

/// What each node has: a revision of the policy that does not just stand by (0: none), and since when.
pub struct Fleet(Arc<Vec<Has>>);

struct Has {
    revision: AtomicU64,
    since: Mutex<Instant>,
}

impl Fleet {
    /// They come, and come again whenever their stream ends.
    pub fn connect(admin: &Admin, server: &Server<'_>, number: usize) -> Result<Self> {
        let has = || Has { revision: AtomicU64::new(UNKNOWN), since: Mutex::new(Instant::now()) };
        let nodes: Arc<Vec<Has>> = Arc::new((0..number).map(|_| has()).collect());
        for number in 0..number {
            let id = format!("node-{number}");
            let (nodes, url, tls) = (nodes.clone(), server.node_url(), server.node_tls(&id)?);
            admin.spawn(async move {
                loop {
                    // Who is shut out comes in vain; whoever waits for them says how many are there.
                    if live(&id, &url, tls.clone(), &nodes[number]).await.is_err() {
                        nodes[number].revision.store(UNKNOWN, Ordering::Release);
                    }
                    // Not all at the same moment.
                    sleep(AGAIN_MAX.mul_f64((number % 100) as f64 / 100.0)).await;
                }
            });
        }
        let fleet = Self(nodes);
        fleet.all_have("revision 1", 1)?;
        Ok(fleet)
    }

    /// Waits until all nodes have a revision. Answers with when the last one received it.
    pub fn all_have(&self, what: &str, revision: u64) -> Result<Instant> {
        eventually(&format!("all nodes have {what}"), PATIENCE, || {
            let have = self.0.iter().filter(|has| has.revision.load(Ordering::Acquire) == revision).count();
            ensure!(have == self.0.len(), "{have} have");
            Ok(())
        })?;
        let since = |has: &Has| *has.since.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.iter().map(since).max().context("no nodes")
    }
}

/// One node, until its stream ends.
async fn live(id: &str, url: &str, tls: Option<Arc<Watched<ClientTls>>>, has: &Has) -> Result<()> {
    let channel = pki::channel(url, tls, None)?;
    let (events, outgoing) = mpsc::channel(4);
    let say = async |event| events.send(v1::NodeEvent { event: Some(event) }).await.context("the stream is over");
    say(Event::Hello(hello(id, &[("zone", "a")]))).await?;
    let mut stream = NodeServiceClient::new(channel).connect(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut alive = interval(ALIVE);
    loop {
        let event = tokio::select! {
            event = stream.message() => event?.context("the server has ended the stream")?.event,
            _ = alive.tick() => {
                say(Event::Alive(v1::Alive::default())).await?;
                continue;
            }
        };
        let Some(server_event::Event::Snapshot(v1::Snapshot { version, layers, .. })) = event else { continue };
        let now = Instant::now();
        let layers = v1::Layers::decode(layers).context("reading layers")?.layers;
        let acts = layers.iter().find(|layer| layer.name == POLICY && !layer.standby);
        *has.since.lock().unwrap_or_else(PoisonError::into_inner) = now;
        has.revision.store(acts.map_or(0, |layer| layer.revision), Ordering::Release);
        say(Event::Ack(v1::Ack { version, apply_us: 1, ..v1::Ack::default() })).await?;
    }
}
