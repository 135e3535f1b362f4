//! What documents look like.

use super::*;

fn policy() -> Document {
    Document::Policy(v1::Policy {
        name: "policies/web".to_owned(),
        revision: 3,
        description: "long paths".to_owned(),
        priority: 100,
        node_labels: [("role".to_owned(), "edge".to_owned())].into(),
        rules: vec![
            v1::Rule {
                name: "far".to_owned(),
                r#match: Some(v1::Match {
                    direction: v1::Direction::Active.into(),
                    remote_prefixes: vec!["10.2.0.0/16".to_owned()],
                    remote_ports: vec!["443".to_owned()],
                    not_same_prefix: Some(16),
                    ..v1::Match::default()
                }),
                set: Some(v1::Parameters {
                    initial_cwnd_packets: Some(40),
                    congestion_control: Some("bbr".to_owned()),
                    ecn: Some(true),
                    ..v1::Parameters::default()
                }),
                if_unsupported: v1::IfUnsupported::Skip.into(),
                apply_to: v1::ApplyTo::NewAndEstablished.into(),
            },
            v1::Rule { name: "rest".to_owned(), ..v1::Rule::default() },
        ],
        create_time: Some(prost_types::Timestamp { seconds: 1_772_366_400, nanos: 0 }),
        creator: "ann@desk".to_owned(),
        ..v1::Policy::default()
    })
}

#[test]
fn a_list_has_a_line_for_each() {
    assert_eq!(
        list(&[policy()]),
        "NAME          REVISION  PRIORITY  HAS      NODES      CREATED               BY        DESCRIPTION\n\
         policies/web         3       100  2 rules  role=edge  2026-03-01T12:00:00Z  ann@desk  long paths\n"
    );
}

#[test]
fn one_policy_shows_its_rules() {
    assert_eq!(
        one(&policy()),
        "\
name         policies/web
revision     3
description  long paths
priority     100
nodes        role=edge
created      2026-03-01T12:00:00Z by ann@desk

RULE  MATCH                                                                                SET
far   direction active; remote_prefixes 10.2.0.0/16; not_same_prefix 16; remote_ports 443  initial_cwnd_packets 40, congestion_control bbr, ecn (open connections too) (without what a node's kernel cannot do)
rest  everything                                                                           nothing
"
    );
}

#[test]
fn one_experiment_shows_who_owns_which_buckets() {
    let experiment = Document::Experiment(v1::Experiment {
        name: "experiments/rto".to_owned(),
        revision: 1,
        arms: vec![
            v1::Arm { name: "control".to_owned(), weight_bp: 9_000, first_bucket: None, set: None, withholds: false },
            v1::Arm {
                name: "fast".to_owned(),
                weight_bp: 1_000,
                first_bucket: None,
                set: Some(v1::Parameters { syn_rto_ms: Some(50), ..v1::Parameters::default() }),
                withholds: false,
            },
        ],
        ..v1::Experiment::default()
    });
    let text = one(&experiment);
    assert!(
        text.ends_with(
            "ARM      WEIGHT  BUCKETS    SET\n\
             control     90%  0-8999     nothing\n\
             fast        10%  9000-9999  syn_rto_ms 50\n"
        ),
        "{text}"
    );
}

#[test]
fn what_no_arm_owns_is_nobodys() {
    let arm = |name: &str, first| v1::Arm {
        name: name.to_owned(),
        weight_bp: 50,
        first_bucket: first,
        set: None,
        withholds: false,
    };
    let arms = vec![arm("control", Some(100)), arm("fast", Some(9_000))];
    assert_eq!(
        super::arms(&arms),
        "ARM      WEIGHT  BUCKETS     SET\n\
         control    0.5%  100-149     nothing\n\
         fast       0.5%  9000-9049   nothing\n\
         nobody      99%  the others  outside of the experiment\n"
    );
}

#[test]
fn the_zone_map_has_a_line_for_each_zone() {
    let zone = |name: &str, prefixes: &[&str]| v1::Zone {
        name: name.to_owned(),
        region: "fra".to_owned(),
        prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
    };
    let zones = vec![zone("fra-1", &["10.1.0.0/16", "2001:db8::/32"]), zone("b", &["10.2.0.0/16"])];
    let map = Document::ZoneMap(v1::ZoneMap { zones, ..v1::ZoneMap::default() });
    assert_eq!(
        one(&map),
        "ZONE   REGION  PREFIXES\nfra-1  fra     10.1.0.0/16,2001:db8::/32\nb      fra     10.2.0.0/16\n"
    );
}

#[test]
fn long_descriptions_are_cut() {
    assert_eq!(shorten(&"é".repeat(61)), "é".repeat(59) + "…");
    assert_eq!(shorten("a\nb"), "a");
}

#[test]
fn an_experiment_shows_what_it_measures_and_how_far_it_has_come() {
    let measure = |quantity: &str, per: &str, transform| v1::Measure {
        quantity: quantity.to_owned(),
        per: per.to_owned(),
        transform,
        role: v1::MeasureRole::Guardrail.into(),
        margin_bp: 300,
    };
    let experiment = Document::Experiment(v1::Experiment {
        name: "experiments/rto".to_owned(),
        state: v1::ExperimentState::Running.into(),
        start_time: Some(prost_types::Timestamp { seconds: 1_772_366_400, nanos: 0 }),
        unit: v1::Unit::TimeSlot.into(),
        time_slot: Some(v1::TimeSlot { slot_s: 900, washout_s: 60 }),
        duration_s: 86_400,
        measures: vec![
            measure("srtt_us", "", Some(v1::measure::Transform::Cap(2.5e6))),
            measure("retransmits", "segments_out", None),
        ],
        ..v1::Experiment::default()
    });
    let text = one(&experiment);
    assert!(text.contains("state        running since 2026-03-01T12:00:00Z, planned for 1d00h\n"), "{text}");
    assert!(text.contains("unit         time_slot of 15m00s, of which 1m00s are left out\n"), "{text}");
    let measures = "MEASURE                     OF EACH CONNECTION  FOR\n\
                    srtt_us                     cap 2500000         guardrail 3%\n\
                    retransmits / segments_out  as it is            guardrail 3%\n";
    assert!(text.ends_with(measures), "{text}");
}

#[test]
fn a_plan_shows_its_waves_and_gates() {
    let plan = Document::RolloutPlan(crate::views::rollout::tests::plan());
    assert_eq!(
        one(&plan),
        "\
name         rolloutPlans/careful
revision     2
description  for changes that may do harm
false alarm  at most 5% of rollouts
on deadline  pause
decision     within 7d, then it is rolled back
first        an A/A
approval     by somebody else
breaker      1000 in a million
horizon      1m
created      2026-03-01T12:00:00Z by ann@desk

WAVE  FOR           CONNECTIONS             BAKE TIME  MIN FLOWS  MAX UNAVAILABLE  MAX REFUSED  DEADLINE
   1  1% of nodes   1%, then 10%, then all        10m       5000               5%           0%         -
   2  10% of nodes  10%, then all                 10m       5000               5%           0%         -
   3  all nodes     all                           10m       5000               5%           0%         -

GATE     MARGIN
resets     0.5%
srtt    default
"
    );
    assert_eq!(
        list(&[plan]),
        "NAME                  REVISION  WAVES                                           GATES        ON DEADLINE  CREATED               BY        DESCRIPTION\n\
         rolloutPlans/careful         2  1% of nodes, then 10% of nodes, then all nodes  resets,srtt  pause        2026-03-01T12:00:00Z  ann@desk  for changes that may do harm\n"
    );
}

#[test]
fn settings_of_rollouts_say_what_is_limited_and_when_nothing_starts() {
    let weekly = v1::FreezeWindow {
        description: "weekend".to_owned(),
        weekdays: vec![5, 9],
        start_time_of_day: "18:00".to_owned(),
        duration: Some(prost_types::Duration { seconds: 216_000, nanos: 0 }),
        time_zone: "Europe/Berlin".to_owned(),
        ..v1::FreezeWindow::default()
    };
    let once = v1::FreezeWindow {
        start_time: Some(prost_types::Timestamp { seconds: 1_772_366_400, nanos: 0 }),
        end_time: Some(prost_types::Timestamp { seconds: 1_772_370_000, nanos: 0 }),
        ..v1::FreezeWindow::default()
    };
    let settings = v1::RolloutSettings {
        max_nodes_bp: 2_500,
        failure_domain_label: "rack".to_owned(),
        max_flows_bp: 50,
        freeze_windows: vec![weekly, once],
        ..v1::RolloutSettings::default()
    };
    assert_eq!(
        one(&Document::RolloutSettings(settings)),
        "\
default plan rolloutPlans/one-node
nodes        25% of all nodes
domain       rack
of a domain  no limit
connections  0.5% of those that were recorded lately, in a first wave

FREEZE WINDOW  BEGINS                ENDS                  TIME ZONE
weekend        Fri,- 18:00           after 2d12h           Europe/Berlin
-              2026-03-01T12:00:00Z  2026-03-01T13:00:00Z  UTC
"
    );
}
