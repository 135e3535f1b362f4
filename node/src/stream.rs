//! The stream to the server: snapshots come, answers go. It ends and begins again for ever; what is in force stays so.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use prost_types::Timestamp;
use sockpilot_proto::v1::{
    self, node_event::Event, node_service_client::NodeServiceClient, server_event::Event as ServerEvent,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Channel};
use tracing::Instrument;

use crate::{
    backoff,
    clock::{Moment, ServerTime},
    facts,
    keeper::{Command, Handle},
    metrics::Metrics,
    owed::NotWritten,
};

const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Four heartbeats of the server.
const SILENCE_MAX: Duration = Duration::from_secs(20);
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// While another daemon has this node's id: how long to wait at least, and how much longer at most.
const HELD_WAIT_MIN: Duration = Duration::from_secs(5);
const HELD_WAIT_MORE: Duration = Duration::from_secs(10);
/// For the server to see that the daemon leaves.
const LEAVE_MAX: Duration = Duration::from_millis(500);
/// A wall clock that is off by more than this is worth a word.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(2);
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
    /// Tells this daemon from others with its id.
    pub instance: String,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Stream {
    /// To the server.
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
    #[error("what another stream had brought came into force after this one's hello")]
    Outdated,
    #[error("{0}")]
    Held(String),
    #[error("{}: {}", .0.code(), .0.message())]
    Failed(Box<Status>),
    #[error("{}: {}", .0.code(), .0.message())]
    Refused(Box<Status>),
}

fn remedy(code: Code) -> &'static str {
    match code {
        Code::Unauthenticated | Code::PermissionDenied => {
            "what stands between node and server wants to know who asks; let this node pass there"
        }
        Code::Unimplemented => "what answers at this address is no sockpilot server of this version; correct --server",
        _ => "correct what the server complains of: --node-id, --label, or the versions of node and server",
    }
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::AlreadyExists => Self::Held(status.message().to_owned()),
            // The server would say so of the same hello each time.
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented => Self::Refused(Box::new(status)),
            _ => Self::Failed(Box::new(status)),
        }
    }
}

impl Stream {
    /// Connects, again and again, until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let (mut attempt, mut acked) = (0_u32, None);
        // Our side of the stream before. Its end would say that this daemon leaves, so it ends only when the next stream stands.
        let mut before = None;
        while !stop.is_cancelled() {
            let began = Instant::now();
            let span = tracing::info_span!("stream", attempt);
            let end = self.connect(&stop, &mut before, &mut acked).instrument(span).await;
            self.connected.send_replace(false);
            self.metrics.connected.set(0);
            self.metrics.streams_ended.inc();
            if matches!(end, End::Stopped) {
                return;
            }
            if began.elapsed() >= LIFE_MIN {
                attempt = 0;
            }
            let wait = self.wait_after(&end, attempt);
            attempt = attempt.saturating_add(1);
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Says why the stream has ended, and how long it will be until the next.
    fn wait_after(&self, end: &End, attempt: u32) -> Duration {
        self.metrics.id_taken.set(matches!(end, End::Held(_)).into());
        self.metrics.refused.set(matches!(end, End::Refused(_)).into());
        match end {
            End::Held(_) => {
                let wait = HELD_WAIT_MIN + HELD_WAIT_MORE.mul_f64(rand::random());
                tracing::error!(
                    %end,
                    node_id = self.identity.node_id,
                    ?wait,
                    "another daemon has this node's id, as when a machine was cloned: start this one with a --node-id of its \
                     own; what is in force here stays so"
                );
                wait
            }
            End::Refused(status) => {
                let (wait, remedy) = (backoff::slow(rand::random()), remedy(status.code()));
                tracing::error!(%end, ?wait, remedy, "the server refuses this node; what is in force stays so");
                wait
            }
            _ => {
                let wait = backoff::delay(attempt, rand::random());
                tracing::warn!(%end, attempt, ?wait, "not connected; what is in force stays so");
                wait
            }
        }
    }

    async fn connect(
        &self,
        stop: &CancellationToken,
        before: &mut Option<mpsc::Sender<v1::NodeEvent>>,
        acked: &mut Option<v1::Ack>,
    ) -> End {
        let (events, outbound) = mpsc::channel(EVENTS_MAX);
        // Before the hello: whatever comes into force after it is seen.
        let mut late = self.keeper.late.clone();
        late.mark_unchanged();
        let hello = match self.hello() {
            Ok(hello) => hello,
            Err(error) => return End::Facts(error),
        };
        let told = hello.in_force.clone();
        // There is room: the channel is new.
        let _ = events.try_send(event(Event::Hello(hello)));
        let mut client = NodeServiceClient::new(self.channel.clone()).max_decoding_message_size(SNAPSHOT_BYTES_MAX);
        let connected = tokio::select! {
            connected = timeout(ANSWER_MAX, client.connect(ReceiverStream::new(outbound))) => connected,
            () = stop.cancelled() => return End::Stopped,
        };
        match connected {
            Err(_) => End::Silent,
            Ok(Err(status)) => status.into(),
            Ok(Ok(response)) => {
                let mut inbound = response.into_inner();
                *before = Some(events.clone());
                let acted_on = self.keeper.acted_on.clone();
                let mut answers = Answers { events, late, last: told, acted_on, acked };
                let end = self.listen(&mut inbound, &mut answers, stop).await;
                if matches!(end, End::Stopped) {
                    // The end of our side says that another daemon may have this node's id at once.
                    drop((answers, before.take()));
                    let ended = async { while let Ok(Some(_)) = inbound.message().await {} };
                    let _ = timeout(LEAVE_MAX, ended).await;
                }
                end
            }
        }
    }

    fn hello(&self) -> Result<v1::Hello, facts::FactsError> {
        let Identity { node_id, labels, instance } = self.identity.clone();
        let in_force = self.keeper.in_force.borrow().clone();
        Ok(v1::Hello {
            node_id,
            labels,
            daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: Some(sockpilot_proto::convert::kernel_facts_to_proto(&facts::read()?)),
            in_force: in_force.as_ref().map(|in_force| in_force.version.to_proto()),
            alive: Some(self.alive(None)),
            instance,
            held_back: in_force.map(|in_force| in_force.held_back).unwrap_or_default(),
        })
    }

    /// A sign of life. `heard` is what the server has said of the time on this stream.
    fn alive(&self, heard: Option<ServerTime>) -> v1::Alive {
        let now = Moment::now().ok();
        let before = |heard: ServerTime| now.map(|now| now.monotonic_ns.saturating_sub(heard.at.monotonic_ns) / 1_000);
        let not_written =
            self.keeper.not_written.borrow().as_ref().map(|NotWritten { what, since, reason }| v1::NotWritten {
                what: what.iter().map(|what| what.name().to_owned()).collect(),
                reason: reason.clone(),
                for_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
        v1::Alive {
            node_time: now.map(|now| timestamp(now.wall_ns)),
            heard_server_time: heard.map(|heard| timestamp(heard.server_ns)),
            heard_before_us: heard.and_then(before).unwrap_or_default(),
            not_written,
        }
    }

    async fn listen(
        &self,
        inbound: &mut Streaming<v1::ServerEvent>,
        answers: &mut Answers<'_>,
        stop: &CancellationToken,
    ) -> End {
        let mut alive = interval_at(tokio::time::Instant::now() + ALIVE_EVERY, ALIVE_EVERY);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silence = Box::pin(sleep(SILENCE_MAX));
        let mut not_written = self.keeper.not_written.clone();
        let mut heard = None;
        loop {
            let received = tokio::select! {
                received = inbound.message() => received,
                _ = alive.tick() => {
                    // Without room the server has unread signs of life enough.
                    let _ = answers.events.try_send(event(Event::Alive(self.alive(heard))));
                    if let Err(end) = answers.send_changed().await {
                        return end;
                    }
                    continue;
                }
                Ok(()) = not_written.changed() => {
                    alive.reset_immediately();
                    continue;
                }
                Ok(()) = answers.late.changed() => {
                    if let Err(end) = answers.send_late().await {
                        return end;
                    }
                    continue;
                }
                () = &mut silence => return End::Silent,
                () = stop.cancelled() => return End::Stopped,
            };
            let received = match received {
                Ok(Some(received)) => received,
                Ok(None) => return End::Closed,
                Err(status) => return status.into(),
            };
            heard = server_time(&received).or(heard);
            self.heard(heard);
            if let Some(ServerEvent::Snapshot(snapshot)) = received.event {
                let version = snapshot.version.clone();
                let Some(answer) = self.offer(snapshot).await else { return End::Stopped };
                if let Err(end) = answers.send(version, answer).await {
                    return end;
                }
            }
            silence.as_mut().reset(tokio::time::Instant::now() + SILENCE_MAX);
        }
    }

    /// A server was heard of; `time` is what it said last on this stream.
    fn heard(&self, time: Option<ServerTime>) {
        // One that says nothing of the time leaves it at what was said before.
        self.keeper.heard.send_modify(|known| *known = time.or(*known));
        if !self.connected.send_replace(true) {
            self.metrics.connected.set(1);
            self.metrics.refused.set(0);
            self.metrics.id_taken.set(0);
            tracing::info!("connected");
            let ahead_ns = time.map_or(0, ServerTime::wall_ahead_ns);
            if u128::from(ahead_ns.unsigned_abs()) > CLOCK_OFF_MAX.as_nanos() {
                let ahead_s = ahead_ns as f64 / 1e9;
                tracing::warn!(ahead_s, "this machine's clock is off; outcomes are placed by the server's");
            }
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

/// The way of answers to the server.
struct Answers<'a> {
    events: mpsc::Sender<v1::NodeEvent>,
    /// What has become of a snapshot after its first answer.
    late: watch::Receiver<Option<Event>>,
    /// What the server knows this node to have had at the hello, or has offered since.
    last: Option<v1::SnapshotVersion>,
    /// What there is to acknowledge now.
    acted_on: watch::Receiver<Option<v1::Ack>>,
    /// The last acknowledgement that was sent, on whichever stream.
    acked: &'a mut Option<v1::Ack>,
}

impl Answers<'_> {
    /// The answer to a snapshot that was just offered. A late one to the snapshot before it goes first, one to itself follows.
    async fn send(&mut self, version: Option<v1::SnapshotVersion>, answer: Event) -> Result<(), End> {
        let late = self.late.borrow().as_ref().and_then(version_of).cloned();
        if late != version && self.late.has_changed().unwrap_or(false) {
            self.send_late().await?;
        }
        self.last = version;
        self.send_now(answer).await
    }

    async fn send_late(&mut self) -> Result<(), End> {
        let late = self.late.borrow_and_update().clone();
        match late {
            Some(answer) if version_of(&answer) == self.last.as_ref() => self.send_now(answer).await,
            // The server does not know of this version. The next hello tells.
            Some(Event::Ack(_)) => Err(End::Outdated),
            _ => Ok(()),
        }
    }

    /// Acknowledges once more if what is in force acts on other cgroups than was said, or less is held back; not oftener than signs of life are sent,
    /// however often a service restarts.
    async fn send_changed(&mut self) -> Result<(), End> {
        let now = self.acted_on.borrow().clone();
        match now {
            Some(now) if now.version == self.last && self.acked.as_ref() != Some(&now) => {
                self.send_now(Event::Ack(now)).await
            }
            _ => Ok(()),
        }
    }

    async fn send_now(&mut self, answer: Event) -> Result<(), End> {
        if let Event::Ack(ack) = &answer {
            *self.acked = Some(v1::Ack { apply_us: 0, ..ack.clone() });
        }
        self.events.send_timeout(event(answer), ANSWER_MAX).await.map_err(|_| End::Stuck)
    }
}

fn version_of(answer: &Event) -> Option<&v1::SnapshotVersion> {
    match answer {
        Event::Ack(ack) => ack.version.as_ref(),
        Event::Nack(nack) => nack.version.as_ref(),
        Event::Hello(_) | Event::Alive(_) => None,
    }
}

/// What a server says of the time with an event.
fn server_time(received: &v1::ServerEvent) -> Option<ServerTime> {
    let Some(ServerEvent::Heartbeat(v1::Heartbeat { server_time: Some(time) })) = received.event else { return None };
    let (seconds, nanos) = (u64::try_from(time.seconds).ok()?, u64::try_from(time.nanos).ok()?);
    Some(ServerTime { server_ns: seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?, at: Moment::now().ok()? })
}

fn timestamp(ns: u64) -> Timestamp {
    Timestamp { seconds: (ns / 1_000_000_000).cast_signed(), nanos: (ns % 1_000_000_000) as i32 }
}

fn event(event: Event) -> v1::NodeEvent {
    v1::NodeEvent { event: Some(event) }
}
