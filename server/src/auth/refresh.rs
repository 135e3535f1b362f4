//! Keeps what is known of who may do what newest, on every replica: so whoever is shut out is cut off within seconds, everywhere.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{gate::Gate, trust::Trust};
use crate::{
    fleet::fanout::Fanout,
    metrics::Metrics,
    store::{Result, Store, access},
    task::{Scope, Spec, Task},
};

const PERIOD: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Watch {
    pub store: Store,
    pub gate: Arc<Gate>,
    pub fanout: Arc<Fanout>,
    pub metrics: Metrics,
}

impl Watch {
    /// Looks, and acts on what is new. Answers with what there was.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn look(&self) -> Result<String> {
        let known = self.gate.trust().version;
        let read = self.store.read("access", move |conn| {
            Box::pin(async move {
                match access::newer(&mut *conn, known).await? {
                    Some(version) => access::load(conn, version).await.map(Some),
                    None => Ok(None::<Trust>),
                }
            })
        });
        let Some(trust) = read.await? else { return Ok(String::new()) };
        let version = trust.version;
        let (cut, pinned) = self.gate.learn(trust, SystemTime::now());
        if cut > 0 {
            self.metrics.connections_cut.inc_by(cut as u64);
            tracing::warn!(connections = cut, "callers shut out, connections cut");
        }
        for node in &pinned {
            self.fanout.disconnect(node);
        }
        Ok(format!("version {version}"))
    }
}

impl Task for Watch {
    fn spec(&self) -> Spec {
        Spec { name: "access", period: PERIOD, retry_after: PERIOD, scope: Scope::Server }
    }

    async fn run(&mut self) -> Result<String> {
        self.look().await
    }
}
