//! One stream of one node. A task reads what the node says; what is sent is made only when the transport can take it, so that a
//! slow node has one snapshot on its way and the newest waiting. Neither has a timer of its own: there are thousands of them.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::BoxStream};
use sockpilot_policy::fault::Faults;
use sockpilot_proto::v1::{self, server_event::Event};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use super::{
    Api,
    convert::{
        fleet::version_to_proto,
        node_event::{self, Ack, LaterEvent},
    },
    error::{held, invalid, of_store},
};
use crate::{
    auth::caller::{Caller, Node},
    clock::{OFFSET_MS_MAX, timestamp},
    fleet::{
        fanout::Attachment,
        mailbox::{End, Letter, Mailbox},
        node::{Admission, Registered, Registration, Sign, Stream},
        propagation::Way,
        register,
        session::{AckError, Acknowledged, Delivery, SendDecision, Session, UnknownAnswer},
    },
    metrics::NodeStages,
    store::{Settled, server},
};

/// A node that has connected says hello at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Opens a stream: waits for the hello, registers the node, and begins to serve it.
pub async fn open(
    api: Api,
    address: String,
    caller: &Caller,
    mut incoming: Streaming<v1::NodeEvent>,
) -> Result<BoxStream<'static, Result<v1::ServerEvent, Status>>, Status> {
    let first = timeout(HELLO_TIMEOUT, incoming.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello within 10 s of connecting"))??;
    let now = api.clock.time_at(Instant::now());
    let node = node_event::hello(first.unwrap_or_default(), (api.server_id, Uuid::new_v4()), address, now);
    let mut node = node.map_err(|faults| {
        api.metrics.refused("hello");
        invalid(&faults)
    })?;
    if let Caller::Node(known) = caller {
        own(&api, known, &node.node_id)?;
        let (labels, overruled) = api.gate.labels(known, std::mem::take(&mut node.labels));
        if !overruled.is_empty() {
            api.metrics.labels_overruled.inc_by(overruled.len() as u64);
            tracing::warn!(node = node.node_id, labels = ?overruled, "node labels not its own to say");
        }
        node.labels = labels;
    }
    let registered = admit(&api, &node).await?;
    if let Some(in_force) = node.in_force
        && in_force.epoch == registered.epoch
        && in_force.generation > registered.generation
    {
        tracing::error!(
            node = node.node_id,
            node_generation = in_force.generation,
            database_generation = registered.generation,
            remedy = "the database was restored from a copy, so make a new epoch: \
             UPDATE control SET database_epoch = gen_random_uuid(), generation = generation + 1",
            "node ahead of database"
        );
    }
    tracing::info!(node = node.node_id, node.address, "node connected");
    let attachment = api.fanout.attach(&node, &registered);
    api.metrics.streams.inc();
    let node_id = attachment.stream.node_id.clone();
    let session = Session::new(node_id, Instant::now(), node.in_force, node.held_back, registered.refused);
    let talk = Arc::new(Talk { session: Mutex::new(session), end: Mutex::new(None) });
    let watch = ClockWatch::new(&api, &attachment.stream.node_id, &node.sign);
    let (stream, mailbox) = (attachment.stream.clone(), attachment.mailbox.clone());
    let told = (node.sign, Instant::now());
    let reader = Reader { api: api.clone(), stream: stream.clone(), mailbox, talk: talk.clone(), watch, told };
    let reader = AbortOnDropHandle::new(tokio::spawn(reader.run(incoming)));
    let gone = Gone { api: api.clone(), stream, mailbox: attachment.mailbox.clone() };
    Ok(Writer { api, attachment, talk, over: false, _reader: reader, _gone: gone }.boxed())
}

/// A node is who its certificate says, whatever it says itself.
pub(super) fn own(api: &Api, known: &Node, claimed: &str) -> Result<(), Status> {
    if known.id == claimed {
        return Ok(());
    }
    api.metrics.refused("another_node");
    tracing::warn!(node = known.id, claimed, "node claims to be another");
    Err(Status::permission_denied(format!("this certificate is of nodes/{}; give its daemon that --node-id", known.id)))
}

/// Registers the node, unless another daemon is it.
async fn admit(api: &Api, node: &Registration) -> Result<Registered, Status> {
    if api.fanout.serves_another(node) {
        // After an outage of the database, what that one said may not be written yet, nor that this server holds it.
        api.recorder.write(&api.store).await.map_err(of_store)?;
        let server_id = api.server_id;
        let renewed = api.store.transact("renew", move |conn| {
            Box::pin(async move { Ok(Settled::Commit(server::renew(conn, server_id).await?)) })
        });
        renewed.await.map_err(of_store)?;
    }
    match register(api, node).await? {
        Admission::Registered(registered) => Ok(registered),
        Admission::Held(holder) => {
            api.metrics.node_conflicts.inc();
            let (node, address) = (&node.node_id, &node.address);
            tracing::error!(
                node,
                address,
                holder = holder.address,
                holder_last_contact_s = holder.last_contact_s,
                remedy = "give the second daemon a --node-id of its own",
                "node id conflict, second daemon refused"
            );
            Err(held(node, &holder))
        }
    }
}

async fn register(api: &Api, node: &Registration) -> Result<Admission, Status> {
    let node = Arc::new(node.clone());
    let done = api.store.transact("register node", move |conn| {
        let node = node.clone();
        Box::pin(async move { Ok(Settled::Commit(register::register(conn, &node).await?)) })
    });
    done.await.map_err(of_store)
}

/// What reader and writer of a stream share.
#[derive(Debug)]
struct Talk {
    session: Mutex<Session>,
    /// Why the reader has ended.
    end: Mutex<Option<Status>>,
}

/// Notes the end of the stream, however it comes.
#[derive(Debug)]
struct Gone {
    api: Api,
    stream: Stream,
    mailbox: Arc<Mailbox>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        tracing::info!(node = self.stream.node_id, "node disconnected");
        self.api.recorder.answered(&self.mailbox);
        let silent_for = self.api.fanout.silent_for(&self.mailbox);
        let now = Instant::now();
        self.api.recorder.gone(&self.stream, now.checked_sub(silent_for).unwrap_or(now));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Reader {
    api: Api,
    stream: Stream,
    mailbox: Arc<Mailbox>,
    talk: Arc<Talk>,
    watch: ClockWatch,
    /// What the node said of itself when it last said something new, and when.
    told: (Sign, Instant),
}

/// Says once when a node's clock is off, and counts the nodes whose clock is.
struct ClockWatch {
    api: Api,
    node_id: String,
    off: bool,
}

impl ClockWatch {
    fn new(api: &Api, node_id: &str, first: &Sign) -> Self {
        let mut watch = Self { api: api.clone(), node_id: node_id.to_owned(), off: false };
        watch.look(first);
        watch
    }

    fn look(&mut self, sign: &Sign) {
        let node = self.node_id.as_str();
        let off = sign.clock_offset_ms.is_some_and(|offset_ms| offset_ms.unsigned_abs() > OFFSET_MS_MAX);
        match (self.off, off) {
            (false, true) => {
                self.api.metrics.node_clocks_off.inc();
                tracing::warn!(
                    node,
                    offset_ms = sign.clock_offset_ms,
                    effect = "its outcomes are placed by the database's clock, but its own log is not",
                    "node clock off"
                );
            }
            (true, false) => {
                self.api.metrics.node_clocks_off.dec();
                tracing::info!(node, "node clock right again");
            }
            _ => {}
        }
        self.off = off;
    }
}

impl Drop for ClockWatch {
    fn drop(&mut self) {
        if self.off {
            self.api.metrics.node_clocks_off.dec();
        }
    }
}

impl Reader {
    /// Reads until the node ends, or the writer, which aborts it.
    async fn run(mut self, mut incoming: Streaming<v1::NodeEvent>) {
        let status = self.read(&mut incoming).await;
        lock(&self.talk.end).replace(status);
        self.mailbox.end(End::Read);
    }

    async fn read(&mut self, incoming: &mut Streaming<v1::NodeEvent>) -> Status {
        loop {
            let event = match incoming.message().await {
                Err(status) => {
                    if status.code() == Code::OutOfRange {
                        self.api.metrics.refused("size");
                    }
                    return status;
                }
                Ok(None) => {
                    self.api.recorder.left(&self.stream);
                    return Status::ok("the node has ended the stream");
                }
                Ok(Some(event)) => event,
            };
            self.api.fanout.heard(&self.mailbox);
            match node_event::later_event(event, self.api.clock.time_at(Instant::now())) {
                Ok(event) => {
                    if let Err(faults) = self.take(event) {
                        return invalid(&faults);
                    }
                }
                Err(faults) => return invalid(&faults),
            }
        }
    }

    /// What contradicts what was sent ends the stream.
    fn take(&mut self, event: LaterEvent) -> Result<(), Faults> {
        let node = self.stream.node_id.as_str();
        let unknown = |error: UnknownAnswer| {
            tracing::warn!(node, error = &error as &dyn std::error::Error, "node answer ignored")
        };
        match event {
            LaterEvent::Alive(sign) => {
                self.watch.look(&sign);
                let (told, at) = &self.told;
                if sign.tells_more(told, at.elapsed()) {
                    self.told = (sign.clone(), Instant::now());
                    self.api.recorder.told(&self.stream, sign);
                }
            }
            LaterEvent::Ack(Ack { version, effective, held_back, stages }) => {
                self.api.recorder.answered(&self.mailbox);
                let acknowledged = lock(&self.talk.session).ack(version, effective, held_back);
                match acknowledged {
                    Ok(acknowledged) => self.confirmed(acknowledged, stages),
                    Err(AckError::Unknown(error)) => unknown(error),
                    Err(AckError::HeldBack(faults)) => return Err(faults),
                }
            }
            LaterEvent::Nack(version, violations) => {
                self.api.recorder.answered(&self.mailbox);
                match lock(&self.talk.session).nack(version, violations) {
                    Ok(refusal) => {
                        self.api.metrics.nacks.inc();
                        tracing::warn!(node, violations = refusal.violations.len(), "snapshot refused");
                        self.api.recorder.refused(&self.stream, refusal);
                    }
                    Err(error) => unknown(error),
                }
            }
        }
        Ok(())
    }

    fn confirmed(&self, acknowledged: Acknowledged, stages: Option<NodeStages>) {
        let Acknowledged { confirmation, committed, way } = acknowledged;
        self.api.metrics.acks.inc();
        self.mailbox.has(&confirmation.version, committed);
        if let Some(way) = way {
            self.measure(&way, stages);
        }
        if !confirmation.held_back.is_empty() {
            self.api.metrics.acks_in_part.inc();
            let layers: Vec<_> = confirmation.held_back.iter().map(|held| held.layer.as_str()).collect();
            tracing::warn!(node = self.stream.node_id, ?layers, "layers held back");
        }
        self.api.recorder.confirmed(&self.stream, confirmation);
    }

    fn measure(&self, way: &Way, stages: Option<NodeStages>) {
        let (answered, propagation) = (Instant::now(), &self.api.metrics.propagation);
        let stages = way.stages(answered, stages).inspect_err(|absurd| {
            propagation.absurd.inc();
            tracing::warn!(node = self.stream.node_id, error = absurd as &dyn std::error::Error, "node stages ignored");
        });
        propagation.confirmed(way.whole(answered), stages.ok().as_ref());
    }
}

/// Makes what is sent, one event at a time, when the transport asks for it.
struct Writer {
    api: Api,
    attachment: Attachment,
    talk: Arc<Talk>,
    over: bool,
    _reader: AbortOnDropHandle<()>,
    // Last, so that the place is free before the end is noted.
    _gone: Gone,
}

impl futures::Stream for Writer {
    type Item = Result<v1::ServerEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.over {
            match ready!(self.attachment.mailbox.poll(cx)) {
                Letter::End(end) => {
                    self.over = true;
                    return Poll::Ready(self.why(end).map(Err));
                }
                Letter::Heartbeat => {
                    return Poll::Ready(Some(Ok(event(Event::Heartbeat(self.heartbeat(Instant::now()))))));
                }
                Letter::Delivery(delivery) => {
                    if let Some(snapshot) = self.snapshot(&delivery) {
                        return Poll::Ready(Some(Ok(event(Event::Snapshot(snapshot)))));
                    }
                }
            }
        }
        Poll::Ready(None)
    }
}

impl Writer {
    fn heartbeat(&self, now: Instant) -> v1::Heartbeat {
        let recording = self.api.recordings.of(&self.attachment.stream.node_id, now);
        v1::Heartbeat { server_time: Some(timestamp(self.api.clock.time_at(now))), recording }
    }

    /// What the node is told of the end; nothing if it has ended the stream itself.
    fn why(&self, end: End) -> Option<Status> {
        match end {
            End::Read => lock(&self.talk.end).take().filter(|status| status.code() != Code::Ok),
            End::Drained => Some(Status::unavailable("the server is shutting down; connect again")),
            End::Silent => Some(Status::unavailable("the last contact with the node was 30 s ago")),
            End::Superseded => {
                let superseded = "another stream takes its place, or its labels are others now; connect again";
                Some(Status::aborted(superseded))
            }
        }
    }

    /// The snapshot, unless the node needs none.
    fn snapshot(&self, delivery: &Delivery) -> Option<v1::Snapshot> {
        let Attachment { stream, mailbox, .. } = &self.attachment;
        let (decision, has) = {
            let mut session = lock(&self.talk.session);
            (session.decide(delivery, Instant::now()), session.has(delivery))
        };
        if has {
            mailbox.has(&delivery.version, delivery.committed);
        }
        match decision {
            SendDecision::Send(version, layers) => {
                self.api.metrics.snapshots_sent.inc();
                self.api.recorder.asked(mailbox);
                Some(v1::Snapshot { version: Some(version_to_proto(&version)), layers })
            }
            SendDecision::InForce(confirmation) => {
                self.api.recorder.confirmed(stream, confirmation);
                None
            }
            SendDecision::Withhold(refusal) => {
                self.api.metrics.snapshots_withheld.inc();
                self.api.recorder.refused(stream, refusal);
                None
            }
            SendDecision::Nothing => None,
        }
    }
}

fn event(event: Event) -> v1::ServerEvent {
    v1::ServerEvent { event: Some(event) }
}
