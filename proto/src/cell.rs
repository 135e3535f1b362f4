//! Cells and rows of outcomes: the only place where their wire and domain types meet. Which quantities there are follows from the
//! table of quantities (`build.rs`).

mod measured;

use std::sync::Arc;

use prost::{DecodeError, Message};
use sockpilot_outcomes::{
    CellKey, Choice, Content, Counts, Distributions, Interval, Measured, Outcome, SizeClass, Sums,
};
use sockpilot_policy::model::{Direction, Id, LayerName};
use sockpilot_stats::{Distribution, Moments, Summary};

use self::measured::checked_measured;
pub use self::measured::{measured_from_proto, measured_to_proto};
use crate::{convert::direction_to_proto, v1};

include!(concat!(env!("OUT_DIR"), "/quantities.rs"));

/// Greatest length of an interval: a day.
pub const INTERVAL_LENGTH_S_MAX: u32 = 86_400;
/// The year 2500: keeps seconds far from overflow.
pub const SECONDS_MAX: u64 = 16_725_225_600;

/// What is wrong with a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellFault {
    /// Path of the field in the cell.
    pub field: String,
    /// What is wrong, and what would be right.
    pub description: String,
}

/// Why stored bytes are no sums.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StoredSumsError {
    /// They are no message.
    #[error("stored sums cannot be decoded: {0}")]
    Decode(DecodeError),
    /// A quantity in them is unsound.
    #[error("stored sums are unsound: {field} {description}")]
    Unsound {
        /// Path of the field.
        field: String,
        /// In which way.
        description: String,
    },
}

/// A cell as it stands on the wire and in the journal.
#[must_use]
pub fn cell_to_proto(key: &CellKey, content: &Content) -> v1::FlowCell {
    let CellKey { interval, choice, direction, size_class } = key;
    v1::FlowCell {
        interval_start_s: interval.start_s,
        interval_length_s: interval.length_s,
        layer: choice.layer.clone(),
        revision: choice.revision,
        choice: choice.name.clone(),
        direction: direction_to_proto(*direction).into(),
        size_class: size_class.map_or(v1::SizeClass::Unspecified, size_class_to_proto).into(),
        ..content_to_proto(content)
    }
}

/// Reads and checks a cell.
///
/// # Errors
/// Everything that is wrong with it.
pub fn cell_from_proto(cell: &v1::FlowCell) -> Result<(CellKey, Content), Vec<CellFault>> {
    let mut faults = vec![];
    let key = key_from_proto(cell, &mut faults);
    let content = match &cell.measured {
        Some(measured) => Content::Measured(checked_measured(cell, measured, &mut faults)),
        None => Content::Flows(checked_sums(cell, &mut faults)),
    };
    match key {
        Some(key) if faults.is_empty() => Ok((key, content)),
        _ => Err(faults),
    }
}

fn key_from_proto(cell: &v1::FlowCell, faults: &mut Vec<CellFault>) -> Option<CellKey> {
    let v1::FlowCell { interval_start_s, interval_length_s, layer, revision, choice, direction, size_class, .. } = cell;
    let (start_s, length_s) = (*interval_start_s, *interval_length_s);
    if !(1..=INTERVAL_LENGTH_S_MAX).contains(&length_s) {
        fault(faults, "interval_length_s", format!("is {length_s}; it must be 1 to {INTERVAL_LENGTH_S_MAX}"));
    } else if start_s > SECONDS_MAX || start_s % u64::from(length_s) != 0 {
        let wanted = "must be a time, and a multiple of the interval's length";
        fault(faults, "interval_start_s", format!("is {start_s}; it {wanted}"));
    }
    check_attribution(layer, *revision, choice, faults);
    let direction = match v1::Direction::try_from(*direction) {
        Ok(v1::Direction::Active) => Some(Direction::Active),
        Ok(v1::Direction::Passive) => Some(Direction::Passive),
        Ok(v1::Direction::Unspecified) | Err(_) => {
            fault(faults, "direction", "must be DIRECTION_ACTIVE or DIRECTION_PASSIVE");
            None
        }
    };
    let size_class = size_class_from_proto(*size_class);
    if size_class.is_some() == cell.measured.is_some() {
        fault(faults, "size_class", "must be one of the size classes, or unspecified beside `measured`");
    }
    Some(CellKey {
        interval: Interval { start_s, length_s },
        choice: Arc::new(Choice { layer: layer.clone(), revision: *revision, name: choice.clone() }),
        direction: direction?,
        size_class,
    })
}

/// Checks whose outcome something is.
pub fn check_attribution(layer: &str, revision: u64, choice: &str, faults: &mut Vec<CellFault>) {
    // What a rollout measures is of its canary and its control, not of rules.
    let of_rollout =
        layer.strip_prefix("rollouts/").map(|id| id.parse::<Id>().map(drop).map_err(|error| error.to_string()));
    let named = of_rollout.unwrap_or_else(|| layer.parse::<LayerName>().map(drop));
    if let Err(description) = named {
        fault(faults, "layer", description);
    }
    if revision == 0 || i64::try_from(revision).is_err() {
        fault(faults, "revision", format!("is {revision}; revisions begin with 1"));
    }
    if let Err(description) = choice.parse::<Id>() {
        fault(faults, "choice", description);
    }
}

fn sums_from_proto(cell: &v1::FlowCell, faults: &mut Vec<CellFault>) -> Sums {
    let counts = cell.counts.as_ref().map(counts_from_proto).unwrap_or_default();
    Sums { counts, distributions: distributions_from_proto(cell, faults) }
}

fn checked_sums(cell: &v1::FlowCell, faults: &mut Vec<CellFault>) -> Sums {
    let sums = sums_from_proto(cell, faults);
    for error in sums.contradictions() {
        let counted = sums.counts.each().any(|(name, _)| name == error.quantity);
        let field = if counted { format!("counts.{}", error.quantity) } else { error.quantity.to_owned() };
        faults.push(CellFault { field, description: error.problem });
    }
    sums
}

fn fault(faults: &mut Vec<CellFault>, field: &str, description: impl Into<String>) {
    faults.push(CellFault { field: field.to_owned(), description: description.into() });
}

/// What a cell holds, as a cell without key.
#[must_use]
pub fn content_to_proto(content: &Content) -> v1::FlowCell {
    match content {
        Content::Flows(sums) => sums_to_proto(sums),
        Content::Measured(measured) => {
            v1::FlowCell { measured: Some(measured_to_proto(measured)), ..v1::FlowCell::default() }
        }
    }
}

/// What a cell of flows holds, as a cell without key.
#[must_use]
pub fn sums_to_proto(sums: &Sums) -> v1::FlowCell {
    let Sums { counts, distributions } = sums;
    let mut cell = v1::FlowCell { counts: Some(counts_to_proto(counts)), ..v1::FlowCell::default() };
    distributions_to_proto(distributions, &mut cell);
    cell
}

/// What a cell holds, in bytes, as the server stores it: what [`content_to_proto`] says.
#[must_use]
pub fn encode_content(content: &Content) -> Vec<u8> {
    content_to_proto(content).encode_to_vec()
}

/// Reads what [`encode_content`] wrote.
///
/// # Errors
/// If it did not write this.
pub fn decode_content(bytes: &[u8]) -> Result<Content, StoredSumsError> {
    let cell = v1::FlowCell::decode(bytes).map_err(StoredSumsError::Decode)?;
    let mut faults = vec![];
    let content = match &cell.measured {
        None => Content::Flows(sums_from_proto(&cell, &mut faults)),
        Some(measured) => Content::Measured(measured_from_proto(measured).unwrap_or_else(|description| {
            fault(&mut faults, "measured", description);
            Measured::default()
        })),
    };
    match faults.pop() {
        None => Ok(content),
        Some(CellFault { field, description }) => Err(StoredSumsError::Unsound { field, description }),
    }
}

/// A row of outcomes; `revision` and what follows it is the caller's.
#[must_use]
pub fn row_to_proto(sums: &Sums) -> v1::OutcomeRow {
    let Sums { counts, distributions } = sums;
    let Counts { segments_out, retransmits, .. } = *counts;
    let retransmit_ratio = if segments_out == 0 { 0.0 } else { retransmits as f64 / segments_out as f64 };
    let mut row =
        v1::OutcomeRow { counts: Some(counts_to_proto(counts)), retransmit_ratio, ..v1::OutcomeRow::default() };
    quantiles_to_proto(distributions, &mut row);
    row
}

fn quantiles(summary: Summary) -> v1::Quantiles {
    let Summary { count, mean, standard_deviation, min, p50, p90, p99, max } = summary;
    v1::Quantiles { count, mean, standard_deviation, min, p50, p90, p99, max }
}

fn distribution_to_proto(distribution: &Distribution) -> Option<v1::Distribution> {
    let Distribution { moments: Moments { count, mean, m2, min, max }, sketch } = distribution;
    let (count, mean, m2, min, max) = (*count, *mean, *m2, *min, *max);
    (count > 0).then(|| v1::Distribution { count, mean, m2, min, max, sketch: sketch.to_bytes().into() })
}

/// An absent or empty message is the distribution of no flow.
fn distribution_from_proto(
    name: &str,
    message: Option<&v1::Distribution>,
    faults: &mut Vec<CellFault>,
) -> Distribution {
    let Some(message) = message.filter(|message| **message != v1::Distribution::default()) else {
        return Distribution::default();
    };
    let v1::Distribution { count, mean, m2, min, max, sketch } = message;
    let (count, mean, m2, min, max) = (*count, *mean, *m2, *min, *max);
    Distribution::from_parts(Moments { count, mean, m2, min, max }, sketch).unwrap_or_else(|error| {
        fault(faults, name, error.to_string());
        Distribution::default()
    })
}

/// A size class as it stands on the wire.
#[must_use]
pub fn size_class_to_proto(class: SizeClass) -> v1::SizeClass {
    match class {
        SizeClass::Small => v1::SizeClass::Small,
        SizeClass::Medium => v1::SizeClass::Medium,
        SizeClass::Large => v1::SizeClass::Large,
        SizeClass::Huge => v1::SizeClass::Huge,
    }
}

/// The size class of a number on the wire; `None`: none, or none that is known.
#[must_use]
pub fn size_class_from_proto(number: i32) -> Option<SizeClass> {
    match v1::SizeClass::try_from(number).ok()? {
        v1::SizeClass::Unspecified => None,
        v1::SizeClass::Small => Some(SizeClass::Small),
        v1::SizeClass::Medium => Some(SizeClass::Medium),
        v1::SizeClass::Large => Some(SizeClass::Large),
        v1::SizeClass::Huge => Some(SizeClass::Huge),
    }
}

/// What came of a flow, as it stands on the wire.
#[must_use]
pub fn outcome_to_proto(outcome: Outcome) -> v1::Outcome {
    match outcome {
        Outcome::Established => v1::Outcome::Established,
        Outcome::Failed => v1::Outcome::Failed,
        Outcome::Reset => v1::Outcome::Reset,
        Outcome::TimedOut => v1::Outcome::TimedOut,
        Outcome::StillOpen => v1::Outcome::StillOpen,
        Outcome::Abandoned => v1::Outcome::Abandoned,
    }
}

#[cfg(test)]
mod tests {
    use sockpilot_outcomes::{Flow, testing::record};
    use sockpilot_policy::{
        layout::FlowRecord,
        measure::{Columns, Measure, Quantity, Role},
    };

    use super::*;

    fn cell() -> (CellKey, Content) {
        let mut sums = Sums::default();
        for n in 0..100 {
            sums.add(&Flow::of(&FlowRecord { bytes_sent: n * 1_000, srtt_us: n as u32, rtos: 1, ..record() }));
        }
        let key = CellKey {
            interval: Interval::at(1_234, 60),
            choice: Arc::new(Choice { layer: "policies/web".into(), revision: 7, name: "far".into() }),
            direction: Direction::Active,
            size_class: Some(SizeClass::Small),
        };
        (key, Content::Flows(sums))
    }

    #[test]
    fn a_cell_survives_the_wire() {
        let (key, sums) = cell();
        let message = cell_to_proto(&key, &sums);
        assert_eq!(message.interval_start_s, 1_200);
        assert_eq!(cell_from_proto(&message), Ok((key, sums)));
    }

    #[test]
    fn sums_survive_storage() {
        let (_, content) = cell();
        assert_eq!(decode_content(&encode_content(&content)), Ok(content));
        let empty = Content::Flows(Sums::default());
        assert_eq!(decode_content(&encode_content(&empty)), Ok(empty));
        let bad =
            v1::FlowCell { srtt_us: Some(v1::Distribution { count: 1, ..Default::default() }), ..Default::default() };
        assert!(decode_content(&bad.encode_to_vec()).is_err());
    }

    #[test]
    fn everything_wrong_is_named() {
        let none =
            v1::FlowCell { srtt_us: Some(v1::Distribution { count: 1, ..Default::default() }), ..Default::default() };
        let faults = cell_from_proto(&none).expect_err("nothing in it is sound");
        let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
        let key = ["interval_length_s", "layer", "revision", "choice", "direction", "size_class"];
        assert_eq!(fields, [&key[..], &["srtt_us", "counts.flows"]].concat());
    }

    #[test]
    fn what_is_measured_survives_the_wire_or_is_refused() {
        let columns = Columns::of(&[Measure::of(Quantity::SrttUs, Role::Success)]);
        let mut measured = Measured::default();
        for group in [3, 200] {
            measured.add(&columns, &Flow::of(&record()), 1_000_000_000, Some(group));
        }
        let (key, _) = cell();
        let key = CellKey { size_class: None, ..key };
        let content = Content::Measured(measured);
        let message = cell_to_proto(&key, &content);
        assert_eq!(cell_from_proto(&message), Ok((key, content.clone())));
        assert_eq!(decode_content(&encode_content(&content)), Ok(content));
        let fields = |message: &v1::FlowCell| {
            let faults = cell_from_proto(message).expect_err("unsound");
            faults.into_iter().map(|fault| fault.field).collect::<Vec<_>>()
        };
        assert_eq!(fields(&v1::FlowCell { size_class: 1, ..message.clone() }), ["size_class"]);
        let counts = Some(v1::FlowCounts { flows: 1, established: 1, ..Default::default() });
        assert_eq!(fields(&v1::FlowCell { counts, ..message.clone() }), ["measured"]);
        let mut hostile = message;
        if let Some(established) = hostile.measured.as_mut().and_then(|measured| measured.established.as_mut()) {
            established.mean[0] = f64::NAN;
        }
        assert_eq!(fields(&hostile), ["measured", "measured"]);
    }

    #[test]
    fn a_row_has_the_ratio() {
        let (_, Content::Flows(sums)) = cell() else { panic!("a cell of flows") };
        let row = row_to_proto(&sums);
        assert!((row.retransmit_ratio - 0.2).abs() < 1e-12, "{row:?}");
        assert_eq!(row.srtt_us.map(|srtt| srtt.count), Some(99), "0 is no measurement");
    }
}
