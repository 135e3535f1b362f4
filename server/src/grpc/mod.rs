//! The only place that speaks gRPC: requests are checked here, answered by the store, and errors become statuses.

mod access;
mod assignment;
mod backup;
mod call;
pub(crate) mod convert;
mod documents;
pub mod door;
mod error;
mod experiment;
mod fleet;
mod frames;
#[cfg(test)]
mod fuzz;
pub mod handshakes;
mod health;
pub mod join;
mod kill_switch;
mod lifecycle;
mod meter;
mod node;
mod outgoing;
mod paging;
mod policy;
mod porter;
mod rollout;
mod rollout_plan;
mod stream;
mod zone;

use std::{sync::Arc, time::Duration};

use sockpilot_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        access_service_server::AccessServiceServer, assignment_service_server::AssignmentServiceServer,
        backup_service_server::BackupServiceServer, experiment_service_server::ExperimentServiceServer,
        fleet_service_server::FleetServiceServer, join_service_server::JoinServiceServer,
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
use tonic::{
    service::{Routes, RoutesBuilder},
    transport::Server,
};
use tower::util::MapResponseLayer;
use uuid::Uuid;

use self::{door::Door, join::Signer, meter::Meter, porter::Porter};

use crate::{
    auth::{gate::Gate, refresh::Watch},
    clock::Clock,
    fleet::{fanout::Fanout, recorder::Recorder, recording::Recordings},
    metrics::Metrics,
    store::Store,
};

/// Largest list or outcome table that is answered.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Largest snapshot.
const SNAPSHOT_BYTES_MAX: usize = 16 << 20;
/// Reports in the database at the same time: fewer than connections, so that reports never keep policies waiting.
const REPORTS_AT_ONCE: usize = 6;
/// A request to sign, with a token.
const JOIN_BYTES_MAX: usize = 16 << 10;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a request may be on its way before it is read.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// HTTP/2 itself bounds headers a little later, so that who has too many gets an answer.
const HEADERS_ROOM: u32 = 2;

/// How much a connection and a call may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallLimits {
    /// Calls at the same time on a connection.
    pub streams_max: u32,
    /// Calls that were taken back before they were looked at; a connection with more is ended.
    pub resets_max: usize,
    /// Of the headers of a call.
    pub header_bytes_max: usize,
    /// Of a message of a person.
    pub person_message_bytes_max: usize,
    /// Of what a node says, and of its reports.
    pub node_message_bytes_max: usize,
    /// Reports that wait for their turn.
    pub reports_waiting_max: usize,
    /// Reports in a second, of all connected nodes together.
    pub reports_per_s: u32,
    /// How long a call of a person may take, with its answer on the wire.
    pub person_timeout: Duration,
    /// How long a call of a node may take, but its stream.
    pub node_timeout: Duration,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self {
            streams_max: 256,
            resets_max: 64,
            header_bytes_max: 32 << 10,
            person_message_bytes_max: 4 << 20,
            node_message_bytes_max: 16 << 20,
            reports_waiting_max: 32,
            reports_per_s: 500,
            // For the longest answer, a backup, on a slow line.
            person_timeout: Duration::from_secs(600),
            // A daemon waits 10 s for an answer.
            node_timeout: Duration::from_secs(60),
        }
    }
}

/// What the services work with.
#[derive(Debug, Clone)]
pub struct Api {
    /// Tells the replica from all others.
    pub server_id: Uuid,
    pub store: Store,
    /// The connected nodes.
    pub fanout: Arc<Fanout>,
    /// What nodes say, on its way to the database.
    pub recorder: Arc<Recorder>,
    /// The database's clock.
    pub clock: Clock,
    pub metrics: Metrics,
    /// Nobody comes in any more when this ends.
    pub drain: CancellationToken,
    /// Who may do what.
    pub gate: Arc<Gate>,
    /// Keeps that newest.
    pub access: Watch,
    /// Signs certificates of nodes, if anybody does.
    pub signer: Option<Arc<Signer>>,
    /// What nodes are told to record.
    pub recordings: Arc<Recordings>,
    /// Wakes whoever reads that.
    pub record: Arc<Notify>,
    /// Wakes whoever prunes samples.
    pub prune: Arc<Notify>,
    limits: CallLimits,
    reports: Arc<Reports>,
}

/// The two limits on reports.
#[derive(Debug)]
struct Reports {
    waiting: Semaphore,
    at_once: Semaphore,
}

/// What the services are made of.
#[derive(Debug)]
pub struct Parts {
    pub server_id: Uuid,
    pub store: Store,
    pub fanout: Arc<Fanout>,
    pub recorder: Arc<Recorder>,
    pub clock: Clock,
    pub metrics: Metrics,
    pub drain: CancellationToken,
    pub gate: Arc<Gate>,
    pub signer: Option<Arc<Signer>>,
    pub limits: CallLimits,
}

impl Api {
    /// The services' state.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { server_id, store, fanout, recorder, clock, metrics, drain, gate, signer, limits } = parts;
        let reports = Reports {
            waiting: Semaphore::new(limits.reports_waiting_max + REPORTS_AT_ONCE),
            at_once: Semaphore::new(REPORTS_AT_ONCE),
        };
        let (recordings, record) = (Arc::default(), Arc::new(Notify::new()));
        let (prune, reports) = (Arc::new(Notify::new()), Arc::new(reports));
        let access =
            Watch { store: store.clone(), gate: gate.clone(), fanout: fanout.clone(), metrics: metrics.clone() };
        Self {
            server_id,
            store,
            fanout,
            recorder,
            clock,
            metrics,
            drain,
            gate,
            access,
            signer,
            recordings,
            record,
            prune,
            limits,
            reports,
        }
    }
}

/// What comes in by a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// Nodes and people: where nobody is asked who they are.
    All,
    Nodes,
    People,
}

/// A door, and who comes in by it.
pub struct Entrance {
    pub door: Door,
    pub listener: TcpListener,
    pub serves: Serves,
}

type ServeError = Box<dyn std::error::Error + Send + Sync>;

/// Serves until the drain begins and every call has ended.
///
/// # Errors
/// If the transport fails.
pub async fn serve(api: Api, entrances: Vec<Entrance>, database_up: watch::Receiver<bool>) -> Result<(), ServeError> {
    let (health, reporter) = health::service(database_up, api.drain.clone());
    let (gate, metrics, limits) = (api.gate.clone(), api.metrics.clone(), api.limits.clone());
    let name_oversized = {
        let metrics = metrics.clone();
        move |response| error::name_oversized(&metrics, response)
    };
    let header_list_bytes = u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX).saturating_mul(HEADERS_ROOM);
    let meter = Meter(metrics.clone());
    let porter = Porter { gate, metrics, limits: limits.clone() };
    let mut servers = vec![];
    for Entrance { door, listener, serves } in entrances {
        let mut routes = Routes::builder();
        routes.add_service(health.clone());
        add_services(&mut routes, &api, serves)?;
        let drain = api.drain.clone();
        let incoming = door.open(listener, drain.clone());
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(Some(limits.streams_max))
            .initial_stream_window_size(Some(STREAM_WINDOW_BYTES))
            .http2_max_header_list_size(Some(header_list_bytes))
            .http2_max_pending_accept_reset_streams(Some(limits.resets_max))
            .layer(meter.clone())
            .layer(porter.clone())
            .layer(MapResponseLayer::new(name_oversized.clone()))
            .add_routes(routes.routes())
            .serve_with_incoming_shutdown(incoming, drain.cancelled_owned());
        servers.push(server);
    }
    tokio::select! {
        served = futures::future::try_join_all(servers) => Ok(served.map(drop)?),
        () = reporter => Ok(()),
    }
}

fn add_services(routes: &mut RoutesBuilder, api: &Api, serves: Serves) -> Result<(), ServeError> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that grpcurl can show the details of a status.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    if serves != Serves::People {
        routes.add_service(node::Nodes::new(api.clone()));
        routes.add_service(JoinServiceServer::new(api.clone()).max_decoding_message_size(JOIN_BYTES_MAX));
    }
    if serves == Serves::Nodes {
        return Ok(());
    }
    let person_bytes_max = api.limits.person_message_bytes_max;
    routes
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(
            PolicyServiceServer::new(api.clone())
                .max_decoding_message_size(person_bytes_max)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            ExperimentServiceServer::new(api.clone())
                .max_decoding_message_size(person_bytes_max)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            ZoneServiceServer::new(api.clone())
                .max_decoding_message_size(person_bytes_max)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            AssignmentServiceServer::new(api.clone())
                .max_decoding_message_size(person_bytes_max)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            RolloutPlanServiceServer::new(api.clone())
                .max_decoding_message_size(person_bytes_max)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            RolloutServiceServer::new(api.clone())
                .max_decoding_message_size(person_bytes_max)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            KillSwitchServiceServer::new(api.clone())
                .max_decoding_message_size(person_bytes_max)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(
            // The history of a policy has no bound, and is one message.
            BackupServiceServer::new(api.clone())
                .max_decoding_message_size(ANSWER_BYTES_MAX)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        )
        .add_service(AccessServiceServer::new(api.clone()).max_decoding_message_size(person_bytes_max))
        .add_service(
            FleetServiceServer::new(api.clone())
                .max_decoding_message_size(person_bytes_max)
                .max_encoding_message_size(ANSWER_BYTES_MAX),
        );
    Ok(())
}
