//! What the clients saw, sorted by what the server should say about it. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::Duration,
};

use sockpilot_policy::bucket;
use sockpilot_tests::{link::Sighting, traffic::Flow};

/// The arm that the hash gives a connection, of arms that stand one after the other.
pub fn arm_of<'a>(salt: &str, arms: &[(&'a str, u32)], flow: &Flow) -> &'a str {
    let bucket = bucket::flow_bucket(bucket::salt(salt), &flow.key());
    let mut end = 0;
    let mut last = "";
    for (name, weight) in arms {
        end += weight;
        last = name;
        if bucket < end {
            break;
        }
    }
    last
}

/// The time between the first SYN and its first repetition, of connections that needed one.
pub fn first_repetitions(sightings: &[Sighting], since: Duration) -> HashMap<SocketAddr, Duration> {
    let mut first: HashMap<SocketAddr, Duration> = HashMap::new();
    let mut repetitions = HashMap::new();
    for sighting in sightings.iter().filter(|sighting| sighting.segment.is_syn() && sighting.at >= since) {
        let source = sighting.segment.source;
        match first.get(&source) {
            None => drop(first.insert(source, sighting.at)),
            Some(at) => drop(repetitions.entry(source).or_insert(sighting.at - *at)),
        }
    }
    repetitions
}

/// The value below which a share of the values lies.
pub fn quantile<T: Ord + Copy>(values: &[T], share: f64) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let position = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(position).copied()
}

/// How often each value of something occurs.
pub fn frequencies<T: Ord>(values: impl Iterator<Item = T>) -> BTreeMap<T, u64> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_and_none() {
        assert_eq!(quantile::<u32>(&[], 0.5), None);
        assert_eq!(quantile(&[3, 1, 2], 0.5), Some(2));
        assert_eq!(quantile(&[3, 1, 2], 0.99), Some(3));
    }
}
