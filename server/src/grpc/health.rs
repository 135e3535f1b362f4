//! `grpc.health.v1`: serving while the database answers.

use std::future::Future;

use sockpilot_proto::v1::{
    access_service_server, assignment_service_server, backup_service_server, experiment_service_server,
    fleet_service_server, join_service_server, kill_switch_service_server, node_service_server, policy_service_server,
    rollout_plan_service_server, rollout_service_server, zone_service_server,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::health_reporter,
};

/// All services, and the server as a whole.
const SERVICES: [&str; 13] = [
    "",
    access_service_server::SERVICE_NAME,
    join_service_server::SERVICE_NAME,
    policy_service_server::SERVICE_NAME,
    experiment_service_server::SERVICE_NAME,
    zone_service_server::SERVICE_NAME,
    assignment_service_server::SERVICE_NAME,
    rollout_plan_service_server::SERVICE_NAME,
    rollout_service_server::SERVICE_NAME,
    kill_switch_service_server::SERVICE_NAME,
    backup_service_server::SERVICE_NAME,
    fleet_service_server::SERVICE_NAME,
    node_service_server::SERVICE_NAME,
];

/// The service, and the task that keeps it up to date. The task ends only if nobody watches the database any more.
pub fn service(
    mut database_up: watch::Receiver<bool>,
    drain: CancellationToken,
) -> (HealthServer<impl Health>, impl Future<Output = ()>) {
    let (reporter, service) = health_reporter();
    let task = async move {
        loop {
            let up = *database_up.borrow_and_update() && !drain.is_cancelled();
            let status = if up { ServingStatus::Serving } else { ServingStatus::NotServing };
            for name in SERVICES {
                reporter.set_service_status(name, status).await;
            }
            tokio::select! {
                changed = database_up.changed() => if changed.is_err() { std::future::pending::<()>().await },
                () = drain.cancelled(), if !drain.is_cancelled() => {}
            }
        }
    };
    (service, task)
}
