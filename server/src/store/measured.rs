//! What rollouts measure: the design, and sums by node.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use sockpilot_outcomes::{Content, Measured};
use sockpilot_policy::model::Comparison;
use sockpilot_proto::v1;
use sockpilot_stats::CoMoments;

use super::{
    choice,
    connection::PgConnection,
    error::{Error, Operation, Result},
    rollout, rollup,
};

/// What rollouts measure, as designs of comparisons; of those that there are.
pub async fn designs(conn: &mut PgConnection, wanted: &[(String, i64)]) -> Result<BTreeMap<(String, i64), Comparison>> {
    let found = rollout::of_revisions(conn, wanted).await?;
    Ok(found.iter().map(|of| ((of.name.clone(), of.revision.cast_signed()), of.comparison())).collect())
}

/// What was measured of a node around the beginning of a step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodePeriod {
    /// Before it, of connections that had what everyone had.
    pub before: v1::NodeSums,
    /// After it, of those that had the revision.
    pub with: v1::NodeSums,
    /// After it, of those that had not.
    pub without: v1::NodeSums,
}

/// What was measured of a rollout by node, in intervals between the first and the last second, before and after the one between.
pub async fn by_node(
    conn: &mut PgConnection,
    layer: &str,
    revision: i64,
    (before_s, from_s, to_s): (i64, i64, i64),
) -> Result<BTreeMap<String, NodePeriod>> {
    let known = choice::of_layer(&mut *conn, layer, Some(revision)).await?;
    let parts: BTreeMap<i32, String> = known.into_iter().map(|known| (known.choice_id, known.choice)).collect();
    let mut found: BTreeMap<String, [Measured; 3]> = BTreeMap::new();
    let mut rows = sqlx::query_as::<_, (String, i32, bool, Vec<u8>)>(
        "SELECT node_id, choice_id, interval_start_s >= $3, value FROM flow_cell JOIN flow_report_head USING (source_id)
         WHERE interval_start_s >= $2 AND interval_start_s + interval_length_s <= $4 AND choice_id = ANY($1) AND size_class = 0
             AND (interval_start_s >= $3 OR interval_start_s + interval_length_s <= $3)
         ORDER BY interval_start_s, choice_id, source_id, direction, interval_length_s",
    )
    .bind(parts.keys().copied().collect::<Vec<_>>())
    .bind(before_s)
    .bind(from_s)
    .bind(to_s)
    .fetch(conn);
    while let Some((node_id, choice_id, after, value)) = rows.try_next().await.during("measured.by_node")? {
        let (Some(part), Content::Measured(measured)) = (parts.get(&choice_id), rollup::content(&value)?) else {
            continue;
        };
        let with = matches!(part.as_str(), "all" | "canary");
        let at = match (after, with) {
            (false, false) => 0,
            (true, true) => 1,
            (true, false) => 2,
            // Of an earlier step: neither one nor the other.
            (false, true) => continue,
        };
        let merged = found.entry(node_id).or_default()[at].merge(&measured);
        merged.map_err(|error| Error::corrupt("what a rollout measures", error))?;
    }
    let period = |[before, with, without]: [Measured; 3]| {
        let [before, with, without] = [sums(&before), sums(&with), sums(&without)];
        NodePeriod { before, with, without }
    };
    Ok(found.into_iter().map(|(node_id, parts)| (node_id, period(parts))).collect())
}

fn sums(measured: &Measured) -> v1::NodeSums {
    let totals = |moments: &CoMoments| moments.mean.iter().map(|mean| mean * moments.count as f64).collect();
    v1::NodeSums {
        attempts: measured.attempts.count,
        established: measured.established.count,
        attempt_sums: totals(&measured.attempts),
        established_sums: totals(&measured.established),
    }
}
