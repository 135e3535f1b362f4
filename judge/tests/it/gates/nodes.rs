//! Steps with all connections: nodes against nodes.

use sockpilot_judge::gates::{NODES_MIN, StepVerdict};
use sockpilot_proto::v1::{self, GateVerdict, rollout_evidence::Comparison};

use super::made::{Made, SOUND, judged, nodes, only};

const SRTT: [&str; 1] = ["srtt"];

/// Everyone is slower in the evening.
const EVENING: Made = Made { srtt_us: 30_000.0, ..SOUND };

#[test]
fn what_changes_for_all_is_no_harm() {
    let found = nodes(&SRTT, (30, 12), [SOUND, EVENING], [SOUND, EVENING]);
    let (verdict, result) = only(&found);
    assert_eq!(verdict, GateVerdict::Pass, "{}", result.reason);
    assert_eq!((result.n_control, result.n_canary), (30, 12));
    assert!(result.reason.contains("on 12 nodes with the new revision"), "{}", result.reason);
    assert_eq!(judged(&found).step, StepVerdict::GoOn);
}

#[test]
fn what_changes_more_where_the_revision_is_is_harm() {
    let harmed = Made { srtt_us: 36_000.0, ..SOUND };
    let found = nodes(&SRTT, (30, 12), [SOUND, EVENING], [SOUND, harmed]);
    let (verdict, result) = only(&found);
    assert_eq!(verdict, GateVerdict::Fail, "{}", result.reason);
    assert!((result.harm - 0.2).abs() < 0.01 && result.harm_at_least > 0.1, "{result:?}");
    assert_eq!(judged(&found).step, StepVerdict::RollBack);
    // And without the others' change, what is as it was before is harm as well.
    let worse = nodes(&SRTT, (30, 12), [EVENING, SOUND], [SOUND, SOUND]);
    assert_eq!(only(&worse).0, GateVerdict::Fail);
}

#[test]
fn few_nodes_cannot_tell_and_the_step_goes_on() {
    for counts in [(NODES_MIN - 1, 100), (100, NODES_MIN - 1), (0, 40)] {
        let found = nodes(&SRTT, counts, [SOUND, SOUND], [SOUND, EVENING]);
        let (verdict, result) = only(&found);
        assert_eq!(verdict, GateVerdict::NoData);
        assert!(result.reason.contains("it takes 8 of both"), "{}", result.reason);
        assert_eq!(judged(&found).step, StepVerdict::GoOn);
    }
}

/// Nodes that could tell, and say nothing, are not the same as too few.
#[test]
fn silence_does_not_pass() {
    let silenced = |counts, spoil: fn(&mut v1::NodeEvidence)| {
        let mut found = nodes(&SRTT, counts, [SOUND, SOUND], [SOUND, SOUND]);
        let Some(Comparison::Nodes(v1::NodesEvidence { nodes })) = &mut found.comparison else { panic!("nodes") };
        nodes.iter_mut().filter(|node| node.reached).for_each(spoil);
        found
    };
    let dead: fn(&mut v1::NodeEvidence) = |node| node.after = None;
    let found = silenced((30, 12), dead);
    assert_eq!(only(&found).0, GateVerdict::NoData);
    assert_eq!(judged(&found).step, StepVerdict::Wait);
    assert_eq!(judged(&silenced((30, 2), dead)).step, StepVerdict::Wait, "not even too few may be silent");
    // New nodes have no before, which is no fault of theirs.
    assert_eq!(judged(&silenced((30, 12), |node| node.before = None)).step, StepVerdict::GoOn);
}

#[test]
fn no_event_on_any_node_is_no_certainty() {
    let of = |begun| {
        let clean = Made { begun, failed: 0, ..SOUND };
        only(&nodes(&["connect_failures"], (30, 12), [clean, clean], [clean, clean]))
    };
    let (verdict, result) = of(20);
    assert_eq!(verdict, GateVerdict::Inconclusive, "{}", result.reason);
    assert_eq!(of(10_000).0, GateVerdict::Pass);
}
