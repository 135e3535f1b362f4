//! Flow reports, checked as a whole.

use std::collections::HashSet;

use prost::Message;
use sha2::{Digest, Sha256};
use sockpilot_policy::fault::{Collector, Faults};
use sockpilot_proto::{
    cell::{CellFault, SECONDS_MAX, cell_from_proto, check_attribution},
    v1,
};

use crate::outcome::report::{Report, Sample, StoredCell};

/// Greatest number of cells in a report.
pub const CELLS_MAX: usize = 20_000;
/// Greatest number of samples in a report.
pub const SAMPLES_MAX: usize = 1_000;
/// Greatest number of flows in a report that were recorded on request.
pub const RECORDED_MAX: usize = 4_096;

const BOOT_ID_CHARS_MAX: usize = 64;
const ATTRIBUTIONS_MAX: usize = 64;
/// No path is longer.
const SERVICE_BYTES_MAX: usize = 4_096;

/// Checks a report.
///
/// # Errors
/// All faults, up to a hundred.
pub fn report(message: v1::FlowReport) -> Result<Report, Faults> {
    let v1::FlowReport {
        node_id,
        boot_id,
        sequence,
        records_total,
        records_dropped,
        cells,
        samples,
        instance,
        recorded,
        recorded_left_out,
    } = message;
    let mut faults = Found(Collector::at(""));
    faults.take("node_id", sockpilot_policy::validate::node_id(&node_id));
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
    if recorded.len() > RECORDED_MAX {
        faults.add("recorded", format!("has {} entries; send at most {RECORDED_MAX} in one report", recorded.len()));
    }
    let mut sound = Vec::with_capacity(cells.len().min(CELLS_MAX));
    let mut seen = HashSet::new();
    for (index, cell) in cells.iter().take(CELLS_MAX).enumerate() {
        let path = format!("cells[{index}]");
        if !seen.insert(key(cell)) {
            faults.add(&path, "has the key of another cell of this report; send each cell once".to_owned());
        }
        match cell_from_proto(cell) {
            Ok((key, content)) => sound.push(StoredCell::new(key, &content)),
            Err(found) => faults.add_all(&path, found),
        }
    }
    let mut check = |field: &str, samples: Vec<v1::FlowSample>, most: usize| -> Vec<Sample> {
        let samples = samples.into_iter().take(most).enumerate();
        let of = (node_id.as_str(), boot_id.as_str());
        samples.map(|(index, sample)| check_sample(sample, &format!("{field}[{index}]"), of, &mut faults)).collect()
    };
    let samples = check("samples", samples, SAMPLES_MAX);
    let recorded = check("recorded", recorded, RECORDED_MAX);
    faults.0.finish(Report {
        node_id,
        instance,
        boot_id,
        sequence,
        records_total,
        records_dropped,
        cells: sound,
        samples,
        recorded,
        recorded_left_out,
    })
}

/// Faults, with paths as cells have them.
struct Found(Collector);

impl Found {
    fn add(&mut self, field: &str, description: String) {
        self.0.add_at(field, description);
    }

    fn add_all(&mut self, path: &str, found: Vec<CellFault>) {
        for CellFault { field, description } in found {
            self.add(&format!("{path}.{field}"), description);
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

fn check_sample(sample: v1::FlowSample, path: &str, of: (&str, &str), faults: &mut Found) -> Sample {
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
    if !sample.weight.is_finite() || sample.weight < 0.0 {
        faults.add(&format!("{path}.weight"), format!("is {}; it must be 0 or more", sample.weight));
    }
    if sample.service.len() > SERVICE_BYTES_MAX {
        faults.add(&format!("{path}.service"), format!("has more than {SERVICE_BYTES_MAX} bytes"));
    }
    if sample.attributions.len() > ATTRIBUTIONS_MAX {
        faults.add(&format!("{path}.attributions"), format!("has more than {ATTRIBUTIONS_MAX} entries"));
    }
    let mut layers = vec![];
    for (index, attribution) in sample.attributions.iter().take(ATTRIBUTIONS_MAX).enumerate() {
        let v1::Attribution { layer, revision, choice } = attribution;
        let mut found = vec![];
        check_attribution(layer, *revision, choice, &mut found);
        faults.add_all(&format!("{path}.attributions[{index}]"), found);
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
