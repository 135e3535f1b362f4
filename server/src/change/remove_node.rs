//! Removes a node that is gone for good.

use serde_json::{Value, json};

use super::{author::Author, difference::Difference, plan::ChangeRefusal};
use crate::store::{Error, Result, access, audit, connection::PgConnection, control, removal};

/// What the audit log calls it.
const METHOD: &str = "DeleteNode";

/// Removes a node. Its outcomes stay. It comes back when it says hello, unless it is to stay out: then it is shut out as well.
///
/// # Errors
/// If there is no such node, or it is connected; or if the database fails.
pub async fn remove_node(conn: &mut PgConnection, author: &Author, node_id: &str, stay_out: bool) -> Result<()> {
    control::lock(&mut *conn).await?;
    let name = format!("nodes/{node_id}");
    match removal::connected(&mut *conn, node_id).await? {
        None => return Err(Error::NotFound { name }),
        Some(true) if !stay_out => {
            let why = "it is connected, and would be back with its next hello; stop its daemon first";
            return Err(Error::Refused { name, refusal: ChangeRefusal::State(why.to_owned()) });
        }
        Some(_) => {}
    }
    let before = (removal::shown(&mut *conn, node_id).await?, access::shown(&mut *conn, &name).await?);
    if stay_out {
        access::revoke(&mut *conn, &name, author.reason()).await?;
        access::bump(&mut *conn).await?;
    }
    removal::delete(&mut *conn, node_id).await?;
    // No other node enforces anything else for it.
    let after = (Value::Null, access::shown(&mut *conn, &name).await?);
    let state = |(node, access): (Value, Value)| json!({ "node": node, "access": access });
    audit::note(conn, author, METHOD, (&name, 0), Difference::between(&state(before), &state(after))).await
}
