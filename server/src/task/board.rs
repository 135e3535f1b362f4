//! What the tasks of this server last did: for the list of tasks, and for Prometheus.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use super::Spec;
use crate::{metrics::Metrics, store::Error};

/// The tasks of this server, by name. Clones are the same board.
#[derive(Debug, Clone)]
pub struct Board {
    tasks: Arc<Mutex<BTreeMap<&'static str, TaskStatus>>>,
    metrics: Metrics,
}

/// A task as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskStatus {
    /// What is fixed about it.
    pub spec: Spec,
    /// Since when it has been running, if it is.
    pub running_since: Option<SystemTime>,
    /// The newest run that has ended.
    pub last: Option<LastRun>,
    /// Runs that have ended.
    pub runs: u64,
    /// Of these, those that failed.
    pub failures: u64,
}

/// A run that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct LastRun {
    /// When it began.
    pub start: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was done; in words, if there is anything to say.
    Done(String),
    /// It failed, and will be tried again.
    Failed(String),
}

impl Board {
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { tasks: Arc::default(), metrics }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, TaskStatus>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All tasks, by name.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskStatus> {
        self.lock().values().cloned().collect()
    }

    pub(super) fn add(&self, spec: Spec) {
        let status = TaskStatus { spec, running_since: None, last: None, runs: 0, failures: 0 };
        self.lock().insert(spec.name, status);
    }

    pub(super) fn began(&self, name: &'static str, now: SystemTime) {
        if let Some(status) = self.lock().get_mut(name) {
            status.running_since = Some(now);
        }
    }

    /// Notes a run, and logs a failure that is not just the last one again.
    pub(super) fn ended(
        &self,
        name: &'static str,
        start: SystemTime,
        duration: Duration,
        result: &Result<String, Error>,
    ) {
        let outcome = match result {
            Ok(detail) => Outcome::Done(detail.clone()),
            Err(error) => Outcome::Failed(chain(error)),
        };
        self.metrics.task_ended(name, duration, result.is_ok());
        let mut tasks = self.lock();
        let Some(status) = tasks.get_mut(name) else { return };
        let before = status.last.take().map(|last| last.outcome);
        match &outcome {
            Outcome::Failed(error) if before.as_ref() != Some(&outcome) => {
                tracing::warn!(task = name, error, retry_after = ?status.spec.retry_after, "task failed");
            }
            Outcome::Done(_) if matches!(before, Some(Outcome::Failed(_))) => {
                tracing::info!(task = name, "task recovered");
            }
            Outcome::Done(_) | Outcome::Failed(_) => {}
        }
        status.running_since = None;
        status.runs += 1;
        status.failures += u64::from(result.is_err());
        status.last = Some(LastRun { start, duration, outcome });
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
