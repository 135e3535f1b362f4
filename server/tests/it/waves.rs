//! Canaries of several waves: who is in which, and that whoever is in one stays in it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use sockpilot_policy::model::Labels;
use sockpilot_proto::v1::{self, selector::Kind};
use sockpilot_server::{
    change::wave::Candidate,
    store::{
        Store,
        fleet::{self, Revisions},
    },
};
use tonic::{Code, Status};

use crate::outcomes::execute;
use crate::world::{TestNode, World, experiment, fields, hello, labels, layers, nobody, share};

fn of_share(share_bp: u32) -> v1::Selector {
    v1::Selector { kind: Some(Kind::ShareBp(share_bp)) }
}

fn of_labels(key: &str, value: &str) -> v1::Selector {
    let labels = [(key.to_owned(), value.to_owned())].into();
    v1::Selector { kind: Some(Kind::NodeLabels(v1::target::NodeLabels { labels })) }
}

fn of_nodes(ids: &[&str]) -> v1::Selector {
    let nodes = ids.iter().map(|id| format!("nodes/{id}")).collect();
    v1::Selector { kind: Some(Kind::Nodes(v1::selector::Nodes { nodes })) }
}

fn waves(selectors: &[v1::Selector]) -> Option<v1::Target> {
    let waves = v1::target::Waves { selectors: selectors.to_vec(), salt: String::new(), flow_share_bp: 0 };
    Some(v1::Target { kind: Some(v1::target::Kind::Waves(waves)) })
}

fn request(revision: u64, target: Option<v1::Target>) -> v1::AssignRevisionRequest {
    v1::AssignRevisionRequest {
        reason: "by a test".to_owned(),
        name: "policies/p".to_owned(),
        revision,
        target,
        ..v1::AssignRevisionRequest::default()
    }
}

async fn assign(world: &mut World, request: v1::AssignRevisionRequest) -> Result<v1::LayerStatus, Status> {
    world.assignments.assign_revision(request).await.map(tonic::Response::into_inner)
}

/// The waves of the canary, and its salt.
fn canary(status: &v1::LayerStatus) -> v1::target::Waves {
    let targets = status.assignments.iter().filter_map(|assignment| assignment.target.as_ref()?.kind.clone());
    let mut waves =
        targets.filter_map(|kind| if let v1::target::Kind::Waves(waves) = kind { Some(waves) } else { None });
    waves.next_back().expect("a canary with waves")
}

/// The members, by wave, two on a page.
async fn members(world: &mut World, wave: u32) -> BTreeMap<u32, Vec<String>> {
    let mut all: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListMembersRequest { name: "policies/p".to_owned(), wave, page_size: 2, page_token };
        let page = world.assignments.list_members(request).await.expect("a page").into_inner();
        for member in page.members {
            assert_eq!((member.revision, member.state()), (2, v1::LayerState::Pending));
            all.entry(member.wave).or_default().push(member.node.trim_start_matches("nodes/").to_owned());
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

/// A policy with a staged revision 2, and nodes `a0` to `a4` in zone a, `b0` to `b4` in zone b, none of which answers.
async fn world() -> (World, Vec<TestNode>) {
    let mut world = World::new().await;
    world.create("p").await;
    world.update("p", 2_000, nobody()).await;
    let mut nodes = vec![];
    for (zone, number) in ["a", "b"].into_iter().flat_map(|zone| (0..5).map(move |number| (zone, number))) {
        let labels = [("zone".to_owned(), zone.to_owned())].into();
        let mut node = world.connect(v1::Hello { labels, ..hello(&format!("{zone}{number}")) }).await;
        assert_eq!(layers(&node.snapshot().await), ["policies/p@1"]);
        nodes.push(node);
    }
    (world, nodes)
}

#[tokio::test]
async fn waves_add_up_and_are_listed_and_counted() {
    let (mut world, mut nodes) = world().await;
    let status = assign(&mut world, request(2, waves(&[of_nodes(&["b4", "later"])]))).await.expect("the first wave");
    let salt = canary(&status).salt;
    assert!(!salt.is_empty());
    assert_eq!(layers(&nodes[9].snapshot().await), ["policies/p@2"]);

    let asked = v1::AssignRevisionRequest {
        reason: "by a test".to_owned(),
        validate_only: true,
        ..request(2, waves(&[of_labels("zone", "a")]))
    };
    let preview = assign(&mut world, asked).await.expect("possible");
    let reach = preview.notes.as_ref().and_then(|notes| notes.reach).expect("whom");
    assert_eq!((reach.nodes, reach.total_nodes), (6, 10), "of the whole");
    assert_eq!(members(&mut world, 0).await, BTreeMap::from([(1, vec!["b4".to_owned()])]), "only asked");
    let status = assign(&mut world, request(2, waves(&[of_labels("zone", "a")]))).await.expect("the second wave");
    assert_eq!(status.wave_counts, preview.wave_counts);
    assert_eq!(canary(&status).salt, salt);
    let counts: Vec<_> = status.wave_counts.iter().map(|count| (count.wave, count.state(), count.nodes)).collect();
    assert_eq!(counts, [(1, v1::LayerState::Pending, 1), (2, v1::LayerState::Pending, 5)]);
    nodes[9].quiet().await;
    nodes[8].quiet().await;

    let whole = [of_nodes(&["b4", "later"]), of_labels("zone", "a"), of_share(9_999)];
    let status = assign(&mut world, request(2, waves(&whole))).await.expect("the whole list, with a third wave");
    assert_eq!(canary(&status).selectors, whole);
    let again = assign(&mut world, request(2, waves(&whole[2..]))).await.expect("sent again");
    assert_eq!(again.etag, status.etag, "it changes nothing");
    let by_wave = members(&mut world, 0).await;
    assert_eq!(by_wave[&1], ["b4"]);
    assert_eq!(by_wave[&2], ["a0", "a1", "a2", "a3", "a4"]);
    assert!(by_wave[&3].iter().all(|id| ["b0", "b1", "b2", "b3"].contains(&id.as_str())));
    assert_eq!(members(&mut world, 2).await, BTreeMap::from([(2, by_wave[&2].clone())]));

    let replaced = v1::AssignRevisionRequest {
        reason: "by a test".to_owned(),
        replace_waves: true,
        ..request(2, waves(&[of_labels("zone", "b")]))
    };
    let status = assign(&mut world, replaced).await.expect("begun anew");
    assert_ne!(canary(&status).salt, salt);
    let only_b = ["b0", "b1", "b2", "b3", "b4"].map(str::to_owned).to_vec();
    assert_eq!(members(&mut world, 0).await, BTreeMap::from([(1, only_b)]));
    assert_eq!(world.audit().await.len(), 6, "what changed nothing is not in it");
}

#[tokio::test]
async fn what_a_person_gives_by_hand_replaces_and_can_be_added_to() {
    let (mut world, _nodes) = world().await;
    assign(&mut world, request(2, labels("zone", "a"))).await.expect("by hand");
    let in_a = ["a0", "a1", "a2", "a3", "a4"].map(str::to_owned).to_vec();
    assert_eq!(members(&mut world, 0).await, BTreeMap::from([(1, in_a.clone())]));
    let status = assign(&mut world, request(2, waves(&[of_nodes(&["b1"])]))).await.expect("a wave after it");
    assert_eq!(canary(&status).salt, "", "positions stay those of the nodes");
    assert_eq!(members(&mut world, 0).await, BTreeMap::from([(1, in_a), (2, vec!["b1".to_owned()])]));
    let status = assign(&mut world, request(2, labels("zone", "b"))).await.expect("by hand again");
    let target = status.assignments[1].target.clone();
    assert_eq!(target, labels("zone", "b"), "one selector in the place of all");
    assert_eq!(members(&mut world, 0).await[&1].len(), 5);
}

#[tokio::test]
async fn every_rollout_has_a_salt_of_its_own() {
    let mut world = World::new().await;
    world.create("p").await;
    world.update("p", 2_000, nobody()).await;
    world.update("p", 3_000, nobody()).await;
    let mut salts = BTreeSet::new();
    for revision in [2, 3, 2] {
        let status = assign(&mut world, request(revision, waves(&[of_share(100)]))).await.expect("a canary");
        salts.insert(canary(&status).salt);
    }
    assert_eq!(salts.len(), 3, "also of a revision that was a canary before");
}

#[tokio::test]
async fn faults_are_named() {
    let (mut world, _nodes) = world().await;
    let mut bad = async |selectors: &[v1::Selector]| {
        fields(&assign(&mut world, request(2, waves(selectors))).await.expect_err("refused"))
    };
    let at = |field: &str| format!("target.waves.{field}");
    assert_eq!(bad(&[]).await, [at("selectors")]);
    assert_eq!(bad(&[v1::Selector { kind: None }]).await, [at("selectors[0]")]);
    assert_eq!(bad(&[of_share(500), of_share(500)]).await, [at("selectors[1].share_bp")]);
    assert_eq!(bad(&[of_share(0), of_nodes(&[])]).await, [at("selectors[0].share_bp"), at("selectors[1].nodes.nodes")]);
    assert_eq!(bad(&[of_nodes(&["A"])]).await, [at("selectors[0].nodes.nodes[0]")]);
    assert_eq!(bad(&[of_nodes(&["a"]), of_nodes(&["a"])]).await, [at("selectors[1].nodes.nodes")]);
    assert_eq!(bad(&(1..=65).map(of_share).collect::<Vec<_>>()).await, [at("selectors")]);

    let hand = v1::AssignRevisionRequest { replace_waves: true, ..request(2, share(100)) };
    assert_eq!(fields(&assign(&mut world, hand).await.expect_err("refused")), ["replace_waves"]);
    assign(&mut world, request(2, waves(&[of_share(500), of_nodes(&["a1"])]))).await.expect("a canary");
    for (wave, why) in [(of_share(400), "5% of wave 1"), (of_nodes(&["a1", "a2"]), "nodes/a1, which is in wave 2")] {
        let refused = assign(&mut world, request(2, waves(&[wave]))).await.expect_err("it adds nothing");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains(why) && refused.message().contains("replace the waves"), "{refused:?}");
    }
    let create = v1::CreateExperimentRequest { experiment: Some(experiment("e")), ..Default::default() };
    world.experiments.create_experiment(create).await.expect("created");
    let name = "experiments/e".to_owned();
    let wave = v1::AssignRevisionRequest { name, ..request(1, waves(&[of_share(500)])) };
    assert_eq!(fields(&assign(&mut world, wave).await.expect_err("refused")), ["target"]);
}

async fn list(world: &mut World, name: &str, wave: u32) -> Result<v1::ListMembersResponse, Status> {
    let request = v1::ListMembersRequest { name: name.to_owned(), wave, ..v1::ListMembersRequest::default() };
    world.assignments.list_members(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_list_that_is_empty_says_why() {
    let mut world = World::new().await;
    assert_eq!(list(&mut world, "policies/p", 0).await.expect_err("none").code(), Code::NotFound);
    assert_eq!(fields(&list(&mut world, "p", 65).await.expect_err("refused")), ["name", "wave"]);
    let (name, page_token) = ("policies/p".to_owned(), "zz".to_owned());
    let bad = v1::ListMembersRequest { name, wave: 0, page_size: 201, page_token };
    assert_eq!(fields(&world.assignments.list_members(bad).await.expect_err("refused")), ["page_size", "page_token"]);
    world.create("p").await;
    let answer = list(&mut world, "policies/p", 0).await.expect("listed");
    assert_eq!(answer.warnings[0].field, "name", "there is no canary");
    world.update("p", 2_000, share(1)).await;
    let answer = list(&mut world, "policies/p", 2).await.expect("listed");
    assert!(answer.warnings[0].description.contains("1 wave, and no wave 2"), "{answer:?}");
    let answer = list(&mut world, "policies/p", 1).await.expect("listed");
    assert_eq!(answer, v1::ListMembersResponse::default(), "no node is there yet");
}

fn any_selector() -> impl Strategy<Value = v1::Selector> {
    prop_oneof![
        (1_u32..10_000).prop_map(of_share),
        prop::sample::select(vec!["a", "b"]).prop_map(|zone| of_labels("zone", zone)),
        prop::collection::btree_set("[ab][0-4]", 1..4)
            .prop_map(|ids| of_nodes(&ids.iter().map(String::as_str).collect::<Vec<_>>())),
    ]
}

async fn set_off(store: &Store, target: Option<&str>) {
    let switch = target.map_or_else(String::new, |target| {
        format!("INSERT INTO kill_switch (target, reason, actor) VALUES ('{target}', 'a test', 'a test');")
    });
    execute(store, format!("DELETE FROM kill_switch; {switch}")).await;
}

/// Random waves, added and replaced, and switched off: the view of the database and `resolve` agree in every node's revision and wave.
#[tokio::test]
async fn the_database_and_the_server_agree_on_every_member() {
    let (mut world, _nodes) = world().await;
    let mut runner = TestRunner::deterministic();
    let mut given = 0;
    for round in 0..60 {
        let selectors = prop::collection::vec(any_selector(), 1..5).new_tree(&mut runner).expect("some").current();
        let replace_waves = round % 3 == 0;
        let asked = v1::AssignRevisionRequest {
            reason: "by a test".to_owned(),
            replace_waves,
            ..request(2, waves(&selectors))
        };
        given += u32::from(assign(&mut world, asked).await.is_ok());
        let store = world.server.store().clone();
        // Now and then off, one policy or everything, and on again.
        let off = [None, Some("policies/p"), Some("-"), None][round % 4];
        set_off(&store, off).await;
        let loaded =
            store.read("test", |conn| Box::pin(fleet::load(conn, Revisions::default()))).await.expect("loaded");
        for (zone, number) in ["a", "b"].into_iter().flat_map(|zone| (0..5).map(move |number| (zone, number))) {
            let id = format!("{zone}{number}");
            let labels = Labels::from([("zone".to_owned(), zone.to_owned())]);
            let share_position = sockpilot_policy::bucket::share_position(&id);
            let node = Candidate { id: &id, share_position, labels: &labels };
            let asked = id.clone();
            let said = store.read("test", |conn| Box::pin(async move { fleet::of_node(conn, &asked).await }));
            let said = said.await.expect("rows");
            let Some(resolved) = loaded.fleet.layers_of(&node).into_iter().next() else {
                assert!(off.is_some() && said.is_empty(), "{id} has {said:?}");
                continue;
            };
            assert_eq!(off, None, "{id} has something");
            let canary = loaded.fleet.assigned[0].canary.as_ref();
            let wave = canary.and_then(|(canary, _)| canary.wave_of(&node)).map(|wave| wave as i16 + 1);
            let resolved = (resolved.revision.name.to_string(), resolved.revision.revision.cast_signed(), wave);
            assert_eq!(said, [resolved], "{id} among {selectors:?}");
        }
    }
    assert!(given > 20, "{given} of the random unions were sound");
}
