//! What a simulation is made of.

use std::sync::Arc;

use super::{
    connection::PgConnection,
    error::Result,
    fleet::{self, Loaded, Revisions},
    layer, node, sample,
};
use crate::{
    change::target::carries,
    fleet::{
        resolve::Revision,
        simulation::{Change, Question, State},
    },
};

/// Reads what is assigned, what would be, the nodes, and the recorded flows that are asked about.
///
/// # Errors
/// If there is no such revision, or the database fails.
pub async fn state(conn: &mut PgConnection, question: &Question) -> Result<State> {
    let (document, number) = match &question.change {
        Change::Document(document) => (document.clone(), 0),
        Change::Stored(number) => (layer::document(&mut *conn, &question.name, Some(*number)).await?, *number),
    };
    let candidate = Arc::new(Revision::of(question.name.clone(), number, document.clone()));
    let Loaded { fleet, clock: (_, now), .. } = fleet::load(&mut *conn, Revisions::default()).await?;
    let nodes = node::seen(&mut *conn).await?;
    let (asked, ended_s) = (&question.flows, question.flows.ended_s(now.timestamp()));
    let meant = nodes.iter().filter(|node| carries(&node.labels, &asked.node_labels));
    let meant: Option<Vec<_>> = (!asked.node_labels.is_empty()).then(|| meant.map(|node| node.id.clone()).collect());
    let found = sample::recent(conn, ended_s.clone(), meant.as_deref(), asked.max).await?;
    let sample::Recent { samples: flows, cut, read: flows_read } = found;
    Ok(State { fleet, document, candidate, nodes, flows, ended_s, cut, flows_read })
}

/// Does what takes long in the middle of a transaction on a thread that does not serve streams.
pub async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Cancelled, because the server ends: so is whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}
