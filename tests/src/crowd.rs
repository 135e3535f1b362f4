//! Nodes that remember what they had in force and what they counted, and can be killed and cut off one by one: the daemon's own stream and
//! report code, over real gRPC, with a kernel and a disk that are made up.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use prost::Message;
use sockpilot_node::{
    keeper::{Command, Ends, InForce},
    link::stream::Identity,
    metrics::Metrics,
    snapshot::version::{Admission, Version, admit},
};
use sockpilot_proto::v1::{self, node_event::Event};
use tokio::{runtime::Runtime, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    history::Sight,
    played::Played,
    random::Random,
    relay::{Mode, Relay, Target},
    wait::eventually,
};

const REPORT_EVERY: Duration = Duration::from_millis(200);
/// Until a node has in force what it has received.
const ANSWER_AFTER: Duration = Duration::from_millis(5);
const INTERVAL_S: u64 = 10;

/// All of them.
#[derive(Debug)]
pub struct Crowd {
    nodes: Vec<Node>,
}

/// What nodes had in force, in order, and the flows that they have counted.
#[derive(Debug, Default)]
pub struct Memory {
    /// By node.
    pub sights: BTreeMap<String, Vec<Sight>>,
    /// By node.
    pub counted: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Node {
    id: String,
    disk: Arc<Mutex<Disk>>,
    relay: Relay,
    running: Option<JoinHandle<()>>,
}

/// What outlives a daemon.
#[derive(Debug)]
struct Disk {
    in_force: Option<Version>,
    sights: Vec<Sight>,
    /// Flows by interval, layer and revision, and the report with which they changed last.
    cells: BTreeMap<(u64, String, u64), (u64, u64)>,
    sequence: u64,
    confirmed: u64,
    random: Random,
    /// Snapshots that were older than what is in force, or another of its generation.
    inadmissible: u64,
    /// No more flows.
    quiet: bool,
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crowd {
    /// Connects so many nodes, in turn to each of the servers.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn start(runtime: &Runtime, servers: &[Target], number: usize, seed: u64) -> Result<Self> {
        let mut crowd = Self { nodes: vec![] };
        for index in 0..number {
            let random = Random(seed ^ ((index as u64) << 40));
            let (in_force, sights, cells) = (None, vec![], BTreeMap::new());
            let (sequence, confirmed, inadmissible, quiet) = (0, 0, 0, false);
            let disk = Disk { in_force, sights, cells, sequence, confirmed, random, inadmissible, quiet };
            let relay = Relay::new(runtime, servers[index % servers.len()].clone())?;
            let (id, disk) = (format!("node-{index}"), Arc::new(Mutex::new(disk)));
            crowd.nodes.push(Node { id, disk, relay, running: None });
            crowd.revive(runtime, index);
        }
        Ok(crowd)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Ends a daemon in the middle of whatever it does.
    pub fn kill(&mut self, index: usize) {
        if let Some(running) = self.nodes[index].running.take() {
            running.abort();
        }
    }

    /// Starts it again, with what it had on disk.
    pub fn revive(&mut self, runtime: &Runtime, index: usize) {
        let node = &mut self.nodes[index];
        let url = format!("http://{}", node.relay.address());
        node.running = Some(runtime.spawn(live(node.id.clone(), url, node.disk.clone())));
    }

    /// Changes the way to its server.
    pub fn way(&self, index: usize, mode: Mode) {
        self.nodes[index].relay.set(mode);
    }

    /// Gives it another server.
    pub fn lead_to(&self, index: usize, server: Target) {
        self.nodes[index].relay.lead_to(server);
    }

    /// Waits until all have these revisions, and no flows that are not reported.
    ///
    /// # Errors
    /// If they do not.
    pub fn wait_until_settled(&self, newest: &BTreeMap<String, u64>, limit: Duration) -> Result<()> {
        self.nodes.iter().for_each(|node| lock(&node.disk).quiet = true);
        eventually("all nodes have the newest, and have reported everything", limit, || {
            for node in &self.nodes {
                let disk = lock(&node.disk);
                let has = disk.sights.last().map(|sight| sight.revisions.clone()).unwrap_or_default();
                ensure!(has == *newest, "{} has {has:?} instead of {newest:?}", node.id);
                let owed = disk.cells.values().filter(|(_, changed)| *changed > disk.confirmed).count();
                ensure!(owed == 0, "{} has {owed} cells to report", node.id);
            }
            Ok(())
        })
    }

    /// What each had in force, and has counted.
    ///
    /// # Errors
    /// If one was offered what it may not put in force.
    pub fn remembered(&self) -> Result<Memory> {
        let Memory { mut sights, mut counted } = Memory::default();
        for node in &self.nodes {
            let disk = lock(&node.disk);
            ensure!(disk.inadmissible == 0, "{} was offered {} snapshots of before", node.id, disk.inadmissible);
            sights.insert(node.id.clone(), disk.sights.clone());
            counted.insert(node.id.clone(), disk.cells.values().map(|(flows, _)| flows).sum());
        }
        Ok(Memory { sights, counted })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.nodes.iter().filter_map(|node| node.running.as_ref()).for_each(JoinHandle::abort);
    }
}

async fn live(id: String, url: String, disk: Arc<Mutex<Disk>>) {
    let identity = Identity { node_id: id.clone(), labels: [].into(), instance: format!("instance-{id}") };
    let node = Played { url, tls: None, identity, report_every: REPORT_EVERY, metrics: Metrics::new() };
    node.live(CancellationToken::new(), |ends| keep(ends, &id, &disk)).await;
}

/// In the place of the keeper and its kernel.
async fn keep(mut ends: Ends, id: &str, disk: &Mutex<Disk>) {
    let in_force = lock(disk).in_force.clone();
    ends.set_in_force(in_force.map(|version| InForce { version, held_back: vec![] }));
    while let Some(command) = ends.next_command().await {
        match command {
            Command::Offer { snapshot, answer, .. } => {
                sleep(ANSWER_AFTER).await;
                let (answered, in_force) = lock(disk).take(&snapshot);
                ends.set_in_force(in_force.map(|version| InForce { version, held_back: vec![] }));
                drop(answer.send(answered));
            }
            Command::Exempt { done, .. } | Command::Look { done, .. } => drop(done.send(())),
            Command::Report { answer } => drop(answer.send(lock(disk).report(id))),
            Command::Confirm { sequence, .. } => {
                let mut disk = lock(disk);
                disk.confirmed = disk.confirmed.max(sequence);
            }
        }
    }
}

impl Disk {
    /// Puts in force what may be. The answer, and what is in force now.
    fn take(&mut self, snapshot: &v1::Snapshot) -> (Event, Option<Version>) {
        let refusal = v1::Nack { version: snapshot.version.clone(), violations: vec![v1::RuleViolation::default()] };
        let Ok(version) = Version::from_proto(snapshot.version.as_ref()) else {
            return (Event::Nack(refusal), self.in_force.clone());
        };
        match admit(self.in_force.as_ref(), &version) {
            Admission::Apply => {
                let layers = v1::Layers::decode(snapshot.layers.clone()).unwrap_or_default().layers;
                let acting = layers.into_iter().filter(|layer| !layer.standby);
                self.sights.push(Sight {
                    epoch: version.database_epoch.clone(),
                    generation: version.generation,
                    hash: version.content_hash.to_vec(),
                    revisions: acting.map(|layer| (layer.name, layer.revision)).collect(),
                });
                self.in_force = Some(version);
            }
            Admission::AcknowledgeAgain => {}
            Admission::RefuseOlder | Admission::RefuseChanged => {
                self.inadmissible += 1;
                return (Event::Nack(refusal), self.in_force.clone());
            }
        }
        let ack = v1::Ack { version: snapshot.version.clone(), apply_us: 1, ..v1::Ack::default() };
        (Event::Ack(ack), self.in_force.clone())
    }

    /// Flows have ended since the last report; with them all that is not confirmed.
    fn report(&mut self, id: &str) -> Option<v1::FlowReport> {
        let next = self.sequence + 1;
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let layers = self.sights.last().map(|sight| sight.revisions.clone()).unwrap_or_default();
        for (layer, revision) in layers.into_iter().filter(|_| !self.quiet) {
            let flows = self.random.bits() % 4;
            if flows > 0 {
                let cell = self.cells.entry((now_s / INTERVAL_S * INTERVAL_S, layer, revision)).or_default();
                *cell = (cell.0 + flows, next);
            }
        }
        let owed = self.cells.iter().filter(|(_, (_, changed))| *changed > self.confirmed);
        let cells: Vec<_> =
            owed.map(|((start_s, layer, revision), (flows, _))| cell(*start_s, layer, *revision, *flows)).collect();
        if cells.is_empty() {
            return None;
        }
        self.sequence = next;
        Some(v1::FlowReport {
            node_id: id.to_owned(),
            boot_id: format!("boot-{id}"),
            sequence: next,
            records_total: self.cells.values().map(|(flows, _)| flows).sum(),
            cells,
            instance: format!("instance-{id}"),
            ..v1::FlowReport::default()
        })
    }
}

/// Of connections that failed, so that there is nothing else to say of them.
fn cell(interval_start_s: u64, layer: &str, revision: u64, flows: u64) -> v1::FlowCell {
    v1::FlowCell {
        interval_start_s,
        interval_length_s: INTERVAL_S as u32,
        layer: layer.to_owned(),
        revision,
        choice: "all".to_owned(),
        direction: v1::Direction::Active.into(),
        size_class: v1::SizeClass::Small.into(),
        counts: Some(v1::FlowCounts { flows, failed: flows, ..v1::FlowCounts::default() }),
        ..v1::FlowCell::default()
    }
}
