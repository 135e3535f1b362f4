//! Takes files of certificates and keys in when they change; connections that are open go on. Also at once on SIGHUP.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use sockpilot_identity::{files::Watched, tls::ServerTls};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Scope, Spec, Task};
use crate::{auth::gate::Gate, metrics::Metrics, store::Result};

const PERIOD: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug)]
pub struct Reload {
    pub tls: Arc<Watched<ServerTls>>,
    pub gate: Arc<Gate>,
    pub metrics: Metrics,
}

impl Reload {
    fn note_expiry(&self) {
        let expires = self.tls.get().not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.metrics.certificate_expires.set(expires.cast_signed());
    }
}

impl Task for Reload {
    fn spec(&self) -> Spec {
        Spec { name: "reload", period: PERIOD, retry_after: PERIOD, scope: Scope::Server }
    }

    async fn activated(&mut self) {
        match signal(SignalKind::hangup()) {
            Ok(mut hangup) => drop(Signal::recv(&mut hangup).await),
            Err(_) => std::future::pending().await,
        }
    }

    async fn run(&mut self) -> Result<String> {
        let keys = self.gate.oidc.as_ref().map_or(Ok(false), |oidc| oidc.refresh());
        let said = match self.tls.refresh().and_then(|tls| Ok(tls | keys?)) {
            Ok(false) => String::new(),
            Ok(true) => {
                tracing::info!("TLS files changed, in use from now on");
                "read anew".to_owned()
            }
            // It will not become better by being tried again: the next change is looked at.
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, effect = "those before stay in use", "TLS files will not do");
                "files will not do".to_owned()
            }
        };
        self.note_expiry();
        Ok(said)
    }
}
