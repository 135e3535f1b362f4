//! The server as a whole: started, running, drained.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use sockpilot_identity::{
    files::{FileError, Watched},
    tls::ServerTls,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::config::{Config, Database, Tls};
use crate::{
    auth::{
        gate::{Gate, Rules},
        oidc::Oidc,
    },
    clock::Clock,
    experiment::watch::Verdicts,
    fleet::{
        fanout::Fanout,
        heartbeats::Heartbeats,
        recorder::{Record, Recorder},
        recording_refresh::RefreshRecordings,
        refresh::{Refresh, adopt},
    },
    grpc::{self, Api, Entrance, Parts, Serves, door::Door, handshakes::Handshakes, join::Signer},
    metrics::Metrics,
    outcome::{retention::Retention, roll_up::RollUp},
    process::embedded::{Embedded, EmbeddedError},
    rollout::controller::Rollouts,
    store::{self, Settled, Store, leader, server},
    task::{Board, Death, Leadership, Runner, Supervisor, janitor::Janitor, presence::Presence, reload::Reload},
};

/// Where nodes come in, if nothing else is said and TLS is spoken.
pub(super) const NODE_PORT: u16 = 7462;
/// How long a database may be away when the server starts.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How long calls may take to end when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No private Postgres.
    #[error("there is no private Postgres")]
    Embedded(#[source] EmbeddedError),
    /// No database.
    #[error("the database cannot be used")]
    Store(#[source] store::Error),
    /// Everyone could do everything.
    #[error(
        "{address} is not of this machine alone, and without TLS everyone who reaches it can change every node; give --tls-ca, --tls-cert and \
         --tls-key (`sockpilot pki init` and `sockpilot pki server` make them), or listen on 127.0.0.1, or say --insecure-listen"
    )]
    Insecure { address: SocketAddr },
    /// A file of certificates or keys.
    #[error("TLS cannot be spoken")]
    Tls(#[source] FileError),
    /// No threads for it.
    #[error("there can be no threads for TLS")]
    Threads(#[source] io::Error),
    /// No port.
    #[error("{address} cannot be listened on")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// There is no database to use.
    #[error("there is no database")]
    NoDatabase,
    /// Something that must not end while the server runs has ended: the server cannot be trusted any more, and ends.
    #[error("the server ends")]
    Died(#[source] Death),
}

/// A server that runs.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    node_address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    metrics: Metrics,
    store: Store,
    fanout: Arc<Fanout>,
    recorder: Arc<Recorder>,
    drain: CancellationToken,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), String>>,
    tasks: Supervisor,
    server_id: Uuid,
    embedded: Option<Embedded>,
}

/// Runs a server until `shutdown` or until a task of it dies, then drains it: streams end with UNAVAILABLE, calls are answered, what
/// nodes said is written.
///
/// # Errors
/// If it cannot start, or ends by itself.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
    let mut running = start(config).await?;
    let result = tokio::select! {
        () = shutdown => Ok(()),
        death = running.death() => {
            tracing::error!(task = death.task, why = death.why, "task died, draining");
            Err(StartError::Died(death))
        }
    };
    running.stop().await;
    result
}

/// Starts a server.
///
/// # Errors
/// If there is no database or no port.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let Config {
        listen,
        node_listen,
        tls,
        insecure,
        door_limits,
        call_limits,
        pinned,
        limits,
        oidc,
        metrics_listen,
        database,
        lease,
        poll,
        heartbeat,
        samples_max,
        recorded_max,
        forget_nodes_after,
        outcomes,
        leader_lease,
        #[cfg(any(test, feature = "test-support"))]
        faults,
    } = config;
    // Of TLS and ports before anything that takes long.
    let (tls, domain, signer) = match tls {
        Some(tls) => open_tls(tls).map_err(StartError::Tls)?,
        None => (None, None, None),
    };
    let oidc = oidc.map(Oidc::open).transpose().map_err(StartError::Tls)?;
    if tls.is_none() && !insecure {
        refuse_reachable([Some(listen), node_listen])?;
    }
    let node_listen = node_listen.or_else(|| tls.as_ref().map(|_| SocketAddr::new(listen.ip(), NODE_PORT)));
    let (listener, address) = bind(listen).await?;
    let node_listener = match node_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let node_address = node_listener.as_ref().map_or(address, |(_, address)| *address);
    let metrics_listener = match metrics_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let embedded = match &database {
        Database::At(_) => None,
        Database::Embedded { state_dir } => {
            tracing::info!(state_dir = %state_dir.display(), "private Postgres in use, no DATABASE_URL");
            Some(Embedded::start(state_dir, &[]).await.map_err(StartError::Embedded)?)
        }
    };
    let at = match (&embedded, database) {
        (Some(embedded), _) => embedded.address(),
        (None, Database::At(address)) => address,
        (None, Database::Embedded { .. }) => return Err(StartError::NoDatabase),
    };
    let metrics = Metrics::new();
    let store = Store::new(at.candidates().map_err(StartError::Store)?, metrics.clone());
    let clock = ready(&store, lease).await.map_err(StartError::Store)?;
    let kept = store.keeps_audit().await.map_err(StartError::Store)?;
    metrics.audit_kept.set(kept.into());
    if !kept {
        tracing::warn!(
            remedy = "run `sockpilot-server --migrate-for ROLE` as this role, and the server as ROLE",
            "the server's role in the database can change the audit log"
        );
    }

    let fanout = Arc::new(Fanout::new(metrics.clone()));
    let recorder = Arc::new(Recorder::default());
    let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
    let (database_up, up) = watch::channel(false);
    let gate = Arc::new(Gate::new(Rules { domain, pinned, limits }, oidc));
    let server_id = Uuid::now_v7();
    let api = Api::new(Parts {
        server_id,
        store: store.clone(),
        fanout: fanout.clone(),
        recorder: recorder.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        drain: drain.clone(),
        gate: gate.clone(),
        signer,
        limits: call_limits,
    });
    let handshakes = tls.clone().map(Handshakes::start).transpose().map_err(StartError::Threads)?.map(Arc::new);
    // Before the first caller comes in.
    api.access.look().await.map_err(StartError::Store)?;

    let mut tasks = Supervisor::default();
    let runner = Runner {
        board: Board::new(metrics.clone()),
        stop: stop.clone(),
        #[cfg(any(test, feature = "test-support"))]
        faults,
    };
    let leadership = Leadership::new(store.clone(), server_id, leader_lease);
    let janitor = Janitor {
        store: store.clone(),
        metrics: metrics.clone(),
        samples_max,
        recorded_max,
        forget_nodes_after,
        prune: api.prune.clone(),
    };
    runner.start(&mut tasks, leadership.led(janitor));
    runner.start(&mut tasks, leadership.led(RollUp { store: store.clone() }));
    let verdicts = Verdicts { store: store.clone(), fanout: fanout.clone(), metrics: metrics.clone() };
    runner.start(&mut tasks, leadership.led(verdicts));
    let rollouts = Rollouts { store: store.clone(), fanout: fanout.clone(), metrics: metrics.clone() };
    runner.start(&mut tasks, leadership.led(rollouts));
    let retention = Retention { store: store.clone(), limits: outcomes, metrics: metrics.clone() };
    runner.start(&mut tasks, leadership.led(retention));
    runner.start(&mut tasks, leadership);
    runner.start(
        &mut tasks,
        Refresh::new(store.clone(), fanout.clone(), clock, metrics.clone(), lease, poll, database_up),
    );
    let (recordings, asked) = (api.recordings.clone(), api.record.clone());
    let recordings = RefreshRecordings { store: store.clone(), recordings, metrics: metrics.clone(), asked };
    runner.start(&mut tasks, recordings);
    let (record, looked) = (recorder.clone(), std::time::Instant::now());
    let record = Record { recorder: record, store: store.clone(), fanout: fanout.clone(), period: heartbeat, looked };
    runner.start(&mut tasks, record);
    runner.start(&mut tasks, Heartbeats::new(fanout.clone(), heartbeat));
    runner.start(&mut tasks, api.access.clone());
    if let Some(tls) = tls.clone() {
        runner.start(&mut tasks, Reload { tls, gate: gate.clone(), metrics: metrics.clone() });
    }
    runner.start(&mut tasks, Presence::new(store.clone(), runner.board.clone(), server_id, address));
    let metrics_address = metrics_listener.as_ref().map(|(_, address)| *address);
    if let Some((listener, _)) = metrics_listener {
        let serve = metrics.clone().serve(listener, stop.clone());
        tasks.spawn("metrics", async move {
            if let Err(error) = serve.await {
                tracing::error!(%error, "metrics no longer served");
            }
        });
    }
    let door = |name| Door {
        name,
        tls: handshakes.clone(),
        limits: door_limits.clone(),
        connections: gate.connections.clone(),
        metrics: metrics.clone(),
    };
    let serves = |only| if tls.is_some() { only } else { Serves::All };
    let mut entrances = vec![Entrance { door: door("people"), listener, serves: serves(Serves::People) }];
    if let Some((listener, _)) = node_listener {
        entrances.push(Entrance { door: door("nodes"), listener, serves: serves(Serves::Nodes) });
    }
    let serving = tokio::spawn(async move { grpc::serve(api, entrances, up).await.map_err(|error| error.to_string()) });
    let secured = tls.is_some();
    tracing::info!(%address, %node_address, tls = secured, metrics = metrics_address.map(tracing::field::display), "serving");
    Ok(Running {
        address,
        node_address,
        metrics_address,
        metrics,
        store,
        fanout,
        recorder,
        drain,
        stop,
        serving,
        tasks,
        server_id,
        embedded,
    })
}

/// Whoever reaches a port without TLS can do everything.
pub(super) fn refuse_reachable(listens: [Option<SocketAddr>; 2]) -> Result<(), StartError> {
    let reachable = listens.into_iter().flatten().find(|address| !address.ip().is_loopback());
    reachable.map_or(Ok(()), |address| Err(StartError::Insecure { address }))
}

pub(super) type OpenTls = (Option<Arc<Watched<ServerTls>>>, Option<String>, Option<Arc<Signer>>);

pub(super) fn open_tls(tls: Tls) -> Result<OpenTls, FileError> {
    let Tls { authorities, own, oldest, domain, issuer_key, node_life } = tls;
    let server = sockpilot_identity::tls::server(&authorities, &own, oldest)?;
    let domain = domain.or_else(|| server.get().domain.clone());
    let signer = match (issuer_key, &domain) {
        (None, _) => None,
        (Some(_), None) => {
            let what = "no name spiffe://DOMAIN/server, so the names to sign are not known; say --trust-domain";
            return Err(FileError::content(&own.certificate, what));
        }
        (Some(key), Some(domain)) => Some(Arc::new(Signer::open(&authorities, &key, domain.clone(), node_life)?)),
    };
    Ok((Some(Arc::new(server)), domain, signer))
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    Ok((listener, bound))
}

/// Waits for the database, and makes it this server's. Answers with its clock.
async fn ready(store: &Store, lease: Duration) -> store::Result<Clock> {
    let deadline = Instant::now() + DATABASE_TIMEOUT;
    loop {
        let result = async {
            store.locate().await?;
            store.migrate().await?;
            adopt(store, lease, None).await.map(|(_, now)| now)
        };
        match result.await {
            Err(error) => match error.fault() {
                Some(why) => return Err(store::Error::Setting { why }),
                None if error.is_unavailable() && Instant::now() < deadline => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "database unavailable, trying again");
                    sleep(RETRY_AFTER).await;
                }
                None => return Err(error),
            },
            Ok(time) => return Ok(Clock::new(std::time::Instant::now(), time)),
        }
    }
}

impl Running {
    /// Where people are served; without TLS nodes, too.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where nodes are served.
    #[must_use]
    pub fn node_address(&self) -> SocketAddr {
        self.node_address
    }

    /// Where Prometheus is served.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The private Postgres, if there is one.
    #[must_use]
    pub fn embedded(&self) -> Option<&Embedded> {
        self.embedded.as_ref()
    }

    /// Waits until something ends that must not end while the server runs.
    pub async fn death(&mut self) -> Death {
        let Self { serving, tasks, .. } = self;
        tokio::select! {
            death = tasks.death() => death,
            ended = serving => Death {
                task: "grpc",
                why: match ended {
                    Ok(Ok(())) => "ended".to_owned(),
                    Ok(Err(error)) => error,
                    Err(error) => error.to_string(),
                },
            },
        }
    }

    /// Drains and stops the server.
    pub async fn stop(self) {
        let Self { store, fanout, recorder, drain, stop, mut serving, tasks, server_id, embedded, .. } = self;
        tracing::info!("draining");
        drain.cancel();
        fanout.drain();
        // Polling a task that has ended already would panic.
        if !serving.is_finished() && timeout(DRAIN_TIMEOUT, &mut serving).await.is_err() {
            tracing::warn!(after = ?DRAIN_TIMEOUT, "calls still open, aborted");
            serving.abort();
        }
        stop.cancel();
        if timeout(DRAIN_TIMEOUT, tasks.finish()).await.is_err() {
            tracing::warn!(after = ?DRAIN_TIMEOUT, "tasks still running, aborted");
        }
        match timeout(LAST_WRITE_TIMEOUT, recorder.write(&store)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "last node answers not written")
            }
            Err(_) => tracing::warn!(after = ?LAST_WRITE_TIMEOUT, "last node answers not written, database silent"),
        }
        match timeout(LAST_WRITE_TIMEOUT, take_leave(&store, server_id)).await {
            Ok(Ok(())) => {}
            // The others find out by themselves when the lease runs out.
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "lease and presence not given back")
            }
            Err(_) => tracing::warn!(after = ?LAST_WRITE_TIMEOUT, "lease and presence not given back, database silent"),
        }
        if timeout(LAST_WRITE_TIMEOUT, store.close()).await.is_err() {
            tracing::warn!(after = ?LAST_WRITE_TIMEOUT, "database connections still in use, abandoned");
        }
        if let Some(embedded) = embedded
            && tokio::task::spawn_blocking(|| embedded.stop()).await.is_err()
        {
            tracing::error!("private Postgres stop panicked");
        }
        tracing::info!("stopped");
    }
}

/// Leaves the lease to the other servers at once, and their list.
async fn take_leave(store: &Store, server_id: Uuid) -> store::Result<()> {
    store
        .transact("take leave", move |conn| {
            Box::pin(async move {
                leader::resign(&mut *conn, server_id).await?;
                Ok(Settled::Commit(server::retire(conn, server_id).await?))
            })
        })
        .await
}
