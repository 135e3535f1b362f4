//! The zone map.

use prost::Message;
use sockpilot_proto::v1;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};
use crate::change::zones::{ZoneMap, encoded};

/// Reads the map unless it is the one that is known.
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
pub async fn get(conn: &mut PgConnection) -> Result<ZoneMap> {
    Ok(newer(conn, 0).await?.unwrap_or_default())
}

/// Writes the map; answers with its version.
pub async fn put(conn: &mut PgConnection, zones: &[v1::Zone]) -> Result<u64> {
    let (version,): (i64,) =
        sqlx::query_as("UPDATE zone_map SET version = version + 1, document = $1 RETURNING version")
            .bind(encoded(zones))
            .fetch_one(conn)
            .await
            .during("zone.put")?;
    Ok(version.cast_unsigned())
}
