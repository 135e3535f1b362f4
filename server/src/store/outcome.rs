//! Outcomes: flow cells merged.

use std::collections::HashMap;

use chrono::DateTime;
use futures::{TryStreamExt, stream::BoxStream};
use sockpilot_outcomes::Content;
use sockpilot_proto::cell::INTERVAL_LENGTH_S_MAX;

use super::{
    choice::{self, Known},
    connection::PgConnection,
    control,
    error::{Error, Operation, Result},
    layer, node, rollup,
};
use crate::{
    change::notes::Warning,
    outcome::{
        Kept, Key, Level,
        cover::{Segment, cover},
        query::{Filter, Found},
    },
};

/// Cells are at most so long.
const CELL_LENGTH_S_MAX: i64 = INTERVAL_LENGTH_S_MAX as i64;

/// Merges the outcomes that match, row by row as they come: from what is merged already where that is up to date, else from cells.
///
/// # Errors
/// If there never was such a policy, experiment or node, or the database fails.
pub async fn query(conn: &mut PgConnection, filter: &Filter) -> Result<Found> {
    if layer::object(&mut *conn, &filter.name).await?.is_none() {
        return Err(Error::NotFound { name: filter.name.to_string() });
    }
    if !filter.node_id.is_empty() && !node::exists(&mut *conn, &filter.node_id).await? {
        return Err(Error::NotFound { name: format!("nodes/{}", filter.node_id) });
    }
    let revision = (filter.revision > 0).then(|| i64::try_from(filter.revision).unwrap_or(i64::MAX));
    let known = choice::of_layer(&mut *conn, &filter.name.to_string(), revision).await?;
    let mut merge = Merge {
        filter,
        known: known.into_iter().map(|known| (known.choice_id, known)).collect(),
        found: Found::default(),
    };
    let since_s = match filter.since_s {
        Some(since_s) => Some(control::now(&mut *conn).await?.timestamp() - since_s),
        None => None,
    };
    let from_s = since_s.or(filter.start_s).unwrap_or(0).max(0);
    let to_s = filter.end_s.unwrap_or(i64::MAX);
    if let Some(reach_s) = since_s {
        merge.cells(&mut *conn, reach_s - CELL_LENGTH_S_MAX, reach_s.min(to_s), reach_s).await?;
    }
    // Of a single node there are only cells.
    let buckets = if filter.node_id.is_empty() { rollup::up_to_date(&mut *conn, from_s, to_s).await? } else { vec![] };
    for Segment { level, from_s, to_s } in cover(from_s, to_s, &buckets) {
        match level {
            Some(level) => merge.buckets(&mut *conn, level, from_s, to_s).await?,
            None => merge.cells(&mut *conn, from_s, to_s, from_s).await?,
        }
    }
    let mut found = merge.found;
    found.warnings = warnings(conn, filter, since_s).await?;
    Ok(found)
}

/// Outcomes as they are put together.
struct Merge<'a> {
    filter: &'a Filter,
    known: HashMap<i32, Known>,
    found: Found,
}

type Row = (i32, i16, i16, Vec<u8>);

impl Merge<'_> {
    fn ids(&self) -> Vec<i32> {
        self.known.keys().copied().collect()
    }

    async fn buckets(&mut self, conn: &mut PgConnection, level: Level, from_s: i64, to_s: i64) -> Result<()> {
        let rows = sqlx::query_as::<_, Row>(
            "SELECT choice_id, direction, size_class, value FROM flow_rollup
             WHERE length_s = $1 AND start_s >= $2 AND start_s < $3 AND choice_id = ANY($4) AND ($5 = 0 OR direction = $5)
                 AND size_class > 0",
        )
        .bind(level.length_s())
        .bind(from_s)
        .bind(to_s)
        .bind(self.ids())
        .bind(self.filter.direction);
        self.add(rows.fetch(conn)).await
    }

    /// Cells that begin in [from_s, to_s) and reach beyond `reach_s`.
    async fn cells(&mut self, conn: &mut PgConnection, from_s: i64, to_s: i64, reach_s: i64) -> Result<()> {
        let rows = sqlx::query_as::<_, Row>(
            "SELECT choice_id, direction, size_class, value FROM flow_cell
             WHERE interval_start_s >= $1 AND interval_start_s < $2 AND interval_start_s + interval_length_s > $3
                 AND choice_id = ANY($4) AND ($5 = 0 OR direction = $5) AND size_class > 0
                 AND ($6 = '' OR source_id IN (SELECT source_id FROM flow_report_head WHERE node_id = $6))",
        )
        .bind(from_s)
        .bind(to_s)
        .bind(reach_s)
        .bind(self.ids())
        .bind(self.filter.direction)
        .bind(&self.filter.node_id);
        self.add(rows.fetch(conn)).await
    }

    async fn add(&mut self, mut rows: BoxStream<'_, std::result::Result<Row, sqlx::Error>>) -> Result<()> {
        while let Some((choice_id, direction, size_class, value)) = rows.try_next().await.during("outcome.query")? {
            let Some(Known { revision, choice, .. }) = self.known.get(&choice_id) else { continue };
            let size_class = if self.filter.by_size_class { size_class } else { 0 };
            let (revision, choice) = (revision.cast_unsigned(), choice.clone());
            let key = Key { revision, choice, direction: direction.into(), size_class: size_class.into() };
            if let Content::Flows(sums) = rollup::content(&value)? {
                self.found.rows.entry(key).or_default().merge(&sums);
            }
        }
        Ok(())
    }
}

/// Says what of the time asked for is kept in less detail than the question has.
async fn warnings(conn: &mut PgConnection, filter: &Filter, since_s: Option<i64>) -> Result<Vec<Warning>> {
    let (cells_from_s, minutes_from_s, hours_from_s) =
        sqlx::query_as("SELECT cells_from_s, minutes_from_s, hours_from_s FROM outcome_kept")
            .fetch_one(conn)
            .await
            .during("outcome.kept")?;
    let kept = Kept { cells_from_s, minutes_from_s, hours_from_s };
    let mut warnings = vec![];
    let mut warn = |field: &str, description: String| warnings.push(Warning::new(field, description));
    let begin_s = since_s.or(filter.start_s);
    if !filter.node_id.is_empty() && begin_s.unwrap_or(0) < cells_from_s {
        let since = time(cells_from_s);
        warn("node", format!("outcomes of single nodes are kept since {since}; what was before is not known"));
        return Ok(warnings);
    }
    let begin = if since_s.is_some() { "since" } else { "start_time" };
    for (field, edge_s) in [(begin, begin_s), ("end_time", filter.end_s)] {
        if let Some(level) = edge_s.and_then(|edge_s| kept.merged_over(edge_s)) {
            let length_s = level.length_s();
            warn(
                field,
                format!(
                    "so long ago outcomes are kept merged over {length_s} s; of the part that it cuts off nothing is known"
                ),
            );
        }
    }
    Ok(warnings)
}

fn time(second: i64) -> String {
    DateTime::from_timestamp(second, 0).map_or_else(|| second.to_string(), |time| time.format("%FT%TZ").to_string())
}
