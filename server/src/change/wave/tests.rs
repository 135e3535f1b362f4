//! Waves add up, and shares are what they say.

use proptest::prelude::*;
use sockpilot_policy::bucket::share_position;

use super::*;

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

prop_compose! {
    fn any_node()(id in "n[0-9]{1,3}", labels in prop::collection::btree_map("[ab]", "[xy]", 0..3)) -> (String, Labels) {
        (id, labels)
    }
}

fn candidate((id, labels): &(String, Labels)) -> Candidate<'_> {
    Candidate { id, share_position: share_position(id), labels }
}

fn members(salt: &str, share_bp: u32) -> BTreeSet<u32> {
    let canary = Canary { salt: salt.to_owned(), waves: vec![Selector::Share(share_bp)], flow_share_bp: ALL_FLOWS_BP };
    let none = Labels::new();
    let in_it = |number: &u32| {
        let id = format!("node-{number}");
        let node = Candidate { id: &id, share_position: share_position(&id), labels: &none };
        canary.wave_of(&node).is_some()
    };
    (0..10_000).filter(in_it).collect()
}

proptest! {
    #[test]
    fn waves_add_up_and_the_first_that_admits_a_node_has_it(canary in any_canary(), more in any_canary(), node in any_node()) {
        let node = candidate(&node);
        let before = canary.wave_of(&node);
        let admits = |wave: &Selector| wave.admits(&canary.salt, &node);
        prop_assert_eq!(before, canary.waves.iter().position(admits));
        if let Ok(after) = canary.joined(&more) {
            prop_assert!(after.waves.starts_with(&canary.waves));
            prop_assert_eq!(&after.salt, &canary.salt);
            if before.is_some() {
                prop_assert_eq!(after.wave_of(&node), before, "who is in a wave stays in it");
            }
            for wave in more.waves.iter().filter(|wave| wave.admits(&canary.salt, &node)) {
                prop_assert!(after.wave_of(&node).is_some(), "{} was added", wave);
            }
            prop_assert_eq!(after.joined(&more), Ok(after.clone()), "the same again adds nothing");
        }
    }
}

#[test]
fn shares_of_one_salt_are_nested_and_of_their_size() {
    for salt in ["", "a", "0123456789abcdef"] {
        let shares = [100, 1_000, 5_000].map(|share| members(salt, share));
        assert!(shares[0].is_subset(&shares[1]) && shares[1].is_subset(&shares[2]));
        // Within five standard deviations of a binomial.
        for (members, expected, around) in [(&shares[0], 100, 50), (&shares[1], 1_000, 150), (&shares[2], 5_000, 250)] {
            assert!(members.len().abs_diff(expected) < around, "{salt}: {} for {expected}", members.len());
        }
    }
}

#[test]
fn shares_of_different_salts_have_nothing_to_do_with_each_other() {
    let salts = ["", "a", "b", "ab", "0123456789abcdef"].map(|salt| members(salt, 2_000));
    for (index, one) in salts.iter().enumerate() {
        for other in &salts[..index] {
            let both = one.intersection(other).count();
            assert!(both.abs_diff(400) < 100, "of 2,000 and 2,000 nodes in 10,000, {both} are in both");
        }
    }
}

#[test]
fn positions_are_a_contract() {
    let none = Labels::new();
    let at = |salt, id| position(salt, &Candidate { id, share_position: 17, labels: &none });
    assert_eq!([at("", "node-a"), at("salt", ""), at("salt", "node-a"), at("salt", "node-b")], [17, 17, 5_958, 2_967]);
}
