//! A control plane made of nothing: it sends a node exactly what a test says, and remembers what the node says.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use sockpilot_outcomes::{Content, Sums};
use sockpilot_proto::{
    cell::{cell_from_proto, sums_to_proto},
    v1::{
        self,
        node_event::Event,
        node_service_server::{NodeService, NodeServiceServer},
        server_event,
    },
};
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc};
use tokio_stream::{Stream, StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming, transport::server::TcpIncoming};

use crate::{
    documents,
    wait::{check_interrupted, eventually},
};

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
const HEARTBEAT: Duration = Duration::from_millis(500);
const EPOCH: &str = "6b6f6e74-726f-4c6c-8000-000000000001";

type Outgoing = mpsc::UnboundedSender<Result<v1::ServerEvent, Status>>;

#[derive(Debug, Default)]
struct State {
    hellos: Vec<v1::Hello>,
    acks: Vec<v1::Ack>,
    nacks: Vec<v1::Nack>,
    reports: Vec<v1::FlowReport>,
    current: Option<v1::Snapshot>,
    outgoing: Option<Outgoing>,
    generation: u64,
    refuse_reports: bool,
    lose_receipts: bool,
    silent: bool,
}

/// The control plane; it ends with the guard.
#[derive(Debug)]
pub struct Control {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Control {
    /// Listens on a free port of the loopback.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.context("starting a runtime")?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).context("listening")?;
        let address = listener.local_addr().context("asking for the port")?;
        let state = Arc::new(Mutex::new(State::default()));
        let service = NodeServiceServer::new(Service(Arc::clone(&state))).max_decoding_message_size(64 << 20);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        Ok(Self { state, address, runtime: Some(runtime) })
    }

    /// What a daemon is given as its server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends a new generation and waits until the node has confirmed it.
    ///
    /// # Errors
    /// If it does not, or refuses.
    pub fn enforce(&self, layers: Vec<v1::Layer>) -> Result<v1::Ack> {
        let version = self.send_next(layers)?;
        self.wait_for_ack(&version)
    }

    /// Sends a new generation; says which.
    ///
    /// # Errors
    /// If no node connects.
    pub fn send_next(&self, layers: Vec<v1::Layer>) -> Result<v1::SnapshotVersion> {
        let generation = {
            let mut state = self.state();
            state.generation += 1;
            state.generation
        };
        self.send(documents::snapshot(EPOCH, generation, layers))
    }

    /// Sends any snapshot, sound or not, and keeps it for nodes that connect later.
    ///
    /// # Errors
    /// If no node connects.
    pub fn send(&self, snapshot: v1::Snapshot) -> Result<v1::SnapshotVersion> {
        let version = snapshot.version.clone().context("a snapshot without a version")?;
        self.state().current = Some(snapshot.clone());
        eventually("a node connects", PATIENCE, || {
            let outgoing = self.state().outgoing.clone().context("none has")?;
            outgoing.send(Ok(event(snapshot.clone()))).ok().context("the stream has ended")
        })?;
        Ok(version)
    }

    /// Waits for the confirmation of a version.
    ///
    /// # Errors
    /// If it does not come, or a refusal comes.
    pub fn wait_for_ack(&self, version: &v1::SnapshotVersion) -> Result<v1::Ack> {
        eventually(&format!("the confirmation of generation {}", version.generation), PATIENCE, || {
            let state = self.state();
            if let Some(ack) = state.acks.iter().rfind(|ack| ack.version.as_ref() == Some(version)) {
                return Ok(Ok(ack.clone()));
            }
            let refusal = state.nacks.iter().rfind(|nack| nack.version.as_ref() == Some(version));
            refusal.map(|nack| Err(nack.clone())).context("nothing")
        })?
        .map_err(|nack| anyhow::anyhow!("refused: {:?}", nack.violations))
    }

    /// Waits for the refusal of a version.
    ///
    /// # Errors
    /// If it does not come, or a confirmation comes.
    pub fn wait_for_nack(&self, version: &v1::SnapshotVersion) -> Result<v1::Nack> {
        eventually(&format!("the refusal of generation {}", version.generation), PATIENCE, || {
            let state = self.state();
            if state.acks.iter().any(|ack| ack.version.as_ref() == Some(version)) {
                return Ok(None);
            }
            let refusal = state.nacks.iter().rfind(|nack| nack.version.as_ref() == Some(version));
            refusal.map(|nack| Some(nack.clone())).context("nothing")
        })?
        .context("it was confirmed")
    }

    /// Everything the node said when it connected, each time.
    #[must_use]
    pub fn hellos(&self) -> Vec<v1::Hello> {
        self.state().hellos.clone()
    }

    /// All confirmations so far.
    #[must_use]
    pub fn acks(&self) -> Vec<v1::Ack> {
        self.state().acks.clone()
    }

    /// All refusals so far.
    #[must_use]
    pub fn nacks(&self) -> Vec<v1::Nack> {
        self.state().nacks.clone()
    }

    /// All reports that were taken.
    #[must_use]
    pub fn reports(&self) -> Vec<v1::FlowReport> {
        self.state().reports.clone()
    }

    /// From now on answers reports with UNAVAILABLE, or takes them again.
    pub fn refuse_reports(&self, refuse: bool) {
        self.state().refuse_reports = refuse;
    }

    /// From now on takes reports but answers as if it had not, as when the connection breaks after the commit.
    pub fn lose_receipts(&self, lose: bool) {
        self.state().lose_receipts = lose;
    }

    /// From now on sends nothing by itself and takes no streams, as if it were cut off; or comes back.
    pub fn cut_off(&self, silent: bool) {
        let mut state = self.state();
        state.silent = silent;
        if silent && let Some(outgoing) = state.outgoing.take() {
            let _ = outgoing.send(Err(Status::unavailable("cut off by the test")));
        }
    }

    /// The newest totals of all cells of a layer.
    #[must_use]
    pub fn cells(&self, layer: &str) -> Vec<v1::FlowCell> {
        let mut newest = BTreeMap::new();
        for report in &self.state().reports {
            for cell in report.cells.iter().filter(|cell| cell.layer == layer) {
                let key = (
                    (report.boot_id.clone(), cell.interval_start_s, cell.interval_length_s),
                    (cell.revision, cell.choice.clone(), cell.direction, cell.size_class),
                );
                newest.insert(key, cell.clone());
            }
        }
        newest.into_values().collect()
    }

    /// Flows of a layer so far, by choice.
    #[must_use]
    pub fn flows(&self, layer: &str) -> BTreeMap<String, u64> {
        let mut flows = BTreeMap::new();
        for cell in self.cells(layer) {
            *flows.entry(cell.choice).or_default() += cell.counts.map_or(0, |counts| counts.flows);
        }
        flows
    }

    /// The counts of all cells of a layer together.
    #[must_use]
    pub fn counts(&self, layer: &str) -> v1::FlowCounts {
        let mut sums = Sums::default();
        for cell in self.cells(layer) {
            if let Ok((_, Content::Flows(of_cell))) = cell_from_proto(&cell) {
                sums.merge(&of_cell);
            }
        }
        sums_to_proto(&sums).counts.unwrap_or_default()
    }

    /// Waits until a layer's cells hold this many flows.
    ///
    /// # Errors
    /// If they do not, or hold more.
    pub fn wait_for_flows(&self, layer: &str, expected: u64) -> Result<()> {
        eventually(&format!("{expected} flows of {layer}"), PATIENCE, || {
            let flows = self.flows(layer).values().sum::<u64>();
            if flows != expected {
                bail!("there are {flows}");
            }
            check_interrupted()
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn event(snapshot: v1::Snapshot) -> v1::ServerEvent {
    v1::ServerEvent { event: Some(server_event::Event::Snapshot(snapshot)) }
}

struct Service(Arc<Mutex<State>>);

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl NodeService for Service {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<v1::ServerEvent, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::NodeEvent>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        {
            let mut state = self.state();
            if state.silent {
                return Err(Status::unavailable("cut off by the test"));
            }
            if let Some(snapshot) = state.current.clone() {
                let _ = sender.send(Ok(event(snapshot)));
            }
            state.outgoing = Some(sender.clone());
        }
        tokio::spawn(beat(sender));
        let state = Arc::clone(&self.0);
        tokio::spawn(remember(state, request.into_inner()));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }

    async fn report_flows(&self, request: Request<v1::FlowReport>) -> Result<Response<v1::FlowReportReceipt>, Status> {
        let mut state = self.state();
        if state.refuse_reports || state.silent {
            return Err(Status::unavailable("refused by the test"));
        }
        let report = request.into_inner();
        let sequence = report.sequence;
        state.reports.push(report);
        if state.lose_receipts {
            return Err(Status::unavailable("the receipt was lost by the test"));
        }
        Ok(Response::new(v1::FlowReportReceipt { sequence, ..v1::FlowReportReceipt::default() }))
    }
}

async fn beat(sender: Outgoing) {
    let beat = v1::ServerEvent { event: Some(server_event::Event::Heartbeat(v1::Heartbeat::default())) };
    while sender.send(Ok(beat.clone())).is_ok() {
        tokio::time::sleep(HEARTBEAT).await;
    }
}

async fn remember(state: Arc<Mutex<State>>, mut events: Streaming<v1::NodeEvent>) {
    while let Some(Ok(event)) = events.next().await {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        match event.event {
            Some(Event::Hello(hello)) => state.hellos.push(hello),
            Some(Event::Ack(ack)) => state.acks.push(ack),
            Some(Event::Nack(nack)) => state.nacks.push(nack),
            Some(Event::Alive(_)) | None => {}
        }
    }
}
