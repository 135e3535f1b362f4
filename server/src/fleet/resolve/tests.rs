use proptest::prelude::*;

use super::*;
use crate::change::wave::Selector;

fn revision(name: &str, revision: u64, priority: u32, node_labels: &[(&str, &str)]) -> Arc<Revision> {
    let name: LayerName = name.parse().expect("a name");
    let layer = v1::Layer { name: name.to_string(), revision, priority, ..v1::Layer::default() };
    Arc::new(Revision { name, revision, node_labels: labels(node_labels), layer, refers_to_zones: false })
}

fn labels(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn fleet(assigned: Vec<Assigned>) -> Fleet {
    Fleet {
        epoch: Uuid::nil(),
        generation: 1,
        lease_ms: 600_000,
        assigned,
        zones: Arc::default(),
        ends_s: HashMap::new(),
        off: Off::default(),
    }
}

/// A node at a position, without a name.
fn at(share_position: u32, labels: &Labels) -> Candidate<'_> {
    Candidate { id: "", share_position, labels }
}

fn part(share_bp: u32) -> Canary {
    Canary::by_hand(Selector::Share(share_bp))
}

fn names(fleet: &Fleet, position: u32, node: &[(&str, &str)]) -> Vec<String> {
    let labels = labels(node);
    let layers = fleet.layers_of(&at(position, &labels));
    let name = |given: &ResolvedLayer<'_>| {
        let standby = if given.origin == Origin::Standby { " stands by" } else { "" };
        format!("{}@{}{standby}", given.revision.name, given.revision.revision)
    };
    layers.iter().map(name).collect()
}

#[test]
fn the_canary_goes_to_those_it_is_for() {
    let assigned = Assigned {
        everyone: Some(revision("policies/p", 1, 5, &[])),
        canary: Some((part(1_000), revision("policies/p", 2, 5, &[("zone", "a")]))),
        rollout: None,
    };
    let fleet = fleet(vec![assigned]);
    assert_eq!(names(&fleet, 999, &[("zone", "a")]), ["policies/p@2", "policies/p@1 stands by"]);
    assert_eq!(names(&fleet, 999, &[("zone", "b")]), ["policies/p@1"], "the canary's document is not for this node");
    assert_eq!(names(&fleet, 1_000, &[("zone", "a")]), ["policies/p@1"]);
}

#[test]
fn order_is_priority_then_experiments_then_name() {
    let everyone =
        |name, priority| Assigned { everyone: Some(revision(name, 1, priority, &[])), canary: None, rollout: None };
    let all = vec![
        everyone("policies/b", 5),
        everyone("policies/a", 5),
        everyone("experiments/z", 5),
        everyone("policies/c", 9),
    ];
    assert_eq!(names(&fleet(all), 0, &[]), ["policies/c@1", "experiments/z@1", "policies/a@1", "policies/b@1"]);
}

#[test]
fn without_word_from_a_server_a_canary_gives_way_to_what_everyone_has() {
    let canary = |name| Some((part(9_999), revision(name, 2, 7, &[])));
    let fleet = fleet(vec![
        Assigned { everyone: Some(revision("policies/p", 1, 5, &[])), canary: canary("policies/p"), rollout: None },
        Assigned { everyone: Some(revision("experiments/e", 1, 8, &[])), canary: None, rollout: None },
    ]);
    let content = Contents::default().of(&fleet, &at(0, &Labels::new()));
    let layers = v1::Layers::decode(content.layers.clone()).expect("as encoded").layers;
    let terms: Vec<_> = layers.iter().map(|l| (l.name.as_str(), l.revision, l.lease_ms, l.standby)).collect();
    let acting = [("experiments/e", 1, 600_000, false), ("policies/p", 2, 600_000, false)];
    assert_eq!(terms, [acting[0], acting[1], ("policies/p", 1, 600_000, true)]);
    let confirmed = [("experiments/e".to_owned(), 1), ("policies/p".to_owned(), 2)];
    assert_eq!(*content.revisions, confirmed, "what stands by is not what the node runs");
}

#[test]
fn only_canaries_and_experiments_have_a_lease() {
    let fleet = fleet(vec![
        Assigned { everyone: Some(revision("policies/a", 1, 3, &[])), canary: None, rollout: None },
        Assigned { everyone: None, canary: Some((part(9_999), revision("policies/b", 1, 2, &[]))), rollout: None },
        Assigned { everyone: Some(revision("experiments/c", 1, 1, &[])), canary: None, rollout: None },
    ]);
    let content = Contents::default().of(&fleet, &at(0, &Labels::new()));
    let layers = v1::Layers::decode(content.layers.clone()).expect("as encoded").layers;
    assert_eq!(layers.iter().map(|layer| layer.lease_ms).collect::<Vec<_>>(), [0, 600_000, 600_000]);
}

#[test]
fn equal_layers_share_a_frame_until_nobody_has_them() {
    let first =
        fleet(vec![Assigned { everyone: Some(revision("policies/a", 1, 3, &[])), canary: None, rollout: None }]);
    let mut contents = Contents::default();
    contents.begin(&first);
    let a = contents.of(&first, &at(0, &Labels::new()));
    assert!(Arc::ptr_eq(&a, &contents.of(&first, &at(9_999, &labels(&[("zone", "a")])))));
    contents.begin(&first);
    assert!(Arc::ptr_eq(&a, &contents.of(&first, &at(0, &Labels::new()))), "over generations");
    contents.begin(&first);
    contents.begin(&first);
    assert!(contents.before.is_empty(), "not asked for in a whole generation");
    let restored = Fleet { epoch: Uuid::max(), ..first };
    contents.begin(&restored);
    assert!(!Arc::ptr_eq(&a, &contents.of(&restored, &at(0, &Labels::new()))));
}

#[test]
fn zones_go_to_those_whose_layers_refer_to_them() {
    let referring = |name| {
        let revision = Revision { refers_to_zones: true, ..(*revision(name, 1, 3, &[("zone", "a")])).clone() };
        Assigned { everyone: Some(Arc::new(revision)), canary: None, rollout: None }
    };
    let everyone = Assigned { everyone: Some(revision("policies/b", 1, 3, &[])), canary: None, rollout: None };
    let first = Fleet {
        zones: Arc::new(ZoneMap { version: 1, zones: vec![v1::Zone::default()] }),
        ..fleet(vec![referring("policies/a"), everyone])
    };
    let second = Fleet { zones: Arc::new(ZoneMap { version: 2, zones: vec![] }), ..first.clone() };
    let mut contents = Contents::default();
    let (mut with, mut without) = (vec![], vec![]);
    for fleet in [&first, &second] {
        contents.begin(fleet);
        with.push(contents.of(fleet, &at(0, &labels(&[("zone", "a")]))));
        without.push(contents.of(fleet, &at(0, &Labels::new())));
    }
    assert!(Arc::ptr_eq(&without[0], &without[1]), "another map does not touch who does not refer to it");
    let zones = |content: &Content| v1::Layers::decode(content.layers.clone()).expect("as encoded").zones.len();
    assert_eq!((zones(&without[0]), zones(&with[0]), zones(&with[1])), (0, 1, 0));
    assert_ne!(with[0].hash, with[1].hash);
}

proptest! {
    #[test]
    fn whoever_is_in_a_share_stays_when_it_grows(position in 0_u32..10_000, a in 1_u32..10_000, b in 1_u32..10_000) {
        let with = |share| fleet(vec![Assigned {
            everyone: Some(revision("policies/p", 1, 0, &[])),
            canary: Some((part(share), revision("policies/p", 2, 0, &[]))),
            rollout: None,
        }]);
        let canary = |share| names(&with(share), position, &[]) == ["policies/p@2"];
        prop_assert!(!canary(a.min(b)) || canary(a.max(b)));
    }

    #[test]
    fn a_cohort_has_what_each_of_its_nodes_would_have(
        shares in prop::collection::vec((0_u32..10_000, any::<bool>()), 1..4),
        nodes in prop::collection::vec((0_u32..10_000, any::<bool>()), 1..40),
    ) {
        let assigned = |(at, (share, labelled)): (usize, &(u32, bool))| {
            let name = format!("policies/p{at}");
            let node_labels: &[_] = if *labelled { &[("zone", "a")] } else { &[] };
            Assigned {
                everyone: Some(revision(&name, 1, 0, &[])),
                canary: Some((part(*share), revision(&name, 2, 0, node_labels))),
                rollout: None,
            }
        };
        let fleet = fleet(shares.iter().enumerate().map(assigned).collect());
        let of_labels = [labels(&[]), labels(&[("zone", "a")])];
        let mut contents = Contents::default();
        contents.begin(&fleet);
        for (position, labelled) in nodes {
            let labels_id = usize::from(labelled);
            let node = at(position, &of_labels[labels_id]);
            let of_cohort = contents.of_cohort(&fleet, labels_id as u64, &node);
            prop_assert_eq!(of_cohort.hash, Contents::default().of(&fleet, &node).hash);
        }
    }

    #[test]
    fn the_order_of_loading_does_not_matter(
        mut assigned in prop::collection::vec((0_u8..6, 0_u32..3), 0..6), position in 0_u32..10_000,
    ) {
        assigned.sort();
        assigned.dedup_by_key(|(name, _)| *name);
        let build = |list: &[(u8, u32)]| fleet(list.iter().map(|(name, priority)| Assigned {
            everyone: Some(revision(&format!("policies/p{name}"), 1, *priority, &[])), canary: None, rollout: None,
        }).collect());
        let forward = Contents::default().of(&build(&assigned), &at(position, &Labels::new()));
        assigned.reverse();
        let backward = Contents::default().of(&build(&assigned), &at(position, &Labels::new()));
        prop_assert_eq!(forward.hash, backward.hash);
    }
}

#[test]
fn a_step_follows_upon_the_generation_before_it_and_nothing_that_is_off_comes_on() {
    let given =
        |name, revision| Assigned { everyone: Some(self::revision(name, revision, 5, &[])), ..Assigned::default() };
    let fleet = fleet(vec![given("policies/p", 1), given("policies/q", 1)]);
    let step = |generation, name: &str, number| Step {
        reached: Reached { epoch: Uuid::nil(), generation, audit: AuditHead::default() },
        name: name.parse().expect("a name"),
        everyone: (number > 0).then(|| revision(name, number, 5, &[])),
    };
    let after = |fleet: &Fleet, step: Step| fleet.after(&step).map(|after| (after.generation, names(&after, 0, &[])));
    let of = |names: &[&str]| Some((2, names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()));
    assert_eq!(after(&fleet, step(2, "policies/p", 2)), of(&["policies/p@2", "policies/q@1"]));
    assert_eq!(after(&fleet, step(2, "policies/p", 0)), of(&["policies/q@1"]));
    assert_eq!(after(&fleet, step(2, "policies/new", 1)), of(&["policies/new@1", "policies/p@1", "policies/q@1"]));
    for generation in [0, 1, 3] {
        assert_eq!(after(&fleet, step(generation, "policies/p", 2)), None, "something else is between, or it is known");
    }
    let mut elsewhere = step(2, "policies/p", 2);
    elsewhere.reached.epoch = Uuid::max();
    assert_eq!(after(&fleet, elsewhere), None, "of another database");
    let off = Off { everything: false, names: ["policies/p".to_owned()].into() };
    let off = Fleet { assigned: vec![given("policies/q", 1)], off, ..fleet.clone() };
    assert_eq!(after(&off, step(2, "policies/p", 2)), of(&["policies/q@1"]));
    let off = Fleet { assigned: vec![], off: Off { everything: true, ..Off::default() }, ..fleet };
    assert_eq!(after(&off, step(2, "policies/p", 2)), of(&[]));
}
