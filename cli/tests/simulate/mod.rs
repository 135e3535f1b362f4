//! `simulate`, from outside: by a server, and without one.

use super::{WEB, expect, run};
use crate::fake::{Fake, Reaction};
use sockpilot_proto::v1::{self, simulate_change_request::Change};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// A recorded connection: to port 443, 444 or 445.
pub fn recorded(number: u32) -> v1::FlowSample {
    v1::FlowSample {
        node: "nodes/n".to_owned(),
        close_time: Some(prost_types::Timestamp { seconds: 1_772_366_400, nanos: 123_456_789 }),
        local_address: "10.1.0.7".to_owned(),
        local_port: 40_000,
        remote_address: "10.2.0.9".to_owned(),
        remote_port: 443 + number,
        direction: v1::Direction::Active.into(),
        outcome: v1::Outcome::Established.into(),
        duration_us: 5_000,
        weight: 1.0 + f64::from(number) / 3.0,
        service: "/".to_owned(),
        handshake_rtt_us: 700,
        attributions: vec![v1::Attribution { layer: "policies/old".to_owned(), revision: 1, choice: "all".to_owned() }],
        ..v1::FlowSample::default()
    }
}

/// What is there before: everything gets a window of 20.
const OLD: &str = "kind: Policy\nname: old\nrules:\n- name: all\n  set: {initial_cwnd_packets: 20}\n";
/// Above it: port 443 gets one of 40.
const NEW: &str = "kind: Policy\nname: new\npriority: 5\nrules:\n- name: web\n  match: {remote_ports: ['443']}\n  \
                   set: {initial_cwnd_packets: 40}\n";

/// Files of one test, gone with it.
struct Files(std::path::PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sockpilot-{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn answer() -> v1::SimulateChangeResponse {
    let total = v1::TouchedShare {
        connections: 200.0,
        touched: 50.0,
        recorded: 20,
        recorded_touched: 5,
        share: 0.25,
        lower: 0.2,
        upper: 0.3,
        ..v1::TouchedShare::default()
    };
    let simulation = v1::Simulation { total: Some(total), ..v1::Simulation::default() };
    let warnings = vec![v1::Warning { field: String::new(), description: "mind the gap".to_owned() }];
    v1::SimulateChangeResponse { simulation: Some(simulation), warnings, ..v1::SimulateChangeResponse::default() }
}

#[tokio::test]
async fn a_server_is_asked_what_was_said() {
    let fake = Fake::start().await;
    fake.simulate(answer());
    let output =
        run(&fake.url, &["simulate", "-f", "-", "--share", "5%", "--since", "2h", "-l", "role=edge"], WEB).await;
    let said = "policies/web would touch 25.00% of connections (between 20.00% and 30.00%): 50 of 200\n\
                From 20 recorded connections that ended from - to -.\n";
    expect(&output, 0, said, "warning: mind the gap\n");
    let output = run(&fake.url, &["simulate", "policies/web@3", "--max-flows", "7", "-o", "json"], "").await;
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["simulation"]["total"]["recordedTouched"], "5");
    let asked = fake.simulated();
    let Some(Change::Policy(policy)) = &asked[0].change else { panic!("{asked:?}") };
    assert_eq!((policy.name.as_str(), asked[0].max_flows), ("policies/web", 0));
    assert_eq!(asked[0].target.as_ref().unwrap().kind, Some(v1::target::Kind::ShareBp(500)));
    assert_eq!(asked[0].since.map(|since| since.seconds), Some(7_200));
    assert_eq!(asked[0].node_labels.get("role").map(String::as_str), Some("edge"));
    assert_eq!(asked[1].change, Some(Change::Revision("policies/web@3".to_owned())));
    assert_eq!((asked[1].max_flows, &asked[1].target), (7, &None));
    assert!(fake.updates().is_empty(), "nothing is changed");
}

#[tokio::test]
async fn what_a_server_refuses_is_shown_in_the_file() {
    let fake = Fake::start().await;
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation("policy.rules[0].set.initial_cwnd_packets", "must be at most 65535");
    fake.react(Reaction::Refuse(Status::with_error_details(Code::InvalidArgument, "1 fault", details)));
    let refused = "error: policies/web: refused for 1 fault\n  \
                   standard input:6: rules[0].set.initial_cwnd_packets: must be at most 65535\n";
    expect(&run(&fake.url, &["simulate", "-f", "-"], WEB).await, 1, "", refused);
}

/// What `samples -o jsonl` prints is what `simulate --flows` takes.
#[tokio::test]
async fn without_a_server_the_same_is_said_of_a_file() {
    let fake = Fake::start().await;
    let files = Files::new("simulate");
    let output = run(&fake.url, &["samples", "-o", "jsonl"], "").await;
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().count(), 3, "{lines}");
    let flows = files.write("flows.jsonl", &lines);
    let (old, new) = (files.write("old.yaml", OLD), files.write("new.yaml", NEW));
    let zones = "kind: ZoneMap\nzones:\n- {name: fra-1, region: fra, prefixes: [10.1.0.0/16]}\n";
    let zones = files.write("zones.yaml", zones);
    let alone = ["simulate", "-f", &new, "--flows", &flows, "--against", &old, "--zones", &zones];
    let output = run("http://127.0.0.1:9", &alone, "").await;
    let shown = String::from_utf8_lossy(&output.stdout);
    // 1 of 1 + 4/3 + 5/3.
    assert!(shown.starts_with("policies/new would touch 25.00% of connections (between "), "{shown} {output:?}");
    assert!(shown.contains("\ninitial_cwnd_packets   20    40            1  25.00%  ["), "{shown}");
    assert!(shown.contains("\nfra-1 > -    4        1  25.00%  ["), "{shown}");
    assert!(shown.contains("\nremote 443    1        1  100.00%  ["), "{shown}");

    let json = run("http://127.0.0.1:9", &[&alone[..], &["-o", "json"]].concat(), "").await;
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["total"]["recorded"], "3");
    assert_eq!(json["lastTime"], "2026-03-01T12:00:00.123456789Z");
    // In the place of what is there under its name.
    let changed = files.write("changed.yaml", &OLD.replace("20", "30"));
    let output =
        run("http://127.0.0.1:9", &["simulate", "-f", &changed, "--flows", "-", "--against", &old], &lines).await;
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("would touch 100.00% of connections") && shown.contains("20    30"), "{shown} {output:?}");
}

#[tokio::test]
async fn what_cannot_be_simulated_is_wrong_input() {
    let files = Files::new("simulate-bad");
    let nowhere = "http://127.0.0.1:9";
    let new = files.write("new.yaml", NEW);
    let refused = async |arguments: &[&str], input: &str, why: &str| {
        let output = run(nowhere, arguments, input).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(why), "{arguments:?}: {error}");
    };
    refused(&["simulate"], "", "required").await;
    refused(&["simulate", "policies/web"], "", "name a revision").await;
    refused(&["simulate", "policies/web@2", "-f", &new], "", "cannot be used with").await;
    refused(&["simulate", "-f", &new, "--against", &new], "", "--flows").await;
    refused(&["simulate", "-f", &new, "--flows", "-", "--share", "10%"], "", "cannot be used with").await;
    refused(&["simulate", "-f", "-"], &format!("{NEW}---\n{OLD}"), "one at a time").await;
    refused(&["simulate", "-f", "-"], "kind: ZoneMap\nzones: []\n", "a zone map cannot be simulated").await;
    let flows = ["simulate", "-f", &new, "--flows", "-"];
    refused(&flows, "{}\n\n{\"node\": 7}\n", "standard input:3: no recorded connection").await;
    refused(&flows, "[]\n", "standard input:1: no recorded connection").await;
    let labelled = files.write("labelled.yaml", &format!("{NEW}node_labels: {{role: edge}}\n"));
    refused(&["simulate", "-f", &labelled, "--flows", "-"], "", "do not say what labels").await;
    let bad = files.write("bad.yaml", &NEW.replace("443", "x"));
    refused(&["simulate", "-f", &bad, "--flows", "-"], "", "bad.yaml:6: rules[0].match.remote_ports[0]").await;
    let zones = ["simulate", "-f", &new, "--flows", "-", "--zones", &new];
    refused(&zones, "", "policies/new is no zone map").await;
}
