//! One stream of one node. A task reads what the node says; what is sent is made only when the transport can take it, so that a
//! slow node has one snapshot on its way and the newest waiting.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::BoxStream};
use sockpilot_proto::v1::{self, server_event::Event};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval_at, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::{
    Api,
    error::{invalid, of_store},
    event::{self, News},
};
use crate::{
    fanout::Attachment,
    session::{Decision, Session},
    store::{
        Settled,
        confirmation::Stream,
        node::{self, Registered, Registration},
    },
};

/// A node that has connected says hello at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A node sends something every 5 s.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Opens a stream: waits for the hello, registers the node, and begins to serve it.
pub async fn open(
    api: Api,
    mut incoming: Streaming<v1::NodeEvent>,
) -> Result<BoxStream<'static, Result<v1::ServerEvent, Status>>, Status> {
    let first = timeout(HELLO_TIMEOUT, incoming.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello within 10 s of connecting"))??;
    let node = event::hello(first.unwrap_or_default(), Uuid::new_v4()).map_err(|faults| invalid(&faults))?;
    let registered = register(&api, &node).await?;
    if let Some(in_force) = node.in_force
        && in_force.epoch == registered.epoch
        && in_force.generation > registered.generation
    {
        tracing::error!(
            node = node.node_id,
            node_generation = in_force.generation,
            database_generation = registered.generation,
            "the node is ahead of the database, which was restored from a copy: make a new epoch by \
             UPDATE control SET database_epoch = gen_random_uuid(), generation = generation + 1"
        );
    }
    tracing::info!(node = node.node_id, "node connected");
    let attachment = api.fanout.attach(&node, &registered);
    api.metrics.streams.inc();
    let session = Arc::new(Mutex::new(Session::new(node.node_id, node.in_force, registered.refused)));
    let (ended, end) = watch::channel(None);
    let stop = CancellationToken::new();
    let reader = Reader { api: api.clone(), stream: attachment.stream.clone(), session: session.clone() };
    tokio::spawn(reader.run(incoming, ended, stop.clone()));
    let mut heartbeat = interval_at((Instant::now() + api.heartbeat).into(), api.heartbeat);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let gone = Gone { api: api.clone(), stream: attachment.stream.clone() };
    let writer =
        Writer { api, attachment, session, heartbeat, end, over: false, _reader: stop.drop_guard(), _gone: gone };
    Ok(futures::stream::unfold(Box::new(writer), Writer::next).boxed())
}

async fn register(api: &Api, node: &Registration) -> Result<Registered, Status> {
    let node = Arc::new(node.clone());
    let done = api.store.transact("register node", move |conn| {
        let node = node.clone();
        Box::pin(async move { Ok(Settled::Commit(node::register(conn, &node).await?)) })
    });
    done.await.map_err(of_store)
}

/// Notes the end of the stream, however it comes.
#[derive(Debug)]
struct Gone {
    api: Api,
    stream: Stream,
}

impl Drop for Gone {
    fn drop(&mut self) {
        tracing::info!(node = self.stream.node_id, "node disconnected");
        self.api.recorder.gone(&self.stream);
    }
}

fn lock(session: &Mutex<Session>) -> MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Reader {
    api: Api,
    stream: Stream,
    session: Arc<Mutex<Session>>,
}

impl Reader {
    /// Reads until the node or the writer ends; `ended` gets the status that ends the stream.
    async fn run(
        self,
        mut incoming: Streaming<v1::NodeEvent>,
        ended: watch::Sender<Option<Status>>,
        stop: CancellationToken,
    ) {
        let status = tokio::select! {
            status = self.read(&mut incoming) => status,
            () = stop.cancelled() => return,
        };
        ended.send_replace(Some(status));
    }

    async fn read(&self, incoming: &mut Streaming<v1::NodeEvent>) -> Status {
        loop {
            let event = match timeout(SILENCE_MAX, incoming.message()).await {
                Err(_) => return Status::unavailable("nothing was heard of the node for 30 s"),
                Ok(Err(status)) => return status,
                Ok(Ok(None)) => return Status::ok("the node has ended the stream"),
                Ok(Ok(Some(event))) => event,
            };
            match event::news(event) {
                Ok(news) => self.take(news),
                Err(faults) => return invalid(&faults),
            }
        }
    }

    fn take(&self, news: News) {
        let node = self.stream.node_id.as_str();
        let unknown = |error| tracing::warn!(node, error = &error as &dyn std::error::Error, "ignored");
        match news {
            News::Alive => self.api.recorder.seen(&self.stream),
            News::Ack(version, effective) => match lock(&self.session).ack(version, effective) {
                Ok((confirmation, committed)) => {
                    self.api.metrics.acks.inc();
                    if let Some(committed) = committed {
                        self.api.metrics.propagation.observe(committed.elapsed().as_secs_f64());
                    }
                    self.api.recorder.confirmed(&self.stream, confirmation);
                }
                Err(error) => unknown(error),
            },
            News::Nack(version, violations) => match lock(&self.session).nack(version, violations) {
                Ok(refusal) => {
                    self.api.metrics.nacks.inc();
                    tracing::warn!(node, violations = refusal.violations.len(), "node refused a snapshot");
                    self.api.recorder.refused(&self.stream, refusal);
                }
                Err(error) => unknown(error),
            },
        }
    }
}

/// Makes what is sent, one event at a time, when the transport asks for it.
struct Writer {
    api: Api,
    attachment: Attachment,
    session: Arc<Mutex<Session>>,
    heartbeat: Interval,
    end: watch::Receiver<Option<Status>>,
    over: bool,
    _reader: DropGuard,
    // Last, so that the place is free before the end is noted.
    _gone: Gone,
}

enum Step {
    Place,
    Heartbeat,
    End(Option<Status>),
}

impl Writer {
    async fn next(mut self: Box<Self>) -> Option<(Result<v1::ServerEvent, Status>, Box<Self>)> {
        if self.over {
            return None;
        }
        loop {
            match self.step().await {
                Step::End(None) => return None,
                Step::End(Some(status)) => {
                    self.over = true;
                    return Some((Err(status), self));
                }
                Step::Heartbeat => return Some((Ok(event(Event::Heartbeat(v1::Heartbeat {}))), self)),
                Step::Place => {
                    if let Some(snapshot) = self.snapshot() {
                        return Some((Ok(event(Event::Snapshot(snapshot))), self));
                    }
                }
            }
        }
    }

    async fn step(&mut self) -> Step {
        let drained = "the server is shutting down; connect again";
        let superseded = "another stream of this node has taken its place";
        tokio::select! {
            biased;
            () = self.api.drain.cancelled() => Step::End(Some(Status::unavailable(drained))),
            ended = self.end.wait_for(Option::is_some) => {
                let status = ended.ok().and_then(|status| status.clone());
                Step::End(status.filter(|status| status.code() != tonic::Code::Ok))
            }
            changed = self.attachment.place.changed() => match changed {
                Ok(()) => Step::Place,
                Err(_) => Step::End(Some(Status::aborted(superseded))),
            },
            _ = self.heartbeat.tick() => Step::Heartbeat,
        }
    }

    /// The newest snapshot, unless the node needs none.
    fn snapshot(&mut self) -> Option<v1::Snapshot> {
        let delivery = self.attachment.place.borrow_and_update().clone()?;
        let decision = lock(&self.session).decide(&delivery);
        let stream = &self.attachment.stream;
        match decision {
            Decision::Send(snapshot) => {
                self.api.metrics.snapshots_sent.inc();
                Some(snapshot)
            }
            Decision::InForce(confirmation) => {
                self.api.recorder.confirmed(stream, confirmation);
                None
            }
            Decision::Withhold(refusal) => {
                self.api.metrics.snapshots_withheld.inc();
                self.api.recorder.refused(stream, refusal);
                None
            }
            Decision::Nothing => None,
        }
    }
}

fn event(event: Event) -> v1::ServerEvent {
    v1::ServerEvent { event: Some(event) }
}
