//! What an answer says: rows, classes, and what is not known.

use std::{convert::Infallible, sync::Arc};

use sockpilot_policy::model::Snapshot;
use sockpilot_proto::v1::{self, SimulationDimension as Dimension};
use sockpilot_simulate::{CHANGES_MAX, Layers, ROWS_MAX, simulate};

use crate::made::{cwnd, experiment, flow, policy, rule, run, snapshot, unmatched};

fn everything(set: v1::Parameters) -> Vec<v1::Layer> {
    vec![policy("p", 1, vec![rule("all", v1::Match::default(), set)])]
}

fn rows(answer: &v1::Simulation, dimension: Dimension) -> Vec<(String, u32, u64, u64)> {
    let breakdown = answer.breakdowns.iter().find(|breakdown| breakdown.dimension() == dimension).expect("it is there");
    let row = |row: &v1::BreakdownRow| {
        let share = row.share.expect("a share");
        (row.key.clone(), row.keys, share.recorded, share.recorded_touched)
    };
    breakdown.rows.iter().map(row).collect()
}

fn notes(answer: &v1::Simulation) -> Vec<(u64, f64, &str)> {
    let first = |text: &'_ str| text.len().min(40);
    let note = |note: &'_ v1::SimulationNote| (note.recorded, note.connections, first(&note.description));
    answer
        .notes
        .iter()
        .map(note)
        .zip(&answer.notes)
        .map(|((n, c, end), note)| (n, c, &note.description[..end]))
        .collect()
}

fn key(key: &str, recorded: u64, touched: u64) -> (String, u32, u64, u64) {
    (key.to_owned(), 1, recorded, touched)
}

#[test]
fn what_was_recorded_as_a_whole_is_known() {
    let flows: Vec<_> = (0..40).map(|n| v1::FlowSample { remote_port: 443 + n / 10, ..flow(9, 1.0) }).collect();
    let matches = v1::Match { remote_ports: vec!["443".to_owned()], ..v1::Match::default() };
    let answer = run(&flows, &snapshot(vec![]), &snapshot(vec![policy("p", 1, vec![rule("r", matches, cwnd(20))])]));
    let total = answer.total.expect("a total");
    assert_eq!((total.connections, total.touched, total.share), (40.0, 10.0, 0.25));
    assert_eq!((total.standard_error, total.lower, total.upper), (0.0, 0.25, 0.25));
}

#[test]
fn of_what_was_never_seen_there_may_be_some() {
    let flows: Vec<_> = (0..1_000).map(|n| unmatched(n, 100.0)).collect();
    let total = run(&flows, &snapshot(vec![]), &snapshot(vec![])).total.expect("a total");
    assert_eq!((total.share, total.standard_error, total.lower), (0.0, 0.0, 0.0));
    // Of none among a thousand: about 3.8 in a thousand.
    assert!((0.003..0.004).contains(&total.upper), "{total:?}");
    let nothing = run(&[], &snapshot(vec![]), &snapshot(vec![])).total.expect("a total");
    assert_eq!((nothing.connections, nothing.share, nothing.lower, nothing.upper), (0.0, 0.0, 0.0, 1.0));
}

#[test]
fn connections_are_told_apart_by_where_they_go() {
    let matches = v1::Match { remote_zones: vec!["sin-1".to_owned()], ..v1::Match::default() };
    let after = snapshot(vec![policy("p", 1, vec![rule("far", matches, cwnd(20))])]);
    let near = v1::FlowSample { remote_address: "10.1.0.8".to_owned(), ..flow(1, 1.0) };
    let away = v1::FlowSample { remote_address: "::ffff:192.0.2.1".to_owned(), handshake_rtt_us: 0, ..flow(2, 1.0) };
    let accepted = v1::FlowSample {
        direction: v1::Direction::Passive.into(),
        local_port: 8_080,
        service: "/web".to_owned(),
        handshake_rtt_us: 250_000,
        node: "nodes/m".to_owned(),
        ..flow(3, 1.0)
    };
    let answer = run(&[flow(4, 1.0), near, away, accepted], &snapshot(vec![]), &after);
    let zones = [key("fra-1 > sin-1", 2, 2), key("fra-1 > -", 1, 0), key("fra-1 > fra-1", 1, 0)];
    assert_eq!(rows(&answer, Dimension::Zones), zones);
    assert_eq!(rows(&answer, Dimension::Port), [key("remote 443", 3, 1), key("local 8080", 1, 1)]);
    assert_eq!(rows(&answer, Dimension::Service), [key("/", 3, 1), key("/web", 1, 1)]);
    assert_eq!(rows(&answer, Dimension::Rtt), [key("300us-1ms", 2, 1), key("100ms-300ms", 1, 1), key("-", 1, 0)]);
    assert_eq!(rows(&answer, Dimension::Node), [key("nodes/n", 3, 1), key("nodes/m", 1, 1)]);
    let [change] = answer.changes.as_slice() else { panic!("{answer:?}") };
    assert_eq!((change.parameter.as_str(), &change.before), ("initial_cwnd_packets", &None));
    assert_eq!((change.after.as_deref(), change.share.map(|share| share.recorded_touched)), (Some("20"), Some(2)));
}

#[test]
fn what_has_no_row_of_its_own_is_in_the_rest() {
    let flows: Vec<_> = (0..50).map(|n| v1::FlowSample { remote_port: 1 + n, ..flow(9, 1.0 + f64::from(n)) }).collect();
    let answer = run(&flows, &snapshot(vec![]), &snapshot(everything(cwnd(20))));
    let rows = rows(&answer, Dimension::Port);
    assert_eq!((rows.len(), &rows[0]), (ROWS_MAX + 1, &key("remote 50", 1, 1)), "most connections first");
    assert_eq!(rows[ROWS_MAX], (String::new(), 30, 30, 30));
}

#[test]
fn changes_are_bounded_and_what_is_left_out_is_counted() {
    let each = |n: u32| {
        let matches = v1::Match { remote_ports: vec![n.to_string()], ..v1::Match::default() };
        rule(&format!("r{n}"), matches, cwnd(n))
    };
    let after = snapshot(vec![policy("p", 1, (1..=130).map(each).collect())]);
    let flows: Vec<_> = (1..=130).map(|n| v1::FlowSample { remote_port: n, ..flow(9, f64::from(n)) }).collect();
    let answer = run(&flows, &snapshot(vec![]), &after);
    assert_eq!((answer.changes.len(), answer.changes_left_out), (CHANGES_MAX, 30));
    assert_eq!(answer.changes[0].after.as_deref(), Some("130"));
}

#[test]
fn a_parameter_that_does_not_act_touches_nobody() {
    let synack = v1::Parameters { synack_rto_ms: Some(50), ..v1::Parameters::default() };
    let accepted = v1::FlowSample { direction: v1::Direction::Passive.into(), ..flow(2, 1.0) };
    let answer = run(&[flow(1, 1.0), accepted], &snapshot(vec![]), &snapshot(everything(synack)));
    assert_eq!(answer.total.map(|total| total.recorded_touched), Some(1), "only what is accepted sends SYN-ACKs");
}

#[test]
fn what_is_set_before_the_handshake_is_over_goes_without_its_time() {
    let far = v1::Match { min_handshake_rtt_us: Some(500), ..v1::Match::default() };
    let syn = v1::Parameters { syn_rto_ms: Some(50), initial_cwnd_packets: Some(15), ..v1::Parameters::default() };
    let rules = vec![rule("far", far, cwnd(20)), rule("all", v1::Match::default(), syn)];
    let answer = run(&[flow(1, 1.0)], &snapshot(vec![]), &snapshot(vec![policy("p", 1, rules)]));
    let found: Vec<_> = answer.changes.iter().map(|c| (c.parameter.as_str(), c.after.as_deref())).collect();
    assert_eq!(found, [("syn_rto_ms", Some("50")), ("initial_cwnd_packets", Some("20"))]);
}

#[test]
fn what_cannot_count_is_left_out_and_said() {
    let open = v1::FlowSample { outcome: v1::Outcome::StillOpen.into(), ..flow(1, 0.0) };
    let bad = v1::FlowSample { remote_address: "x".to_owned(), ..flow(2, 4.0) };
    let gone = v1::FlowSample { node: "nodes/gone".to_owned(), ..flow(3, 5.0) };
    let flows = [open, flow(4, 0.0), flow(4, f64::NAN), bad, gone, flow(5, 6.0)];
    let layers = Layers { before: Arc::default(), after: snapshot(everything(cwnd(20))) };
    let known = |node: &str| Ok::<_, Infallible>((node == "n").then(|| layers.clone()));
    let answer = simulate(&flows, &[], known).unwrap_or_else(|never| match never {});
    assert_eq!(answer.total.map(|total| (total.recorded, total.touched)), Some((1, 6.0)));
    let said = notes(&answer);
    assert_eq!(said.len(), 5, "{said:?}");
    assert_eq!(said[0], (1, 5.0, "left out: their nodes are not known any "));
    assert_eq!(said[1], (1, 0.0, "left out: they were still open when they"));
    assert_eq!(said[2], (2, 0.0, "left out: they do not say how many conne"));
    assert_eq!(said[3], (1, 4.0, "left out: addresses, ports, direction or"));
    assert_eq!(said[4], (1, 6.0, "had other rules or arms when they were r"));
}

#[test]
fn what_flows_do_not_say_is_said_if_it_is_asked() {
    let of = |matches: v1::Match| vec![policy("p", 1, vec![rule("all", matches, v1::Parameters::default())])];
    let unknown = v1::FlowSample { service: String::new(), handshake_rtt_us: 0, duration_us: 0, ..unmatched(1, 3.0) };
    let said = |before: &Arc<Snapshot>, after: &Arc<Snapshot>, flow: &v1::FlowSample| {
        let answer = run(std::slice::from_ref(flow), before, after);
        notes(&answer).into_iter().map(|(_, _, text)| text[..24].to_owned()).collect::<Vec<_>>()
    };
    let nothing = snapshot(vec![]);
    assert_eq!(said(&nothing, &nothing, &unknown), [""; 0], "nobody asks");
    let services = snapshot(of(v1::Match { services: vec!["/web/a".to_owned()], ..v1::Match::default() }));
    assert_eq!(said(&nothing, &services, &unknown), ["do not say of which serv"]);
    for (service, may_be) in [("/", true), ("/web", true), ("/web/a", false), ("/we", false), ("/db", false)] {
        let flow = v1::FlowSample { service: service.to_owned(), ..unmatched(1, 3.0) };
        let said = said(&nothing, &services, &flow);
        assert_eq!(said.iter().any(|text| text == "may be of a service that"), may_be, "{service}: {said:?}");
    }
    let root = v1::FlowSample { service: "/".to_owned(), ..unmatched(1, 3.0) };
    assert_eq!(said(&services, &services, &root), [""; 0], "it is recorded already");
    let distance = snapshot(of(v1::Match { min_handshake_rtt_us: Some(9), ..v1::Match::default() }));
    assert_eq!(said(&nothing, &distance, &unknown), ["do not say how long thei"]);
    let failed = v1::FlowSample { outcome: v1::Outcome::Failed.into(), ..unknown.clone() };
    assert_eq!(said(&nothing, &distance, &failed), [""; 0], "it had no handshake");
    let slots = v1::Experiment {
        arms: ["a", "b"].map(|name| v1::Arm { name: name.to_owned(), weight_bp: 5_000, ..v1::Arm::default() }).to_vec(),
        unit: v1::Unit::TimeSlot.into(),
        time_slot: Some(v1::TimeSlot { slot_s: 600, washout_s: 60 }),
        ..v1::Experiment::default()
    };
    let slots = snapshot(vec![experiment("e", slots)]);
    assert_eq!(said(&nothing, &slots, &unknown), ["do not say how long they"]);
}
