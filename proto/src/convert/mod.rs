//! Between wire and domain types.
//!
//! Rules: input is validated here and nowhere else, as a whole, with the path of every fault. Messages are
//! destructured in full, so that a new field does not compile until somebody has decided what it means. Towards the wire
//! nothing can fail.

mod document;
mod experiment;
mod facts;
mod layer;
mod matches;
mod parameters;
mod rollout;
mod snapshot;
mod zones;

use std::str::FromStr;

use sockpilot_policy::{
    fault::Collector,
    model::{Id, Labels},
    validate,
};

pub use self::{
    document::{experiment_from_proto, policy_from_proto},
    experiment::{comparison_from_proto, measure_from_proto, measure_to_proto},
    facts::{kernel_facts_from_proto, kernel_facts_to_proto},
    layer::{layer_of_experiment, layer_of_policy},
    matches::direction_to_proto,
    parameters::parameters_to_proto,
    snapshot::snapshot_from_proto,
    zones::zone_map_from_proto,
};

fn parsed<T: FromStr<Err = String>>(name: &str, texts: &[String], faults: &mut Collector) -> Vec<T> {
    faults.each(name, texts, |faults, text| faults.take(text.parse())).into_iter().flatten().collect()
}

/// Reads an id; with a fault the walk goes on with a stand-in that can never reach a caller.
fn id(text: &str, faults: &mut Collector) -> Id {
    validate::id(text, faults).unwrap_or_else(stand_in)
}

fn stand_in() -> Id {
    "invalid".parse().expect("a sound id")
}

/// An enum's value; an unknown one is noted, and read as unspecified.
fn known<E: TryFrom<i32> + Default>(field: &str, number: i32, write: &str, faults: &mut Collector) -> E {
    E::try_from(number).unwrap_or_else(|_| {
        faults.add_at(field, format!("{number} is unknown here; write {write}"));
        E::default()
    })
}

fn labels(labels: &std::collections::HashMap<String, String>) -> Labels {
    labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}
