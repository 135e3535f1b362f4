//! `NodeService`.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture, stream::BoxStream};
use sockpilot_proto::{
    codec::SmallBuffers,
    v1::{
        self,
        node_service_server::{NodeService, NodeServiceServer},
    },
};
use tonic::{
    Request, Response, Status, Streaming, body::Body, codec::Codec, metadata::GRPC_CONTENT_TYPE, server::NamedService,
};
use tower::Service;

use super::{
    Api,
    convert::flow_report,
    error::{invalid, of_store},
    frames::Frames,
    stream,
};
use crate::{
    auth::{caller::Caller, connections::Connection},
    outcome::{
        pace,
        report::{Ingested, Report},
    },
    store::{
        self, Settled,
        connection::PgConnection,
        flow, holder, recording,
        sample::{self, Kept},
    },
};

/// By its path, a stream is told from all other calls.
pub const CONNECT: &str = "/sockpilot.v1.NodeService/Connect";
/// And a report.
pub const REPORT_FLOWS: &str = "/sockpilot.v1.NodeService/ReportFlows";

/// The service on the wire: messages that are looked at before they are decoded, and streams with a body of their own.
#[derive(Debug, Clone)]
pub struct Nodes {
    api: Api,
    generated: NodeServiceServer<Api>,
}

impl Nodes {
    /// For these nodes.
    pub fn new(api: Api) -> Self {
        let generated =
            NodeServiceServer::new(api.clone()).max_decoding_message_size(api.limits.node_message_bytes_max);
        Self { api, generated }
    }

    async fn connect(self, request: http::Request<Body>) -> http::Response<Body> {
        let decoder = SmallBuffers::<v1::ServerEvent, v1::NodeEvent>::default().decoder();
        let bytes_max = Some(self.api.limits.node_message_bytes_max);
        let request = request.map(|body| Streaming::new_request(decoder, body, None, bytes_max));
        let opened = self.api.connect(Request::from_http(request)).await;
        opened.map_or_else(Status::into_http, |events| answer(events.into_inner()))
    }
}

impl NamedService for Nodes {
    const NAME: &'static str = <NodeServiceServer<Api> as NamedService>::NAME;
}

impl Service<http::Request<Body>> for Nodes {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match request.uri().path() {
            CONNECT => self.clone().connect(request).map(Ok).boxed(),
            _ => self.generated.call(request),
        }
    }
}

fn answer(events: BoxStream<'static, Result<v1::ServerEvent, Status>>) -> http::Response<Body> {
    let mut answer = http::Response::new(Body::new(Frames::new(events)));
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

#[tonic::async_trait]
impl NodeService for Api {
    type ConnectStream = BoxStream<'static, Result<v1::ServerEvent, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::NodeEvent>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let connection = request.extensions().get::<Arc<Connection>>();
        let address = connection.map(|connection| connection.address.to_string()).unwrap_or_default();
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or(Caller::Nobody);
        stream::open(self.clone(), address, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn report_flows(&self, request: Request<v1::FlowReport>) -> Result<Response<v1::FlowReportReceipt>, Status> {
        if let Some(Caller::Node(known)) = request.extensions().get::<Caller>() {
            stream::own(self, known, &request.get_ref().node_id)?;
        }
        let Ok(_waiting) = self.reports.waiting.try_acquire() else {
            self.metrics.reports_turned_away.inc();
            return Err(Status::resource_exhausted("too many reports are waiting; send it again after a while"));
        };
        let closed = |_| Status::unavailable("the server is shutting down");
        let _turn = self.reports.at_once.acquire().await.map_err(closed)?;
        // Thousands of sketches are read: not on a thread that serves streams.
        let message = request.into_inner();
        let checked = tokio::task::spawn_blocking(move || flow_report::report(message)).await;
        let checked = checked.map_err(|error| {
            tracing::error!(%error, "report check failed");
            Status::internal("the report could not be checked")
        })?;
        let report = checked.map_err(|faults| {
            self.metrics.reports_rejected.inc();
            invalid(&faults)
        })?;
        let report = Arc::new(report);
        let kept = report.clone();
        let done = self.store.transact("report flows", move |conn| {
            let report = report.clone();
            Box::pin(async move {
                holder::check(&mut *conn, &report.node_id, &report.instance).await?;
                let ingested = flow::ingest(&mut *conn, &report).await?;
                let samples = sample::add(&mut *conn, Kept::Sample, &report.node_id, &report.samples).await?;
                let recorded = record(conn, &report).await?;
                Ok(Settled::Commit((ingested, samples, recorded)))
            })
        });
        let (Ingested { sequence, too_late, foreign, clock_off }, samples, recorded) = done.await.map_err(|error| {
            let status = of_store(error);
            if status.code() == tonic::Code::InvalidArgument {
                self.metrics.reports_rejected.inc();
            }
            status
        })?;
        self.metrics.reports.inc();
        self.metrics.cells.inc_by(kept.cells.len() as u64);
        self.metrics.cells_too_late.inc_by(too_late);
        self.metrics.cells_foreign.inc_by(foreign);
        self.metrics.cells_clock_off.inc_by(clock_off);
        self.metrics.samples.inc_by(samples);
        self.metrics.recorded.inc_by(recorded.added);
        self.metrics.recorded_left_out.inc_by(recorded.left_out);
        if samples > 0 || recorded.added > 0 {
            self.prune.notify_one();
        }
        let nodes = u64::try_from(self.metrics.nodes_connected.get()).unwrap_or_default();
        let closely = recorded != Recorded::default();
        let next = if closely { Duration::ZERO } else { pace::interval(nodes, self.limits.reports_per_s) };
        let next_report_after_ms = u32::try_from(next.as_millis()).unwrap_or(u32::MAX);
        Ok(Response::new(v1::FlowReportReceipt { sequence, next_report_after_ms }))
    }
}
