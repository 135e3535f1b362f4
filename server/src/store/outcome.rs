//! Outcomes: flow cells merged.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use prost::Message;
use sockpilot_policy::model::LayerName;
use sockpilot_proto::v1;

use super::{
    connection::PgConnection,
    error::{Error, Operation, Result},
    layer, node,
};
use crate::outcome::{Key, Totals};

/// Which outcomes are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Of which policy or experiment.
    pub name: LayerName,
    /// 0: all.
    pub revision: u64,
    /// Intervals that begin at this second or later.
    pub start_s: Option<i64>,
    /// Intervals that reach into so many seconds before now.
    pub since_s: Option<i64>,
    /// Intervals that begin before this second.
    pub end_s: Option<i64>,
    /// 0: both.
    pub direction: i16,
    /// Empty: all.
    pub node_id: String,
    /// Keep size classes apart.
    pub by_size_class: bool,
}

#[derive(sqlx::FromRow)]
struct Row {
    revision: i64,
    choice: String,
    direction: i16,
    size_class: i16,
    flows: i64,
    established: i64,
    failed: i64,
    reset: i64,
    timed_out: i64,
    abandoned: i64,
    bytes_sent: i64,
    bytes_received: i64,
    segments_out: i64,
    segments_in: i64,
    retransmits: i64,
    syn_retransmits: i64,
    rtos: i64,
    set_failures: i64,
    still_open: i64,
    delivered_packets: i64,
    ce_marked_packets: i64,
    spurious_retransmits: i64,
    connect_time_us: Vec<u8>,
    srtt_us: Vec<u8>,
    duration_us: Vec<u8>,
    established_cwnd: Vec<u8>,
}

/// Merges the cells that match, row by row as they come.
///
/// # Errors
/// If there never was such a policy, experiment or node, or the database fails.
pub async fn query(conn: &mut PgConnection, filter: &Filter) -> Result<BTreeMap<Key, Totals>> {
    if layer::object(&mut *conn, &filter.name).await?.is_none() {
        return Err(Error::NotFound { name: filter.name.to_string() });
    }
    if !filter.node_id.is_empty() && !node::exists(&mut *conn, &filter.node_id).await? {
        return Err(Error::NotFound { name: format!("nodes/{}", filter.node_id) });
    }
    let name = filter.name.to_string();
    let mut rows = sqlx::query_as::<_, Row>(
        "SELECT * FROM flow_cell WHERE layer = $1 AND ($2 = 0 OR revision = $2)
             AND ($3::bigint IS NULL OR interval_start_s >= $3) AND ($4::bigint IS NULL OR interval_start_s < $4)
             AND ($5 = 0 OR direction = $5) AND ($6 = '' OR node_id = $6)
             AND ($7::bigint IS NULL OR interval_start_s + interval_length_s > extract(epoch FROM now())::bigint - $7)",
    )
    .bind(name.as_str())
    .bind(i64::try_from(filter.revision).unwrap_or(i64::MAX))
    .bind(filter.start_s)
    .bind(filter.end_s)
    .bind(filter.direction)
    .bind(&filter.node_id)
    .bind(filter.since_s)
    .fetch(conn);
    let mut totals: BTreeMap<Key, Totals> = BTreeMap::new();
    while let Some(row) = rows.try_next().await.during("outcome.query")? {
        let size_class = if filter.by_size_class { row.size_class } else { 0 };
        let key = Key {
            revision: row.revision.cast_unsigned(),
            choice: row.choice.clone(),
            direction: row.direction.into(),
            size_class: size_class.into(),
        };
        let distributions = [&row.connect_time_us, &row.srtt_us, &row.duration_us, &row.established_cwnd];
        let of_totals = totals.entry(key).or_default();
        of_totals.add_counts(&row.counts());
        for (total, bytes) in of_totals.distributions.iter_mut().zip(distributions) {
            let corrupt = |error: String| Error::corrupt(format!("a flow cell of {name}"), error);
            let part = v1::Distribution::decode(bytes.as_slice()).map_err(|error| corrupt(error.to_string()))?;
            total.merge(&crate::outcome::distribution(&part).map_err(|error| corrupt(error.to_string()))?);
        }
    }
    Ok(totals)
}

impl Row {
    fn counts(&self) -> v1::FlowCounts {
        v1::FlowCounts {
            flows: self.flows.cast_unsigned(),
            established: self.established.cast_unsigned(),
            failed: self.failed.cast_unsigned(),
            reset: self.reset.cast_unsigned(),
            timed_out: self.timed_out.cast_unsigned(),
            abandoned: self.abandoned.cast_unsigned(),
            bytes_sent: self.bytes_sent.cast_unsigned(),
            bytes_received: self.bytes_received.cast_unsigned(),
            segments_out: self.segments_out.cast_unsigned(),
            segments_in: self.segments_in.cast_unsigned(),
            retransmits: self.retransmits.cast_unsigned(),
            syn_retransmits: self.syn_retransmits.cast_unsigned(),
            rtos: self.rtos.cast_unsigned(),
            set_failures: self.set_failures.cast_unsigned(),
            still_open: self.still_open.cast_unsigned(),
            delivered_packets: self.delivered_packets.cast_unsigned(),
            ce_marked_packets: self.ce_marked_packets.cast_unsigned(),
            spurious_retransmits: self.spurious_retransmits.cast_unsigned(),
        }
    }
}
