//! The only place that speaks gRPC: requests are checked here, answered by the store, and errors become statuses.

mod assignment;
mod backup;
mod call;
mod convert;
mod documents;
mod error;
mod experiment;
mod fleet;
mod frames;
mod health;
mod kill_switch;
mod lifecycle;
mod node;
mod paging;
mod policy;
mod rollout;
mod rollout_plan;
mod stream;
mod zone;

use std::{sync::Arc, time::Duration};

use sockpilot_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        assignment_service_server::AssignmentServiceServer, backup_service_server::BackupServiceServer,
        experiment_service_server::ExperimentServiceServer, fleet_service_server::FleetServiceServer,
        kill_switch_service_server::KillSwitchServiceServer, policy_service_server::PolicyServiceServer,
        rollout_plan_service_server::RolloutPlanServiceServer, rollout_service_server::RolloutServiceServer,
        zone_service_server::ZoneServiceServer,
    },
};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore, watch},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};
use tower::util::MapResponseLayer;

use crate::{
    clock::Clock,
    fleet::{fanout::Fanout, recorder::Recorder},
    metrics::Metrics,
    store::Store,
};

/// Largest message of the admin API, in and out.
const ADMIN_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Largest list or outcome table that is answered.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Largest flow report, and largest snapshot.
const NODE_MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Reports in the database at the same time: fewer than connections, so that reports never keep policies waiting.
const REPORTS_AT_ONCE: usize = 6;
/// Reports waiting for their turn; a report has up to 16 MiB.
const REPORTS_WAITING_MAX: usize = 32;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// How much of a request may be on its way before it is read.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// What the services work with.
#[derive(Debug, Clone)]
pub struct Api {
    pub store: Store,
    /// The connected nodes.
    pub fanout: Arc<Fanout>,
    /// What nodes say, on its way to the database.
    pub recorder: Arc<Recorder>,
    /// The database's clock.
    pub clock: Clock,
    pub metrics: Metrics,
    /// How often a node gets a heartbeat.
    pub heartbeat: Duration,
    /// Streams end when this does.
    pub drain: CancellationToken,
    /// Wakes whoever prunes samples.
    pub prune: Arc<Notify>,
    reports: Arc<Reports>,
}

/// The two limits on reports.
#[derive(Debug)]
struct Reports {
    waiting: Semaphore,
    at_once: Semaphore,
}

impl Api {
    /// The services' state.
    #[must_use]
    pub fn new(
        store: Store,
        fanout: Arc<Fanout>,
        recorder: Arc<Recorder>,
        clock: Clock,
        metrics: Metrics,
        heartbeat: Duration,
        drain: CancellationToken,
    ) -> Self {
        let reports = Reports {
            waiting: Semaphore::new(REPORTS_WAITING_MAX + REPORTS_AT_ONCE),
            at_once: Semaphore::new(REPORTS_AT_ONCE),
        };
        let prune = Arc::new(Notify::new());
        Self { store, fanout, recorder, clock, metrics, heartbeat, drain, prune, reports: Arc::new(reports) }
    }
}

/// Serves until the drain begins and every call has ended.
///
/// # Errors
/// If the transport fails.
pub async fn serve(
    api: Api,
    listener: TcpListener,
    database_up: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (health, reporter) = health::service(database_up, api.drain.clone());
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that grpcurl can show the details of a status.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let drain = api.drain.clone();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(Duration::from_secs(60)));
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(Some(STREAMS_PER_CONNECTION_MAX))
        .initial_stream_window_size(Some(STREAM_WINDOW_BYTES))
        .layer(MapResponseLayer::new(error::name_oversized))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(
            PolicyServiceServer::new(api.clone())
                .max_decoding_message_size(ADMIN_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            ExperimentServiceServer::new(api.clone())
                .max_decoding_message_size(ADMIN_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            ZoneServiceServer::new(api.clone())
                .max_decoding_message_size(ADMIN_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            AssignmentServiceServer::new(api.clone())
                .max_decoding_message_size(ADMIN_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            RolloutPlanServiceServer::new(api.clone())
                .max_decoding_message_size(ADMIN_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            RolloutServiceServer::new(api.clone())
                .max_decoding_message_size(ADMIN_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            KillSwitchServiceServer::new(api.clone())
                .max_decoding_message_size(ADMIN_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            // The history of a policy has no bound, and is one message.
            BackupServiceServer::new(api.clone())
                .max_decoding_message_size(ANSWER_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            FleetServiceServer::new(api.clone())
                .max_decoding_message_size(ADMIN_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(node::Nodes::new(api))
        .serve_with_incoming_shutdown(incoming, drain.cancelled_owned());
    tokio::select! {
        served = server => Ok(served?),
        () = reporter => Ok(()),
    }
}
