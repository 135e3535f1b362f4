//! The server as a whole: started, running, drained.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    embedded::{Embedded, EmbeddedError},
    fanout::Fanout,
    grpc::{self, Api},
    janitor, memory,
    metrics::Metrics,
    recorder::Recorder,
    refresh::{Refresh, adopt},
    store::{self, Store, address::Address},
};

/// How long a database may be away when the server starts.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How long calls may take to end when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// As in `DATABASE_URL`.
    At(Address),
    /// A private one, with its data below this directory.
    Embedded {
        /// The server's state directory.
        state_dir: PathBuf,
    },
}

/// What a server is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen for gRPC. Port 0: any free one, see [`Running::address`].
    pub listen: SocketAddr,
    /// Where to listen for Prometheus; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// The database.
    pub database: Database,
    /// Lease of canary and experiment layers.
    pub lease: Duration,
    /// How often to look for changes without being told.
    pub poll: Duration,
    /// How often a node hears of the server.
    pub heartbeat: Duration,
    /// How many flow samples are kept.
    pub samples_max: u32,
}

impl Config {
    /// The defaults, on any free port of the loopback address, without metrics.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            metrics_listen: None,
            database,
            lease: Duration::from_secs(600),
            poll: Duration::from_secs(2),
            heartbeat: Duration::from_secs(5),
            samples_max: 100_000,
        }
    }
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No private Postgres.
    #[error("there is no private Postgres")]
    Embedded(#[source] EmbeddedError),
    /// No database.
    #[error("the database cannot be used")]
    Store(#[source] store::Error),
    /// No port.
    #[error("{address} cannot be listened on")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended by itself.
    #[error("serving failed: {0}")]
    Serve(String),
}

/// A server that runs.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    metrics: Metrics,
    store: Store,
    fanout: Arc<Fanout>,
    recorder: Arc<Recorder>,
    drain: CancellationToken,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), String>>,
    tasks: Vec<JoinHandle<()>>,
    embedded: Option<Embedded>,
}

/// Runs a server until `shutdown`, then drains it: streams end with UNAVAILABLE, calls are answered, what nodes said is
/// written.
///
/// # Errors
/// If it cannot start, or ends by itself.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
    let mut running = start(config).await?;
    let result = tokio::select! {
        () = shutdown => Ok(()),
        ended = &mut running.serving => Err(StartError::Serve(match ended {
            Ok(Ok(())) => "it ended".to_owned(),
            Ok(Err(error)) => error,
            Err(error) => error.to_string(),
        })),
    };
    running.stop().await;
    result
}

/// Starts a server.
///
/// # Errors
/// If there is no database or no port.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let Config { listen, metrics_listen, database, lease, poll, heartbeat, samples_max } = config;
    let (listener, address) = bind(listen).await?;
    let metrics_listener = match metrics_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let embedded = match &database {
        Database::At(_) => None,
        Database::Embedded { state_dir } => {
            tracing::info!(state_dir = %state_dir.display(), "no DATABASE_URL: using a private Postgres");
            Some(Embedded::start(state_dir, &[]).await.map_err(StartError::Embedded)?)
        }
    };
    let at = match (&embedded, database) {
        (Some(embedded), _) => embedded.address(),
        (None, Database::At(address)) => address,
        (None, Database::Embedded { .. }) => return Err(StartError::Serve("there is no database".to_owned())),
    };
    let metrics = Metrics::new();
    let store = Store::new(at.candidates().map_err(StartError::Store)?, metrics.clone());
    let clock = ready(&store, lease).await.map_err(StartError::Store)?;

    let fanout = Arc::new(Fanout::new(metrics.clone()));
    let recorder = Arc::new(Recorder::default());
    let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
    let (database_up, up) = watch::channel(false);
    let refresh = Refresh {
        store: store.clone(),
        fanout: fanout.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        lease,
        poll,
        database_up,
    };
    let api =
        Api::new(store.clone(), fanout.clone(), recorder.clone(), clock, metrics.clone(), heartbeat, drain.clone());
    let prune = api.prune.clone();
    let mut tasks = vec![
        tokio::spawn(refresh.run(stop.clone())),
        tokio::spawn(janitor::run(store.clone(), metrics.clone(), samples_max, prune, stop.clone())),
        tokio::spawn(memory::run(stop.clone())),
        tokio::spawn({
            let (recorder, store, fanout, stop) = (recorder.clone(), store.clone(), fanout.clone(), stop.clone());
            async move { recorder.run(&store, &fanout, heartbeat, stop).await }
        }),
    ];
    let metrics_address = metrics_listener.as_ref().map(|(_, address)| *address);
    if let Some((listener, _)) = metrics_listener {
        let (metrics, stop) = (metrics.clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            if let Err(error) = metrics.serve(listener, stop).await {
                tracing::error!(%error, "metrics are not served any more");
            }
        }));
    }
    let serving = tokio::spawn(async move { grpc::serve(api, listener, up).await.map_err(|error| error.to_string()) });
    tracing::info!(%address, metrics = metrics_address.map(tracing::field::display), "serving");
    Ok(Running { address, metrics_address, metrics, store, fanout, recorder, drain, stop, serving, tasks, embedded })
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
            adopt(store, lease).await
        };
        match result.await {
            Err(error) => match error.fault() {
                Some(why) => return Err(store::Error::Setting { why }),
                None if error.is_unavailable() && Instant::now() < deadline => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the database is away; trying again");
                    sleep(RETRY_AFTER).await;
                }
                None => return Err(error),
            },
            Ok(time) => return Ok(Clock::new(std::time::Instant::now(), time)),
        }
    }
}

impl Running {
    /// Where gRPC is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where Prometheus is served.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The database.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The private Postgres, if there is one.
    #[must_use]
    pub fn embedded(&self) -> Option<&Embedded> {
        self.embedded.as_ref()
    }

    /// Drains and stops the server.
    pub async fn stop(self) {
        let Self { store, fanout, recorder, drain, stop, mut serving, tasks, embedded, .. } = self;
        tracing::info!("draining");
        drain.cancel();
        // Polling a task that has ended already would panic.
        if !serving.is_finished() && timeout(DRAIN_TIMEOUT, &mut serving).await.is_err() {
            tracing::warn!("calls are still open after {} s; leaving them", DRAIN_TIMEOUT.as_secs());
            serving.abort();
        }
        stop.cancel();
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task panicked");
            }
        }
        match timeout(LAST_WRITE_TIMEOUT, recorder.write(&store, &fanout)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "what nodes said last is not written")
            }
            Err(_) => tracing::warn!("what nodes said last is not written: the database does not answer"),
        }
        store.close().await;
        if let Some(embedded) = embedded
            && tokio::task::spawn_blocking(|| embedded.stop()).await.is_err()
        {
            tracing::error!("stopping the private Postgres panicked");
        }
        tracing::info!("stopped");
    }
}
