//! Whatever comes in: verdicts or a refusal, the same twice and in any order, and never a pass out of nothing.

use proptest::{collection::vec, prelude::*};
use prost::Message;
use sockpilot_judge::gates::{Judgement, StepVerdict, gates};
use sockpilot_outcomes::Measured;
use sockpilot_proto::{
    cell::{measured_from_proto, measured_to_proto},
    v1::{self, GateVerdict, rollout_evidence::Comparison},
};

use super::made::{Made, SOUND, columns, evidence, gate, judged, nodes, split};
use crate::sound::{count, moments, number};

const ALL: [&str; 4] = ["connect_failures", "resets", "retransmit_ratio", "srtt"];
/// Columns that these need: of all, and of those that were established.
const WIDTHS: (usize, usize) = (1, 6);

fn measured() -> impl Strategy<Value = Option<v1::Measured>> {
    let some = (moments(WIDTHS.0), moments(WIDTHS.1)).prop_map(|(attempts, established)| {
        let established = v1::CoMoments { count: established.count.min(attempts.count), ..established };
        Some(v1::Measured { attempts: Some(attempts), established: Some(established), unfinished: 0, groups: vec![] })
    });
    prop_oneof![1 => Just(None), 9 => some]
}

fn sums() -> impl Strategy<Value = Option<v1::NodeSums>> {
    let some = (count(), count(), vec(number(), WIDTHS.0), vec(number(), WIDTHS.1)).prop_map(
        |(attempts, established, attempt_sums, established_sums)| {
            let established = established.min(attempts);
            Some(v1::NodeSums { attempts, established, attempt_sums, established_sums })
        },
    );
    prop_oneof![1 => Just(None), 9 => some]
}

fn comparison() -> impl Strategy<Value = Option<Comparison>> {
    let split =
        (measured(), measured()).prop_map(|(canary, control)| Comparison::Split(v1::SplitEvidence { canary, control }));
    // Numbers that the checks let pass come more often where there are few nodes; enough of them to tell is what is wanted.
    let nodes = vec((any::<bool>(), sums(), sums()), 0..40).prop_map(|nodes| {
        let node = |(at, (reached, before, after)): (usize, _)| v1::NodeEvidence {
            node: format!("nodes/{at}"),
            reached,
            before,
            after,
        };
        Comparison::Nodes(v1::NodesEvidence { nodes: nodes.into_iter().enumerate().map(node).collect() })
    });
    prop_oneof![1 => Just(None), 5 => split.prop_map(Some), 5 => nodes.prop_map(Some)]
}

fn any_evidence() -> impl Strategy<Value = v1::RolloutEvidence> {
    let numbers = (any::<u32>(), prop_oneof![3 => 0..1_000_u32, 1 => any::<u32>()], any::<u32>(), any::<u32>());
    let gates = vec((0..5_usize, prop_oneof![Just(0), Just(1), Just(10_000), any::<u32>()]), 0..5);
    (comparison(), numbers, any::<(bool, bool)>(), gates).prop_map(
        |(comparison, numbers, (unchanged, handshake_differs), own)| {
            let (wave, false_alarm_bp, steps, duration_s) = numbers;
            let plain = evidence(&ALL, |_| Comparison::Split(v1::SplitEvidence::default()));
            let name = |at: usize| ALL.get(at).copied().unwrap_or("nonsense").to_owned();
            let own = own.into_iter().map(|(at, margin_bp)| v1::Gate { metric: name(at), margin_bp }).collect();
            // Mostly gates that are none of its faults.
            let gates = if wave % 4 == 0 { own } else { plain.gates.clone() };
            v1::RolloutEvidence {
                comparison,
                wave,
                false_alarm_bp,
                steps,
                duration_s,
                unchanged,
                handshake_differs,
                gates,
                ..plain
            }
        },
    )
}

/// Judged twice, and again after it has been to a database and back.
fn the_same_twice(evidence: &v1::RolloutEvidence) -> Option<Judgement> {
    let first = gates(evidence);
    let bytes = evidence.encode_to_vec();
    let read = v1::RolloutEvidence::decode(bytes.as_slice()).expect("what was written is read");
    let again = gates(&read);
    assert_eq!(first.is_ok(), again.is_ok());
    let (first, again) = (first.ok()?, again.ok()?);
    assert_eq!(first.step, again.step);
    let encoded = |judged: &Judgement| judged.results.iter().map(Message::encode_to_vec).collect::<Vec<_>>();
    assert_eq!(encoded(&first), encoded(&again));
    Some(first)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn anything_is_judged_or_refused(evidence in any_evidence()) {
        let Some(found) = the_same_twice(&evidence) else { return Ok(()) };
        for result in &found.results {
            let numbers = [result.control, result.canary, result.harm, result.harm_at_least, result.harm_at_most];
            prop_assert!(numbers.iter().all(|number| !number.is_nan()), "{:?}", result);
            prop_assert!(result.reason.ends_with('.') && !result.reason.contains("NaN"), "{}", result.reason);
            if result.verdict() == GateVerdict::Pass {
                prop_assert!(result.harm_at_most < result.margin, "{:?}", result);
                prop_assert!(result.n_control.min(result.n_canary) >= 8, "a pass out of nothing: {:?}", result);
            }
        }
        let all_pass = found.results.iter().all(|result| result.verdict() == GateVerdict::Pass);
        let is_split = matches!(evidence.comparison, Some(Comparison::Split(_)));
        prop_assert!(found.step != StepVerdict::GoOn || all_pass || !is_split, "{:?}", found);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Reports are merged as they come: the order is nothing to go by.
    #[test]
    fn the_order_of_merging_does_not_matter(order in Just((0..12_usize).collect::<Vec<_>>()).prop_shuffle(), worse in 0.9..1.3_f64) {
        let parts = |by: f64| -> Vec<Measured> {
            let gates = ALL.map(gate);
            let part = |at: u64| {
                let made = Made { begun: 3_000 + 700 * at, failed: 9 + at, reset: 30, srtt_us: by * (19_000.0 + 170.0 * at as f64), retransmitted: 0.01 };
                measured_from_proto(&made.measured(&columns(&gates))).expect("sound")
            };
            (0..12).map(part).collect()
        };
        let merged = |parts: &[Measured], order: &[usize]| {
            let mut whole = Measured::default();
            order.iter().for_each(|at| whole.merge(&parts[*at]).expect("the same columns"));
            Some(measured_to_proto(&whole))
        };
        let step = |order: &[usize]| {
            let found = evidence(&ALL, |_| Comparison::Split(v1::SplitEvidence {
                canary: merged(&parts(worse), order),
                control: merged(&parts(1.0), order),
            }));
            judged(&found)
        };
        let (one, other) = (step(&(0..12).collect::<Vec<_>>()), step(&order));
        for (one, other) in one.results.iter().zip(&other.results) {
            let near = |one: f64, other: f64| (one - other).abs() <= 1e-9 * one.abs().max(1.0);
            prop_assert!(near(one.harm_at_least, other.harm_at_least) && near(one.harm_at_most, other.harm_at_most));
            // On the border itself the last bit decides.
            let border = near(one.harm_at_most, one.margin) || near(one.harm_at_least, one.margin);
            prop_assert!(border || one.verdict() == other.verdict());
        }
    }

    /// Nodes come in any order: there not a bit may differ.
    #[test]
    fn the_order_of_nodes_does_not_matter(order in Just((0..42_usize).collect::<Vec<_>>()).prop_shuffle()) {
        let one = nodes(&ALL, (30, 12), [SOUND, SOUND], [SOUND, Made { srtt_us: 21_000.0, ..SOUND }]);
        let mut other = one.clone();
        let Some(Comparison::Nodes(v1::NodesEvidence { nodes })) = &mut other.comparison else { panic!("nodes") };
        *nodes = order.iter().map(|at| nodes[*at].clone()).collect();
        prop_assert_eq!(judged(&one), judged(&other));
    }
}

/// What contradicts itself is refused, and says where.
#[test]
fn what_contradicts_itself_is_refused() {
    let spoiled = |spoil: fn(&mut v1::RolloutEvidence)| {
        let mut found = split(&ALL, SOUND, SOUND);
        spoil(&mut found);
        gates(&found).expect_err("refused").to_string()
    };
    let canary = |of: fn(&mut v1::Measured)| {
        let mut found = split(&ALL, SOUND, SOUND);
        let Some(Comparison::Split(split)) = &mut found.comparison else { panic!("a split") };
        of(split.canary.as_mut().expect("some"));
        gates(&found).expect_err("refused").to_string()
    };
    for (number, said) in [
        (1, canary(|canary| canary.attempts.as_mut().expect("some").mean[0] = f64::NAN)),
        (2, canary(|canary| canary.established.as_mut().expect("some").m2[0] = -1.0)),
        (3, canary(|canary| canary.established.as_mut().expect("some").mean.push(1.0))),
        (4, canary(|canary| canary.established = canary.attempts.clone())),
    ] {
        assert!(said.contains("of the canary"), "{number}: {said}");
    }
    assert!(spoiled(|found| found.comparison = None).contains("compares nothing"));
    assert!(
        spoiled(|found| found.gates[0].metric = "speed".to_owned()).contains("gates[0].metric: \"speed\" is no metric")
    );
    assert!(spoiled(|found| found.measures.truncate(2)).contains("nothing was measured for the gate retransmit_ratio"));
    assert!(spoiled(|found| found.false_alarm_bp = 5_000).contains("false_alarm_bp"));
    let mut twice = nodes(&ALL, (10, 10), [SOUND; 2], [SOUND; 2]);
    let Some(Comparison::Nodes(v1::NodesEvidence { nodes })) = &mut twice.comparison else { panic!("nodes") };
    nodes.push(nodes[0].clone());
    assert!(gates(&twice).expect_err("refused").to_string().contains("nodes/false0 is in it twice"));
}
