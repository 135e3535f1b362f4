//! `NodeService`, without the generated code for servers: messages are looked at before they are decoded, reports are decoded where no stream
//! waits, and streams have a body of their own.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture, stream::BoxStream};
use sockpilot_policy::fault::Faults;
use sockpilot_proto::{
    codec::{self, SmallBuffers, Undecoded},
    v1,
};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::Codec,
    metadata::GRPC_CONTENT_TYPE,
    server::{Grpc, NamedService},
};
use tower::{Service, service_fn};

use super::{
    Api,
    convert::flow_report,
    error::{invalid, of_store},
    frames::Frames,
    stream,
};
use crate::{
    auth::{caller::Caller, connections::Connection},
    fleet::pace,
    outcome::report::{Ingested, Report},
    store::{
        self, Settled,
        connection::PgConnection,
        flow::{self, Stored},
        holder, recording,
        sample::{self, Kept},
    },
};

/// By its path, a stream is told from all other calls.
pub const CONNECT: &str = "/sockpilot.v1.NodeService/Connect";
/// And a report.
pub const REPORT_FLOWS: &str = "/sockpilot.v1.NodeService/ReportFlows";

/// The service on the wire.
#[derive(Debug, Clone)]
pub struct Nodes {
    /// Each stream has it, and there are thousands.
    api: Arc<Api>,
}

impl Nodes {
    /// For these nodes.
    pub fn new(api: Api) -> Self {
        Self { api: Arc::new(api) }
    }

    async fn connect(self, request: http::Request<Body>) -> http::Response<Body> {
        let decoder = SmallBuffers::<v1::ServerEvent, v1::NodeEvent>::default().decoder();
        let bytes_max = Some(self.api.limits.node_message_bytes_max);
        let request = request.map(|body| Streaming::new_request(decoder, body, None, bytes_max));
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Nobody);
        let Some(connection) = request.extensions().get::<Arc<Connection>>().cloned() else {
            return Status::internal("a stream came in by no door").into_http();
        };
        let opened = stream::open(self.api, connection, &caller, request.into_body()).await;
        opened.map_or_else(Status::into_http, answer)
    }

    async fn report(self, request: http::Request<Body>) -> http::Response<Body> {
        let bytes_max = Some(self.api.limits.node_message_bytes_max);
        let report = service_fn(move |request| report_flows(self.api.clone(), request));
        Grpc::new(Undecoded::default()).apply_max_message_size_config(bytes_max, None).unary(report, request).await
    }
}

impl NamedService for Nodes {
    const NAME: &'static str = "sockpilot.v1.NodeService";
}

impl Service<http::Request<Body>> for Nodes {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        match request.uri().path() {
            CONNECT => this.connect(request).map(Ok).boxed(),
            REPORT_FLOWS => this.report(request).map(Ok).boxed(),
            _ => async { Ok(Status::unimplemented("there is no such method").into_http()) }.boxed(),
        }
    }
}

fn answer(messages: BoxStream<'static, Result<Bytes, Status>>) -> http::Response<Body> {
    let mut answer = http::Response::new(Body::new(Frames::new(messages)));
    answer.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    answer
}

/// What came of flows that were recorded on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Recorded {
    added: u64,
    /// By the node, or because nobody has asked it.
    left_out: u64,
}

async fn record(conn: &mut PgConnection, report: &Report) -> store::Result<Recorded> {
    let Report { node_id, recorded, recorded_left_out: left_out, .. } = report;
    if recorded.is_empty() {
        return Ok(Recorded { added: 0, left_out: *left_out });
    }
    if !recording::was_asked(&mut *conn, node_id).await? {
        return Ok(Recorded { added: 0, left_out: left_out.saturating_add(recorded.len() as u64) });
    }
    let added = sample::add(conn, Kept::OnRequest, node_id, recorded).await?;
    Ok(Recorded { added, left_out: *left_out })
}

/// What was taken in, how many samples of them, and how many recorded flows.
type Taken = (Ingested, u64, Recorded);

async fn take_in(api: &Api, report: &Arc<Report>, stored: Stored) -> store::Result<Taken> {
    let report = report.clone();
    let done = api.store.transact("report flows", move |conn| {
        let report = report.clone();
        Box::pin(async move {
            holder::check(&mut *conn, &report.node_id, &report.instance).await?;
            let ingested = flow::ingest(&mut *conn, &report, stored).await?;
            let samples = sample::add(&mut *conn, Kept::Sample, &report.node_id, &report.samples).await?;
            let recorded = record(conn, &report).await?;
            Ok(Settled::Commit((ingested, samples, recorded)))
        })
    });
    done.await
}

async fn report_flows(api: Arc<Api>, request: Request<Bytes>) -> Result<Response<v1::FlowReportReceipt>, Status> {
    let Ok(_waiting) = api.reports.waiting.try_acquire() else {
        api.metrics.reports_turned_away.inc();
        return Err(Status::resource_exhausted("too many reports are waiting; send it again after a while"));
    };
    let closed = |_| Status::unavailable("the server is shutting down");
    let _turn = api.reports.at_once.acquire().await.map_err(closed)?;
    // Thousands of sketches are read: not on a thread that serves streams.
    let here = api.clone();
    let read = tokio::task::spawn_blocking(move || read(&here, request)).await;
    let read = read.map_err(|error| {
        tracing::error!(%error, "report check failed");
        Status::internal("the report could not be checked")
    })?;
    let report = read?.map_err(|faults| {
        api.metrics.reports_rejected.inc();
        invalid(&faults)
    })?;
    let report = Arc::new(report);
    let done = match take_in(&api, &report, Stored::ByTime).await {
        Err(error) if error.is_stored_already() => take_in(&api, &report, Stored::Any).await,
        done => done,
    };
    let (Ingested { sequence, too_late, foreign, clock_off }, samples, recorded) = done.map_err(|error| {
        let status = of_store(error);
        if status.code() == tonic::Code::InvalidArgument {
            api.metrics.reports_rejected.inc();
        }
        status
    })?;
    api.metrics.reports.inc();
    api.metrics.cells.inc_by(report.cells.len() as u64);
    api.metrics.cells_too_late.inc_by(too_late);
    api.metrics.cells_foreign.inc_by(foreign);
    api.metrics.cells_clock_off.inc_by(clock_off);
    api.metrics.samples.inc_by(samples);
    api.metrics.recorded.inc_by(recorded.added);
    api.metrics.recorded_left_out.inc_by(recorded.left_out);
    if samples > 0 || recorded.added > 0 {
        api.prune.notify_one();
    }
    let closely = recorded != Recorded::default();
    let next = if closely { Duration::ZERO } else { pace::interval(api.metrics.nodes(), api.limits.reports_per_s) };
    let next_report_after_ms = u32::try_from(next.as_millis()).unwrap_or(u32::MAX);
    Ok(Response::new(v1::FlowReportReceipt { sequence, next_report_after_ms }))
}

/// A report that is sound, of who sends it.
fn read(api: &Api, request: Request<Bytes>) -> Result<Result<Report, Faults>, Status> {
    let (_, extensions, wire) = request.into_parts();
    let message: v1::FlowReport = codec::decode(wire)?;
    if let Some(Caller::Node(known)) = extensions.get::<Caller>() {
        stream::own(api, known, &message.node_id)?;
    }
    Ok(flow_report::report(message))
}
