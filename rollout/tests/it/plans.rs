use sockpilot_policy::fault::Collector;
use sockpilot_proto::v1;
use sockpilot_rollout::{
    defaults,
    plan::{Place, Plan, plan_from_proto},
};

fn read(message: &v1::RolloutPlan) -> Result<Plan, String> {
    let mut faults = Collector::at("plan");
    let plan = plan_from_proto(message, &mut faults);
    faults.finish(plan).map_err(|faults| faults.to_string())
}

#[test]
fn the_plans_that_are_there_are_sound() {
    let gates = [v1::Gate { metric: "srtt".to_owned(), margin_bp: 0 }];
    let plans = defaults::plans(&gates);
    let names: Vec<_> = plans.iter().map(|plan| plan.name.as_str()).collect();
    assert_eq!(names, ["rolloutPlans/careful", "rolloutPlans/one-node", "rolloutPlans/quick"]);
    for message in &plans {
        let plan = read(message).expect(&message.name);
        assert_eq!(plan.is_immediate(plan.first()), message.name == defaults::DEFAULT, "{}", message.name);
    }
}

#[test]
fn steps_follow_each_other_to_everyone() {
    let plan = v1::RolloutPlan { aa_first: true, ..defaults::plans(&[])[0].clone() };
    let plan = read(&plan).expect("sound");
    let mut places = vec![plan.first()];
    while let Some(next) = plan.next(places[places.len() - 1]) {
        places.push(next);
    }
    let shares: Vec<_> = places.iter().map(|place| (place.wave, plan.flow_share_bp(*place))).collect();
    let wanted = [
        (0, 100),
        (1, 100),
        (1, 1_000),
        (1, 5_000),
        (1, 10_000),
        (2, 1_000),
        (2, 5_000),
        (2, 10_000),
        (3, 1_000),
        (3, 5_000),
        (3, 10_000),
    ];
    assert_eq!(shares, wanted);
    assert_eq!(plan.next(Place { wave: 3, step: 3 }), None);
}

#[test]
fn what_is_wrong_is_named() {
    let wave = |flow_shares_bp: &[u32]| v1::RolloutWave {
        flow_shares_bp: flow_shares_bp.to_vec(),
        ..v1::RolloutWave::default()
    };
    let plan = |waves| v1::RolloutPlan { waves, ..v1::RolloutPlan::default() };
    for (message, named) in [
        (plan(vec![]), "plan.waves: has 0"),
        (plan(vec![wave(&[]), wave(&[])]), "plan.waves[1]: has no nodes, because wave 1"),
        (plan(vec![wave(&[100, 100])]), "plan.waves[0].flow_shares_bp[1]: is 100"),
        (plan(vec![wave(&[6_000])]), "plan.waves[0].flow_shares_bp[0]: is 6000"),
        (v1::RolloutPlan { no_breaker: true, breaker_ppm: 5, ..plan(vec![wave(&[])]) }, "plan.breaker_ppm: is set"),
        (v1::RolloutPlan { horizon_s: 601, ..plan(vec![wave(&[])]) }, "plan.horizon_s: is 601"),
    ] {
        let refused = read(&message).expect_err(named);
        assert!(refused.contains(named), "{refused}");
    }
}
