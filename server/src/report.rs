//! Flow reports: checked as a whole, and turned into columns.

use std::collections::HashSet;

use prost::Message;
use sha2::{Digest, Sha256};
use sockpilot_policy::{
    fault::{Collector, Faults},
    model::LayerName,
};
use sockpilot_proto::v1;

use crate::{names, outcome};

/// Greatest number of cells in a report.
pub const CELLS_MAX: usize = 20_000;
/// Greatest number of samples in a report.
pub const SAMPLES_MAX: usize = 1_000;

const BOOT_ID_CHARS_MAX: usize = 64;
const INTERVAL_LENGTH_S_MAX: u32 = 86_400;
const ATTRIBUTIONS_MAX: usize = 64;
/// More faults than this say nothing new, and a report can have 20,000 of them.
const FAULTS_MAX: usize = 100;
/// The year 2500: keeps seconds far from overflow.
const SECONDS_MAX: u64 = 16_725_225_600;

/// A sound report, as the database takes it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Whose.
    pub node_id: String,
    /// Of which daemon; empty: it does not say.
    pub instance: String,
    /// Of which kernel tables.
    pub boot_id: String,
    /// Grows with every report of the boot id.
    pub sequence: i64,
    /// Records read so far.
    pub records_total: i64,
    /// Records lost so far.
    pub records_dropped: i64,
    /// Cells, by column.
    pub cells: Cells,
    /// Single records.
    pub samples: Vec<Sample>,
}

/// Flow cells by column, all of one length.
#[derive(Debug, Clone, PartialEq, Default)]
#[expect(missing_docs, reason = "they are the columns of flow_cell, documented in the migration")]
pub struct Cells {
    pub layer: Vec<String>,
    pub revision: Vec<i64>,
    pub interval_start_s: Vec<i64>,
    pub interval_length_s: Vec<i32>,
    pub choice: Vec<String>,
    pub direction: Vec<i16>,
    pub size_class: Vec<i16>,
    pub counts: [Vec<i64>; outcome::COUNTS],
    pub distributions: [Vec<Vec<u8>>; 4],
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

/// Checks a report.
///
/// # Errors
/// All faults, up to a hundred.
pub fn check(message: v1::FlowReport) -> Result<Report, Faults> {
    let v1::FlowReport { node_id, boot_id, sequence, records_total, records_dropped, cells, samples, instance } =
        message;
    let mut faults = Budget { faults: Collector::at(""), left: FAULTS_MAX };
    faults.take("node_id", names::node_id(&node_id));
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if !(1..=BOOT_ID_CHARS_MAX).contains(&boot_id.len()) || !boot_id.chars().all(sound) {
        faults.add("boot_id", format!("must be 1 to {BOOT_ID_CHARS_MAX} letters, digits and '-'"));
    }
    let sequence = faults.whole("sequence", sequence);
    if sequence == 0 {
        faults.add("sequence", "is 0; begin with 1".to_owned());
    }
    let records_total = faults.whole("records_total", records_total);
    let records_dropped = faults.whole("records_dropped", records_dropped);
    if cells.len() > CELLS_MAX {
        faults.add("cells", format!("has {} entries; send at most {CELLS_MAX} in one report", cells.len()));
    }
    if samples.len() > SAMPLES_MAX {
        faults.add("samples", format!("has {} entries; send at most {SAMPLES_MAX} in one report", samples.len()));
    }
    let mut columns = Cells::default();
    let mut seen = HashSet::new();
    for (index, cell) in cells.iter().take(CELLS_MAX).enumerate() {
        let path = format!("cells[{index}]");
        if !seen.insert(key(cell)) {
            faults.add(&path, "has the key of another cell of this report; send each cell once".to_owned());
        }
        check_cell(cell, &path, &mut columns, &mut faults);
    }
    let mut rows = vec![];
    for (index, sample) in samples.into_iter().take(SAMPLES_MAX).enumerate() {
        rows.push(check_sample(sample, &format!("samples[{index}]"), (&node_id, &boot_id), &mut faults));
    }
    faults.faults.finish(Report {
        node_id,
        instance,
        boot_id,
        sequence,
        records_total,
        records_dropped,
        cells: columns,
        samples: rows,
    })
}

/// Faults up to a number.
struct Budget {
    faults: Collector,
    left: usize,
}

impl Budget {
    fn add(&mut self, field: &str, description: String) {
        if self.left > 0 {
            self.left -= 1;
            self.faults.add_at(field, description);
        }
    }

    fn take<T>(&mut self, field: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|description| self.add(field, description)).ok()
    }

    /// A number that the database can hold.
    fn whole(&mut self, field: &str, number: u64) -> i64 {
        i64::try_from(number).unwrap_or_else(|_| {
            self.add(field, format!("is {number}; the greatest is {}", i64::MAX));
            0
        })
    }
}

fn key(cell: &v1::FlowCell) -> (u64, u32, &str, u64, &str, i32, i32) {
    let v1::FlowCell { interval_start_s, interval_length_s, layer, revision, choice, direction, size_class, .. } = cell;
    (*interval_start_s, *interval_length_s, layer, *revision, choice, *direction, *size_class)
}

fn check_cell(cell: &v1::FlowCell, path: &str, columns: &mut Cells, faults: &mut Budget) {
    let v1::FlowCell {
        interval_start_s,
        interval_length_s,
        layer,
        revision,
        choice,
        direction,
        size_class,
        counts,
        connect_time_us,
        srtt_us,
        duration_us,
        established_cwnd,
    } = cell;
    let at = |field: &str| format!("{path}.{field}");
    if !(1..=INTERVAL_LENGTH_S_MAX).contains(interval_length_s) {
        faults
            .add(&at("interval_length_s"), format!("is {interval_length_s}; it must be 1 to {INTERVAL_LENGTH_S_MAX}"));
    } else if *interval_start_s > SECONDS_MAX || interval_start_s % u64::from(*interval_length_s) != 0 {
        let wanted = "must be a time, and a multiple of the interval's length";
        faults.add(&at("interval_start_s"), format!("is {interval_start_s}; it {wanted}"));
    }
    check_attribution(layer, *revision, choice, path, faults);
    if !matches!(v1::Direction::try_from(*direction), Ok(v1::Direction::Active | v1::Direction::Passive)) {
        faults.add(&at("direction"), "must be DIRECTION_ACTIVE or DIRECTION_PASSIVE".to_owned());
    }
    if !matches!(v1::SizeClass::try_from(*size_class), Ok(class) if class != v1::SizeClass::Unspecified) {
        faults.add(&at("size_class"), "must be one of the size classes".to_owned());
    }
    columns.layer.push(layer.clone());
    columns.revision.push(revision.cast_signed());
    columns.interval_start_s.push(interval_start_s.cast_signed());
    columns.interval_length_s.push(interval_length_s.cast_signed());
    columns.choice.push(choice.clone());
    columns.direction.push(i16::try_from(*direction).unwrap_or_default());
    columns.size_class.push(i16::try_from(*size_class).unwrap_or_default());
    check_counts(counts.as_ref(), &at("counts"), columns, faults);
    let parts = [
        ("connect_time_us", connect_time_us),
        ("srtt_us", srtt_us),
        ("duration_us", duration_us),
        ("established_cwnd", established_cwnd),
    ];
    let flows = counts.as_ref().map_or(0, |counts| counts.flows);
    for ((field, part), column) in parts.into_iter().zip(&mut columns.distributions) {
        column.push(part.as_ref().map(Message::encode_to_vec).unwrap_or_default());
        let Some(part) = part else { continue };
        if let Err(error) = outcome::distribution(part) {
            faults.add(&at(field), error.to_string());
        } else if part.count > flows {
            faults.add(&at(field), format!("is of {} flows, but the cell has {flows}", part.count));
        }
    }
}

fn check_counts(counts: Option<&v1::FlowCounts>, path: &str, columns: &mut Cells, faults: &mut Budget) {
    let counts = counts.copied().unwrap_or_default();
    let v1::FlowCounts { flows, established, failed, reset, timed_out, still_open, .. } = counts;
    if flows == 0 && still_open == 0 {
        faults.add(&format!("{path}.flows"), "is 0; send no cell without a record".to_owned());
    }
    let outcomes = [established, failed, reset, timed_out].into_iter().try_fold(0_u64, u64::checked_add);
    if outcomes != Some(flows) {
        faults.add(&format!("{path}.flows"), format!("is {flows}, but the outcomes do not add up to it"));
    }
    for (field, column) in outcome::fields(&counts).into_iter().zip(&mut columns.counts) {
        column.push(faults.whole(path, field));
    }
}

fn check_attribution(layer: &str, revision: u64, choice: &str, path: &str, faults: &mut Budget) {
    faults.take(&format!("{path}.layer"), layer.parse::<LayerName>());
    if revision == 0 || i64::try_from(revision).is_err() {
        faults.add(&format!("{path}.revision"), format!("is {revision}; revisions begin with 1"));
    }
    faults.take(&format!("{path}.choice"), choice.parse::<sockpilot_policy::model::Id>());
}

fn check_sample(sample: v1::FlowSample, path: &str, of: (&str, &str), faults: &mut Budget) -> Sample {
    let sample = v1::FlowSample { node: String::new(), ..sample };
    for (field, address) in [("local_address", &sample.local_address), ("remote_address", &sample.remote_address)] {
        if address.parse::<std::net::IpAddr>().is_err() {
            faults.add(&format!("{path}.{field}"), "is no address; write 192.0.2.1 or 2001:db8::1".to_owned());
        }
    }
    for (field, port) in [("local_port", sample.local_port), ("remote_port", sample.remote_port)] {
        if port > u32::from(u16::MAX) {
            faults.add(&format!("{path}.{field}"), format!("is {port}; ports end at {}", u16::MAX));
        }
    }
    if sample.close_time.is_none_or(|time| {
        !(0..=SECONDS_MAX.cast_signed()).contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos)
    }) {
        faults.add(&format!("{path}.close_time"), "is missing or no time".to_owned());
    }
    if v1::Direction::try_from(sample.direction).is_err() {
        faults.add(&format!("{path}.direction"), "is unknown".to_owned());
    }
    if v1::Outcome::try_from(sample.outcome).is_err() {
        faults.add(&format!("{path}.outcome"), "is unknown".to_owned());
    }
    if sample.attributions.len() > ATTRIBUTIONS_MAX {
        faults.add(&format!("{path}.attributions"), format!("has more than {ATTRIBUTIONS_MAX} entries"));
    }
    let mut layers = vec![];
    for (index, attribution) in sample.attributions.iter().take(ATTRIBUTIONS_MAX).enumerate() {
        let v1::Attribution { layer, revision, choice } = attribution;
        check_attribution(layer, *revision, choice, &format!("{path}.attributions[{index}]"), faults);
        layers.push(layer.clone());
    }
    let encoded = sample.encode_to_vec();
    let mut hash = Sha256::new();
    for part in [of.0.as_bytes(), b"/", of.1.as_bytes(), b"/", &encoded] {
        hash.update(part);
    }
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&hash.finalize()[..16]);
    Sample { fingerprint, layers, encoded }
}
