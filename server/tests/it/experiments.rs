//! Experiments: a design that makes epochs, words that make none, and a lifecycle without canaries.

use sockpilot_proto::v1::{self, ExperimentState};
use tonic::{Code, Status};

use crate::world::{World, everyone, experiment, fields, hello, labels, layers, nobody, share};

async fn create(world: &mut World, target: Option<v1::Target>) -> Result<v1::Experiment, Status> {
    let experiment = Some(experiment("e"));
    let request = v1::CreateExperimentRequest { experiment, target, ..v1::CreateExperimentRequest::default() };
    world.experiments.create_experiment(request).await.map(tonic::Response::into_inner)
}

async fn update(
    world: &mut World,
    experiment: v1::Experiment,
    target: Option<v1::Target>,
) -> Result<v1::Experiment, Status> {
    let experiment = Some(experiment);
    let request = v1::UpdateExperimentRequest { experiment, target, ..v1::UpdateExperimentRequest::default() };
    world.experiments.update_experiment(request).await.map(tonic::Response::into_inner)
}

async fn assign(world: &mut World, revision: u64, target: Option<v1::Target>) -> Result<v1::LayerStatus, Status> {
    let name = "experiments/e".to_owned();
    let request = v1::AssignRevisionRequest {
        reason: "by a test".to_owned(),
        name,
        revision,
        target,
        ..v1::AssignRevisionRequest::default()
    };
    world.assignments.assign_revision(request).await.map(tonic::Response::into_inner)
}

async fn get(world: &mut World, name: &str) -> v1::Experiment {
    let request = v1::GetExperimentRequest { name: name.to_owned() };
    world.experiments.get_experiment(request).await.expect("it is there").into_inner()
}

fn spoken(description: &str, owner: &str) -> v1::Experiment {
    v1::Experiment { description: description.to_owned(), owner: owner.to_owned(), ..experiment("e") }
}

#[tokio::test]
async fn other_words_make_no_epoch_and_nodes_do_not_hear_of_them() {
    let mut world = World::new().await;
    let made = create(&mut world, None).await.expect("created");
    let mut node = world.connect(hello("n")).await;
    let before = node.take().await;
    assert_eq!(layers(&before), ["experiments/e@1"]);

    let mended = update(&mut world, spoken("why", "ann"), None).await.expect("mended");
    assert_eq!((mended.revision, mended.description.as_str(), mended.owner.as_str()), (1, "why", "ann"));
    assert_ne!(mended.etag, made.etag, "it was changed");
    assert_eq!((&mended.arms, &mended.uid, mended.create_time), (&made.arms, &made.uid, made.create_time));
    node.quiet().await;

    // Somebody who was slower hears of it.
    let stale = v1::Experiment { etag: made.etag, ..spoken("other", "bob") };
    assert_eq!(update(&mut world, stale, None).await.expect_err("stale").code(), Code::Aborted);
    let again = update(&mut world, spoken("why", "ann"), None).await.expect("the same");
    assert_eq!(again.etag, mended.etag, "the same words change nothing");

    let entries = world.audit().await;
    let [entry, first] = entries.as_slice() else { panic!("two changes: {entries:?}") };
    assert_eq!((entry.method.as_str(), entry.revision, entry.generation), ("UpdateExperiment", 1, first.generation));
    assert!(entry.request_json.contains("why"), "{}", entry.request_json);

    // A daemon that comes anew gets what the other one has.
    let after = world.connect(hello("m")).await.take().await;
    assert_eq!(after.layers, before.layers);
}

#[tokio::test]
async fn another_design_is_another_epoch_with_words_of_its_own() {
    let mut world = World::new().await;
    create(&mut world, None).await.expect("created");
    update(&mut world, spoken("first", "ann"), None).await.expect("mended");
    let mut node = world.connect(hello("n")).await;
    node.take().await;
    let salted = v1::Experiment { salt: "other".to_owned(), ..spoken("second", "ann") };
    assert_eq!(update(&mut world, salted.clone(), None).await.expect("revised").revision, 2);
    assert_eq!(layers(&node.take().await), ["experiments/e@2"]);
    let typo = v1::Experiment { description: "2nd".to_owned(), ..salted.clone() };
    assert_eq!(update(&mut world, typo, None).await.expect("mended").revision, 2);
    assert_eq!(get(&mut world, "experiments/e").await.description, "2nd");
    assert_eq!(get(&mut world, "experiments/e@1").await.description, "first", "earlier epochs keep their words");
    let list = v1::ListExperimentRevisionsRequest { name: "experiments/e".to_owned(), ..Default::default() };
    let list = world.experiments.list_experiment_revisions(list).await.expect("all").into_inner().experiments;
    assert_eq!(list.iter().map(|e| e.description.as_str()).collect::<Vec<_>>(), ["2nd", "first"]);

    for changed in [
        v1::Experiment { priority: 7, ..salted.clone() },
        v1::Experiment { node_labels: [("zone".to_owned(), "a".to_owned())].into(), ..salted.clone() },
        v1::Experiment { if_unsupported: v1::IfUnsupported::Skip.into(), ..salted },
    ] {
        let before = get(&mut world, "experiments/e").await.revision;
        assert_eq!(update(&mut world, changed, nobody()).await.expect("revised").revision, before + 1);
    }
}

#[tokio::test]
async fn it_is_a_draft_runs_and_is_stopped() {
    let mut world = World::new().await;
    assert_eq!(create(&mut world, nobody()).await.expect("created").state(), ExperimentState::Draft);
    let mut node = world.connect(hello("n")).await;
    assert_eq!(layers(&node.take().await), [""; 0]);
    update(&mut world, spoken("why", ""), nobody()).await.expect("mended");
    assert_eq!(get(&mut world, "experiments/e").await.state(), ExperimentState::Draft);

    assign(&mut world, 1, everyone()).await.expect("started, though nobody has tried it");
    assert_eq!(layers(&node.take().await), ["experiments/e@1"]);
    assert_eq!(get(&mut world, "experiments/e").await.state(), ExperimentState::Running);
    let words = update(&mut world, spoken("because", ""), nobody()).await.expect("mended");
    assert_eq!(words.state(), ExperimentState::Running, "words for nobody do not stop it");
    let other = v1::Experiment { salt: "other".to_owned(), ..experiment("e") };
    update(&mut world, other, nobody()).await.expect("staged");
    assign(&mut world, 2, everyone()).await.expect("the next epoch, untried");
    assert_eq!(layers(&node.take().await), ["experiments/e@2"]);

    let wrong = assign(&mut world, 1, nobody()).await.expect_err("another one runs");
    assert_eq!(wrong.code(), Code::FailedPrecondition);
    assert!(wrong.message().contains("stop that one"), "{wrong:?}");
    let status = assign(&mut world, 2, nobody()).await.expect("stopped");
    assert_eq!(status.assignments, []);
    assert_eq!(layers(&node.take().await), [""; 0]);
    assert_eq!(get(&mut world, "experiments/e").await.state(), ExperimentState::Stopped);
    let again = assign(&mut world, 2, nobody()).await.expect("sent again");
    assert_eq!(again.etag, status.etag);
    assign(&mut world, 2, everyone()).await.expect("started again");
    assert_eq!(layers(&node.take().await), ["experiments/e@2"]);
    let policies = v1::ListPoliciesRequest::default();
    world.create("p").await;
    assert_eq!(world.policies.list_policies(policies).await.expect("listed").into_inner().policies.len(), 1);
}

#[tokio::test]
async fn it_has_no_canary_and_nothing_to_promote() {
    let mut world = World::new().await;
    for some in [share(1_000), labels("zone", "a")] {
        let refused = create(&mut world, some.clone()).await.expect_err("refused");
        assert_eq!(fields(&refused), ["target"]);
        assert!(refused.message().contains("node_labels"), "the remedy is named: {refused:?}");
    }
    create(&mut world, None).await.expect("created");
    for some in [share(1_000), labels("zone", "a")] {
        assert_eq!(fields(&update(&mut world, spoken("x", ""), some.clone()).await.expect_err("refused")), ["target"]);
        assert_eq!(fields(&assign(&mut world, 1, some).await.expect_err("refused")), ["target"]);
    }
    let promote = v1::PromoteRevisionRequest {
        reason: "by a test".to_owned(),
        name: "experiments/e".to_owned(),
        ..Default::default()
    };
    let refused = world.assignments.promote_revision(promote).await.expect_err("refused");
    assert_eq!(fields(&refused), ["name"]);
    let long = spoken("x", &"o".repeat(201));
    assert_eq!(fields(&update(&mut world, long, None).await.expect_err("refused")), ["experiment.owner"]);
}
