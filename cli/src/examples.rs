//! Every example of the documentation is read and validated as a server would do it.

use crate::document::{self, Document};
use crate::yaml;
use sockpilot_proto::convert::{experiment_from_proto, policy_from_proto, zone_map_from_proto};
use std::path::Path;

#[test]
fn every_example_is_valid() {
    assert!(validate("../docs/examples") >= 5);
}

#[test]
fn every_sample_is_valid() {
    assert_eq!(validate("../docs/samples"), 12);
}

/// Reads and validates every document of a folder. Returns how many there are.
fn validate(folder: &str) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        for root in yaml::parse(&text).unwrap_or_else(|error| panic!("{file}: {error}")) {
            let source = document::read(&file, &root).unwrap_or_else(|problems| panic!("{file}: {problems:#?}"));
            match &source.document {
                Document::Policy(policy) => {
                    policy_from_proto(policy, "policy").unwrap_or_else(|faults| panic!("{file}: {faults}"));
                }
                Document::Experiment(experiment) => {
                    experiment_from_proto(experiment, "experiment").unwrap_or_else(|faults| panic!("{file}: {faults}"));
                }
                Document::ZoneMap(map) => {
                    zone_map_from_proto(map, "zone_map").unwrap_or_else(|faults| panic!("{file}: {faults}"));
                }
                // What they may say is the server's business alone.
                Document::RolloutPlan(_) | Document::RolloutSettings(_) => {}
            }
            seen += 1;
        }
    }
    seen
}
