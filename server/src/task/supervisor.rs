//! Watches everything that must not end while the server runs.

use std::{collections::HashMap, future::Future};

use tokio::task::{Id, JoinError, JoinSet};

/// What ended although the server goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task {task} {why}")]
pub struct Death {
    /// Which task.
    pub task: &'static str,
    /// How it ended.
    pub why: String,
}

/// Everything that runs beside the calls of clients.
#[derive(Debug, Default)]
pub struct Supervisor {
    running: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Supervisor {
    /// Runs something that ends only when it is asked to.
    pub fn spawn(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let id = self.running.spawn(work).id();
        self.names.insert(id, name);
    }

    /// Waits for the first one to end. Before it was asked to, that is a death.
    pub async fn death(&mut self) -> Death {
        match self.running.join_next_with_id().await {
            Some(Ok((id, ()))) => self.named(id, "ended".to_owned()),
            Some(Err(error)) => self.named(error.id(), panicked(error)),
            None => std::future::pending().await,
        }
    }

    /// Waits for all of them to end, as they were asked to.
    pub async fn finish(mut self) {
        while let Some(ended) = self.running.join_next_with_id().await {
            if let Err(error) = ended {
                let Death { task, why } = self.named(error.id(), panicked(error));
                tracing::error!(task, why, "task died while stopping");
            }
        }
    }

    fn named(&self, id: Id, why: String) -> Death {
        Death { task: self.names.get(&id).copied().unwrap_or("unknown"), why }
    }
}

fn panicked(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => {
            let words = panic.downcast_ref::<&str>().map(ToString::to_string);
            let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
            format!("panicked: {}", words.unwrap_or_else(|| "without words".to_owned()))
        }
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_what_died_and_how() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("lasting", std::future::pending());
        supervisor.spawn("brittle", async { panic!("no way on") });
        let death = supervisor.death().await;
        assert_eq!(death.to_string(), "task brittle panicked: no way on");
        supervisor.spawn("short", async {});
        assert_eq!(supervisor.death().await.to_string(), "task short ended");
    }
}
