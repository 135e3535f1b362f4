//! The test stands in for server and keeper.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use sockpilot_node::{
    keeper::{self, Command, Ends, Handle, InForce},
    link::{
        connect,
        reporter::Reporter,
        stream::{Identity, Stream},
    },
    metrics::Metrics,
    snapshot::version::{HASH_BYTES, Version},
};
use sockpilot_proto::v1::{
    self,
    node_event::Event,
    node_service_server::{NodeService, NodeServiceServer},
    server_event,
};
use tokio::{net::TcpListener, sync::mpsc, sync::watch, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming, transport::Channel};

/// After a report of this sequence the server has the node wait.
pub const SELDOM: u64 = 7;
pub const SELDOM_MS: u32 = 100;
pub const PATIENCE: Duration = Duration::from_secs(20);

pub type Outgoing = mpsc::Sender<Result<v1::ServerEvent, Status>>;

/// Hands every stream and every report to the test.
#[derive(Clone)]
struct Server {
    streams: mpsc::Sender<(Streaming<v1::NodeEvent>, Outgoing)>,
    reports: mpsc::Sender<v1::FlowReport>,
    /// Answers to reports; when there are none left, all is committed.
    failures: Arc<Mutex<VecDeque<Code>>>,
}

#[tonic::async_trait]
impl NodeService for Server {
    type ConnectStream = ReceiverStream<Result<v1::ServerEvent, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::NodeEvent>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (outgoing, events) = mpsc::channel(4);
        self.streams.send((request.into_inner(), outgoing)).await.expect("the test goes on");
        Ok(Response::new(ReceiverStream::new(events)))
    }

    async fn report_flows(&self, request: Request<v1::FlowReport>) -> Result<Response<v1::FlowReportReceipt>, Status> {
        let report = request.into_inner();
        let sequence = report.sequence;
        self.reports.send(report).await.expect("the test goes on");
        match self.failures.lock().expect("not poisoned").pop_front() {
            Some(code) => Err(Status::new(code, "as the test wishes")),
            None => {
                let next_report_after_ms = if sequence == SELDOM { SELDOM_MS } else { 0 };
                Ok(Response::new(v1::FlowReportReceipt { sequence, next_report_after_ms }))
            }
        }
    }
}

pub struct World {
    pub streams: mpsc::Receiver<(Streaming<v1::NodeEvent>, Outgoing)>,
    pub reports: mpsc::Receiver<v1::FlowReport>,
    pub failures: Arc<Mutex<VecDeque<Code>>>,
    pub channel: Channel,
    pub handle: Handle,
    pub ends: Ends,
    pub stop: CancellationToken,
}

impl World {
    pub async fn new() -> Self {
        let (streams, streams_received) = mpsc::channel(4);
        let (reports, reports_received) = mpsc::channel(64);
        let failures = Arc::new(Mutex::new(VecDeque::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let service = NodeServiceServer::new(Server { streams, reports, failures: failures.clone() });
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let (handle, ends) = keeper::channel();
        let channel =
            connect::channel(&url.parse().expect("an address"), None, handle.commands.downgrade()).expect("sound");
        let stop = CancellationToken::new();
        Self { streams: streams_received, reports: reports_received, failures, channel, handle, ends, stop }
    }

    pub fn stream(&self) -> watch::Receiver<bool> {
        self.stream_counted(Metrics::new())
    }

    pub fn stream_counted(&self, metrics: Metrics) -> watch::Receiver<bool> {
        self.stream_by(watch::channel(self.channel.clone()).1, metrics)
    }

    pub fn stream_by(&self, channel: watch::Receiver<Channel>, metrics: Metrics) -> watch::Receiver<bool> {
        let (connected, watched) = watch::channel(false);
        let labels = [("rack".to_owned(), "7".to_owned())].into();
        let stream = Stream {
            channel,
            identity: Identity { node_id: "node".into(), labels, instance: "boot/1/2".into() },
            keeper: self.handle.clone(),
            connected,
            metrics,
        };
        tokio::spawn(stream.run(self.stop.clone()));
        watched
    }

    pub fn reporter(&self) -> watch::Sender<bool> {
        self.reporter_counted(Metrics::new())
    }

    pub fn reporter_counted(&self, metrics: Metrics) -> watch::Sender<bool> {
        let (connected, watched) = watch::channel(false);
        let reporter = Reporter {
            channel: watch::channel(self.channel.clone()).1,
            keeper: self.handle.clone(),
            connected: watched,
            every: Duration::from_millis(5),
            metrics,
        };
        tokio::spawn(reporter.run(self.stop.clone()));
        connected
    }

    /// The next stream and its hello. Exempts the socket as the keeper does.
    pub async fn accept(&mut self) -> (Streaming<v1::NodeEvent>, Outgoing, v1::Hello) {
        let exempted = async {
            let Some(Command::Exempt { cookie, done }) = self.ends.next_command().await else {
                panic!("connected before it was exempt")
            };
            assert_ne!(cookie, 0);
            done.send(()).expect("awaited");
        };
        soon(exempted).await;
        let (mut events, outgoing) = soon(self.streams.recv()).await.expect("a stream");
        let Some(Event::Hello(hello)) = next(&mut events).await else { panic!("no hello first") };
        (events, outgoing, hello)
    }

    /// The next command that is about reports; sockets are exempted on the way.
    pub async fn command(&mut self) -> Command {
        loop {
            match soon(self.ends.next_command()).await.expect("a command") {
                Command::Exempt { done, .. } => done.send(()).expect("awaited"),
                command => return command,
            }
        }
    }

    pub async fn hand_out(&mut self, report: Option<v1::FlowReport>) {
        let Command::Report { answer } = self.command().await else { panic!("no report asked for") };
        answer.send(report).expect("awaited");
    }
}

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

pub async fn soon_after_a_refusal<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30) + PATIENCE, future).await.expect("in time")
}

pub async fn next(events: &mut Streaming<v1::NodeEvent>) -> Option<Event> {
    soon(events.message()).await.expect("sound").and_then(|event| event.event)
}

pub fn server_event(event: server_event::Event) -> Result<v1::ServerEvent, Status> {
    Ok(v1::ServerEvent { event: Some(event) })
}

pub fn version(generation: u64) -> Version {
    Version { database_epoch: "epoch".into(), generation, content_hash: [7; HASH_BYTES] }
}

pub fn in_force(generation: u64) -> InForce {
    let held_back = v1::HeldBack { layer: "policies/a".to_owned(), revision: 3, ..v1::HeldBack::default() };
    InForce { version: version(generation), held_back: vec![held_back] }
}

pub fn report(sequence: u64) -> v1::FlowReport {
    v1::FlowReport { node_id: "node".into(), boot_id: "boot".into(), sequence, ..Default::default() }
}
