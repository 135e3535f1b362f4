//! Wiring: from a configuration to running tasks, and their end.

use std::{collections::HashMap, fs, io, time::Duration};

use anyhow::{Context, Result};
use sockpilot_policy::layout::Counter;
use tokio::{
    net::TcpListener,
    runtime,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{args::Config, inspect::Inspector, privileges, walks::Walks};
use crate::{
    clock::Moment,
    disk::{StateDir, state_dir},
    facts,
    keeper::{self, Keeper},
    kernel::{self, Draining, Found, Kernel, KernelError, Neighbour, Stamps, TrialSocket, Walker, neighbours},
    link::{
        credentials::{Credentials, Place},
        reporter::Reporter,
        stream::{Identity, Stream},
    },
    metrics::Metrics,
    records::{
        collector::{Collector, Tables},
        earlier::EarlierTables,
    },
    snapshot::{stored::Snapshots, trips::Trips},
};

/// Runs until a signal ends it.
///
/// # Errors
/// Whatever keeps the daemon from starting.
pub fn run(config: Config) -> Result<()> {
    if let Some(pid) = config.explain_pid {
        return inspect(&config, pid);
    }
    privileges::begin(config.namespaces, Kernel::needs_mount(&config.kernel))?;
    let state = StateDir::open_with(&config.state_dir, &config.kernel.pin_dir, &config.run_dir)?;
    if config.detach {
        return detach(&config, &state);
    }
    let facts = facts::read().context("cannot find out what this kernel can do")?;
    tracing::info!(?facts, node_id = config.node_id, cgroup = %config.kernel.cgroup.display(), "starting");
    let (mut kernel, found) = Kernel::open(&config.kernel).context("cannot set up the kernel side")?;
    let all_before =
        kernel.record_unmatched(config.record_unmatched_bp).context("cannot say which connections are recorded")?;
    tracing::info!(?found, pins = %config.kernel.pin_dir.display(), "kernel side open");
    for Draining { number, layout, open, .. } in kernel.earlier().context("cannot look at earlier kernel sides")? {
        tracing::info!(number, layout, open, "earlier kernel side serves its connections to their end");
    }
    name_neighbours(&config);
    let mut collector = open_collector(&config, &state, &mut kernel, found)?;
    if all_before {
        // The daemon before was asked for them.
        collector.samples.begin_all_shown(0);
        collector.samples.end_all_shown(Moment::now().context("no clock")?.monotonic_ns);
    }
    tracing::info!(boot_id = collector.boot_id(), position = collector.position(), "aggregation open");
    let instance = kernel.instance().context("cannot tell these kernel tables from others")?;
    let metrics = Metrics::new();
    let long_flows = long_flows(&config).context("cannot set up the records of long flows")?;
    let adjuster = Walker::adjuster(&config.kernel).context("cannot set up rules for open connections")?;
    let adjuster = adjuster.map(|walker| walker.reaching(config.namespaces));
    let trial_socket = trial_socket(&config);
    // From here on nothing is loaded any more, and there is no other thread yet.
    let held = privileges::settle(config.namespaces, || kernel.in_force().is_ok())?;
    metrics.set_capabilities(&held);
    let mut keeper = Keeper::new(kernel, facts, collector, (Snapshots::of(&state), Trips::of(&state)), metrics.clone())
        .handing_over_within(config.handover_limit);
    if let Some(socket) = trial_socket {
        keeper = keeper.trying(socket);
    }
    keeper.resume().context("cannot find out what is in force")?;

    // The keeper's work blocks, and has this thread for itself; everything else waits most of the time.
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let result = runtime.block_on(async {
        let (handle, ends) = keeper::channel();
        let stop = CancellationToken::new();
        end_on_signals(&stop)?;
        let _traces = config.traces.clone().begin("sockpilot-node").context("spans cannot be sent")?;
        if let Some(address) = config.metrics_listen {
            let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
            tracing::info!(address = %listener.local_addr()?, "metrics");
            tokio::spawn(metrics.clone().serve(listener, stop.clone()));
        }
        let place = Place {
            server: &config.server,
            tls: config.tls.as_ref(),
            node_id: &config.node_id,
            state_dir: &config.state_dir,
        };
        let (credentials, mut access) =
            Credentials::open(&place, handle.commands.downgrade()).context("TLS cannot be spoken")?;
        let channel = access.channel.clone();
        let (connected, watched) = watch::channel(false);
        let reporter = Reporter {
            channel: channel.clone(),
            keeper: handle.clone(),
            connected: watched,
            every: config.report_interval,
            metrics: metrics.clone(),
        };
        let identity = Identity { node_id: config.node_id.clone(), labels: config.labels.clone(), instance };
        let (asked, commands) = (handle.asked_open.clone(), handle.commands.downgrade());
        let stream = Stream { channel, identity, keeper: handle, connected, metrics: metrics.clone() };
        let mut tasks = JoinSet::new();
        let stopped = stop.clone();
        tasks.spawn(async move {
            if access.ready(&stopped).await {
                tokio::join!(stream.run(stopped.clone()), reporter.run(stopped));
            }
        });
        tasks.spawn(credentials.run(stop.clone()));
        if let Some((walker, every)) = long_flows {
            tasks.spawn(Walks::new(walker, metrics.clone()).long_flows(every, commands, stop.clone()));
        }
        match adjuster {
            Some(walker) => {
                tasks.spawn(Walks::new(walker, metrics).adjust(asked, stop.clone()));
            }
            None => tracing::warn!("socket structures unknown; rules apply to new connections only"),
        }
        // One without the other is no daemon: whoever supervises it shall start it anew.
        let sound = tokio::spawn(async move {
            let mut sound = true;
            while let Some(ended) = tasks.join_next().await {
                sound &= ended.is_ok();
                stop.cancel();
            }
            sound
        });
        // Ends when stream and reporter have ended.
        keeper.run(ends).await;
        anyhow::ensure!(sound.await?, "a task of the daemon panicked");
        Ok(())
    });
    runtime.shutdown_background();
    result
}

/// Says who else acts on the same connections: what they answer or set may win over policies.
fn name_neighbours(config: &Config) {
    match neighbours(&config.kernel) {
        Ok(others) => {
            for Neighbour { cgroup, id, name } in others {
                let cgroup = cgroup.display();
                tracing::info!(%cgroup, id, name, "neighbour sock_ops program");
            }
        }
        Err(error) => tracing::warn!(error = %anyhow::Error::from(error), "cannot list neighbour programs"),
    }
}

/// Nothing if values cannot be tried here; a node is as good without.
fn trial_socket(config: &Config) -> Option<TrialSocket> {
    let why = match TrialSocket::open(&config.kernel) {
        Ok(Some(socket)) => return Some(socket),
        Ok(None) => "its sockets look unfamiliar".to_owned(),
        Err(error) => format!("{:#}", anyhow::Error::from(error)),
    };
    tracing::warn!(why, "no value trials on this kernel; effective values computed");
    None
}

/// Nothing if they are not wanted, or cannot be on this kernel.
fn long_flows(config: &Config) -> Result<Option<(Walker, Duration)>, KernelError> {
    let Some(every) = config.long_flow_interval else { return Ok(None) };
    let Some(walker) = Walker::long_flows(&config.kernel, every)? else {
        tracing::warn!("socket structures unknown; open connections not reported");
        return Ok(None);
    };
    Ok(Some((walker.reaching(config.namespaces), every)))
}

/// Takes everything out of the kernel; what was not read yet is read before, and reported when a daemon runs here again.
fn detach(config: &Config, state: &StateDir) -> Result<()> {
    let drained = Kernel::open_to_end(&config.kernel).map_err(anyhow::Error::from).and_then(|kernel| {
        let Some(mut kernel) = kernel else { return Ok(()) };
        let collector = open_collector(config, state, &mut kernel, Found::Adopted)?;
        let facts = facts::read()?;
        let mut keeper =
            Keeper::new(kernel, facts, collector, (Snapshots::of(state), Trips::of(state)), Metrics::new());
        keeper.drain();
        keeper.withdraw()?;
        // With nothing in force, what was set on open connections is restored.
        let adjuster = Walker::adjuster(&config.kernel)?.map(|adjuster| adjuster.reaching(config.namespaces));
        adjuster.map(|adjuster| adjuster.walk_all()).transpose()?;
        Ok(())
    });
    if let Err(error) = drained {
        tracing::warn!("cannot read the last flow records: {error:#}");
    }
    Kernel::detach(&config.kernel).context("cannot take everything out of the kernel")?;
    // The root of all pins goes with the last node's; while there is another's, it cannot.
    if let Some(root) = config.kernel.pin_dir.parent() {
        let _ = fs::remove_dir(root);
    }
    tracing::info!(pins = %config.kernel.pin_dir.display(), "detached");
    Ok(())
}

/// Says what the connections of a process have, without touching what the daemon owns.
fn inspect(config: &Config, pid: u32) -> Result<()> {
    let inspector = Inspector {
        stamps: Stamps::open(&config.kernel).context("no daemon has put anything in force under this node's name")?,
        attributions: &state_dir::attributions(&config.state_dir),
        tables: &kernel::tables_identity(&config.kernel).context("cannot tell these kernel tables from others")?,
    };
    print!("{}", inspector.process(pid)?);
    Ok(())
}

fn open_collector(config: &Config, state: &StateDir, kernel: &mut Kernel, found: Found) -> Result<Collector> {
    let counters = kernel.counters().context("cannot read the kernel's counters")?;
    let dropped: HashMap<_, _> = kernel.earlier()?.into_iter().map(|side| (side.identity, side.dropped)).collect();
    let earlier = kernel.all_records().skip(1).map(|records| {
        let (identity, position) = (records.identity().to_owned(), records.position());
        let dropped = dropped.get(&identity).copied().unwrap_or_default();
        EarlierTables { identity, position, dropped }
    });
    let earlier: Vec<_> = earlier.collect();
    let tables = Tables {
        identity: kernel.identity(),
        made: matches!(found, Found::Made | Found::Beside),
        position: kernel.ring_position(),
        dropped: counters[Counter::RecordsDropped as usize],
        earlier: &earlier,
    };
    let directories = (state.journals(), state.attributions());
    let (node_id, interval_s) = (config.node_id.clone(), config.cell_interval_s);
    let recorded_bp = config.record_unmatched_bp;
    let collector = Collector::open(directories, tables, Uuid::now_v7().to_string(), node_id, interval_s, recorded_bp)
        .context("cannot open the aggregations in the state directory")?;
    Ok(collector.reporting_as(kernel.instance().context("cannot tell these kernel tables from others")?))
}

fn end_on_signals(stop: &CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("signal to end");
        stop.cancel();
    });
    Ok(())
}
