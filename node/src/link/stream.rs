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
    time::{MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};
use tracing::Instrument;

use super::{
    answers::{Answers, event},
    end::{End, SILENCE_MAX, remedy},
};
use crate::{
    backoff,
    clock::{Moment, ServerTime},
    disk::owed::NotWritten,
    facts,
    keeper::{Command, Handle},
    metrics::Metrics,
    records::on_request::Wanted,
};

const ALIVE_EVERY: Duration = Duration::from_secs(5);
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

/// The stream before, which ends only when the next one stands: the end of our side would say that this daemon leaves, and of one that
/// moves the server's side goes on as well.
struct Before {
    _ours: mpsc::Sender<v1::NodeEvent>,
    _theirs: Option<Streaming<v1::ServerEvent>>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Stream {
    /// To the server. Another one when the node has another certificate: then the stream moves over.
    pub channel: watch::Receiver<Channel>,
    /// Who.
    pub identity: Identity,
    /// Who puts snapshots in force.
    pub keeper: Handle,
    /// Whether there is contact with the server.
    pub connected: watch::Sender<bool>,
    /// What is counted.
    pub metrics: Metrics,
}

impl Stream {
    /// Connects, again and again, until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut attempt, mut acked) = (0_u32, None);
        let mut before = None;
        while !stop.is_cancelled() {
            let began = Instant::now();
            let span = tracing::info_span!("stream", attempt);
            let end = self.connect(&stop, &mut before, &mut acked).instrument(span).await;
            if matches!(end, End::Moved) {
                tracing::info!("another certificate; stream moves to a new connection");
                continue;
            }
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
                tracing::error!(%end, ?wait, remedy, "server refuses this node");
                wait
            }
            _ => {
                let wait = backoff::delay(attempt, rand::random());
                tracing::warn!(%end, attempt, ?wait, "not connected; will retry");
                wait
            }
        }
    }

    async fn connect(
        &mut self,
        stop: &CancellationToken,
        before: &mut Option<Before>,
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
        let said = hello.in_force.clone();
        // There is room: the channel is new.
        let _ = events.try_send(event(Event::Hello(hello)));
        let channel = self.channel.borrow_and_update().clone();
        let mut client = NodeServiceClient::new(channel).max_decoding_message_size(SNAPSHOT_BYTES_MAX);
        let connected = tokio::select! {
            connected = timeout(ANSWER_MAX, client.connect(ReceiverStream::new(outbound))) => connected,
            () = stop.cancelled() => return End::Stopped,
        };
        match connected {
            Err(_) => End::Silent,
            Ok(Err(status)) => status.into(),
            Ok(Ok(response)) => {
                let mut inbound = response.into_inner();
                *before = Some(Before { _ours: events.clone(), _theirs: None });
                let acted_on = self.keeper.acted_on.clone();
                let mut answers = Answers { events, late, last: said, acted_on, acked, owed: None };
                let end = self.listen(&mut inbound, &mut answers, stop).await;
                if let (End::Moved, Some(before)) = (&end, before.as_mut()) {
                    before._theirs = Some(inbound);
                    return end;
                }
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

    /// A sign of life. `said` is what the server has said of the time on this stream.
    fn alive(&self, said: Option<ServerTime>) -> v1::Alive {
        let now = Moment::now().ok();
        let before = |said: ServerTime| now.map(|now| now.monotonic_ns.saturating_sub(said.at.monotonic_ns) / 1_000);
        let not_written =
            self.keeper.not_written.borrow().as_ref().map(|NotWritten { what, since, reason }| v1::NotWritten {
                what: what.iter().map(|what| what.name().to_owned()).collect(),
                reason: reason.clone(),
                for_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
        v1::Alive {
            node_time: now.map(|now| timestamp(now.wall_ns)),
            heard_server_time: said.map(|said| timestamp(said.server_ns)),
            heard_before_us: said.and_then(before).unwrap_or_default(),
            not_written,
            breaker_trips: self.keeper.breaker_trips.borrow().clone(),
            open: self.keeper.open.borrow().as_ref().map(|open| open.to_proto(Instant::now())),
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
        let mut breaker_trips = self.keeper.breaker_trips.clone();
        let mut said = None;
        let mut channel = self.channel.clone();
        loop {
            let due = answers.due();
            let received = tokio::select! {
                received = inbound.message() => received,
                Ok(()) = channel.changed() => return End::Moved,
                _ = alive.tick() => {
                    // Without room the server has unread signs of life enough.
                    let _ = answers.events.try_send(event(Event::Alive(self.alive(said))));
                    if let Err(end) = answers.send_changed().await {
                        return end;
                    }
                    continue;
                }
                Ok(()) = not_written.changed() => {
                    alive.reset_immediately();
                    continue;
                }
                Ok(()) = breaker_trips.changed() => {
                    alive.reset_immediately();
                    continue;
                }
                () = sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => {
                    if let Err(end) = answers.send_owed().await {
                        return end;
                    }
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
            said = server_time(&received).or(said);
            self.note_contact(said);
            if let Some(ServerEvent::Heartbeat(heartbeat)) = &received.event {
                self.note_recording(heartbeat.recording);
            }
            if let Some(ServerEvent::Snapshot(snapshot)) = received.event {
                let within = Duration::from_millis(snapshot.answer_within_ms.into());
                let asked = (snapshot.version.clone(), within);
                let Some(answer) = self.offer(snapshot).await else { return End::Stopped };
                if let Err(end) = answers.send_within(asked, rand::random(), answer).await {
                    return end;
                }
            }
            silence.as_mut().reset(tokio::time::Instant::now() + SILENCE_MAX);
        }
    }

    /// What a server wants recorded from now on.
    fn note_recording(&self, wanted: Option<v1::RecordingWanted>) {
        let now_ns = Moment::now().map_or(0, |now| now.monotonic_ns);
        let wanted = wanted.map(|v1::RecordingWanted { flows_per_s, left_ms }| Wanted {
            flows_per_s,
            until_ns: now_ns.saturating_add(left_ms.saturating_mul(1_000_000)),
        });
        self.keeper.recording.send_if_modified(|known| std::mem::replace(known, wanted) != wanted);
    }

    /// There was contact with a server; `time` is what it said last on this stream.
    fn note_contact(&self, time: Option<ServerTime>) {
        // One that says nothing of the time leaves it at what was said before.
        self.keeper.contact.send_modify(|known| *known = time.or(*known));
        if !self.connected.send_replace(true) {
            self.metrics.connected.set(1);
            self.metrics.refused.set(0);
            self.metrics.id_taken.set(0);
            tracing::info!("connected");
            let ahead_ns = time.map_or(0, ServerTime::wall_ahead_ns);
            if u128::from(ahead_ns.unsigned_abs()) > CLOCK_OFF_MAX.as_nanos() {
                let ahead_s = ahead_ns as f64 / 1e9;
                tracing::warn!(ahead_s, "machine's clock off; outcomes placed by the server's");
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

/// What a server says of the time with an event.
pub(crate) fn server_time(received: &v1::ServerEvent) -> Option<ServerTime> {
    let Some(ServerEvent::Heartbeat(v1::Heartbeat { server_time: Some(time), .. })) = received.event else {
        return None;
    };
    let (seconds, nanos) = (u64::try_from(time.seconds).ok()?, u64::try_from(time.nanos).ok()?);
    Some(ServerTime { server_ns: seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?, at: Moment::now().ok()? })
}

fn timestamp(ns: u64) -> Timestamp {
    Timestamp { seconds: (ns / 1_000_000_000).cast_signed(), nanos: (ns % 1_000_000_000) as i32 }
}
