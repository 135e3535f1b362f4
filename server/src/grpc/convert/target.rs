//! Targets and waves.

use sockpilot_policy::fault::Collector;
use sockpilot_proto::v1::{self, target::Kind};
use sockpilot_rollout::plan::ALL_FLOWS_BP;

use crate::change::{
    selector::{labelled, next_wave, selector_to_proto, share},
    target::Target,
    wave::{Canary, Selector, too_many},
};

/// Characters of a salt.
const SALT_CHARS_MAX: usize = 64;

/// Reads and checks a target; absent is everyone. The walk stands at the target's field.
pub fn target_from_proto(target: Option<&v1::Target>, faults: &mut Collector) -> Target {
    let Some(v1::Target { kind }) = target else { return Target::Everyone };
    match kind {
        Some(Kind::Everyone(v1::target::Everyone {})) => Target::Everyone,
        Some(Kind::Nobody(v1::target::Nobody {})) => Target::Nobody,
        Some(Kind::ShareBp(share_bp)) => Target::Canary(Canary::by_hand(share(*share_bp, faults))),
        Some(Kind::NodeLabels(labels)) => Target::Canary(Canary::by_hand(labelled(labels, faults))),
        Some(Kind::Waves(waves)) => faults.field("waves", |faults| Target::Canary(canary_from_proto(waves, faults))),
        None => {
            faults.add(
                "says nothing; write everyone, share_bp, node_labels, waves or nobody, or leave it out for everyone",
            );
            Target::Everyone
        }
    }
}

/// As it stands on the wire.
#[must_use]
pub fn target_to_proto(target: &Target) -> v1::Target {
    let kind = match target {
        Target::Everyone => Kind::Everyone(v1::target::Everyone {}),
        Target::Nobody => Kind::Nobody(v1::target::Nobody {}),
        Target::Canary(canary) => match (canary.salt.as_str(), canary.waves.as_slice()) {
            ("", [Selector::Share(share_bp)]) => Kind::ShareBp(*share_bp),
            ("", [Selector::Labels(labels)]) => {
                Kind::NodeLabels(v1::target::NodeLabels { labels: labels.clone().into_iter().collect() })
            }
            _ => Kind::Waves(canary_to_proto(canary)),
        },
    };
    v1::Target { kind: Some(kind) }
}

/// Reads and checks waves. The walk stands at their field.
fn canary_from_proto(message: &v1::target::Waves, faults: &mut Collector) -> Canary {
    let v1::target::Waves { selectors, salt, flow_share_bp } = message;
    if salt.chars().count() > SALT_CHARS_MAX || salt.chars().any(char::is_control) {
        faults.add_at("salt", format!("is none that a server drew; they have at most {SALT_CHARS_MAX} characters"));
    }
    if selectors.is_empty() {
        faults.add_at("selectors", "is empty; write at least one, or target everyone");
    }
    let mut waves = vec![];
    faults.each("selectors", selectors, |faults, selector| {
        let wave = next_wave(selector, &waves, faults);
        waves.extend(wave);
    });
    if let Some((field, why)) = too_many(&waves) {
        faults.add_at(field, why);
    }
    if *flow_share_bp > ALL_FLOWS_BP {
        faults.add_at("flow_share_bp", format!("is {flow_share_bp}; there are {ALL_FLOWS_BP}"));
    }
    let flow_share_bp = if *flow_share_bp == 0 { ALL_FLOWS_BP } else { *flow_share_bp };
    Canary { salt: salt.clone(), waves, flow_share_bp }
}

fn canary_to_proto(canary: &Canary) -> v1::target::Waves {
    let Canary { salt, waves, flow_share_bp } = canary;
    // As before there were shares, where there is none.
    let flow_share_bp = if *flow_share_bp == ALL_FLOWS_BP { 0 } else { *flow_share_bp };
    v1::target::Waves { selectors: waves.iter().map(selector_to_proto).collect(), salt: salt.clone(), flow_share_bp }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sockpilot_policy::model::Labels;
    use sockpilot_proto::v1::selector;

    use super::*;
    use crate::change::wave::conflict;

    fn check(target: Option<v1::Target>) -> Result<Target, Vec<String>> {
        let mut faults = Collector::at("target");
        let target = target_from_proto(target.as_ref(), &mut faults);
        faults.finish(target).map_err(|faults| faults.as_slice().iter().map(|fault| fault.field.clone()).collect())
    }

    fn share(share_bp: u32) -> Option<v1::Target> {
        Some(v1::Target { kind: Some(Kind::ShareBp(share_bp)) })
    }

    #[test]
    fn absent_is_everyone() {
        assert_eq!(check(None), Ok(Target::Everyone));
    }

    #[test]
    fn a_share_is_neither_nobody_nor_everyone() {
        for bad in [0, 10_000, u32::MAX] {
            assert_eq!(check(share(bad)), Err(vec!["target.share_bp".to_owned()]), "{bad}");
        }
        for good in [1, 9_999] {
            assert_eq!(check(share(good)), Ok(Target::Canary(Canary::by_hand(Selector::Share(good)))));
        }
    }

    #[test]
    fn labels_must_be_there_and_sound() {
        let labels = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
            check(Some(v1::Target { kind: Some(Kind::NodeLabels(v1::target::NodeLabels { labels })) }))
        };
        assert_eq!(labels(&[]), Err(vec!["target.node_labels.labels".to_owned()]));
        assert!(labels(&[("zone", &"x".repeat(64))]).is_err());
        assert!(labels(&[("zone", "a")]).is_ok());
        assert_eq!(check(Some(v1::Target { kind: None })), Err(vec!["target".to_owned()]));
    }

    #[test]
    fn survives_the_wire() {
        let labels = Selector::Labels(Labels::from([("zone".to_owned(), "a".to_owned())]));
        let waves = vec![labels.clone(), Selector::Share(1_000)];
        for canary in [
            Canary::by_hand(labels.clone()),
            Canary { salt: "s".to_owned(), waves: vec![labels], flow_share_bp: 100 },
            Canary { salt: String::new(), waves, flow_share_bp: ALL_FLOWS_BP },
        ] {
            let target = Target::Canary(canary);
            assert_eq!(check(Some(target_to_proto(&target))), Ok(target));
        }
        for target in [Target::Everyone, Target::Nobody] {
            assert_eq!(check(Some(target_to_proto(&target))), Ok(target));
        }
    }

    fn any_selector() -> impl Strategy<Value = Selector> {
        prop_oneof![
            (1_u32..10_000).prop_map(Selector::Share),
            ("[ab]", "[xy]").prop_map(|(key, value)| Selector::Labels(Labels::from([(key, value)]))),
            prop::collection::btree_set("n[0-9]", 1..3).prop_map(Selector::Nodes),
        ]
    }

    prop_compose! {
        fn any_canary()(salt in "[0-9a-f]{0,4}", waves in prop::collection::vec(any_selector(), 1..6)) -> Canary {
            Canary { salt, waves, flow_share_bp: ALL_FLOWS_BP }
        }
    }

    proptest! {
        #[test]
        fn what_is_sound_survives_the_wire(canary in any_canary()) {
            let mut faults = Collector::at("");
            let read = canary_from_proto(&canary_to_proto(&canary), &mut faults);
            let sound = (1..canary.waves.len()).all(|at| conflict(&canary.waves[at], &canary.waves[..at]).is_none());
            prop_assert_eq!(faults.finish(()).is_ok(), sound);
            prop_assert_eq!(read, canary);
        }
    }

    #[test]
    fn faults_name_the_wave_and_the_remedy() {
        let share = |share_bp| v1::Selector { kind: Some(selector::Kind::ShareBp(share_bp)) };
        let nodes = |nodes: &[&str]| v1::Selector {
            kind: Some(selector::Kind::Nodes(v1::selector::Nodes {
                nodes: nodes.iter().map(|&name| name.to_owned()).collect(),
            })),
        };
        let labelled = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
            v1::Selector { kind: Some(selector::Kind::NodeLabels(v1::target::NodeLabels { labels })) }
        };
        let faults = |selectors: Vec<v1::Selector>| {
            let mut faults = Collector::at("waves");
            let _ =
                canary_from_proto(&v1::target::Waves { selectors, salt: String::new(), flow_share_bp: 0 }, &mut faults);
            let found = faults.finish(()).err().map(|faults| faults.as_slice().to_vec()).unwrap_or_default();
            found.into_iter().map(|fault| fault.field).collect::<Vec<_>>()
        };
        assert_eq!(faults(vec![]), ["waves.selectors"]);
        assert_eq!(faults(vec![v1::Selector { kind: None }]), ["waves.selectors[0]"]);
        assert_eq!(faults(vec![share(0)]), ["waves.selectors[0].share_bp"]);
        assert_eq!(faults(vec![share(10_000)]), ["waves.selectors[0].share_bp"]);
        assert_eq!(faults(vec![share(500), labelled(&[("a", "x")]), share(500)]), ["waves.selectors[2].share_bp"]);
        assert_eq!(faults(vec![share(500), share(501)]), [""; 0]);
        assert_eq!(faults(vec![labelled(&[])]), ["waves.selectors[0].node_labels.labels"]);
        let twice = vec![labelled(&[("a", "x")]), labelled(&[("a", "x")])];
        assert_eq!(faults(twice), ["waves.selectors[1].node_labels.labels"]);
        assert_eq!(faults(vec![nodes(&[])]), ["waves.selectors[0].nodes.nodes"]);
        assert_eq!(faults(vec![nodes(&["a"])]), ["waves.selectors[0].nodes.nodes[0]"]);
        assert_eq!(faults(vec![nodes(&["nodes/a", "nodes/a"])]), ["waves.selectors[0].nodes.nodes[1]"]);
        assert_eq!(
            faults(vec![nodes(&["nodes/a"]), nodes(&["nodes/b", "nodes/a"])]),
            ["waves.selectors[1].nodes.nodes"]
        );
        assert_eq!(faults((1..=65).map(share).collect()), ["waves.selectors"]);
        let many: Vec<String> = (0..10_001).map(|number| format!("nodes/n{number}")).collect();
        assert_eq!(faults(vec![nodes(&many.iter().map(String::as_str).collect::<Vec<_>>())]), ["waves.selectors"]);
    }
}
