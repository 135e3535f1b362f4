//! From a new state of the fleet to the connected nodes. Each node has a [`Mailbox`] with room for one delivery: a newer one replaces it
//! (updates are coalesced), so only the newest ever waits for a slow node. What a node must enforce is found out once for all nodes that are
//! alike, its cohort.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sockpilot_policy::model::Labels;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    mailbox::{End, Mailbox},
    node::{Registered, Registration, Stream, Version},
    propagation::Behind,
    resolve::{Contents, Fleet, Reached, Step},
    session::Delivery,
};
use crate::{change::wave::Candidate, metrics::Metrics};

/// Streams take turns at heartbeats, so that not all of them are woken at once.
pub const TURNS: u32 = 20;

/// The connected nodes, and what each must enforce.
#[derive(Debug)]
pub struct Fanout {
    state: Mutex<State>,
    /// The zero of its clock.
    began: Instant,
    /// Wakes whoever loads the fleet: something has changed, or a node waits for a newer state.
    pub stale: Notify,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    fleet: Option<(Fleet, Moments)>,
    /// How far nodes were behind at their last heartbeats, by turn.
    behind: [Behind; TURNS as usize],
    contents: Contents,
    /// Labels that some node has, once for all that have them.
    labels: HashMap<Arc<Labels>, u64>,
    nodes: HashMap<String, ConnectedNode>,
    /// Streams that were opened.
    opened: u64,
    /// Steps from one state of the fleet to the next that was not read.
    steps: u64,
    /// How far the last of them went.
    reached: Option<Reached>,
    /// Generations that are being made here.
    making: BTreeSet<u64>,
    /// No stream may be opened any more.
    draining: bool,
}

/// When a state of the fleet came to be.
#[derive(Debug, Clone, Copy)]
struct Moments {
    committed: Instant,
    /// To this server.
    known: Instant,
}

#[derive(Debug)]
struct ConnectedNode {
    stream_id: Uuid,
    instance: Option<String>,
    share_position: u32,
    labels: Arc<Labels>,
    /// Stands for the labels.
    labels_id: u64,
    /// When it gets its heartbeats.
    turn: u32,
    /// Nothing older than this may be served to it.
    not_before: (Uuid, u64),
    mailbox: Arc<Mailbox>,
}

/// A node's place. Its mailbox says so when another stream takes the node over; dropped, the node is disconnected.
#[derive(Debug)]
pub struct Attachment {
    /// What is to be sent to it.
    pub mailbox: Arc<Mailbox>,
    /// The stream that was opened.
    pub stream: Stream,
    fanout: Arc<Fanout>,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.fanout.detach(&self.stream);
    }
}

/// A generation that a change of this server makes: it is told of the commit by the database before it is told by the commit itself, and need
/// not look what that was. Dropped, it looks unless nodes are served that generation.
#[derive(Debug)]
pub struct Making {
    generation: u64,
    fanout: Arc<Fanout>,
}

impl Drop for Making {
    fn drop(&mut self) {
        let mut state = self.fanout.lock();
        state.making.remove(&self.generation);
        if !state.knows(self.generation) {
            self.fanout.stale.notify_one();
        }
    }
}

impl Fanout {
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { state: Mutex::default(), began: Instant::now(), stale: Notify::new(), metrics }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// No code panics while it holds the lock; if it ever did, the state would still be whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects a node, whose connection ends with `cut`. Another stream of the same node loses its place.
    pub fn attach(
        self: &Arc<Self>,
        node: &Registration,
        registered: &Registered,
        cut: CancellationToken,
    ) -> Attachment {
        let mailbox = Arc::new(Mailbox::new(self.now_ms(), cut));
        let state = &mut *self.lock();
        if state.draining {
            mailbox.end(End::Drained);
        }
        let (labels, labels_id) = state.known(&registered.labels);
        state.opened += 1;
        let entry = ConnectedNode {
            stream_id: node.stream_id,
            instance: node.instance.clone(),
            share_position: node.share_position,
            labels,
            labels_id,
            turn: (state.opened % u64::from(TURNS)) as u32,
            not_before: (registered.epoch, registered.generation),
            mailbox: mailbox.clone(),
        };
        if let Some((fleet, moments)) = &state.fleet
            && may_serve(&entry, fleet)
        {
            mailbox.deliver(delivery(&mut state.contents, fleet, *moments, &node.node_id, &entry));
        } else {
            self.stale.notify_one();
        }
        if let Some(before) = state.nodes.insert(node.node_id.clone(), entry) {
            before.mailbox.end(End::Superseded);
            self.metrics.streams_superseded.inc();
        }
        self.metrics.nodes_connected.set(i64::try_from(state.nodes.len()).unwrap_or(i64::MAX));
        let stream = Stream { node_id: node.node_id.clone(), stream_id: node.stream_id };
        Attachment { mailbox, stream, fanout: self.clone() }
    }

    /// The node was heard of.
    pub fn heard(&self, mailbox: &Mailbox) {
        mailbox.heard(self.now_ms());
    }

    /// Gives the streams whose turn it is a heartbeat, unless their nodes were silent for too long. Answers with how many had it.
    pub fn beat(&self, turn: u32, silence_max: Duration) -> usize {
        let (now, now_ms) = (Instant::now(), self.now_ms());
        let silence_ms = u64::try_from(silence_max.as_millis()).unwrap_or(u64::MAX);
        let (mut streams, mut behind) = (0, Behind::default());
        let state = &mut *self.lock();
        for ConnectedNode { mailbox, .. } in state.nodes.values().filter(|entry| entry.turn == turn) {
            streams += 1;
            if now_ms.saturating_sub(mailbox.heard_ms()) > silence_ms {
                mailbox.end_silent();
            } else if let Some(since) = mailbox.beat() {
                behind.add(now.saturating_duration_since(since));
            }
        }
        if let Some(known) = state.behind.get_mut(turn as usize) {
            *known = behind;
        }
        let Behind { nodes, max } = Behind::of(&state.behind);
        self.metrics.propagation.set_behind(&nodes, max);
        streams
    }

    /// Ends all streams, and those that are opened from now on.
    pub fn drain(&self) {
        let state = &mut *self.lock();
        state.draining = true;
        state.nodes.values().for_each(|entry| entry.mailbox.end(End::Drained));
    }

    /// Whether another daemon has a stream here under this one's id.
    #[must_use]
    pub fn serves_another(&self, node: &Registration) -> bool {
        self.lock().nodes.get(&node.node_id).is_some_and(|entry| entry.instance != node.instance)
    }

    /// Streams of nodes that are connected.
    #[must_use]
    pub fn streams(&self) -> Vec<Stream> {
        let stream = |(node_id, entry): (&String, &ConnectedNode)| Stream {
            node_id: node_id.clone(),
            stream_id: entry.stream_id,
        };
        self.lock().nodes.iter().map(stream).collect()
    }

    /// How long ago a node was heard of.
    #[must_use]
    pub fn silent_for(&self, mailbox: &Mailbox) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(mailbox.heard_ms()))
    }

    /// Has a node say hello again.
    pub fn disconnect(&self, node_id: &str) {
        if let Some(entry) = self.lock().nodes.remove(node_id) {
            entry.mailbox.end(End::Superseded);
        }
    }

    /// Takes a stream's place away, if it still has it.
    pub fn detach(&self, stream: &Stream) {
        let mut state = self.lock();
        if state.nodes.get(&stream.node_id).is_some_and(|entry| entry.stream_id == stream.stream_id)
            && let Some(entry) = state.nodes.remove(&stream.node_id)
        {
            entry.mailbox.end(End::Superseded);
        }
        self.metrics.nodes_connected.set(i64::try_from(state.nodes.len()).unwrap_or(i64::MAX));
    }

    /// Brings every node what a change that was made here has made of the state of the fleet, without reading that anew. Answers whether it
    /// could: not if something else has changed meanwhile.
    pub fn advance(&self, step: &Step) -> bool {
        let state = &mut *self.lock();
        let Some(fleet) = state.fleet.as_ref().and_then(|(fleet, _)| fleet.after(step)) else { return false };
        state.steps += 1;
        state.reached = Some(step.reached.clone());
        let now = Instant::now();
        self.serve(state, fleet, Moments { committed: now, known: now });
        true
    }

    /// How many steps there were, for [`Self::publish`]. Before a state is read.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// How far the last step went: nodes were served from there, and nobody has read it.
    #[must_use]
    pub fn reached(&self) -> Option<Reached> {
        self.lock().reached.clone()
    }

    /// Notes that a generation is being made here, before it is committed.
    #[must_use]
    pub fn making(self: &Arc<Self>, generation: u64) -> Making {
        self.lock().making.insert(generation);
        Making { generation, fanout: self.clone() }
    }

    /// Whether somebody has to look what a generation is: it is not known, nor being made here.
    #[must_use]
    pub fn is_news(&self, generation: u64) -> bool {
        let state = self.lock();
        !state.knows(generation) && !state.making.contains(&generation)
    }

    /// Brings every node the newest state of the fleet. States come in order, but for steps that were made while this one was read: then
    /// it says nothing new, or is read again.
    pub fn publish(&self, fleet: Fleet, committed: Instant, steps: u64) {
        let state = &mut *self.lock();
        if state.steps != steps && state.fleet.as_ref().is_some_and(|(known, _)| fleet.generation < known.generation) {
            self.stale.notify_one();
            return;
        }
        self.serve(state, fleet, Moments { committed, known: Instant::now() });
    }

    fn serve(&self, state: &mut State, fleet: Fleet, moments: Moments) {
        let known = state.fleet.as_ref().map(|(fleet, _)| (fleet.epoch, fleet.generation));
        let same = known == Some((fleet.epoch, fleet.generation));
        let waiting = || state.nodes.values().any(|entry| !entry.mailbox.is_served());
        if same && !waiting() {
            return;
        }
        if !same {
            state.contents.begin(&fleet);
            // Only those of nodes that are there.
            state.labels.retain(|labels, _| Arc::strong_count(labels) > 1);
            self.metrics.generation.set(i64::try_from(fleet.generation).unwrap_or(i64::MAX));
        }
        for (node_id, entry) in &mut state.nodes {
            if entry.not_before.0 != fleet.epoch {
                // The node registered while the database was replaced; what was newer then says nothing now.
                entry.not_before = (fleet.epoch, 0);
            }
            if !may_serve(entry, &fleet) {
                continue;
            }
            entry.mailbox.deliver(delivery(&mut state.contents, &fleet, moments, node_id, entry));
        }
        state.fleet = Some((fleet, moments));
    }
}

impl State {
    /// Whether a generation is what nodes are served from, or an earlier one.
    fn knows(&self, generation: u64) -> bool {
        self.fleet.as_ref().is_some_and(|(fleet, _)| generation <= fleet.generation)
    }

    /// Labels as they are known here, and what stands for them: a number that no others will ever have.
    fn known(&mut self, labels: &Labels) -> (Arc<Labels>, u64) {
        if let Some((known, id)) = self.labels.get_key_value(labels) {
            return (known.clone(), *id);
        }
        // Every new one has been opened with some stream.
        let (labels, id) = (Arc::new(labels.clone()), self.opened);
        self.labels.insert(labels.clone(), id);
        (labels, id)
    }
}

fn may_serve(entry: &ConnectedNode, fleet: &Fleet) -> bool {
    entry.not_before.0 == fleet.epoch && fleet.generation >= entry.not_before.1
}

fn delivery(
    contents: &mut Contents,
    fleet: &Fleet,
    Moments { committed, known }: Moments,
    node_id: &str,
    entry: &ConnectedNode,
) -> Delivery {
    let node = Candidate { id: node_id, share_position: entry.share_position, labels: &entry.labels };
    let content = contents.of_cohort(fleet, entry.labels_id, &node);
    let version = Version { epoch: fleet.epoch, generation: fleet.generation, hash: content.hash };
    Delivery { version, content, committed, known }
}

#[cfg(test)]
mod tests;
