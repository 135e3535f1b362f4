//! etcd as a peer, by the few messages of its API that this needs (its `rpc.proto`, without the fields that are not looked at).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::uri::PathAndQuery;
use sockpilot_programs::{ETCD, reserved_address};
use sockpilot_tests::{machine::Machine, process::Process, wait::eventually};
use tokio::sync::{mpsc, watch};
use tonic::{
    Request, Streaming,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

const START: Duration = Duration::from_secs(20);
const CALL: Duration = Duration::from_secs(10);
const KEY: &[u8] = b"policies/web";

#[derive(Clone, PartialEq, prost::Message)]
struct WatchRequest {
    /// One of several in the original; on the wire it is the same.
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreate>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchCreate {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WatchResponse {
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(message, optional, tag = "2")]
    pair: Option<Pair>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pair {
    #[prost(int64, tag = "3")]
    revision: i64,
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(int64, tag = "3")]
    revision: i64,
}

/// A single durable node.
#[derive(Debug)]
pub struct Etcd {
    url: String,
    process: Process,
}

impl Etcd {
    pub fn start(machine: &Machine) -> Result<Self> {
        let (clients, peers) = (reserved_address()?, reserved_address()?);
        let (url, peers) = (format!("http://{clients}"), format!("http://{peers}"));
        let mut command = ETCD.command()?;
        command.arg("--data-dir").arg(machine.folder("etcd")?);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--listen-peer-urls", &peers]);
        command.args(["--initial-advertise-peer-urls", &peers, "--initial-cluster", &format!("default={peers}")]);
        let mut etcd = Self { url, process: Process::start(machine, "etcd", command)? };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        eventually("etcd answers", START, || {
            etcd.process.check_alive()?;
            runtime.block_on(async { Writer::connect(&etcd.url).await?.put(vec![]).await.map(drop) })
        })?;
        Ok(etcd)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

async fn connect(url: &str) -> Result<Grpc<Channel>> {
    let channel = Endpoint::from_shared(url.to_owned())?.connect().await.context("connecting to etcd")?;
    let mut client = Grpc::new(channel);
    client.ready().await.context("connecting to etcd")?;
    Ok(client)
}

/// Who publishes.
#[derive(Debug)]
pub struct Writer(Grpc<Channel>);

impl Writer {
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self(connect(url).await?))
    }

    /// Answers with the revision.
    pub async fn put(&mut self, value: Vec<u8>) -> Result<i64> {
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let mut request = Request::new(PutRequest { key: KEY.to_vec(), value });
        request.set_timeout(CALL);
        self.0.ready().await?;
        let put = self.0.unary(request, path, ProstCodec::<PutRequest, PutResponse>::default()).await?;
        Ok(put.into_inner().header.context("etcd does not say the revision")?.revision)
    }
}

/// Watches the key by a connection of its own for ever; `seen` gets the newest revision (0: it watches), and when it came.
pub async fn watch_key(url: &str, seen: &watch::Sender<(i64, Instant)>) -> Result<()> {
    let mut client = connect(url).await?;
    let (requests, outgoing) = mpsc::channel(1);
    requests.send(WatchRequest { create: Some(WatchCreate { key: KEY.to_vec() }) }).await?;
    let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
    let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
    let outgoing = Request::new(tokio_stream::wrappers::ReceiverStream::new(outgoing));
    let mut events: Streaming<WatchResponse> = client.streaming(outgoing, path, codec).await?.into_inner();
    let first = events.message().await?.context("etcd has ended a watch")?;
    ensure!(first.created, "etcd has not made a watch");
    seen.send_replace((0, Instant::now()));
    loop {
        let event = events.message().await?.context("etcd has ended a watch")?;
        let at = Instant::now();
        if let Some(pair) = event.events.into_iter().rev().find_map(|event| event.pair) {
            seen.send_replace((pair.revision, at));
        }
    }
}
