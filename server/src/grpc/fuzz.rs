//! What nodes, people and their tools send.

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use prost::Message;
use sockpilot_fuzz::{Bound, Shape, Target, messages};
use sockpilot_policy::{advice, fault::Collector, model::LayerKind, overlap::overlap, validate};
use sockpilot_proto::{
    convert::{experiment_from_proto, policy_from_proto, zone_map_from_proto},
    v1::{self, backup_item::Item, node_event::Event},
};
use uuid::Uuid;

use super::{
    call::to_json,
    convert::{backup::assemble, explain_flow, flow_report, node_event, outcome, rollout, simulate, target},
    paging::Page,
    porter::bearer,
};
use crate::{
    auth::token,
    change::{document::Document, names},
    rollout::plans::{self, plan_name},
};

const KIB: usize = 1 << 10;
/// Faults are counted up to a hundred, and each has some words.
const FAULTS: usize = 256 * KIB;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(messages::NOW.seconds, 0).expect("a time")
}

/// The stream of a node. An effective value, the largest that can stand in a list, is 2 bytes when empty.
#[test]
fn fuzz_server_node_event() {
    let violation =
        v1::RuleViolation { layer: "policies/web".into(), field: "rules[0]".into(), description: "not here".into() };
    let held = v1::HeldBack {
        layer: "policies/web".into(),
        revision: 2,
        revision_in_force: 1,
        violations: vec![violation.clone()],
    };
    let not_written = v1::NotWritten { what: messages::texts(&["snapshot"]), reason: "full".into(), for_ms: 9 };
    let alive = v1::Alive {
        node_time: Some(messages::NOW),
        heard_server_time: Some(messages::NOW),
        heard_before_us: 5,
        not_written: Some(not_written),
        breaker_trips: vec![v1::BreakerTrip { rollout: "rollouts/a".into(), ..v1::BreakerTrip::default() }],
        open: Some(v1::OpenConnections {
            looked_before_ms: 9,
            under: vec![v1::OpenUnder { layer: "policies/web".into(), revision: 2, connections: 3 }],
            left_out: 1,
        }),
    };
    let kernel = v1::KernelFacts {
        release: "6.18.0".into(),
        hz: 250,
        congestion_controls: messages::texts(&["cubic"]),
        sysctls: [("net.ipv4.tcp_ecn".to_owned(), 2)].into(),
        ..v1::KernelFacts::default()
    };
    let hello = v1::Hello {
        node_id: "web-1".into(),
        labels: [("role".to_owned(), "edge".to_owned())].into(),
        daemon_version: "0.1.0".into(),
        kernel: Some(kernel),
        in_force: Some(messages::version()),
        alive: Some(alive.clone()),
        instance: "i".into(),
        held_back: vec![held.clone()],
    };
    let effective = v1::EffectiveValue {
        layer: "policies/web".into(),
        field: "rules[0].set.mss_bytes".into(),
        caveats: messages::texts(&["only there"]),
        ..v1::EffectiveValue::default()
    };
    let version = Some(messages::version());
    let stages = Some(v1::ApplyStages { wait_us: 1, compile_us: 200, write_us: 300, install_us: 4_000 });
    let (effective, held_back) = (vec![effective], vec![held]);
    let ack = v1::Ack { version: version.clone(), effective, apply_us: 4_501, held_back, stages, put_off_us: 7_000 };
    let nack = v1::Nack { version, violations: vec![violation] };
    let events = [
        ("hello", Event::Hello(hello)),
        ("ack", Event::Ack(ack)),
        ("nack", Event::Nack(nack)),
        ("alive", Event::Alive(alive)),
    ];
    let seeds = events.map(|(name, event)| (name, v1::NodeEvent { event: Some(event) }.encode_to_vec()));
    let bound = Bound { per_byte: 2 * size_of::<v1::EffectiveValue>() + 100, fixed: FAULTS };
    Target::new("server-node-event", Shape::Wire, bound).seeds(seeds).run(|bytes| {
        let Ok(event) = v1::NodeEvent::decode(bytes) else { return false };
        match &event.event {
            Some(Event::Hello(_)) => {
                let again = node_event::later_event(event.clone(), now());
                assert!(again.is_err(), "a hello comes once");
                node_event::hello(event, (Uuid::nil(), Uuid::nil()), "192.0.2.7:4".to_owned(), now()).is_ok()
            }
            _ => node_event::later_event(event, now()).is_ok(),
        }
    });
}

/// Reports. An empty cell is 2 bytes, and what it takes here is its size and a place in the set of keys.
#[test]
fn fuzz_server_flow_report() {
    let report = v1::FlowReport {
        node_id: "web-1".into(),
        boot_id: "b-1".into(),
        sequence: 3,
        records_total: 5,
        cells: vec![messages::cell()],
        samples: vec![messages::sample()],
        instance: "i".into(),
        recorded: vec![messages::sample()],
        recorded_left_out: 7,
        ..v1::FlowReport::default()
    };
    let bound = Bound { per_byte: 3 * size_of::<v1::FlowCell>(), fixed: FAULTS };
    let target = Target::new("server-flow-report", Shape::Wire, bound);
    target.seed("one", report.encode_to_vec()).run(|bytes| {
        let Ok(report) = v1::FlowReport::decode(bytes) else { return false };
        flow_report::report(report).is_ok()
    });
}

/// Requests of people, one or several.
#[derive(Clone, PartialEq, Message)]
struct Requests {
    #[prost(message, optional, tag = "1")]
    policy: Option<v1::CreatePolicyRequest>,
    #[prost(message, optional, tag = "2")]
    experiment: Option<v1::CreateExperimentRequest>,
    #[prost(message, optional, tag = "3")]
    zones: Option<v1::UpdateZoneMapRequest>,
    #[prost(message, optional, tag = "4")]
    plan: Option<v1::CreateRolloutPlanRequest>,
    #[prost(message, optional, tag = "5")]
    settings: Option<v1::UpdateRolloutSettingsRequest>,
    #[prost(message, optional, tag = "6")]
    assign: Option<v1::AssignRevisionRequest>,
    #[prost(message, optional, tag = "7")]
    simulate: Option<v1::SimulateChangeRequest>,
    #[prost(message, optional, tag = "8")]
    explain: Option<v1::ExplainFlowRequest>,
    #[prost(message, optional, tag = "9")]
    outcomes: Option<v1::QueryOutcomesRequest>,
    #[prost(message, repeated, tag = "10")]
    backup: Vec<v1::BackupItem>,
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let waves = [
        v1::selector::Kind::ShareBp(100),
        v1::selector::Kind::NodeLabels(v1::target::NodeLabels { labels: messages::policy().node_labels }),
        v1::selector::Kind::Nodes(v1::selector::Nodes { nodes: messages::texts(&["nodes/web-1"]) }),
    ];
    let selectors: Vec<_> = waves.into_iter().map(|kind| v1::Selector { kind: Some(kind) }).collect();
    let in_waves = v1::target::Waves { selectors: selectors.clone(), ..v1::target::Waves::default() };
    let target = Some(v1::Target { kind: Some(v1::target::Kind::Waves(in_waves)) });
    let wave = |selector: &v1::Selector| v1::RolloutWave {
        selector: Some(selector.clone()),
        flow_shares_bp: vec![500, 5_000],
        bake_time: Some(messages::seconds(60)),
        min_flows: 100,
        ..v1::RolloutWave::default()
    };
    let plan = v1::RolloutPlan {
        name: "rolloutPlans/brisk".into(),
        waves: selectors[..2].iter().map(wave).collect(),
        gates: vec![v1::Gate { metric: "bad_ends".into(), margin_bp: 500 }],
        horizon_s: 3,
        ..v1::RolloutPlan::default()
    };
    let window = v1::FreezeWindow {
        description: "Night.".into(),
        weekdays: vec![1],
        start_time_of_day: "22:00".into(),
        duration: Some(messages::seconds(3_600)),
        time_zone: "Europe/Berlin".into(),
        ..v1::FreezeWindow::default()
    };
    let settings = v1::RolloutSettings { freeze_windows: vec![window], max_nodes_bp: 5_000, ..Default::default() };
    let revised = v1::Policy {
        revision: 1,
        uid: Uuid::from_u128(7).to_string(),
        create_time: Some(messages::NOW),
        ..messages::policy()
    };
    let everyone = v1::Target { kind: Some(v1::target::Kind::Everyone(v1::target::Everyone {})) };
    let past =
        v1::Assignment { revision: 1, target: Some(everyone), start_time: Some(messages::NOW), ..Default::default() };
    let history = v1::History {
        name: "policies/web".into(),
        deleted: false,
        assignments: vec![past],
        rollout: "rollouts/a".into(),
    };
    let zones = v1::ZoneMap { zones: messages::zones(), ..v1::ZoneMap::default() };
    let items = [Item::ZoneMap(zones.clone()), Item::Policy(revised), Item::History(history)];
    let create = v1::CreatePolicyRequest {
        policy: Some(messages::policy()),
        target: target.clone(),
        reason: "why not".into(),
        ..v1::CreatePolicyRequest::default()
    };
    let explain = v1::ExplainFlowRequest {
        node: "nodes/web-1".into(),
        local_address: "10.1.0.1".into(),
        local_port: 40_000,
        remote_address: "10.2.0.1".into(),
        remote_port: 443,
        direction: v1::Direction::Active.into(),
        overrides: messages::texts(&["policies/web@2"]),
        ..v1::ExplainFlowRequest::default()
    };
    let change = Some(v1::simulate_change_request::Change::Policy(messages::policy()));
    let simulate = v1::SimulateChangeRequest { change, since: Some(messages::seconds(60)), ..Default::default() };
    let outcomes =
        v1::QueryOutcomesRequest { name: "policies/web".into(), start_time: Some(messages::NOW), ..Default::default() };
    let none = Requests::default;
    let requests = [
        ("policy", Requests { policy: Some(create), ..none() }),
        (
            "experiment",
            Requests {
                experiment: Some(v1::CreateExperimentRequest {
                    experiment: Some(messages::experiment()),
                    ..Default::default()
                }),
                ..none()
            },
        ),
        (
            "zones",
            Requests {
                zones: Some(v1::UpdateZoneMapRequest { zone_map: Some(zones), ..Default::default() }),
                ..none()
            },
        ),
        (
            "plan",
            Requests { plan: Some(v1::CreateRolloutPlanRequest { plan: Some(plan), ..Default::default() }), ..none() },
        ),
        (
            "settings",
            Requests {
                settings: Some(v1::UpdateRolloutSettingsRequest { settings: Some(settings), ..Default::default() }),
                ..none()
            },
        ),
        ("assign", Requests { assign: Some(v1::AssignRevisionRequest { target, ..Default::default() }), ..none() }),
        ("simulate", Requests { simulate: Some(simulate), ..none() }),
        ("explain", Requests { explain: Some(explain), ..none() }),
        ("outcomes", Requests { outcomes: Some(outcomes), ..none() }),
        ("backup", Requests { backup: items.map(|item| v1::BackupItem { item: Some(item) }).into(), ..none() }),
    ];
    requests.map(|(name, request)| (name, request.encode_to_vec())).into()
}

/// What is asked of the server. Every request that changes something is written as JSON for the audit log, too, by way of a dynamic
/// message and a tree of JSON, which each take some hundred bytes for an empty rule of 2.
#[test]
fn fuzz_server_requests() {
    let target = Target::new("server-requests", Shape::Wire, Bound { per_byte: 3_000, fixed: 4 * FAULTS });
    target.seeds(seeds()).run(|bytes| {
        let Ok(requests) = Requests::decode(bytes) else { return false };
        let faults = understand(requests);
        faults.finish(()).is_ok()
    });
}

fn understand(requests: Requests) -> Collector {
    let Requests { policy, experiment, zones, plan, settings, assign, simulate, explain, outcomes, backup } = requests;
    let mut faults = Collector::at("");
    if let Some(request) = policy {
        to_json("CreatePolicy", &request).expect("every message can be written");
        target::target_from_proto(request.target.as_ref(), &mut faults);
        rollout::options_from_proto(request.rollout.as_ref(), &request.reason, &mut faults);
        names::text("reason", &request.reason, &mut faults);
        document(request.policy.map(Document::Policy), &mut faults);
    }
    if let Some(request) = experiment {
        to_json("CreateExperiment", &request).expect("every message can be written");
        document(request.experiment.map(Document::Experiment), &mut faults);
    }
    if let Some(map) = zones.and_then(|request| request.zone_map) {
        match zone_map_from_proto(&map, "zone_map") {
            Ok(zones) => advice::zones(&zones, &mut Collector::at("")),
            Err(_) => faults.add_at("zone_map", "unsound"),
        }
    }
    if let Some(plan) = plan.and_then(|request| request.plan) {
        drop(plans::read(&plan, &mut faults));
    }
    if let Some(settings) = settings.and_then(|request| request.settings) {
        drop(plans::read_settings(&settings, &mut faults));
    }
    if let Some(request) = assign {
        target::target_from_proto(request.target.as_ref(), &mut faults);
    }
    let questions = [
        simulate.map(|question| simulate::question(question).is_ok()),
        explain.map(|question| explain_flow::question(&question, 1_800_000_000).is_ok()),
        outcomes.map(|question| outcome::outcome_filter(question).is_ok()),
        (!backup.is_empty()).then(|| assemble(backup).is_ok()),
    ];
    if questions.contains(&Some(false)) {
        faults.add("unsound");
    }
    faults
}

/// As a change of it is checked, and what is said of it beside.
fn document(document: Option<Document>, faults: &mut Collector) {
    let Some(document) = document else { return };
    let notes = &mut Collector::at("");
    match &document {
        Document::Policy(message) => {
            if let Ok(policy) = policy_from_proto(message, "") {
                advice::policy(&policy, notes);
                let matches: Vec<_> = policy.rules.iter().take(20).map(|rule| &rule.matches).collect();
                for (a, b) in matches.iter().flat_map(|a| matches.iter().map(move |b| (a, b))) {
                    assert_eq!(overlap(a, b), overlap(b, a), "{a:?} {b:?}");
                }
            }
        }
        Document::Experiment(message) => {
            if let Ok(experiment) = experiment_from_proto(message, "") {
                advice::experiment(&experiment, notes);
            }
        }
    }
    let document = document.to_be_stored("policies/web");
    document.check(faults);
    drop(document.encode_words());
}

/// Names, tokens, filters and other texts of requests and headers.
///
/// A fault shows the text that it is about, escaped.
#[test]
fn fuzz_server_texts() {
    let page = Page::read(1, "", &["nodes"], |_| true, &mut Collector::at(""));
    let (_, page_token) = page.finish(vec!["web-1", "web-2"], |key| (*key).to_owned());
    let texts =
        ["policies/web@7", "experiments/e", "nodes/web-1", "rollouts/web-2", "rolloutPlans/brisk", "Bearer c2VjcmV0"];
    let id = "6b6f6e74-726f-4c6c-8000-000000000001".to_owned();
    let texts = texts.map(str::to_owned).into_iter().chain([page_token, id]);
    let seeds = texts.enumerate().map(|(number, text)| (number.to_string(), text));
    Target::new("server-texts", Shape::Text, Bound { per_byte: 100, fixed: 32 * KIB }).seeds(seeds).run(|bytes| {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(bytes) {
            headers.insert(AUTHORIZATION, value);
        }
        let bearer = bearer(&headers).is_ok_and(|token| token.map(token::hash).is_some());
        let Ok(text) = std::str::from_utf8(bytes) else { return bearer };
        let faults = &mut Collector::at("");
        let page = Page::read(1, text, &["nodes"], |key| validate::node_id(key).is_ok(), faults);
        names::text("reason", text, faults);
        let names = [
            names::revision_of(text).is_ok(),
            names::layer_of(LayerKind::Experiment, text).is_ok(),
            names::revisioned(LayerKind::Policy, text).is_ok(),
            names::node(text).is_ok(),
            names::one_node(text).is_ok(),
            names::request_id(text, faults).is_some(),
            rollout::rollout_name(text).is_ok(),
            rollout::switch_target(text, faults).is_some(),
            plan_name(text).is_ok(),
            page.after.is_some(),
            bearer,
        ];
        names.contains(&true)
    });
}
