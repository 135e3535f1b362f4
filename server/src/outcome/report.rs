//! Flow reports, sound as a whole.

use sockpilot_outcomes::{CellKey, Content, Measured};
use sockpilot_policy::{measure::Columns, model::Comparison, unit};
use sockpilot_proto::{
    cell::{encode_content, size_class_to_proto},
    convert::direction_to_proto,
};

/// A sound report, as the database takes it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    pub node_id: String,
    /// Of which daemon; empty: it does not say.
    pub instance: String,
    pub boot_id: String,
    /// Grows with every report of the boot id.
    pub sequence: i64,
    /// Records read so far.
    pub records_total: i64,
    /// Records lost so far.
    pub records_dropped: i64,
    /// What changed since the last one.
    pub cells: Vec<StoredCell>,
    /// Recorded flows: a sample.
    pub samples: Vec<Sample>,
    /// Recorded on request.
    pub recorded: Vec<Sample>,
    /// Were to be, and are not.
    pub recorded_left_out: u64,
}

/// A cell as it is stored: its key, and what it holds in bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredCell {
    /// What tells it from others of its node.
    pub key: CellKey,
    /// What it holds.
    pub value: Vec<u8>,
    /// Of what an experiment measures.
    pub shape: Option<Shape>,
}

/// What the design of an epoch says of a cell that measures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How many columns it has of attempts, and of established connections.
    pub columns: (usize, usize),
    /// The first and the last group.
    pub groups: Option<(u32, u32)>,
}

impl StoredCell {
    /// A checked cell.
    #[must_use]
    pub fn new(key: CellKey, content: &Content) -> Self {
        let shape = match content {
            Content::Flows(_) => None,
            Content::Measured(Measured { attempts, established, groups, .. }) => Some(Shape {
                columns: (attempts.mean.len(), established.mean.len()),
                groups: groups
                    .first_key_value()
                    .zip(groups.last_key_value())
                    .map(|((first, _), (last, _))| (*first, *last)),
            }),
        };
        Self { key, value: encode_content(content), shape }
    }

    /// Whether an epoch of this design can have such a cell of a node. Others could never be added up with its cells, or would stand for
    /// units that are not the node's.
    #[must_use]
    pub fn fits(&self, comparison: &Comparison, node_id: &str) -> bool {
        let Some(Shape { columns, groups }) = self.shape else { return true };
        let Columns { attempts, established, .. } = Columns::of(&comparison.measures);
        let interval = self.key.interval;
        let may = unit::groups_of(comparison, node_id, (interval.start_s, interval.end_s()));
        let are_its = match (groups, may) {
            (None, None) => true,
            (Some((first, last)), Some((least, most))) => least <= first && last <= most,
            (None, Some(_)) | (Some(_), None) => false,
        };
        columns == (attempts.len(), established.len()) && are_its
    }

    /// When its interval begins.
    #[must_use]
    pub fn start_s(&self) -> i64 {
        self.key.interval.start_s.cast_signed()
    }

    /// Number of a `sockpilot.v1.Direction`.
    #[must_use]
    pub fn direction(&self) -> i16 {
        small(direction_to_proto(self.key.direction).into())
    }

    /// Number of a `sockpilot.v1.SizeClass`; of what an experiment measures 0.
    #[must_use]
    pub fn size_class(&self) -> i16 {
        self.key.size_class.map_or(0, |class| small(size_class_to_proto(class).into()))
    }
}

/// Numbers of these enumerations are small.
fn small(number: i32) -> i16 {
    i16::try_from(number).unwrap_or_default()
}

/// A single flow record.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Of node, boot id and content.
    pub fingerprint: [u8; 16],
    /// The layers that matched.
    pub layers: Vec<String>,
    /// An encoded `sockpilot.v1.FlowSample`.
    pub encoded: Vec<u8>,
}

/// What was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ingested {
    /// The highest sequence committed for the boot id.
    pub sequence: u64,
    /// Cells left out because those of their time were deleted.
    pub too_late: u64,
    /// Cells left out because they measure something else than the epoch that they name, or there is none.
    pub foreign: u64,
    /// Cells of slots of time left out because the node's clock is off.
    pub clock_off: u64,
}
