//! Whether what an author who is bound changes is within their bounds.

use std::collections::BTreeSet;

use sockpilot_policy::model::LayerName;

use super::{author::Author, document::Document, plan::ChangeRefusal};
use crate::store::{Error, Result, assignment, connection::PgConnection, layer};

/// Refuses what is out of bounds: another name, or a revision that is or will be for nodes of others. `revisions` are given to
/// somebody by the change, `sent` is stored by it.
///
/// # Errors
/// If it is out of bounds, or the database fails.
pub async fn check(
    conn: &mut PgConnection,
    author: &Author,
    name: &LayerName,
    sent: Option<&Document>,
    revisions: impl IntoIterator<Item = u64>,
) -> Result<()> {
    let Some(bound) = author.bound() else { return Ok(()) };
    let refused = || Error::Refused { name: name.to_string(), refusal: ChangeRefusal::OutOfBounds };
    if !bound.has_name(name) || sent.is_some_and(|sent| !bound.has_nodes(&sent.node_labels())) {
        return Err(refused());
    }
    let Some(object) = layer::object(&mut *conn, name).await?.filter(|_| !bound.node_labels.is_empty()) else {
        return Ok(());
    };
    let latest = object.latest_revision.cast_unsigned();
    let mut concerned: BTreeSet<u64> = revisions.into_iter().filter(|revision| *revision <= latest).collect();
    concerned.insert(latest);
    concerned.extend(assignment::in_force(&mut *conn, name).await?.iter().map(|held| held.revision));
    for revision in concerned {
        let document = match layer::document(&mut *conn, name, Some(revision)).await {
            Ok(document) => document,
            Err(Error::NotFound { .. }) => continue,
            Err(error) => return Err(error),
        };
        if !bound.has_nodes(&document.node_labels()) {
            return Err(refused());
        }
    }
    Ok(())
}
