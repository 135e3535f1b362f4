//! Whatever happens, in whatever order.

use proptest::prelude::*;
use sockpilot_policy::fault::Collector;
use sockpilot_proto::v1::{self, Selector, selector};
use sockpilot_rollout::{
    advance::{Gates, Nodes, Seen, advance, waits_for},
    machine::{Act, Machine, Phase, Promoted, State},
    plan::{Place, Plan, plan_from_proto},
    verb::{Verb, ask},
};

fn plan(rolls_back: bool, aa_first: bool) -> Plan {
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let wave = |selector, shares: &[u32]| v1::RolloutWave {
        selector,
        flow_shares_bp: shares.to_vec(),
        bake_time: seconds(30),
        min_flows: 100,
        deadline: seconds(120),
        ..v1::RolloutWave::default()
    };
    let message = v1::RolloutPlan {
        waves: vec![
            wave(Some(Selector { kind: Some(selector::Kind::ShareBp(1_000)) }), &[100, 5_000]),
            wave(None, &[5_000]),
        ],
        gates: vec![v1::Gate::default()],
        on_deadline: if rolls_back { v1::OnDeadline::RollBack } else { v1::OnDeadline::Pause }.into(),
        decision_deadline: seconds(600),
        aa_first,
        ..v1::RolloutPlan::default()
    };
    let mut faults = Collector::at("");
    let plan = plan_from_proto(&message, &mut faults);
    faults.finish(plan).expect("sound")
}

#[derive(Debug, Clone)]
enum Event {
    Look(Seen),
    Ask(Verb),
}

fn gates() -> impl Strategy<Value = Gates> {
    prop_oneof![
        4 => Just(Gates::Pass),
        1 => Just(Gates::Fail("harm".to_owned())),
        3 => Just(Gates::Wait("more".to_owned())),
    ]
}

fn look() -> impl Strategy<Value = Event> {
    let nodes = (0_u64..4, 0_u64..4, 0_u64..2, prop_oneof![9 => Just(0_u64), 1 => Just(1)]);
    let rest = (0_u64..300, gates(), prop::bool::weighted(0.05), prop::bool::weighted(0.1), 0_u64..2);
    (nodes, rest).prop_map(|((in_force, pending, unavailable, refused), (flows, gates, trips, held, behind))| {
        let total = in_force + pending + unavailable + refused;
        Event::Look(Seen {
            now_s: 0,
            nodes: Nodes { total, in_force, pending, unavailable, refused },
            complaint: None,
            trip: trips.then(|| "tripped".to_owned()),
            flows,
            gates,
            hold: held.then(|| "frozen".to_owned()),
            behind,
        })
    })
}

fn verb() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Verb::Start),
        1 => Just(Verb::Pause),
        3 => Just(Verb::Resume),
        1 => any::<bool>().prop_map(|force| Verb::Promote { force }),
        1 => (0_usize..4, any::<bool>()).prop_map(|(wave, force)| Verb::Jump { wave, force }),
        1 => Just(Verb::Confirm),
        1 => Just(Verb::RollBack),
    ]
    .prop_map(Event::Ask)
}

fn events() -> impl Strategy<Value = Vec<(i64, Event)>> {
    prop::collection::vec((0_i64..60, prop_oneof![3 => look(), 1 => verb()]), 1..80)
}

proptest! {
    #[test]
    fn a_rollout_is_always_somewhere_and_gets_on(
        events in events(), rolls_back in any::<bool>(), aa_first in any::<bool>(), confirms in any::<bool>(),
    ) {
        let plan = plan(rolls_back, aa_first);
        let mut now_s = 1_000;
        let mut machine = Machine { confirm_by_s: confirms.then_some(now_s + 900), ..Machine::draft(&plan, now_s) };
        let mut given = false;
        for (later_s, event) in events {
            now_s += later_s;
            let before = machine;
            let (made, forced) = match event {
                Event::Look(seen) => {
                    let seen = Seen { now_s, ..seen };
                    prop_assert_eq!(advance(&plan, &machine, &seen), advance(&plan, &machine, &seen));
                    prop_assert_eq!(waits_for(&plan, &machine, &seen).lines().count() > 1, false, "one sentence");
                    (advance(&plan, &machine, &seen), false)
                }
                Event::Ask(verb) => {
                    let forced = matches!(verb, Verb::Jump { force: true, .. });
                    (ask(&plan, &machine, verb, now_s, true).unwrap_or_default(), forced)
                }
            };
            let Some(made) = made else { continue };
            machine = made.to;
            // Whoever is over is over, but for the way back.
            if !before.state.is_active() {
                prop_assert_eq!(machine.state, State::RollingBack);
                prop_assert!(matches!(before.state, State::Completed | State::RollbackFailed));
            }
            // A later step is reached by the judged end of the one before only, or by force.
            if machine.place > before.place && !forced {
                prop_assert_eq!(Some(machine.place), plan.next(before.place));
                prop_assert_eq!(before.phase, Phase::Judging);
            }
            // Nodes get it when the step begins, and all of them only at the end.
            match made.act {
                Act::Assign => prop_assert_eq!((before.phase, machine.phase), (Phase::Applying, Phase::Converging)),
                Act::GiveEveryone => prop_assert_eq!(machine.state, State::Completed),
                Act::GoBack => prop_assert_eq!(machine.state, State::RollingBack),
                Act::Nothing => {}
            }
            given |= matches!(made.act, Act::Assign | Act::GiveEveryone) && machine.place.wave > 0;
            // What was given is never left behind without a way back.
            if machine.state == State::RolledBack && before.state != State::RollingBack {
                prop_assert!(!given, "a draft that ends gave nobody anything");
            }
            prop_assert_eq!(machine.state.is_active(), machine.deadline_s(&plan).is_some());
            prop_assert!(machine.place.wave <= plan.waves.len());
        }
        // Left to itself it comes to its end, even if nothing is ever known.
        for _ in 0..40 {
            let Some(deadline_s) = machine.deadline_s(&plan) else { break };
            let all = Nodes { total: 2, in_force: 1, pending: 1, ..Nodes::default() };
            let blind = Seen {
                now_s: deadline_s.max(now_s), nodes: all, gates: Gates::Wait("data".to_owned()), behind: 1, ..Seen::default()
            };
            now_s = blind.now_s;
            if let Some(made) = advance(&plan, &machine, &blind) {
                machine = made.to;
            }
        }
        prop_assert!(!machine.state.is_active(), "{:?}", machine);
    }
}

fn running(plan: &Plan, place: Place, phase: Phase) -> Machine {
    Machine {
        state: State::Running,
        place,
        phase,
        in_force_s: Some(0),
        promoted: Promoted::No,
        ..Machine::draft(plan, 0)
    }
}

#[test]
fn only_a_pass_goes_on() {
    let plan = plan(false, false);
    let judging = running(&plan, plan.first(), Phase::Judging);
    let all = Nodes { total: 3, in_force: 3, ..Nodes::default() };
    let seen = |now_s, gates| Seen { now_s, nodes: all, flows: 1_000, gates, ..Seen::default() };
    assert_eq!(advance(&plan, &judging, &seen(60, Gates::Wait("data".to_owned()))), None);
    let late = advance(&plan, &judging, &seen(120, Gates::Wait("data".to_owned()))).expect("the deadline");
    assert_eq!((late.to.state, late.act), (State::Paused, Act::Nothing));
    assert!(late.reason.contains("not decided in time: data"), "{}", late.reason);
    let next = advance(&plan, &judging, &seen(60, Gates::Pass)).expect("it goes on");
    assert_eq!((next.to.place, next.to.phase), (Place { wave: 1, step: 2 }, Phase::Applying));
    let failed = advance(&plan, &judging, &seen(60, Gates::Fail("srtt is 40% worse".to_owned()))).expect("goes back");
    assert_eq!(
        (failed.to.state, failed.act, failed.reason.as_str()),
        (State::RollingBack, Act::GoBack, "srtt is 40% worse")
    );
}

#[test]
fn harm_ends_what_is_paused_too() {
    let plan = plan(false, false);
    let paused = Machine { state: State::Paused, ..running(&plan, plan.first(), Phase::Baking) };
    let all = Nodes { total: 3, in_force: 2, refused: 1, ..Nodes::default() };
    let seen = Seen { now_s: 1, nodes: all, complaint: Some("no bbr".to_owned()), ..Seen::default() };
    let back = advance(&plan, &paused, &seen).expect("goes back");
    assert_eq!((back.act, back.reason.as_str()), (Act::GoBack, "1 of 3 nodes refuses it: no bbr"));
    let tripped = Seen { now_s: 1, trip: Some("nodes/a tripped".to_owned()), ..Seen::default() };
    assert_eq!(advance(&plan, &paused, &tripped).expect("goes back").reason, "nodes/a tripped");
}

#[test]
fn what_nobody_confirms_goes_back_from_the_end_of_the_plan() {
    let plan = plan(false, false);
    let last = Place { wave: 2, step: 2 };
    let judging = Machine { confirm_by_s: Some(500), ..running(&plan, last, Phase::Judging) };
    let all = Nodes { total: 3, in_force: 3, ..Nodes::default() };
    let seen = |now_s| Seen { now_s, nodes: all, flows: 1_000, ..Seen::default() };
    assert_eq!(advance(&plan, &judging, &seen(499)), None, "neither completed nor paused");
    assert_eq!(advance(&plan, &judging, &seen(500)).expect("goes back").act, Act::GoBack);
    let confirmed = ask(&plan, &judging, Verb::Confirm, 499, true).expect("makes sense").expect("changes it").to;
    assert_eq!(advance(&plan, &confirmed, &seen(500)).expect("ends").act, Act::GiveEveryone);
}

#[test]
fn verbs_that_make_no_sense_say_what_does() {
    let plan = plan(false, false);
    let draft = Machine::draft(&plan, 0);
    let running = running(&plan, plan.first(), Phase::Baking);
    let over = Machine { state: State::Completed, ..running };
    for (machine, verb, stands, said) in [
        (draft, Verb::Pause, true, "it is a draft; start it first"),
        (running, Verb::Jump { wave: 2, force: false }, true, "wave 2 comes after gates that have not passed"),
        (running, Verb::Jump { wave: 3, force: true }, true, "there is no wave 3"),
        (over, Verb::Pause, true, "it is completed; it can be rolled back"),
        (over, Verb::RollBack, false, "everyone has another revision"),
        (Machine { state: State::Superseded, ..running }, Verb::Resume, true, "it is superseded; begin another"),
    ] {
        let refused = ask(&plan, &machine, verb, 1, stands).expect_err(said);
        assert!(refused.to_string().contains(said), "{refused}");
    }
    assert_eq!(ask(&plan, &running, Verb::Resume, 1, true), Ok(None), "it runs already");
}
