//! The zone map.

use prost::Message;
use sha2::{Digest, Sha256};
use sockpilot_policy::fault::Collector;
use sockpilot_proto::{convert::zone_map_from_proto, v1};

use super::{
    Settled, assignment, audit,
    change::{self, Header},
    connection::PgConnection,
    control,
    error::{Error, Operation, Result},
};
use crate::{
    change::Refusal,
    document::Document,
    notes::Notes,
    zones::{NAME, ZoneMap},
};

/// Revisions that a refusal names.
const NAMED_MAX: usize = 5;

/// Another map that somebody asks for, checked.
#[derive(Debug, Clone)]
pub struct Order {
    /// What all changes have.
    pub header: Header,
    /// The zones.
    pub zones: Vec<v1::Zone>,
}

/// Reads the map unless it is the one that is known.
///
/// # Errors
/// If the database fails.
pub async fn newer(conn: &mut PgConnection, known: u64) -> Result<Option<ZoneMap>> {
    let row: Option<(i64, Vec<u8>)> = sqlx::query_as("SELECT version, document FROM zone_map WHERE version <> $1")
        .bind(known.cast_signed())
        .fetch_optional(conn)
        .await
        .during("zone.newer")?;
    let Some((version, document)) = row else { return Ok(None) };
    let map = v1::ZoneMap::decode(document.as_slice()).map_err(|error| Error::corrupt("the zone map", error))?;
    Ok(Some(ZoneMap { version: version.cast_unsigned(), zones: map.zones }))
}

/// Reads the map; it is empty if nobody has written one.
///
/// # Errors
/// If the database fails.
pub async fn get(conn: &mut PgConnection) -> Result<ZoneMap> {
    Ok(newer(conn, 0).await?.unwrap_or_default())
}

/// The map as it stands on the wire.
#[must_use]
pub fn to_proto(map: ZoneMap) -> v1::ZoneMap {
    let etag = etag(&map);
    v1::ZoneMap { name: NAME.to_owned(), etag, zones: map.zones, notes: None }
}

fn document(zones: &[v1::Zone]) -> Vec<u8> {
    v1::ZoneMap { zones: zones.to_vec(), ..v1::ZoneMap::default() }.encode_to_vec()
}

/// Of version and content, so that a map of a restored database is not taken for the one that was read.
fn etag(map: &ZoneMap) -> String {
    let hash = Sha256::digest(document(&map.zones));
    format!("{:02x}{:02x}{:02x}{:02x}-{}", hash[0], hash[1], hash[2], hash[3], map.version)
}

/// Replaces the map; answers with the encoded response. A map that means the same changes nothing.
///
/// # Errors
/// If the state forbids it, or the database fails.
pub async fn update(conn: &mut PgConnection, order: &Order) -> Result<Settled<Vec<u8>>> {
    let Order { header, zones } = order;
    if let Some(response) = change::begin(&mut *conn, header).await? {
        return Ok(Settled::Discard(response));
    }
    let before = get(&mut *conn).await?;
    let now = etag(&before);
    let refused = |refusal| Error::Refused { name: NAME.to_owned(), refusal };
    if !header.etag.is_empty() && header.etag != now {
        return Err(refused(Refusal::Etag { now }));
    }
    let after = ZoneMap { version: before.version + 1, zones: zones.clone() };
    let answer = |map: ZoneMap| {
        let mut notes = Notes::default();
        notes.zone_map(&map.zones);
        v1::ZoneMap { notes: notes.into_proto(), ..to_proto(map) }.encode_to_vec()
    };
    if same(&before, &after) {
        return change::settle(conn, header, answer(before)).await;
    }
    let needed = needed(&mut *conn, &before, &after).await?;
    if !needed.is_empty() {
        return Err(refused(Refusal::State(still_named(&needed))));
    }
    let version = put(&mut *conn, &after.zones).await?;
    let generation = control::bump(&mut *conn).await?;
    let entry = audit::Entry {
        actor: &header.actor,
        method: header.method,
        name: NAME,
        revision: version,
        reason: &header.reason,
        request_json: &header.request_json,
        generation,
    };
    audit::add(&mut *conn, &entry).await?;
    change::settle(conn, header, answer(after)).await
}

/// Writes the map; answers with its version.
pub(super) async fn put(conn: &mut PgConnection, zones: &[v1::Zone]) -> Result<i64> {
    let (version,) = sqlx::query_as("UPDATE zone_map SET version = version + 1, document = $1 RETURNING version")
        .bind(document(zones))
        .fetch_one(conn)
        .await
        .during("zone.put")?;
    Ok(version)
}

/// Whether both mean the same, however they are written.
pub(super) fn same(before: &ZoneMap, after: &ZoneMap) -> bool {
    let read = |map: &ZoneMap| {
        zone_map_from_proto(&v1::ZoneMap { zones: map.zones.clone(), ..v1::ZoneMap::default() }, "").ok()
    };
    let (before, after) = (read(before), read(after));
    before.is_some() && before == after
}

/// The zones that would go although an assigned revision names them: zone and revision.
async fn needed(conn: &mut PgConnection, before: &ZoneMap, after: &ZoneMap) -> Result<Vec<(String, String)>> {
    let goes = |zone: &v1::Zone| after.zones.iter().all(|stays| stays.name != zone.name);
    if !before.zones.iter().any(goes) {
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

/// Refuses a document that names a zone which is not in the map.
///
/// # Errors
/// With the path of every such place.
pub fn check(map: &ZoneMap, document: &Document) -> Result<()> {
    let mut faults = Collector::at("");
    map.check(document, &mut faults);
    faults.finish(()).map_err(|faults| Error::Invalid { faults })
}
