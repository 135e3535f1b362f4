//! The life of an experiment over gRPC: draft, started, extended, stopped, concluded, and ended by the server when its time is over.

use sockpilot_proto::v1::{self, ExperimentState, VerdictKind};
use tonic::{Code, Status};

use crate::world::{DEADLINE, World, experiment, fields, generation, hello, layers, nobody, until};

const NAME: &str = "experiments/e";

async fn create(world: &mut World, duration_s: u32) -> v1::Experiment {
    let experiment = Some(v1::Experiment { duration_s, ..experiment("e") });
    let request = v1::CreateExperimentRequest { experiment, target: nobody(), ..Default::default() };
    world.experiments.create_experiment(request).await.expect("created").into_inner()
}

async fn get(world: &World) -> v1::Experiment {
    let request = v1::GetExperimentRequest { name: NAME.to_owned() };
    world.experiments.clone().get_experiment(request).await.expect("it is there").into_inner()
}

fn start() -> v1::StartExperimentRequest {
    v1::StartExperimentRequest { name: NAME.to_owned(), ..Default::default() }
}

fn stop() -> v1::StopExperimentRequest {
    v1::StopExperimentRequest { name: NAME.to_owned(), ..Default::default() }
}

fn extend(duration_s: u32) -> v1::ExtendExperimentRequest {
    v1::ExtendExperimentRequest { name: NAME.to_owned(), duration_s, ..Default::default() }
}

fn conclude() -> v1::ConcludeExperimentRequest {
    v1::ConcludeExperimentRequest { name: NAME.to_owned(), ..Default::default() }
}

fn ship(arm: &str) -> v1::ConcludeExperimentRequest {
    v1::ConcludeExperimentRequest { ship_arm: arm.to_owned(), policy: "policies/shipped".to_owned(), ..conclude() }
}

async fn started(world: &mut World, request: v1::StartExperimentRequest) -> Result<v1::Experiment, Status> {
    world.experiments.start_experiment(request).await.map(tonic::Response::into_inner)
}

async fn stopped(world: &mut World, request: v1::StopExperimentRequest) -> Result<v1::Experiment, Status> {
    world.experiments.stop_experiment(request).await.map(tonic::Response::into_inner)
}

async fn extended(world: &mut World, request: v1::ExtendExperimentRequest) -> Result<v1::Experiment, Status> {
    world.experiments.extend_experiment(request).await.map(tonic::Response::into_inner)
}

async fn concluded(
    world: &mut World,
    request: v1::ConcludeExperimentRequest,
) -> Result<v1::ConcludeExperimentResponse, Status> {
    world.experiments.conclude_experiment(request).await.map(tonic::Response::into_inner)
}

fn layer(snapshot: &v1::Snapshot) -> v1::Layer {
    let layers: v1::Layers = prost::Message::decode(snapshot.layers.clone()).expect("layers");
    layers.layers.into_iter().find(|layer| layer.name == NAME).expect("the experiment")
}

/// How long it lasts, as its times say.
fn lasts_s(experiment: &v1::Experiment) -> Option<i64> {
    Some(experiment.end_time?.seconds - experiment.start_time?.seconds)
}

#[tokio::test]
async fn it_is_started_stopped_and_started_again_in_the_same_epoch() {
    let mut world = World::new().await;
    let made = create(&mut world, 3_600).await;
    assert_eq!((made.state(), made.start_time, made.end_time), (ExperimentState::Draft, None, None));
    assert_eq!(stopped(&mut world, stop()).await.expect_err("a draft").code(), Code::FailedPrecondition);
    let mut node = world.connect(hello("n")).await;
    assert_eq!(layers(&node.take().await), [""; 0]);

    let running = started(&mut world, start()).await.expect("started");
    assert_eq!((running.state(), running.revision, lasts_s(&running)), (ExperimentState::Running, 1, Some(3_600)));
    let first = layer(&node.take().await);
    let end = running.end_time.expect("an end");
    let whole = end.seconds + i64::from(end.nanos > 0);
    assert_eq!(first.ends_s, whole.cast_unsigned(), "not before that");
    assert_eq!(started(&mut world, start()).await.expect("again").etag, running.etag, "it runs already");

    let resting = stopped(&mut world, stop()).await.expect("stopped");
    assert_eq!((resting.state(), resting.end_time, resting.shipped_arm.as_str()), (ExperimentState::Stopped, None, ""));
    assert_eq!(layers(&node.take().await), [""; 0]);
    let again = stopped(&mut world, stop()).await.expect_err("it does not run");
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert!(again.message().contains("does not run"), "{again:?}");

    let running = started(&mut world, start()).await.expect("started again");
    let second = layer(&node.take().await);
    assert_eq!((running.revision, second.revision), (1, first.revision));
    assert_eq!(second.body, first.body, "the same buckets, arm by arm");
    assert!(second.ends_s >= first.ends_s, "its time counts from the last start");
}

#[tokio::test]
async fn it_is_extended_without_another_epoch() {
    let mut world = World::new().await;
    create(&mut world, 3_600).await;
    let running = started(&mut world, start()).await.expect("started");
    let mut node = world.connect(hello("n")).await;
    let before = node.take().await;

    let tried = v1::ExtendExperimentRequest { validate_only: true, ..extend(7_200) };
    let said = extended(&mut world, tried).await.expect("it could be");
    assert_eq!((said.duration_s, get(&world).await.duration_s), (7_200, 3_600), "nothing was changed");
    node.quiet().await;
    let stale = v1::ExtendExperimentRequest { etag: "other".to_owned(), ..extend(7_200) };
    assert_eq!(extended(&mut world, stale).await.expect_err("stale").code(), Code::Aborted);

    let longer = extended(&mut world, extend(7_200)).await.expect("extended");
    assert_eq!((longer.revision, longer.state(), lasts_s(&longer)), (1, ExperimentState::Running, Some(7_200)));
    assert_eq!(longer.start_time, running.start_time);
    let after = node.take().await;
    assert!(generation(&after) > generation(&before), "nodes hear of it");
    assert_eq!(layer(&after).ends_s, layer(&before).ends_s + 3_600);
    assert_eq!((layer(&after).revision, layer(&after).body), (1, layer(&before).body));
    let open = extended(&mut world, extend(0)).await.expect("until it is stopped");
    assert_eq!((open.end_time, layer(&node.take().await).ends_s), (None, 0));
    let entry = world.audit().await.remove(0);
    assert_eq!((entry.method.as_str(), entry.name.as_str()), ("UpdateExperiment", NAME));
}

/// What once had an end and was started again without one is not ended by the former.
#[tokio::test]
async fn a_former_end_is_forgotten_by_a_new_start() {
    let mut world = World::new().await;
    create(&mut world, 1).await;
    started(&mut world, start()).await.expect("started");
    stopped(&mut world, stop()).await.expect("stopped, or ended already");
    extended(&mut world, extend(0)).await.expect("until it is stopped");
    let running = started(&mut world, start()).await.expect("started again");
    assert_eq!((running.state(), running.end_time), (ExperimentState::Running, None));
    let results = world
        .experiments
        .get_experiment_results(v1::GetExperimentResultsRequest { name: NAME.to_owned(), ..Default::default() });
    assert_eq!(results.await.expect("results").into_inner().verdict.expect("one").kind(), VerdictKind::NoData);
    // Long enough for the task to look at it.
    tokio::time::sleep(std::time::Duration::from_secs(12)).await;
    assert_eq!(get(&world).await.state(), ExperimentState::Running);
}

#[tokio::test]
async fn the_same_request_is_answered_once() {
    let mut world = World::new().await;
    create(&mut world, 0).await;
    let id = |id: &str| format!("0b1c2d3e-0000-4000-8000-{id:0>12}");
    let first = v1::StartExperimentRequest { request_id: id("1"), ..start() };
    let running = started(&mut world, first.clone()).await.expect("started");
    let first_stop = v1::StopExperimentRequest { request_id: id("2"), ..stop() };
    let resting = stopped(&mut world, first_stop.clone()).await.expect("stopped");
    let again = stopped(&mut world, first_stop.clone()).await.expect("the answer was lost, it is sent again");
    assert_eq!(again.etag, resting.etag);
    let again = started(&mut world, first).await.expect("answered, not done again");
    assert_eq!((running.state(), again.state()), (ExperimentState::Running, ExperimentState::Stopped));
    // One is never another.
    let other = v1::StopExperimentRequest { reason: "other".to_owned(), ..first_stop };
    assert_eq!(stopped(&mut world, other).await.expect_err("another request").code(), Code::InvalidArgument);
    let end = v1::ConcludeExperimentRequest { request_id: id("3"), ..conclude() };
    let ended = concluded(&mut world, end.clone()).await.expect("concluded");
    let before = world.audit().await.len();
    assert_eq!(concluded(&mut world, end).await.expect("again"), ended);
    assert_eq!(world.audit().await.len(), before);
}

#[tokio::test]
async fn errors_name_the_field_and_the_remedy() {
    let mut world = World::new().await;
    create(&mut world, 0).await;
    let name = || "policies/p".to_owned();
    let wrong = started(&mut world, v1::StartExperimentRequest { name: name(), revision: 1, ..start() }).await;
    assert_eq!(fields(&wrong.expect_err("a policy")), ["name"]);
    let wrong = stopped(&mut world, v1::StopExperimentRequest { name: name(), ..stop() }).await;
    assert_eq!(fields(&wrong.expect_err("a policy")), ["name"]);
    let wrong = concluded(&mut world, v1::ConcludeExperimentRequest { name: name(), ..conclude() }).await;
    assert_eq!(fields(&wrong.expect_err("a policy")), ["name"]);
    let homeless = v1::ConcludeExperimentRequest { ship_arm: "treatment".to_owned(), ..conclude() };
    let wrong = concluded(&mut world, homeless).await.expect_err("no policy");
    assert_eq!(fields(&wrong), ["policy"]);
    assert!(wrong.message().contains("policies/NAME"), "{wrong:?}");
    let into = v1::ConcludeExperimentRequest { policy: NAME.to_owned(), ..ship("treatment") };
    assert_eq!(fields(&concluded(&mut world, into).await.expect_err("no policy")), ["policy"]);
    let forced = v1::ConcludeExperimentRequest { force: true, ..ship("treatment") };
    assert_eq!(fields(&concluded(&mut world, forced).await.expect_err("no reason")), ["reason"]);
    let never = concluded(&mut world, conclude()).await.expect_err("it never ran");
    assert_eq!(never.code(), Code::FailedPrecondition);
    assert!(never.message().contains("delete it instead"), "{never:?}");
    let none = started(&mut world, v1::StartExperimentRequest { revision: 7, ..start() }).await;
    assert!(matches!(none.expect_err("no such epoch").code(), Code::NotFound | Code::FailedPrecondition));
    let stale = v1::StartExperimentRequest { etag: "other".to_owned(), ..start() };
    assert_eq!(started(&mut world, stale).await.expect_err("stale").code(), Code::Aborted);
    let tried = started(&mut world, v1::StartExperimentRequest { validate_only: true, ..start() }).await;
    tried.expect("it could be");
    assert_eq!(get(&world).await.state(), ExperimentState::Draft, "nothing was changed");
}

#[tokio::test]
async fn an_arm_is_shipped_by_the_verdict_or_by_force() {
    let mut world = World::new().await;
    create(&mut world, 0).await;
    started(&mut world, start()).await.expect("started");
    let refused = concluded(&mut world, ship("treatment")).await.expect_err("nothing is known");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("NO_DATA") && refused.message().contains("force"), "{refused:?}");
    assert_eq!(get(&world).await.state(), ExperimentState::Running, "nothing was changed");

    let forced = |arm| v1::ConcludeExperimentRequest { force: true, reason: "we must".to_owned(), ..ship(arm) };
    let nothing = concluded(&mut world, forced("control")).await.expect_err("it sets nothing");
    assert!(nothing.message().contains("sets nothing"), "{nothing:?}");
    assert!(concluded(&mut world, forced("other")).await.expect_err("no such arm").message().contains("has no arm"));
    let tried = v1::ConcludeExperimentRequest { validate_only: true, ..forced("treatment") };
    let said = concluded(&mut world, tried).await.expect("it could be");
    assert_eq!(said.experiment.expect("it").shipped_arm, "treatment");
    assert_eq!(get(&world).await.state(), ExperimentState::Running, "nothing was changed");

    let v1::ConcludeExperimentResponse { experiment, policy, verdict } =
        concluded(&mut world, forced("treatment")).await.expect("concluded");
    let (experiment, policy) = (experiment.expect("it"), policy.expect("a policy"));
    assert_eq!((experiment.state(), experiment.shipped_arm.as_str()), (ExperimentState::Concluded, "treatment"));
    assert_eq!((policy.name.as_str(), policy.revision), ("policies/shipped", 1));
    assert_eq!(policy.rules[0].name, "e-treatment");
    assert_eq!(policy.rules[0].set.as_ref().and_then(|set| set.syn_rto_ms), Some(200));
    assert_eq!(world.status("policies/shipped").await.assignments, [], "for nobody yet");
    assert!(verdict.expect("noted").name.starts_with("experiments/e/verdicts/"));
    let methods: Vec<_> = world.audit().await.into_iter().map(|entry| entry.method).collect();
    assert_eq!(methods[0], "ConcludeExperiment", "{methods:?}");

    // Who starts it again takes that back; shipped again, the rule is replaced and not doubled.
    let again = started(&mut world, start()).await.expect("started");
    assert_eq!((again.state(), again.shipped_arm.as_str()), (ExperimentState::Running, ""));
    let policy = concluded(&mut world, forced("treatment")).await.expect("concluded").policy.expect("a policy");
    assert_eq!(policy.rules.len(), 1);
}

#[tokio::test]
async fn what_is_stopped_is_discarded_once_by_who_has_read_it() {
    let mut world = World::new().await;
    create(&mut world, 0).await;
    started(&mut world, start()).await.expect("started");
    let resting = stopped(&mut world, stop()).await.expect("stopped");
    let stale = v1::ConcludeExperimentRequest { etag: "other".to_owned(), ..conclude() };
    assert_eq!(concluded(&mut world, stale).await.expect_err("stale").code(), Code::Aborted);
    let request = v1::ConcludeExperimentRequest { etag: resting.etag.clone(), ..conclude() };
    let ended = concluded(&mut world, request).await.expect("concluded").experiment.expect("it");
    assert_eq!((ended.state(), ended.shipped_arm.as_str()), (ExperimentState::Concluded, ""));
    assert_ne!(ended.etag, resting.etag, "it was changed");
    let entry = world.audit().await.remove(0);
    assert_eq!((entry.method.as_str(), entry.revision), ("ConcludeExperiment", 1));
    let late = v1::StartExperimentRequest { etag: resting.etag, ..start() };
    assert_eq!(started(&mut world, late).await.expect_err("stale").code(), Code::Aborted);
}

#[tokio::test]
async fn one_whose_time_is_over_is_ended_by_the_server() {
    let mut world = World::new().await;
    create(&mut world, 1).await;
    started(&mut world, start()).await.expect("started");
    let mut node = world.connect(hello("n")).await;
    assert_eq!(layers(&node.take().await), ["experiments/e@1"]);
    let ended = until("it is ended", || get(&world), |experiment| experiment.state() == ExperimentState::Stopped);
    let ended = tokio::time::timeout(DEADLINE, ended).await.expect("in time");
    assert_eq!((ended.revision, ended.end_time), (1, None));
    assert_eq!(layers(&node.take().await), [""; 0]);
    let entry = world.audit().await.remove(0);
    assert_eq!((entry.actor.as_str(), entry.method.as_str()), ("controllers/verdicts", "AssignRevision"));
    assert_eq!(entry.reason, "its planned time is over");
    let evidence: serde_json::Value = serde_json::from_str(&entry.request_json).expect("JSON");
    assert_eq!(evidence["verdict"], "VERDICT_KIND_NO_DATA", "never a yes: {evidence}");
    let list = v1::ListVerdictsRequest { parent: NAME.to_owned(), ..Default::default() };
    let verdicts = world.experiments.list_verdicts(list).await.expect("listed").into_inner().verdicts;
    assert!(!verdicts.is_empty(), "it was judged before it ended");
}
