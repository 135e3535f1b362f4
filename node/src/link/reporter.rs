//! Reports to the server. One is under way at a time, and the same one is sent until it is answered.

use std::time::Duration;

use sockpilot_proto::v1::{self, node_service_client::NodeServiceClient};
use tokio::{
    sync::{oneshot, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};

use crate::{
    backoff,
    keeper::{Command, Handle},
    metrics::{ByResult, Metrics},
    records::aggregation::REPORT_CELLS_MAX,
};

const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Waits do not grow any more after so many failures in a row: at most 8 s.
const FAILURES_MAX: u32 = 5;
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
    /// How often.
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
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut under_way = None;
        let mut failures = 0;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
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
            if done {
                failures = 0;
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
        if self.report(under_way).await && pending {
            self.report(under_way).await;
        }
    }

    /// Sends what is there, report by report. Whether all of it was answered.
    async fn report(&self, under_way: &mut Option<v1::FlowReport>) -> bool {
        loop {
            if under_way.is_none() {
                *under_way = self.next().await;
            }
            let Some(report) = under_way.as_ref() else { return true };
            let full = report.cells.len() >= REPORT_CELLS_MAX;
            let (result, settled) = match self.send(report).await {
                Ok(receipt) if receipt.sequence >= report.sequence => ("committed", Some(receipt.sequence)),
                Ok(receipt) => {
                    tracing::warn!(receipt.sequence, report.sequence, "the server confirms an older report only");
                    ("failed", None)
                }
                Err(status) => self.failed(report, &status),
            };
            self.metrics.reports.get_or_create(&ByResult { result }).inc();
            let Some(sequence) = settled else { return false };
            let settle = Command::Confirm { boot_id: report.boot_id.clone(), sequence };
            *under_way = None;
            if self.keeper.commands.send(settle).await.is_err() || !full {
                return true;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_unsound_is_dropped() {
        assert_eq!(verdict(Code::Ok), Verdict::Committed);
        assert_eq!(verdict(Code::InvalidArgument), Verdict::Refused);
        let rest = [Code::Unavailable, Code::ResourceExhausted, Code::Internal, Code::Unimplemented, Code::Aborted];
        assert!(rest.into_iter().all(|code| verdict(code) == Verdict::Later));
    }
}
