//! What the server counts, for Prometheus.

mod experiments;
mod propagation;
mod rollouts;

use std::{
    ops::Deref,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

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
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use experiments::ExperimentGauges;
pub use propagation::{BEHIND_S, NodeStages, Propagation, Stages};
pub use rollouts::{Now, RolloutGauges};

/// A task, and whether a run of it succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskRun {
    task: &'static str,
    result: &'static str,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTask {
    task: &'static str,
}

/// A kind of transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTransaction {
    transaction: &'static str,
}

/// Why somebody was turned away at a door.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TurnedAway {
    door: &'static str,
    reason: &'static str,
}

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedFor {
    reason: &'static str,
}

/// A call, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    method: &'static str,
    code: &'static str,
}

/// A method.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMethod {
    method: &'static str,
}

/// Everything that is counted. Clones count together, and are small: each of thousands of streams has some.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Counts>);

impl Deref for Metrics {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.0
    }
}

/// See [`Metrics`].
#[derive(Debug)]
pub struct Counts {
    /// Nodes with a stream to this server.
    pub nodes_connected: Gauge,
    /// Streams accepted.
    pub streams: Counter,
    /// Streams that another stream of the same node has ended.
    pub streams_superseded: Counter,
    /// Hellos refused because another daemon has the node's id.
    pub node_conflicts: Counter,
    /// Nodes with a stream to this server whose clock is off.
    pub node_clocks_off: Gauge,
    /// Snapshots sent.
    pub snapshots_sent: Counter,
    /// Snapshots not sent, because the node has refused the content.
    pub snapshots_withheld: Counter,
    /// Confirmations received.
    pub acks: Counter,
    /// Refusals received.
    pub nacks: Counter,
    /// Acknowledgements that hold a layer back.
    pub acks_in_part: Counter,
    /// Reports committed.
    pub reports: Counter,
    /// Cells in them.
    pub cells: Counter,
    /// Cells left out because those of their time were deleted.
    pub cells_too_late: Counter,
    /// Cells left out because they measure something else than the epoch that they name.
    pub cells_foreign: Counter,
    /// Cells of slots of time left out because the node's clock is off.
    pub cells_clock_off: Counter,
    /// Bytes of the disk that outcomes take.
    pub outcome_bytes: Gauge,
    /// Partitions of flow cells.
    pub outcome_partitions: Gauge,
    /// Partitions of flow cells that were dropped.
    pub outcome_partitions_dropped: Counter,
    /// Samples stored.
    pub samples: Counter,
    /// Samples pruned to keep the table bounded.
    pub samples_pruned: Counter,
    /// Flows stored that were recorded on request.
    pub recorded: Counter,
    /// Flows that were to be.
    pub recorded_left_out: Counter,
    /// Of those stored, deleted to keep the table bounded.
    pub recorded_pruned: Counter,
    /// Nodes that record on request.
    pub recordings: Gauge,
    /// Nodes forgotten because they were silent for long.
    pub nodes_forgotten: Counter,
    /// Reports refused because they are unsound.
    pub reports_rejected: Counter,
    /// Reports turned away because too many were waiting.
    pub reports_turned_away: Counter,
    /// Operations that the database failed.
    pub database_errors: Counter,
    /// Whether the database answers.
    pub database_up: Gauge,
    /// Whether the server's role in the database can only add to the audit log.
    pub audit_kept: Gauge,
    /// The generation that nodes are served from.
    pub generation: Gauge,
    /// How changes reach nodes.
    pub propagation: Propagation,
    /// What is known of the experiments that run.
    pub experiments: ExperimentGauges,
    /// What is known of the rollouts that are not over.
    pub rollouts: RolloutGauges,
    /// Connections cut because who is at the other end was shut out.
    pub connections_cut: Counter,
    /// When the server's own certificate runs out, in seconds since 1970; 0 without TLS.
    pub certificate_expires: Gauge,
    /// Labels that nodes said of themselves in vain.
    pub labels_overruled: Counter,
    calls: Family<Called, Counter>,
    call_seconds: Family<OfMethod, Histogram, fn() -> Histogram>,
    refused: Family<RefusedFor, Counter>,
    turned_away: Family<TurnedAway, Counter>,
    database_statements: Family<OfTransaction, Counter>,
    task_runs: Family<TaskRun, Counter>,
    task_seconds: Family<OfTask, Gauge<f64, AtomicU64>>,
    book: Book,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut book = Book::of("sockpilot_server");
        let experiments = ExperimentGauges::register(&mut book);
        let rollouts = RolloutGauges::register(&mut book);
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            book.register(name, help, counter.clone());
            counter
        };
        let streams = counter("streams", "Streams of nodes accepted");
        let streams_superseded = counter("streams_superseded", "Streams ended by another stream of the same node");
        let node_conflicts = counter("node_conflicts", "Daemons refused because another one has their node's id");
        let snapshots_sent = counter("snapshots_sent", "Snapshots sent to nodes");
        let snapshots_withheld =
            counter("snapshots_withheld", "Snapshots not sent because the node refused the content");
        let acks = counter("acks", "Confirmations of snapshots by nodes");
        let nacks = counter("nacks", "Refusals of snapshots by nodes");
        let acks_in_part =
            counter("acks_in_part", "Acknowledgements by nodes that hold back a layer they cannot honour");
        let reports = counter("reports", "Flow reports committed");
        let cells = counter("cells", "Flow cells in committed reports");
        let cells_foreign = counter(
            "cells_foreign",
            "Cells left out because they measure something else than the epoch that they name, or groups that are not the node's",
        );
        let cells_clock_off =
            counter("cells_clock_off", "Cells of slots of time left out because their node's clock is off");
        let cells_too_late = counter("cells_too_late", "Flow cells left out because those of their time were deleted");
        let outcome_partitions_dropped =
            counter("outcome_partitions_dropped", "Partitions of flow cells dropped for age or size");
        let samples = counter("samples", "Flow samples stored");
        let samples_pruned = counter("samples_pruned", "Flow samples deleted to keep their number bounded");
        let recorded = counter("recorded", "Flows stored that were recorded on request");
        let recorded_left_out = counter(
            "recorded_left_out",
            "Flows that were to be recorded on request and are not: they were above the rate, there was no room, or nobody had asked their node",
        );
        let recorded_pruned =
            counter("recorded_pruned", "Flows recorded on request that were deleted to keep their number bounded");
        let nodes_forgotten = counter("nodes_forgotten", "Nodes forgotten because they were silent for long");
        let reports_rejected = counter("reports_rejected", "Flow reports refused as unsound");
        let reports_turned_away =
            counter("reports_turned_away", "Flow reports turned away because too many were waiting");
        let database_errors = counter("database_errors", "Operations that failed in the database");
        let connections_cut =
            counter("connections_cut", "Connections cut because who is at the other end was shut out");
        let labels_overruled =
            counter("labels_overruled", "Labels that nodes said of themselves, and that are not theirs to say");
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            book.register(name, help, gauge.clone());
            gauge
        };
        let nodes_connected = gauge("nodes_connected", "Nodes with a stream to this server");
        let recordings = gauge("recordings", "Nodes that are to record their flows one by one");
        let outcome_bytes = gauge("outcome_bytes", "Bytes of the disk that flow cells and their roll-ups take");
        let outcome_partitions = gauge("outcome_partitions", "Partitions of flow cells");
        let node_clocks_off =
            gauge("node_clocks_off", "Nodes with a stream to this server whose clock is off by more than 2 s");
        let certificate_expires = gauge(
            "certificate_expires_seconds",
            "When the server's own certificate runs out, since 1970; 0 without TLS",
        );
        let database_up = gauge("database_up", "Whether the database answers");
        let audit_kept = gauge("audit_kept", "Whether the server's role in the database can only add to the audit log");
        let generation = gauge("generation", "Generation that nodes are served from");
        let propagation = Propagation::register(&mut book);
        let (calls, call_seconds) =
            (Family::default(), Family::new_with_constructor(call_histogram as fn() -> Histogram));
        book.register("calls", "Calls that have ended, by method and gRPC code", calls.clone());
        book.register("call_seconds", "From the request to the end of the answer, by method", call_seconds.clone());
        let (turned_away, refused) = (Family::default(), Family::default());
        book.register("refused_calls", "Calls refused, because of who calls or how much", refused.clone());
        book.register("turned_away", "Connections turned away at a door", turned_away.clone());
        let database_statements = Family::default();
        let statements = "Statements that the database was asked, but for the beginning and end of transactions";
        book.register("database_statements", statements, database_statements.clone());
        let (task_runs, task_seconds) = (Family::default(), Family::default());
        book.register("task_runs", "Runs of background tasks that have ended", task_runs.clone());
        book.register("task_last_run_seconds", "How long the last run of a task took", task_seconds.clone());
        Self(Arc::new(Counts {
            nodes_connected,
            streams,
            streams_superseded,
            node_conflicts,
            node_clocks_off,
            snapshots_sent,
            snapshots_withheld,
            acks,
            nacks,
            acks_in_part,
            reports,
            cells,
            cells_too_late,
            cells_foreign,
            cells_clock_off,
            outcome_bytes,
            outcome_partitions,
            outcome_partitions_dropped,
            samples,
            samples_pruned,
            recorded,
            recorded_left_out,
            recorded_pruned,
            recordings,
            nodes_forgotten,
            reports_rejected,
            reports_turned_away,
            database_errors,
            database_up,
            audit_kept,
            generation,
            propagation,
            connections_cut,
            certificate_expires,
            labels_overruled,
            calls,
            call_seconds,
            refused,
            turned_away,
            database_statements,
            task_runs,
            task_seconds,
            experiments,
            rollouts,
            book,
        }))
    }

    /// How many nodes have a stream to this server.
    #[must_use]
    pub fn nodes(&self) -> u64 {
        u64::try_from(self.nodes_connected.get()).unwrap_or_default()
    }

    /// Counts a run of a background task.
    pub fn task_ended(&self, task: &'static str, duration: Duration, done: bool) {
        let result = if done { "done" } else { "failed" };
        self.task_runs.get_or_create(&TaskRun { task, result }).inc();
        self.task_seconds.get_or_create(&OfTask { task }).set(duration.as_secs_f64());
    }

    /// Counts a call that has ended, with its gRPC code; how long it took, if that is a duration of the call.
    pub fn called(&self, method: &'static str, code: &'static str, took: Option<Duration>) {
        self.calls.get_or_create(&Called { method, code }).inc();
        if let Some(took) = took {
            self.call_seconds.get_or_create(&OfMethod { method }).observe(took.as_secs_f64());
        }
    }

    /// Counts a connection that was turned away.
    pub fn turned_away(&self, door: &'static str, reason: &'static str) {
        self.turned_away.get_or_create(&TurnedAway { door, reason }).inc();
    }

    /// Counts the statements of transactions of a name.
    #[must_use]
    pub fn statements_of(&self, transaction: &'static str) -> Counter {
        self.database_statements.get_or_create(&OfTransaction { transaction }).clone()
    }

    /// Counts a call that was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusedFor { reason }).inc();
    }

    /// As Prometheus reads it.
    #[must_use]
    pub fn text(&self) -> String {
        self.book.text()
    }

    /// Serves the text under `/metrics` until it is cancelled.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
        sockpilot_metrics::serve(move || self.text(), listener, stop).await
    }
}

/// From a quarter of a millisecond to 16 s.
fn call_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 17))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_metric() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        Metrics::new().book.check_documentation(&page, "## The server").unwrap_or_else(|why| panic!("{why}"));
    }
}
