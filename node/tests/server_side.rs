//! The daemon's talk with a server, without a kernel: the test stands in for server and keeper.

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
const SELDOM: u64 = 7;
const SELDOM_MS: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(20);

type Outgoing = mpsc::Sender<Result<v1::ServerEvent, Status>>;

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

struct World {
    streams: mpsc::Receiver<(Streaming<v1::NodeEvent>, Outgoing)>,
    reports: mpsc::Receiver<v1::FlowReport>,
    failures: Arc<Mutex<VecDeque<Code>>>,
    channel: Channel,
    handle: Handle,
    ends: Ends,
    stop: CancellationToken,
}

impl World {
    async fn new() -> Self {
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

    fn stream(&self) -> watch::Receiver<bool> {
        self.stream_counted(Metrics::new())
    }

    fn stream_counted(&self, metrics: Metrics) -> watch::Receiver<bool> {
        self.stream_by(watch::channel(self.channel.clone()).1, metrics)
    }

    fn stream_by(&self, channel: watch::Receiver<Channel>, metrics: Metrics) -> watch::Receiver<bool> {
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

    fn reporter(&self) -> watch::Sender<bool> {
        self.reporter_counted(Metrics::new())
    }

    fn reporter_counted(&self, metrics: Metrics) -> watch::Sender<bool> {
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
    async fn accept(&mut self) -> (Streaming<v1::NodeEvent>, Outgoing, v1::Hello) {
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
    async fn command(&mut self) -> Command {
        loop {
            match soon(self.ends.next_command()).await.expect("a command") {
                Command::Exempt { done, .. } => done.send(()).expect("awaited"),
                command => return command,
            }
        }
    }

    async fn hand_out(&mut self, report: Option<v1::FlowReport>) {
        let Command::Report { answer } = self.command().await else { panic!("no report asked for") };
        answer.send(report).expect("awaited");
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

async fn soon_after_a_refusal<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30) + PATIENCE, future).await.expect("in time")
}

async fn next(events: &mut Streaming<v1::NodeEvent>) -> Option<Event> {
    soon(events.message()).await.expect("sound").and_then(|event| event.event)
}

fn server_event(event: server_event::Event) -> Result<v1::ServerEvent, Status> {
    Ok(v1::ServerEvent { event: Some(event) })
}

fn version(generation: u64) -> Version {
    Version { database_epoch: "epoch".into(), generation, content_hash: [7; HASH_BYTES] }
}

fn in_force(generation: u64) -> InForce {
    let held_back = v1::HeldBack { layer: "policies/a".to_owned(), revision: 3, ..v1::HeldBack::default() };
    InForce { version: version(generation), held_back: vec![held_back] }
}

fn report(sequence: u64) -> v1::FlowReport {
    v1::FlowReport { node_id: "node".into(), boot_id: "boot".into(), sequence, ..Default::default() }
}

#[tokio::test]
async fn with_another_certificate_the_stream_moves_without_a_gap() {
    let mut world = World::new().await;
    let (channels, channel) = watch::channel(world.channel.clone());
    let mut connected = world.stream_by(channel, Metrics::new());
    let (mut before, outgoing, _) = world.accept().await;
    let heartbeat = || server_event(server_event::Event::Heartbeat(v1::Heartbeat::default()));
    soon(outgoing.send(heartbeat())).await.expect("open");
    soon(connected.wait_for(|connected| *connected)).await.expect("alive");
    channels.send_replace(world.channel.clone());
    let (mut events, _outgoing) = soon(world.streams.recv()).await.expect("a second stream");
    assert!(matches!(next(&mut events).await, Some(Event::Hello(_))));
    // Only now that the second stands, the first ends; and nobody was told of a loss.
    while soon(before.message()).await.is_ok_and(|event| event.is_some()) {}
    assert!(*connected.borrow() && !connected.has_changed().expect("alive"));
}

#[tokio::test]
async fn snapshots_are_answered_one_by_one_and_the_next_hello_says_what_is_in_force() {
    let mut world = World::new().await;
    let mut connected = world.stream();
    let (mut events, outgoing, hello) = world.accept().await;
    assert_eq!((hello.node_id.as_str(), hello.labels["rack"].as_str(), hello.in_force), ("node", "7", None));
    assert!(hello.kernel.is_some_and(|kernel| kernel.hz >= 100 && !kernel.congestion_controls.is_empty()));

    for generation in 1..=3 {
        let snapshot = v1::Snapshot {
            version: Some(version(generation).to_proto()),
            layers: Default::default(),
            answer_within_ms: 0,
        };
        soon(outgoing.send(server_event(server_event::Event::Snapshot(snapshot)))).await.expect("open");
        let Command::Offer { snapshot, answer, .. } = world.command().await else { panic!("no offer") };
        world.ends.set_in_force(Some(in_force(generation)));
        let ack = v1::Ack {
            version: snapshot.version,
            effective: vec![],
            apply_us: 1,
            held_back: vec![],
            stages: None,
            put_off_us: 0,
        };
        answer.send(Event::Ack(ack)).expect("awaited");
        let Some(Event::Ack(ack)) = next(&mut events).await else { panic!("no answer") };
        assert_eq!(ack.version, Some(version(generation).to_proto()));
    }
    soon(connected.wait_for(|connected| *connected)).await.expect("alive");

    // The server goes: the node calls again and says what it has.
    outgoing.send(Err(Status::unavailable("going down"))).await.expect("open");
    drop((events, outgoing));
    soon(connected.wait_for(|connected| !connected)).await.expect("alive");
    let (_, _, hello) = soon(async {
        // The connection itself still stands, so no new socket has to be exempt.
        let (mut events, outgoing) = world.streams.recv().await.expect("a stream");
        let Some(Event::Hello(hello)) = next(&mut events).await else { panic!("no hello first") };
        (events, outgoing, hello)
    })
    .await;
    assert_eq!(hello.in_force, Some(version(3).to_proto()));
    assert_eq!(hello.held_back, in_force(3).held_back);
}

#[tokio::test]
async fn an_answer_that_is_put_off_goes_before_the_next() {
    let mut world = World::new().await;
    world.stream();
    let (mut events, outgoing, _) = world.accept().await;
    let ack = |generation| Event::Ack(v1::Ack { version: Some(version(generation).to_proto()), ..Default::default() });
    // As long as it may take, so that each comes because of the next.
    for (generation, answer_within_ms) in [(1, u32::MAX), (2, u32::MAX), (3, 0)] {
        let version = Some(version(generation).to_proto());
        let snapshot = v1::Snapshot { version, layers: Default::default(), answer_within_ms };
        soon(outgoing.send(server_event(server_event::Event::Snapshot(snapshot)))).await.expect("open");
        let Command::Offer { answer, .. } = world.command().await else { panic!("no offer") };
        answer.send(ack(generation)).expect("awaited");
    }
    for (generation, was_put_off) in [(1, true), (2, true), (3, false)] {
        let Some(Event::Ack(answer)) = next(&mut events).await else { panic!("no answer") };
        assert_eq!(
            (answer.put_off_us > 0, Event::Ack(v1::Ack { put_off_us: 0, ..answer })),
            (was_put_off, ack(generation))
        );
    }
}

#[tokio::test]
async fn what_comes_into_force_later_is_told_on_its_stream_or_by_the_next_hello() {
    let mut world = World::new().await;
    world.stream();
    let (mut events, outgoing, _) = world.accept().await;
    let nack = |generation| Event::Nack(v1::Nack { version: Some(version(generation).to_proto()), violations: vec![] });
    let ack = |generation| Event::Ack(v1::Ack { version: Some(version(generation).to_proto()), ..Default::default() });
    for (generation, before, answer, after, expected) in [
        (1, None, nack(1), Some(ack(1)), vec![nack(1), ack(1)]),
        (2, None, nack(2), None, vec![nack(2)]),
        // What was settled before the next was looked at is told before it.
        (3, Some(ack(2)), nack(3), None, vec![ack(2), nack(3)]),
    ] {
        let snapshot = v1::Snapshot {
            version: Some(version(generation).to_proto()),
            layers: Default::default(),
            answer_within_ms: 0,
        };
        soon(outgoing.send(server_event(server_event::Event::Snapshot(snapshot)))).await.expect("open");
        let Command::Offer { answer: answers, .. } = world.command().await else { panic!("no offer") };
        before.into_iter().for_each(|late| world.ends.answer_late(late));
        answers.send(answer).expect("awaited");
        after.into_iter().for_each(|late| world.ends.answer_late(late));
        for expected in expected {
            assert_eq!(next(&mut events).await, Some(expected));
        }
    }

    // The third comes into force when another stream has said what was in force before.
    outgoing.send(Err(Status::unavailable("going down"))).await.expect("open");
    drop((events, outgoing));
    let (streams, ends) = (&mut world.streams, &world.ends);
    let mut hellos = async || {
        let (mut events, outgoing) = soon(streams.recv()).await.expect("a stream");
        let Some(Event::Hello(hello)) = next(&mut events).await else { panic!("no hello first") };
        (hello.in_force, events, outgoing)
    };
    let (known, _events, outgoing) = hellos().await;
    assert_eq!(known, None);
    soon(outgoing.send(server_event(server_event::Event::Heartbeat(v1::Heartbeat::default())))).await.expect("open");
    ends.set_in_force(Some(in_force(3)));
    ends.answer_late(ack(3));
    assert_eq!(hellos().await.0, Some(version(3).to_proto()));
}

#[tokio::test]
async fn a_node_that_is_refused_says_so_and_asks_slowly() {
    let mut world = World::new().await;
    let metrics = Metrics::new();
    let mut connected = world.stream_counted(metrics.clone());
    let (events, outgoing, _) = world.accept().await;
    outgoing.send(Err(Status::invalid_argument("hello.labels: key \"a b\""))).await.expect("open");
    soon(async {
        while metrics.refused.get() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    drop((events, outgoing));
    // What is only away would be called again within a quarter of a second.
    assert!(timeout(Duration::from_secs(3), world.streams.recv()).await.is_err(), "asked again at once");
    let (_events, outgoing) = soon_after_a_refusal(world.streams.recv()).await.expect("asked again");
    soon(outgoing.send(server_event(server_event::Event::Heartbeat(v1::Heartbeat::default())))).await.expect("open");
    soon(connected.wait_for(|connected| *connected)).await.expect("alive");
    assert_eq!(metrics.refused.get(), 0);
}

#[tokio::test]
async fn what_comes_to_act_on_other_cgroups_is_acknowledged_once_more() {
    let mut world = World::new().await;
    world.ends.set_in_force(Some(in_force(3)));
    let _connected = world.stream();
    let (mut events, _outgoing, _) = world.accept().await;
    let acknowledged = |generation, note: &str| {
        let value = v1::EffectiveValue { note: note.to_owned(), ..v1::EffectiveValue::default() };
        v1::Ack {
            version: Some(version(generation).to_proto()),
            effective: vec![value],
            apply_us: 0,
            held_back: vec![],
            stages: None,
            put_off_us: 0,
        }
    };
    let mut acks = async || loop {
        if let Some(Event::Ack(ack)) = next(&mut events).await {
            return ack;
        }
    };
    // What the server has not offered it need not know.
    world.ends.set_acted_on(Some(acknowledged(2, "older")));
    for note in ["absent", "there"] {
        let now = acknowledged(3, note);
        world.ends.set_acted_on(Some(now.clone()));
        assert_eq!(acks().await, now);
    }
}

#[tokio::test]
async fn the_stream_ends_when_told_to() {
    let mut world = World::new().await;
    let connected = world.stream();
    let (mut events, _outgoing, _) = world.accept().await;
    world.stop.cancel();
    assert!(soon(events.message()).await.is_ok_and(|event| event.is_none()) || connected.has_changed().is_err());
}

#[tokio::test]
async fn a_report_is_sent_until_it_is_answered_and_only_then_settled() {
    let mut world = World::new().await;
    let connected = world.reporter();
    world.failures.lock().expect("not poisoned").extend([Code::Unavailable, Code::ResourceExhausted]);
    // Policy first: nothing is asked for before the stream stands.
    assert!(timeout(Duration::from_millis(50), world.ends.next_command()).await.is_err());
    connected.send_replace(true);
    world.hand_out(Some(report(1))).await;
    let settled = world.command().await;
    assert!(matches!(settled, Command::Confirm { boot_id, sequence: 1 } if boot_id == "boot"));
    let sent: Vec<_> = [world.reports.recv().await, world.reports.recv().await, world.reports.recv().await].into();
    assert_eq!(sent, vec![Some(report(1)); 3]);
}

#[tokio::test]
async fn what_the_server_will_never_take_is_let_go() {
    let mut world = World::new().await;
    world.failures.lock().expect("not poisoned").extend([Code::InvalidArgument]);
    world.reporter().send_replace(true);
    world.hand_out(Some(report(1))).await;
    assert!(matches!(world.command().await, Command::Confirm { sequence: 1, .. }));
    world.hand_out(None).await;
    world.hand_out(Some(report(2))).await;
    assert!(matches!(world.command().await, Command::Confirm { sequence: 2, .. }));
    assert_eq!(world.reports.recv().await.map(|report| report.sequence), Some(1));
    assert_eq!(world.reports.recv().await.map(|report| report.sequence), Some(2));
}

#[tokio::test]
async fn the_server_says_how_long_to_wait_after_a_report() {
    let mut world = World::new().await;
    let metrics = Metrics::new();
    world.reporter_counted(metrics.clone()).send_replace(true);
    for (sequence, about_s) in [(1, 0.005), (SELDOM, f64::from(SELDOM_MS) / 1e3), (SELDOM + 1, 0.005)] {
        world.hand_out(Some(report(sequence))).await;
        assert!(matches!(world.command().await, Command::Confirm { .. }));
        let waits = async {
            while (metrics.report_interval.get() / about_s - 1.0).abs() > 0.11 {
                tokio::task::yield_now().await;
            }
        };
        soon(waits).await;
    }
}

#[tokio::test]
async fn the_end_brings_a_last_report() {
    let mut world = World::new().await;
    let connected = world.reporter();
    connected.send_replace(true);
    world.hand_out(None).await;
    world.stop.cancel();
    // One may have been asked for already when the end came.
    while let Command::Report { answer } = world.command().await {
        let _ = answer.send(Some(report(9)));
    }
    assert_eq!(soon(world.reports.recv()).await, Some(report(9)));
}

#[tokio::test]
async fn a_canary_that_the_breaker_has_ended_is_told_at_once_and_in_each_sign_of_life() {
    let mut world = World::new().await;
    let trip = |rollout: &str| v1::BreakerTrip { rollout: rollout.into(), revision: 2, ..v1::BreakerTrip::default() };
    world.ends.set_trips(vec![trip("rollouts/a")]);
    world.stream();
    let (mut events, _outgoing, hello) = world.accept().await;
    assert_eq!(hello.alive.map(|alive| alive.breaker_trips), Some(vec![trip("rollouts/a")]));
    world.ends.set_trips(vec![trip("rollouts/a"), trip("rollouts/b")]);
    // Signs of life come every five seconds.
    let told = timeout(Duration::from_secs(4), next(&mut events)).await.expect("at once");
    let Some(Event::Alive(alive)) = told else { panic!("{told:?}") };
    assert_eq!(alive.breaker_trips, [trip("rollouts/a"), trip("rollouts/b")]);
}
