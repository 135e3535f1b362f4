//! How changes reach nodes: stage by stage, and how far behind nodes are.

use std::{iter::zip, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};
use sockpilot_metrics::Book;

/// Nodes are counted that have been behind for longer than this, in seconds.
pub const BEHIND_S: [u64; 5] = [0, 1, 10, 60, 600];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStage {
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ForMoreThan {
    for_more_than_s: u64,
}

/// How long each stage took of a change's way to one node. They follow one upon the other without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stages {
    /// From the commit until this server knew.
    pub known: Duration,
    /// Until the transport took it.
    pub queued: Duration,
    /// To the node and back, with whatever the node does not account for.
    pub wire: Duration,
    /// `None`: the daemon is of a version that does not say.
    pub node: Option<NodeStages>,
}

/// What a node says of its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeStages {
    /// From its receipt until the daemon began with it.
    pub wait: Duration,
    /// Until it was understood, held against the kernel and compiled.
    pub compile: Duration,
    /// Until it was on disk.
    pub write: Duration,
    /// Until it was in force in the kernel.
    pub install: Duration,
}

/// How changes reach nodes.
#[derive(Debug, Clone)]
pub struct Propagation {
    whole: Histogram,
    known: Histogram,
    queued: Histogram,
    wire: Histogram,
    node: [Histogram; 4],
    /// Confirmations whose stages took longer than there was time.
    pub absurd: Counter,
    behind: Family<ForMoreThan, Gauge>,
    behind_max: Gauge<f64, AtomicU64>,
}

impl Propagation {
    /// All at zero.
    pub(super) fn register(book: &mut Book) -> Self {
        let whole = Histogram::new(exponential_buckets(0.001, 2.0, 16));
        book.register(
            "propagation_seconds",
            "From the commit of a generation to a node's confirmation of it, of nodes that were connected when it was committed",
            whole.clone(),
        );
        let stages: Family<OfStage, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_062_5, 2.0, 20)));
        book.register(
            "propagation_stage_seconds",
            "The same by `stage`, one after the other: `known` to this server, `queued` until the transport took it, on the `wire` to the node \
             and back; and as the node says, `node_wait` until its daemon began with it, `node_compile` until it was compiled, \
             `node_write` until it was on disk, `node_install` until it was in force in the kernel",
            stages.clone(),
        );
        let absurd = Counter::default();
        book.register(
            "propagation_stages_absurd",
            "Confirmations whose stages are left out, because the node says that they took longer than the server has waited for it",
            absurd.clone(),
        );
        let behind: Family<ForMoreThan, Gauge> = Family::default();
        book.register(
            "nodes_behind",
            "Nodes with a stream to this server that have lacked something newer for more than this, as seen at their last heartbeats",
            behind.clone(),
        );
        let behind_max = Gauge::<f64, AtomicU64>::default();
        book.register(
            "behind_max_seconds",
            "How long ago was committed what the node furthest behind lacks, as seen at its last heartbeat; 0: all have the newest",
            behind_max.clone(),
        );
        // Taken out of the family once: there are thousands of confirmations of a change.
        let stage = |stage| stages.get_or_create(&OfStage { stage }).clone();
        let [known, queued, wire] = ["known", "queued", "wire"].map(stage);
        let node = ["node_wait", "node_compile", "node_write", "node_install"].map(stage);
        let all = Self { whole, known, queued, wire, node, absurd, behind, behind_max };
        all.set_behind(&[0; BEHIND_S.len()], Duration::ZERO);
        all
    }

    /// Counts a confirmation; without stages if these cannot be.
    pub fn confirmed(&self, whole: Duration, stages: Option<&Stages>) {
        self.whole.observe(whole.as_secs_f64());
        let Some(Stages { known, queued, wire, node }) = stages else { return };
        self.known.observe(known.as_secs_f64());
        self.queued.observe(queued.as_secs_f64());
        self.wire.observe(wire.as_secs_f64());
        if let Some(NodeStages { wait, compile, write, install }) = node {
            zip(&self.node, [wait, compile, write, install]).for_each(|(of, took)| of.observe(took.as_secs_f64()));
        }
    }

    /// Shows how many nodes have been behind for longer than each of [`BEHIND_S`], and the longest.
    pub fn set_behind(&self, nodes: &[usize; BEHIND_S.len()], max: Duration) {
        for (for_more_than_s, nodes) in zip(BEHIND_S, nodes) {
            let nodes = i64::try_from(*nodes).unwrap_or(i64::MAX);
            self.behind.get_or_create(&ForMoreThan { for_more_than_s }).set(nodes);
        }
        self.behind_max.set(max.as_secs_f64());
    }
}
