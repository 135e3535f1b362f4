//! Designs that assign nodes or times.

use sockpilot_stats::{
    CoMoments, Errors, Kind,
    cluster::Cluster,
    contrast,
    events::Numbers,
    switchback::{self, SlotPair},
};

use super::{ALPHA, FLOWS, alarms, is_look, level, share_of};
use crate::random::Random;

const NODES: usize = 40;

/// False alarms under 196 looks where 40 nodes are assigned and a fifth of the variance is between nodes: with errors over nodes,
/// and (second) if flows were taken for independent.
#[must_use]
pub fn node_assigned(runs: u64) -> (f64, f64) {
    let share = |clustered| share_of(runs, |run| node_run(&mut Random(0x40de_0000 + run), clustered));
    (share(true), share(false))
}

fn node_run(random: &mut Random, clustered: bool) -> bool {
    let level = level();
    let offsets: Vec<f64> = (0..NODES).map(|_| 0.5 * random.normal()).collect();
    let mut nodes = vec![CoMoments::new(1); NODES];
    // A coin for each pair of nodes.
    let treated: Vec<usize> = (0..NODES / 2).map(|pair| 2 * pair + usize::from(random.chance(0.5))).collect();
    let mut arms = [CoMoments::new(1), CoMoments::new(1)];
    for flows in 1..=FLOWS {
        // Busy nodes have three times the flows of others.
        let node = (random.bits() % (2 * NODES as u64)) as usize;
        let node = if node < NODES { node } else { node % (NODES / 2) * 2 };
        let value = 10.0 + offsets[node] + random.normal();
        nodes[node].add(&[value]).expect("a flow");
        arms[usize::from(treated[node / 2] == node)].add(&[value]).expect("a flow");
        if !is_look(flows) {
            continue;
        }
        let of = |wanted: bool| -> Vec<CoMoments> {
            let is_wanted = |node: &usize| (treated[node / 2] == *node) == wanted;
            (0..NODES).filter(is_wanted).map(|node| nodes[node].clone()).collect()
        };
        let (control, treatment) = if clustered { (of(false), of(true)) } else { (Vec::new(), Vec::new()) };
        let errors = if clustered {
            Errors::Clustered { control: &control, treatment: &treatment }
        } else {
            Errors::Independent
        };
        if alarms(&contrast(&arms[0], &arms[1], Kind::Mean(0), None, errors, &level), &level) {
            return true;
        }
    }
    false
}

/// Minutes of a slot, and of its beginning that is left out.
const SLOT: usize = 30;
const WASHOUT: usize = 10;

/// False alarms of a switchback with 12 pairs of slots, where the load of one minute carries over into the next, and switching
/// the treatment on disturbs for some minutes without changing anything for good: with a washout, and (second) without.
#[must_use]
pub fn switchback(runs: u64) -> (f64, f64) {
    let share = |washout| share_of(runs, |run| switchback_run(&mut Random(0x5107_0000 + run), washout));
    (share(WASHOUT), share(0))
}

fn switchback_run(random: &mut Random, washout: usize) -> bool {
    let (mut load, mut since_on, mut was_on) = (0.0, 1_000_usize, false);
    let mut slot = |random: &mut Random, on: bool| {
        let mut kept = Cluster::default();
        since_on = if on && !was_on { 0 } else { since_on };
        was_on = on;
        for minute in 0..SLOT {
            load = 0.9 * load + 0.4 * random.normal();
            let disturbance = 3.0 * (-(since_on as f64) / 1.5).exp();
            since_on += 1;
            if minute >= washout {
                kept.sum += 50.0 + load + disturbance + random.normal();
                kept.weight += 1.0;
            }
        }
        kept
    };
    let pairs: Vec<SlotPair> = (0..12)
        .map(|_| {
            let on_first = random.chance(0.5);
            let (first, second) = (slot(random, on_first), slot(random, !on_first));
            let (control, treatment) = if on_first { (second, first) } else { (first, second) };
            SlotPair { control, treatment }
        })
        .collect();
    switchback::switchback(&pairs, Numbers::Any, 0, &mut || random.bits()).is_ok_and(|found| found.p < ALPHA)
}
