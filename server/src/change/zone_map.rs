//! Replaces the zone map.

use sockpilot_proto::v1;

use super::{
    author::Author,
    difference::Difference,
    plan::ChangeRefusal,
    zones::{self, NAME, ZoneMap},
};
use crate::store::{Error, Result, assignment, audit, connection::PgConnection, control, same_etag, zone};

/// What the audit log calls it.
const METHOD: &str = "UpdateZoneMap";
/// Revisions that a refusal names.
const NAMED_MAX: usize = 5;

/// Replaces the map by another; answers with the one in force. A map that means the same changes nothing. An empty etag is not
/// compared.
///
/// # Errors
/// If the state forbids it, or the database fails.
pub async fn update(conn: &mut PgConnection, author: &Author, etag: &str, zones: Vec<v1::Zone>) -> Result<ZoneMap> {
    control::lock(&mut *conn).await?;
    let before = zone::get(&mut *conn).await?;
    let after = ZoneMap { version: before.version + 1, zones };
    same_etag(NAME, etag, &before.etag())?;
    if before.means_the_same(&after) {
        return Ok(before);
    }
    let needed = needed(&mut *conn, &before, &after).await?;
    if !needed.is_empty() {
        let refusal = ChangeRefusal::State(still_named(&needed));
        return Err(Error::Refused { name: NAME.to_owned(), refusal });
    }
    let version = zone::put(&mut *conn, &after.zones).await?;
    let generation = control::bump(&mut *conn).await?;
    let difference = Difference::between(&before.shown(), &after.shown());
    let revision = version.cast_signed();
    let subject = audit::Subject { method: METHOD, name: NAME, revision, generation, difference };
    audit::add(conn, author, &subject).await?;
    Ok(ZoneMap { version, ..after })
}

/// The zones that would go although an assigned revision names them: zone and revision.
async fn needed(conn: &mut PgConnection, before: &ZoneMap, after: &ZoneMap) -> Result<Vec<(String, String)>> {
    if !zones::loses(before, after) {
        return Ok(vec![]);
    }
    let assigned = assignment::documents_in_force(conn).await?;
    let naming = assigned
        .iter()
        .flat_map(|(revision, document)| after.lacks(document).into_iter().map(move |zone| (zone, revision.clone())));
    Ok(naming.collect())
}

fn still_named(needed: &[(String, String)]) -> String {
    let mut text: Vec<_> =
        needed.iter().take(NAMED_MAX).map(|(zone, by)| format!("zone {zone} is named by {by}")).collect();
    if needed.len() > NAMED_MAX {
        text.push(format!("{} more are named", needed.len() - NAMED_MAX));
    }
    format!("{}, which is assigned; keep the zone, or assign something else first", text.join(", "))
}
