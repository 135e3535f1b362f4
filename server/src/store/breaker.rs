//! Canaries that circuit breakers of nodes have ended.

use prost::Message;
use sockpilot_proto::v1;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
};

/// Notes what nodes say, the first word of each about a rollout. What is about no rollout of this database is left out.
pub async fn note(conn: &mut PgConnection, trips: &[(String, v1::BreakerTrip)]) -> Result<()> {
    let nodes: Vec<_> = trips.iter().map(|(node_id, _)| node_id.as_str()).collect();
    let rollouts: Vec<_> = trips.iter().map(|(_, trip)| trip.rollout.as_str()).collect();
    let encoded: Vec<_> = trips.iter().map(|(_, trip)| trip.encode_to_vec()).collect();
    sqlx::query(
        "INSERT INTO breaker_trip (node_id, rollout, trip)
         SELECT DISTINCT ON (new.rollout, new.node_id) new.node_id, new.rollout, new.trip
         FROM unnest($1::text[], $2::text[], $3::bytea[]) AS new (node_id, rollout, trip)
         JOIN rollout ON rollout.name = new.rollout
         ON CONFLICT ON CONSTRAINT breaker_trip_pkey DO NOTHING",
    )
    .bind(nodes)
    .bind(rollouts)
    .bind(encoded)
    .execute(conn)
    .await
    .during("breaker.note")?;
    Ok(())
}

/// The trips of a rollout, with their nodes, the first first.
pub async fn of(conn: &mut PgConnection, rollout: &str) -> Result<Vec<(String, v1::BreakerTrip)>> {
    let rows: Vec<(String, Vec<u8>)> =
        sqlx::query_as("SELECT node_id, trip FROM breaker_trip WHERE rollout = $1 ORDER BY received_at, node_id LIMIT 1000")
            .bind(rollout)
            .fetch_all(conn)
            .await
            .during("breaker.of")?;
    let read = |(node_id, trip): (String, Vec<u8>)| {
        let trip = v1::BreakerTrip::decode(trip.as_slice());
        trip.map(|trip| (node_id, trip)).map_err(|error| Error::corrupt(format!("a trip of {rollout}"), error))
    };
    rows.into_iter().map(read).collect()
}
