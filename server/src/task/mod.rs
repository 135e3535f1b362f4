//! Background tasks: what the server does without being asked.
//!
//! A task has a name, a period, something that wakes it earlier, and a body without input: it looks at the database. So a run that
//! was lost is made up for by the next one, and any replica can do it. A [`Runner`] runs the bodies and notes on the
//! [`Board`] what came of them; [`presence`] writes the board into the database, where every replica's can be read. A
//! [`FleetTask`] is run by one replica at a time: the one that has the lease ([`leader`]).
//!
//! No task may die: a body that fails returns an error and is tried again, so a task that ends or panics is a fault of the
//! program, and the [`Supervisor`] has the whole server end for it, loudly. A server that goes on without, say, the task that
//! loads the fleet would look sound and serve nodes from the past.

mod board;
pub mod janitor;
pub mod leader;
pub mod presence;
pub mod reload;
mod runner;
mod supervisor;

use std::{future::Future, time::Duration};

pub use board::{Board, LastRun, Outcome, TaskStatus};
pub use leader::{FleetTask, Leadership, Led};
pub use runner::Runner;
pub use supervisor::{Death, Supervisor};

use crate::store::Result;

/// What is fixed about a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Names it in logs, metrics and lists; unique within a server.
    pub name: &'static str,
    /// From the end of a run to the beginning of the next, if nothing wakes it earlier.
    pub period: Duration,
    /// The same after a run that failed.
    pub retry_after: Duration,
    /// Who runs it.
    pub scope: Scope,
}

/// Who runs a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every replica, for itself.
    Server,
    /// One replica for the whole fleet: the leader.
    Fleet,
}

/// Something that is done again and again.
pub trait Task: Send + 'static {
    /// What is fixed about it.
    fn spec(&self) -> Spec;

    /// Returns when the task should run before its period is over. It is dropped and called anew at every run, so it must not
    /// lose anything then. By default never.
    fn activated(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// One run, to its end: it is never cut off in the middle. Returns what a person may want to know of it, or nothing.
    ///
    /// # Errors
    /// If it must be tried again.
    fn run(&mut self) -> impl Future<Output = Result<String>> + Send;
}
