//! Which outcomes are asked for, and what is answered.

use prost_types::{Duration, Timestamp};
use sockpilot_outcomes::Sums;
use sockpilot_policy::{
    fault::{Collector, Faults},
    model::LayerName,
};
use sockpilot_proto::{cell::row_to_proto, v1};

use crate::{
    change::names,
    outcome::{Key, query::Filter},
};

/// Years 1 to 9999, as google.protobuf.Timestamp has it.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// The first whole second that is not before a time.
pub(super) fn seconds(field: &str, time: Option<Timestamp>, faults: &mut Collector) -> Option<i64> {
    let Timestamp { seconds, nanos } = time?;
    if !SECONDS.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        faults.add_at(field, "is no time; write one of the years 1 to 9999");
        return None;
    }
    Some(seconds + i64::from(nanos > 0))
}

/// A span of time in whole seconds, at least as long as it is.
pub(super) fn span_s(field: &str, span: Duration, faults: &mut Collector) -> Option<i64> {
    let sound = span.seconds >= 0 && (0..1_000_000_000).contains(&span.nanos) && span.seconds < *SECONDS.end();
    if !sound {
        faults.add_at(field, "is no time span; write one of 0 s or more");
    }
    sound.then(|| span.seconds + i64::from(span.nanos > 0))
}

/// Reads which outcomes are asked for.
pub fn outcome_filter(request: v1::QueryOutcomesRequest) -> Result<Filter, Faults> {
    let v1::QueryOutcomesRequest { name, revision, start_time, end_time, direction, node, by_size_class, since } =
        request;
    let mut faults = Collector::at("");
    let name: Option<LayerName> = faults.field("name", |faults| faults.take(name.parse()));
    let start_s = seconds("start_time", start_time, &mut faults);
    let end_s = seconds("end_time", end_time, &mut faults);
    if since.is_some() && start_time.is_some() {
        faults.add_at("since", "stands beside start_time; leave one of them out");
    }
    let since_s = since.and_then(|since| span_s("since", since, &mut faults));
    if let (Some(start), Some(end)) = (start_s, end_s)
        && start > end
    {
        faults.add_at("end_time", "is before start_time; swap them");
    }
    if v1::Direction::try_from(direction).is_err() {
        faults.add_at("direction", format!("{direction} is unknown; write DIRECTION_ACTIVE or DIRECTION_PASSIVE"));
    }
    let node_id = faults.field("node", |faults| faults.take(names::node(&node)));
    let (name, node_id) = faults.finish((name, node_id))?;
    let name = name.ok_or_else(|| Faults::one("name", "is missing"))?;
    let direction = i16::try_from(direction).unwrap_or_default();
    Ok(Filter {
        name,
        revision,
        start_s,
        since_s,
        end_s,
        direction,
        node_id: node_id.unwrap_or_default(),
        by_size_class,
    })
}

pub fn outcome_row(key: Key, sums: &Sums) -> v1::OutcomeRow {
    let Key { revision, choice, direction, size_class } = key;
    v1::OutcomeRow { revision, choice, direction, size_class, ..row_to_proto(sums) }
}
