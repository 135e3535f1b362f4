//! Controllers that die, stall and race: no transition is lost or repeated, and no more nodes have a revision than the plan allows.

use std::time::Duration;

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use sockpilot_server::test_support::Fault;

use super::*;
use crate::outcomes::number;

const NODES: [&str; 4] = ["a", "b", "c", "d"];
const TASK: &str = "rollouts";

fn three_waves() -> v1::RolloutPlan {
    let waves = vec![wave(of_nodes(&["a"]), &[100]), wave(of_nodes(&["b"]), &[]), wave(None, &[])];
    plan("mine", waves.into_iter().map(|wave| baking(60, wave)).collect())
}

/// All leases are short, so that an heir comes soon.
async fn config() -> Config {
    Config { leader_lease: Duration::from_millis(300), ..test_support::config().await }
}

/// Where a rollout was, in order.
async fn way(fleet: &Fleet, name: &str) -> Vec<(RolloutState, u32, u32, RolloutPhase)> {
    let all = fleet.transitions(name).await;
    all.iter().map(|at| (at.to_state(), at.wave, at.step, at.phase())).collect()
}

/// Nodes that have a revision before their wave, or after it was taken back. There must be none, whenever one looks.
async fn astray(fleet: &Fleet) -> i64 {
    let query = "SELECT count(*) FROM node_assignment AS given JOIN rollout ON rollout.policy = given.layer
         AND rollout.revision = given.revision
         WHERE (rollout.state IN (2, 3) AND (given.wave IS NULL OR given.wave > rollout.wave)) OR rollout.state IN (1, 4, 6)";
    number(&fleet.store(), query).await
}

/// With nobody who disturbs it.
async fn undisturbed() -> Vec<(RolloutState, u32, u32, RolloutPhase)> {
    let mut fleet = Fleet::new(&NODES).await;
    let name = fleet.begin(three_waves()).await.name;
    for place in [(1, 1), (1, 2), (2, 1), (3, 1)] {
        fleet.comes_to(&name, place, RolloutPhase::Baking).await;
        fleet.pass(&name, 60).await;
    }
    fleet.reaches(&name, RolloutState::Completed).await;
    way(&fleet, &name).await
}

#[tokio::test]
async fn a_controller_that_dies_at_every_step_loses_and_repeats_nothing() {
    let config = config().await;
    let mut fleet = Fleet::of(config.clone(), &NODES).await;
    let name = fleet.begin(three_waves()).await.name;
    for place in [(1, 1), (1, 2), (2, 1), (3, 1)] {
        fleet.comes_to(&name, place, RolloutPhase::Baking).await;
        // It dies when the next step is due, and another takes over.
        config.faults.set(TASK, Fault::Stall);
        fleet.pass(&name, 60).await;
        config.faults.set(TASK, Fault::Panic);
        tokio::time::timeout(crate::world::DEADLINE, fleet.world.server.death()).await.expect("it dies");
        config.faults.clear(TASK);
        fleet.world.server.stop().await;
        fleet = Fleet::empty(config.clone()).await;
        for id in NODES {
            fleet.join(hello(id)).await;
        }
        assert_eq!(astray(&fleet).await, 0);
    }
    fleet.reaches(&name, RolloutState::Completed).await;
    assert_eq!(way(&fleet, &name).await, undisturbed().await);
}

/// The connection to the database breaks in the middle of what is one transaction, again and again and at another place each time.
#[tokio::test]
async fn a_transition_that_is_cut_off_has_not_happened() {
    let config = test_support::config().await;
    let owner = test_support::owner_store(&config).await;
    let mut fleet = Fleet::of(config, &NODES).await;
    let name = fleet.begin(three_waves()).await.name;
    fleet.comes_to(&name, (1, 1), RolloutPhase::Baking).await;
    let before = way(&fleet, &name).await.len();
    // A sequence remembers what a transaction forgets.
    let cut = "CREATE SEQUENCE cuts;
        CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
            IF nextval('cuts') % 5 = 0 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER cut AFTER INSERT ON rollout_transition FOR EACH ROW EXECUTE FUNCTION cut();";
    execute(&owner, cut.to_owned()).await;
    for place in [(1, 1), (1, 2), (2, 1), (3, 1)] {
        fleet.comes_to(&name, place, RolloutPhase::Baking).await;
        assert_eq!(astray(&fleet).await, 0);
        fleet.pass(&name, 60).await;
    }
    fleet.reaches(&name, RolloutState::Completed).await;
    let (cuts, kept) = (number(&owner, "SELECT last_value FROM cuts").await, way(&fleet, &name).await);
    let done = i64::try_from(kept.len() - before).expect("few");
    assert!(cuts >= done + 3, "some were cut off: {cuts} were tried and {done} kept");
    assert_eq!(kept, undisturbed().await);
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Passes(i64),
    Pause,
    Resume,
    Promote,
    Jump(u32),
    RollBack,
    Newer,
    Off(bool),
    Trip,
    Answers(usize, Manners),
    Stalls,
    Nothing,
}

fn any_event() -> impl Strategy<Value = Event> {
    use Event::*;
    prop_oneof![
        6 => prop::sample::select(vec![10, 60, 60]).prop_map(Passes),
        2 => Just(Pause),
        3 => Just(Resume),
        3 => Just(Promote),
        1 => (1_u32..4).prop_map(Jump),
        1 => Just(RollBack),
        1 => Just(Newer),
        2 => any::<bool>().prop_map(Off),
        1 => Just(Trip),
        2 => (0..NODES.len(), prop::sample::select(vec![Manners::Confirms, Manners::Silent, Manners::HoldsBack]))
            .prop_map(|(node, manners)| Answers(node, manners)),
        3 => Just(Stalls),
        2 => Just(Nothing),
    ]
}

/// What may be refused is, and nothing else goes wrong.
fn sound<T>(answer: Result<T, Status>) {
    use tonic::Code::{Aborted, FailedPrecondition};
    if let Err(status) = answer {
        assert!(matches!(status.code(), FailedPrecondition | Aborted), "{status:?}");
    }
}

async fn happens(fleet: &mut Fleet, name: &mut String, event: Event) {
    match event {
        Event::Passes(seconds) => fleet.pass(name, seconds).await,
        Event::Pause => sound(fleet.rollouts.pause_rollout(verb(name)).await),
        Event::Resume => sound(fleet.rollouts.resume_rollout(verb(name)).await),
        Event::Promote => sound(fleet.rollouts.promote_rollout(verb(name)).await),
        Event::Jump(wave) => {
            let jump = v1::RolloutVerbRequest { wave, force: true, ..verb(name) };
            sound(fleet.rollouts.jump_rollout(jump).await);
        }
        Event::RollBack => sound(fleet.rollouts.roll_back_rollout(verb(name)).await),
        Event::Newer => *name = fleet.begin(three_waves()).await.name,
        Event::Off(off) => {
            let (target, reason) = (POLICY.to_owned(), "by chance".to_owned());
            let request = v1::SetKillSwitchRequest { target, off, reason, ..Default::default() };
            sound(fleet.switches.set_kill_switch(request).await);
        }
        Event::Trip => {
            let revision = fleet.get(name).await.revision;
            let (layer, rollout) = (POLICY.to_owned(), name.clone());
            let trip = v1::BreakerTrip { layer, revision, rollout, canary_bad_ends: 9, ..Default::default() };
            let alive = v1::Alive { breaker_trips: vec![trip], ..v1::Alive::default() };
            fleet.nodes[0].tell(node_event::Event::Alive(alive)).await;
        }
        Event::Answers(node, manners) => fleet.nodes[node].now(manners),
        Event::Stalls | Event::Nothing => {}
    }
}

/// Two replicas, of which one or the other stalls past its lease and wakes, and whatever else can happen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_race_and_anything_happens() {
    let config = config().await;
    let stalls = [test_support::FaultPoints::default(), test_support::FaultPoints::default()];
    let mut fleet = Fleet::of(Config { faults: stalls[0].clone(), ..config.clone() }, &NODES).await;
    let other = Fleet::empty(Config { faults: stalls[1].clone(), ..config.clone() }).await;
    let events = prop::collection::vec(any_event(), 120).new_tree(&mut TestRunner::deterministic()).expect("some");
    let mut name = fleet.begin(three_waves()).await.name;
    let mut begun = vec![name.clone()];
    for (at, event) in events.current().into_iter().enumerate() {
        if matches!(event, Event::Stalls) {
            let (stalled, awake) = (&stalls[at % 2], &stalls[(at + 1) % 2]);
            for task in ["leader", TASK] {
                stalled.set(task, Fault::Stall);
                awake.clear(task);
            }
        }
        happens(&mut fleet, &mut name, event).await;
        if begun.last() != Some(&name) {
            begun.push(name.clone());
        }
        if fleet.get(&name).await.end_time.is_some() {
            name = fleet.begin(three_waves()).await.name;
            begun.push(name.clone());
        }
        assert_eq!(astray(&other).await, 0, "after {event:?}");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    // Left alone, everything ends.
    for faults in &stalls {
        ["leader", TASK].into_iter().for_each(|task| faults.clear(task));
    }
    for name in &begun {
        let ends = async || {
            fleet.pass(name, 8 * 86_400).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            other.get(name).await
        };
        until(&format!("{name} ends"), ends, |rollout| rollout.end_time.is_some()).await;
        let all = fleet.transitions(name).await;
        assert!(all.iter().all(|at| !at.reason.is_empty() && !at.actor.is_empty()), "{all:?}");
        assert!(all.windows(2).all(|two| two[0].to_state() == two[1].from_state()), "none is missing: {all:?}");
    }
    assert_eq!(astray(&other).await, 0);
    assert!(fleet.nodes.iter().all(|node| !node.went_back.load(Ordering::Relaxed)), "versions never go back");
    assert!(begun.len() > 3, "{begun:?}");
}
