//! From a new state of the fleet to the connected nodes. Each node has a place for one delivery: a newer one replaces it (updates
//! are coalesced), so only the newest ever waits for a slow node.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use sockpilot_policy::model::Labels;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::{
    node::{Registered, Registration, Stream, Version},
    resolve::{Contents, Fleet},
    session::Delivery,
};
use crate::{change::wave::Candidate, metrics::Metrics};

/// The connected nodes, and what each must enforce.
#[derive(Debug)]
pub struct Fanout {
    state: Mutex<State>,
    /// Wakes whoever loads the fleet: something has changed, or a node waits for a newer state.
    pub stale: Notify,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    fleet: Option<(Fleet, Instant)>,
    contents: Contents,
    nodes: HashMap<String, ConnectedNode>,
}

#[derive(Debug)]
struct ConnectedNode {
    stream_id: Uuid,
    instance: Option<String>,
    share_position: u32,
    labels: Labels,
    /// Nothing older than this may be served to it.
    not_before: (Uuid, u64),
    place: watch::Sender<Option<Delivery>>,
}

/// A node's place. Closed when another stream takes the node over; dropped, the node is disconnected.
#[derive(Debug)]
pub struct Attachment {
    /// The newest delivery.
    pub place: watch::Receiver<Option<Delivery>>,
    /// The stream that was opened.
    pub stream: Stream,
    fanout: Arc<Fanout>,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.fanout.detach(&self.stream);
    }
}

impl Fanout {
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { state: Mutex::default(), stale: Notify::new(), metrics }
    }

    /// No code panics while it holds the lock; if it ever did, the state would still be whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects a node. Another stream of the same node loses its place.
    pub fn attach(self: &Arc<Self>, node: &Registration, registered: &Registered) -> Attachment {
        let (sender, place) = watch::channel(None);
        let entry = ConnectedNode {
            stream_id: node.stream_id,
            instance: node.instance.clone(),
            share_position: node.share_position,
            labels: registered.labels.clone(),
            not_before: (registered.epoch, registered.generation),
            place: sender,
        };
        let state = &mut *self.lock();
        if let Some((fleet, committed)) = &state.fleet
            && may_serve(&entry, fleet)
        {
            entry.place.send_replace(Some(delivery(&mut state.contents, fleet, *committed, &node.node_id, &entry)));
        } else {
            self.stale.notify_one();
        }
        if state.nodes.insert(node.node_id.clone(), entry).is_some() {
            self.metrics.streams_superseded.inc();
        }
        self.metrics.nodes_connected.set(i64::try_from(state.nodes.len()).unwrap_or(i64::MAX));
        let stream = Stream { node_id: node.node_id.clone(), stream_id: node.stream_id };
        Attachment { place, stream, fanout: self.clone() }
    }

    /// Whether another daemon has a stream here under this one's id.
    #[must_use]
    pub fn serves_another(&self, node: &Registration) -> bool {
        self.lock().nodes.get(&node.node_id).is_some_and(|entry| entry.instance != node.instance)
    }

    /// Has a node say hello again.
    pub fn disconnect(&self, node_id: &str) {
        self.lock().nodes.remove(node_id);
    }

    /// Takes a stream's place away, if it still has it.
    pub fn detach(&self, stream: &Stream) {
        let mut state = self.lock();
        if state.nodes.get(&stream.node_id).is_some_and(|entry| entry.stream_id == stream.stream_id) {
            state.nodes.remove(&stream.node_id);
        }
        self.metrics.nodes_connected.set(i64::try_from(state.nodes.len()).unwrap_or(i64::MAX));
    }

    /// Brings every node the newest state of the fleet. States come in order.
    pub fn publish(&self, fleet: Fleet, committed: Instant) {
        let state = &mut *self.lock();
        let known = state.fleet.as_ref().map(|(fleet, _)| (fleet.epoch, fleet.generation));
        let same = known == Some((fleet.epoch, fleet.generation));
        let waiting = state.nodes.values().any(|entry| entry.place.borrow().is_none());
        if same && !waiting {
            return;
        }
        if !same {
            state.contents.begin(&fleet);
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
            let newest = delivery(&mut state.contents, &fleet, committed, node_id, entry);
            entry.place.send_if_modified(|place| {
                let other = place.as_ref().is_none_or(|place| place.content.hash != newest.content.hash);
                *place = Some(newest);
                other
            });
        }
        state.fleet = Some((fleet, committed));
    }
}

fn may_serve(entry: &ConnectedNode, fleet: &Fleet) -> bool {
    entry.not_before.0 == fleet.epoch && fleet.generation >= entry.not_before.1
}

fn delivery(
    contents: &mut Contents,
    fleet: &Fleet,
    committed: Instant,
    node_id: &str,
    entry: &ConnectedNode,
) -> Delivery {
    let node = Candidate { id: node_id, share_position: entry.share_position, labels: &entry.labels };
    let content = contents.of(fleet, &node);
    let version = Version { epoch: fleet.epoch, generation: fleet.generation, hash: content.hash };
    Delivery { version, content, committed }
}

#[cfg(test)]
mod tests {
    use sockpilot_proto::v1;

    use super::*;
    use crate::fleet::{
        node::Sign,
        resolve::{Assigned, Revision},
    };

    fn fleet(generation: u64, revision: u64) -> Fleet {
        let name: sockpilot_policy::model::LayerName = "policies/p".parse().expect("a name");
        let layer = v1::Layer { name: name.to_string(), revision, ..v1::Layer::default() };
        let revision = Arc::new(Revision { name, revision, node_labels: Labels::new(), layer, refers_to_zones: false });
        let assigned = vec![Assigned { everyone: Some(revision), canary: None, rollout: None }];
        Fleet {
            epoch: Uuid::nil(),
            generation,
            lease_ms: 1_000,
            assigned,
            zones: Arc::default(),
            ends_s: Default::default(),
        }
    }

    fn attach(fanout: &Arc<Fanout>, generation: u64) -> Attachment {
        let node = Registration {
            node_id: "n".to_owned(),
            share_position: 0,
            labels: Labels::new(),
            daemon_version: String::new(),
            kernel: v1::KernelFacts::default(),
            in_force: None,
            held_back: vec![],
            stream_id: Uuid::new_v4(),
            instance: None,
            address: String::new(),
            sign: Sign::default(),
        };
        fanout.attach(&node, &Registered { epoch: Uuid::nil(), generation, refused: vec![], labels: Labels::new() })
    }

    fn generation(attachment: &mut Attachment) -> Option<u64> {
        attachment.place.borrow_and_update().as_ref().map(|delivery| delivery.version.generation)
    }

    #[test]
    fn only_the_newest_waits() {
        let fanout = Arc::new(Fanout::new(Metrics::new()));
        let mut node = attach(&fanout, 1);
        for step in 1..=5 {
            fanout.publish(fleet(step, step), Instant::now());
        }
        assert_eq!(generation(&mut node), Some(5));
        fanout.publish(fleet(6, 5), Instant::now());
        assert!(!node.place.has_changed().expect("open"), "the same content wakes nobody");
    }

    #[test]
    fn no_node_is_served_from_before_its_registration() {
        let fanout = Arc::new(Fanout::new(Metrics::new()));
        fanout.publish(fleet(3, 1), Instant::now());
        let mut node = attach(&fanout, 4);
        assert_eq!(generation(&mut node), None);
        fanout.publish(fleet(4, 1), Instant::now());
        assert_eq!(generation(&mut node), Some(4));
    }

    #[test]
    fn a_second_stream_takes_the_place() {
        let fanout = Arc::new(Fanout::new(Metrics::new()));
        fanout.publish(fleet(1, 1), Instant::now());
        let first = attach(&fanout, 1);
        let mut second = attach(&fanout, 1);
        assert!(first.place.has_changed().is_err(), "closed");
        drop(first);
        assert_eq!(generation(&mut second), Some(1));
        assert!(second.place.has_changed().is_ok(), "the end of the first does not end the second");
    }
}
