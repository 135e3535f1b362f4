//! Evidence is kept with every verdict, so it has a bound, however many slots of time an experiment has had: of more pairs than this,
//! neighbours are put together, 2, 4, 8 and so on to one. A coin for each pair is one for each of those, too, of whom all are turned over in
//! the permutation; so what is said stays valid, and loses next to nothing. Other units have 256 groups at most. Pure.

use std::collections::{BTreeMap, BTreeSet};

use sockpilot_outcomes::{Measured, measured::GroupSums};

/// Pairs of slots in evidence: of two arms and ten measures about 400 KiB.
pub const PAIRS_MAX: usize = 1_024;

/// Puts pairs together until they are no more than [`PAIRS_MAX`].
pub fn bound(arms: &mut BTreeMap<String, Measured>) {
    let mut pairs: BTreeSet<u32> = slots(arms).map(|slot| slot / 2).collect();
    let mut times = 0;
    while pairs.len() > PAIRS_MAX {
        pairs = pairs.into_iter().map(|pair| pair / 2).collect();
        times += 1;
    }
    if times == 0 {
        return;
    }
    for measured in arms.values_mut() {
        let mut groups: BTreeMap<u32, GroupSums> = BTreeMap::new();
        for (slot, sums) in std::mem::take(&mut measured.groups) {
            // An arm has one slot of a pair, whichever it is.
            groups.entry(((slot / 2) >> times) * 2).or_default().merge(&sums);
        }
        measured.groups = groups;
    }
}

fn slots(arms: &BTreeMap<String, Measured>) -> impl Iterator<Item = u32> {
    arms.values().flat_map(|measured| measured.groups.keys().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots of both arms, one of each pair.
    fn arms(pairs: u32) -> BTreeMap<String, Measured> {
        let sums =
            |slot: u32| GroupSums { attempts: u64::from(slot) + 1, attempt_sums: vec![1.0], ..GroupSums::default() };
        let arm = |side: u32| Measured {
            groups: (0..pairs)
                .map(|pair| 2 * (29_000_000 + pair) + (pair + side) % 2)
                .map(|slot| (slot, sums(slot)))
                .collect(),
            ..Measured::default()
        };
        [("control".to_owned(), arm(0)), ("treatment".to_owned(), arm(1))].into()
    }

    #[test]
    fn however_long_it_runs_evidence_has_a_bound_and_nothing_is_lost() {
        for pairs in [1, 1_024, 1_025, 5_000, 100_000] {
            let (before, mut after) = (arms(pairs), arms(pairs));
            bound(&mut after);
            assert_eq!(after == before, pairs <= 1_024, "few are left alone");
            for (name, measured) in &after {
                let groups = &measured.groups;
                assert!(
                    groups.len() <= PAIRS_MAX && groups.len() > (PAIRS_MAX / 2 - 2).min(pairs as usize - 1),
                    "{}",
                    groups.len()
                );
                let sum = |measured: &Measured| measured.groups.values().map(|sums| sums.attempts).sum::<u64>();
                assert_eq!(sum(measured), sum(&before[name]));
            }
            let pairs_of = |name: &str| after[name].groups.keys().map(|slot| slot / 2).collect::<BTreeSet<_>>();
            assert_eq!(pairs_of("control"), pairs_of("treatment"));
        }
    }
}
