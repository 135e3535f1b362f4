//! What a change would do, for whoever is about to make it.

use sockpilot_policy::model::LayerName;

use super::simulation::{Answer, Change, Flows, Question, answer};
use crate::{
    change::{document::Document, target::Target},
    store::{Error, Result, connection::PgConnection, simulation},
};

/// Which of the last hour's connections would get what, if a document were given to a target, in the transaction of whoever asks.
///
/// # Errors
/// If what is stored cannot be read, or the database fails.
pub async fn recent(conn: &mut PgConnection, name: &LayerName, document: Document, target: Target) -> Result<Answer> {
    let (name, change) = (name.clone(), Change::Document(document));
    let question = Question { name, change, target, flows: Flows::default() };
    let state = simulation::state(conn, &question).await?;
    answer(&question, &state).map_err(|faults| Error::corrupt("what is assigned", faults))
}
