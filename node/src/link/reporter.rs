//! Reports to the server. One is under way at a time, and the same one is sent until it is answered.

use std::time::Duration;

use sockpilot_proto::v1::{self, node_service_client::NodeServiceClient};
use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use tracing::Instrument;

use crate::{
    backoff,
    keeper::{Command, Handle},
    metrics::{ByResult, Metrics},
    records::aggregation::REPORT_CELLS_MAX,
};

const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Waits do not grow any more after so many failures in a row: at most 8 s.
const FAILURES_MAX: u32 = 5;
/// No server has a node report more seldom.
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// For the last report, when the daemon ends.
const LAST_MAX: Duration = Duration::from_secs(2);

/// See the [module](self).
#[derive(Debug)]
pub struct Reporter {
    /// To the server, as it is now.
    pub channel: watch::Receiver<Channel>,
    /// Who has the reports.
    pub keeper: Handle,
    /// Whether the stream stands: policy comes before reports.
    pub connected: watch::Receiver<bool>,
    /// How often, unless the server has it report more seldom.
    pub every: Duration,
    /// What is counted.
    pub metrics: Metrics,
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The server has it.
    Committed,
    /// The server will never take it.
    Refused,
    /// To be sent again.
    Later,
}

fn verdict(code: Code) -> Verdict {
    match code {
        Code::Ok => Verdict::Committed,
        Code::InvalidArgument => Verdict::Refused,
        // Whatever else it is, the next server or the next version of it may take the report.
        _ => Verdict::Later,
    }
}

impl Reporter {
    /// Reports until stopped; then once more, within two seconds.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut under_way = None;
        // Daemons that were started together do not report together.
        let mut every = spread(self.every, rand::random());
        let mut failures = 0;
        loop {
            tokio::select! {
                () = sleep(every) => {}
                () = stop.cancelled() => break,
            }
            let ready = tokio::select! {
                ready = self.connected.wait_for(|connected| *connected) => ready.is_ok(),
                () = stop.cancelled() => break,
            };
            if !ready {
                break;
            }
            let done = tokio::select! {
                done = self.report(&mut under_way) => done,
                () = stop.cancelled() => break,
            };
            if let Some(told) = done {
                failures = 0;
                every = spread(self.every.max(told), rand::random());
                self.metrics.report_interval.set(every.as_secs_f64());
                continue;
            }
            let wait = backoff::delay(failures.min(FAILURES_MAX), rand::random());
            failures = failures.saturating_add(1);
            tokio::select! {
                () = sleep(wait) => {}
                // If the server went, its return ends the waiting.
                changed = self.connected.changed() => if changed.is_err() { break },
                () = stop.cancelled() => break,
            }
        }
        if timeout(LAST_MAX, self.last(&mut under_way)).await.is_err() {
            tracing::warn!("ended without an answer to the last report; it is in the journal");
        }
    }

    /// What is under way, then what has come since.
    async fn last(&self, under_way: &mut Option<v1::FlowReport>) {
        let pending = under_way.is_some();
        if self.report(under_way).await.is_some() && pending {
            self.report(under_way).await;
        }
    }

    /// Sends what is there, report by report. How long the server has the node wait then; `None` if not all of it was answered.
    async fn report(&self, under_way: &mut Option<v1::FlowReport>) -> Option<Duration> {
        let mut wait = Duration::ZERO;
        loop {
            if under_way.is_none() {
                *under_way = self.next().await;
            }
            let Some(report) = under_way.as_ref() else { return Some(wait) };
            let full = report.cells.len() >= REPORT_CELLS_MAX;
            let span = tracing::info_span!("report", report.sequence, cells = report.cells.len());
            let (result, settled) = match self.send(report).instrument(span).await {
                Ok(receipt) if receipt.sequence >= report.sequence => {
                    wait = Duration::from_millis(receipt.next_report_after_ms.into()).min(INTERVAL_MAX);
                    ("committed", Some(receipt.sequence))
                }
                Ok(receipt) => {
                    tracing::warn!(receipt.sequence, report.sequence, "the server confirms an older report only");
                    ("failed", None)
                }
                Err(status) => self.failed(report, &status),
            };
            self.metrics.reports.get_or_create(&ByResult { result }).inc();
            let sequence = settled?;
            let settle = Command::Confirm { boot_id: report.boot_id.clone(), sequence };
            *under_way = None;
            if self.keeper.commands.send(settle).await.is_err() || !full {
                return Some(wait);
            }
        }
    }

    fn failed(&self, report: &v1::FlowReport, status: &Status) -> (&'static str, Option<u64>) {
        let v1::FlowReport { boot_id, sequence, cells, .. } = report;
        let (code, message) = (status.code(), status.message());
        match verdict(code) {
            Verdict::Refused => {
                tracing::error!(%message, boot_id, sequence, cells = cells.len(), "the server refuses a report; dropped it");
                ("refused", Some(*sequence))
            }
            Verdict::Committed | Verdict::Later => {
                tracing::warn!(%code, %message, sequence, "cannot report now; will send it again");
                ("failed", None)
            }
        }
    }

    async fn send(&self, report: &v1::FlowReport) -> Result<v1::FlowReportReceipt, Status> {
        let mut client = NodeServiceClient::new(self.channel.borrow().clone());
        let answer = timeout(ANSWER_MAX, client.report_flows(report.clone())).await;
        answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))).map(tonic::Response::into_inner)
    }

    async fn next(&self) -> Option<v1::FlowReport> {
        let (answer, answered) = oneshot::channel();
        self.keeper.commands.send(Command::Report { answer }).await.ok()?;
        answered.await.ok().flatten()
    }
}

/// A wait of about that length, a tenth shorter or longer by `share` of [0, 1).
fn spread(every: Duration, share: f64) -> Duration {
    every.mul_f64(0.9 + 0.2 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_spread() {
        let every = Duration::from_secs(60);
        assert_eq!(spread(every, 0.0), Duration::from_secs(54));
        assert_eq!(spread(every, 0.5), every);
        assert!(spread(every, 0.999) < Duration::from_secs(66));
    }

    #[test]
    fn only_what_is_unsound_is_dropped() {
        assert_eq!(verdict(Code::Ok), Verdict::Committed);
        assert_eq!(verdict(Code::InvalidArgument), Verdict::Refused);
        let rest = [Code::Unavailable, Code::ResourceExhausted, Code::Internal, Code::Unimplemented, Code::Aborted];
        assert!(rest.into_iter().all(|code| verdict(code) == Verdict::Later));
    }
}
