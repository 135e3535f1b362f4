//! Says in the database that this replica is there and what its tasks do, so that any replica can list all of them.

use std::{net::SocketAddr, time::Duration};

use prost_types::Timestamp;
use sockpilot_proto::v1;
use uuid::Uuid;

use super::{Board, LastRun, Outcome, Scope, Spec, Task, TaskStatus};
use crate::store::{Result, Settled, Store, server};

/// How often a replica says that it is there.
const PERIOD: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Presence {
    store: Store,
    board: Board,
    server_id: Uuid,
    /// Everything but the tasks.
    announcement: v1::Server,
}

impl Presence {
    /// Of a replica.
    #[must_use]
    pub fn new(store: Store, board: Board, server_id: Uuid, address: SocketAddr) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let (address, version) = (address.to_string(), env!("CARGO_PKG_VERSION").to_owned());
        let announcement = v1::Server { host, address, version, ..v1::Server::default() };
        Self { store, board, server_id, announcement }
    }
}

impl Task for Presence {
    fn spec(&self) -> Spec {
        Spec { name: "presence", period: PERIOD, retry_after: PERIOD, scope: Scope::Server }
    }

    async fn run(&mut self) -> Result<String> {
        let tasks = self.board.tasks().into_iter().map(task_to_proto).collect();
        let (server_id, announcement) = (self.server_id, v1::Server { tasks, ..self.announcement.clone() });
        let announced = self.store.transact("announce", move |conn| {
            let announcement = announcement.clone();
            Box::pin(async move { Ok(Settled::Commit(server::announce(conn, server_id, &announcement).await?)) })
        });
        announced.await?;
        Ok(String::new())
    }
}

fn task_to_proto(status: TaskStatus) -> v1::Task {
    let TaskStatus { spec: Spec { name, period, retry_after: _, scope }, running_since, last, runs, failures } = status;
    let scope = match scope {
        Scope::Server => v1::task::Scope::Server,
        Scope::Fleet => v1::task::Scope::Fleet,
    };
    let mut task = v1::Task {
        name: name.to_owned(),
        scope: scope.into(),
        period_ms: u64::try_from(period.as_millis()).unwrap_or(u64::MAX),
        running_since_time: running_since.map(Timestamp::from),
        runs,
        failures,
        ..v1::Task::default()
    };
    if let Some(LastRun { start, duration, outcome }) = last {
        task.last_start_time = Some(start.into());
        task.last_duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        match outcome {
            Outcome::Done(result) => task.last_result = result,
            Outcome::Failed(error) => task.last_error = error,
        }
    }
    task
}
