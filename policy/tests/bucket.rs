//! The bucket is even, stable, and the same for both ends.

use proptest::prelude::*;
use sockpilot_policy::{
    bucket::{
        BUCKETS, GROUPS, WHOLE_FLOW, bucket, flow_bucket, group, is_saturated, node_hash, peer_prefix, salt,
        share_position, slot_bucket, unit_hash,
    },
    layout::{ACTIVE, FlowKey, IPV6, PASSIVE},
    model::{Arm, Parameters},
    unit::arm_of,
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

/// Whether two halvings of the same units have nothing to do with each other: of 40,000 a quarter is in both, but for chance (five
/// standard deviations).
fn assert_unrelated(what: &str, one: impl Fn(u64) -> bool, other: impl Fn(u64) -> bool) {
    let (mut both, mut ones, mut others) = (0_i32, 0_i32, 0_i32);
    for unit in 0..40_000 {
        let (one, other) = (one(unit), other(unit));
        both += i32::from(one && other);
        ones += i32::from(one);
        others += i32::from(other);
    }
    for half in [ones, others] {
        assert!((half - 20_000).abs() < 500, "{what}: {half} are no half");
    }
    assert!((both - 10_000).abs() < 500, "{what}: {both} of 40,000 are in both");
}

fn node(number: u64) -> String {
    format!("node-{number}")
}

const HALF: u32 = BUCKETS / 2;

#[test]
fn two_experiments_are_unrelated_whatever_their_units() {
    let (one, two) = (salt("one"), salt("two"));
    let whole = |salt, seed| bucket(unit_hash(salt, &flow(seed), &WHOLE_FLOW)) < HALF;
    // A peer of its own for each.
    let peer = |salt, seed: u64| {
        let mut flow = flow(seed);
        flow.remote[..8].copy_from_slice(&(0x2001_0db8_0000_0000 + (seed << 16)).to_be_bytes());
        bucket(unit_hash(salt, &flow, &peer_prefix(24, 48))) < HALF
    };
    let of_node = |salt, number| bucket(node_hash(salt, &node(number))) < HALF;
    let slot = |salt, number| slot_bucket(salt, number) < HALF;
    assert_unrelated("flows", |seed| whole(one, seed), |seed| whole(two, seed));
    assert_unrelated("peers", |seed| peer(one, seed), |seed| peer(two, seed));
    assert_unrelated("flows and peers", |seed| whole(one, seed), |seed| peer(two, seed));
    assert_unrelated("the same salt, flows and peers", |seed| whole(one, seed), |seed| peer(one, seed));
    assert_unrelated("nodes", |number| of_node(one, number), |number| of_node(two, number));
    assert_unrelated("slots", |number| slot(one, number), |number| slot(two, number));
}

/// Clusters are of arms by chance alone.
#[test]
fn groups_are_unrelated_to_buckets() {
    for text in ["one", "two", ""] {
        let salt = salt(text);
        let hash = |seed| unit_hash(salt, &flow(seed), &WHOLE_FLOW);
        assert_unrelated("flows", |seed| bucket(hash(seed)) < HALF, |seed| group(hash(seed)) < GROUPS / 2);
        let hash = |number| node_hash(salt, &node(number));
        assert_unrelated("nodes", |number| bucket(hash(number)) < HALF, |number| group(hash(number)) < GROUPS / 2);
        let saturated = |number| is_saturated(salt, group(hash(number)));
        assert_unrelated("saturation", |number| bucket(hash(number)) < HALF, saturated);
        assert_eq!(
            (0..GROUPS).filter(|group| is_saturated(salt, *group)).count() as u32,
            GROUPS / 2,
            "one of each pair"
        );
    }
}

/// An experiment by nodes, and a canary's share of them, also where the salt is what the share has none of.
#[test]
fn experiments_and_shares_of_nodes_are_unrelated() {
    for text in ["one", "two", ""] {
        let salt = salt(text);
        let share = |number| share_position(&node(number)) < HALF;
        assert_unrelated("nodes", |number| bucket(node_hash(salt, &node(number))) < HALF, share);
        assert_unrelated("groups", |number| group(node_hash(salt, &node(number))) < GROUPS / 2, share);
        assert_unrelated("flows", |seed| flow_bucket(salt, &flow(seed)) < HALF, share);
    }
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

    /// Arms with named buckets: one that grows, shrinks or goes leaves everybody else where they are.
    #[test]
    fn an_arm_that_changes_moves_nobody_else(
        weights in proptest::collection::vec(1..1_200_u32, 2..8),
        changed: proptest::sample::Index,
        grown in 0..2_400_u32,
    ) {
        // Each has room for twice as much.
        let mut first_bucket = 0;
        let arms: Vec<Arm> = weights.iter().enumerate().map(|(at, weight_bp)| {
            let name = format!("arm-{at}").parse().expect("a name");
            let arm = Arm { name, first_bucket, weight_bp: *weight_bp, set: Parameters::default(), withholds: false };
            first_bucket += BUCKETS / weights.len() as u32;
            arm
        }).collect();
        let changed = changed.index(arms.len());
        let room = BUCKETS / weights.len() as u32;
        let mut other = arms.clone();
        match grown.min(room) {
            0 => drop(other.remove(changed)),
            weight_bp => other[changed].weight_bp = weight_bp,
        }
        let own = &arms[changed].name;
        let name = |arms: &[Arm], bucket| arm_of(arms, bucket).map(|arm| arm.name.clone());
        for bucket in 0..BUCKETS {
            let (before, after) = (name(&arms, bucket), name(&other, bucket));
            if before != after {
                prop_assert!(before.iter().chain(&after).all(|name| name == own), "{}: {:?} to {:?}", bucket, before, after);
            }
        }
        let kept = (0..BUCKETS).filter(|bucket| name(&arms, *bucket).as_ref() == Some(own));
        if let Some(now) = other.iter().find(|arm| arm.name == *own) {
            let kept = kept.filter(|bucket| name(&other, *bucket).as_ref() == Some(own)).count() as u32;
            prop_assert_eq!(kept, now.weight_bp.min(arms[changed].weight_bp), "who was in it stays in it");
        }
    }

    #[test]
    fn salts_differ(a in ".{0,20}", b in ".{0,20}") {
        prop_assume!(a != b);
        prop_assert_ne!(salt(&a), salt(&b));
    }
}
