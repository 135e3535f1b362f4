//! `NodeService`.

use futures::stream::BoxStream;
use sockpilot_proto::v1;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Api,
    error::{invalid, of_store},
    stream,
};
use crate::{
    report,
    store::{Settled, flow, sample},
};

#[tonic::async_trait]
impl v1::node_service_server::NodeService for Api {
    type ConnectStream = BoxStream<'static, Result<v1::ServerEvent, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::NodeEvent>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        stream::open(self.clone(), request.into_inner()).await.map(Response::new)
    }

    async fn report_flows(&self, request: Request<v1::FlowReport>) -> Result<Response<v1::FlowReportReceipt>, Status> {
        let Ok(_waiting) = self.reports.waiting.try_acquire() else {
            self.metrics.reports_turned_away.inc();
            return Err(Status::resource_exhausted("too many reports are waiting; send it again after a while"));
        };
        let closed = |_| Status::unavailable("the server is shutting down");
        let _turn = self.reports.at_once.acquire().await.map_err(closed)?;
        // Thousands of sketches are read: not on a thread that serves streams.
        let message = request.into_inner();
        let checked = tokio::task::spawn_blocking(move || report::check(message)).await;
        let checked = checked.map_err(|error| {
            tracing::error!(%error, "checking a report failed");
            Status::internal("the report could not be checked")
        })?;
        let report = checked.map_err(|faults| {
            self.metrics.reports_rejected.inc();
            invalid(&faults)
        })?;
        let report = std::sync::Arc::new(report);
        let kept = report.clone();
        let done = self.store.transact("report flows", move |conn| {
            let report = report.clone();
            Box::pin(async move {
                let sequence = flow::ingest(&mut *conn, &report).await?;
                let samples = sample::add(conn, &report.node_id, &report.samples).await?;
                Ok(Settled::Commit((sequence, samples)))
            })
        });
        let (sequence, samples) = done.await.map_err(|error| {
            let status = of_store(error);
            if status.code() == tonic::Code::InvalidArgument {
                self.metrics.reports_rejected.inc();
            }
            status
        })?;
        self.metrics.reports.inc();
        self.metrics.cells.inc_by(kept.cells.layer.len() as u64);
        self.metrics.samples.inc_by(samples);
        if samples > 0 {
            self.prune.notify_one();
        }
        Ok(Response::new(v1::FlowReportReceipt { sequence }))
    }
}
