//! What the daemon counts, for Prometheus.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Metric,
};
use sockpilot_metrics::Book;
use sockpilot_policy::{layout::COUNTERS, parameter::PARAMETERS};
use sockpilot_proto::v1;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The kernel program's counters, in the order of `layout::Counter`.
const KERNEL_COUNTERS: [&str; COUNTERS] = [
    "flows_stamped",
    "flows_closed",
    "records_dropped",
    "set_refused",
    "stamp_failed",
    "pending_failed",
    "handshake_missed",
    "open_recorded",
    "open_deferred",
    "live_set",
    "live_put_back",
    "live_left",
    "stamp_seen",
    "changes_seen",
];

/// Label `result`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByResult {
    /// What came of it.
    pub result: &'static str,
}

/// Label `what`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByWhat {
    /// Which of the things that are kept on disk.
    pub what: &'static str,
}

/// Label `stage`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStage {
    stage: &'static str,
}

/// Labels `parameter` and `errno`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRefusal {
    parameter: &'static str,
    errno: i32,
}

/// Label `name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByName {
    name: &'static str,
}

/// Label `capability`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCapability {
    capability: String,
}

/// Everything that is counted. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Whether there is contact with a server.
    pub connected: Gauge,
    /// Whether the last server that answered refuses this node for good.
    pub refused: Gauge,
    /// Whether another daemon has this node's id.
    pub id_taken: Gauge,
    /// How far this machine's wall clock is ahead of the server's; negative: behind.
    pub clock_offset_seconds: Gauge<f64, AtomicU64>,
    /// Streams that have ended.
    pub streams_ended: Counter,
    /// Snapshots received, by what was done with them.
    pub snapshots: Family<ByResult, Counter>,
    /// Tries of snapshots that the kernel did not take at first.
    pub retries: Counter,
    /// From receiving a snapshot to its being in force.
    pub apply_seconds: Histogram,
    stage_seconds: Family<ByStage, Histogram, fn() -> Histogram>,
    /// Generation in force.
    pub generation: Gauge,
    /// Layers of it that this node cannot honour.
    pub layers_held_back: Gauge,
    /// Canaries of it that the circuit breaker has ended.
    pub breaker_trips: Gauge,
    /// Whether the node's own cgroup is there and attached.
    pub own_attached: Gauge,
    /// Services named by rules whose cgroups are there and attached.
    pub services_attached: Gauge,
    /// Services named by rules whose cgroups are not there.
    pub services_absent: Gauge,
    /// Cgroups that are there and cannot be attached to.
    pub services_troubled: Gauge,
    /// Cgroups that have gone and whose sockets are still served.
    pub cgroups_outlived: Gauge,
    /// Tries to attach to a cgroup that failed.
    pub attach_failures: Counter,
    /// Flow records folded.
    pub records: Gauge,
    /// Whether flows are recorded one by one, because somebody asked for it.
    pub recording: Gauge,
    /// Those that were.
    pub recorded: Counter,
    /// Those that were not.
    pub recorded_left_out: Counter,
    /// Choices in them that nobody knows.
    pub records_unattributed: Gauge,
    /// Records not measured because the connection's slot of time turned out to be another one.
    pub records_out_of_slot: Gauge,
    /// Cells held.
    pub cells: Gauge,
    /// Cells coalesced with a later interval for want of room.
    pub cells_coalesced: Gauge,
    /// Flows in cells that were evicted for want of room.
    pub flows_evicted: Gauge,
    /// Earlier kernel sides that still serve connections.
    pub sides_draining: Gauge,
    /// Connections that they serve.
    pub connections_draining: Gauge,
    /// Connections whose records were given up when their side was ended.
    pub connections_given_up: Gauge,
    /// Reports, by what came of them.
    pub reports: Family<ByResult, Counter>,
    /// How long the wait for the next report is.
    pub report_interval: Gauge<f64, AtomicU64>,
    /// Bytes of the journal.
    pub journal_bytes: Gauge,
    /// Writes to the state directory that failed.
    pub state_failures: Counter,
    /// 1 for what should be in the state directory and is not.
    pub owed: Family<ByWhat, Gauge>,
    /// Network namespaces that the last walk over open connections looked at.
    pub namespaces_swept: Gauge,
    /// Open connections in network namespaces to which no way was found.
    pub connections_unreached: Gauge,
    /// Operations on the kernel's tables that failed.
    pub kernel_failures: Counter,
    capabilities: Family<ByCapability, Gauge>,
    kernel: Family<ByName, Gauge>,
    refusals: Family<ByRefusal, Gauge>,
    book: Arc<Book>,
}

fn register<M: Metric + Clone + Default>(book: &mut Book, name: &str, help: &str) -> M {
    let metric = M::default();
    book.register(name, help, metric.clone());
    metric
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
        let mut book = Book::of("sockpilot_node");
        let r = &mut book;
        let apply_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        r.register("apply_seconds", "From receiving a snapshot to its being in force", apply_seconds.clone());
        let stage_seconds: Family<ByStage, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_062_5, 2.0, 18)));
        r.register(
            "apply_stage_seconds",
            "The same by `stage`: `wait` until the daemon began with it, `compile` until it was compiled, `write` until it was on disk, `install` \
             until it was in force in the kernel",
            stage_seconds.clone(),
        );
        Self {
            connected: register(r, "connected", "Whether there is contact with a server"),
            refused: register(r, "refused", "Whether a server refuses this node until its settings are corrected"),
            id_taken: register(r, "id_taken", "Whether another daemon has this node's id"),
            clock_offset_seconds: register(
                r,
                "clock_offset_seconds",
                "How far this machine's wall clock is ahead of the server's; negative: behind",
            ),
            streams_ended: register(r, "streams_ended", "Streams to a server that have ended"),
            snapshots: register(r, "snapshots", "Snapshots received, by what was done with them"),
            retries: register(r, "snapshot_retries", "Tries of snapshots that the kernel did not take at first"),
            apply_seconds,
            stage_seconds,
            generation: register(r, "generation", "Generation in force"),
            layers_held_back: register(r, "layers_held_back", "Layers of it that this node cannot honour"),
            breaker_trips: register(r, "breaker_trips", "Canaries of it that the circuit breaker has ended"),
            own_attached: register(r, "own_cgroup_attached", "Whether the node's own cgroup is there and attached"),
            services_attached: register(
                r,
                "services_attached",
                "Services named by rules whose cgroups are there and attached",
            ),
            services_absent: register(r, "services_absent", "Services named by rules whose cgroups are not there"),
            services_troubled: register(r, "services_troubled", "Cgroups that are there and cannot be attached to"),
            cgroups_outlived: register(
                r,
                "cgroups_outlived",
                "Cgroups that have gone and whose sockets are still served",
            ),
            attach_failures: register(r, "attach_failures", "Tries to attach to a cgroup that failed"),
            records: register(r, "records_folded", "Flow records folded since the start"),
            recording: register(r, "recording", "Whether flows are recorded one by one, because somebody asked for it"),
            recorded: register(r, "recorded", "Flows recorded on request"),
            recorded_left_out: register(
                r,
                "recorded_left_out",
                "Flows that were to be recorded on request and are not, because they were above the rate or there was no room",
            ),
            records_unattributed: register(r, "choices_unattributed", "Choices in flow records that nobody knows"),
            records_out_of_slot: register(
                r,
                "records_out_of_slot",
                "Flow records not measured because the clock was wrong when the connection got its slot of time",
            ),
            cells: register(r, "cells", "Cells held until they are confirmed"),
            cells_coalesced: register(r, "cells_joined", "Cells coalesced with a later interval for want of room"),
            flows_evicted: register(r, "flows_given_up", "Flows in cells that were evicted for want of room"),
            sides_draining: register(
                r,
                "sides_draining",
                "Kernel programs of other layouts that still serve the connections that they have begun",
            ),
            connections_draining: register(r, "connections_draining", "Connections that they serve"),
            connections_given_up: register(
                r,
                "connections_given_up",
                "Connections without a record, because they were open for longer than the limit of a handover",
            ),
            reports: register(r, "reports", "Reports to a server, by what came of them"),
            report_interval: register(
                r,
                "report_interval_seconds",
                "How long the daemon waits for its next report, as the server has it",
            ),
            journal_bytes: register(r, "journal_bytes", "Bytes of the journal"),
            namespaces_swept: register(
                r,
                "namespaces_swept",
                "Network namespaces that the last walk over open connections looked at",
            ),
            owed: register(
                r,
                "state_owed",
                "1 for what should be in the state directory and is not, and is tried again",
            ),
            connections_unreached: register(
                r,
                "connections_unreached",
                "Open connections in network namespaces to which the last walk found no way",
            ),
            state_failures: register(r, "state_failures", "Writes to the state directory that failed"),
            kernel_failures: register(r, "kernel_failures", "Operations on the kernel's tables that failed"),
            capabilities: register(r, "capabilities", "1 for each capability that the daemon has; none is best"),
            kernel: register(r, "kernel", "Counters of the kernel program since its tables were made"),
            refusals: register(
                r,
                "set_refused",
                "Parameters that the kernel refused to set, by parameter and error number",
            ),
            book: Arc::new(book),
        }
    }

    /// Counts the stages of a snapshot that came into force.
    pub fn stages(&self, stages: &v1::ApplyStages) {
        let v1::ApplyStages { wait_us, compile_us, write_us, install_us } = *stages;
        for (stage, us) in [("wait", wait_us), ("compile", compile_us), ("write", write_us), ("install", install_us)] {
            self.stage_seconds.get_or_create(&ByStage { stage }).observe(f64::from(us) / 1e6);
        }
    }

    /// Shows which capabilities the daemon has.
    pub fn set_capabilities(&self, names: &[String]) {
        for name in names {
            self.capabilities.get_or_create(&ByCapability { capability: name.clone() }).set(1);
        }
    }

    /// Shows the kernel program's counters.
    pub fn set_kernel(&self, counters: &[u64; COUNTERS]) {
        for (name, value) in KERNEL_COUNTERS.into_iter().zip(counters) {
            self.kernel.get_or_create(&ByName { name }).set(gauge(*value));
        }
    }

    /// Shows what the kernel refused to set, by slot and error number.
    pub fn set_refusals(&self, refusals: &[(usize, i32, u64)]) {
        for (slot, errno, number) in refusals {
            let parameter = PARAMETERS.get(*slot).map_or("unknown", |parameter| parameter.name);
            self.refusals.get_or_create(&ByRefusal { parameter, errno: *errno }).set(gauge(*number));
        }
    }

    /// As Prometheus reads it.
    #[must_use]
    pub fn text(&self) -> String {
        self.book.text()
    }

    /// Serves the text under `/metrics` until it is stopped.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
        sockpilot_metrics::serve(move || self.text(), listener, stop).await
    }
}

/// A count as a gauge shows it.
#[must_use]
pub fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_was_counted() {
        let metrics = Metrics::new();
        metrics.set_kernel(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        metrics.snapshots.get_or_create(&ByResult { result: "applied" }).inc();
        metrics.set_refusals(&[(3, 22, 5)]);
        let text = metrics.text();
        let refused = "sockpilot_node_set_refused{parameter=\"initial_cwnd_packets\",errno=\"22\"} 5";
        assert!(text.contains(refused), "{text}");
        assert!(text.contains("sockpilot_node_kernel{name=\"records_dropped\"} 3"), "{text}");
        assert!(text.contains("sockpilot_node_snapshots_total{result=\"applied\"} 1"), "{text}");
    }

    #[test]
    fn the_documentation_has_every_metric() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        Metrics::new().book.check_documentation(&page, "## The node").unwrap_or_else(|why| panic!("{why}"));
    }
}
