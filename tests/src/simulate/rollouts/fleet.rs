//! A fleet of nodes that differ, with hours that differ.

use std::{collections::BTreeMap, f64::consts::TAU};

use sockpilot_outcomes::{Measured, measured::GroupSums};
use sockpilot_policy::measure::{Column, Columns, Quantity, Transform};

use super::connections::{Harm, Place, Pool};
use crate::random::Random;

/// Nodes of the fleet.
pub const NODES: usize = 40;
/// Connections of a node in a second, over the day.
const RATE: f64 = 250.0;
/// Kinds of nodes: of each a pool.
const KINDS: usize = 4;
/// By how much a node's times move from hour to hour, for reasons of its own, in logarithms.
const DRIFT: f64 = 0.03;
const DAY_S: f64 = 86_400.0;
const HOUR_S: i64 = 3_600;

/// Pools of all kinds of nodes, quiet and busy.
pub struct Pools([[Pool; 2]; KINDS]);

impl Pools {
    /// Nodes of the same kind are the same whatever the harm: what is different is the harm alone.
    pub fn new(columns: &Columns, harm: Harm) -> Self {
        Self(std::array::from_fn(|kind| {
            let mut random = Random(0x50c0 + kind as u64);
            let (path, trouble) = (0.3 * random.normal(), 0.4 * random.normal());
            [false, true].map(|busy| {
                let seed = 0xf1ee_7000 + 2 * kind as u64 + u64::from(busy);
                Pool::new(columns, Place { path, trouble, busy }, harm, seed)
            })
        }))
    }
}

/// One fleet on one day.
pub struct Fleet {
    random: Random,
    /// By node.
    kinds: [usize; NODES],
    /// By node and hour of the day: how busy it is beyond what the hour is, and how its times have moved.
    hours: BTreeMap<(usize, u64), (f64, f64)>,
    seed: u64,
    /// Time of day, in seconds.
    pub now_s: i64,
}

impl Fleet {
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let kinds = std::array::from_fn(|_| (random.bits() % KINDS as u64) as usize);
        let now_s = (random.share() * DAY_S) as i64;
        Self { random, kinds, hours: BTreeMap::new(), seed, now_s }
    }

    fn hour(&mut self, node: usize) -> (f64, f64) {
        let hour = (self.now_s / HOUR_S) as u64;
        let seed = self.seed ^ (node as u64).wrapping_mul(0x9e37_79b9) ^ (hour << 40);
        *self.hours.entry((node, hour)).or_insert_with(|| {
            let mut random = Random(seed);
            (0.1 * random.normal(), DRIFT * random.normal())
        })
    }

    /// Adds all connections of a node of so many seconds.
    pub fn add(&mut self, pools: &Pools, node: usize, seconds: f64, to: &mut Measured) {
        let day = (TAU * self.now_s as f64 / DAY_S).sin();
        let begun = poisson(&mut self.random, RATE * (1.0 + 0.6 * day) * seconds);
        let (more, _) = self.hour(node);
        let busy = (0.3 + 0.25 * day + more).clamp(0.0, 1.0);
        let of_busy = binomial(&mut self.random, begun, busy);
        let [quiet, busy] = &pools.0[self.kinds[node]];
        quiet.draw(&mut self.random, begun - of_busy, to);
        busy.draw(&mut self.random, of_busy, to);
    }

    /// The same as sums, with the node's own drift.
    pub fn sums(&mut self, pools: &Pools, node: usize, seconds: f64, columns: &Columns) -> GroupSums {
        let mut measured = Measured::default();
        self.add(pools, node, seconds, &mut measured);
        let (_, drift) = self.hour(node);
        let of = |moments: &sockpilot_stats::CoMoments| -> Vec<f64> {
            (0..moments.dimension()).map(|at| moments.sum(at).unwrap_or_default()).collect()
        };
        let mut established_sums = of(&measured.established);
        for (sum, column) in established_sums.iter_mut().zip(&columns.established) {
            // All connections of the simulation have all times.
            if matches!(column, Column::Value(Quantity::SrttUs | Quantity::DurationUs, Transform::Log)) {
                *sum += drift * measured.established.count as f64;
            }
        }
        GroupSums {
            attempts: measured.attempts.count,
            established: measured.established.count,
            attempt_sums: of(&measured.attempts),
            established_sums,
        }
    }

    /// The same of all the time since then.
    pub fn sums_from(&mut self, pools: &Pools, node: usize, from_s: i64, columns: &Columns) -> GroupSums {
        let now_s = self.now_s;
        let mut sums = GroupSums::default();
        self.now_s = from_s;
        while self.now_s < now_s {
            let part_s = (now_s - self.now_s).min(HOUR_S / 4);
            sums.merge(&self.sums(pools, node, part_s as f64, columns));
            self.now_s += part_s;
        }
        sums
    }
}

fn poisson(random: &mut Random, mean: f64) -> usize {
    if mean > 50.0 {
        return (mean + mean.sqrt() * random.normal()).round().max(0.0) as usize;
    }
    let (mut count, mut product, least) = (0, random.share(), (-mean).exp());
    while product > least {
        (count, product) = (count + 1, product * random.share());
    }
    count
}

fn binomial(random: &mut Random, n: usize, p: f64) -> usize {
    if n < 50 {
        return (0..n).filter(|_| random.chance(p)).count();
    }
    let mean = n as f64 * p;
    ((mean + (mean * (1.0 - p)).sqrt() * random.normal()).round().max(0.0) as usize).min(n)
}
