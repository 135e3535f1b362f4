//! The node's certificate and whom it believes, as files that may change while the daemon runs. They are somebody else's (`--tls-cert`), or
//! the daemon's own, in its state directory: got for a token (`--join-token-file`), and renewed by itself.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use sockpilot_identity::{
    files::{self, Existing, Readers, Watched},
    tls::{self, ClientTls, Own},
};
use sockpilot_settings::{secret::Secret, server::ServerAddress};
use tokio::{
    sync::{mpsc::WeakSender, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{
    connect,
    join::{self, Signed},
};
use crate::{backoff, keeper::Command};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Files of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Authorities of the servers.
    pub authorities: PathBuf,
    /// The node's certificate; `None`: the daemon gets and renews it.
    pub own: Option<Own>,
    /// Where the token is for which it gets one.
    pub join_token_file: Option<PathBuf>,
}

/// Which node, and where.
#[derive(Debug)]
pub struct Place<'a> {
    /// The server.
    pub server: &'a ServerAddress,
    /// Files of TLS; `None`: it is not spoken.
    pub tls: Option<&'a Tls>,
    /// The node.
    pub node_id: &'a str,
    /// Where the daemon has its files.
    pub state_dir: &'a Path,
}

/// The files that are the daemon's own.
#[derive(Debug, Clone)]
struct Managed {
    directory: PathBuf,
    own: Own,
    authorities: PathBuf,
}

impl Managed {
    fn below(state_dir: &Path) -> Self {
        let directory = state_dir.join("identity");
        let own = Own { certificate: directory.join("cert.pem"), key: directory.join("key.pem") };
        Self { own, authorities: directory.join("ca.pem"), directory }
    }

    /// The certificate last: it is what says that all is there.
    fn write(&self, signed: &Signed) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        replace(&self.authorities, &signed.authorities)?;
        replace(&self.own.key, &signed.key)?;
        replace(&self.own.certificate, &signed.certificate)
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    files::write(path, text, Readers::Owner, Existing::Replaced)
}

/// See the [module](self).
#[derive(Debug)]
pub struct Credentials {
    server: ServerAddress,
    keeper: WeakSender<Command>,
    node_id: String,
    /// `None`: TLS is not spoken.
    tls: Option<Arc<Watched<ClientTls>>>,
    /// `None`: the files are somebody else's.
    managed: Option<Managed>,
    /// Where the token is, while there is no certificate that counts.
    token_file: Option<PathBuf>,
    channel: watch::Sender<Channel>,
    ready: watch::Sender<bool>,
}

/// To the server: when there is a certificate, if there is to be one.
#[derive(Debug, Clone)]
pub struct Access {
    /// As it is now.
    pub channel: watch::Receiver<Channel>,
    ready: watch::Receiver<bool>,
}

impl Access {
    /// Waits until the server can be asked.
    pub async fn ready(&mut self, stop: &CancellationToken) -> bool {
        tokio::select! {
            ready = self.ready.wait_for(|ready| *ready) => ready.is_ok(),
            () = stop.cancelled() => false,
        }
    }
}

impl Credentials {
    /// Reads the files.
    ///
    /// # Errors
    /// If one will not do, or there is neither a certificate nor a token to get one.
    pub fn open(place: &Place<'_>, keeper: WeakSender<Command>) -> Result<(Self, Access)> {
        let (tls, managed, token_file) = match place.tls {
            None => (None, None, None),
            Some(Tls { authorities, own: Some(own), join_token_file: _ }) => {
                (Some(tls::client(authorities, Some(own))?), None, None)
            }
            Some(Tls { authorities, own: None, join_token_file }) => {
                let managed = Managed::below(place.state_dir);
                let present =
                    managed.own.certificate.exists().then(|| tls::client(&managed.authorities, Some(&managed.own)));
                let present = present.transpose()?.filter(|tls| !has_run_out(tls));
                match present {
                    Some(present) => (Some(present), Some(managed), None),
                    None => {
                        ensure!(
                            join_token_file.is_some(),
                            "this node has no certificate that is valid; give --tls-cert and --tls-key, or --join-token-file \
                             with what `sockpilot access join-token` wrote"
                        );
                        (Some(tls::client(authorities, None)?), Some(managed), join_token_file.clone())
                    }
                }
            }
        };
        let (server, node_id, tls) = (place.server.clone(), place.node_id.to_owned(), tls.map(Arc::new));
        let first = connect::channel(&server, tls.clone(), keeper.clone());
        let (channel, to_server) = watch::channel(first.with_context(|| format!("{server} is no server"))?);
        let (ready, is_ready) = watch::channel(token_file.is_none());
        let access = Access { channel: to_server, ready: is_ready };
        Ok((Self { server, keeper, node_id, tls, managed, token_file, channel, ready }, access))
    }

    /// Joins if need be, then looks after the files until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        if self.token_file.is_some() && !self.join(&stop).await {
            return;
        }
        let Some(tls) = self.tls.clone() else { return stop.cancelled().await };
        self.ready.send_replace(true);
        let (mut renewal, mut attempt) = (Instant::now(), 0_u32);
        loop {
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
            match tls.refresh() {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!("TLS files changed, in use");
                    self.move_over(&tls);
                }
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::from(error));
                    tracing::error!(error, effect = "those before stay in use", "TLS files will not do");
                }
            }
            let due = tls.get().own.as_ref().is_some_and(|own| join::is_due(own, SystemTime::now()));
            if !due || self.managed.is_none() || Instant::now() < renewal {
                continue;
            }
            attempt = if self.renew().await { 0 } else { attempt.saturating_add(1) };
            renewal = Instant::now() + backoff::delay(attempt, rand::random());
        }
    }

    fn move_over(&self, tls: &Arc<Watched<ClientTls>>) {
        match connect::channel(&self.server, Some(tls.clone()), self.keeper.clone()) {
            Ok(channel) => drop(self.channel.send_replace(channel)),
            Err(error) => tracing::error!(%error, "no channel to the server"),
        }
    }

    /// Again and again, until the node has a certificate. `false`: it is stopped.
    async fn join(&mut self, stop: &CancellationToken) -> bool {
        let mut attempt = 0_u32;
        loop {
            match self.join_once().await {
                Ok(()) => return true,
                Err(error) => {
                    let wait = backoff::slow(rand::random());
                    tracing::error!(error = format!("{error:#}"), ?wait, attempt, "node has not joined; will retry");
                    attempt = attempt.saturating_add(1);
                    tokio::select! {
                        () = sleep(wait) => {}
                        () = stop.cancelled() => return false,
                    }
                }
            }
        }
    }

    async fn join_once(&mut self) -> Result<()> {
        let (Some(managed), Some(file)) = (&self.managed, &self.token_file) else { return Ok(()) };
        let token = Secret::from_file(file).map_err(anyhow::Error::msg)?;
        let channel = self.channel.borrow().clone();
        let signed = join::join(channel, &token, &self.node_id).await?;
        managed.write(&signed).with_context(|| format!("writing to {}", managed.directory.display()))?;
        let tls = Arc::new(tls::client(&managed.authorities, Some(&managed.own))?);
        self.move_over(&tls);
        self.tls = Some(tls);
        tracing::info!(node = self.node_id, "joined");
        Ok(())
    }

    async fn renew(&self) -> bool {
        let Some(managed) = &self.managed else { return true };
        let channel = self.channel.borrow().clone();
        let renewed = match join::renew(channel).await {
            Ok(signed) => managed.write(&signed).map_err(anyhow::Error::from),
            Err(error) => Err(error.into()),
        };
        match renewed {
            Ok(()) => {
                tracing::info!("certificate renewed");
                true
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "certificate not renewed; will retry");
                false
            }
        }
    }
}

fn has_run_out(tls: &Watched<ClientTls>) -> bool {
    tls.get().own.as_ref().is_some_and(|own| own.not_after < SystemTime::now())
}
