//! The daemon's settings from its environment, as it is started: no kernel is touched.

use std::path::Path;

use sockpilot_programs::own;

/// Starts the daemon with nothing but these variables and a cgroup that is none; answers what it says and its exit code.
fn start(variables: &[(&str, &str)]) -> (String, Option<i32>) {
    let mut command = own(Path::new(env!("CARGO_BIN_EXE_sockpilot-node")));
    command.env_clear().envs(variables.iter().copied()).args(["--cgroup", "/no/such/cgroup"]);
    let output = command.output().expect("it runs");
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
}

#[test]
fn variables_that_are_set_to_nothing_are_not_set() {
    let names = [
        "SERVER",
        "NODE_ID",
        "LABELS",
        "CGROUP",
        "PIN_ROOT",
        "STATE_DIR",
        "REPORT_INTERVAL_MS",
        "CELL_INTERVAL_S",
        "LONG_FLOW_INTERVAL_S",
        "RECORD_UNMATCHED_BP",
        "HANDOVER_LIMIT_S",
        "METRICS_LISTEN",
        "LOG_FORMAT",
    ];
    for value in ["", " "] {
        let variables: Vec<_> = names.iter().map(|name| (format!("SOCKPILOT_{name}"), value)).collect();
        let mut variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        variables.push(("RUST_LOG", value));
        let (said, code) = start(&variables);
        assert!(said.contains("/no/such/cgroup is no directory"), "{said}");
        assert_eq!(code, Some(1));
    }
}

#[test]
fn what_will_not_do_is_refused_at_the_start_with_a_remedy() {
    for (name, value, remedy) in [
        ("SOCKPILOT_SERVER", "https://here:7460", "say by --tls-ca whose certificates"),
        ("SOCKPILOT_SERVER", "here:7460", "write http://here:7460"),
        ("SOCKPILOT_LABELS", "role=edge,zone=a,role=core", "\"role\" is \"edge\" and \"core\""),
        ("SOCKPILOT_LABELS", "role edge=1", "characters without spaces"),
        ("SOCKPILOT_NODE_ID", "Web_1", "is no node id; use 1 to 63"),
        ("SOCKPILOT_METRICS_LISTEN", ":9100", "write 127.0.0.1:9100"),
        ("RUST_LOG", "a=b=c", "RUST_LOG is \"a=b=c\""),
    ] {
        let (said, code) = start(&[(name, value)]);
        assert!(said.contains(remedy), "{name}={value}: {said}");
        assert_ne!(code, Some(0));
    }
    let (said, _) = start(&[("SOCKPILOT_LABELS", " role = edge, zone=a ,")]);
    assert!(said.contains("is no directory"), "{said}");
}
