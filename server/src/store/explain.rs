//! What an explanation is made of, as one state of the database.

use super::{
    connection::PgConnection,
    error::{Error, Result},
    fleet::{self, Revisions},
    node,
};
use crate::explain::{Question, State};

/// Reads what is assigned, the node and the revisions that the question names.
///
/// # Errors
/// If there is no such node or revision, or the database fails.
pub async fn load(conn: &mut PgConnection, question: &Question) -> Result<State> {
    let node = match &question.node_id {
        Some(node_id) => Some(node::get(&mut *conn, node_id).await?),
        None => None,
    };
    let overrides = fleet::read(&mut *conn, &question.overrides).await?;
    for (name, revision) in &question.overrides {
        if !overrides.iter().any(|found| found.name == *name && found.revision == *revision) {
            return Err(Error::NotFound { name: format!("{name}@{revision}") });
        }
    }
    let fleet = fleet::load(conn, Revisions::default()).await?.fleet;
    Ok(State { fleet, node, overrides })
}
