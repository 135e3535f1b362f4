//! Looks at the experiments that run: draws their verdicts, and ends those whose time is over.

use std::time::Duration;

use sockpilot_policy::model::LayerName;
use sockpilot_proto::v1;

use super::draw::draw;
use crate::{
    change::{
        apply::{Change, apply},
        author::Author,
        plan::Action,
        target::Target,
    },
    fleet::fanout::Fanout,
    metrics::Metrics,
    store::{Error, Result, Settled, Store, connection::PgConnection, control, experiment, leader::Fence},
    task::{FleetTask, Scope, Spec},
};

const PERIOD: Duration = Duration::from_secs(10);
const TASK: &str = "verdicts";

/// See the [module](self).
#[derive(Debug)]
pub struct Verdicts {
    pub store: Store,
    pub fanout: std::sync::Arc<Fanout>,
    pub metrics: Metrics,
}

impl FleetTask for Verdicts {
    fn spec(&self) -> Spec {
        Spec { name: TASK, period: PERIOD, retry_after: PERIOD, scope: Scope::Fleet }
    }

    async fn run(&mut self, fence: Fence) -> Result<String> {
        let running = self.store.read("list running experiments", |conn| {
            Box::pin(async move { Ok((experiment::running(&mut *conn).await?, control::now(conn).await?.timestamp())) })
        });
        let (running, now_s) = running.await?;
        let (mut drawn, mut ended) = (vec![], 0);
        // One that cannot be judged does not keep the others from their end.
        let mut failed = None;
        for name in &running {
            match self.look(fence, name.clone(), now_s).await {
                Ok(looked) => {
                    ended += usize::from(looked.ended);
                    drawn.push(looked.results);
                }
                Err(error @ Error::Deposed { .. }) => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        self.metrics.experiments.set(&drawn);
        if ended > 0 {
            self.fanout.stale.notify_one();
        }
        failed.map_or_else(|| Ok(format!("looked at {} experiments, ended {ended}", running.len())), Err)
    }
}

struct Looked {
    results: v1::ExperimentResults,
    ended: bool,
}

impl Verdicts {
    /// In one transaction, so that what was looked at is what is noted.
    async fn look(&self, fence: Fence, name: LayerName, now_s: i64) -> Result<Looked> {
        let work = self.store.transact_as_leader(fence, "judge an experiment", move |conn| {
            let name = name.clone();
            Box::pin(async move {
                let results = draw(&mut *conn, &name, false).await?.0;
                let run = experiment::run(&mut *conn, &name, 0).await?;
                let over =
                    run.is_some_and(|run| run.until_s.is_none() && run.ends_s.is_some_and(|end_s| now_s >= end_s));
                if over {
                    end(conn, &name, &results).await?;
                }
                Ok(Settled::Commit(Looked { results, ended: over }))
            })
        });
        work.await
    }
}

async fn end(conn: &mut PgConnection, name: &LayerName, results: &v1::ExperimentResults) -> Result<()> {
    let verdict = results.verdict.clone().unwrap_or_default();
    let author = Author::Controller {
        task: TASK,
        reason: "its planned time is over".to_owned(),
        evidence: serde_json::json!({ "verdict": verdict.kind().as_str_name(), "arm": verdict.arm, "reason": verdict.reason }),
    };
    let action = Action::Assign { revision: results.revision, target: Target::Nobody, adds: false, force: false };
    let change = Change { name: name.clone(), action, etag: String::new(), sent: None };
    apply(conn, &author, &change).await.map(drop)
}
