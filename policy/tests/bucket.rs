//! The bucket is even, stable, and the same for both ends.

use proptest::prelude::*;
use sockpilot_policy::{
    bucket::{BUCKETS, flow_bucket, salt, share_position},
    layout::{ACTIVE, FlowKey, IPV6, PASSIVE},
};

fn flow(seed: u64) -> FlowKey {
    let mut local = [0; 16];
    local[8..].copy_from_slice(&(seed / 1000).to_be_bytes());
    let mut remote = [0; 16];
    remote[15] = 9;
    let (local_port, remote_port) = (30_000 + (seed % 1000) as u16, 443);
    FlowKey { local, remote, local_port, remote_port, family: IPV6, direction: ACTIVE, reserved: 0 }
}

fn other_end(flow: &FlowKey) -> FlowKey {
    let FlowKey { local, remote, local_port, remote_port, family, direction, reserved } = *flow;
    FlowKey {
        local: remote,
        remote: local,
        local_port: remote_port,
        remote_port: local_port,
        family,
        direction: direction ^ ACTIVE ^ PASSIVE,
        reserved,
    }
}

/// Buckets of flows that differ in few bits fill ten classes evenly: chi-square with 9 degrees of freedom is below 33.7
/// in all but one of 10,000 cases.
#[test]
fn even() {
    for name in ["a", "b", "rto-10-90"] {
        let mut classes = [0_u32; 10];
        for seed in 0..100_000 {
            classes[(flow_bucket(salt(name), &flow(seed)) / 1000) as usize] += 1;
        }
        let chi_square: f64 = classes.iter().map(|&n| (f64::from(n) - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi_square < 33.7, "{name}: {classes:?}");
    }
}

/// Experiments with different salts are independent: a tenth of one's tenth is in the other's tenth.
#[test]
fn independent() {
    let tenth = |name: &str, seed| flow_bucket(salt(name), &flow(seed)) < 1000;
    let both = (0..100_000).filter(|&seed| tenth("one", seed) && tenth("two", seed)).count();
    assert!((900..1100).contains(&both), "{both}");
}

/// These values are the contract: connections must keep their arms over releases.
#[test]
fn stable() {
    assert_eq!([1, 2, 3].map(|seed| flow_bucket(salt("salt"), &flow(seed))), STABLE_BUCKETS);
    assert_eq!(["node-a", "node-b", "fra-17"].map(share_position), STABLE_POSITIONS);
}

const STABLE_BUCKETS: [u32; 3] = [7272, 6494, 2105];
const STABLE_POSITIONS: [u32; 3] = [8604, 3071, 2861];

proptest! {
    #[test]
    fn both_ends_agree(local: [u8; 16], remote: [u8; 16], local_port: u16, remote_port: u16, text in ".{0,40}") {
        let flow = FlowKey { local, remote, local_port, remote_port, family: IPV6, direction: ACTIVE, reserved: 0 };
        let bucket = flow_bucket(salt(&text), &flow);
        prop_assert!(bucket < BUCKETS);
        prop_assert_eq!(bucket, flow_bucket(salt(&text), &other_end(&flow)));
    }

    #[test]
    fn salts_differ(a in ".{0,20}", b in ".{0,20}") {
        prop_assume!(a != b);
        prop_assert_ne!(salt(&a), salt(&b));
    }
}
