use proptest::prelude::*;

use super::*;

/// What a layer says is its revision; in these tests, a node cannot honour those with an odd one.
fn layer(name: &str, revision: u64, priority: u32) -> v1::Layer {
    v1::Layer { name: name.to_owned(), revision, priority, ..v1::Layer::default() }
}

fn canary(layer: v1::Layer) -> v1::Layer {
    v1::Layer { lease_ms: 600, ..layer }
}

fn standing_by(layer: v1::Layer) -> v1::Layer {
    v1::Layer { lease_ms: 600, standby: true, ..layer }
}

fn layers(layers: &[v1::Layer]) -> v1::Layers {
    v1::Layers { layers: layers.to_vec(), zones: vec![] }
}

fn refusal(layer: Option<usize>) -> Violation {
    Violation { layer, fault: Fault { field: "rules[0]".to_owned(), description: "not here".to_owned() } }
}

/// A node that holds so many layers.
fn node(max: usize) -> impl FnMut(&v1::Layers) -> Result<(), Vec<Violation>> {
    move |layers| {
        let odd = layers.layers.iter().enumerate().filter(|(_, layer)| layer.revision % 2 == 1);
        let mut refusals: Vec<_> = odd.map(|(index, _)| refusal(Some(index))).collect();
        refusals.extend((layers.layers.len() > max).then(|| refusal(None)));
        if refusals.is_empty() { Ok(()) } else { Err(refusals) }
    }
}

fn settled(offered: &[v1::Layer], before: &[v1::Layer]) -> Settled<()> {
    settle(layers(offered), vec![], || layers(before), node(usize::MAX)).expect("each can be left out")
}

fn held(settled: &Settled<()>) -> Vec<(&str, u64, u64)> {
    settled.held_back.iter().map(|held| (held.layer.as_str(), held.revision, held.revision_in_force)).collect()
}

#[test]
fn what_can_be_honoured_is_as_it_was_offered() {
    let offered = [layer("policies/a", 2, 1)];
    let settled = settle(layers(&offered), vec![], || panic!("not needed"), node(9)).expect("sound");
    assert_eq!((settled.layers.layers.as_slice(), settled.held_back.len()), (offered.as_slice(), 0));
}

#[test]
fn a_refused_layer_stays_as_it_was_and_the_others_become_new() {
    let before = [layer("policies/a", 2, 5), layer("policies/b", 2, 9)];
    // Its priority has been raised as well; what stays has its own.
    let offered = [layer("policies/a", 3, 10), layer("policies/b", 4, 9)];
    let settled = settled(&offered, &before);
    assert_eq!(settled.layers.layers, [layer("policies/b", 4, 9), layer("policies/a", 2, 5)]);
    assert_eq!(held(&settled), [("policies/a", 3, 2)]);
    let violation = &settled.held_back[0].violations[0];
    assert_eq!((violation.layer.as_str(), violation.field.as_str()), ("policies/a", "rules[0]"));
}

#[test]
fn what_stays_keeps_its_lease_and_what_stands_by_for_it() {
    let before = [canary(layer("policies/a", 4, 5)), standing_by(layer("policies/a", 2, 5))];
    let settled = settled(&[layer("policies/a", 5, 5)], &before);
    assert_eq!(settled.layers.layers, before);
    assert_eq!(held(&settled), [("policies/a", 5, 4)]);
}

#[test]
fn a_new_layer_that_is_refused_is_not_there() {
    let settled = settled(&[layer("policies/a", 1, 5), layer("policies/b", 2, 4)], &[layer("policies/c", 2, 1)]);
    assert_eq!(settled.layers.layers, [layer("policies/b", 2, 4)]);
    assert_eq!(held(&settled), [("policies/a", 1, 0)]);
}

#[test]
fn where_a_canary_is_refused_the_node_does_what_everyone_does() {
    let offered =
        [canary(layer("policies/a", 5, 7)), standing_by(layer("policies/a", 4, 3)), layer("policies/b", 2, 5)];
    let settled = settled(&offered, &[layer("policies/a", 2, 9)]);
    assert_eq!(settled.layers.layers, [layer("policies/b", 2, 5), layer("policies/a", 4, 3)]);
    assert_eq!(held(&settled), [("policies/a", 5, 4)]);
}

#[test]
fn a_canary_that_corrects_what_everyone_has_comes_into_force() {
    let offered = [canary(layer("policies/a", 4, 5)), standing_by(layer("policies/a", 3, 5))];
    let settled = settled(&offered, &[layer("policies/a", 2, 5)]);
    assert_eq!(settled.layers.layers, [canary(layer("policies/a", 4, 5)), standing_by(layer("policies/a", 2, 5))]);
    assert_eq!(held(&settled), []);
    let [note] = settled.standbys.as_slice() else { panic!("{:?}", settled.standbys) };
    assert_eq!((note.requested.as_str(), note.effective.as_str()), ("revision 3", "revision 2"));
    let alone = super::settle(layers(&offered), vec![], || layers(&[]), node(9)).expect("sound");
    assert_eq!(alone.layers.layers, [canary(layer("policies/a", 4, 5))]);
    assert_eq!(alone.standbys[0].effective, "nothing");
}

#[test]
fn what_stood_by_before_is_asked_what_the_canary_is_asked() {
    let of = |name: &str| Some(v1::LayerRollout { name: name.to_owned(), ..v1::LayerRollout::default() });
    let rolled_out = |layer, name| v1::Layer { rollout: of(name), ..layer };
    let offered = [layer("policies/a", 4, 5), layer("policies/a", 3, 5)];
    let [new, refused] = offered.map(|layer| rolled_out(layer, "rollouts/new"));
    let offered = [canary(new.clone()), standing_by(refused)];
    let settled = settled(&offered, &[rolled_out(layer("policies/a", 2, 5), "rollouts/old")]);
    let stands_by = standing_by(rolled_out(layer("policies/a", 2, 5), "rollouts/new"));
    assert_eq!(settled.layers.layers, [canary(new), stands_by]);
}

#[test]
fn what_was_in_force_and_cannot_be_any_more_goes() {
    // The kernel can do less than it could, or the number means another content: what is there is tried, whatever its number.
    let settled = settled(&[layer("policies/a", 3, 5), layer("policies/b", 2, 5)], &[layer("policies/a", 3, 5)]);
    assert_eq!(settled.layers.layers, [layer("policies/b", 2, 5)]);
    assert_eq!(held(&settled), [("policies/a", 3, 0)]);
}

#[test]
fn what_is_known_to_be_refused_is_not_tried() {
    let offered = layers(&[layer("policies/a", 2, 5), layer("policies/b", 2, 5)]);
    let mut tries = 0;
    let settled = settle(offered, vec![refusal(Some(0))], v1::Layers::default, |layers| {
        tries += 1;
        node(9)(layers)
    });
    assert_eq!((held(&settled.expect("the other is sound")), tries), (vec![("policies/a", 2, 0)], 1));
}

#[test]
fn what_is_too_much_together_is_refused_as_a_whole() {
    let offered = [layer("policies/a", 2, 5), layer("policies/b", 2, 5), layer("policies/c", 3, 5)];
    let violations = settle(layers(&offered), vec![], || layers(&[]), node(1)).expect_err("too many");
    let named: Vec<_> = violations.iter().map(|violation| violation.layer.as_str()).collect();
    assert_eq!(named, ["", "policies/c"]);
    // What was there before makes room for what is offered.
    let before = [layer("policies/c", 2, 5)];
    let settled = settle(layers(&offered), vec![], || layers(&before), node(2)).expect("two are sound");
    assert_eq!(settled.layers.layers, offered[..2]);
    assert_eq!(held(&settled), [("policies/c", 3, 0)]);
}

#[test]
fn zones_are_the_newest_unless_only_what_stays_refers_to_them() {
    let zoned = |layer: v1::Layer| {
        let condition = v1::Match { local_zones: vec!["a".to_owned()], ..v1::Match::default() };
        let rule = v1::Rule { r#match: Some(condition), ..v1::Rule::default() };
        v1::Layer { body: Some(v1::layer::Body::Policy(v1::PolicyLayer { rules: vec![rule] })), ..layer }
    };
    let zones = |name: &str| vec![v1::Zone { name: name.to_owned(), ..v1::Zone::default() }];
    let before = v1::Layers { layers: vec![zoned(layer("policies/a", 2, 5))], zones: zones("before") };
    let with = |other: v1::Layer, zones: Vec<v1::Zone>| {
        let offered = v1::Layers { layers: vec![layer("policies/a", 3, 5), other], zones };
        settle(offered, vec![], || before.clone(), node(9)).expect("sound").layers.zones
    };
    let plain = layer("policies/b", 2, 5);
    assert_eq!(with(plain.clone(), vec![]), zones("before"));
    assert_eq!(with(plain.clone(), zones("now")), zones("now"));
    assert_eq!(with(zoned(plain), vec![]), [], "an empty map of zones is a map");
}

/// At most one policy of each name, alone or as a canary with what stands by for it, in the order of decision.
fn snapshots() -> impl Strategy<Value = Vec<v1::Layer>> {
    let one = (1..9_u64, 0..3_u32, prop::option::of((1..9_u64, 0..3_u32)));
    prop::collection::btree_map(0..5_u8, one, 0..5).prop_map(|all| {
        let mut layers: Vec<_> = all
            .into_iter()
            .flat_map(|(name, (revision, priority, beside))| {
                let name = format!("policies/{name}");
                let acting = layer(&name, revision, priority);
                match beside {
                    None => vec![acting],
                    Some((revision, priority)) => vec![canary(acting), standing_by(layer(&name, revision, priority))],
                }
            })
            .collect();
        layers.sort_by_key(|layer| (std::cmp::Reverse(layer.priority), layer.name.clone()));
        layers
    })
}

fn acting<'a>(layers: &'a [v1::Layer], name: &str) -> Option<&'a v1::Layer> {
    layers.iter().find(|layer| layer.name == name && !layer.standby)
}

proptest! {
    #[test]
    fn a_refused_layer_holds_only_itself_back(offered in snapshots(), before in snapshots()) {
        let Settled { layers: there, held_back, .. } = settled(&offered, &before);
        let there = there.layers;
        prop_assert!(there.iter().all(|layer| layer.revision % 2 == 0), "nothing that the node refuses: {there:?}");
        prop_assert!(there.is_sorted_by_key(|layer| (std::cmp::Reverse(layer.priority), layer.name.clone())));
        for layer in &offered {
            let now = acting(&there, &layer.name);
            let held = held_back.iter().find(|held| held.layer == layer.name);
            if !layer.standby && layer.revision % 2 == 0 {
                prop_assert!(now == Some(layer) && held.is_none(), "everything else is newest: {layer:?}, {now:?}");
            } else if !layer.standby {
                let held = held.expect("it is said");
                let in_force = now.map_or(0, |layer| layer.revision);
                prop_assert_eq!((held.revision, held.revision_in_force), (layer.revision, in_force));
            } else if layer.revision % 2 == 0 {
                prop_assert!(there.iter().any(|one| one.name == layer.name && one.revision == layer.revision));
            }
        }
        for layer in &there {
            prop_assert!(offered.iter().any(|one| one.name == layer.name), "nothing that was taken away stays: {layer:?}");
        }
    }

    #[test]
    fn what_came_into_force_comes_into_force_again(offered in snapshots(), before in snapshots(), max in 0..9_usize) {
        let once = |before: &[v1::Layer]| settle(layers(&offered), vec![], || layers(before), node(max));
        let good = offered.iter().filter(|layer| layer.revision % 2 == 0).count();
        match once(&before) {
            Ok(first) => {
                prop_assert!(first.layers.layers.len() <= max);
                let second = once(&first.layers.layers).expect("it was before");
                prop_assert_eq!(&second.layers, &first.layers, "as after a restart");
                prop_assert_eq!(second.held_back, first.held_back);
            }
            Err(violations) => {
                prop_assert!(good > max, "only what is too much together is refused as a whole: {violations:?}");
            }
        }
    }
}
