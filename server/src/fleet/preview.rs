//! What a change would do, for whoever is about to make it.

use std::collections::BTreeMap;

use sockpilot_policy::model::LayerName;
use sockpilot_simulate::Tally;

use super::simulation::{Change, Flows, Question, touched};
use crate::{
    change::target::Target,
    store::{
        Error, Result,
        connection::PgConnection,
        fleet,
        simulation::{self, beside},
    },
};

/// How many of the last hour's connections a revision would change if everyone had it, where everyone has `good` now, by the id of their node;
/// in the transaction of whoever asks.
///
/// # Errors
/// If what is stored cannot be read, or the database fails.
pub async fn recent(
    conn: &mut PgConnection,
    name: &LayerName,
    revision: u64,
    good: Option<u64>,
) -> Result<BTreeMap<String, Tally>> {
    let good = good.map(|good| (name.clone(), good));
    let good = fleet::read(&mut *conn, good.as_slice()).await?.pop();
    let (name, change) = (name.clone(), Change::Stored(revision));
    let question = Question { name, change, target: Target::Everyone, flows: Flows::default() };
    let state = simulation::state(conn, &question).await?;
    // Ten thousands of flows are decided about.
    let found = beside(move || touched(good, &state)).await;
    found.map_err(|faults| Error::corrupt("what is assigned", faults))
}
