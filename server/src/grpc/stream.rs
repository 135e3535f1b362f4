//! One stream of one node. The transport's own task reads what the node says and makes what is sent, both only when it can send: a slow
//! node has one snapshot on its way and the newest waiting, and is not listened to. There is no task and no timer but that: there are
//! thousands of streams.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use sockpilot_policy::fault::Faults;
use sockpilot_proto::v1::{self, server_event::Event};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use super::{
    Api,
    convert::node_event::{self, Ack, LaterEvent},
    error::{held, invalid, of_store},
    frames,
};
use crate::{
    auth::{
        caller::{Caller, Node},
        connections::Connection,
    },
    clock::{OFFSET_MS_MAX, timestamp},
    fleet::{
        fanout::Attachment,
        mailbox::{End, Letter, Mailbox},
        node::{Admission, Registered, Registration, Sign, Stream},
        pace,
        propagation::Way,
        register,
        session::{AckError, Acknowledged, Delivery, SendDecision, Session, UnknownAnswer},
    },
    metrics::NodeStages,
    store::{Settled, server},
};

/// A node that has connected says hello at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// What a node says that is heard before it is sent something again.
const HEARD_AT_ONCE: usize = 16;

/// Opens a stream: waits for the hello, registers the node, and begins to serve it. What goes to it are whole messages, as they are on
/// the wire.
pub async fn open(
    api: Arc<Api>,
    connection: Arc<Connection>,
    caller: &Caller,
    mut incoming: Streaming<v1::NodeEvent>,
) -> Result<BoxStream<'static, Result<Bytes, Status>>, Status> {
    let address = connection.address.to_string();
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
    let attachment = api.fanout.attach(&node, &registered, connection.cut.clone());
    api.metrics.streams.inc();
    let Attachment { stream, mailbox, .. } = &attachment;
    let node_id = stream.node_id.clone();
    let session = Session::new(node_id, Instant::now(), node.in_force, node.held_back, registered.refused);
    let watch = ClockWatch::new(&api, &stream.node_id, &node.sign);
    let told = (node.sign, Instant::now());
    let gone = Gone { api: api.clone(), stream: stream.clone(), mailbox: mailbox.clone() };
    let conversation = Conversation { api, incoming, session, watch, told, over: false, attachment, _gone: gone };
    Ok(conversation.boxed())
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

/// Notes the end of the stream, however it comes.
#[derive(Debug)]
struct Gone {
    api: Arc<Api>,
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

/// Says once when a node's clock is off, and counts the nodes whose clock is.
struct ClockWatch {
    api: Arc<Api>,
    node_id: String,
    off: bool,
}

impl ClockWatch {
    fn new(api: &Arc<Api>, node_id: &str, first: &Sign) -> Self {
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

/// What is said on a stream, to both sides.
struct Conversation {
    api: Arc<Api>,
    incoming: Streaming<v1::NodeEvent>,
    session: Session,
    watch: ClockWatch,
    /// What the node said of itself when it last said something new, and when.
    told: (Sign, Instant),
    over: bool,
    attachment: Attachment,
    // Last, so that the place is free before the end is noted.
    _gone: Gone,
}

impl futures::Stream for Conversation {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        // First: what the node has said may be why it needs nothing.
        let said = match this.listen(cx) {
            Ok(()) => ready!(this.poll_message(cx)),
            Err(end) => end.err().map(Err),
        };
        this.over = !matches!(said, Some(Ok(_)));
        Poll::Ready(said)
    }
}

/// Why the node is not listened to any longer; `Ok`: it has ended the stream itself.
type Ended = Result<(), Status>;

impl Conversation {
    fn listen(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        for _ in 0..HEARD_AT_ONCE {
            let Poll::Ready(heard) = self.incoming.poll_next_unpin(cx) else { return Ok(()) };
            let event = match heard {
                Some(Ok(event)) => event,
                Some(Err(status)) => {
                    if status.code() == Code::OutOfRange {
                        self.api.metrics.refused("size");
                    }
                    return Err(Err(status));
                }
                None => {
                    self.api.recorder.left(&self.attachment.stream);
                    return Err(Ok(()));
                }
            };
            self.api.fanout.heard(&self.attachment.mailbox);
            let event = node_event::later_event(event, self.api.clock.time_at(Instant::now()));
            event.and_then(|event| self.take(event)).map_err(|faults| Err(invalid(&faults)))?;
        }
        // It may have said more.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// What contradicts what was sent ends the stream.
    fn take(&mut self, event: LaterEvent) -> Result<(), Faults> {
        let Attachment { stream, mailbox, .. } = &self.attachment;
        let node = stream.node_id.as_str();
        let unknown = |error: UnknownAnswer| {
            tracing::warn!(node, error = &error as &dyn std::error::Error, "node answer ignored")
        };
        match event {
            LaterEvent::Alive(sign) => {
                self.watch.look(&sign);
                let (told, at) = &self.told;
                if sign.tells_more(told, at.elapsed()) {
                    self.told = (sign.clone(), Instant::now());
                    self.api.recorder.told(stream, sign);
                }
            }
            LaterEvent::Ack(Ack { version, effective, held_back, stages, put_off }) => {
                self.api.recorder.answered(mailbox);
                match self.session.ack(version, effective, held_back) {
                    Ok(acknowledged) => self.confirmed(acknowledged, stages, put_off),
                    Err(AckError::Unknown(error)) => unknown(error),
                    Err(AckError::HeldBack(faults)) => return Err(faults),
                }
            }
            LaterEvent::Nack(version, violations) => {
                self.api.recorder.answered(mailbox);
                match self.session.nack(version, violations) {
                    Ok(refusal) => {
                        self.api.metrics.nacks.inc();
                        tracing::warn!(node, violations = refusal.violations.len(), "snapshot refused");
                        self.api.recorder.refused(stream, refusal);
                    }
                    Err(error) => unknown(error),
                }
            }
        }
        Ok(())
    }

    fn confirmed(&self, acknowledged: Acknowledged, stages: Option<NodeStages>, put_off: Duration) {
        let Acknowledged { confirmation, committed, way } = acknowledged;
        let Attachment { stream, mailbox, .. } = &self.attachment;
        self.api.metrics.acks.inc();
        mailbox.has(&confirmation.version, committed);
        if let Some(way) = way {
            self.measure(&way, stages, put_off);
        }
        if !confirmation.held_back.is_empty() {
            self.api.metrics.acks_in_part.inc();
            let layers: Vec<_> = confirmation.held_back.iter().map(|held| held.layer.as_str()).collect();
            tracing::warn!(node = stream.node_id, ?layers, "layers held back");
        }
        self.api.recorder.confirmed(stream, confirmation);
    }

    fn measure(&self, way: &Way, stages: Option<NodeStages>, put_off: Duration) {
        let (answered, propagation) = (way.answered(Instant::now(), put_off), &self.api.metrics.propagation);
        let stages = way.stages(answered, stages).inspect_err(|absurd| {
            let node = &self.attachment.stream.node_id;
            propagation.absurd.inc();
            tracing::warn!(node, error = absurd as &dyn std::error::Error, "node stages ignored");
        });
        propagation.confirmed(way.whole(answered), stages.ok().as_ref());
    }

    fn heartbeat(&self, now: Instant) -> v1::Heartbeat {
        let recording = self.api.recordings.of(&self.attachment.stream.node_id, now);
        v1::Heartbeat { server_time: Some(timestamp(self.api.clock.time_at(now))), recording }
    }

    /// What to send next; `None`: there will be nothing more.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            let letter = ready!(self.attachment.mailbox.poll(cx));
            let message = match letter {
                Letter::End(end) => Some(Err(why(end))),
                Letter::Heartbeat => Some(frames::message(Event::Heartbeat(self.heartbeat(Instant::now())))),
                Letter::Delivery(delivery) => self.snapshot(&delivery),
            };
            if message.is_some() {
                return Poll::Ready(message);
            }
        }
    }

    /// The snapshot, unless the node needs none.
    fn snapshot(&mut self, delivery: &Delivery) -> Option<Result<Bytes, Status>> {
        let Attachment { stream, mailbox, .. } = &self.attachment;
        let decision = self.session.decide(delivery, Instant::now());
        if self.session.has(delivery) {
            mailbox.has(&delivery.version, delivery.committed);
        }
        match decision {
            SendDecision::Send => {
                self.api.metrics.snapshots_sent.inc();
                self.api.recorder.asked(mailbox);
                return Some(frames::snapshot(delivery, pace::answers_within(self.api.metrics.nodes())));
            }
            SendDecision::InForce(confirmation) => self.api.recorder.confirmed(stream, confirmation),
            SendDecision::Withhold(refusal) => {
                self.api.metrics.snapshots_withheld.inc();
                self.api.recorder.refused(stream, refusal);
            }
            SendDecision::Nothing => {}
        }
        None
    }
}

/// What the node is told of the end.
fn why(end: End) -> Status {
    match end {
        End::Drained => Status::unavailable("the server is shutting down; connect again"),
        End::Silent => Status::unavailable("the last contact with the node was 30 s ago"),
        End::Superseded => {
            Status::aborted("another stream takes its place, or its labels are others now; connect again")
        }
    }
}
