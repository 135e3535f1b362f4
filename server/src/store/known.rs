//! Whether what a question names was ever there: an empty answer to a name that never was looks like nothing going on.

use super::connection::PgConnection;
use sockpilot_policy::model::LayerName;

use super::{error::Result, layer, node};
use crate::change::notes::Warning;

/// What is wrong with the names of a question to which there is no answer: a policy or an experiment (deleted ones are known, empty
/// is all), its revision (0: any), a node (empty: all).
pub async fn warnings(conn: &mut PgConnection, name: &str, revision: u64, node_id: &str) -> Result<Vec<Warning>> {
    let warning =
        |field: &str, named: String| Warning::new(field, format!("there never was {named}; look at the name"));
    let mut warnings = vec![];
    if let Ok(name) = name.parse::<LayerName>() {
        match layer::object(&mut *conn, &name).await? {
            None => warnings.push(warning("name", name.to_string())),
            Some(object) if revision > object.latest_revision.cast_unsigned() => {
                warnings.push(warning("revision", format!("{name}@{revision}")));
            }
            Some(_) => {}
        }
    }
    if !node_id.is_empty() && !node::exists(conn, node_id).await? {
        warnings.push(warning("node", format!("nodes/{node_id}")));
    }
    Ok(warnings)
}
